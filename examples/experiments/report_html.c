#include "report_html.h"

#include "common/utf8.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Room for one number as text. */
#define NUMBER_SIZE 64

/** Longest name in a path of json_at. */
#define NAME_SIZE 128

/** U+2212, the minus that is as wide as a plus. */
#define MINUS "\xe2\x88\x92"

/** U+00A0, the space that does not break. */
#define NO_BREAK "\xc2\xa0"

/** Code point of a character that utf8_character_size has accepted. */
static uint32_t code_point(const unsigned char *at, size_t size) {
    static const unsigned char first[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t code = at[0] & first[size];
    for (size_t i = 1; i < size; i++)
        code = code << 6 | (at[i] & 0x3f);
    return code;
}

/** Whether a character turns the direction of what follows, ends a line where none may end, or is none at all. */
static bool is_disguise(uint32_t code) {
    return (code >= 0x80 && code < 0xa0) || (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) ||
           code == 0x2028 || code == 0x2029 || code == 0xfeff || (code & 0xfffe) == 0xfffe ||
           (code >= 0xfdd0 && code <= 0xfdef) || (code >= 0xe0000 && code <= 0xe007f);
}

static void write_character(FILE *out, const char *at, size_t size) {
    uint32_t code = size == 0 ? 0xfffd : code_point((const unsigned char *)at, size);
    if (code == '<')
        fputs("&lt;", out);
    else if (code == '>')
        fputs("&gt;", out);
    else if (code == '&')
        fputs("&amp;", out);
    else if (code == '"')
        fputs("&quot;", out);
    else if (code == '\'')
        fputs("&#39;", out);
    else if (code == 0x7f)
        fputs("\xe2\x90\xa1", out); /* U+2421, the picture of DELETE */
    else if (code < 0x20 && code != '\n' && code != '\t')
        fprintf(out, "\xe2\x90%c", (int)(0x80 + code)); /* U+2400 and up, the pictures of the control characters */
    else if (size == 0 || is_disguise(code))
        fputs("\xef\xbf\xbd", out);
    else
        fwrite(at, 1, size, out);
}

void html_bytes(FILE *out, const char *text, size_t size, size_t most) {
    size_t written = 0;
    for (size_t at = 0; at < size; written++) {
        if (most > 0 && written == most) {
            fputs("\xe2\x80\xa6", out);
            return;
        }
        size_t length = text[at] == 0 ? 1 : utf8_character_size(text + at, size - at);
        write_character(out, text + at, length);
        at += length > 0 ? length : 1;
    }
}

void html_text(FILE *out, const char *text) {
    if (text != NULL)
        html_bytes(out, text, strlen(text), 0);
}

void html_json(FILE *out, const json_t *string, size_t most) {
    if (json_is_string(string))
        html_bytes(out, json_string_value(string), json_string_length(string), most);
}

/** Characters of a number at `at`, 0 if there is none. */
static size_t number_size(const char *at, size_t left) {
    size_t size = 0;
    while (size < left &&
           (isdigit((unsigned char)at[size]) ||
            (size > 0 && size + 1 < left && strchr(".,", at[size]) != NULL && isdigit((unsigned char)at[size + 1]))))
        size++;
    return size;
}

/** Bytes of the space, of either kind, and of the unit behind a number, 0 if there is none; `unit` receives the unit.
 */
static size_t unit_size(const char *at, size_t left, const char **unit) {
    static const char *const units[] = {"%", "points"}, *const spaces[] = {" ", NO_BREAK};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (size_t k = 0; k < sizeof spaces / sizeof *spaces; k++) {
            size_t space = strlen(spaces[k]), size = space + strlen(units[i]);
            if (left < size || memcmp(at, spaces[k], space) != 0 || memcmp(at + space, units[i], size - space) != 0)
                continue;
            *unit = units[i];
            return size;
        }
    return 0;
}

void html_sentence(FILE *out, const json_t *string, bool bold) {
    const char *text = json_is_string(string) ? json_string_value(string) : "";
    size_t size = json_is_string(string) ? json_string_length(string) : 0, written = 0;
    for (size_t at = 0; at < size; at++) {
        bool begins = at == 0 || strchr(" (", text[at - 1]) != NULL;
        bool minus = begins && text[at] == '-';
        size_t digits = begins ? number_size(text + at + minus, size - at - minus) : 0;
        const char *name = "";
        size_t unit = digits > 0 ? unit_size(text + at + minus + digits, size - at - minus - digits, &name) : 0;
        if (digits == 0)
            continue;
        size_t behind = at + minus + digits + unit;
        bool finding = bold && unit > 0 && size - behind > 2 && memcmp(text + behind, " (", 2) == 0;
        html_bytes(out, text + written, at - written, 0);
        fprintf(out, "%s%s", finding ? "<b>" : "", minus ? MINUS : "");
        html_bytes(out, text + at + minus, digits, 0);
        at += minus + digits;
        if (unit > 0) {
            fprintf(out, NO_BREAK "%s%s", name, finding ? "</b>" : "");
            at += unit;
        }
        written = at--;
    }
    html_bytes(out, text + written, size - written, 0);
}

/** Print with the sign in front as a real minus; what rounds to zero has none. */
static void print_signed(char *text, size_t size, double value, int decimals) {
    char digits[NUMBER_SIZE];
    snprintf(digits, sizeof digits, "%.*f", decimals, fabs(value));
    bool negative = value < 0.0 && strspn(digits, "0.") < strlen(digits);
    snprintf(text, size, "%s%s", negative ? MINUS : "", digits);
}

void number_decimals(char *text, size_t size, double value, int decimals) {
    if (isfinite(value))
        print_signed(text, size, value, decimals);
    else
        snprintf(text, size, "\xe2\x80\x93");
}

void number_percent(char *text, size_t size, double share) {
    double percent = 100.0 * share;
    if (isfinite(share) && fabs(percent) < 0.005)
        snprintf(text, size, "0");
    else
        number_decimals(text, size, percent, fabs(percent) < 0.995 ? 2 : 1);
}

/** Three digits that count. */
static int decimals_of(double value) {
    return fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
}

void number_bytes(char *text, size_t size, double bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    char digits[NUMBER_SIZE];
    int step = 0;
    if (!isfinite(bytes)) {
        snprintf(text, size, "\xe2\x80\x93");
        return;
    }
    for (; step < 4 && fabs(bytes) >= 1000.0; step++)
        bytes /= 1000.0;
    print_signed(digits, sizeof digits, bytes, step == 0 ? 0 : decimals_of(bytes));
    snprintf(text, size, "%s" NO_BREAK "%s", digits, units[step]);
}

void number_seconds(char *text, size_t size, double seconds) {
    char digits[NUMBER_SIZE];
    const char *unit = "s";
    if (!isfinite(seconds)) {
        snprintf(text, size, "\xe2\x80\x93");
        return;
    }
    if (fabs(seconds) < 1e-3) {
        seconds *= 1e6;
        unit = "\xc2\xb5s";
    } else if (fabs(seconds) < 1.0) {
        seconds *= 1e3;
        unit = "ms";
    } else if (fabs(seconds) >= 600.0) {
        seconds /= 60.0;
        unit = "min";
    }
    print_signed(digits, sizeof digits, seconds, decimals_of(seconds));
    snprintf(text, size, "%s" NO_BREAK "%s", digits, unit);
}

void number_count(char *text, size_t size, double count) {
    char digits[NUMBER_SIZE];
    if (!isfinite(count)) {
        snprintf(text, size, "\xe2\x80\x93");
        return;
    }
    int length = snprintf(digits, sizeof digits, "%.0f", fabs(count));
    size_t used = (size_t)snprintf(text, size, "%s", count <= -0.5 ? MINUS : "");
    for (int i = 0; i < length && used + 2 < size; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[used++] = ',';
        text[used++] = digits[i];
    }
    text[used] = 0;
}

void number_rate(char *text, size_t size, double rate) {
    if (isfinite(rate) && fabs(rate) < 99.95)
        print_signed(text, size, rate, decimals_of(rate));
    else
        number_count(text, size, rate);
}

void number_cosine(char *text, size_t size, double cosine) {
    number_decimals(text, size, cosine, 2);
}

void html_number(FILE *out, double value, number_writer *write, const char *unit) {
    char text[NUMBER_SIZE];
    if (!isfinite(value)) {
        fputs("<span class=\"none\">\xe2\x80\x93</span>", out);
        return;
    }
    write(text, sizeof text, value);
    fprintf(out, "<data value=\"%.17g\">%s%s%s</data>", value, text, *unit != 0 ? NO_BREAK : "", unit);
}

bool has_interval(const report_estimate *estimate) {
    return isfinite(estimate->low) && isfinite(estimate->high);
}

void html_estimate(FILE *out, const report_estimate *estimate, number_writer *write, const char *unit) {
    char low[NUMBER_SIZE], high[NUMBER_SIZE];
    html_number(out, estimate->mean, write, unit);
    if (!isfinite(estimate->mean) || !has_interval(estimate))
        return;
    write(low, sizeof low, estimate->low);
    write(high, sizeof high, estimate->high);
    fprintf(out, " <span class=\"interval\">(%s to %s)</span>", low, high);
}

const json_t *json_at(const json_t *value, const char *path) {
    while (value != NULL && *path != 0) {
        char name[NAME_SIZE];
        size_t length = strcspn(path, "/");
        if (length >= sizeof name)
            return NULL;
        memcpy(name, path, length);
        name[length] = 0;
        path += length + (path[length] == '/');
        value = json_is_array(value) ? json_array_get(value, strtoul(name, NULL, 10)) : json_object_get(value, name);
    }
    return value;
}

double number_at(const json_t *value, const char *path) {
    const json_t *found = json_at(value, path);
    return json_is_number(found) ? json_number_value(found) : (double)NAN;
}

const char *text_at(const json_t *value, const char *path) {
    const json_t *found = json_at(value, path);
    return json_is_string(found) ? json_string_value(found) : "";
}

bool truth_at(const json_t *value, const char *path) {
    return json_is_true(json_at(value, path));
}

report_estimate estimate_at(const json_t *value, const char *path) {
    const json_t *found = json_at(value, path);
    report_estimate estimate = {(double)NAN, (double)NAN, (double)NAN};
    if (json_is_number(found)) {
        estimate.mean = json_number_value(found);
        return estimate;
    }
    estimate.mean = number_at(found, "mean");
    estimate.low = number_at(found, "low");
    estimate.high = number_at(found, "high");
    return estimate;
}
