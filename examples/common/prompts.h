/**
 * Prompts from a text file: one a line.
 */
#ifndef KVSIM_EXAMPLES_COMMON_PROMPTS_H
#define KVSIM_EXAMPLES_COMMON_PROMPTS_H

#include "message.h"

#include <stddef.h>

/** Prompts in the order of the file. */
typedef struct prompt_list {
    char **texts; /**< NUL-terminated, escapes resolved */
    size_t count;
} prompt_list;

/**
 * Read a file of prompts: UTF-8, one a line, empty lines skipped, `\n`, `\t` and `\\` for a newline, a tab and a
 * backslash; any other backslash stands for itself.
 * @return 0, or -1 with `error` set. The list must be released in any case
 */
int prompts_read(prompt_list *list, const char *path, error_text *error);

/** Give back the prompts. */
void prompts_release(prompt_list *list);

#endif
