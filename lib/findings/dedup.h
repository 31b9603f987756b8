/**
 * Dedup groups under relative-error budgets: which pages an engine could have let share a page, online.
 *
 * Greedy in arrival order, one run for each budget: a page within the budget of an earlier representative shares the
 * nearest such one (the earliest of equals), else it becomes a representative. No chaining: what counts is the error
 * to the representative itself. Done for key pages, for value pages, and for blocks, whose error is the larger of
 * its two pages'; with the plain error, and (KVSIM_COMPUTE_BOUNDS) with the best scale on the representative.
 *
 * The number of greedy representatives is an upper bound of the fewest possible. A lower bound: pages of which no two
 * satisfy |x - y| <= b (|x| + |y|) need a representative each, since one within b of both would bring them that near.
 * Such a set is grown greedily as well.
 */
#ifndef KVSIM_FINDINGS_DEDUP_H
#define KVSIM_FINDINGS_DEDUP_H

#include "../pairs/pairs.h"

/** What is deduplicated: each kind's pages, and blocks. A lane is one of them. */
enum { KVSIM__LANE_KEY = KVSIM__KEY, KVSIM__LANE_VALUE = KVSIM__VALUE, KVSIM__LANE_BLOCK, KVSIM__LANES };

/** A page (or block) that is removed. */
typedef struct kvsim__assignment {
    uint32_t lane, budget; /**< index of the budget */
    uint32_t slot, representative;
    double error;
} kvsim__assignment;

/** Outcome for one lane and budget. */
typedef struct kvsim__dedup_figures {
    uint64_t representatives, removed;
    uint64_t groups_of_two_or_more;  /**< representatives that others share */
    uint64_t largest_group;          /**< pages, the representative included; 0 without pages */
    uint64_t scaled_representatives; /**< with the best scale; 0 without KVSIM_COMPUTE_BOUNDS */
    uint64_t lower_bound;            /**< of the fewest possible representatives; likewise */
} kvsim__dedup_figures;

typedef struct kvsim__dedup kvsim__dedup;

/**
 * Begin.
 * @param present [KVSIM__LANES][slots] which slots take part; the arrays are borrowed
 * @param keep_assignments whether to list what is removed
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__dedup_open(kvsim__base *base, const kvsim__plan *plan, size_t slots,
                               const uint8_t *const present[KVSIM__LANES], bool keep_assignments, kvsim__dedup **out);

/** Where kvsim__pairs_run delivers errors to. */
kvsim__error_sink kvsim__dedup_sink(kvsim__dedup *dedup);

/** Figures of a lane and budget, after the run. */
kvsim__dedup_figures kvsim__dedup_figures_of(const kvsim__dedup *dedup, uint32_t lane, uint32_t budget);

/** What is removed, in order of slots, then lanes, then budgets. @return KVSIM_OK, or KVSIM_E_NOMEM if one did not fit
 */
kvsim_status kvsim__dedup_assignments(const kvsim__dedup *dedup, const kvsim__assignment **out, size_t *count);

void kvsim__dedup_close(kvsim__dedup *dedup);

#endif
