/**
 * From the tables of a result to counts by sequence: series.
 *
 * A series is one figure of one layer, kind and view, as what it counts of what there is in each sequence. Members:
 * `figure` (alike, saved, exact), `scope`, `view`, `layer`, `kind`, `place`, `level`, `whole`, `part` (arrays by
 * sequence), and where they apply `hanging` (what counts in other sequences because of this one alone), `chance` and
 * `chance_error`.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_SERIES_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_SERIES_H

#include <jansson.h>
#include <kvsim/kvsim.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** @name Scopes: where the other page is
 * @{ */
#define SCOPE_ALL     "all"
#define SCOPE_WITHIN  "within"  /**< in the same sequence */
#define SCOPE_BETWEEN "between" /**< in another sequence */
/** @} */

/** @name Figures
 * @{ */
#define FIGURE_ALIKE "alike" /**< pages with an earlier page at the threshold */
#define FIGURE_SAVED "saved" /**< bytes that dedup saves at the budget, the cost of finding them again taken off */
#define FIGURE_EXACT "exact" /**< pages with the stored bytes of an earlier one */
/** @} */

/** What series are made from, and where they go. */
typedef struct series_source {
    const kvsim_result *result;
    size_t sequences;
    uint32_t repetitions; /**< shufflings behind each chance level */
    double threshold;
    json_t *series; /**< array that they are appended to */
} series_source;

/** Name of a view as in options and JSON, and of a kind: "key", "value", or "block" for 0. */
const char *series_view_name(int64_t view);
const char *series_kind_name(int64_t kind);

/**
 * Append the series of pages alike. Of `detailed_view` those within a sequence and those by place are appended, too.
 * @param different the result knows no pairs inside a sequence: the scope is SCOPE_BETWEEN, and of `detailed_view` only
 * @return 0, or -1 when out of memory
 */
int series_add_alike(const series_source *source, int64_t detailed_view, bool different);

/** Append the series of saved bytes: at `budget` by layer, kind and scope, at every budget over all layers. */
int series_add_saved(const series_source *source, double budget);

/** Append the series of exact duplicates. */
int series_add_exact(const series_source *source);

/** Likeness inside the sequences by distance in tokens, over all layers, of one view. [owned]; NULL when out of memory
 */
json_t *series_distances(const series_source *source, int64_t view);

/** Mean cosines with their pairs by view, layer and kind. [owned]; NULL when out of memory */
json_t *series_means(const kvsim_result *result);

#endif
