#include "patterns_words.h"

#include "analyze/figures.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/** A number and its unit stay on one line. */
#define NO_BREAK "\xc2\xa0"

const json_t *member_at(const json_t *object, const char *path) {
    char name[64];
    while (object != NULL) {
        size_t length = strcspn(path, "/");
        snprintf(name, sizeof name, "%.*s", (int)length, path);
        object = json_object_get(object, name);
        if (path[length] == 0)
            break;
        path += length + 1;
    }
    return object;
}

figure figure_at(const json_t *object, const char *path) {
    const json_t *found = member_at(object, path);
    return (figure){member_number(found, "mean"), member_number(found, "low"), member_number(found, "high")};
}

bool is_certain(const figure *of) {
    return of->low > 0.0;
}

bool lies_above(const figure *a, const figure *b) {
    /* Where no prompt differs from the others there is no interval, and the mean stands for it. */
    double low = isnan(a->low) ? a->mean : a->low, high = isnan(b->high) ? b->mean : b->high;
    return low > high;
}

/** Two significant digits: "0", "0.0031", "0.42", "6.2", "15", "100". */
static phrase digits(double value) {
    phrase out;
    double size = fabs(value);
    if (isnan(value))
        snprintf(out.text, sizeof out.text, "-");
    else if (size < 5e-5)
        snprintf(out.text, sizeof out.text, "0");
    else
        snprintf(out.text, sizeof out.text, "%.*f",
                 size < 0.00995  ? 4
                 : size < 0.0995 ? 3
                 : size < 0.995  ? 2
                 : size < 9.95   ? 1
                                 : 0,
                 value);
    return out;
}

phrase percent(double share) {
    phrase out, number = digits(100.0 * share);
    snprintf(out.text, sizeof out.text, "%.40s" NO_BREAK "%%", number.text);
    return out;
}

static phrase with_interval(const char *shown, double low, double high) {
    phrase out, from = digits(low), to = digits(high);
    if (isnan(low) || isnan(high))
        snprintf(out.text, sizeof out.text, "%.60s", shown);
    else
        snprintf(out.text, sizeof out.text, "%.60s (%.40s to %.40s)", shown, from.text, to.text);
    return out;
}

phrase percent_with_interval(const figure *of) {
    phrase share = percent(of->mean);
    return with_interval(share.text, 100.0 * of->low, 100.0 * of->high);
}

phrase points_with_interval(const figure *of) {
    phrase number = digits(100.0 * of->mean), shown;
    snprintf(shown.text, sizeof shown.text, "%.40s" NO_BREAK "points", number.text);
    return with_interval(shown.text, 100.0 * of->low, 100.0 * of->high);
}

phrase number_with_interval(const figure *of) {
    phrase number = digits(of->mean);
    return with_interval(number.text, of->low, of->high);
}

phrase name_in_words(const char *name) {
    phrase out;
    snprintf(out.text, sizeof out.text, "%.80s", name);
    for (char *c = out.text; *c != 0; c++)
        if (*c == '_' || *c == '-')
            *c = ' ';
    return out;
}
