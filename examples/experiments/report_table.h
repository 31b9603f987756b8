/**
 * Tables of the report, and the bars in their cells.
 *
 * A row becomes a card on a narrow screen: every cell repeats the head of its column. The roles say what the elements
 * are, because a browser forgets it when a style sheet lays a table out as something else.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_TABLE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_TABLE_H

#include "report_html.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/** One column. */
typedef struct report_column {
    const char *label; /**< plain text */
    const char *class; /**< "n" for numbers, "mark" for bars, "" */
} report_column;

/** Begin a table with its caption and the head; `remark` stands under the caption, NULL = none. */
void table_begin(FILE *out, const char *caption, const char *remark, const report_column *columns, size_t count);
void table_end(FILE *out);

/** Begin a row with the cell that names it. */
void row_begin(FILE *out, const char *name);

/** As row_begin, but the cell stays open: "</th>" ends it. */
void row_open(FILE *out, const char *name);
void row_end(FILE *out);

/** Begin and end a cell. */
void cell_begin(FILE *out, const report_column *column);
void cell_end(FILE *out);

/** A cell that holds a mean with its interval, or a plain number. */
void cell_estimate(FILE *out, const report_column *column, const report_estimate *estimate, number_writer *write,
                   const char *unit);

/** From where to where a column of bars reaches; both hold 0. */
typedef struct bar_range {
    double low, high;
} bar_range;

/** Widen a range so that an estimate fits. */
void range_add(bar_range *range, const report_estimate *estimate);

/** A range whose ends are round numbers. */
bar_range range_round(bar_range range);

/** A bar from 0 to the mean with a whisker for the interval. `role` is "key", "value" or "main". */
void bar_write(FILE *out, const report_estimate *estimate, bar_range range, const char *role);

/** A dot with a whisker and a line at 0: a difference. */
void dot_write(FILE *out, const report_estimate *estimate, bar_range range, const char *role);

/** A bar in two parts that touch: what is used and what is lost. */
void parts_write(FILE *out, double first, double second, double most);

#endif
