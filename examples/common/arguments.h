/**
 * Values of options: numbers, words, and lists of them. A mistake ends the program with one line and status 2.
 */
#ifndef KVSIM_EXAMPLES_COMMON_ARGUMENTS_H
#define KVSIM_EXAMPLES_COMMON_ARGUMENTS_H

#include <stddef.h>
#include <stdint.h>

/** Name of the program in its messages. Each program defines it. */
extern const char *const program_name;

/** Print the message, point to --help, and exit with EXIT_USAGE. */
void usage_error(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/** A whole number in [least, most]; `name` is the option's. */
int64_t read_integer(const char *name, const char *text, int64_t least, int64_t most);

/** A number in [least, most]. */
double read_number(const char *name, const char *text, double least, double most);

/** Name and code of one word that an option takes. */
typedef struct word {
    const char *name;
    uint32_t code;
} word;

/** Code of one word; `words` ends with a NULL name. */
uint32_t read_word(const char *name, const char *text, const word *words);

/** Codes of the words of a list, or-ed. */
uint32_t read_words(const char *name, const char *text, const word *words);

/** Call `take` with each part of a list that commas separate. */
void read_list(const char *name, const char *text, void (*take)(void *user, const char *name, const char *part),
               void *user);

/** Numbers of a list, rising and each once, into `levels` [KVSIM_MAX_LEVELS]; returns how many. */
size_t read_levels(const char *name, const char *text, double least, double most, double *levels);

/** Put one more number into such a list, if it is not there yet; returns how many there are then. */
size_t join_level(const char *name, double value, double *levels, size_t count);

#endif
