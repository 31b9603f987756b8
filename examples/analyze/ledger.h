/**
 * Where every byte belongs, at the budget of the headline, and what lossless coding would make of what stays.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_LEDGER_H
#define KVSIM_EXAMPLES_ANALYZE_LEDGER_H

#include "common/message.h"

#include <jansson.h>

/** Bytes of all layers. The first five bins add up to the bytes seen. */
typedef struct ledger_totals {
    double left_out; /**< partial, non-finite and opaque pages: not compared */
    double exact;    /**< the bytes of an earlier block */
    double ulp;      /**< equal to an earlier block within a few units in the last place */
    double near;     /**< within the budget of an earlier block */
    double unique;
    double seen;     /**< physical */
    double logical;  /**< as if every reference had a page of its own */
    double metadata; /**< to find the shared ones again */
} ledger_totals;

/** What is kept, coded without loss. */
typedef struct lossless_totals {
    double bytes;
    double order0;                       /**< no coder that takes bytes one by one gets below */
    double zstd;                         /**< reached; NaN if the library has no zstd */
    double coding_gain, repetition_gain; /**< what both together save */
} lossless_totals;

/** Sum up the rows of `report` at a budget. Returns 0, or -1 with `error` set if the bins do not add up. */
int ledger_collect(ledger_totals *totals, const json_t *report, double budget, error_text *error);

/** Sum up the rows of `report`. */
lossless_totals lossless_collect(const json_t *report);

#endif
