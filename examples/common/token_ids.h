/**
 * Prompts of models whose tokenizer the engine does not know: token ids as text.
 */
#ifndef KVSIM_EXAMPLES_COMMON_TOKEN_IDS_H
#define KVSIM_EXAMPLES_COMMON_TOKEN_IDS_H

#include "message.h"

#include <stddef.h>
#include <stdint.h>

/**
 * Read the token ids of a prompt: whole numbers between blanks.
 * @param number the prompt's number for the error text, from 1
 * @param ids receives the ids; room for one id for each byte of the text
 * @param count receives their number
 * @return 0, or -1 with `error` set
 */
int token_ids_read(const char *text, size_t number, int32_t vocabulary, int32_t *ids, int64_t *count,
                   error_text *error);

#endif
