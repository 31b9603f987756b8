/**
 * JSON documents in files.
 */
#ifndef KVSIM_EXAMPLES_COMMON_JSON_FILE_H
#define KVSIM_EXAMPLES_COMMON_JSON_FILE_H

#include "message.h"

#include <jansson.h>

/**
 * Write a document as text that people can read (json_text.h), whole or not at all: under another name in the same
 * folder, synced, then renamed. @return 0, or -1 with `error` set
 */
int json_file_write(const char *path, const json_t *document, error_text *error);

/** Read a document. [owned]; NULL with `error` set if there is no such file or no JSON in it. */
json_t *json_file_read(const char *path, error_text *error);

#endif
