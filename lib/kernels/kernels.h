/**
 * The arithmetic that pair comparison spends its time in, as a table of functions.
 *
 * The table is filled with the portable reference; faster ones for a processor overwrite entries of it.
 * Every entry is tested against double precision in tests/kernels and timed by the same program.
 */
#ifndef KVSIM_KERNELS_KERNELS_H
#define KVSIM_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/** Pages in a strip: element k of page i of a strip lies at `strip[k * KVSIM__STRIP + i]`. */
#define KVSIM__STRIP 8

/**
 * Terms that are summed in fp32 before the sum goes on in double. The error of a dot product is then at most
 * 24 * 2^-24 * sum |x_k y_k| (one rounding of the product, at most 23 of the additions), so a cosine is wrong by
 * at most 1.44e-6, plus 1.2e-7 where a view had to be rounded to fp32.
 */
#define KVSIM__FP32_TERMS 24

/** Bound of the error of a cosine that is computed from packed pages; see KVSIM__FP32_TERMS. */
#define KVSIM__COSINE_BOUND 1.6e-6

typedef struct kvsim__kernels {
    const char *name; /**< "portable", for logs and benchmarks */

    /**
     * Dot products of 8 pages with 8 pages: c[i * stride + j] = sum_k a[k * 8 + i] * b[k * 8 + j].
     * Elements are at most 1 in magnitude (pages are scaled when packed), so nothing overflows.
     */
    void (*gram)(const float *a, const float *b, size_t n, double *c, size_t stride);

    /** sum_k (a[k * 8] * scale_a - b[k * 8] * scale_b)^2, in double. */
    double (*squared_difference)(const float *a, double scale_a, const float *b, double scale_b, size_t n);

    /** Number of k with a[k] != b[k]. */
    uint64_t (*codes_differ)(const int8_t *a, const int8_t *b, size_t n);

    /** Number of bits that differ. */
    uint64_t (*bits_differ)(const uint64_t *a, const uint64_t *b, size_t words);

    /** Number of bits set in both. */
    uint64_t (*bits_common)(const uint64_t *a, const uint64_t *b, size_t words);
} kvsim__kernels;

/** The kernels this process uses. */
const kvsim__kernels *kvsim__kernel_table(void);

#endif
