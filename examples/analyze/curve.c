#include "curve.h"

#include <string.h>

/** Whether a row counts: all heads, raw view. */
static bool is_raw_whole(const json_t *row) {
    return json_object_get(row, "head") == NULL && strcmp(member_text(row, "view"), "raw") == 0;
}

/** Add the savings of one group or row of blocks, whose members have `bytes` each. */
static void add_levels(report_figures *figures, const json_t *row, double bytes) {
    const json_t *levels = json_object_get(row, "dedup"), *level;
    size_t index;
    json_array_foreach(levels, index, level) {
        curve_point *point = &figures->curve[index];
        double removed = (double)member_count(level, "removed");
        double all = removed + (double)member_count(level, "representatives");
        double scaled = all - (double)member_count(level, "scaled_representatives");
        double possible = all - (double)member_count(level, "lower_bound");
        point->removed += removed;
        point->scaled += scaled;
        point->possible += possible;
        point->removed_bytes += bytes * removed;
        point->scaled_bytes += bytes * scaled;
        point->possible_bytes += bytes * possible;
    }
}

void curve_collect(report_figures *figures) {
    const json_t *budgets = json_object_get(json_object_get(figures->report, "options"), "budgets"), *row;
    size_t index;
    figures->point_count = json_array_size(budgets);
    for (size_t i = 0; i < figures->point_count; i++)
        figures->curve[i].budget = json_number_value(json_array_get(budgets, i));
    json_array_foreach(json_object_get(figures->report, "groups"), index, row) {
        double bytes = (double)member_count(row, "page_bytes");
        if (!is_raw_whole(row))
            continue;
        if (!figures->by_block)
            add_levels(figures, row, bytes);
        const json_t *first = json_array_get(json_object_get(row, "thresholds"), 0);
        figures->pair_bytes += ASSUMED_SHARE * bytes * (double)member_count(first, "pairs");
    }
    json_array_foreach(json_object_get(figures->report, "blocks"), index, row) {
        if (is_raw_whole(row))
            add_levels(figures, row, (double)member_count(row, "block_bytes"));
    }
}

/** KV head that a row is about, -1 for all together. */
static json_int_t head_of(const json_t *row) {
    const json_t *head = json_object_get(row, "head");
    return head != NULL ? json_integer_value(head) : -1;
}

static bool same_place(const json_t *a, const json_t *b) {
    return member_count(a, "layer") == member_count(b, "layer") && head_of(a) == head_of(b) &&
           strcmp(member_text(a, "view"), member_text(b, "view")) == 0;
}

/** Rows of `statistics` follow those of `groups` and `blocks`, which they are about: where in them we are. */
typedef struct place {
    const json_t *rows;
    const char *count; /**< member with the number of pages or blocks */
    size_t next;
    double pages;
} place;

static void advance(place *at, const json_t *statistic, bool of_kind) {
    at->pages = 0.0;
    while (at->next < json_array_size(at->rows)) {
        const json_t *row = json_array_get(at->rows, at->next++);
        bool kind = !of_kind || strcmp(member_text(row, "kind"), member_text(statistic, "kind")) == 0;
        if (kind && same_place(row, statistic)) {
            at->pages = (double)member_count(row, at->count);
            return;
        }
    }
}

static void add_page_share(report_figures *figures, const json_t *row, double pages) {
    layer_figures *layer = figures_layer(figures, (int)member_count(row, "layer"));
    size_t view = figures_view(figures, member_text(row, "view"));
    if (layer == NULL || view == FIGURE_VIEWS || member_number(row, "level") != figures->threshold)
        return;
    int kind = strcmp(member_text(row, "kind"), "key") == 0 ? FIGURE_KEY : FIGURE_VALUE;
    evidence_add(&layer->kind[kind].cosine[view].evidence, row, pages);
    evidence_add(&figures->total.kind[kind].cosine[view].evidence, row, pages);
}

static void add_removed_share(report_figures *figures, const json_t *row, double pages) {
    double budget = member_number(row, "level");
    for (size_t i = 0; i < figures->point_count; i++)
        if (figures->curve[i].budget == budget && strcmp(member_text(row, "view"), "raw") == 0)
            evidence_add(&figures->curve[i].evidence, row, pages);
}

void evidence_collect(report_figures *figures) {
    place groups = {json_object_get(figures->report, "groups"), "pages", 0, 0.0};
    place blocks = {json_object_get(figures->report, "blocks"), "blocks", 0, 0.0};
    const json_t *row;
    size_t index;
    json_array_foreach(json_object_get(figures->report, "statistics"), index, row) {
        const char *statistic = member_text(row, "statistic");
        bool block = strcmp(member_text(row, "kind"), "block") == 0;
        bool removed = strcmp(statistic, "removed_share") == 0;
        if (strcmp(statistic, "mean_cosine") == 0)
            advance(&groups, row, true);
        if (block && member_number(row, "level") == figures->curve[0].budget)
            advance(&blocks, row, false);
        if (json_object_get(row, "head") != NULL)
            continue;
        if (strcmp(statistic, "page_share") == 0)
            add_page_share(figures, row, groups.pages);
        else if (removed && block == figures->by_block)
            add_removed_share(figures, row, block ? blocks.pages : groups.pages);
    }
}
