#include "report_parts.h"
#include "report_svg.h"
#include "report_table.h"

#include <math.h>
#include <string.h>

/** Longest path of a value in the documents. */
#define PATH_SIZE 96

/** Columns of a table of layers that fit beside its names. */
#define MOST_ROWS 400

int heat_step(double share, double scale) {
    if (!(share > 0.0005))
        return 0;
    int step = 1 + (int)floor((HEAT_STEPS - 1) * share / scale);
    return step < HEAT_STEPS ? step : HEAT_STEPS - 1;
}

/** The scale of colours between its ends. */
static void write_scale(const report_data *data, FILE *out) {
    char most[32];
    snprintf(most, sizeof most, "%g", 100.0 * heat_scale(data));
    fputs("<p class=\"scale\"><span>0\xc2\xa0%</span><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" "
          "aria-hidden=\"true\">",
          out);
    for (int step = 0; step < HEAT_STEPS; step++)
        fprintf(out, "<rect class=\"f-heat%d\" x=\"%d\" y=\"0\" width=\"%d\" height=\"8\"/>", step,
                100 * step / HEAT_STEPS, 100 / HEAT_STEPS);
    fprintf(out,
            "</svg><span>%s\xc2\xa0%% of the pages of a layer</span></p>\n"
            "<p class=\"note\">Numbers are per cent; one with a question mark cannot be told from chance, since its "
            "interval holds zero or there is none.</p>\n",
            most);
}

/** Entry of a legend: a disc, a square or a dashed line. */
static void write_mark(FILE *out, const char *shape, const char *text) {
    fprintf(out, "<li><svg viewBox=\"0 0 24 12\" aria-hidden=\"true\">%s</svg>", shape);
    html_text(out, text);
    fputs("</li>\n", out);
}

/** Whether a difference is that of a pair in one layer of one kind. */
static bool is_layer_difference(const json_t *one, const report_row *first, const report_row *second, size_t kind) {
    const char *a = text_at(one, "a"), *b = text_at(one, "b");
    bool pair = (strcmp(a, first->name) == 0 && strcmp(b, second->name) == 0) ||
                (strcmp(a, second->name) == 0 && strcmp(b, first->name) == 0);
    return pair && json_is_integer(json_at(one, "layer")) && strcmp(text_at(one, "metric"), "alike_excess") == 0 &&
           strcmp(text_at(one, "kind"), report_kinds[kind]) == 0;
}

/** "The difference is more than noise in 3 of 6 layers: 0, 1, 2." Nothing if it is not known by layer. */
static void write_layers_that_differ(const report_data *data, FILE *out, const report_row *first,
                                     const report_row *second, size_t kind) {
    const json_t *differences = json_at(data->final, "differences"), *one;
    size_t index, all = 0, different = 0;
    json_array_foreach(differences, index, one) {
        bool counts = is_layer_difference(one, first, second, kind);
        all += counts;
        different += counts && truth_at(one, "different");
    }
    if (all == 0)
        return;
    fprintf(out, "<figcaption>The difference is more than noise in %zu of %zu layer%s", different, all,
            all == 1 ? "" : "s");
    const char *separator = different < all ? ": " : NULL;
    json_array_foreach(differences, index, one) {
        if (separator == NULL || !is_layer_difference(one, first, second, kind) || !truth_at(one, "different"))
            continue;
        fprintf(out, "%s%g", separator, number_at(one, "layer"));
        separator = ", ";
    }
    fputs(".</figcaption>", out);
}

static void write_pair(const report_data *data, FILE *out) {
    const report_row *first, *second;
    if (!data->pictures || !rows_to_compare(data, &first, &second))
        return;
    fputs("<h3>", out);
    html_text(out, first->words);
    fputs(" beside ", out);
    html_text(out, second->words);
    fputs(", layer by layer</h3>\n<ul class=\"legend\">", out);
    write_mark(out, "<circle class=\"f-main\" cx=\"12\" cy=\"6\" r=\"4.5\"/>", first->words);
    write_mark(out, "<rect class=\"f-other\" x=\"8\" y=\"2\" width=\"8\" height=\"8\"/>", second->words);
    fputs("</ul>\n<div class=\"figures wide\">\n", out);
    for (size_t kind = 0; kind < 2; kind++) {
        char label[2 * WORDS_SIZE + 128];
        snprintf(label, sizeof label, "%s: pages alike beyond chance by layer, %s and %s, with 95 per cent intervals",
                 report_kind_words[kind], first->words, second->words);
        fprintf(out, "<figure><h4>%s</h4>", report_kind_words[kind]);
        picture_write(data, out, "pair", kind, label);
        write_layers_that_differ(data, out, first, second, kind);
        fputs("</figure>\n", out);
    }
    fputs("</div>\n", out);
}

/** The numbers behind the pictures: a row for each layer, keys and values, a column for each experiment. */
static void write_layer_table(const report_data *data, FILE *out) {
    static const char *const heads[] = {"Layer", "Kind", NULL};
    size_t most = 0;
    const report_row *longest = NULL;
    for (size_t i = 0; i < data->complete; i++)
        if (layers_of(&data->rows[i]) > most) {
            longest = &data->rows[i];
            most = layers_of(longest);
        }
    numbers_begin(data, out, "The numbers: pages alike beyond chance, by layer", heads, ", %");
    for (size_t line = 0; line < 2 * most && line < MOST_ROWS; line++) {
        size_t layer = line / 2, kind = line % 2;
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/alike_excess", report_kinds[kind]);
        fprintf(out, "<tr><th scope=\"row\">%g</th><td>%s</td>", number_at(layer_of(longest, layer), "layer"),
                kind == 0 ? "keys" : "values");
        for (size_t i = 0; i < data->complete; i++) {
            report_estimate excess = estimate_at(layer_of(&data->rows[i], layer), path);
            numbers_cell(out, &excess, "");
        }
        fputs("</tr>\n", out);
    }
    numbers_end(out);
}

void section_layers(const report_data *data, FILE *out) {
    static const char *const topics[] = {"layers", NULL};
    bool any = false;
    for (size_t i = 0; i < data->complete; i++)
        any = any || layers_of(&data->rows[i]) > 0;
    if (!any)
        return;
    fputs("<section id=\"layers\">\n<h2>In which layers</h2>\n"
          "<p class=\"lead\">Pages of each layer that are alike beyond chance. Layer 0 is the one next to the "
          "tokens.</p>\n",
          out);
    picture_excuse(data, out);
    if (data->pictures) {
        fputs("<div class=\"figures wide\">\n", out);
        for (size_t kind = 0; kind < 2; kind++) {
            char label[160];
            snprintf(label, sizeof label,
                     "Heat map of %s: share of pages alike beyond chance, a row for each experiment, a cell for each "
                     "layer; the numbers are in the table below",
                     kind == 0 ? "keys" : "values");
            fprintf(out, "<figure><h3>%s</h3>", report_kind_words[kind]);
            picture_write(data, out, "layers", kind, label);
            fputs("</figure>\n", out);
        }
        fputs("</div>\n", out);
        write_scale(data, out);
    }
    write_pair(data, out);
    write_patterns(data, out, topics);
    fold_patterns(data, out, topics);
    write_layer_table(data, out);
    fputs("</section>\n", out);
}

/** A table of bars: a row for each experiment, a column for each path into its documents. */
static void write_bars(const report_data *data, FILE *out, const char *caption, const char *remark,
                       const report_column *columns, const char *const *paths, size_t count, bool of_results,
                       const char *role) {
    bar_range range = {0.0, 0.0};
    for (size_t i = 0; i < data->complete; i++)
        for (size_t at = 0; at < count; at++) {
            const report_row *row = &data->rows[i];
            report_estimate estimate = estimate_at(of_results ? row->results : row->summary, paths[at]);
            range_add(&range, &estimate);
        }
    range = range_round(range);
    table_begin(out, caption, remark, columns, count + 1);
    for (size_t i = 0; i < data->complete; i++) {
        const report_row *row = &data->rows[i];
        row_begin(out, row->words);
        for (size_t at = 0; at < count; at++) {
            report_estimate estimate = estimate_at(of_results ? row->results : row->summary, paths[at]);
            cell_begin(out, &columns[at + 1]);
            if (isfinite(estimate.mean))
                bar_write(out, &estimate, range, role);
            html_estimate(out, &estimate, number_percent, "%");
            cell_end(out);
        }
        row_end(out);
    }
    table_end(out);
}

/** One cell of the matrix: the share and its interval, coloured. */
static void write_match(FILE *out, const json_t *pair, double most) {
    report_estimate share = {number_at(pair, "both/saved_share/observed"), number_at(pair, "both/saved_share/low"),
                             number_at(pair, "both/saved_share/high")};
    if (!isfinite(share.mean)) {
        fputs("<td class=\"n\"><span class=\"none\">\xe2\x80\x93</span></td>", out);
        return;
    }
    fprintf(out, "<td class=\"n h%d\">", heat_step(share.mean, most));
    html_estimate(out, &share, number_percent, "%");
    fputs("</td>", out);
}

static const json_t *find_match(const json_t *pairs, const char *earlier, const char *later) {
    const json_t *pair;
    size_t index;
    json_array_foreach(pairs, index, pair) {
        if (strcmp(text_at(pair, "earlier"), earlier) == 0 && strcmp(text_at(pair, "later"), later) == 0)
            return pair;
    }
    return NULL;
}

/** Of each experiment but the first, what those before it have already; in the order of running. */
static void write_matrix(const report_data *data, FILE *out) {
    const json_t *pairs = json_at(data->final, "between_experiments/pairs"), *pair;
    double most = 0.01;
    size_t index;
    if (json_array_size(pairs) == 0 || data->complete < 2)
        return;
    json_array_foreach(pairs, index, pair) {
        most = fmax(most, number_at(pair, "both/saved_share/observed"));
    }
    fputs("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"What experiments share with others\">"
          "<table class=\"matrix\"><caption>Could be shared with another experiment <span class=\"small\">Share of the "
          "bytes of the experiment on the left, with blocks of the one above, which ran before; first repeat of "
          "each.</span></caption>\n<thead><tr><td></td>",
          out);
    for (size_t i = 0; i + 1 < data->complete; i++) {
        fputs("<th scope=\"col\" class=\"n\">", out);
        html_text(out, data->as_run[i]->words);
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody>\n", out);
    for (size_t later = 1; later < data->complete; later++) {
        fputs("<tr><th scope=\"row\">", out);
        html_text(out, data->as_run[later]->words);
        fputs("</th>", out);
        for (size_t earlier = 0; earlier < later; earlier++)
            write_match(out, find_match(pairs, data->as_run[earlier]->name, data->as_run[later]->name), most);
        for (size_t empty = later; empty + 1 < data->complete; empty++)
            fputs("<td></td>", out);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

static void write_left_out(const report_data *data, FILE *out) {
    const json_t *left_out = json_at(data->final, "between_experiments/left_out"), *one;
    size_t index;
    json_array_foreach(left_out, index, one) {
        const report_row *earlier = row_of(data, text_at(one, "earlier")), *later = row_of(data, text_at(one, "later"));
        fputs("<p class=\"note\">", out);
        html_text(out, earlier != NULL ? earlier->words : text_at(one, "earlier"));
        fputs(" and ", out);
        html_text(out, later != NULL ? later->words : text_at(one, "later"));
        fputs(" were not compared: ", out);
        html_json(out, json_at(one, "reason"), 0);
        fputs("</p>\n", out);
    }
}

void section_places(const report_data *data, FILE *out) {
    static const char *const topics[] = {"position", "places", NULL};
    static const report_column scopes[] = {
        {"Experiment", ""}, {"Within one sequence", "mark"}, {"Between its sequences", "mark"}};
    static const char *const scope_paths[] = {"within_sequence/saved_share/both", "between_sequences/saved_share/both"};
    static const report_column positions[] = {
        {"Experiment", ""}, {"First page", "mark third"}, {"Middle", "mark third"}, {"Last page", "mark third"}};
    static const char *const position_paths[] = {"cache_analysis/positions/first/both/alike_share",
                                                 "cache_analysis/positions/middle/both/alike_share",
                                                 "cache_analysis/positions/last/both/alike_share"};
    if (data->complete == 0)
        return;
    fputs("<section id=\"places\">\n<h2>Where the repetition lies</h2>\n"
          "<p class=\"lead\">What a page resembles can lie in the same sequence, in two sequences of one experiment, "
          "or in "
          "two experiments. The three are kept apart: a cache that serves one request at a time can only use the "
          "first.</p>\n",
          out);
    write_patterns(data, out, topics);
    write_bars(data, out, "Could be shared, by where the other block lies",
               "Share of bytes. A block with others in both places is in both columns.", scopes, scope_paths, 2, false,
               "main");
    write_matrix(data, out);
    write_left_out(data, out);
    write_bars(data, out, "Alike pages, by place in the sequence",
               "Share of the pages at that place that have an alike earlier page, chance included.", positions,
               position_paths, 3, true, "main");
    fold_patterns(data, out, topics);
    fputs("</section>\n", out);
}

/** The numbers behind the pictures of distances, for one experiment. */
static void write_distance_table(const report_row *row, FILE *out) {
    static const report_column columns[] = {{"Tokens apart", ""},         {"Pairs of pages", "n"},
                                            {"Keys: mean cosine", "n"},   {"Keys: alike, %", "n"},
                                            {"Values: mean cosine", "n"}, {"Values: alike, %", "n"}};
    const json_t *bins = json_at(row->results, "cache_analysis/distance/bins"), *bin;
    size_t index;
    table_begin(out, row->words, NULL, columns, sizeof columns / sizeof *columns);
    json_array_foreach(bins, index, bin) {
        double from = number_at(bin, "from_tokens"), to = number_at(bin, "to_tokens");
        fputs("<tr role=\"row\"><th scope=\"row\" role=\"rowheader\">", out);
        html_number(out, from, number_count, "");
        if (to > from) {
            fputs(" to ", out);
            html_number(out, to, number_count, "");
        }
        fputs("</th>", out);
        cell_begin(out, &columns[1]);
        html_number(out, number_at(bin, "pairs"), number_count, "");
        cell_end(out);
        for (size_t kind = 0; kind < 2; kind++) {
            char path[PATH_SIZE];
            snprintf(path, sizeof path, "%s/mean_cosine", report_kinds[kind]);
            report_estimate cosine = estimate_at(bin, path);
            cell_estimate(out, &columns[2 + 2 * kind], &cosine, number_cosine, "");
            snprintf(path, sizeof path, "%s/alike_share", report_kinds[kind]);
            report_estimate alike = estimate_at(bin, path);
            cell_estimate(out, &columns[3 + 2 * kind], &alike, number_percent, "");
        }
        row_end(out);
    }
    table_end(out);
}

void section_distance(const report_data *data, FILE *out) {
    static const char *const topics[] = {"time", NULL};
    bool any = false;
    for (size_t i = 0; i < data->complete; i++)
        any = any || json_array_size(json_at(data->rows[i].results, "cache_analysis/distance/bins")) > 0;
    if (!any)
        return;
    fputs(
        "<section id=\"distance\">\n<h2>Similarity against distance in tokens</h2>\n"
        "<p class=\"lead\">Mean cosine of two pages of one sequence, by how many tokens lie between their beginnings. "
        "Bands are 95\xc2\xa0% intervals; dashed: pages of different sequences, which have no distance.</p>\n",
        out);
    picture_excuse(data, out);
    if (data->pictures) {
        fputs("<ul class=\"legend\">", out);
        write_mark(out, "<circle class=\"f-key\" cx=\"12\" cy=\"6\" r=\"4.5\"/>", "keys");
        write_mark(out, "<rect class=\"f-value\" x=\"8\" y=\"2\" width=\"8\" height=\"8\"/>", "values");
        write_mark(out,
                   "<path class=\"s-ink\" fill=\"none\" stroke-width=\"1.5\" stroke-dasharray=\"4 4\" d=\"M0,6H24\"/>",
                   "different sequences");
        fputs("</ul>\n<div class=\"figures\">\n", out);
        for (size_t i = 0; i < data->complete; i++) {
            char label[WORDS_SIZE + 160];
            if (json_array_size(json_at(data->rows[i].results, "cache_analysis/distance/bins")) == 0)
                continue;
            snprintf(
                label, sizeof label,
                "%s: mean cosine of two pages of one sequence against their distance in tokens, keys and values; the "
                "numbers are in the table below",
                data->rows[i].words);
            fputs("<figure><h3>", out);
            html_text(out, data->rows[i].words);
            fputs("</h3>", out);
            picture_write(data, out, "distance", i, label);
            fputs("</figure>\n", out);
        }
        fputs("</div>\n", out);
    }
    write_patterns(data, out, topics);
    fold_patterns(data, out, topics);
    fputs("<details><summary>The numbers: similarity by distance</summary>\n", out);
    for (size_t i = 0; i < data->complete; i++)
        if (json_array_size(json_at(data->rows[i].results, "cache_analysis/distance/bins")) > 0)
            write_distance_table(&data->rows[i], out);
    fputs("</details>\n</section>\n", out);
}
