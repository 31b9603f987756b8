#include "analysis_series.h"

#include "columns.h"
#include "common/json_text.h"

#include <math.h>
#include <stdlib.h>

/** Bytes that finding a removed page again costs (docs/metrics.md, 'Ledger'). */
#define METADATA_BYTES_OF_PAGE 8.0

/** Places of a page in its sequence. */
enum { PLACE_ANY, PLACE_FIRST, PLACE_MIDDLE, PLACE_LAST, PLACES };

static const char *const place_names[PLACES] = {"any", "first", "middle", "last"};

/** Counts by sequence. */
typedef struct tally {
    double *whole, *part, *hanging; /**< [sequences]; all in one block of memory */
} tally;

static int tally_open(tally *t, size_t sequences) {
    t->whole = calloc(3 * sequences + 1, sizeof *t->whole);
    t->part = t->whole != NULL ? t->whole + sequences : NULL;
    t->hanging = t->whole != NULL ? t->part + sequences : NULL;
    return t->whole != NULL ? 0 : -1;
}

static void tally_close(tally *t) {
    free(t->whole);
}

static void tally_clear(tally *t, size_t sequences) {
    memset(t->whole, 0, 3 * sequences * sizeof *t->whole);
}

const char *series_view_name(int64_t view) {
    return view == KVSIM_VIEW_CENTERED             ? "centered"
           : view == KVSIM_VIEW_DEROTATED          ? "derotated"
           : view == KVSIM_VIEW_DEROTATED_CENTERED ? "derotated_centered"
                                                   : "raw";
}

const char *series_kind_name(int64_t kind) {
    return kind == KVSIM_KIND_KEY ? "key" : kind == KVSIM_KIND_VALUE ? "value" : "block";
}

static json_t *numbers(const double *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        bool whole = values[i] == floor(values[i]) && fabs(values[i]) < 0x1p53;
        json_array_append_new(array, whole ? json_integer((json_int_t)values[i]) : json_real(values[i]));
    }
    return array;
}

/** What names a series. */
typedef struct series_name {
    const char *figure, *scope;
    int64_t view, layer, kind; /**< layer -1: all */
    int place;
    double level; /**< threshold or budget */
} series_name;

/** Append a series; the object is borrowed by the caller, NULL when out of memory. */
static json_t *append(const series_source *source, const series_name *name, const tally *t, bool hanging) {
    json_t *object = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:f}", "figure", name->figure, "scope", name->scope,
                               "view", series_view_name(name->view), "layer", (json_int_t)name->layer, "kind",
                               series_kind_name(name->kind), "place", place_names[name->place], "level", name->level);
    json_object_set_new(object, "whole", numbers(t->whole, source->sequences));
    json_object_set_new(object, "part", numbers(t->part, source->sequences));
    if (hanging)
        json_object_set_new(object, "hanging", numbers(t->hanging, source->sequences));
    return json_array_append_new(source->series, object) == 0 ? object : NULL;
}

/** The pages that take part, and what is known of each. Zero is empty. */
typedef struct page_facts {
    int64_t count;
    int32_t *sequence; /**< -1: the page takes no part */
    uint8_t *place;
} page_facts;

static void page_facts_close(page_facts *facts) {
    free(facts->sequence);
    free(facts->place);
}

/** First and last page of each sequence of one layer and kind, whose pages are rows [begin, end) in any order. */
static void find_places(const kvsim_result *result, page_facts *facts, size_t sequences, int64_t *edges, int64_t layer,
                        int64_t kind) {
    kvsim_column layers = column_of(result, "pages", "layer"), kinds = column_of(result, "pages", "kind");
    kvsim_column positions = column_of(result, "pages", "position");
    for (size_t s = 0; s < 2 * sequences; s++)
        edges[s] = -1;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t row = 0; row < facts->count; row++) {
            if (facts->sequence[row] < 0 || column_integer(&layers, row) != layer ||
                column_integer(&kinds, row) != kind)
                continue;
            int64_t position = column_integer(&positions, row);
            int64_t *edge = &edges[2 * facts->sequence[row]];
            if (pass == 1) {
                facts->place[row] = position == edge[0] ? PLACE_FIRST : position == edge[1] ? PLACE_LAST : PLACE_MIDDLE;
                continue;
            }
            edge[0] = edge[0] < 0 || position < edge[0] ? position : edge[0];
            edge[1] = position > edge[1] ? position : edge[1];
        }
    }
}

static int page_facts_open(const series_source *source, page_facts *facts) {
    const kvsim_result *result = source->result;
    kvsim_column sequence = column_of(result, "pages", "sequence"), state = column_of(result, "pages", "state");
    kvsim_column layers = column_of(result, "groups", "layer"), kinds = column_of(result, "groups", "kind");
    kvsim_column views = column_of(result, "groups", "view");
    int64_t *edges = calloc(2 * source->sequences + 1, sizeof *edges);
    facts->count = sequence.rows;
    facts->sequence = calloc((size_t)facts->count + 1, sizeof *facts->sequence);
    facts->place = calloc((size_t)facts->count + 1, sizeof *facts->place);
    bool complete = edges != NULL && facts->sequence != NULL && facts->place != NULL;
    for (int64_t row = 0; complete && row < facts->count; row++)
        facts->sequence[row] = column_integer(&state, row) == 0 ? (int32_t)column_integer(&sequence, row) : -1;
    for (int64_t group = 0; complete && group < views.rows; group++)
        if (column_integer(&views, group) == KVSIM_VIEW_RAW)
            find_places(result, facts, source->sequences, edges, column_integer(&layers, group),
                        column_integer(&kinds, group));
    free(edges);
    return complete ? 0 : -1;
}

/* ---- pages alike ---- */

/** Columns of `page_thresholds`, and the rows of the group at hand. */
typedef struct alike_columns {
    kvsim_column group, page, threshold, same, family, different, earlier, only;
    int64_t begin, end;
} alike_columns;

static alike_columns alike_columns_of(const kvsim_result *result) {
    static const char table[] = "page_thresholds";
    return (alike_columns){column_of(result, table, "group"),
                           column_of(result, table, "page"),
                           column_of(result, table, "threshold"),
                           column_of(result, table, "same"),
                           column_of(result, table, "family"),
                           column_of(result, table, "different"),
                           column_of(result, table, "earlier_sequences"),
                           column_of(result, table, "only_sequence"),
                           0,
                           0};
}

static void count_alike(const series_source *source, const page_facts *facts, const alike_columns *from, int place,
                        bool within, tally *t) {
    tally_clear(t, source->sequences);
    for (int64_t row = from->begin; row < from->end; row++) {
        int64_t page = column_integer(&from->page, row);
        if (column_real(&from->threshold, row) != source->threshold ||
            (place != PLACE_ANY && facts->place[page] != place))
            continue;
        int64_t own = facts->sequence[page], only = column_integer(&from->only, row);
        bool same = column_integer(&from->same, row) != 0;
        bool other = column_integer(&from->family, row) != 0 || column_integer(&from->different, row) != 0;
        t->whole[own] += 1.0;
        t->part[own] += within ? same : same || other;
        if (!within && column_integer(&from->earlier, row) == 1 && only != own)
            t->hanging[only] += 1.0;
    }
}

/** Chance level of the share of pages alike in a view, layer and kind. */
static void set_chance(const series_source *source, const series_name *name, json_t *object) {
    const kvsim_result *result = source->result;
    static const char table[] = "statistics";
    kvsim_column view = column_of(result, table, "view"), layer = column_of(result, table, "layer");
    kvsim_column kind = column_of(result, table, "kind"), statistic = column_of(result, table, "statistic");
    kvsim_column level = column_of(result, table, "level"), mean = column_of(result, table, "null_mean");
    kvsim_column deviation = column_of(result, table, "null_deviation");
    for (int64_t row = 0; row < view.rows; row++) {
        if (column_integer(&statistic, row) != 3 || column_real(&level, row) != source->threshold ||
            column_integer(&view, row) != name->view || column_integer(&layer, row) != name->layer ||
            column_integer(&kind, row) != name->kind)
            continue;
        json_object_set_new(object, "chance", json_number(column_real(&mean, row)));
        json_object_set_new(object, "chance_error",
                            json_number(column_real(&deviation, row) / sqrt((double)source->repetitions)));
    }
}

static int add_group(const series_source *source, const page_facts *facts, const alike_columns *from, series_name *name,
                     bool detailed, bool different, tally *t) {
    for (int place = PLACE_ANY; place < (detailed ? PLACES : PLACE_FIRST); place++) {
        name->place = place;
        name->scope = different ? SCOPE_BETWEEN : SCOPE_ALL;
        count_alike(source, facts, from, place, false, t);
        json_t *object = append(source, name, t, true);
        if (object == NULL)
            return -1;
        if (place == PLACE_ANY)
            set_chance(source, name, object);
        if (!detailed || different)
            continue;
        name->scope = SCOPE_WITHIN;
        count_alike(source, facts, from, place, true, t);
        if (append(source, name, t, false) == NULL)
            return -1;
    }
    return 0;
}

int series_add_alike(const series_source *source, int64_t detailed_view, bool different) {
    const kvsim_result *result = source->result;
    kvsim_column view = column_of(result, "groups", "view"), layer = column_of(result, "groups", "layer");
    kvsim_column kind = column_of(result, "groups", "kind");
    alike_columns from = alike_columns_of(result);
    page_facts facts = {0, NULL, NULL};
    tally t;
    int status = page_facts_open(source, &facts);
    if (tally_open(&t, source->sequences) != 0)
        status = -1;
    for (int64_t group = 0; group < view.rows && status == 0; group++) {
        /* Rows of a group follow each other, and groups come in order. */
        from.begin = from.end;
        while (from.end < from.group.rows && column_integer(&from.group, from.end) == group)
            from.end++;
        series_name name = {.figure = FIGURE_ALIKE,
                            .view = column_integer(&view, group),
                            .layer = column_integer(&layer, group),
                            .kind = column_integer(&kind, group),
                            .level = source->threshold};
        bool detailed = name.view == detailed_view;
        if (detailed || !different)
            status = add_group(source, &facts, &from, &name, detailed, different, &t);
    }
    tally_close(&t);
    page_facts_close(&facts);
    return status;
}

/* ---- bytes saved, and exact duplicates ---- */

/** Pages (or blocks, kind 0) of a layer that take part, by sequence. A block takes part if both its pages do. */
static void count_pages(const series_source *source, const page_facts *facts, int64_t layer, int64_t kind,
                        double *counts) {
    kvsim_column layers = column_of(source->result, "pages", "layer");
    kvsim_column kinds = column_of(source->result, "pages", "kind");
    kvsim_column blocks = column_of(source->result, "pages", "block");
    kvsim_column positions = column_of(source->result, "pages", "position");
    int64_t shown = kind == 0 ? KVSIM_KIND_KEY : kind;
    int64_t partner = 0;
    for (int64_t row = 0; row < facts->count; row++) {
        if (facts->sequence[row] < 0 || column_integer(&layers, row) != layer || column_integer(&kinds, row) != shown)
            continue;
        bool found = kind != 0;
        /* Value pages come in the order of their key pages: the search goes on where it ended. */
        for (int64_t tries = 0; tries < facts->count && !found; tries++, partner = (partner + 1) % facts->count)
            found = column_integer(&kinds, partner) == KVSIM_KIND_VALUE && facts->sequence[partner] >= 0 &&
                    facts->sequence[partner] == facts->sequence[row] && column_integer(&layers, partner) == layer &&
                    column_integer(&blocks, partner) == column_integer(&blocks, row) &&
                    column_integer(&positions, partner) == column_integer(&positions, row);
        counts[facts->sequence[row]] += found;
    }
}

/** Bytes of a page, or of a block. */
static double unit_bytes(const kvsim_result *result, int64_t layer, int64_t kind) {
    kvsim_column view = column_of(result, "groups", "view"), layers = column_of(result, "groups", "layer");
    kvsim_column kinds = column_of(result, "groups", "kind"), bytes = column_of(result, "groups", "page_bytes");
    double sum = 0.0;
    for (int64_t row = 0; row < view.rows; row++)
        if (column_integer(&view, row) == KVSIM_VIEW_RAW && column_integer(&layers, row) == layer &&
            (kind == 0 || column_integer(&kinds, row) == kind))
            sum += (double)column_integer(&bytes, row);
    return sum;
}

/** Where a removed page's representative, or a duplicate's first page, lies. */
static bool in_scope(const char *scope, int32_t own, int32_t other) {
    return scope[0] == 'a' || (scope[0] == 'w') == (own == other);
}

static const char *const scopes[] = {SCOPE_ALL, SCOPE_WITHIN, SCOPE_BETWEEN};

static void count_removed(const series_source *source, const page_facts *facts, const series_name *name,
                          double saved_bytes, double *part) {
    static const char table[] = "assignments";
    kvsim_column view = column_of(source->result, table, "view"), layer = column_of(source->result, table, "layer");
    kvsim_column kind = column_of(source->result, table, "kind"), budget = column_of(source->result, table, "budget");
    kvsim_column page = column_of(source->result, table, "page");
    kvsim_column representative = column_of(source->result, table, "representative");
    for (int64_t row = 0; row < view.rows; row++) {
        if (column_integer(&view, row) != KVSIM_VIEW_RAW || column_integer(&layer, row) != name->layer ||
            column_integer(&kind, row) != name->kind || column_real(&budget, row) != name->level)
            continue;
        int32_t own = facts->sequence[column_integer(&page, row)];
        int32_t other = facts->sequence[column_integer(&representative, row)];
        if (in_scope(name->scope, own, other))
            part[own] += saved_bytes;
    }
}

static void count_exact(const series_source *source, const page_facts *facts, const series_name *name, double *part) {
    static const char table[] = "duplicates";
    kvsim_column layer = column_of(source->result, table, "layer"), kind = column_of(source->result, table, "kind");
    kvsim_column page = column_of(source->result, table, "page");
    kvsim_column first = column_of(source->result, table, "first_page");
    for (int64_t row = 0; row < layer.rows; row++) {
        if (column_integer(&layer, row) != name->layer || column_integer(&kind, row) != name->kind)
            continue;
        int32_t own = facts->sequence[column_integer(&page, row)];
        int32_t other = facts->sequence[column_integer(&first, row)];
        if (own >= 0 && in_scope(name->scope, own, other))
            part[own] += 1.0;
    }
}

/** Layers and kinds, as rows of `groups` (raw view) and of `blocks` (kind 0). */
typedef struct lane {
    int64_t layer, kind;
} lane;

/** All of them. [owned]; NULL when out of memory. */
static lane *list_lanes(const kvsim_result *result, size_t *count) {
    kvsim_column view = column_of(result, "groups", "view"), layer = column_of(result, "groups", "layer");
    kvsim_column kind = column_of(result, "groups", "kind");
    kvsim_column block_view = column_of(result, "blocks", "view"), block_layer = column_of(result, "blocks", "layer");
    lane *lanes = calloc((size_t)(view.rows + block_view.rows) + 1, sizeof *lanes);
    *count = 0;
    for (int64_t row = 0; lanes != NULL && row < view.rows; row++)
        if (column_integer(&view, row) == KVSIM_VIEW_RAW)
            lanes[(*count)++] = (lane){column_integer(&layer, row), column_integer(&kind, row)};
    for (int64_t row = 0; lanes != NULL && row < block_view.rows; row++)
        if (column_integer(&block_view, row) == KVSIM_VIEW_RAW)
            lanes[(*count)++] = (lane){column_integer(&block_layer, row), 0};
    return lanes;
}

/** Open what all figures of stored bytes need. */
static int open_lanes(const series_source *source, page_facts *facts, tally *t, lane **lanes, size_t *count) {
    *facts = (page_facts){0, NULL, NULL};
    int status = page_facts_open(source, facts);
    *lanes = list_lanes(source->result, count);
    if (tally_open(t, source->sequences) != 0 || *lanes == NULL)
        status = -1;
    return status;
}

static void close_lanes(page_facts *facts, tally *t, lane *lanes) {
    page_facts_close(facts);
    tally_close(t);
    free(lanes);
}

/** Bytes that removing a page, or a block, saves: those of its pages without the numbers of their representatives. */
static double saved_by_one(double bytes, int64_t kind) {
    return fmax(0.0, bytes - METADATA_BYTES_OF_PAGE * (kind == 0 ? 2.0 : 1.0));
}

/** What every budget saves over all layers: of blocks, or of pages where there is one kind only. */
static int add_curve(const series_source *source, const page_facts *facts, const lane *lanes, size_t count, tally *t) {
    kvsim_column group = column_of(source->result, "dedup", "group"),
                 level = column_of(source->result, "dedup", "budget");
    bool blocks = column_of(source->result, "blocks", "view").rows > 0;
    double *pages = calloc(source->sequences + 1, sizeof *pages);
    int status = pages != NULL ? 0 : -1;
    for (int64_t row = 0; row < level.rows && column_integer(&group, row) == 0 && status == 0; row++) {
        series_name name = {
            .figure = FIGURE_SAVED, .scope = SCOPE_ALL, .view = KVSIM_VIEW_RAW, .level = column_real(&level, row)};
        tally_clear(t, source->sequences);
        for (size_t i = 0; i < count; i++) {
            if (blocks != (lanes[i].kind == 0))
                continue;
            name.layer = lanes[i].layer;
            name.kind = lanes[i].kind;
            double bytes = unit_bytes(source->result, name.layer, name.kind);
            memset(pages, 0, source->sequences * sizeof *pages);
            count_pages(source, facts, name.layer, name.kind, pages);
            for (size_t s = 0; s < source->sequences; s++)
                t->whole[s] += pages[s] * bytes;
            count_removed(source, facts, &name, saved_by_one(bytes, name.kind), t->part);
        }
        name.layer = -1;
        name.kind = 0;
        status = append(source, &name, t, false) != NULL ? 0 : -1;
    }
    free(pages);
    return status;
}

int series_add_saved(const series_source *source, double budget) {
    page_facts facts;
    tally t;
    lane *lanes;
    size_t count;
    int status = open_lanes(source, &facts, &t, &lanes, &count);
    for (size_t i = 0; i < count && status == 0; i++) {
        double bytes = unit_bytes(source->result, lanes[i].layer, lanes[i].kind);
        for (size_t s = 0; s < sizeof scopes / sizeof *scopes && status == 0; s++) {
            series_name name = {FIGURE_SAVED,  scopes[s], KVSIM_VIEW_RAW, lanes[i].layer,
                                lanes[i].kind, PLACE_ANY, budget};
            tally_clear(&t, source->sequences);
            count_pages(source, &facts, name.layer, name.kind, t.whole);
            for (size_t q = 0; q < source->sequences; q++)
                t.whole[q] *= bytes;
            count_removed(source, &facts, &name, saved_by_one(bytes, name.kind), t.part);
            status = append(source, &name, &t, false) != NULL ? 0 : -1;
        }
    }
    if (status == 0)
        status = add_curve(source, &facts, lanes, count, &t);
    close_lanes(&facts, &t, lanes);
    return status;
}

int series_add_exact(const series_source *source) {
    page_facts facts;
    tally t;
    lane *lanes;
    size_t count;
    int status = open_lanes(source, &facts, &t, &lanes, &count);
    for (size_t i = 0; i < count && status == 0; i++) {
        for (size_t s = 0; s < sizeof scopes / sizeof *scopes && status == 0; s++) {
            series_name name = {FIGURE_EXACT, scopes[s], KVSIM_VIEW_RAW, lanes[i].layer, lanes[i].kind, PLACE_ANY, 0.0};
            tally_clear(&t, source->sequences);
            count_pages(source, &facts, name.layer, name.kind, t.whole);
            count_exact(source, &facts, &name, t.part);
            status = append(source, &name, &t, false) != NULL ? 0 : -1;
        }
    }
    close_lanes(&facts, &t, lanes);
    return status;
}

/* ---- distances and means ---- */

static int compare_distances(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/** The distances that occur, rising. [owned]; NULL when out of memory. */
static int64_t *list_distances(const kvsim_column *distance, size_t *count) {
    int64_t *list = calloc((size_t)distance->rows + 1, sizeof *list);
    *count = 0;
    if (list == NULL)
        return NULL;
    for (int64_t row = 0; row < distance->rows; row++)
        list[row] = column_integer(distance, row);
    qsort(list, (size_t)distance->rows, sizeof *list, compare_distances);
    for (int64_t row = 0; row < distance->rows; row++)
        if (*count == 0 || list[*count - 1] != list[row])
            list[(*count)++] = list[row];
    return list;
}

/** Sums of one kind by distance and sequence: [distances, sequences] each. */
typedef struct distance_sums {
    double *pairs, *cosines, *above;
} distance_sums;

static void add_distances(const series_source *source, int64_t view, int64_t kind, const int64_t *list, size_t count,
                          distance_sums *sums) {
    static const char table[] = "distances";
    const kvsim_result *result = source->result;
    kvsim_column views = column_of(result, "groups", "view"), kinds = column_of(result, "groups", "kind");
    kvsim_column group = column_of(result, table, "group"), sequence = column_of(result, table, "sequence");
    kvsim_column distance = column_of(result, table, "distance"), pairs = column_of(result, table, "pairs");
    kvsim_column mean = column_of(result, table, "cosine_mean"), above = column_of(result, table, "pairs_above");
    for (int64_t row = 0; row < group.rows; row++) {
        int64_t of = column_integer(&group, row), apart = column_integer(&distance, row);
        if (column_integer(&views, of) != view || column_integer(&kinds, of) != kind)
            continue;
        const int64_t *found = bsearch(&apart, list, count, sizeof *list, compare_distances);
        size_t cell = (size_t)(found - list) * source->sequences + (size_t)column_integer(&sequence, row);
        double here = (double)column_integer(&pairs, row);
        sums->pairs[cell] += here;
        sums->cosines[cell] += here * column_real(&mean, row);
        sums->above[cell] += (double)column_integer(&above, row);
    }
}

static int put_distances(const series_source *source, int64_t view, int64_t kind, const int64_t *list, size_t count,
                         json_t *out) {
    size_t cells = count * source->sequences + 1;
    distance_sums sums = {calloc(cells, sizeof(double)), calloc(cells, sizeof(double)), calloc(cells, sizeof(double))};
    int status = sums.pairs != NULL && sums.cosines != NULL && sums.above != NULL ? 0 : -1;
    if (status == 0)
        add_distances(source, view, kind, list, count, &sums);
    for (size_t i = 0; i < count && status == 0; i++) {
        size_t first = i * source->sequences;
        json_t *row = json_pack("{s:s, s:I}", "kind", series_kind_name(kind), "distance", (json_int_t)list[i]);
        json_object_set_new(row, "pairs", numbers(sums.pairs + first, source->sequences));
        json_object_set_new(row, "cosine_sum", numbers(sums.cosines + first, source->sequences));
        json_object_set_new(row, "above", numbers(sums.above + first, source->sequences));
        status = json_array_append_new(out, row);
    }
    free(sums.pairs);
    free(sums.cosines);
    free(sums.above);
    return status;
}

json_t *series_distances(const series_source *source, int64_t view) {
    kvsim_column distance = column_of(source->result, "distances", "distance");
    json_t *out = json_array();
    size_t count;
    int64_t *list = list_distances(&distance, &count);
    int status = list != NULL && out != NULL ? 0 : -1;
    for (int64_t kind = KVSIM_KIND_KEY; kind <= KVSIM_KIND_VALUE && status == 0; kind++)
        status = put_distances(source, view, kind, list, count, out);
    free(list);
    if (status != 0) {
        json_decref(out);
        return NULL;
    }
    return out;
}

json_t *series_means(const kvsim_result *result) {
    kvsim_column view = column_of(result, "groups", "view"), layer = column_of(result, "groups", "layer");
    kvsim_column kind = column_of(result, "groups", "kind"), pairs = column_of(result, "groups", "pairs");
    kvsim_column mean = column_of(result, "groups", "cosine_mean");
    json_t *out = json_array();
    for (int64_t row = 0; row < view.rows; row++) {
        json_t *object =
            json_pack("{s:s, s:I, s:s, s:I}", "view", series_view_name(column_integer(&view, row)), "layer",
                      (json_int_t)column_integer(&layer, row), "kind", series_kind_name(column_integer(&kind, row)),
                      "pairs", (json_int_t)column_integer(&pairs, row));
        json_object_set_new(object, "cosine", json_number(column_real(&mean, row)));
        if (json_array_append_new(out, object) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}
