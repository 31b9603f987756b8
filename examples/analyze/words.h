/**
 * What the figures mean, in sentences: the same on the terminal and in the report.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_WORDS_H
#define KVSIM_EXAMPLES_ANALYZE_WORDS_H

#include "figures.h"
#include "options.h"
#include "source.h"

#include <jansson.h>
#include <stddef.h>

/** The headline: what a cosine would have claimed, what chance explains, what an error budget saves. [owned] */
json_t *words_headline(const report_figures *figures, const saving_figures *saving);

/** What a reader must know of this run: views that were chosen, groups that were too small. [owned] */
json_t *words_notes(const analyze_options *options, const page_source *source, const report_figures *figures);

/** "0.94": a share in per cent without its sign of per cent, "-" for NaN. */
void percent_text(char *text, size_t size, double share);

/** "-1.2 to 2.0", or why there is no interval. */
void interval_text(char *text, size_t size, const share_evidence *evidence, double low, double high);

#endif
