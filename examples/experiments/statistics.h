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

/** Confidence of the intervals. */
#define STATISTICS_CONFIDENCE 0.95

/**
 * One figure of one experiment: what counts of what there is, by repeat and prompt. Zero is empty.
 *
 * The figure of a repeat is the sum of `part` over the sum of `whole`. A sequence that is left out takes its `hanging`
 * with it: what counts in other sequences because of this one alone.
 */
typedef struct share_counts {
    size_t repeats, prompts;
    double *whole, *part, *hanging; /**< [repeats, prompts] */
    double *chance;                 /**< [repeats] the same figure of shuffled pages; NaN where there is none */
    double *chance_error;           /**< [repeats] standard error of `chance` */
} share_counts;

/** Make room, all zero and chance NaN. 0, or -1 when out of memory; share_counts_close is due in any case. */
int share_counts_open(share_counts *counts, size_t repeats, size_t prompts);

/** Give the room back. */
void share_counts_close(share_counts *counts);

/** A mean over repeats with what is known of it; NaN for what does not exist. */
typedef struct estimate {
    double mean, standard_deviation, least, most; /**< over the repeats */
    double low, high;                             /**< 95 % interval of the mean */
    bool constant; /**< there are enough prompts, but none differs from the others: no interval can be computed */
} estimate;

/** What a figure is taken of: what was seen, its chance level, or the excess of the one over the other. */
typedef enum share_aspect { SHARE_OBSERVED, SHARE_CHANCE, SHARE_EXCESS } share_aspect;

/** Value in one repeat; NaN if there is none. */
double share_of_repeat(const share_counts *counts, share_aspect aspect, size_t repeat);

/** Mean and spread of `count` values; without interval. */
estimate estimate_values(const double *values, size_t count);

/**
 * Mean over the repeats, with its interval: a studentised bootstrap over the prompts' influences (docs/metrics.md). The
 * interval of SHARE_CHANCE is that of the shufflings.
 * @param least,most ends that what was observed cannot leave: 0 and 1 for a share
 * @return 0, or -1 when out of memory
 */
int estimate_share(const share_counts *counts, share_aspect aspect, double least, double most, uint64_t seed,
                   estimate *out);

/** A difference of two experiments; NaN for what does not exist. */
typedef struct difference {
    double difference, low, high; /**< a - b; 95 % */
    bool different;               /**< the interval does not hold 0 */
} difference;

/**
 * Difference of two experiments' means. Where no prompt of one of them differs from its others, the interval is that of
 * the other one; where that holds for both, there is none, and nothing is called different.
 * @param paired both have the same prompts in the same order: their influences are resampled together
 * @return 0, or -1 when out of memory
 */
int estimate_difference(const share_counts *a, const share_counts *b, share_aspect aspect, bool paired, uint64_t seed,
                        difference *out);

/** Student's t at 0.975, 0.3 % too low at 4 degrees of freedom, less above. */
double student_975(double degrees);

/**
 * Quantile by linear interpolation between order statistics, as NumPy's default; NaN if there are none.
 * @param values [count] sorted by the call
 */
double sorted_quantile(double *values, size_t count, double q);

#endif
