#include "json_writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void flush(kvsim__json *json) {
    if (json->ok && json->used > 0 && json->write(json->user, json->buffer, json->used) != 0) {
        json->ok = false;
    }
    json->used = 0;
}

static void put(kvsim__json *json, const char *text, size_t size) {
    while (size > 0) {
        if (json->used == sizeof json->buffer) {
            flush(json);
        }
        const size_t room = sizeof json->buffer - json->used;
        const size_t part = size < room ? size : room;
        memcpy(json->buffer + json->used, text, part);
        json->used += part;
        text += part;
        size -= part;
    }
}

static void put_text(kvsim__json *json, const char *text) {
    put(json, text, strlen(text));
}

static void new_line(kvsim__json *json) {
    if (json->indent == 0 || json->depth == 0) {
        return;
    }
    put(json, "\n", 1);
    for (uint32_t i = 0; i < json->indent * json->depth; i++) {
        put(json, " ", 1);
    }
}

static void put_string(kvsim__json *json, const char *text) {
    put(json, "\"", 1);
    for (const char *c = text; *c != '\0'; c++) {
        char escaped[8];
        if (*c == '"' || *c == '\\') {
            const char pair[2] = {'\\', *c};
            put(json, pair, sizeof pair);
        } else if ((unsigned char)*c < 0x20) {
            (void)snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)*c);
            put_text(json, escaped);
        } else {
            put(json, c, 1);
        }
    }
    put(json, "\"", 1);
}

/* What comes before any value: a comma, a new line, the key. */
static void begin_value(kvsim__json *json, const char *key) {
    if (!json->first) {
        put(json, ",", 1);
    }
    json->first = false;
    new_line(json);
    if (key != NULL) {
        put_string(json, key);
        put_text(json, json->indent > 0 ? ": " : ":");
    }
}

void kvsim__json_begin(kvsim__json *json, uint32_t indent, int (*write)(void *user, const void *data, size_t size),
                       void *user) {
    json->write = write;
    json->user = user;
    json->indent = indent;
    json->depth = 0;
    json->first = true;
    json->ok = true;
    json->used = 0;
}

bool kvsim__json_end(kvsim__json *json) {
    put(json, "\n", 1);
    flush(json);
    return json->ok;
}

void kvsim__json_open(kvsim__json *json, const char *key, char bracket) {
    begin_value(json, key);
    put(json, &bracket, 1);
    json->depth++;
    json->first = true;
}

void kvsim__json_close(kvsim__json *json, char bracket) {
    json->depth--;
    if (!json->first) {
        if (json->depth == 0 && json->indent > 0) {
            put(json, "\n", 1);
        } else {
            new_line(json);
        }
    }
    put(json, &bracket, 1);
    json->first = false;
}

void kvsim__json_string(kvsim__json *json, const char *key, const char *value) {
    begin_value(json, key);
    put_string(json, value);
}

void kvsim__json_signed(kvsim__json *json, const char *key, int64_t value) {
    char text[32];
    begin_value(json, key);
    (void)snprintf(text, sizeof text, "%" PRId64, value);
    put_text(json, text);
}

void kvsim__json_unsigned(kvsim__json *json, const char *key, uint64_t value) {
    char text[32];
    begin_value(json, key);
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    put_text(json, text);
}

void kvsim__json_bool(kvsim__json *json, const char *key, bool value) {
    begin_value(json, key);
    put_text(json, value ? "true" : "false");
}

void kvsim__json_real(kvsim__json *json, const char *key, double value) {
    begin_value(json, key);
    if (!isfinite(value)) {
        put_text(json, "null");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    /* The host's locale may write another decimal point; whatever is no part of a number is it. */
    const size_t length = strlen(text);
    const size_t before = strspn(text, "+-0123456789e");
    if (before < length) {
        const size_t point = strcspn(text + before, "+-0123456789e");
        put(json, text, before);
        put(json, ".", 1);
        put_text(json, text + before + point);
        return;
    }
    put_text(json, text);
    if (strpbrk(text, "e") == NULL) {
        put_text(json, ".0"); /* stays a real for readers that tell reals from integers */
    }
}

void kvsim__json_counts(kvsim__json *json, const char *key, const uint64_t *values, size_t count) {
    begin_value(json, key);
    put(json, "[", 1);
    for (size_t i = 0; i < count; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, i > 0 ? ",%" PRIu64 : "%" PRIu64, values[i]);
        put_text(json, text);
    }
    put(json, "]", 1);
}
