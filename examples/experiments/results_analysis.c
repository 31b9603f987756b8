/* The member `cache_analysis`: every figure of an experiment's pages, over its repeats. */
#include "analysis_series.h"
#include "analyze/figures.h"
#include "common/json_text.h"
#include "results_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const result_kinds[RESULT_KINDS] = {"key", "value", "both"};

const metric metrics[METRICS] = {
    [METRIC_SAVED] = {"saved_share", FIGURE_SAVED, SHARE_OBSERVED},
    [METRIC_EXACT] = {"exact_share", FIGURE_EXACT, SHARE_OBSERVED},
    [METRIC_ALIKE] = {"alike_share", FIGURE_ALIKE, SHARE_OBSERVED},
    [METRIC_CHANCE] = {"alike_chance", FIGURE_ALIKE, SHARE_CHANCE},
    [METRIC_EXCESS] = {"alike_excess", FIGURE_ALIKE, SHARE_EXCESS},
};

static const char *best_view(const run_documents *documents) {
    return member_text(documents->analyses[0], "best_view");
}

static double budget_of(const run_documents *documents) {
    return member_number(documents->analyses[0], "budget");
}

json_t *spread_document(const double *values, size_t count) {
    estimate found = estimate_values(values, count);
    json_t *spread = json_object(), *repeats = json_array();
    json_object_set_new(spread, "mean", json_number(found.mean));
    json_object_set_new(spread, "std", json_number(found.standard_deviation));
    json_object_set_new(spread, "min", json_number(found.least));
    json_object_set_new(spread, "max", json_number(found.most));
    for (size_t r = 0; r < count; r++)
        json_array_append_new(repeats, json_number(values[r]));
    json_object_set_new(spread, "per_repeat", repeats);
    return spread;
}

json_t *estimate_document(const share_counts *counts, share_aspect aspect, double least, double most, uint64_t seed) {
    estimate found;
    if (estimate_share(counts, aspect, least, most, seed, &found) != 0)
        return NULL;
    json_t *document = json_object(), *repeats = json_array();
    json_object_set_new(document, "mean", json_number(found.mean));
    json_object_set_new(document, "std", json_number(found.standard_deviation));
    json_object_set_new(document, "min", json_number(found.least));
    json_object_set_new(document, "max", json_number(found.most));
    json_object_set_new(document, "low", json_number(found.low));
    json_object_set_new(document, "high", json_number(found.high));
    json_object_set_new(document, "constant", json_boolean(found.constant));
    for (size_t r = 0; r < counts->repeats; r++)
        json_array_append_new(repeats, json_number(share_of_repeat(counts, aspect, r)));
    json_object_set_new(document, "per_repeat", repeats);
    return document;
}

/** The estimate of a selection. NULL when out of memory. */
static json_t *estimate_selection(const run_documents *documents, const selection *wanted, share_aspect aspect) {
    share_counts counts;
    json_t *document = NULL;
    if (select_counts(wanted, documents->analyses, documents->repeats, &counts) == 0)
        document = estimate_document(&counts, aspect, 0.0, 1.0, documents->e->seed);
    share_counts_close(&counts);
    return document;
}

static selection selection_of(const run_documents *documents, const metric *of, const char *scope, const char *kind,
                              long long layer) {
    return (selection){.figure = of->figure,
                       .scope = scope,
                       .view = strcmp(of->figure, FIGURE_ALIKE) == 0 ? best_view(documents) : NULL,
                       .kind = kind,
                       .layer = layer,
                       .level = budget_of(documents)};
}

int metric_counts(const run_documents *documents, const metric *of, const char *scope, const char *kind,
                  long long layer, share_counts *out) {
    selection wanted = selection_of(documents, of, scope, kind, layer);
    return select_counts(&wanted, documents->analyses, documents->repeats, out);
}

static json_t *estimate_metric(const run_documents *documents, int which, const char *scope, const char *kind,
                               long long layer) {
    selection wanted = selection_of(documents, &metrics[which], scope, kind, layer);
    return estimate_selection(documents, &wanted, metrics[which].aspect);
}

/** A metric by kind. */
static json_t *by_kind(const run_documents *documents, int which, const char *scope) {
    json_t *kinds = json_object();
    for (int kind = 0; kind < RESULT_KINDS; kind++)
        json_object_set_new(kinds, result_kinds[kind],
                            estimate_metric(documents, which, scope, result_kinds[kind], ANY_LAYER));
    return kinds;
}

json_t *describe_headline(const run_documents *documents, const char *scope) {
    json_t *headline = json_object();
    for (int which = 0; which < METRICS; which++)
        json_object_set_new(headline, metrics[which].name, by_kind(documents, which, scope));
    return headline;
}

/** Fewer pages are compared than for the chance level of the whole, which is therefore an upper bound. */
json_t *describe_within(const run_documents *documents) {
    json_t *within = json_object();
    for (int which = METRIC_SAVED; which <= METRIC_ALIKE; which++)
        json_object_set_new(within, metrics[which].name, by_kind(documents, which, SCOPE_WITHIN));
    json_object_set_new(within, "alike_chance_at_most", by_kind(documents, METRIC_CHANCE, SCOPE_ALL));
    return within;
}

/** Mean cosine of a repeat, of a view, kind and layer or all; NaN without pairs. */
static double mean_cosine(const json_t *means, const char *view, const char *kind, long long layer) {
    const json_t *row;
    size_t index;
    double pairs = 0.0, sum = 0.0;
    json_array_foreach(means, index, row) {
        if (strcmp(member_text(row, "view"), view) != 0 || strcmp(member_text(row, "kind"), kind) != 0 ||
            (layer != ANY_LAYER && json_integer_value(json_object_get(row, "layer")) != layer) ||
            member_count(row, "pairs") == 0)
            continue;
        pairs += (double)member_count(row, "pairs");
        sum += (double)member_count(row, "pairs") * member_number(row, "cosine");
    }
    return pairs > 0.0 ? sum / pairs : (double)NAN;
}

/** Mean cosines of the repeats. NULL when out of memory. */
static json_t *spread_of_means(const run_documents *documents, const char *member, const char *view, const char *kind) {
    double *values = calloc(documents->repeats + 1, sizeof *values);
    for (size_t r = 0; values != NULL && r < documents->repeats; r++)
        values[r] = mean_cosine(json_object_get(documents->analyses[r], member), view, kind, ANY_LAYER);
    json_t *spread = values != NULL ? spread_document(values, documents->repeats) : NULL;
    free(values);
    return spread;
}

static json_t *describe_views(const run_documents *documents) {
    json_t *views = json_object(), *name;
    size_t index;
    json_array_foreach(json_object_get(documents->analyses[0], "views"), index, name) {
        const char *view = json_string_value(name);
        json_t *kinds = json_object();
        for (int kind = 0; kind < 2; kind++) {
            json_t *object = json_object();
            json_object_set_new(object, "mean_cosine", spread_of_means(documents, "means", view, result_kinds[kind]));
            for (int which = METRIC_ALIKE; which < METRICS; which++) {
                selection wanted = selection_of(documents, &metrics[which], SCOPE_ALL, result_kinds[kind], ANY_LAYER);
                wanted.view = view;
                json_object_set_new(object, metrics[which].name,
                                    estimate_selection(documents, &wanted, metrics[which].aspect));
            }
            json_object_set_new(kinds, result_kinds[kind], object);
        }
        json_object_set_new(views, view, kinds);
    }
    return views;
}

static json_t *describe_layer(const run_documents *documents, long long layer, const char *kind) {
    json_t *object = json_object();
    for (int which = 0; which < METRICS; which++)
        json_object_set_new(object, metrics[which].name, estimate_metric(documents, which, SCOPE_ALL, kind, layer));
    json_object_set_new(object, "within_sequence_alike_share",
                        estimate_metric(documents, METRIC_ALIKE, SCOPE_WITHIN, kind, layer));
    json_object_set_new(object, "between_sequences_alike_share",
                        estimate_metric(documents, METRIC_ALIKE, SCOPE_BETWEEN, kind, layer));
    if (strcmp(kind, "both") == 0)
        return object;
    json_t *cosines = json_object(), *name;
    size_t index;
    json_array_foreach(json_object_get(documents->analyses[0], "views"), index, name) {
        double sum = 0.0;
        for (size_t r = 0; r < documents->repeats; r++)
            sum += mean_cosine(json_object_get(documents->analyses[r], "means"), json_string_value(name), kind, layer);
        json_object_set_new(cosines, json_string_value(name), json_number(sum / (double)documents->repeats));
    }
    json_object_set_new(object, "mean_cosine", cosines);
    return object;
}

static json_t *describe_layers(const run_documents *documents) {
    json_t *layers = json_array();
    json_int_t count = (json_int_t)member_count(json_object_get(documents->analyses[0], "facts"), "layers");
    for (json_int_t layer = 0; layer < count; layer++) {
        json_t *object = json_object();
        json_object_set_new(object, "layer", json_integer(layer));
        for (int kind = 0; kind < RESULT_KINDS; kind++)
            json_object_set_new(object, result_kinds[kind], describe_layer(documents, layer, result_kinds[kind]));
        json_array_append_new(layers, object);
    }
    return layers;
}

/** Pages of a place, by repeat, over all layers. NULL when out of memory. */
static json_t *count_pages(const run_documents *documents, const selection *wanted) {
    share_counts counts;
    double *values = calloc(documents->repeats + 1, sizeof *values);
    json_t *spread = NULL;
    if (select_counts(wanted, documents->analyses, documents->repeats, &counts) == 0 && values != NULL) {
        for (size_t cell = 0; cell < counts.repeats * counts.prompts; cell++)
            values[cell / counts.prompts] += counts.whole[cell];
        spread = spread_document(values, documents->repeats);
    }
    share_counts_close(&counts);
    free(values);
    return spread;
}

static json_t *describe_positions(const run_documents *documents) {
    static const char *const places[] = {"first", "middle", "last"};
    json_t *positions = json_object();
    for (size_t place = 0; place < sizeof places / sizeof *places; place++) {
        json_t *kinds = json_object();
        for (int kind = 0; kind < RESULT_KINDS; kind++) {
            json_t *object = json_object();
            selection wanted =
                selection_of(documents, &metrics[METRIC_ALIKE], SCOPE_ALL, result_kinds[kind], ANY_LAYER);
            wanted.place = places[place];
            json_object_set_new(object, "pages", count_pages(documents, &wanted));
            json_object_set_new(object, "alike_share", estimate_selection(documents, &wanted, SHARE_OBSERVED));
            wanted.scope = SCOPE_WITHIN;
            json_object_set_new(object, "within_sequence_alike_share",
                                estimate_selection(documents, &wanted, SHARE_OBSERVED));
            wanted.scope = SCOPE_BETWEEN;
            json_object_set_new(object, "between_sequences_alike_share",
                                estimate_selection(documents, &wanted, SHARE_OBSERVED));
            json_object_set_new(kinds, result_kinds[kind], object);
        }
        json_object_set_new(positions, places[place], kinds);
    }
    return positions;
}

/* ---- likeness by distance ---- */

/** Add a row's numbers to the repeat's cells. */
static void add_numbers(const json_t *row, const char *name, double *cells, size_t count) {
    const json_t *array = json_object_get(row, name);
    for (size_t i = 0; i < count && i < json_array_size(array); i++)
        cells[i] += json_number_value(json_array_get(array, i));
}

/** Pairs from `low` to `high` tokens apart: `part` is a member of the rows. */
static int count_distance(const run_documents *documents, const char *kind, double low, double high, const char *part,
                          share_counts *out) {
    size_t prompts = (size_t)member_count(documents->analyses[0], "sequences"), index;
    const json_t *row;
    if (share_counts_open(out, documents->repeats, prompts) != 0)
        return -1;
    for (size_t r = 0; r < documents->repeats; r++) {
        json_array_foreach(json_object_get(documents->analyses[r], "distances"), index, row) {
            double distance = member_number(row, "distance");
            if (strcmp(member_text(row, "kind"), kind) != 0 || distance < low || distance > high)
                continue;
            add_numbers(row, "pairs", out->whole + r * prompts, prompts);
            add_numbers(row, part, out->part + r * prompts, prompts);
        }
    }
    return 0;
}

/** Set pairs and sequences of a bin from its counts. Returns the pairs. */
static double set_bin_counts(json_t *bin, const share_counts *counts) {
    double pairs = 0.0;
    json_int_t sequences = 0;
    for (size_t p = 0; p < counts->prompts; p++) {
        double of_prompt = 0.0;
        for (size_t r = 0; r < counts->repeats; r++)
            of_prompt += counts->whole[r * counts->prompts + p];
        pairs += of_prompt;
        sequences += of_prompt > 0.0;
    }
    json_object_set_new(bin, "pairs", json_integer((json_int_t)pairs));
    json_object_set_new(bin, "sequences", json_integer(sequences));
    return pairs;
}

static json_t *describe_bin_kind(const run_documents *documents, const char *kind, double low, double high, json_t *bin,
                                 double *pairs) {
    json_t *object = json_object();
    share_counts counts;
    if (count_distance(documents, kind, low, high, "cosine_sum", &counts) == 0) {
        json_object_set_new(object, "mean_cosine",
                            estimate_document(&counts, SHARE_OBSERVED, -1.0, 1.0, documents->e->seed));
        if (*pairs == 0.0)
            *pairs = set_bin_counts(bin, &counts);
    }
    share_counts_close(&counts);
    if (count_distance(documents, kind, low, high, "above", &counts) == 0)
        json_object_set_new(object, "alike_share",
                            estimate_document(&counts, SHARE_OBSERVED, 0.0, 1.0, documents->e->seed));
    share_counts_close(&counts);
    return object;
}

static double largest_distance(const run_documents *documents) {
    const json_t *row;
    size_t index;
    double most = 0.0;
    for (size_t r = 0; r < documents->repeats; r++)
        json_array_foreach(json_object_get(documents->analyses[r], "distances"), index, row) most =
            fmax(most, member_number(row, "distance"));
    return most;
}

/** Bins of 1, 1, 2, 4, 8, ... pages: few pairs are far apart, and nothing changes quickly there. */
static json_t *describe_distance(const run_documents *documents) {
    double page = member_number(json_object_get(documents->analyses[0], "facts"), "page_tokens");
    double most = largest_distance(documents);
    json_t *distance = json_object(), *bins = json_array(), *others = json_object();
    json_object_set_new(distance, "view", json_string(best_view(documents)));
    for (double low = 1.0, high = 1.0; low * page <= most; low = high + 1.0, high *= 2.0) {
        json_t *bin = json_object();
        double pairs = 0.0;
        json_object_set_new(bin, "from_tokens", json_integer((json_int_t)(low * page)));
        json_object_set_new(bin, "to_tokens", json_integer((json_int_t)fmin(high * page, most)));
        for (int kind = 0; kind < 2; kind++)
            json_object_set_new(bin, result_kinds[kind],
                                describe_bin_kind(documents, result_kinds[kind], low * page, high * page, bin, &pairs));
        if (pairs > 0.0)
            json_array_append(bins, bin);
        json_decref(bin);
    }
    for (int kind = 0; kind < 2; kind++) {
        json_t *object = json_object();
        json_object_set_new(object, "mean_cosine",
                            spread_of_means(documents, "different_means", best_view(documents), result_kinds[kind]));
        json_object_set_new(others, result_kinds[kind], object);
    }
    json_object_set_new(distance, "bins", bins);
    json_object_set_new(distance, "different_sequences", others);
    return distance;
}

/* ---- the rest ---- */

static json_t *describe_curve(const run_documents *documents) {
    json_t *curve = json_array(), *series;
    size_t index;
    json_array_foreach(json_object_get(documents->analyses[0], "series"), index, series) {
        if (json_integer_value(json_object_get(series, "layer")) != -1)
            continue;
        selection wanted = {.figure = FIGURE_SAVED,
                            .scope = SCOPE_ALL,
                            .kind = "both",
                            .layer = -1,
                            .level = member_number(series, "level")};
        json_t *point = json_object();
        json_object_set_new(point, "budget", json_number(wanted.level));
        json_object_set_new(point, "saved_share", estimate_selection(documents, &wanted, SHARE_OBSERVED));
        json_array_append_new(curve, point);
    }
    return curve;
}

/** Spread of a member's numbers over the repeats. NULL when out of memory. */
static json_t *spread_of_member(const run_documents *documents, const char *object, const char *name) {
    double *values = calloc(documents->repeats + 1, sizeof *values);
    for (size_t r = 0; values != NULL && r < documents->repeats; r++)
        values[r] = member_number(json_object_get(documents->analyses[r], object), name);
    json_t *spread = values != NULL ? spread_document(values, documents->repeats) : NULL;
    free(values);
    return spread;
}

/** All numbers of an object of the analyses, by the names of the first one. */
static void set_spreads(const run_documents *documents, const char *object, json_t *out) {
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(documents->analyses[0], object), name, value)
        json_object_set_new(out, name, spread_of_member(documents, object, name));
}

json_t *describe_settings(const run_documents *documents) {
    const json_t *first = documents->analyses[0];
    json_t *settings = json_object();
    json_object_set(settings, "threshold", json_object_get(first, "threshold"));
    json_object_set(settings, "budget", json_object_get(first, "budget"));
    json_object_set(settings, "best_view", json_object_get(first, "best_view"));
    json_object_set(settings, "views", json_object_get(first, "views"));
    json_object_set(settings, "page_tokens", json_object_get(json_object_get(first, "facts"), "page_tokens"));
    json_object_set(settings, "null_repetitions", json_object_get(first, "null_repetitions"));
    json_object_set_new(settings, "resamples", json_integer(STATISTICS_RESAMPLES));
    json_object_set_new(settings, "confidence", json_real(STATISTICS_CONFIDENCE));
    return settings;
}

static json_t *describe_counts(const run_documents *documents) {
    const json_t *first = documents->analyses[0];
    json_t *counts = json_object();
    json_object_set(counts, "sequences", json_object_get(first, "sequences"));
    json_object_update(counts, json_object_get(first, "facts"));
    json_object_del(counts, "page_tokens");
    set_spreads(documents, "counts", counts);
    return counts;
}

json_t *describe_cache_analysis(const run_documents *documents) {
    json_t *analysis = json_object(), *ledger = json_object(), *lossless = json_object();
    json_object_set_new(ledger, "budget", json_number(budget_of(documents)));
    set_spreads(documents, "ledger", ledger);
    set_spreads(documents, "lossless", lossless);
    json_object_set_new(analysis, "settings", describe_settings(documents));
    json_object_set_new(analysis, "counts", describe_counts(documents));
    json_object_set_new(analysis, "headline", describe_headline(documents, SCOPE_ALL));
    json_object_set_new(analysis, "within_sequence", describe_within(documents));
    json_object_set_new(analysis, "between_sequences", describe_headline(documents, SCOPE_BETWEEN));
    json_object_set_new(analysis, "views", describe_views(documents));
    json_object_set_new(analysis, "layers", describe_layers(documents));
    json_object_set_new(analysis, "positions", describe_positions(documents));
    json_object_set_new(analysis, "distance", describe_distance(documents));
    json_object_set_new(analysis, "dedup_curve", describe_curve(documents));
    json_object_set_new(analysis, "ledger", ledger);
    json_object_set_new(analysis, "lossless", lossless);
    if (json_object_size(analysis) < 12) {
        json_decref(analysis);
        return NULL;
    }
    return analysis;
}
