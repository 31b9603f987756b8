/**
 * A small file as one text.
 */
#ifndef KVSIM_EXAMPLES_COMMON_TEXT_FILE_H
#define KVSIM_EXAMPLES_COMMON_TEXT_FILE_H

#include "message.h"

#include <stddef.h>

/** Largest file that is read. */
#define TEXT_FILE_BYTES (64u << 20)

/**
 * Read a whole file.
 * @param what what it is, for the error texts: "the prompts file"
 * @param size receives its bytes without the NUL that is put behind them
 * @return [owned] the text, for free(); NULL with `error` set on failure
 */
char *text_file_read(const char *path, const char *what, size_t *size, error_text *error);

#endif
