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

/** As many decimals as a figure of that size needs: two below 1, then one. */
static phrase percent_digits(double percent) {
    phrase out;
    if (isnan(percent))
        snprintf(out.text, sizeof out.text, "-");
    else if (fabs(percent) < 0.005)
        snprintf(out.text, sizeof out.text, "0");
    else
        snprintf(out.text, sizeof out.text, "%.*f", fabs(percent) < 0.995 ? 2 : 1, percent);
    return out;
}

/** A cosine: three decimals. */
static phrase cosine_digits(double cosine) {
    phrase out;
    if (isnan(cosine))
        snprintf(out.text, sizeof out.text, "-");
    else
        snprintf(out.text, sizeof out.text, "%.3f", fabs(cosine) < 0.0005 ? 0.0 : cosine);
    return out;
}

phrase percent(double share) {
    phrase out, number = percent_digits(100.0 * share);
    snprintf(out.text, sizeof out.text, "%.40s" NO_BREAK "%%", number.text);
    return out;
}

static phrase with_interval(const char *shown, const phrase *low, const phrase *high) {
    phrase out;
    if (strcmp(low->text, "-") == 0 || strcmp(high->text, "-") == 0)
        snprintf(out.text, sizeof out.text, "%.60s", shown);
    else
        snprintf(out.text, sizeof out.text, "%.60s (%.40s to %.40s)", shown, low->text, high->text);
    return out;
}

phrase percent_with_interval(const figure *of) {
    phrase share = percent(of->mean), low = percent_digits(100.0 * of->low), high = percent_digits(100.0 * of->high);
    return with_interval(share.text, &low, &high);
}

phrase points_with_interval(const figure *of) {
    phrase number = percent_digits(100.0 * of->mean), shown;
    phrase low = percent_digits(100.0 * of->low), high = percent_digits(100.0 * of->high);
    snprintf(shown.text, sizeof shown.text, "%.40s" NO_BREAK "points", number.text);
    return with_interval(shown.text, &low, &high);
}

phrase cosine_with_interval(const figure *of) {
    phrase number = cosine_digits(of->mean), low = cosine_digits(of->low), high = cosine_digits(of->high);
    return with_interval(number.text, &low, &high);
}

phrase name_in_words(const char *name) {
    phrase out;
    snprintf(out.text, sizeof out.text, "%.80s", name);
    for (char *c = out.text; *c != 0; c++)
        if (*c == '_' || *c == '-')
            *c = ' ';
    return out;
}

phrase layers_in_words(const bool *chosen, size_t count) {
    phrase out = {""};
    size_t used = 0, found = 0;
    for (size_t layer = 0; layer < count; layer++)
        found += chosen[layer];
    if (found == 0 || found == count) {
        snprintf(out.text, sizeof out.text, found == 0 ? "no layer" : "all %zu layers", count);
        return out;
    }
    used = (size_t)snprintf(out.text, sizeof out.text, "layer%s", found > 1 ? "s" : "");
    for (size_t layer = 0; layer < count; layer++) {
        size_t last = layer;
        if (!chosen[layer])
            continue;
        while (last + 1 < count && chosen[last + 1])
            last++;
        const char *between = strchr(out.text, ' ') != NULL ? ", " : " ";
        if (used + 24 < sizeof out.text)
            used += (size_t)(last > layer ? snprintf(out.text + used, sizeof out.text - used, "%s%zu to %zu", between,
                                                     layer, last)
                                          : snprintf(out.text + used, sizeof out.text - used, "%s%zu", between, layer));
        layer = last;
    }
    return out;
}
