/**
 * Confidence intervals for figures over pages of several sequences. Pairs are not independent, sequences nearly are:
 * what varies is what happens when one sequence is left out.
 */
#ifndef KVSIM_FINDINGS_INTERVAL_H
#define KVSIM_FINDINGS_INTERVAL_H

#include "../base/base.h"

/** Sequences below which no interval is given. */
#define KVSIM__FEWEST_SEQUENCES 5

/** A figure with what it is known to lie in. */
typedef struct kvsim__interval {
    double low, high; /**< 95 %; NaN if there is none */
} kvsim__interval;

/**
 * Studentised bootstrap (Efron and Tibshirani 1993, chapter 12) over the influence of each sequence, which is how
 * far the figure moves when the sequence is left out. Neighbouring sequences' influences are averaged out first,
 * because later pages have more earlier ones to match: that trend is no chance. Neither end is nearer than Student's t
 * would put it: the bootstrap sees the skewness, but takes the spread of few sequences for certain.
 *
 * @param left_out [count] the figure without each sequence, in order of arrival; overwritten
 * @return an interval of NaN with fewer than KVSIM__FEWEST_SEQUENCES sequences, or where no sequence changes anything
 */
kvsim_status kvsim__find_interval(kvsim__base *base, double figure, double *left_out, size_t count, uint32_t resamples,
                                  uint64_t seed, kvsim__interval *out);

#endif
