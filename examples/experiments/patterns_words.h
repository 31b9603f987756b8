/**
 * Numbers in sentences.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_PATTERNS_WORDS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_PATTERNS_WORDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/** Bytes of a phrase, terminating NUL included. */
#define PHRASE_SIZE 160

/** A few words. */
typedef struct phrase {
    char text[PHRASE_SIZE];
} phrase;

/** An estimate of a document as numbers; NaN for null. */
typedef struct figure {
    double mean, low, high;
} figure;

/** Member of a chain of objects, "key/alike_excess" for example; NULL if there is none. */
const json_t *member_at(const json_t *object, const char *path);

/** Estimate at a path; all NaN if there is none. */
figure figure_at(const json_t *object, const char *path);

/** Whether an interval lies above 0. */
bool is_certain(const figure *of);

/** Whether the interval of `a` lies above that of `b`. */
bool lies_above(const figure *a, const figure *b);

/** A share in per cent, "12.3 %", "0.42 %", "0 %". */
phrase percent(double share);

/** "12.3 % (8.1 to 16.0)"; without an interval the share alone. */
phrase percent_with_interval(const figure *of);

/** A difference of shares in points: "15.0 points (6.9 to 23.1)". */
phrase points_with_interval(const figure *of);

/** "0.210 (0.180 to 0.240)". */
phrase cosine_with_interval(const figure *of);

/** Name of an experiment as words: '_' and '-' become spaces. */
phrase name_in_words(const char *name);

/** "no layer", "layer 3", "layers 0, 2 to 4", "all 6 layers". */
phrase layers_in_words(const bool *chosen, size_t count);

#endif
