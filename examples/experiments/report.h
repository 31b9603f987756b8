/**
 * report.html: what the experiments found, on one page that needs nothing but itself.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_H

#include "common/message.h"

#include <jansson.h>
#include <stddef.h>

/** Name of the file. */
#define REPORT_NAME "report.html"

/**
 * Write `<output_folder>/report.html`, whole or not at all. It is drawn from the documents alone. Its pictures are
 * drawn by gnuplot; where that is missing or fails, the page says so and has its tables.
 * @param final_report docs/experiments-report-schema.json
 * @param results [count] docs/experiments-result-schema.json, of complete experiments in any order, matched by name;
 * what needs those of an experiment that has none is left out
 * @return 0, or -1 with `error` set
 */
int report_write(const char *output_folder, const json_t *final_report, json_t *const *results, size_t count,
                 error_text *error);

#endif
