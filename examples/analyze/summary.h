/**
 * The result of an analysis in words.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_SUMMARY_H
#define KVSIM_EXAMPLES_ANALYZE_SUMMARY_H

#include "figures.h"
#include "ledger.h"
#include "options.h"
#include "source.h"

#include <stdio.h>

/** Print the summary. 0, or -1 if the stream cannot be written. */
int print_summary(FILE *out, const analyze_options *options, const page_source *source, const report_figures *figures,
                  const saving_figures *saving, const ledger_totals *ledger, const lossless_totals *lossless,
                  bool pictures);

#endif
