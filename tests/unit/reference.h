/**
 * What kvsim_compute should find, by loops that follow docs/metrics.md word by word, in double precision. Shares no
 * code with the library.
 */
#ifndef KVSIM_TESTS_REFERENCE_H
#define KVSIM_TESTS_REFERENCE_H

#include <kvsim/kvsim.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REFERENCE_LEVELS = 8, REFERENCE_HISTOGRAMS = 6 };

/** Pages of one layer. Index 0 of each pair is the key page, 1 the value page. */
typedef struct reference_pages {
    size_t count, tokens, heads, channels;
    double *elements[2];      /**< [count, tokens, heads, channels] dequantised; NULL where there is no such kind */
    unsigned char *stored[2]; /**< the same as stored */
    size_t stored_size;       /**< bytes of a stored element */
    bool codes_are_stored;    /**< i8 pages of one scale */
    bool *takes_part[2];      /**< [count] */
    int64_t *sequences, *positions;
} reference_pages;

/** A group in one view, all heads of it or one. */
typedef struct reference_group {
    size_t pages, pairs;
    double mean_square, cosine_mean, cosine_min, cosine_max, mean_l2, mean_relative_error;
    size_t infinite_relative_errors;
    double mean_hamming, mean_hamming_sign, mean_jaccard, jaccard_union_share;
    size_t exact_duplicates;
    double l2_upper;
    size_t threshold_pairs[REFERENCE_LEVELS], threshold_pages[REFERENCE_LEVELS];
    size_t histograms[REFERENCE_HISTOGRAMS][KVSIM_HISTOGRAM_BINS];
    double *cosines; /**< [count, count] of later and earlier; NAN where there is no pair */
    double *errors;  /**< the same; INFINITY where there is no pair */
} reference_group;

/** Dedup groups at one budget. */
typedef struct reference_dedup {
    size_t representatives, removed, groups_of_two_or_more, largest_group;
    int64_t *shares; /**< [count] the page whose contents this one would share; -1 = none */
} reference_dedup;

/** Bytes equal, of one head or (head -1) all. */
bool reference_equal(const reference_pages *pages, int kind, int head, size_t a, size_t b);

/** Compare. `rope` is used in the de-rotated views; `head` -1 = all. Arrays of the group stay until the test ends. */
void reference_compare(const reference_pages *pages, const kvsim_compute_options *options, const kvsim_rope *rope,
                       uint32_t view, int kind, int head, reference_group *out);

/** Group greedily under a budget: by the errors of one kind, or (two groups) by the larger of both. */
void reference_dedup_groups(const reference_pages *pages, double budget, const reference_group *first,
                            const bool *first_takes_part, const reference_group *second, const bool *second_takes_part,
                            reference_dedup *out);

#endif
