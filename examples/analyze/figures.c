#include "figures.h"

#include "curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t member_count(const json_t *object, const char *name) {
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 ? (uint64_t)value : 0;
}

double member_number(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

const char *member_text(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

static size_t find_view(report_figures *figures, const char *name) {
    for (size_t i = 0; i < figures->view_count; i++)
        if (strcmp(figures->views[i], name) == 0)
            return i;
    if (figures->view_count == FIGURE_VIEWS)
        return FIGURE_VIEWS;
    figures->views[figures->view_count] = name;
    return figures->view_count++;
}

/** The figures of a layer, made if need be; NULL when out of memory. */
static layer_figures *find_layer(report_figures *figures, int layer) {
    size_t at = 0;
    while (at < figures->layer_count && figures->layers[at].layer < layer)
        at++;
    if (at < figures->layer_count && figures->layers[at].layer == layer)
        return &figures->layers[at];
    layer_figures *larger = realloc(figures->layers, (figures->layer_count + 1) * sizeof *larger);
    if (larger == NULL)
        return NULL;
    figures->layers = larger;
    memmove(&larger[at + 1], &larger[at], (figures->layer_count - at) * sizeof *larger);
    memset(&larger[at], 0, sizeof *larger);
    larger[at].layer = layer;
    figures->layer_count++;
    return &larger[at];
}

static void add_cosine(cosine_figures *sum, const json_t *group) {
    const json_t *cosine = json_object_get(group, "cosine");
    const json_t *bins = json_object_get(json_object_get(group, "histogram"), "cosine");
    uint64_t pairs = member_count(group, "pairs");
    if (pairs == 0)
        return;
    double least = member_number(cosine, "min"), most = member_number(cosine, "max");
    sum->least = sum->pairs == 0 ? least : fmin(sum->least, least);
    sum->most = sum->pairs == 0 ? most : fmax(sum->most, most);
    sum->sum += member_number(cosine, "mean") * (double)pairs;
    sum->pairs += pairs;
    const json_t *first_level = json_array_get(json_object_get(group, "thresholds"), 0);
    sum->high_pairs += member_count(first_level, "pairs");
    sum->alike += member_count(first_level, "pages");
    for (size_t i = 0; i < KVSIM_HISTOGRAM_BINS; i++)
        sum->histogram[i] += json_number_value(json_array_get(bins, i));
}

const json_t *find_level(const json_t *levels, const char *name, double value) {
    const json_t *level;
    size_t index;
    json_array_foreach(levels, index, level) {
        if (member_number(level, name) == value)
            return level;
    }
    return NULL;
}

static void add_group(kind_figures *sum, const json_t *group, size_t view, double budget) {
    add_cosine(&sum->cosine[view], group);
    if (view != 0)
        return;
    double page_bytes = (double)member_count(group, "page_bytes");
    uint64_t pages = member_count(group, "pages");
    uint64_t exact = member_count(group, "exact_duplicates");
    uint64_t removed = member_count(find_level(json_object_get(group, "dedup"), "budget", budget), "removed");
    uint64_t alike = member_count(json_array_get(json_object_get(group, "thresholds"), 0), "pages");
    uint64_t others =
        member_count(group, "partial") + member_count(group, "non_finite") + member_count(group, "opaque");
    if (removed < exact)
        removed = exact;
    sum->pages += pages;
    sum->others += others;
    sum->exact += exact;
    sum->removed += removed;
    sum->bytes += page_bytes * (double)pages;
    sum->other_bytes += page_bytes * (double)others;
    sum->exact_bytes += page_bytes * (double)exact;
    sum->removed_bytes += page_bytes * (double)removed;
    sum->alike_bytes += page_bytes * (double)alike;
}

static int collect_groups(report_figures *figures, error_text *error) {
    const json_t *group;
    size_t index;
    json_array_foreach(json_object_get(figures->report, "groups"), index, group) {
        if (json_object_get(group, "head") != NULL)
            continue;
        size_t view = find_view(figures, member_text(group, "view"));
        enum figure_kind kind = strcmp(member_text(group, "kind"), "key") == 0 ? FIGURE_KEY : FIGURE_VALUE;
        layer_figures *layer = find_layer(figures, (int)member_count(group, "layer"));
        if (layer == NULL)
            return fail(error, "out of memory");
        if (view == FIGURE_VIEWS)
            continue;
        add_group(&layer->kind[kind], group, view, figures->budget);
        add_group(&figures->total.kind[kind], group, view, figures->budget);
    }
    return 0;
}

/** Bytes of a key page and a value page of a layer together. */
static double block_size(const json_t *block, const layer_figures *layer) {
    double size = (double)member_count(block, "block_bytes");
    if (size > 0.0)
        return size;
    for (int kind = 0; kind < FIGURE_KINDS; kind++)
        if (layer->kind[kind].pages > 0)
            size += layer->kind[kind].bytes / (double)layer->kind[kind].pages;
    return size;
}

static void add_block(block_figures *sum, const json_t *block, double block_bytes, double budget) {
    uint64_t blocks = member_count(block, "blocks");
    uint64_t exact = member_count(block, "exact_duplicates");
    uint64_t removed = member_count(find_level(json_object_get(block, "dedup"), "budget", budget), "removed");
    if (removed < exact)
        removed = exact;
    sum->blocks += blocks;
    sum->exact += exact;
    sum->removed += removed;
    sum->bytes += block_bytes * (double)blocks;
    sum->exact_bytes += block_bytes * (double)exact;
    sum->removed_bytes += block_bytes * (double)removed;
}

static int collect_blocks(report_figures *figures, error_text *error) {
    const json_t *block;
    size_t index;
    json_array_foreach(json_object_get(figures->report, "blocks"), index, block) {
        if (json_object_get(block, "head") != NULL || strcmp(member_text(block, "view"), "raw") != 0)
            continue;
        layer_figures *layer = find_layer(figures, (int)member_count(block, "layer"));
        if (layer == NULL)
            return fail(error, "out of memory");
        double block_bytes = block_size(block, layer);
        add_block(&layer->block, block, block_bytes, figures->budget);
        add_block(&figures->total.block, block, block_bytes, figures->budget);
    }
    return 0;
}

int figures_collect(report_figures *figures, const json_t *report, double threshold, double budget, error_text *error) {
    memset(figures, 0, sizeof *figures);
    figures->report = report;
    figures->threshold = threshold;
    figures->budget = budget;
    find_view(figures, "raw");
    if (collect_groups(figures, error) != 0 || collect_blocks(figures, error) != 0)
        return -1;
    figures->by_block = figures->total.block.blocks > 0;
    curve_collect(figures);
    evidence_collect(figures);
    return 0;
}

layer_figures *figures_layer(report_figures *figures, int layer) {
    for (size_t i = 0; i < figures->layer_count; i++)
        if (figures->layers[i].layer == layer)
            return &figures->layers[i];
    return NULL;
}

size_t figures_view(const report_figures *figures, const char *name) {
    for (size_t i = 0; i < figures->view_count; i++)
        if (strcmp(figures->views[i], name) == 0)
            return i;
    return FIGURE_VIEWS;
}

double figures_compared_bytes(const report_figures *figures) {
    return figures->total.kind[FIGURE_KEY].bytes + figures->total.kind[FIGURE_VALUE].bytes;
}

const curve_point *figures_headline(const report_figures *figures) {
    for (size_t i = 0; i < figures->point_count; i++)
        if (figures->curve[i].budget == figures->budget)
            return &figures->curve[i];
    return NULL;
}

void figures_release(report_figures *figures) {
    free(figures->layers);
}

double figures_mean(const cosine_figures *cosine) {
    return cosine->pairs > 0 ? cosine->sum / (double)cosine->pairs : (double)NAN;
}

double figures_quantile(const cosine_figures *cosine, double share) {
    double wanted = share * (double)cosine->pairs;
    double seen = 0.0;
    if (cosine->pairs == 0)
        return (double)NAN;
    for (size_t i = 0; i < KVSIM_HISTOGRAM_BINS; i++) {
        double bin = cosine->histogram[i];
        if (bin > 0.0 && seen + bin >= wanted) {
            double edge = (double)i + (wanted - seen) / bin;
            double value = -1.0 + 2.0 * edge / KVSIM_HISTOGRAM_BINS;
            return fmin(fmax(value, cosine->least), cosine->most);
        }
        seen += bin;
    }
    return cosine->most;
}

saving_figures figures_saving(const report_figures *figures) {
    const block_figures *block = &figures->total.block;
    saving_figures saving = {0};
    double removed_pages = 2.0 * (double)block->removed;
    saving.by_block = figures->by_block;
    saving.exact_bytes = block->exact_bytes;
    saving.near_bytes = block->removed_bytes - block->exact_bytes;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        const kind_figures *one = &figures->total.kind[kind];
        saving.bytes += one->bytes;
        saving.assumed_bytes += ASSUMED_SHARE * one->alike_bytes;
        if (saving.by_block)
            continue;
        saving.exact_bytes += one->exact_bytes;
        saving.near_bytes += one->removed_bytes - one->exact_bytes;
        removed_pages += (double)one->removed;
    }
    saving.metadata_bytes = METADATA_BYTES * removed_pages;
    saving.saved_bytes = fmax(0.0, saving.exact_bytes + saving.near_bytes - saving.metadata_bytes);
    return saving;
}
