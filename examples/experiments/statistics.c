#include "statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Normal deviate of a two-sided 95 % interval, for what the shufflings of a chance level add. */
#define NORMAL_95 1.959963985

int share_counts_open(share_counts *counts, size_t repeats, size_t prompts) {
    size_t cells = repeats * prompts + 1;
    *counts = (share_counts){.repeats = repeats, .prompts = prompts};
    counts->whole = calloc(cells, sizeof *counts->whole);
    counts->part = calloc(cells, sizeof *counts->part);
    counts->hanging = calloc(cells, sizeof *counts->hanging);
    counts->chance = calloc(repeats + 1, sizeof *counts->chance);
    counts->chance_error = calloc(repeats + 1, sizeof *counts->chance_error);
    if (counts->whole == NULL || counts->part == NULL || counts->hanging == NULL || counts->chance == NULL ||
        counts->chance_error == NULL)
        return -1;
    for (size_t r = 0; r < repeats; r++)
        counts->chance[r] = counts->chance_error[r] = (double)NAN;
    return 0;
}

void share_counts_close(share_counts *counts) {
    free(counts->whole);
    free(counts->part);
    free(counts->hanging);
    free(counts->chance);
    free(counts->chance_error);
    memset(counts, 0, sizeof *counts);
}

static double total(const double *cells, const share_counts *counts, size_t repeat) {
    double sum = 0.0;
    for (size_t p = 0; p < counts->prompts; p++)
        sum += cells[repeat * counts->prompts + p];
    return sum;
}

static double ratio(double part, double whole) {
    return whole > 0.0 ? part / whole : (double)NAN;
}

double share_of_repeat(const share_counts *counts, share_aspect aspect, size_t repeat) {
    double observed = ratio(total(counts->part, counts, repeat), total(counts->whole, counts, repeat));
    return aspect == SHARE_OBSERVED ? observed
           : aspect == SHARE_CHANCE ? counts->chance[repeat]
                                    : observed - counts->chance[repeat];
}

estimate estimate_values(const double *values, size_t count) {
    estimate out = {(double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN, false};
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    if (count == 0 || !isfinite(sum))
        return out;
    out.mean = sum / (double)count;
    out.least = out.most = values[0];
    for (size_t i = 0; i < count; i++) {
        squares += (values[i] - out.mean) * (values[i] - out.mean);
        out.least = fmin(out.least, values[i]);
        out.most = fmax(out.most, values[i]);
    }
    if (count > 1)
        out.standard_deviation = sqrt(squares / (double)(count - 1));
    return out;
}

/** What each prompt does to the mean over the repeats, centred. Zero is none. */
typedef struct influences {
    double *values; /**< [count] */
    size_t count;
    double error; /**< standard error of the mean; 0 if no prompt differs from the others */
} influences;

/** Neighbours are averaged out: later sequences have more earlier ones to match, and that trend is no chance. */
static void take_out_trend(double *values, size_t count) {
    double inner = sqrt(2.0 / 3.0), edge = sqrt(0.5);
    double before = values[0], sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double own = values[i];
        values[i] = i == 0           ? (own - values[1]) * edge
                    : i == count - 1 ? (own - before) * edge
                                     : (own - 0.5 * (before + values[i + 1])) * inner;
        before = own;
        sum += values[i];
    }
    for (size_t i = 0; i < count; i++)
        values[i] -= sum / (double)count;
}

/** Mean over the repeats without a prompt. */
static double left_out(const share_counts *counts, size_t prompt) {
    double sum = 0.0;
    for (size_t r = 0; r < counts->repeats; r++) {
        size_t own = r * counts->prompts + prompt;
        double part = total(counts->part, counts, r) - counts->part[own] - counts->hanging[own];
        sum += ratio(part, total(counts->whole, counts, r) - counts->whole[own]);
    }
    return sum / (double)counts->repeats;
}

/** @return 0, or -1 when out of memory; none (count 0) where a figure does not exist without some prompt */
static int find_influences(const share_counts *counts, double mean, influences *out) {
    size_t n = counts->prompts;
    *out = (influences){NULL, 0, 0.0};
    if (n < STATISTICS_FEWEST_PROMPTS || !isfinite(mean))
        return 0;
    out->values = calloc(n, sizeof *out->values);
    if (out->values == NULL)
        return -1;
    for (size_t p = 0; p < n; p++) {
        out->values[p] = left_out(counts, p);
        if (!isfinite(out->values[p]))
            return 0;
    }
    take_out_trend(out->values, n);
    double squares = 0.0;
    for (size_t p = 0; p < n; p++) {
        out->values[p] *= -((double)n - 1.0); /* leaving out what raises the figure lowers it */
        squares += out->values[p] * out->values[p];
    }
    out->count = n;
    out->error = sqrt(squares / ((double)n - 1.0) / (double)n);
    if (!(out->error > 1e-12 * (1.0 + fabs(mean))))
        out->error = 0.0;
    return 0;
}

/** SplitMix64 (S. Vigna, public domain). */
static uint64_t draw(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/** Mean and squared standard error of as many influences drawn with replacement. */
static void resample(const influences *from, uint64_t *state, double *mean, double *variance) {
    double sum = 0.0, squares = 0.0, n = (double)from->count;
    for (size_t i = 0; i < from->count; i++) {
        double value = from->values[(size_t)((double)(draw(state) >> 11) * 0x1p-53 * n)];
        sum += value;
        squares += value * value;
    }
    *mean = sum / n;
    *variance = fmax(0.0, (squares - sum * sum / n) / (n - 1.0)) / n;
}

static int compare_numbers(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sorted_quantile(double *values, size_t count, double q) {
    if (count == 0)
        return (double)NAN;
    qsort(values, count, sizeof *values, compare_numbers);
    double at = q * (double)(count - 1);
    size_t below = (size_t)at;
    double part = at - (double)below;
    return below + 1 < count ? values[below] + part * (values[below + 1] - values[below]) : values[count - 1];
}

/* Fisher's expansion about the normal deviate. */
double student_975(double degrees) {
    double z = NORMAL_95, z2 = z * z;
    double first = z * (z2 + 1.0) / 4.0, second = z * ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0;
    double third = z * (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0;
    return z + (first + (second + third / degrees) / degrees) / degrees;
}

/** Welch's degrees of freedom; those of the one that varies if the other does not. */
static double degrees_of(const influences *a, const influences *b) {
    double x = a->error * a->error, y = b->error * b->error;
    double below =
        (x > 0.0 ? x * x / ((double)a->count - 1.0) : 0.0) + (y > 0.0 ? y * y / ((double)b->count - 1.0) : 0.0);
    return (x + y) * (x + y) / below;
}

/**
 * How far the interval of the mean of `a` minus that of `b` reaches below and above it. NaN where neither varies.
 * @param b NULL: the mean of `a` alone
 */
static int find_reach(const influences *a, const influences *b, uint64_t seed, double *below, double *above) {
    static const influences none = {NULL, 0, 0.0};
    b = b != NULL ? b : &none;
    double error = hypot(a->error, b->error);
    *below = *above = (double)NAN;
    if (error == 0.0)
        return 0;
    double *ratios = calloc(STATISTICS_RESAMPLES, sizeof *ratios);
    if (ratios == NULL)
        return -1;
    uint64_t state = seed;
    size_t kept = 0;
    for (size_t i = 0; i < STATISTICS_RESAMPLES; i++) {
        double mean_a = 0.0, mean_b = 0.0, variance_a = 0.0, variance_b = 0.0;
        if (a->error > 0.0)
            resample(a, &state, &mean_a, &variance_a);
        if (b->error > 0.0)
            resample(b, &state, &mean_b, &variance_b);
        double drawn_error = sqrt(variance_a + variance_b);
        if (drawn_error > 1e-3 * error)
            ratios[kept++] = (mean_a - mean_b) / drawn_error;
    }
    if (kept > 1) {
        double student = student_975(degrees_of(a, b));
        *below = fmax(sorted_quantile(ratios, kept, 0.975), student) * error;
        *above = -fmin(sorted_quantile(ratios, kept, 0.025), -student) * error;
    }
    free(ratios);
    return 0;
}

/** Standard error that the shufflings leave in the mean of the chance levels. */
static double chance_error(const share_counts *counts) {
    double squares = 0.0;
    for (size_t r = 0; r < counts->repeats; r++)
        squares += counts->chance_error[r] * counts->chance_error[r];
    return sqrt(squares) / (double)counts->repeats;
}

static int mean_of(const share_counts *counts, share_aspect aspect, estimate *out) {
    double *values = calloc(counts->repeats + 1, sizeof *values);
    if (values == NULL)
        return -1;
    for (size_t r = 0; r < counts->repeats; r++)
        values[r] = share_of_repeat(counts, aspect, r);
    *out = estimate_values(values, counts->repeats);
    free(values);
    return 0;
}

/**
 * Set the ends of an interval that reaches so far below and above the mean. What was seen cannot leave [least, most],
 * however skewed the prompts are; the shufflings come on top of that.
 */
static int set_ends(const share_counts *counts, share_aspect aspect, double least, double most, double below,
                    double above, estimate *out) {
    estimate seen;
    if (mean_of(counts, aspect == SHARE_EXCESS ? SHARE_OBSERVED : aspect, &seen) != 0)
        return -1;
    if (!isnan(below)) {
        below = fmin(below, seen.mean - least);
        above = fmin(above, most - seen.mean);
    }
    if (aspect == SHARE_EXCESS) {
        double noise = NORMAL_95 * chance_error(counts);
        below = hypot(below, noise);
        above = hypot(above, noise);
    }
    out->low = out->mean - below;
    out->high = out->mean + above;
    return 0;
}

int estimate_share(const share_counts *counts, share_aspect aspect, double least, double most, uint64_t seed,
                   estimate *out) {
    influences of = {NULL, 0, 0.0};
    double below = (double)NAN, above = (double)NAN;
    if (mean_of(counts, aspect, out) != 0)
        return -1;
    int status = 0;
    if (aspect == SHARE_CHANCE)
        below = above = NORMAL_95 * chance_error(counts);
    else if ((status = find_influences(counts, out->mean, &of)) == 0)
        status = find_reach(&of, NULL, seed, &below, &above);
    out->constant = aspect != SHARE_CHANCE && of.count > 0 && of.error == 0.0;
    if (status == 0)
        status = set_ends(counts, aspect, least, most, below, above, out);
    free(of.values);
    return status;
}

/** Influences of the difference, prompt by prompt. */
static void subtract(influences *a, const influences *b) {
    double squares = 0.0, n = (double)a->count;
    for (size_t p = 0; p < a->count; p++) {
        a->values[p] -= b->values[p];
        squares += a->values[p] * a->values[p];
    }
    double error = sqrt(squares / (n - 1.0) / n);
    a->error = error > 1e-12 ? error : 0.0;
}

int estimate_difference(const share_counts *a, const share_counts *b, share_aspect aspect, bool paired, uint64_t seed,
                        difference *out) {
    estimate mean_a, mean_b;
    influences of_a = {NULL, 0, 0.0}, of_b = {NULL, 0, 0.0};
    double below = (double)NAN, above = (double)NAN;
    *out = (difference){(double)NAN, (double)NAN, (double)NAN, false};
    if (mean_of(a, aspect, &mean_a) != 0 || mean_of(b, aspect, &mean_b) != 0)
        return -1;
    out->difference = mean_a.mean - mean_b.mean;
    int status = find_influences(a, mean_a.mean, &of_a);
    if (status == 0)
        status = find_influences(b, mean_b.mean, &of_b);
    if (status == 0 && of_a.count > 0 && of_b.count > 0) {
        if (paired && of_a.count == of_b.count) {
            subtract(&of_a, &of_b);
            status = find_reach(&of_a, NULL, seed, &below, &above);
        } else {
            status = find_reach(&of_a, &of_b, seed, &below, &above);
        }
    }
    if (aspect != SHARE_OBSERVED) {
        double noise = NORMAL_95 * hypot(chance_error(a), chance_error(b));
        below = hypot(below, noise);
        above = hypot(above, noise);
    }
    out->low = out->difference - below;
    out->high = out->difference + above;
    out->different = out->low > 0.0 || out->high < 0.0;
    free(of_a.values);
    free(of_b.values);
    return status;
}
