/**
 * A share of pages with what chance alone gives and how sure the difference is, pooled over groups.
 *
 * Groups are pooled by their pages, and so are the ends of their intervals: as if all layers rose and fell together,
 * which they nearly do, since they hold the same sequences. That errs on the wide side.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_EVIDENCE_H
#define KVSIM_EXAMPLES_ANALYZE_EVIDENCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/** Sums over groups, weighted by their pages. Zero is none. */
typedef struct share_evidence {
    double pages;
    double observed, low, high;
    double chance;
    double excess_low, excess_high;
    uint64_t without_chance;   /**< groups that are too small for a chance level */
    uint64_t without_interval; /**< groups of too few sequences for an interval */
    uint64_t with_interval;    /**< groups that have one; the others differ in no sequence */
    uint64_t sequences;        /**< most of any group */
} share_evidence;

/** The same as means; NaN for what does not exist. */
typedef struct share_estimate {
    double observed, low, high;
    double chance;
    double excess, excess_low, excess_high;
} share_estimate;

/** Sequences below which the library gives no interval. */
#define FEWEST_SEQUENCES 5

/** Pages below which the library gives no chance level. */
#define FEWEST_PAGES 8

/** Add a row of the report's `statistics`, a figure of `pages` pages. */
void evidence_add(share_evidence *sum, const json_t *row, double pages);

/** Means of the sums. */
share_estimate evidence_estimate(const share_evidence *sum);

/** Whether more than chance is left: the interval of the excess lies above 0. */
bool evidence_is_certain(const share_estimate *estimate);

#endif
