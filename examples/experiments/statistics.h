/**
 * Means over repeats, their intervals, and differences between experiments. docs/experiments.md says why so.
 *
 * What varies from sequence to sequence is the workload; what varies from repeat to repeat is the sampling of the same
 * prompts. So the unit that is resampled is the prompt, with the sequences that all repeats made of it: five repeats of
 * twelve prompts are twelve observations, not sixty.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_STATISTICS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_STATISTICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Prompts below which there is no interval. */
#define STATISTICS_FEWEST_PROMPTS 5

/** Bootstrap samples behind an interval. */
#define STATISTICS_RESAMPLES 4000

/** One figure of one experiment: a share of counts, by repeat and prompt. Zero is empty. */
typedef struct share_counts {
    size_t repeats, prompts;
    double *whole;        /**< [repeats, prompts] pages (or blocks) of the sequence */
    double *part;         /**< [repeats, prompts] those of them that count */
    double *hanging;      /**< [repeats, prompts] pages of other sequences that count because of this one alone */
    double *chance;       /**< [repeats] the same share of shuffled pages; NaN where there is none */
    double *chance_error; /**< [repeats] standard error of `chance` */
} share_counts;

/** Make room, all zero and chance NaN. 0, or -1 when out of memory. */
int share_counts_open(share_counts *counts, size_t repeats, size_t prompts);

/** Give the room back. */
void share_counts_close(share_counts *counts);

/** A mean over repeats with what is known of it; NaN for what does not exist. */
typedef struct estimate {
    double mean, standard_deviation, least, most; /**< over the repeats */
    double low, high;                             /**< 95 % interval of the mean */
    size_t repeats;
    bool constant; /**< there are enough prompts, but none differs from the others: no interval can be computed */
} estimate;

/** What a share is taken of: what was seen, its chance level, or the excess of the one over the other. */
typedef enum share_aspect { SHARE_OBSERVED, SHARE_CHANCE, SHARE_EXCESS } share_aspect;

/** Value in one repeat; NaN if there is none. */
double share_of_repeat(const share_counts *counts, share_aspect aspect, size_t repeat);

/**
 * Mean over the repeats, with its interval: a studentised bootstrap over the prompts' influences (docs/metrics.md).
 * @return 0, or -1 when out of memory
 */
int estimate_share(const share_counts *counts, share_aspect aspect, uint64_t seed, estimate *out);

/** A difference of two experiments. */
typedef struct difference {
    double difference, low, high; /**< a - b; 95 % */
    bool paired;                  /**< over the same prompts, resampled together */
    bool different;               /**< the interval does not hold 0 */
} difference;

/**
 * Difference of two experiments' means. Where no prompt of one of them differs from its others, the interval is that of
 * the other one; where that holds for both, there is none, and nothing is called different.
 * @param paired both have the same prompts in the same order: their differences are resampled
 * @return 0, or -1 when out of memory
 */
int estimate_difference(const share_counts *a, const share_counts *b, share_aspect aspect, bool paired, uint64_t seed,
                        difference *out);

#endif
