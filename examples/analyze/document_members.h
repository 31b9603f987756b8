/**
 * Members of analysis_report.json: setters, and those that hold what chance, curve and ledger say.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_DOCUMENT_MEMBERS_H
#define KVSIM_EXAMPLES_ANALYZE_DOCUMENT_MEMBERS_H

#include "figures.h"
#include "ledger.h"

#include <jansson.h>
#include <stdint.h>

/** Names of the kinds. */
extern const char *const kind_names[FIGURE_KINDS];

/** @name Set a member; NaN becomes null
 * @{ */
void set_count(json_t *object, const char *name, uint64_t value);
void set_bytes(json_t *object, const char *name, double bytes);
void set_number(json_t *object, const char *name, double value);
void set_share(json_t *object, const char *name, uint64_t part, uint64_t whole);
/** @} */

/** @name Members, [owned] by the caller
 * @{ */
/** By view and kind: the share of pages alike, what chance gives, and what is left. */
json_t *describe_evidence(const report_figures *figures);
/** What each budget saves, with bounds, beside what is often claimed. */
json_t *describe_curve(const report_figures *figures);
/** Where every byte belongs. */
json_t *describe_ledger(const report_figures *figures, const ledger_totals *totals);
/** What coding without loss would save on what stays. */
json_t *describe_lossless(const report_figures *figures, const lossless_totals *totals);
/** @} */

#endif
