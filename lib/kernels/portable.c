/* The reference of the kernel table: plain C that any processor runs. */
#include "kernels.h"

#include <stdbool.h>
#include <string.h>

/* 16 bytes at once, in the compilers' own notation; without vector registers they make scalars of it. */
typedef float vector __attribute__((vector_size(16)));
typedef uint8_t bytes __attribute__((vector_size(16)));
typedef uint64_t words __attribute__((vector_size(16)));

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
    uint64_t count = 0;
    size_t k = 0;
    while (n - k >= sizeof(bytes)) {
        /* Sixteen counters of a byte each overflow after 255 steps. */
        const size_t steps = (n - k) / sizeof(bytes);
        const size_t end = k + (steps < 255 ? steps : 255) * sizeof(bytes);
        bytes counters = {0};
        for (; k < end; k += sizeof(bytes)) {
            bytes x, y;
            memcpy(&x, a + k, sizeof x);
            memcpy(&y, b + k, sizeof y);
            counters -= (bytes)(x != y); /* a comparison gives -1 */
        }
        uint8_t lanes[sizeof(bytes)];
        memcpy(lanes, &counters, sizeof lanes);
        for (size_t i = 0; i < sizeof lanes; i++) {
            count += lanes[i];
        }
    }
    for (; k < n; k++) {
        count += a[k] != b[k];
    }
    return count;
}

/* Bits set in each of two words, by halving sums (Warren, Hacker's Delight, 5-1). */
static inline words popcount(words x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    x += x >> 8;
    x += x >> 16;
    x += x >> 32;
    return x & 0x7fu;
}

/* Carry-save adder: a + b + c = sum + 2 * carry, bit by bit. */
static inline words carry_save(words a, words b, words c, words *carry) {
    const words half = a ^ b;
    *carry = (a & b) | (half & c);
    return half ^ c;
}

static inline words combine(const uint64_t *a, const uint64_t *b, bool common) {
    words x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return common ? x & y : x ^ y;
}

/*
 * Bits of a[i] & b[i], or of a[i] ^ b[i]. Eight pairs of words at a time go through carry-save adders, so that only
 * one in eight is counted bit by bit (Harley and Seal; Mula, Kurz, Lemire, arXiv 1611.07612).
 */
static inline uint64_t count_bits(const uint64_t *a, const uint64_t *b, size_t n, bool common) {
    enum { LANES = sizeof(words) / sizeof(uint64_t), STEP = 8 * LANES };
    words ones = {0}, twos = {0}, fours = {0}, total = {0};
    size_t i = 0;
    for (; n - i >= STEP; i += STEP) {
        words pair_a, pair_b, quad_a, quad_b, eight;
        const uint64_t *x = a + i, *y = b + i;
        ones = carry_save(ones, combine(x, y, common), combine(x + 2, y + 2, common), &pair_a);
        ones = carry_save(ones, combine(x + 4, y + 4, common), combine(x + 6, y + 6, common), &pair_b);
        twos = carry_save(twos, pair_a, pair_b, &quad_a);
        ones = carry_save(ones, combine(x + 8, y + 8, common), combine(x + 10, y + 10, common), &pair_a);
        ones = carry_save(ones, combine(x + 12, y + 12, common), combine(x + 14, y + 14, common), &pair_b);
        twos = carry_save(twos, pair_a, pair_b, &quad_b);
        fours = carry_save(fours, quad_a, quad_b, &eight);
        total += popcount(eight);
    }
    total = total * 8 + popcount(fours) * 4 + popcount(twos) * 2 + popcount(ones);
    uint64_t count = total[0] + total[1];
    for (; i < n; i++) {
        const words rest = {common ? a[i] & b[i] : a[i] ^ b[i], 0};
        count += popcount(rest)[0];
    }
    return count;
}

static uint64_t bits_differ(const uint64_t *a, const uint64_t *b, size_t n) {
    return count_bits(a, b, n, false);
}

static uint64_t bits_common(const uint64_t *a, const uint64_t *b, size_t n) {
    return count_bits(a, b, n, true);
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
