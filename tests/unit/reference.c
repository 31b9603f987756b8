#include "reference.h"

#include "core_tools.h"

#include <math.h>

static bool counts_as_pair(const reference_pages *pages, const kvsim_compute_options *options, int kind, size_t later,
                           size_t earlier) {
    return pages->takes_part[kind][later] && pages->takes_part[kind][earlier] &&
           (options->pairs != KVSIM_PAIRS_DIFFERENT_SEQUENCES || pages->sequences[later] != pages->sequences[earlier]);
}

bool reference_equal(const reference_pages *pages, int kind, int head, size_t a, size_t b) {
    const size_t row = pages->channels * pages->stored_size, page = pages->tokens * pages->heads * row;
    for (size_t t = 0; t < pages->tokens; t++) {
        for (size_t h = 0; h < pages->heads; h++) {
            const size_t at = (t * pages->heads + h) * row;
            if ((head < 0 || (size_t)head == h) &&
                memcmp(pages->stored[kind] + a * page + at, pages->stored[kind] + b * page + at, row) != 0) {
                return false;
            }
        }
    }
    return true;
}

/* Undo the rotation of channel pair i at a position: turn it by minus the angle. */
static void derotate(double *row, size_t channels, const kvsim_rope *rope, int64_t position) {
    const size_t rotary = rope->rotary_dims > 0 ? (size_t)rope->rotary_dims : channels;
    const double theta = rope->theta > 0.0 ? rope->theta : 10000.0;
    for (size_t i = 0; i < rotary / 2; i++) {
        const double angle = -(double)position * pow(theta, -2.0 * (double)i / (double)rotary);
        const size_t first = rope->style == KVSIM_ROPE_HALF ? i : 2 * i;
        const size_t second = rope->style == KVSIM_ROPE_HALF ? i + rotary / 2 : 2 * i + 1;
        const double x = row[first], y = row[second];
        row[first] = x * cos(angle) - y * sin(angle);
        row[second] = x * sin(angle) + y * cos(angle);
    }
}

/* The pages in a view, heads left out that do not count: [count, tokens, heads, channels] with 1 or all heads. */
static double *apply_view(const reference_pages *pages, const kvsim_rope *rope, uint32_t view, int kind, int head) {
    const size_t heads = head < 0 ? pages->heads : 1, row = pages->channels;
    const size_t n = pages->tokens * heads * row;
    double *out = get_memory(pages->count * n * sizeof *out);
    double *mean = get_memory(heads * row * sizeof *mean);
    size_t slots = 0;
    for (size_t p = 0; p < pages->count; p++) {
        if (!pages->takes_part[kind][p]) {
            continue;
        }
        slots += pages->tokens;
        for (size_t t = 0; t < pages->tokens; t++) {
            for (size_t h = 0; h < heads; h++) {
                const size_t from = head < 0 ? h : (size_t)head;
                double *to = out + p * n + (t * heads + h) * row;
                memcpy(to, pages->elements[kind] + ((p * pages->tokens + t) * pages->heads + from) * row,
                       row * sizeof *to);
                if (kind == 0 && (view == KVSIM_VIEW_DEROTATED || view == KVSIM_VIEW_DEROTATED_CENTERED)) {
                    derotate(to, row, rope, pages->positions[p] + (int64_t)t);
                }
                for (size_t d = 0; d < row; d++) {
                    mean[h * row + d] += to[d];
                }
            }
        }
    }
    const bool centre = view == KVSIM_VIEW_CENTERED || view == KVSIM_VIEW_DEROTATED_CENTERED;
    for (size_t i = 0; centre && i < pages->count * n; i++) {
        if (pages->takes_part[kind][i / n]) {
            out[i] -= mean[i % (heads * row)] / (double)slots;
        }
    }
    drop_memory(mean);
    return out;
}

typedef struct head_statistics {
    double absmax, mean_square;
} head_statistics;

static head_statistics measure(const reference_pages *pages, const double *x, int kind, size_t heads, size_t head) {
    head_statistics out = {0};
    size_t values = 0;
    for (size_t i = 0; i < pages->count * pages->tokens * heads * pages->channels; i++) {
        const size_t page = i / (pages->tokens * heads * pages->channels);
        if (i / pages->channels % heads == head && pages->takes_part[kind][page]) {
            out.absmax = fmax(out.absmax, fabs(x[i]));
            out.mean_square += x[i] * x[i];
            values++;
        }
    }
    out.mean_square = values > 0 ? out.mean_square / (double)values : 0.0;
    return out;
}

static double code_of(double x, double absmax, uint32_t bits) {
    const double limit = bits == 4 ? 7.0 : 127.0, scale = absmax / limit;
    return scale > 0.0 ? fmax(-limit, fmin(limit, nearbyint(x / scale))) : 0.0;
}

static void put_in_histogram(size_t *histogram, double value, double low, double high) {
    double bin = high > low ? floor((value - low) / (high - low) * KVSIM_HISTOGRAM_BINS) : 0.0;
    bin = fmax(0.0, fmin(bin, KVSIM_HISTOGRAM_BINS - 1));
    histogram[(size_t)bin]++;
}

/* Codes and active sets of all pages, laid out as the view is. */
typedef struct sets {
    int8_t *codes;
    bool *active;
} sets;

static sets make_sets(const double *x, size_t elements, size_t channels, size_t heads,
                      const head_statistics *statistics, const kvsim_compute_options *options,
                      const int8_t *stored_codes) {
    sets out = {get_memory(elements), get_memory(elements * sizeof(bool))};
    const double factor = options->jaccard_tau > 0.0 ? options->jaccard_tau : 1.0;
    for (size_t i = 0; i < elements; i++) {
        const head_statistics *of = &statistics[i / channels % heads];
        const double tau = options->jaccard_absolute != 0 ? options->jaccard_tau : factor * sqrt(of->mean_square);
        out.codes[i] =
            stored_codes != NULL ? stored_codes[i] : (int8_t)code_of(x[i], of->absmax, options->hamming_bits);
        out.active[i] = fabs(x[i]) > tau;
    }
    return out;
}

/* Figures of one pair, added to the group's. */
typedef struct pair_figures {
    double cosine, distance, error, hamming, sign, jaccard;
    size_t active_in_either;
} pair_figures;

static pair_figures compare_pair(const double *all, const sets *of, size_t n, size_t later, size_t earlier) {
    const double *x = all + later * n, *y = all + earlier * n;
    const int8_t *x_codes = of->codes + later * n, *y_codes = of->codes + earlier * n;
    const bool *x_active = of->active + later * n, *y_active = of->active + earlier * n;
    double dot = 0.0, xx = 0.0, yy = 0.0, squares = 0.0;
    size_t codes = 0, signs = 0, common = 0, any = 0;
    for (size_t i = 0; i < n; i++) {
        dot += x[i] * y[i];
        xx += x[i] * x[i];
        yy += y[i] * y[i];
        squares += (x[i] - y[i]) * (x[i] - y[i]);
        codes += x_codes[i] != y_codes[i];
        signs += (x[i] < 0.0) != (y[i] < 0.0);
        common += x_active[i] && y_active[i];
        any += x_active[i] || y_active[i];
    }
    pair_figures out = {.distance = sqrt(squares),
                        .hamming = (double)codes / (double)n,
                        .sign = (double)signs / (double)n,
                        .jaccard = any > 0 ? (double)common / (double)any : 1.0,
                        .active_in_either = any};
    out.cosine = xx == 0.0 && yy == 0.0   ? 1.0
                 : xx == 0.0 || yy == 0.0 ? 0.0
                                          : fmax(-1.0, fmin(1.0, dot / (sqrt(xx) * sqrt(yy))));
    out.error = xx > 0.0 ? sqrt(squares) / sqrt(xx) : yy == 0.0 ? 0.0 : INFINITY;
    return out;
}

static void add_pair(reference_group *out, const pair_figures *pair) {
    out->pairs++;
    out->cosine_mean += pair->cosine;
    out->cosine_min = fmin(out->cosine_min, pair->cosine);
    out->cosine_max = fmax(out->cosine_max, pair->cosine);
    out->mean_l2 += pair->distance;
    out->infinite_relative_errors += isinf(pair->error) ? 1 : 0;
    out->mean_relative_error += isinf(pair->error) ? 0.0 : pair->error;
    out->mean_hamming += pair->hamming;
    out->mean_hamming_sign += pair->sign;
    out->mean_jaccard += pair->jaccard;
    put_in_histogram(out->histograms[0], pair->cosine, -1.0, 1.0);
    put_in_histogram(out->histograms[1], pair->distance, 0.0, out->l2_upper);
    put_in_histogram(out->histograms[2], pair->error, 0.0, 2.0);
    put_in_histogram(out->histograms[3], pair->hamming, 0.0, 1.0);
    put_in_histogram(out->histograms[4], pair->sign, 0.0, 1.0);
    put_in_histogram(out->histograms[5], pair->jaccard, 0.0, 1.0);
}

static void count_later(const reference_pages *pages, const kvsim_compute_options *options, int kind, int head,
                        size_t later, reference_group *out) {
    bool duplicate = false, above[REFERENCE_LEVELS] = {false};
    for (size_t earlier = 0; earlier < later; earlier++) {
        if (!counts_as_pair(pages, options, kind, later, earlier)) {
            continue;
        }
        duplicate = duplicate || reference_equal(pages, kind, head, later, earlier);
        for (uint32_t t = 0; t < options->threshold_count; t++) {
            const bool passes = out->cosines[later * pages->count + earlier] >= options->thresholds[t];
            out->threshold_pairs[t] += passes;
            above[t] = above[t] || passes;
        }
    }
    out->exact_duplicates += duplicate;
    for (uint32_t t = 0; t < options->threshold_count; t++) {
        out->threshold_pages[t] += above[t];
    }
}

void reference_compare(const reference_pages *pages, const kvsim_compute_options *options, const kvsim_rope *rope,
                       uint32_t view, int kind, int head, reference_group *out) {
    const size_t count = pages->count, heads = head < 0 ? pages->heads : 1;
    const size_t n = pages->tokens * heads * pages->channels;
    double *x = apply_view(pages, rope, view, kind, head);
    head_statistics *statistics = get_memory(heads * sizeof *statistics);
    memset(out, 0, sizeof *out);
    for (size_t h = 0; h < heads; h++) {
        statistics[h] = measure(pages, x, kind, heads, h);
        out->mean_square += statistics[h].mean_square / (double)heads;
    }
    out->cosine_min = INFINITY;
    out->cosine_max = -INFINITY;
    out->cosines = get_memory(count * count * sizeof(double));
    out->errors = get_memory(count * count * sizeof(double));
    for (size_t p = 0; p < count; p++) {
        double squares = 0.0;
        for (size_t i = 0; i < n; i++) {
            squares += x[p * n + i] * x[p * n + i];
        }
        out->pages += pages->takes_part[kind][p];
        out->l2_upper = pages->takes_part[kind][p] ? fmax(out->l2_upper, 2.0 * sqrt(squares)) : out->l2_upper;
    }
    const int8_t *codes = pages->codes_are_stored && options->hamming_bits != 4 && head < 0 &&
                                  (view == KVSIM_VIEW_RAW || (view == KVSIM_VIEW_DEROTATED && kind == 1))
                              ? (const int8_t *)pages->stored[kind]
                              : NULL;
    const sets of = make_sets(x, count * n, pages->channels, heads, statistics, options, codes);
    double all_union = 0.0;
    for (size_t later = 0; later < count; later++) {
        for (size_t earlier = 0; earlier < count; earlier++) {
            const size_t cell = later * count + earlier;
            out->cosines[cell] = NAN;
            out->errors[cell] = INFINITY;
            if (earlier >= later || !counts_as_pair(pages, options, kind, later, earlier)) {
                continue;
            }
            const pair_figures pair = compare_pair(x, &of, n, later, earlier);
            all_union += (double)pair.active_in_either;
            out->cosines[cell] = pair.cosine;
            out->errors[cell] = pair.error;
            add_pair(out, &pair);
        }
        count_later(pages, options, kind, head, later, out);
    }
    const double pairs = (double)out->pairs;
    out->mean_relative_error /= pairs - (double)out->infinite_relative_errors;
    out->cosine_mean /= pairs;
    out->mean_l2 /= pairs;
    out->mean_hamming /= pairs;
    out->mean_hamming_sign /= pairs;
    out->mean_jaccard /= pairs;
    out->jaccard_union_share = all_union / pairs / (double)n;
    drop_memory(of.codes);
    drop_memory(of.active);
    drop_memory(statistics);
    drop_memory(x);
}

void reference_dedup_groups(const reference_pages *pages, double budget, const reference_group *first,
                            const bool *first_takes_part, const reference_group *second, const bool *second_takes_part,
                            reference_dedup *out) {
    const size_t count = pages->count;
    size_t *sharers = get_memory(count * sizeof *sharers);
    bool *representative = get_memory(count * sizeof *representative);
    *out = (reference_dedup){.shares = get_memory(count * sizeof(int64_t))};
    for (size_t later = 0; later < count; later++) {
        out->shares[later] = -1;
        if (!first_takes_part[later] || (second != NULL && !second_takes_part[later])) {
            continue;
        }
        double nearest = INFINITY;
        for (size_t earlier = 0; earlier < later; earlier++) {
            const size_t cell = later * count + earlier;
            const double error = second != NULL ? fmax(first->errors[cell], second->errors[cell]) : first->errors[cell];
            if (representative[earlier] && error <= budget && error < nearest) {
                nearest = error;
                out->shares[later] = (int64_t)earlier;
            }
        }
        if (out->shares[later] >= 0) {
            sharers[out->shares[later]]++;
            out->removed++;
        } else {
            representative[later] = true;
            out->representatives++;
        }
    }
    for (size_t p = 0; p < count; p++) {
        out->groups_of_two_or_more += sharers[p] > 0;
        out->largest_group =
            representative[p] && sharers[p] + 1 > out->largest_group ? sharers[p] + 1 : out->largest_group;
    }
    drop_memory(representative);
    drop_memory(sharers);
}
