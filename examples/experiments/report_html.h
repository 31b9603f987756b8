/**
 * HTML as text: texts from outside made harmless, numbers with their units and intervals.
 *
 * A figure stands in a `data` element whose value is the number as it was measured, so that a program can read the
 * page, too. Units follow after a space that does not break.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_HTML_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_HTML_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/** A mean with the ends of its 95 % interval; NaN for what there is none of. */
typedef struct report_estimate {
    double mean, low, high;
} report_estimate;

/**
 * Write a text as content of an element or of a quoted attribute. Markup becomes text; bytes that are no UTF-8 become
 * U+FFFD; control characters but newline and tab are shown as pictures of themselves, and those that turn the direction
 * of writing as U+FFFD, so that a text can neither end its element nor pretend to be another.
 * @param most characters after which the text is cut, with an ellipsis in its place; 0 = all
 */
void html_bytes(FILE *out, const char *text, size_t size, size_t most);

/** As html_bytes, for a text that ends with NUL, uncut. NULL writes nothing. */
void html_text(FILE *out, const char *text);

/** As html_bytes, for a JSON string; anything else writes nothing. */
void html_json(FILE *out, const json_t *string, size_t most);

/**
 * As html_json, uncut, for sentences: a number has a real minus and stays on one line with its unit.
 * @param bold make findings bold: numbers with a unit and, behind it, an interval in parentheses
 */
void html_sentence(FILE *out, const json_t *string, bool bold);

/** @name Plain numbers as text, NaN as "–"; the minus is U+2212
 * @{ */
void number_percent(char *text, size_t size, double share); /**< "23.1": a share in per cent, without its sign */
void number_decimals(char *text, size_t size, double value, int decimals);
void number_bytes(char *text, size_t size, double bytes);     /**< "1.23 MB", decimal units */
void number_seconds(char *text, size_t size, double seconds); /**< "12.3 ms" */
void number_count(char *text, size_t size, double count);     /**< "12,345" */
void number_cosine(char *text, size_t size, double cosine);   /**< "0.12" */
void number_rate(char *text, size_t size, double rate);       /**< "1,234" or "12.3" */
/** @} */

/** How a number is written. */
typedef void number_writer(char *text, size_t size, double value);

/** One number in a `data` element, with a unit ("" = none); a dash for NaN. */
void html_number(FILE *out, double value, number_writer *write, const char *unit);

/** A mean, its unit and "(low to high)" in a smaller hand; without an interval the mean alone. */
void html_estimate(FILE *out, const report_estimate *estimate, number_writer *write, const char *unit);

/** Whether there is an interval. */
bool has_interval(const report_estimate *estimate);

/** @name Values of JSON documents by names, a '/' between them; numbers are indices of arrays
 * @{ */
const json_t *json_at(const json_t *value, const char *path);
double number_at(const json_t *value, const char *path);            /**< NaN if it is no number */
const char *text_at(const json_t *value, const char *path);         /**< "" if it is no text */
bool truth_at(const json_t *value, const char *path);               /**< false if it is not `true` */
report_estimate estimate_at(const json_t *value, const char *path); /**< {mean, low, high}, or a plain number */
/** @} */

#endif
