/**
 * From pages to a result: which pages form groups, what is found in each, one row after the other.
 *
 * A unit is one layer's key group and value group side by side (either may be missing), all heads or one of them.
 * Its slots are identities in arrival order, so a slot's key page and value page are a block.
 */
#ifndef KVSIM_COMPUTE_INTERNAL_H
#define KVSIM_COMPUTE_INTERNAL_H

#include "../findings/dedup.h"
#include "../pages/mirror.h"
#include "context.h"

/** The pages of one layer and kind whose formats are of one class. */
typedef struct kvsim__combination {
    int32_t layer, kind;
    uint32_t class_id;
    uint32_t any_page;
    uint64_t references, physical, partial, non_finite, opaque, compared;
    bool paired; /**< a value group that a key group has taken as its partner */
} kvsim__combination;

/** One compute while it runs. */
typedef struct kvsim__work {
    kvsim_ctx *ctx;
    kvsim__base *base;
    kvsim__accelerator *device; /**< NULL: the CPU computes */
    const kvsim__store *store;  /**< the context's, or that of the mirror */
    kvsim__mirror mirror;       /**< for what only the host can do with pages that are on the device */
    const kvsim__plan *plan;
    kvsim_result *result;
    kvsim__progress progress;
    uint8_t *states;         /**< [pages] KVSIM__STATE_* */
    uint32_t *engine_class;  /**< [identities] first identity with equal bytes in all layers so far */
    uint32_t *engine_layers; /**< [identities] layers whose pages of the identity all take part */
    kvsim__combination *combinations;
    size_t combination_count, combination_capacity;
} kvsim__work;

/** One unit while it is worked on; arrays are [slots]. */
typedef struct kvsim__unit {
    const kvsim__combination *kinds[KVSIM__KINDS];
    size_t slots;
    uint32_t *pages[KVSIM__KINDS];
    uint32_t *first[KVSIM__LANES]; /**< first slot of equal contents */
    uint8_t *present[KVSIM__LANES];
    uint64_t duplicates[KVSIM__LANES];
    uint32_t *sequence, *family; /**< numbered from 0 in order of first appearance */
    uint8_t *stratum;            /**< KVSIM__STRATUM_* */
    uint32_t sequence_count;
    int32_t head;                           /**< -1 = all */
    kvsim__resident resident[KVSIM__KINDS]; /**< the pages on the device; zeros if they are not there */
    kvsim__mirrored mirrored[KVSIM__KINDS]; /**< host copies of pages that are on the device */
} kvsim__unit;

/** Look at the contents of every page: `states`. */
kvsim_status kvsim__classify_pages(kvsim__work *at);

/** Sort the pages into groups: `combinations`, by layer, keys before values, then first come. */
kvsim_status kvsim__collect_groups(kvsim__work *at);

/** True if a page (KVSIM__NONE is none) is of the group's class; its layer and kind are not looked at. */
bool kvsim__in_group(const kvsim__work *at, const kvsim__combination *group, uint32_t page);

/** The value group that holds the partners of a key group's pages; NULL if there is none that is free. */
kvsim__combination *kvsim__find_partner(kvsim__work *at, const kvsim__combination *keys);

/** Fill in the slots of a unit: identities that have a page in either group. */
kvsim_status kvsim__unit_open(kvsim__work *at, const kvsim__combination *keys, const kvsim__combination *values,
                              kvsim__unit *unit);

/** Number the sequences and families of a unit's slots and find their strata. */
kvsim_status kvsim__unit_find_places(kvsim__work *at, kvsim__unit *unit);

void kvsim__unit_close(kvsim__work *at, kvsim__unit *unit);

/** Exact duplicates of each kind and of blocks, for the unit's `head`: the same in every view. */
kvsim_status kvsim__unit_find_duplicates(kvsim__work *at, kvsim__unit *unit);

/** Heads that a kind contributes to a unit: all, or the one of a per-head unit if it has it; `first` is the first. */
int32_t kvsim__unit_heads(const kvsim__work *at, const kvsim__unit *unit, int kind, int32_t *first);

/** True for a group of opaque pages. */
bool kvsim__is_opaque(const kvsim__work *at, const kvsim__combination *group);

/** Append all rows of a unit in one view. */
kvsim_status kvsim__put_view(kvsim__work *at, const kvsim__unit *unit, int32_t view, const kvsim__pairing *pairing,
                             const kvsim__dedup *dedup);

/** Append the rows of `statistics` of a unit in one view: needs KVSIM_COMPUTE_CHANCE. */
kvsim_status kvsim__put_statistics(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                                   const kvsim__dedup *dedup);

/** Append the rows of `strata` of one group: needs KVSIM_COMPUTE_STRATA. */
kvsim_status kvsim__put_strata(kvsim__work *at, const kvsim__unit *unit, int kind, const kvsim__figures *figures,
                               int64_t group);

/** Sequence number of each of a unit's sequences; `numbers` is [sequence_count]. */
void kvsim__list_sequences(const kvsim__work *at, const kvsim__unit *unit, int64_t *numbers);

/** Append the rows of `page_thresholds` of one group: needs KVSIM_COMPUTE_PAGES. */
kvsim_status kvsim__put_page_thresholds(kvsim__work *at, const kvsim__unit *unit, int kind,
                                        const kvsim__figures *figures, int64_t group);

/** Append the rows of `duplicates` of a unit, all heads together: needs KVSIM_COMPUTE_PAGES. */
kvsim_status kvsim__put_duplicates(kvsim__work *at, const kvsim__unit *unit);

/** Append the rows of `distances` of one group: needs KVSIM_COMPUTE_DISTANCES. */
kvsim_status kvsim__put_distances(kvsim__work *at, const kvsim__unit *unit, int kind, const kvsim__pairing *pairing,
                                  int64_t group);

/** Append the rows of `ledger` and `lossless` of a unit: needs KVSIM_COMPUTE_LEDGER, for the raw view. */
kvsim_status kvsim__put_ledger(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                               const kvsim__dedup *dedup);

/** The same for the opaque pages of a unit: exact duplicates and what is unique. */
kvsim_status kvsim__put_opaque_ledger(kvsim__work *at, const kvsim__unit *unit);

/** Append the rows of opaque pages, which are in the raw view only. */
kvsim_status kvsim__put_opaque(kvsim__work *at, const kvsim__unit *unit);

/** Make room for the classes of an engine's blocks: all of one class, since no layer has been looked at. */
kvsim_status kvsim__engine_blocks_open(kvsim__work *at);

/** Give the room back. */
void kvsim__engine_blocks_close(kvsim__work *at);

/** Split the classes by the contents of one more unit, all heads together. */
kvsim_status kvsim__engine_blocks_refine(kvsim__work *at, const kvsim__unit *unit);

/** Count the engine's blocks and their exact duplicates. */
void kvsim__engine_blocks_count(const kvsim__work *at, kvsim__summary_row *row);

/** Append the summary. */
kvsim_status kvsim__put_summary(kvsim__work *at);

/** Append the pages, if a table that was asked for refers to them. */
kvsim_status kvsim__put_pages(kvsim__work *at);

#endif
