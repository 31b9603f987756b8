/* Reading the options of a compute. */
#include <math.h>
#include <string.h>

#include "context.h"

enum {
    DEFAULT_TOP_K = 16,
    MAX_TOP_K = 65536,
    DEFAULT_REPETITIONS = 20,
    MAX_REPETITIONS = 1000,
    DEFAULT_RESAMPLES = 1000,
    MAX_RESAMPLES = 100000
};

static const double default_thresholds[] = {0.9, 0.95, 0.99};
static const double default_budgets[] = {0.1, 0.2, 0.3};

/* A rising list inside [low, high], copied; the default where none is given. */
static kvsim_status read_levels(kvsim__base *base, const char *what, const double *levels, uint32_t count, double low,
                                double high, const double *defaults, uint32_t default_count, double *out,
                                uint32_t *out_count) {
    if (levels == NULL) {
        if (count != 0) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%u %s are announced, but the list is NULL", count, what);
        }
        levels = defaults;
        count = default_count;
    }
    if (count < 1 || count > KVSIM_MAX_LEVELS) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%u %s; 1 to %d are possible", count, what, KVSIM_MAX_LEVELS);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!(levels[i] >= low && levels[i] <= high)) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s: %g is outside [%g, %g]", what, levels[i], low, high);
        }
        if (i > 0 && levels[i] <= levels[i - 1]) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s must rise: %g does not exceed %g", what, levels[i],
                               levels[i - 1]);
        }
        out[i] = levels[i];
    }
    *out_count = count;
    return KVSIM_OK;
}

static kvsim_status read_numbers(kvsim__base *base, const kvsim_compute_options *options, kvsim__plan *plan) {
    const uint32_t all_metrics = KVSIM_METRIC_COSINE | KVSIM_METRIC_L2 | KVSIM_METRIC_HAMMING | KVSIM_METRIC_JACCARD;
    const uint32_t all_views =
        KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED | KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED;
    const uint32_t all_flags = KVSIM_COMPUTE_PER_HEAD | KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS |
                               KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS |
                               KVSIM_COMPUTE_LEDGER | KVSIM_COMPUTE_PAGES | KVSIM_COMPUTE_DISTANCES;
    const uint32_t behind_pages = KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA;
    if ((options->metrics & ~all_metrics) != 0 || (options->views & ~all_views) != 0 ||
        (options->flags & ~all_flags) != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "metrics 0x%x, views 0x%x or flags 0x%x hold bits this library does not know",
                           options->metrics, options->views, options->flags);
    }
    if ((options->flags & KVSIM_COMPUTE_PAGES) != 0 && (options->flags & behind_pages) != behind_pages) {
        return kvsim__fail(
            base, KVSIM_E_INVALID,
            "KVSIM_COMPUTE_PAGES needs KVSIM_COMPUTE_CHANCE and KVSIM_COMPUTE_STRATA, which find what it "
            "lists");
    }
    if (options->pairs != 0 && options->pairs != KVSIM_PAIRS_ALL && options->pairs != KVSIM_PAIRS_DIFFERENT_SEQUENCES) {
        return kvsim__fail(base, KVSIM_E_INVALID, "pairs %d is none of KVSIM_PAIRS_*", options->pairs);
    }
    if (options->hamming_bits != 0 && options->hamming_bits != 8 && options->hamming_bits != 4) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "hamming_bits %u; 8 and 4 are possible (sign bits are always reported)",
                           options->hamming_bits);
    }
    if (options->top_k != KVSIM_TOP_NONE && options->top_k > MAX_TOP_K) {
        return kvsim__fail(base, KVSIM_E_INVALID, "top_k %u; at most %d", options->top_k, MAX_TOP_K);
    }
    if (!(options->jaccard_tau >= 0.0) || isinf(options->jaccard_tau) || options->jaccard_absolute > 1) {
        return kvsim__fail(base, KVSIM_E_INVALID, "jaccard_tau %g with jaccard_absolute %u", options->jaccard_tau,
                           options->jaccard_absolute);
    }
    if (options->null_repetitions > MAX_REPETITIONS || options->resamples > MAX_RESAMPLES ||
        (options->families == NULL) != (options->family_count == 0)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "null_repetitions %u (at most %d), resamples %u (at most %d), or families without a count",
                           options->null_repetitions, MAX_REPETITIONS, options->resamples, MAX_RESAMPLES);
    }
    if (options->reserved != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_compute_options: reserved is %u; it must be 0",
                           options->reserved);
    }
    plan->metrics = options->metrics != 0 ? options->metrics : all_metrics;
    plan->views = options->views | KVSIM_VIEW_RAW;
    plan->flags = options->flags;
    plan->different_sequences = options->pairs == KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    plan->top_k = options->top_k == KVSIM_TOP_NONE ? 0 : options->top_k == 0 ? DEFAULT_TOP_K : options->top_k;
    plan->hamming_bits = options->hamming_bits != 0 ? options->hamming_bits : 8;
    plan->jaccard_absolute = options->jaccard_absolute != 0;
    plan->jaccard_tau = options->jaccard_tau > 0.0 || plan->jaccard_absolute ? options->jaccard_tau : 1.0;
    plan->seed = options->seed != 0 ? options->seed : 1;
    plan->families = options->families;
    plan->family_count = options->family_count;
    plan->null_repetitions = options->null_repetitions != 0 ? options->null_repetitions : DEFAULT_REPETITIONS;
    plan->resamples = options->resamples != 0 ? options->resamples : DEFAULT_RESAMPLES;
    plan->ulps = options->ulps != 0 ? options->ulps : 1;
    plan->progress = options->progress;
    plan->progress_user = options->progress_user;
    return KVSIM_OK;
}

kvsim_status kvsim__read_plan(kvsim__base *base, const kvsim_compute_options *from, kvsim__plan *plan) {
    kvsim_compute_options options;
    memset(plan, 0, sizeof *plan);
    kvsim_status status = kvsim__read_struct(&options, sizeof options, from, sizeof options);
    if (status != KVSIM_OK) {
        return kvsim__fail(base, status, "struct_size %u is not that of a kvsim_compute_options this library knows",
                           from->struct_size);
    }
    status = read_numbers(base, &options, plan);
    if (status == KVSIM_OK) {
        status =
            read_levels(base, "thresholds", options.thresholds, options.threshold_count, -1.0, 1.0, default_thresholds,
                        sizeof default_thresholds / sizeof(double), plan->thresholds, &plan->threshold_count);
    }
    if (status == KVSIM_OK) {
        status = read_levels(base, "budgets", options.budgets, options.budget_count, 0.0, 1.0, default_budgets,
                             sizeof default_budgets / sizeof(double), plan->budgets, &plan->budget_count);
    }
    return status;
}
