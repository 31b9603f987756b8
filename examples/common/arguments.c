#include "arguments.h"

#include "message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvsim/kvsim.h>

void usage_error(const char *format, ...) {
    error_text text;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text.text, sizeof text.text, format, arguments);
    va_end(arguments);
    print_error(program_name, "%s; see %s --help", text.text, program_name);
    exit(EXIT_USAGE);
}

int64_t read_integer(const char *name, const char *text, int64_t least, int64_t most) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != 0 || errno != 0 || value < least || value > most)
        usage_error("--%s takes a whole number from %lld to %lld, not '%s'", name, (long long)least, (long long)most,
                    text);
    return value;
}

double read_number(const char *name, const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != 0 || !(value >= least && value <= most))
        usage_error("--%s takes a number from %g to %g, not '%s'", name, least, most, text);
    return value;
}

uint32_t read_word(const char *name, const char *text, const word *words) {
    char known[128] = "";
    for (const word *entry = words; entry->name != NULL; entry++) {
        if (strcmp(entry->name, text) == 0)
            return entry->code;
        strncat(known, known[0] != 0 ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, entry->name, sizeof known - strlen(known) - 1);
    }
    usage_error("--%s does not know '%s', only %s", name, text, known);
}

void read_list(const char *name, const char *text, void (*take)(void *user, const char *name, const char *part),
               void *user) {
    char *copy = strdup(text);
    if (copy == NULL)
        usage_error("out of memory");
    char *rest = copy;
    for (char *part; (part = strsep(&rest, ",")) != NULL;) {
        if (*part == 0)
            usage_error("--%s has an empty entry in '%s'", name, text);
        take(user, name, part);
    }
    free(copy);
}

/** Bits of the words of a list. */
typedef struct word_list {
    const word *words;
    uint32_t bits;
} word_list;

static void take_word(void *user, const char *name, const char *part) {
    word_list *list = user;
    list->bits |= read_word(name, part, list->words);
}

uint32_t read_words(const char *name, const char *text, const word *words) {
    word_list list = {words, 0};
    read_list(name, text, take_word, &list);
    return list.bits;
}

/** Rising numbers without repetition. */
typedef struct level_list {
    double *levels;
    size_t count;
    double least;
    double most;
} level_list;

size_t join_level(const char *name, double value, double *levels, size_t count) {
    size_t at = 0;
    while (at < count && levels[at] < value)
        at++;
    if (at < count && levels[at] == value)
        return count;
    if (count == KVSIM_MAX_LEVELS)
        usage_error("--%s takes at most %d numbers", name, KVSIM_MAX_LEVELS);
    memmove(&levels[at + 1], &levels[at], (count - at) * sizeof *levels);
    levels[at] = value;
    return count + 1;
}

static void take_level(void *user, const char *name, const char *part) {
    level_list *list = user;
    list->count = join_level(name, read_number(name, part, list->least, list->most), list->levels, list->count);
}

size_t read_levels(const char *name, const char *text, double least, double most, double *levels) {
    level_list list = {levels, 0, least, most};
    read_list(name, text, take_level, &list);
    return list.count;
}
