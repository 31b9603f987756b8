#include "report_svg.h"

#include "report_html.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/** Deepest nesting of groups that is taken. */
#define MOST_DEPTH 32

/** Most attributes of one element; gnuplot writes nine. */
#define MOST_ATTRIBUTES 24

/** Roles of heat steps, and of letters on them, begin here. */
#define FIRST_HEAT   0x20
#define FIRST_LETTER 0x40

static const char *const role_names[] = {NULL,         "ink",  "muted", "rule",  "key",       "key-soft",  "value",
                                         "value-soft", "page", "main",  "other", "main-soft", "other-soft"};

#define ROLE_COUNT (sizeof role_names / sizeof *role_names)

void heat_color(char color[8], int step) {
    snprintf(color, 8, "#%02X0101", (unsigned)(FIRST_HEAT + step) & 0xff);
}

void heat_letters(char color[8], int step) {
    snprintf(color, 8, "#%02X0101", (unsigned)(FIRST_LETTER + step) & 0xff);
}

const char *role_class(int role, char room[16]) {
    if (role > 0 && role < (int)ROLE_COUNT)
        return role_names[role];
    if (role >= FIRST_HEAT && role < FIRST_HEAT + HEAT_STEPS)
        snprintf(room, 16, "heat%d", role - FIRST_HEAT);
    else if (role >= FIRST_LETTER && role < FIRST_LETTER + HEAT_STEPS)
        snprintf(room, 16, "on-heat%d", role - FIRST_LETTER);
    else
        return NULL;
    return room;
}

void svg_begin(FILE *script, const char *name, int width, int height) {
    fprintf(script,
            "reset\nset terminal svg size %d,%d dynamic noenhanced font 'sans-serif,14'\nset output '%s'\n"
            "set encoding utf8\nunset key\nset border 3 linecolor rgb '" ROLE_MUTED "' linewidth 1\n"
            "set tics nomirror out scale 0.5 textcolor rgb '" ROLE_INK "'\n"
            "set grid ytics linecolor rgb '" ROLE_RULE "' linewidth 1 linetype 1\n"
            "set style fill solid 1.0 noborder\nset format x '%%g'\nset format y '%%g'\n",
            width, height, name);
}

/** A stretch of the document. */
typedef struct span {
    const char *at;
    size_t size;
} span;

typedef struct attribute {
    span name, value;
} attribute;

/** One tag. */
typedef struct tag {
    span name;
    bool closes; /**< </name> */
    bool closed; /**< <name/> */
    size_t count;
    attribute attributes[MOST_ATTRIBUTES];
} tag;

static bool is(span text, const char *word) {
    return strlen(word) == text.size && memcmp(text.at, word, text.size) == 0;
}

static bool is_one_of(span text, const char *const *words) {
    for (; *words != NULL; words++)
        if (is(text, *words))
            return true;
    return false;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && isspace((unsigned char)*at))
        at++;
    return at;
}

static bool is_name_character(char c) {
    return isalnum((unsigned char)c) || c == ':' || c == '-' || c == '_';
}

/** Read the tag after its '<'. Where it ends, or NULL if it does not or is not well-formed. */
static const char *read_tag(const char *at, const char *end, tag *one) {
    memset(one, 0, sizeof *one);
    one->closes = at < end && *at == '/';
    at += one->closes;
    one->name.at = at;
    while (at < end && is_name_character(*at))
        at++;
    one->name.size = (size_t)(at - one->name.at);
    for (;;) {
        at = skip_space(at, end);
        if (at == end || one->name.size == 0)
            return NULL;
        if (*at == '>')
            return at + 1;
        if (*at == '/' && at + 1 < end && at[1] == '>') {
            one->closed = true;
            return at + 2;
        }
        if (one->count == MOST_ATTRIBUTES)
            return NULL;
        attribute *next = &one->attributes[one->count++];
        next->name.at = at;
        while (at < end && is_name_character(*at))
            at++;
        next->name.size = (size_t)(at - next->name.at);
        at = skip_space(at, end);
        if (next->name.size == 0 || at == end || *at != '=')
            return NULL;
        at = skip_space(at + 1, end);
        if (at == end || (*at != '"' && *at != '\''))
            return NULL;
        const char *close = memchr(at + 1, *at, (size_t)(end - at - 1));
        if (close == NULL)
            return NULL;
        next->value = (span){at + 1, (size_t)(close - at - 1)};
        at = close + 1;
    }
}

/** Number of a role from "rgb(r, g, b)" or "#rrggbb", 0 for any other colour. */
static int role_of(span color) {
    unsigned red = 0, green = 0, blue = 0;
    char text[32];
    if (color.size >= sizeof text)
        return 0;
    memcpy(text, color.at, color.size);
    text[color.size] = 0;
    if (sscanf(text, "rgb(%u ,%u ,%u )", &red, &green, &blue) != 3 &&
        sscanf(text, "#%2x%2x%2x", &red, &green, &blue) != 3)
        return 0;
    return green == 1 && blue == 1 ? (int)red : 0;
}

/** Whether a value holds nothing but numbers, words and what stands between them in paths and transformations. */
static bool is_plain(span value) {
    for (size_t i = 0; i < value.size; i++)
        if (!isalnum((unsigned char)value.at[i]) && strchr(" \t\n,.+-()", value.at[i]) == NULL)
            return false;
    return value.size > 0;
}

static const span *attribute_of(const tag *one, const char *name) {
    for (size_t i = 0; i < one->count; i++)
        if (is(one->attributes[i].name, name))
            return &one->attributes[i].value;
    return NULL;
}

/** Write a path with its numbers as they are and one space where there were several. */
static void write_value(FILE *out, span value) {
    bool space = false, begun = false;
    for (size_t i = 0; i < value.size; i++) {
        if (isspace((unsigned char)value.at[i])) {
            space = begun;
            continue;
        }
        if (space)
            fputc(' ', out);
        space = false;
        begun = true;
        fputc(value.at[i], out);
    }
}

/** Whether an attribute says what holds anyway: gnuplot puts these on every group. */
static bool is_default(const attribute *one) {
    return (is(one->name, "stroke-linecap") && is(one->value, "butt")) ||
           (is(one->name, "stroke-linejoin") && is(one->value, "miter")) ||
           (is(one->name, "stroke-width") && is(one->value, "1.00")) ||
           (is(one->name, "color") && role_of(one->value) == 0 && !is(one->value, "currentColor"));
}

/** Write those attributes that draw; colours become classes, and colours without a role that of the letters. */
static void write_attributes(FILE *out, const tag *one) {
    static const char *const taken[] = {"d",
                                        "x",
                                        "y",
                                        "x1",
                                        "y1",
                                        "x2",
                                        "y2",
                                        "cx",
                                        "cy",
                                        "r",
                                        "width",
                                        "height",
                                        "points",
                                        "transform",
                                        "stroke-width",
                                        "stroke-linecap",
                                        "stroke-linejoin",
                                        "stroke-dasharray",
                                        "text-anchor",
                                        "font-size",
                                        "font-weight",
                                        NULL};
    static const char *const colors[] = {"fill", "stroke", "color", NULL};
    static const char *const kept[] = {"none", "currentColor", NULL};
    char classes[96] = "";
    size_t used = 0;
    for (size_t i = 0; i < one->count; i++) {
        const attribute *next = &one->attributes[i];
        char room[16];
        if (is_default(next))
            continue;
        if (is_one_of(next->name, colors)) {
            const char *name = role_class(role_of(next->value), room);
            if (is_one_of(next->value, kept)) {
                fprintf(out, " %.*s=\"%.*s\"", (int)next->name.size, next->name.at, (int)next->value.size,
                        next->value.at);
                continue;
            }
            used += (size_t)snprintf(classes + used, sizeof classes - used, "%s%c-%s", used > 0 ? " " : "",
                                     next->name.at[0], name != NULL ? name : "ink");
        } else if (is_one_of(next->name, taken) && is_plain(next->value)) {
            fprintf(out, " %.*s=\"", (int)next->name.size, next->name.at);
            write_value(out, next->value);
            fputc('"', out);
        }
    }
    if (used > 0)
        fprintf(out, " class=\"%s\"", classes);
}

/** A mark, which gnuplot draws by reference to a symbol: written out, since references need names. */
static void write_mark(FILE *out, const tag *one) {
    static const struct {
        const char *name, *shape;
    } marks[] = {
        {"#gpPt3", "rect x=\"-1\" y=\"-1\" width=\"2\" height=\"2\" fill=\"none\" stroke=\"currentColor\" "
                   "stroke-width=\"0.35\""},
        {"#gpPt4", "rect x=\"-1\" y=\"-1\" width=\"2\" height=\"2\" fill=\"currentColor\" stroke=\"none\""},
        {"#gpPt5", "circle r=\"1\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"0.35\""},
        {"#gpPt6", "circle r=\"1\" fill=\"currentColor\" stroke=\"none\""},
        {"#gpPt12", "path d=\"M0,-1.4 L1.4,0 L0,1.4 L-1.4,0 z\" fill=\"currentColor\" stroke=\"none\""},
    };
    const span *name = attribute_of(one, "xlink:href");
    for (size_t i = 0; name != NULL && i < sizeof marks / sizeof *marks; i++) {
        if (!is(*name, marks[i].name))
            continue;
        fprintf(out, "<%s", marks[i].shape);
        write_attributes(out, one);
        fputs("/>", out);
    }
}

/** State of the way through a document. Groups are written only once something is drawn inside. */
typedef struct walk {
    FILE *out;
    size_t depth;
    size_t written;
    tag groups[MOST_DEPTH];
    bool in_text;
} walk;

static void write_groups(walk *w) {
    for (; w->written < w->depth; w->written++) {
        fputs("<g", w->out);
        write_attributes(w->out, &w->groups[w->written]);
        fputc('>', w->out);
    }
}

static int take_group(walk *w, const tag *one) {
    if (one->closes) {
        if (w->depth == 0)
            return -1;
        if (w->written == w->depth) {
            fputs("</g>\n", w->out);
            w->written--;
        }
        w->depth--;
        return 0;
    }
    if (one->closed)
        return 0;
    if (w->depth == MOST_DEPTH)
        return -1;
    w->groups[w->depth++] = *one;
    return 0;
}

static int take_element(walk *w, const tag *one) {
    static const char *const shapes[] = {"path", "rect", "circle", "polygon", "polyline", "line", NULL};
    if (is(one->name, "g"))
        return take_group(w, one);
    if (is(one->name, "use")) {
        write_groups(w);
        write_mark(w->out, one);
    } else if (is_one_of(one->name, shapes) && one->closed) {
        write_groups(w);
        fprintf(w->out, "<%.*s", (int)one->name.size, one->name.at);
        write_attributes(w->out, one);
        fputs("/>", w->out);
    } else if (is(one->name, "text") && !one->closed) {
        if (w->in_text != one->closes)
            return -1;
        write_groups(w);
        w->in_text = !one->closes;
        fputs(one->closes ? "</text>" : "<text", w->out);
        if (!one->closes) {
            write_attributes(w->out, one);
            fputc('>', w->out);
        }
    }
    return 0;
}

/** Letters: what gnuplot has escaped stays so, and no other '&' does. */
static void write_letters(FILE *out, span text) {
    static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"};
    for (size_t i = 0; i < text.size;) {
        size_t length = 0;
        for (size_t k = 0; text.at[i] == '&' && k < sizeof entities / sizeof *entities; k++)
            if (text.size - i >= strlen(entities[k]) && strncmp(text.at + i, entities[k], strlen(entities[k])) == 0)
                length = strlen(entities[k]);
        if (length > 0) {
            fwrite(text.at + i, 1, length, out);
            i += length;
            continue;
        }
        size_t end = i + 1;
        while (end < text.size && text.at[end] != '&')
            end++;
        html_bytes(out, text.at + i, end - i, 0);
        i = end;
    }
}

/** Behind the end tag of an element that is left out with all that is in it; NULL if there is none. */
static const char *skip_element(const char *at, const char *end, span name) {
    while ((at = memmem(at, (size_t)(end - at), "</", 2)) != NULL) {
        at += 2;
        if ((size_t)(end - at) > name.size && memcmp(at, name.at, name.size) == 0 && at[name.size] == '>')
            return at + name.size + 1;
    }
    return NULL;
}

/** Behind a comment, a declaration or a processing instruction; NULL if `at` does not open one or it has no end. */
static const char *skip_declaration(const char *at, const char *end) {
    const char *close = strncmp(at, "<!--", 4) == 0 ? "-->" : strncmp(at, "<?", 2) == 0 ? "?>" : ">";
    const char *found = memmem(at, (size_t)(end - at), close, strlen(close));
    return found == NULL ? NULL : found + strlen(close);
}

/** Write what is inside the outermost element. 0 when its end was met. */
static int walk_document(walk *w, const char *at, const char *end) {
    static const char *const left_out[] = {"title", "desc", "defs", "style", "script", "a", "foreignObject", NULL};
    for (;;) {
        const char *next = memchr(at, '<', (size_t)(end - at));
        if (next == NULL)
            return -1;
        if (w->in_text)
            write_letters(w->out, (span){at, (size_t)(next - at)});
        tag one;
        if (next + 1 < end && (next[1] == '!' || next[1] == '?')) {
            at = skip_declaration(next, end);
        } else {
            at = read_tag(next + 1, end, &one);
            if (at == NULL)
                return -1;
            if (is(one.name, "svg") && one.closes)
                return w->depth == 0 && !w->in_text ? 0 : -1;
            if (is_one_of(one.name, left_out) && !one.closes && !one.closed)
                at = skip_element(at, end, one.name);
            else if (take_element(w, &one) != 0)
                return -1;
        }
        if (at == NULL)
            return -1;
    }
}

int svg_inline(FILE *out, const char *document, size_t size, const char *label) {
    const char *end = document + size;
    const char *at = memmem(document, size, "<svg", 4);
    walk *w = calloc(1, sizeof *w);
    tag *root = calloc(1, sizeof *root);
    int result = -1;
    if (w != NULL && root != NULL && at != NULL && (at = read_tag(at + 1, end, root)) != NULL) {
        const span *box = attribute_of(root, "viewBox");
        if (box != NULL && is_plain(*box)) {
            fprintf(out, "<svg viewBox=\"%.*s\" role=\"img\" aria-label=\"", (int)box->size, box->at);
            html_text(out, label);
            fputs("\">\n", out);
            w->out = out;
            result = walk_document(w, at, end);
            fputs("</svg>\n", out);
        }
    }
    free(root);
    free(w);
    return result;
}
