/** What pairs give on a device, group by group, and how it becomes the figures of the group. */
#ifndef KVSIM_PAIRS_DEVICE_FIGURES_H
#define KVSIM_PAIRS_DEVICE_FIGURES_H

#include "../backend/accelerator.h"
#include "pairs.h"

/** A sum of whole numbers that does not overflow: `high` counts 2^32. */
typedef struct kvsim__wide_sum {
    int64_t high;
    uint64_t low;
} kvsim__wide_sum;

/** Kinds of bits that are compared: KVSIM__BITS_*. */
enum { KVSIM__BIT_KINDS = 3 };

/** The figures of one group on the device, and what was taken from there; zeros are none. */
typedef struct kvsim__device_gathered {
    kvsim__accelerator *accelerator;
    kvsim__device_memory memory;
    /* On the device; NULL where not wanted. */
    kvsim__device_figures *figures;
    uint64_t *threshold_bits, *best, *sequence_pairs, *sequence_threshold_pairs, *relation_bits;
    int64_t *sequence_units;
    uint32_t *only_least, *only_most;
    kvsim__device_bit_figures *bits[KVSIM__BIT_KINDS];
    /* On the host. */
    uint64_t pending; /**< pairs at most that were counted since sums were last taken from the device */
    uint32_t cosine_min, cosine_max;
    kvsim__wide_sum cosine, distance, jaccard;
    kvsim__wide_sum relative[KVSIM__LIMBS];
} kvsim__device_gathered;

/** Make room. @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_BACKEND */
kvsim_status kvsim__gathered_open(kvsim__accelerator *accelerator, const kvsim__pairing *pairing,
                                  kvsim__device_gathered *out);

/** Hand the arrays to a compare. */
void kvsim__gathered_attach(const kvsim__device_gathered *gathered, kvsim__device_compare *job);

/** About to count so many pairs more: sums that might overflow are taken from the device before. */
kvsim_status kvsim__gathered_expect(kvsim__device_gathered *gathered, kvsim__figures *figures, uint64_t pairs);

/** Take everything from the device and finish the figures, but for `best_cosine`, `top` and what bits give. */
kvsim_status kvsim__gathered_finish(kvsim__device_gathered *gathered, kvsim__pairing *pairing, int kind);

/** Take from the device what bits gave. */
kvsim_status kvsim__gathered_take_bits(kvsim__device_gathered *gathered, kvsim__figures *figures);

void kvsim__gathered_close(kvsim__device_gathered *gathered);

#endif
