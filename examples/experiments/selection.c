#include "selection.h"

#include "analysis_series.h"
#include "analyze/figures.h"

#include <math.h>
#include <string.h>

static bool is_text(const json_t *object, const char *name, const char *wanted) {
    return strcmp(member_text(object, name), wanted) == 0;
}

/** Whether a series' kind belongs to the wanted one. */
static bool kind_fits(const selection *wanted, const json_t *series, bool blocks) {
    const char *kind = member_text(series, "kind");
    if (strcmp(wanted->kind, "both") != 0)
        return strcmp(kind, wanted->kind) == 0;
    bool pooled = strcmp(wanted->figure, FIGURE_ALIKE) == 0 || !blocks;
    return (strcmp(kind, "block") == 0) != pooled;
}

static bool fits(const selection *wanted, const json_t *series, bool blocks) {
    json_int_t layer = json_integer_value(json_object_get(series, "layer"));
    if (!is_text(series, "figure", wanted->figure) || !is_text(series, "scope", wanted->scope) ||
        !is_text(series, "view", wanted->view != NULL ? wanted->view : "raw") ||
        !is_text(series, "place", wanted->place != NULL ? wanted->place : "any") ||
        (strcmp(wanted->figure, FIGURE_SAVED) == 0 && member_number(series, "level") != wanted->level))
        return false;
    if (wanted->layer == -1)
        return layer == -1;
    return layer >= 0 && (wanted->layer == ANY_LAYER || layer == wanted->layer) && kind_fits(wanted, series, blocks);
}

static double add_array(const json_t *series, const char *name, double *cells, size_t count) {
    const json_t *array = json_object_get(series, name);
    double sum = 0.0;
    for (size_t i = 0; i < count && i < json_array_size(array); i++) {
        double value = json_number_value(json_array_get(array, i));
        cells[i] += value;
        sum += value;
    }
    return sum;
}

/** Chance levels are pooled by pages; what they are wrong by is added up as if all layers erred together. */
static void select_repeat(const selection *wanted, const json_t *analysis, size_t repeat, share_counts *out) {
    const json_t *series;
    size_t index, first = repeat * out->prompts;
    double whole = 0.0, chance = 0.0, error = 0.0;
    bool blocks = is_text(json_object_get(analysis, "facts"), "level", "block");
    json_array_foreach(json_object_get(analysis, "series"), index, series) {
        if (!fits(wanted, series, blocks))
            continue;
        double pages = add_array(series, "whole", out->whole + first, out->prompts);
        add_array(series, "part", out->part + first, out->prompts);
        add_array(series, "hanging", out->hanging + first, out->prompts);
        if (pages > 0.0) {
            whole += pages;
            chance += pages * member_number(series, "chance");
            error += pages * member_number(series, "chance_error");
        }
    }
    if (whole > 0.0) {
        out->chance[repeat] = chance / whole;
        out->chance_error[repeat] = error / whole;
    }
}

int select_counts(const selection *wanted, json_t *const *analyses, size_t repeats, share_counts *out) {
    size_t prompts = repeats > 0 ? (size_t)member_count(analyses[0], "sequences") : 0;
    if (share_counts_open(out, repeats, prompts) != 0)
        return -1;
    for (size_t r = 0; r < repeats; r++)
        select_repeat(wanted, analyses[r], r, out);
    return 0;
}
