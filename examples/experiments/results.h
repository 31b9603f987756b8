/**
 * results.json of an experiment (docs/experiments-result-schema.json) and final_report.json over all of them
 * (docs/experiments-report-schema.json).
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_RESULTS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_RESULTS_H

#include "common/message.h"
#include "specification.h"

#include <stdbool.h>
#include <stddef.h>

/** Names of the files, and values of their members `schema`. */
#define RESULTS_NAME        "results.json"
#define RESULTS_SCHEMA      "kvsim.experiment_result.v1"
#define FINAL_REPORT_NAME   "final_report.json"
#define FINAL_REPORT_SCHEMA "kvsim.experiments_report.v1"

/** One experiment with its runs. */
typedef struct experiment_runs {
    const experiment *e;
    const char *config_hash;        /**< as in run.json of repeat 0; NULL where nothing ran */
    const char *const *run_folders; /**< [run_count] of repeat 0, 1, ... */
    size_t run_count;               /**< e->repeats if it is complete */
    const char *failure;            /**< why it failed, in one line with its last words; NULL if it did not */
} experiment_runs;

/**
 * Write `<folder>/results.json` of a complete experiment, and with it its pictures: similarity_distribution,
 * layer_similarity and compression_opportunities, each as PNG and SVG, of repeat 0.
 * @param folder made if it does not exist; its parent must exist
 * @param reproducible leave out times, rates, and what the machine is
 * @param pictures draw them; where gnuplot is missing they are left out, and `remark` says so
 * @param remark receives what is worth a line; empty if nothing is
 * @return 0, or -1 with `error` set; nothing is changed then
 */
int results_write(const char *folder, const experiment_runs *runs, bool reproducible, bool pictures, error_text *remark,
                  error_text *error);

/**
 * Write `<output_folder>/final_report.json` over all experiments, failed ones included.
 * @param between file of analysis_between; NULL if there is none
 * @return 0, or -1 with `error` set
 */
int results_final(const char *output_folder, const experiment_runs *experiments, size_t count, const char *between,
                  bool reproducible, error_text *error);

#endif
