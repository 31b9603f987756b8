#include "interval.h"

#include <math.h>

#include "../base/random.h"

/* Shell sort with Ciura's gaps: no recursion, no memory. */
static void sort(double *values, size_t count) {
    static const size_t gaps[] = {66000, 29000, 13000, 5743, 2553, 1135, 505, 225, 100, 44, 19, 8, 3, 1};
    for (size_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++) {
        const size_t gap = gaps[g];
        for (size_t i = gap; i < count; i++) {
            const double moved = values[i];
            size_t to = i;
            for (; to >= gap && values[to - gap] > moved; to -= gap) {
                values[to] = values[to - gap];
            }
            values[to] = moved;
        }
    }
}

/* Linear interpolation between order statistics, as NumPy's default. */
static double quantile(const double *sorted, size_t count, double q) {
    const double at = q * (double)(count - 1);
    const size_t below = (size_t)at;
    const double part = at - (double)below;
    return below + 1 < count ? sorted[below] + part * (sorted[below + 1] - sorted[below]) : sorted[count - 1];
}

/* Replace values by their distance from the mean of their neighbours, scaled to keep the variance, and centre them. */
static void take_out_trend(double *values, size_t count) {
    const double inner = sqrt(2.0 / 3.0), edge = sqrt(0.5);
    double before = values[0], sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double own = values[i];
        values[i] = i == 0           ? (own - values[1]) * edge
                    : i == count - 1 ? (own - before) * edge
                                     : (own - 0.5 * (before + values[i + 1])) * inner;
        before = own;
        sum += values[i];
    }
    for (size_t i = 0; i < count; i++) {
        values[i] -= sum / (double)count;
    }
}

/* Mean and its standard error of `count` values drawn with replacement. */
static void resample(const double *values, size_t count, kvsim__random *random, double *mean, double *error) {
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double value = values[kvsim__random_below(random, count)];
        sum += value;
        squares += value * value;
    }
    const double n = (double)count;
    *mean = sum / n;
    const double variance = (squares - sum * sum / n) / (n - 1.0);
    *error = sqrt(variance > 0.0 ? variance / n : 0.0);
}

/* Student's t at 0.975, by Fisher's expansion about the normal deviate: 0.3 % too low at 4 degrees of freedom, less
   above. */
static double student_975(double degrees) {
    const double z = 1.959963985, z2 = z * z;
    const double first = z * (z2 + 1.0) / 4.0, second = z * ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0;
    const double third = z * (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0;
    return z + (first + (second + third / degrees) / degrees) / degrees;
}

kvsim_status kvsim__find_interval(kvsim__base *base, double figure, double *left_out, size_t count, uint32_t resamples,
                                  uint64_t seed, kvsim__interval *out) {
    *out = (kvsim__interval){NAN, NAN};
    if (count < KVSIM__FEWEST_SEQUENCES || !isfinite(figure)) {
        return KVSIM_OK;
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(left_out[i])) {
            return KVSIM_OK;
        }
    }
    take_out_trend(left_out, count);
    const double n = (double)count;
    double squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        left_out[i] *= n - 1.0;
        squares += left_out[i] * left_out[i];
    }
    const double error = sqrt(squares / (n - 1.0) / n);
    if (!(error > 1e-12 * (1.0 + fabs(figure)))) {
        return KVSIM_OK;
    }
    double *ratios = kvsim__allocate(base, resamples, sizeof *ratios);
    if (ratios == NULL) {
        return kvsim__fail_memory(base, resamples * sizeof *ratios, "bootstrap samples");
    }
    kvsim__random random = {seed};
    size_t kept = 0;
    for (uint32_t i = 0; i < resamples; i++) {
        double mean, mean_error;
        resample(left_out, count, &random, &mean, &mean_error);
        if (mean_error > 1e-3 * error) {
            ratios[kept++] = -mean / mean_error; /* leaving out what raises the figure lowers it */
        }
    }
    if (kept > 1) {
        sort(ratios, kept);
        const double student = student_975(n - 1.0);
        out->low = figure - fmax(quantile(ratios, kept, 0.975), student) * error;
        out->high = figure - fmin(quantile(ratios, kept, 0.025), -student) * error;
    }
    kvsim__release(base, ratios, resamples, sizeof *ratios);
    return KVSIM_OK;
}
