/**
 * Where a value stands in the text of a JSON document.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_JSON_PLACE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_JSON_PLACE_H

#include <jansson.h>
#include <stddef.h>

/**
 * Line, from 1, on which the value of a JSON pointer (RFC 6901) begins. If there is no such value: the line of the
 * innermost value on the way that is there.
 * @param text [size] a text that the JSON parser has accepted
 */
size_t json_place_line(const char *text, size_t size, const char *pointer);

/** Append "/" and a member's name, escaped, to a JSON pointer; cut if it does not fit. */
void json_pointer_append(char *pointer, size_t size, const char *name);

#endif
