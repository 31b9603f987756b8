/**
 * JSON documents as text that people can read: objects one member a line, arrays of plain values on one line, doubles
 * with as few digits as read back to the same value.
 */
#ifndef KVSIM_EXAMPLES_COMMON_JSON_TEXT_H
#define KVSIM_EXAMPLES_COMMON_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

/** The document as text ending in a newline, [owned] by the caller for free(); NULL when out of memory. */
char *json_text(const json_t *document, size_t *size);

/** A real, or null for a value that JSON cannot hold. */
json_t *json_number(double value);

#endif
