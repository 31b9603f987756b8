/**
 * Prompt families: sequences that began with the same prompt.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_FAMILIES_H
#define KVSIM_EXAMPLES_ANALYZE_FAMILIES_H

#include "common/message.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/** Families in order of sequences. Zero is an empty list. */
typedef struct family_list {
    int64_t *numbers; /**< [count] number of the first sequence of the same family */
    size_t count;
    size_t distinct;
    json_t *first; /**< number of the first sequence by prompt */
} family_list;

/**
 * Add the next sequence. Equal prompts make one family.
 * @param prompt UTF-8; NULL or empty: not known, a family of its own
 * @return 0, or -1 with `error` set
 */
int families_add(family_list *list, const char *prompt, error_text *error);

/** Give back what the list holds. */
void families_release(family_list *list);

#endif
