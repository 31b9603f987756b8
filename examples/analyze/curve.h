/**
 * From the rows of the report: what each error budget saves, and what chance gives beside the shares of pages.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_CURVE_H
#define KVSIM_EXAMPLES_ANALYZE_CURVE_H

#include "figures.h"

/** Fill `curve` and `pair_bytes`; `by_block` is set. */
void curve_collect(report_figures *figures);

/** Fill the evidence of the curve, and that of every view in layers and in total. */
void evidence_collect(report_figures *figures);

#endif
