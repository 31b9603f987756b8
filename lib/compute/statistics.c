/* Rows of `statistics` and `strata`: what was seen, what chance gives, and how sure the difference is. */
#include <math.h>

#include "../base/random.h"
#include "../findings/chance.h"
#include "../findings/interval.h"
#include "internal.h"

/* Normal deviate of a two-sided 95 % interval, for the part that the chance level's own spread adds. */
#define NORMAL_95 1.959964

typedef struct statistics {
    kvsim__work *at;
    const kvsim__unit *unit;
    const kvsim__pairing *pairing;
    kvsim__chance_sample *samples; /* [repetitions] */
    bool has_chance;
    double *left_out;  /* [sequences] */
    uint64_t *pages;   /* [sequences] that take part in the lane at hand */
    uint64_t *matched; /* [sequences] pages of it that match, or are removed */
    uint64_t *hanging; /* [sequences] pages of others that match it alone */
} statistics;

/* The value of one figure in one sample. */
typedef struct selector {
    int statistic;
    uint32_t lane, level;
} selector;

static double sample_value(const kvsim__chance_sample *sample, const selector *which) {
    switch (which->statistic) {
    case KVSIM__STATISTIC_MEAN_COSINE:
        return sample->mean_cosine[which->lane];
    case KVSIM__STATISTIC_PAIR_SHARE:
        return sample->pair_share[which->lane][which->level];
    case KVSIM__STATISTIC_PAGE_SHARE:
        return sample->page_share[which->lane][which->level];
    default:
        return sample->removed_share[which->lane][which->level];
    }
}

static kvsim__chance_level chance_of(const statistics *of, const selector *which) {
    const uint32_t count = of->at->plan->null_repetitions;
    double sum = 0.0, squares = 0.0;
    for (uint32_t r = 0; r < count && of->has_chance; r++) {
        sum += sample_value(&of->samples[r], which);
    }
    const double mean = of->has_chance ? sum / count : NAN;
    for (uint32_t r = 0; r < count && of->has_chance; r++) {
        const double difference = sample_value(&of->samples[r], which) - mean;
        squares += difference * difference;
    }
    return (kvsim__chance_level){mean, of->has_chance && count > 1 ? sqrt(squares / (count - 1)) : NAN};
}

/* Append a row; `left_out` holds the figure without each sequence. */
static kvsim_status put_statistic(statistics *of, const selector *which, double level, double observed) {
    const kvsim__plan *plan = of->at->plan;
    const bool block = which->lane == KVSIM__LANE_BLOCK;
    const int shown = block ? KVSIM__KEY : (int)which->lane;
    const int32_t layer = of->unit->kinds[shown]->layer;
    const uint64_t purpose = (uint64_t)layer << 40 | (uint64_t)(of->unit->head + 1) << 24 |
                             (uint64_t)which->statistic << 16 | (uint64_t)which->lane << 8 | which->level;
    kvsim__interval interval;
    kvsim_status status = kvsim__find_interval(of->at->base, observed, of->left_out, of->unit->sequence_count,
                                               plan->resamples, kvsim__random_seed(plan->seed, purpose), &interval);
    kvsim__statistic_row *row =
        status == KVSIM_OK ? kvsim__result_append(of->at->result, KVSIM__TABLE_STATISTICS) : NULL;
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const kvsim__chance_level chance = chance_of(of, which);
    /* A share cannot leave [0, 1], a cosine not [-1, 1], however skewed the sequences are. */
    const double least = which->statistic == KVSIM__STATISTIC_MEAN_COSINE ? -1.0 : 0.0;
    interval.low = interval.low < least ? least : interval.low;
    interval.high = interval.high > 1.0 ? 1.0 : interval.high;
    const double spread = NORMAL_95 * chance.deviation / sqrt((double)plan->null_repetitions);
    *row = (kvsim__statistic_row){.view = (int32_t)of->pairing->groups[shown].view,
                                  .layer = layer,
                                  .kind = block ? 0 : of->unit->kinds[shown]->kind,
                                  .head = of->unit->head,
                                  .statistic = which->statistic,
                                  .sequences = (int32_t)of->unit->sequence_count,
                                  .level = level,
                                  .observed = observed,
                                  .low = interval.low,
                                  .high = interval.high,
                                  .null_mean = chance.mean,
                                  .null_deviation = chance.deviation,
                                  .excess = observed - chance.mean};
    row->excess_low = row->excess - hypot(observed - interval.low, spread);
    row->excess_high = row->excess + hypot(interval.high - observed, spread);
    return KVSIM_OK;
}

static double ratio(double part, double whole) {
    return whole > 0.0 ? part / whole : NAN;
}

/* Mean cosine and pair shares: leaving a sequence out takes away the pairs it has a page in. */
static kvsim_status put_pair_statistics(statistics *of, int kind) {
    const kvsim__plan *plan = of->at->plan;
    const kvsim__figures *figures = &of->pairing->figures[kind];
    const kvsim__sequence_figures *by = &figures->by_sequence;
    const double pairs = (double)figures->pairs;
    selector which = {KVSIM__STATISTIC_MEAN_COSINE, (uint32_t)kind, 0};
    for (uint32_t s = 0; s < of->unit->sequence_count; s++) {
        const double without = figures->cosine_sum - (double)by->cosine_units[s] / KVSIM__COSINE_UNITS;
        of->left_out[s] = ratio(without, pairs - (double)by->pairs[s]);
    }
    kvsim_status status = put_statistic(of, &which, NAN, ratio(figures->cosine_sum, pairs));
    which.statistic = KVSIM__STATISTIC_PAIR_SHARE;
    for (; which.level < plan->threshold_count && status == KVSIM_OK; which.level++) {
        const double above = (double)figures->threshold_pairs[which.level];
        for (uint32_t s = 0; s < of->unit->sequence_count; s++) {
            const size_t own = (size_t)s * plan->threshold_count + which.level;
            of->left_out[s] = ratio(above - (double)by->threshold_pairs[own], pairs - (double)by->pairs[s]);
        }
        status = put_statistic(of, &which, plan->thresholds[which.level], ratio(above, pairs));
    }
    return status;
}

/* From the counts by sequence: the share of pages that match, and without each sequence. */
static kvsim_status put_share(statistics *of, const selector *which, double level) {
    uint64_t pages = 0, matched = 0;
    for (uint32_t s = 0; s < of->unit->sequence_count; s++) {
        pages += of->pages[s];
        matched += of->matched[s];
    }
    for (uint32_t s = 0; s < of->unit->sequence_count; s++) {
        of->left_out[s] = ratio((double)(matched - of->matched[s] - of->hanging[s]), (double)(pages - of->pages[s]));
    }
    return put_statistic(of, which, level, ratio((double)matched, (double)pages));
}

static void clear_counts(statistics *of, uint32_t lane) {
    for (uint32_t s = 0; s < of->unit->sequence_count; s++) {
        of->pages[s] = of->matched[s] = of->hanging[s] = 0;
    }
    for (size_t slot = 0; slot < of->unit->slots; slot++) {
        of->pages[of->unit->sequence[slot]] += of->unit->present[lane][slot];
    }
}

/* Page shares: leaving a sequence out takes its pages away, and the matches of pages that match it alone. */
static kvsim_status put_page_statistics(statistics *of, int kind) {
    const kvsim__plan *plan = of->at->plan;
    const uint32_t *only_match = of->pairing->figures[kind].by_sequence.only_match;
    selector which = {KVSIM__STATISTIC_PAGE_SHARE, (uint32_t)kind, 0};
    kvsim_status status = KVSIM_OK;
    for (; which.level < plan->threshold_count && status == KVSIM_OK; which.level++) {
        clear_counts(of, which.lane);
        for (size_t slot = 0; slot < of->unit->slots; slot++) {
            const uint32_t only = only_match[slot * plan->threshold_count + which.level];
            const uint32_t own = of->unit->sequence[slot];
            of->matched[own] += only != KVSIM__NONE;
            if (only != KVSIM__NONE && only != KVSIM__MANY && only != own) {
                of->hanging[only]++;
            }
        }
        status = put_share(of, &which, plan->thresholds[which.level]);
    }
    return status;
}

/* Removed shares: what each sequence contributes. That others' pages may lose their representative with it is left
   aside, which makes the interval wider, not narrower: see docs/metrics.md. */
static kvsim_status put_removed_statistics(statistics *of, uint32_t lane, const kvsim__dedup *dedup) {
    const kvsim__plan *plan = of->at->plan;
    const kvsim__assignment *removed;
    size_t count;
    kvsim_status status = kvsim__dedup_assignments(dedup, &removed, &count);
    selector which = {KVSIM__STATISTIC_REMOVED_SHARE, lane, 0};
    for (; which.level < plan->budget_count && status == KVSIM_OK; which.level++) {
        clear_counts(of, lane);
        for (size_t i = 0; i < count; i++) {
            if (removed[i].lane == lane && removed[i].budget == which.level) {
                of->matched[of->unit->sequence[removed[i].slot]]++;
            }
        }
        status = put_share(of, &which, plan->budgets[which.level]);
    }
    return status;
}

static kvsim_status put_all(statistics *of, const kvsim__dedup *dedup) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (!of->pairing->present[kind]) {
            continue;
        }
        status = put_pair_statistics(of, kind);
        if (status == KVSIM_OK) {
            status = put_page_statistics(of, kind);
        }
        if (status == KVSIM_OK) {
            status = put_removed_statistics(of, (uint32_t)kind, dedup);
        }
    }
    if (status == KVSIM_OK && of->pairing->present[KVSIM__KEY] && of->pairing->present[KVSIM__VALUE]) {
        status = put_removed_statistics(of, KVSIM__LANE_BLOCK, dedup);
    }
    return status;
}

kvsim_status kvsim__put_statistics(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                                   const kvsim__dedup *dedup) {
    const size_t sequences = unit->sequence_count, repetitions = at->plan->null_repetitions;
    statistics of = {.at = at, .unit = unit, .pairing = pairing};
    of.samples = kvsim__allocate(at->base, repetitions, sizeof *of.samples);
    of.left_out = kvsim__allocate(at->base, sequences, sizeof *of.left_out);
    of.pages = kvsim__allocate(at->base, sequences, sizeof *of.pages);
    of.matched = kvsim__allocate(at->base, sequences, sizeof *of.matched);
    of.hanging = kvsim__allocate(at->base, sequences, sizeof *of.hanging);
    kvsim_status status = KVSIM_OK;
    if (of.samples == NULL || of.left_out == NULL || of.pages == NULL || of.matched == NULL || of.hanging == NULL) {
        status = kvsim__fail_memory(at->base, repetitions * sizeof *of.samples, "chance levels");
    } else {
        status = kvsim__chance_run(pairing, of.samples, &of.has_chance);
    }
    if (status == KVSIM_OK) {
        status = put_all(&of, dedup);
    }
    kvsim__release(at->base, of.samples, repetitions, sizeof *of.samples);
    kvsim__release(at->base, of.left_out, sequences, sizeof *of.left_out);
    kvsim__release(at->base, of.pages, sequences, sizeof *of.pages);
    kvsim__release(at->base, of.matched, sequences, sizeof *of.matched);
    kvsim__release(at->base, of.hanging, sequences, sizeof *of.hanging);
    return status;
}

kvsim_status kvsim__put_strata(kvsim__work *at, const kvsim__unit *unit, int kind, const kvsim__figures *figures,
                               int64_t group) {
    const kvsim__plan *plan = at->plan;
    for (int stratum = 0; stratum < KVSIM__STRATA; stratum++) {
        for (int relation = 0; relation < KVSIM__RELATIONS; relation++) {
            const kvsim__stratum_figures *from = &figures->strata[stratum][relation];
            for (uint32_t t = 0; t < plan->threshold_count; t++) {
                kvsim__stratum_row *row = kvsim__result_append(at->result, KVSIM__TABLE_STRATA);
                if (row == NULL) {
                    return KVSIM_E_NOMEM;
                }
                row->group = group;
                row->stratum = stratum;
                row->relation = relation;
                row->threshold = plan->thresholds[t];
                row->pairs = from->pairs;
                row->cosine_mean = ratio((double)from->cosine_units / KVSIM__COSINE_UNITS, (double)from->pairs);
                row->pairs_above = from->threshold_pairs[t];
                row->pair_share = ratio((double)row->pairs_above, (double)row->pairs);
                for (size_t slot = 0; slot < unit->slots; slot++) {
                    if (unit->stratum[slot] == stratum && unit->present[kind][slot] != 0) {
                        row->pages++;
                        const size_t bits = slot * KVSIM__RELATIONS + (size_t)relation;
                        row->pages_above += figures->relation_bits[bits] >> t & 1;
                    }
                }
                row->page_share = ratio((double)row->pages_above, (double)row->pages);
            }
        }
    }
    return KVSIM_OK;
}
