#include "json_text.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/** Spaces an inner level is indented by. */
#define INDENT 2

json_t *json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static void write_value(FILE *out, const json_t *value, int level);

/** The locale's decimal point is never changed by these programs, so printf and strtod use a point. */
static void write_real(FILE *out, double value) {
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    bool looks_real = false;
    for (const char *c = text; *c != 0; c++)
        looks_real = looks_real || *c == '.' || *c == 'e';
    fprintf(out, looks_real ? "%s" : "%s.0", text);
}

static void write_scalar(FILE *out, const json_t *value) {
    if (json_is_real(value)) {
        write_real(out, json_real_value(value));
        return;
    }
    if (json_is_integer(value)) {
        fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return;
    }
    json_dumpf(value, out, JSON_ENCODE_ANY | JSON_COMPACT);
}

static bool is_scalar(const json_t *value) {
    return !json_is_object(value) && !json_is_array(value);
}

static void write_array(FILE *out, const json_t *array, int level) {
    size_t count = json_array_size(array);
    bool one_line = true;
    for (size_t i = 0; i < count; i++)
        one_line = one_line && is_scalar(json_array_get(array, i));
    fputc('[', out);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            fputs(one_line ? ", " : ",", out);
        if (!one_line)
            fprintf(out, "\n%*s", INDENT * (level + 1), "");
        write_value(out, json_array_get(array, i), level + 1);
    }
    if (!one_line)
        fprintf(out, "\n%*s", INDENT * level, "");
    fputc(']', out);
}

static void write_object(FILE *out, const json_t *object, int level) {
    const char *separator = "";
    fputc('{', out);
    /* jansson's iterators take a mutable object but do not change it. */
    json_t *members = (json_t *)(size_t)object;
    for (void *at = json_object_iter(members); at != NULL; at = json_object_iter_next(members, at)) {
        fprintf(out, "%s\n%*s", separator, INDENT * (level + 1), "");
        json_t *key = json_string(json_object_iter_key(at));
        write_scalar(out, key);
        json_decref(key);
        fputs(": ", out);
        write_value(out, json_object_iter_value(at), level + 1);
        separator = ",";
    }
    if (*separator != 0)
        fprintf(out, "\n%*s", INDENT * level, "");
    fputc('}', out);
}

static void write_value(FILE *out, const json_t *value, int level) {
    if (json_is_object(value))
        write_object(out, value, level);
    else if (json_is_array(value))
        write_array(out, value, level);
    else
        write_scalar(out, value);
}

char *json_text(const json_t *document, size_t *size) {
    char *text = NULL;
    FILE *out = open_memstream(&text, size);
    if (out == NULL)
        return NULL;
    write_value(out, document, 0);
    fputc('\n', out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
