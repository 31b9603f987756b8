/**
 * From the analyses of an experiment's runs (analysis_series.h) to counts of one figure over all of them.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_SELECTION_H
#define KVSIM_EXAMPLES_EXPERIMENTS_SELECTION_H

#include "statistics.h"

#include <jansson.h>

/** All layers. */
#define ANY_LAYER (-2)

/** Which series to add up. */
typedef struct selection {
    const char *figure, *scope; /**< FIGURE_*, SCOPE_* of analysis_series.h */
    const char *view;           /**< NULL: raw */
    const char *kind;           /**< "key", "value" or "both" */
    const char *place;          /**< NULL: any */
    long long layer;            /**< ANY_LAYER, or one; -1: the series that are over all layers already */
    double level;               /**< budget of saved bytes; of no meaning for the other figures */
} selection;

/**
 * Add up the series of every run. "both" means blocks for saved bytes and exact duplicates (pages where there is one
 * kind only), and the pages of either kind for pages alike.
 * @param analyses [repeats] analysis.json of each
 * @return 0, or -1 when out of memory; share_counts_close is due in any case
 */
int select_counts(const selection *wanted, json_t *const *analyses, size_t repeats, share_counts *out);

#endif
