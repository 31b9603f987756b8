/** A small streaming JSON writer (RFC 8259): no tree, no memory beyond a buffer on the caller's stack. */
#ifndef KVSIM_REPORT_JSON_WRITER_H
#define KVSIM_REPORT_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvsim__json {
    int (*write)(void *user, const void *data, size_t size);
    void *user;
    uint32_t indent; /**< spaces a level; 0 = one line */
    uint32_t depth;
    bool first; /**< nothing has been written yet at this level */
    bool ok;    /**< `write` has returned 0 so far */
    size_t used;
    char buffer[4096];
} kvsim__json;

void kvsim__json_begin(kvsim__json *json, uint32_t indent, int (*write)(void *user, const void *data, size_t size),
                       void *user);

/** End with a newline and flush; false if any write failed. */
bool kvsim__json_end(kvsim__json *json);

/** Open '{' or '[', as a member if `key` is not NULL. */
void kvsim__json_open(kvsim__json *json, const char *key, char bracket);

/** Close '}' or ']'. */
void kvsim__json_close(kvsim__json *json, char bracket);

void kvsim__json_string(kvsim__json *json, const char *key, const char *value);
void kvsim__json_signed(kvsim__json *json, const char *key, int64_t value);
void kvsim__json_unsigned(kvsim__json *json, const char *key, uint64_t value);
void kvsim__json_bool(kvsim__json *json, const char *key, bool value);

/** The shortest of 15, 16 or 17 digits that reads back as the same double; null if it is not finite. */
void kvsim__json_real(kvsim__json *json, const char *key, double value);

/** An array of counts on one line. */
void kvsim__json_counts(kvsim__json *json, const char *key, const uint64_t *values, size_t count);

#endif
