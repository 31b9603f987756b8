/**
 * The parts that results.json and final_report.json are put together from.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_RESULTS_PARTS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_RESULTS_PARTS_H

#include "analysis.h"
#include "results.h"
#include "selection.h"

#include <jansson.h>

/** What the runs of one experiment left: generation.json and analysis.json of each. Zero is nothing. */
typedef struct run_documents {
    const experiment *e;
    json_t **generations, **analyses; /**< [repeats] */
    size_t repeats;
} run_documents;

/** Read them. run_documents_close is due in any case. 0, or -1 with `error` set. */
int run_documents_open(run_documents *documents, const experiment_runs *runs, error_text *error);

/** Give them back. */
void run_documents_close(run_documents *documents);

/** Names of the kinds that figures come for: "key", "value", "both". */
#define RESULT_KINDS 3
extern const char *const result_kinds[RESULT_KINDS];

/** A metric of the headline. */
typedef struct metric {
    const char *name;   /**< member of documents */
    const char *figure; /**< FIGURE_* */
    share_aspect aspect;
} metric;

/** @name Metrics in the order in which they are written
 * @{ */
enum { METRIC_SAVED, METRIC_EXACT, METRIC_ALIKE, METRIC_CHANCE, METRIC_EXCESS, METRICS };
extern const metric metrics[METRICS];
/** @} */

/**
 * Counts of a metric: saved bytes and exact duplicates as stored, pages alike in the best view.
 * @param scope SCOPE_* of analysis_series.h
 * @return 0, or -1 when out of memory; share_counts_close is due in any case
 */
int metric_counts(const run_documents *documents, const metric *of, const char *scope, const char *kind,
                  long long layer, share_counts *out);

/** An estimate as a document: mean, std, min, max, low, high, constant, per_repeat. [owned] */
json_t *estimate_document(const share_counts *counts, share_aspect aspect, double least, double most, uint64_t seed);

/** Values of the repeats as a document without an interval: mean, std, min, max, per_repeat. [owned] */
json_t *spread_document(const double *values, size_t count);

/** The member `cache_analysis`. [owned]; NULL when out of memory */
json_t *describe_cache_analysis(const run_documents *documents);

/** @name Members of `cache_analysis` that final_report.json has, too. [owned]
 * @{ */
json_t *describe_settings(const run_documents *documents);
/** Every metric by kind; `scope` is SCOPE_ALL or SCOPE_BETWEEN. */
json_t *describe_headline(const run_documents *documents, const char *scope);
/** The same inside the sequences. */
json_t *describe_within(const run_documents *documents);
/** @} */

/** @name Members of either document, [owned]
 * @{ */
json_t *describe_engine(const run_documents *documents);
json_t *describe_tokens(const run_documents *documents);
json_t *describe_timing(const run_documents *documents);
json_t *describe_memory(const run_documents *documents, bool reproducible);
json_t *describe_ignored_fields(const run_documents *documents);
json_t *describe_environment(void);
/** @} */

#endif
