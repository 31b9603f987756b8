/**
 * The parts of report.html and what they are made from.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_PARTS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_PARTS_H

#include "common/message.h"
#include "report_html.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/** Bytes of an experiment's name in words, terminating NUL included. */
#define WORDS_SIZE 160

/** One experiment. */
typedef struct report_row {
    const char *name;       /**< as in the documents */
    char words[WORDS_SIZE]; /**< "General knowledge" */
    const json_t *summary;  /**< of final_report.json */
    const json_t *results;  /**< results.json; NULL if there is none */
    size_t number;          /**< from 0, in the order of running */
} report_row;

/** What the page is made from. */
typedef struct report_data {
    const json_t *final;
    const json_t *settings;
    report_row *rows;          /**< complete ones first, from the most to the least redundant, then the others */
    const report_row **as_run; /**< complete ones in the order of running */
    size_t complete;           /**< rows that are complete */
    size_t count;              /**< all rows */
    const char *folder;        /**< where the pictures lie */
    bool pictures;             /**< they were drawn */
    error_text why_not;        /**< why not */
} report_data;

/** Row of an experiment by its name; NULL if there is none. */
const report_row *row_of(const report_data *data, const char *name);

/** The two experiments that are set beside each other layer by layer: false if there are none. */
bool rows_to_compare(const report_data *data, const report_row **first, const report_row **second);

/** Number of layers in the results of complete experiments, 0 if there are none. */
size_t layers_of(const report_row *row);

/** A layer of an experiment's results. */
const json_t *layer_of(const report_row *row, size_t layer);

/** Names of the kinds in the documents, and in words; [2]. */
extern const char *const report_kinds[2];
extern const char *const report_kind_words[2];

/** Largest share of a heat map's scale: the largest value, rounded up. */
double heat_scale(const report_data *data);

/** Step of the heat scale of a share. */
int heat_step(double share, double scale);

/** @name Pictures
 * @{ */
/** Draw all pictures into `data->folder`; sets `pictures` and `why_not`. */
void pictures_draw(report_data *data);
/** Put a picture in the page: name and number as pictures_draw uses them. Nothing if there are no pictures. */
void picture_write(const report_data *data, FILE *out, const char *name, size_t number, const char *label);
/** A sentence in place of pictures where there are none. */
void picture_excuse(const report_data *data, FILE *out);
/** @} */

/** @name Sections in the order of the page
 * @{ */
void section_answer(const report_data *data, FILE *out);
void section_experiments(const report_data *data, FILE *out);
void section_differences(const report_data *data, FILE *out);
void section_layers(const report_data *data, FILE *out);
void section_places(const report_data *data, FILE *out);
void section_distance(const report_data *data, FILE *out);
void section_cost(const report_data *data, FILE *out);
void section_failed(const report_data *data, FILE *out);
void section_texts(const report_data *data, FILE *out);
void section_method(const report_data *data, FILE *out);
void section_limits(const report_data *data, FILE *out);
/** @} */

/** @name Sentences of `patterns` about some topics, as a list; nothing if there are none
 * @{ */
/** Those between experiments, and those of the most redundant one. */
void write_patterns(const report_data *data, FILE *out, const char *const *topics);
/** Those of the other experiments, folded away. */
void fold_patterns(const report_data *data, FILE *out, const char *const *topics);
/** @} */

/** @name Folded tables of numbers with a column for each experiment
 * @{ */
/** Begin one: what it holds, heads of its first columns (ended by NULL), and what follows an experiment's name. */
void numbers_begin(const report_data *data, FILE *out, const char *summary, const char *const *heads, const char *unit);
void numbers_cell(FILE *out, const report_estimate *estimate, const char *unit);
void numbers_end(FILE *out);
/** What could be shared at other errors than that of the headline. */
void fold_budgets(const report_data *data, FILE *out);
/** Where every byte belongs, and what coding without loss would save. */
void fold_ledger(const report_data *data, FILE *out);
/** @} */

#endif
