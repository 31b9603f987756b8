/**
 * analysis_report.json: the library's report with what the program adds to it (docs/analysis-report-schema.json).
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_DOCUMENT_H
#define KVSIM_EXAMPLES_ANALYZE_DOCUMENT_H

#include "common/message.h"
#include "figures.h"
#include "ledger.h"
#include "options.h"
#include "source.h"

#include <jansson.h>

/** Value of the member `schema`. */
#define DOCUMENT_SCHEMA "kvsim.analysis.v1"

/** Name of the file. */
#define DOCUMENT_NAME "analysis_report.json"

/** What a document is made of. */
typedef struct document_parts {
    const analyze_options *options;
    const page_source *source;
    const report_figures *figures;
    const saving_figures *saving;
    const ledger_totals *ledger;
    const lossless_totals *lossless;
    const kvsim_result *result; /**< for the pages that could be shared */
    double compute_seconds;
} document_parts;

/** Build the document: [owned] by the caller; NULL with `error` set on failure. */
json_t *document_build(const document_parts *parts, error_text *error);

#endif
