/* The reference of the kernel table: plain C that any processor runs. */
#include "kernels.h"

#include <string.h>

/* Four floats at once, in the compilers' own notation; without vector registers they make scalars of it. */
typedef float vector __attribute__((vector_size(16)));

enum { STRIP = KVSIM__STRIP, ROWS = 4 };

static inline vector load(const float *from) {
    vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Four rows of the 8 x 8 result. Its eight accumulators, two columns and a row fit 16 vector registers. */
static void gram_rows(const float *a, const float *b, size_t n, double sums[ROWS][STRIP]) {
    for (size_t start = 0; start < n; start += KVSIM__FP32_TERMS) {
        const size_t end = n - start > KVSIM__FP32_TERMS ? start + KVSIM__FP32_TERMS : n;
        vector c00 = {0}, c01 = {0}, c10 = {0}, c11 = {0}, c20 = {0}, c21 = {0}, c30 = {0}, c31 = {0};
        for (size_t k = start; k < end; k++) {
            const float *row = a + k * STRIP;
            const vector left = load(b + k * STRIP);
            const vector right = load(b + k * STRIP + 4);
            c00 += row[0] * left;
            c01 += row[0] * right;
            c10 += row[1] * left;
            c11 += row[1] * right;
            c20 += row[2] * left;
            c21 += row[2] * right;
            c30 += row[3] * left;
            c31 += row[3] * right;
        }
        const vector parts[ROWS][2] = {{c00, c01}, {c10, c11}, {c20, c21}, {c30, c31}};
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < STRIP; j++) {
                sums[i][j] += (double)parts[i][j / 4][j % 4];
            }
        }
    }
}

static void gram(const float *a, const float *b, size_t n, double *c, size_t stride) {
    for (int half = 0; half < STRIP; half += ROWS) {
        double sums[ROWS][STRIP] = {{0}};
        gram_rows(a + half, b, n, sums);
        for (int i = 0; i < ROWS; i++) {
            memcpy(c + (size_t)(half + i) * stride, sums[i], sizeof sums[i]);
        }
    }
}

static double squared_difference(const float *a, double scale_a, const float *b, double scale_b, size_t n) {
    double sum = 0.0;
    for (size_t k = 0; k < n; k++) {
        const double difference = (double)a[k * STRIP] * scale_a - (double)b[k * STRIP] * scale_b;
        sum += difference * difference;
    }
    return sum;
}

static uint64_t codes_differ(const int8_t *a, const int8_t *b, size_t n) {
    const uint64_t low_bits = 0x7f7f7f7f7f7f7f7fu;
    const uint64_t ones = 0x0101010101010101u;
    uint64_t count = 0;
    size_t k = 0;
    while (n - k >= 8) {
        /* Eight counters of a byte each overflow after 255 words. */
        uint64_t counters = 0;
        for (int word = 0; word < 255 && n - k >= 8; word++, k += 8) {
            uint64_t x, y;
            memcpy(&x, a + k, sizeof x);
            memcpy(&y, b + k, sizeof y);
            x ^= y;
            counters += ((((x & low_bits) + low_bits) | x) >> 7) & ones;
        }
        /* Sum the bytes in pairs first: their total may exceed a byte. */
        const uint64_t even = counters & 0x00ff00ff00ff00ffu;
        const uint64_t odd = (counters >> 8) & 0x00ff00ff00ff00ffu;
        count += ((even + odd) * 0x0001000100010001u) >> 48;
    }
    for (; k < n; k++) {
        count += a[k] != b[k];
    }
    return count;
}

/* Bits set in a word, by halving sums (Warren, Hacker's Delight, 5-1). */
static inline uint64_t popcount(uint64_t x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (x * 0x0101010101010101u) >> 56;
}

static uint64_t bits_differ(const uint64_t *a, const uint64_t *b, size_t words) {
    uint64_t count = 0;
    for (size_t i = 0; i < words; i++) {
        count += popcount(a[i] ^ b[i]);
    }
    return count;
}

static uint64_t bits_common(const uint64_t *a, const uint64_t *b, size_t words) {
    uint64_t count = 0;
    for (size_t i = 0; i < words; i++) {
        count += popcount(a[i] & b[i]);
    }
    return count;
}

const kvsim__kernels *kvsim__kernel_table(void) {
    static const kvsim__kernels portable = {
        .name = "portable",
        .gram = gram,
        .squared_difference = squared_difference,
        .codes_differ = codes_differ,
        .bits_differ = bits_differ,
        .bits_common = bits_common,
    };
    return &portable;
}
