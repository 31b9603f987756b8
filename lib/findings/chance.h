/**
 * Chance levels: the same figures on pages whose token slots were shuffled between the pages of the group, so that
 * every channel keeps its statistics and every slot its place in the page, and nothing else is left. A key that moves
 * is turned to its new position, as the model would have: likeness that comes from equal positions is chance too.
 */
#ifndef KVSIM_FINDINGS_CHANCE_H
#define KVSIM_FINDINGS_CHANCE_H

#include "dedup.h"

/** Figures of one shuffling. Shares of pages are over the pages that were drawn. */
typedef struct kvsim__chance_sample {
    double mean_cosine[KVSIM__KINDS];
    double pair_share[KVSIM__KINDS][KVSIM_MAX_LEVELS];
    double page_share[KVSIM__KINDS][KVSIM_MAX_LEVELS];
    /** Pages with an earlier page within the budget: no fewer than a greedy engine would remove. */
    double removed_share[KVSIM__LANES][KVSIM_MAX_LEVELS];
} kvsim__chance_sample;

/** Chance level of one figure: mean over the shufflings, and their standard deviation. NaN if there is none. */
typedef struct kvsim__chance_level {
    double mean, deviation;
} kvsim__chance_level;

/** Pages below which there is no chance level. */
#define KVSIM__FEWEST_PAGES 8

/**
 * Compute `plan->null_repetitions` samples. Each compares drawn pages with all earlier ones, both shuffled: all pages
 * if there are few, else about one in twice the number of repetitions, 64 to 4,096.
 * @param samples [plan->null_repetitions] filled
 * @param enough set to false, and nothing computed, with fewer than KVSIM__FEWEST_PAGES pages
 * @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_CANCELLED
 */
kvsim_status kvsim__chance_run(const kvsim__pairing *pairing, kvsim__chance_sample *samples, bool *enough);

#endif
