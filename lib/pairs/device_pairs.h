/**
 * All pairs of a kvsim__pairing on a device: what kvsim__pairs_run does on the CPU.
 *
 * Slots are cut into panels of rows. Bands of rows are compared with all earlier panels and with their own; what is
 * near enough for a budget comes back as lists, band after band, and goes to the error sink in order. A list that was
 * too short loses nothing: its rows are compared again, fewer at a time. Everything that is counted is a whole number,
 * an extremum or a bit, and lists are sorted, so the result does not depend on the order in which a device works.
 */
#ifndef KVSIM_PAIRS_DEVICE_PAIRS_H
#define KVSIM_PAIRS_DEVICE_PAIRS_H

#include "device_figures.h"
#include "device_near.h"
#include "device_view.h"

/** Pairs to compare on a device. */
typedef struct kvsim__device_pairing {
    kvsim__pairing *pairing;
    kvsim__device_view *views[KVSIM__KINDS];      /**< NULL: no page of this kind takes part */
    const kvsim__slot_facts *facts[KVSIM__KINDS]; /**< [slots] on the host, of the same kinds */
} kvsim__device_pairing;

/** Compare. @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_CANCELLED, KVSIM_E_BACKEND */
kvsim_status kvsim__device_pairs_run(const kvsim__device_pairing *of);

/** Lists of a compare. */
enum { KVSIM__LIST_DOUBTFUL, KVSIM__LIST_NEAR, KVSIM__LIST_TOP, KVSIM__LISTS };

/** One kind while its pairs are compared. */
typedef struct kvsim__device_kind {
    kvsim__device_view *view;
    kvsim__pair_rules rules;
    kvsim__pair_rules *rules_there; /**< on the device */
    kvsim__slot_facts *facts_there; /**< on the device */
    kvsim__device_gathered gathered;
    uint64_t row_bytes, bit_bytes, code_bytes;
    uint64_t panel_bytes; /**< of one row of a panel */
    uint32_t *present;    /**< [slots + 1] slots before each that have a page */
    bool top_is_full;     /**< no pair to come can be among the best */
} kvsim__device_kind;

/** A comparison while it runs. */
typedef struct kvsim__device_run {
    kvsim__pairing *pairing;
    kvsim__accelerator *accelerator;
    kvsim__device_memory memory;
    kvsim__device_kind kinds[KVSIM__KINDS];
    kvsim__near near;
    uint32_t gram_path;
    uint32_t capacity;             /**< rows of a panel */
    void *panel_memory[2];         /**< of rows, of columns */
    kvsim__device_panel panels[2]; /**< what they hold, */
    int packed[2];                 /**< and of which kind; -1: nothing */
    kvsim__device_list lists[KVSIM__LISTS];
    uint32_t *counts; /**< [KVSIM__LISTS] on the device, those of the lists */
} kvsim__device_run;

/** Compare rows [begin, end) of the panel of rows with a panel of columns, both of one kind, and take what comes. */
kvsim_status kvsim__device_compare_rows(kvsim__device_run *run, int kind, const kvsim__device_panel *columns,
                                        uint32_t begin, uint32_t end);

/** Compute pairs in double on the device. @param pairs [count] on the host */
kvsim_status kvsim__device_rescore(kvsim__device_run *run, int kind, kvsim__device_pair *pairs, size_t count);

/** Make a list longer, if it is shorter than that. What it holds is lost. */
kvsim_status kvsim__device_list_grow(kvsim__device_run *run, int list, uint32_t capacity);

#endif
