#include "json_place.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** A place in a text that is known to be JSON. */
typedef struct scanner {
    const char *at;
    const char *end;
} scanner;

static void skip_space(scanner *s) {
    while (s->at < s->end && strchr(" \t\r\n", *s->at) != NULL)
        s->at++;
}

/** From a quote to behind the closing one. */
static void skip_string(scanner *s) {
    for (s->at++; s->at < s->end && *s->at != '"'; s->at++)
        s->at += *s->at == '\\' && s->at + 1 < s->end;
    s->at += s->at < s->end;
}

static void skip_value(scanner *s) {
    int depth = 0;
    do {
        if (*s->at == '"') {
            skip_string(s);
        } else if (strchr("[{", *s->at) != NULL) {
            depth++;
            s->at++;
        } else if (strchr("]}", *s->at) != NULL) {
            depth--;
            s->at++;
        } else if (strchr(",: \t\r\n", *s->at) != NULL) {
            s->at++;
        } else {
            while (s->at < s->end && strchr(",:]}[{ \t\r\n\"", *s->at) == NULL)
                s->at++;
        }
    } while (depth > 0 && s->at < s->end);
}

/** Whether the string that begins at `s` is `name`; the parser resolves its escapes. */
static bool is_name(scanner s, const char *name) {
    const char *begin = s.at;
    skip_string(&s);
    json_t *text = json_loadb(begin, (size_t)(s.at - begin), JSON_DECODE_ANY, NULL);
    bool same = json_is_string(text) && strcmp(json_string_value(text), name) == 0;
    json_decref(text);
    return same;
}

/** Go to the member or element `name` of the value at `s`; false, and not moved, if there is none. */
static bool enter(scanner *s, const char *name) {
    scanner look = *s;
    bool object = *look.at == '{';
    char *rest;
    long index = strtol(name, &rest, 10);
    if (!object && (*look.at != '[' || rest == name || *rest != 0))
        return false;
    look.at++;
    for (long i = 0;; i++) {
        skip_space(&look);
        if (look.at >= look.end || strchr("]}", *look.at) != NULL)
            return false;
        bool found = object ? is_name(look, name) : i == index;
        if (object) {
            skip_string(&look);
            skip_space(&look);
            look.at++;
            skip_space(&look);
        }
        if (found) {
            *s = look;
            return true;
        }
        skip_value(&look);
        skip_space(&look);
        look.at += look.at < look.end && *look.at == ',';
    }
}

/** Take the next part off a pointer into `name`, escapes resolved; false at its end. */
static bool next_part(const char **pointer, char *name, size_t size) {
    if (**pointer != '/')
        return false;
    size_t used = 0;
    for ((*pointer)++; **pointer != 0 && **pointer != '/'; (*pointer)++) {
        char c = **pointer;
        if (c == '~' && (*pointer)[1] != 0)
            c = *++*pointer == '1' ? '/' : '~';
        if (used + 1 < size)
            name[used++] = c;
    }
    name[used] = 0;
    return true;
}

size_t json_place_line(const char *text, size_t size, const char *pointer) {
    scanner s = {text, text + size};
    char name[256];
    skip_space(&s);
    while (s.at < s.end && next_part(&pointer, name, sizeof name))
        if (!enter(&s, name))
            break;
    size_t line = 1;
    for (const char *c = text; c < s.at; c++)
        line += *c == '\n';
    return line;
}

void json_pointer_append(char *pointer, size_t size, const char *name) {
    size_t used = strlen(pointer);
    if (used + 1 < size)
        pointer[used++] = '/';
    for (; *name != 0 && used + 2 < size; name++) {
        if (*name == '~' || *name == '/') {
            pointer[used++] = '~';
            pointer[used++] = *name == '~' ? '0' : '1';
        } else {
            pointer[used++] = *name;
        }
    }
    pointer[used] = 0;
}
