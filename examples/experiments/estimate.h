/**
 * How much an experiment will be: tokens, bytes, and about how long.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ESTIMATE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ESTIMATE_H

#include "specification.h"

#include <jansson.h>

/** One run of an experiment. */
typedef struct run_estimate {
    double prompt_tokens;
    double output_tokens;
    double kv_bytes; /**< NaN if the model is not known */
    double generation_seconds;
    double analysis_seconds;
    double pages;         /**< of one layer and kind */
    double page_elements; /**< of all pages of all layers and kinds */
    bool measured; /**< tokens are counted by the engine, and its speed comes from a trial; else both are guesses */
} run_estimate;

/**
 * Estimate one run.
 * @param plan of engine_builtin_plan; NULL for an engine that has none, then tokens are guessed from the texts
 */
run_estimate estimate_run(const experiment *e, const json_t *plan);

/** Seconds of the comparison of experiments with each other. @param runs [count] one run of each */
double estimate_between(const run_estimate *runs, size_t count);

#endif
