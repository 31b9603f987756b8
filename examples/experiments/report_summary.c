#include "report_parts.h"
#include "report_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Pairs of experiments that are listed. */
#define MOST_PAIRS 28

/** Characters of a description. */
#define MOST_DESCRIPTION 240

/** Sentences of one list about some topics; whether the list of the page was begun. */
static bool write_some(FILE *out, const json_t *list, const report_row *row, const char *const *topics, bool begun) {
    const json_t *pattern;
    size_t index;
    json_array_foreach(list, index, pattern) {
        bool wanted = false;
        for (const char *const *topic = topics; *topic != NULL; topic++)
            wanted = wanted || strcmp(text_at(pattern, "pattern"), *topic) == 0;
        if (!wanted)
            continue;
        fputs(begun ? "<li>" : "<ul class=\"patterns\">\n<li>", out);
        begun = true;
        if (row != NULL) {
            fputs("<b>", out);
            html_text(out, row->words);
            fputs(".</b> ", out);
        }
        html_sentence(out, json_at(pattern, "text"), false);
        fputs("</li>\n", out);
    }
    return begun;
}

void write_patterns(const report_data *data, FILE *out, const char *const *topics) {
    bool begun = write_some(out, json_at(data->final, "patterns"), NULL, topics, false);
    if (data->complete > 0)
        begun = write_some(out, json_at(data->rows[0].results, "patterns"), &data->rows[0], topics, begun);
    if (begun)
        fputs("</ul>\n", out);
}

void fold_patterns(const report_data *data, FILE *out, const char *const *topics) {
    char *text = NULL;
    size_t size = 0;
    FILE *list = open_memstream(&text, &size);
    bool begun = false;
    if (list == NULL)
        return;
    for (size_t i = 1; i < data->complete; i++)
        begun = write_some(list, json_at(data->rows[i].results, "patterns"), &data->rows[i], topics, begun);
    if (fclose(list) == 0 && begun) {
        fputs("<details><summary>The other experiments in words</summary>\n", out);
        fwrite(text, 1, size, out);
        fputs("</ul></details>\n", out);
    }
    free(text);
}

static void write_contents(const report_data *data, FILE *out) {
    static const struct {
        const char *anchor, *text;
    } parts[] = {{"experiments", "Experiments"},
                 {"differences", "Differences"},
                 {"layers", "Layers"},
                 {"places", "Places"},
                 {"distance", "Distance"},
                 {"cost", "Memory and speed"},
                 {"failed", "What did not run"},
                 {"texts", "Prompts and texts"},
                 {"method", "How it was measured"},
                 {"limits", "What it does not show"}};
    fputs("<nav aria-label=\"On this page\"><ul class=\"contents\">", out);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        bool failed = strcmp(parts[i].anchor, "failed") == 0, both = strcmp(parts[i].anchor, "differences") == 0;
        if ((failed && data->complete == data->count) || (both && data->complete < 2) || (i < 6 && data->complete == 0))
            continue;
        fprintf(out, "<li><a href=\"#%s\">%s</a></li>\n", parts[i].anchor, parts[i].text);
    }
    fputs("</ul></nav>\n", out);
}

void section_answer(const report_data *data, FILE *out) {
    const json_t *answer = json_at(data->final, "answer"), *sentence;
    size_t index, missing = data->count - data->complete;
    fputs("<section class=\"answer\" id=\"answer\" aria-label=\"The answer\">\n", out);
    if (json_array_size(answer) > 0) {
        fputs("<ol>\n", out);
        json_array_foreach(answer, index, sentence) {
            fputs("<li>", out);
            html_sentence(out, sentence, true);
            fputs("</li>\n", out);
        }
        fputs("</ol>\n", out);
    } else
        fputs("<p>No experiment was completed, so there is no answer.</p>\n", out);
    if (missing > 0)
        fprintf(
            out,
            "<div class=\"warn\" role=\"note\"><p><b>%zu of %zu experiment%s did not complete</b> and %s not in the "
            "figures: <a href=\"#failed\">what happened</a>.</p></div>\n",
            missing, data->count, data->count == 1 ? "" : "s", missing == 1 ? "is" : "are");
    write_contents(data, out);
    fputs("</section>\n", out);
}

/** Range of a column of bars over all complete experiments. */
static bar_range range_of(const report_data *data, const char *const *paths) {
    bar_range range = {0.0, 0.0};
    for (size_t i = 0; i < data->complete; i++)
        for (const char *const *path = paths; *path != NULL; path++) {
            report_estimate estimate = estimate_at(data->rows[i].summary, *path);
            range_add(&range, &estimate);
        }
    return range_round(range);
}

/** The cell that names an experiment: what it is for, and what it is made of. */
static void write_name(const report_row *row, FILE *out) {
    double repeats = number_at(row->summary, "repeats"), sequences = number_at(row->summary, "sequences");
    double tokens = number_at(row->summary, "tokens/prompt/mean") + number_at(row->summary, "tokens/output/mean");
    row_open(out, row->words);
    fputs(" <span class=\"small\">", out);
    html_json(out, json_at(row->summary, "description"), MOST_DESCRIPTION);
    fputs("</span> <span class=\"small\">", out);
    html_number(out, sequences, number_count, sequences == 1.0 ? "prompt" : "prompts");
    fputs(" \xc3\x97 ", out);
    html_number(out, repeats, number_count, repeats == 1.0 ? "repeat" : "repeats");
    if (isfinite(tokens)) {
        fputs(", ", out);
        html_number(out, tokens, number_count, "tokens");
        fputs(repeats == 1.0 ? "" : " a repeat", out);
    }
    fputs("</span></th>", out);
}

static void write_kind(FILE *out, const report_row *row, size_t kind, bar_range range) {
    char path[64];
    snprintf(path, sizeof path, "headline/alike_excess/%s", report_kinds[kind]);
    report_estimate excess = estimate_at(row->summary, path);
    bar_write(out, &excess, range, report_kinds[kind]);
    fprintf(out, "<span class=\"kind\">%s</span> ", kind == 0 ? "keys" : "values");
    html_estimate(out, &excess, number_percent, "%");
}

/** What the columns mean, with the numbers that were set. */
static void write_meaning(const report_data *data, FILE *out) {
    char budget[32];
    snprintf(budget, sizeof budget, "%g", 100.0 * number_at(data->settings, "budget"));
    fputs("<p class=\"lead\">The cache is kept in pages of <b>", out);
    html_number(out, number_at(data->settings, "page_tokens"), number_count, "tokens");
    fprintf(
        out,
        "</b>. <b>Could be shared</b>: bytes whose key page and value page an earlier block of the same layer could "
        "stand in for with a relative error of at most %s\xc2\xa0%%, less what it takes to find them again. <b>Exact "
        "copies</b>: byte for byte equal to an "
        "earlier block. <b>Alike beyond chance</b>: pages that point the same way as an earlier page (cosine of at "
        "least %g, ",
        budget, number_at(data->settings, "threshold"));
    fputs(strcmp(text_at(data->settings, "best_view"), "derotated_centered") == 0
              ? "mean and rotation taken out), less what pages of shuffled tokens give. "
              : "mean taken out), less what pages of shuffled tokens give. ",
          out);
    fputs("Thin lines and the numbers in parentheses are 95\xc2\xa0% intervals.</p>\n", out);
}

void section_experiments(const report_data *data, FILE *out) {
    static const char *const saved[] = {"headline/saved_share/both", NULL};
    static const char *const alike[] = {"headline/alike_excess/key", "headline/alike_excess/value", NULL};
    static const report_column columns[] = {
        {"Experiment", ""}, {"Could be shared", "mark"}, {"Exact copies", ""}, {"Alike beyond chance", "mark"}};
    if (data->complete == 0)
        return;
    bar_range saved_range = range_of(data, saved), alike_range = range_of(data, alike);
    fputs("<section id=\"experiments\">\n<h2>The experiments side by side</h2>\n", out);
    write_meaning(data, out);
    char remark[160], saved_end[32], alike_end[32];
    snprintf(saved_end, sizeof saved_end, "%g", 100.0 * saved_range.high);
    snprintf(alike_end, sizeof alike_end, "%g", 100.0 * alike_range.high);
    snprintf(remark, sizeof remark,
             "The most redundant first. Bars reach to %s\xc2\xa0%% of the bytes and %s\xc2\xa0%% of the pages.",
             saved_end, alike_end);
    table_begin(out, "Redundancy by experiment", remark, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < data->complete; i++) {
        const report_row *row = &data->rows[i];
        report_estimate share = estimate_at(row->summary, saved[0]);
        report_estimate exact = estimate_at(row->summary, "headline/exact_share/both");
        write_name(row, out);
        cell_begin(out, &columns[1]);
        bar_write(out, &share, saved_range, "main");
        html_estimate(out, &share, number_percent, "%");
        cell_end(out);
        cell_estimate(out, &columns[2], &exact, number_percent, "%");
        cell_begin(out, &columns[3]);
        write_kind(out, row, 0, alike_range);
        fputs("<br>", out);
        write_kind(out, row, 1, alike_range);
        cell_end(out);
        row_end(out);
    }
    table_end(out);
    fputs(
        "<p class=\"note\">A figure without an interval has none because no prompt differs from the others, or because "
        "there are too few.</p>\n",
        out);
    fold_budgets(data, out);
    fold_ledger(data, out);
    fputs("</section>\n", out);
}

/** A difference of two experiments in two figures, turned so that the first has more that could be shared. */
typedef struct pair_row {
    const report_row *more, *less;
    report_estimate saved, alike;
    bool saved_differs, alike_differs;
} pair_row;

static report_estimate turned(report_estimate estimate, bool turn) {
    if (!turn)
        return estimate;
    return (report_estimate){-estimate.mean, -estimate.high, -estimate.low};
}

static report_estimate difference_estimate(const json_t *difference) {
    return (report_estimate){number_at(difference, "difference"), number_at(difference, "low"),
                             number_at(difference, "high")};
}

/** The difference of a pair in a figure over all layers, or NULL. */
static const json_t *find_difference(const report_data *data, const char *a, const char *b, const char *metric) {
    const json_t *differences = json_at(data->final, "differences"), *one;
    size_t index;
    json_array_foreach(differences, index, one) {
        if (strcmp(text_at(one, "metric"), metric) == 0 && strcmp(text_at(one, "kind"), "both") == 0 &&
            json_at(one, "layer") == NULL && strcmp(text_at(one, "a"), a) == 0 && strcmp(text_at(one, "b"), b) == 0)
            return one;
    }
    return NULL;
}

static int compare_pairs(const void *a, const void *b) {
    const pair_row *one = a, *other = b;
    if (one->saved.mean != other->saved.mean && isfinite(one->saved.mean) && isfinite(other->saved.mean))
        return one->saved.mean > other->saved.mean ? -1 : 1;
    if (one->alike.mean != other->alike.mean && isfinite(one->alike.mean) && isfinite(other->alike.mean))
        return one->alike.mean > other->alike.mean ? -1 : 1;
    return one->more->number != other->more->number ? (one->more->number < other->more->number ? -1 : 1)
                                                    : (one->less->number < other->less->number ? -1 : 1);
}

static size_t collect_pairs(const report_data *data, pair_row *pairs) {
    const json_t *differences = json_at(data->final, "differences"), *one;
    size_t index, count = 0;
    json_array_foreach(differences, index, one) {
        const report_row *a = row_of(data, text_at(one, "a")), *b = row_of(data, text_at(one, "b"));
        if (a == NULL || b == NULL || strcmp(text_at(one, "metric"), "saved_share") != 0 ||
            strcmp(text_at(one, "kind"), "both") != 0 || json_at(one, "layer") != NULL)
            continue;
        const json_t *alike = find_difference(data, a->name, b->name, "alike_excess");
        report_estimate saved = difference_estimate(one), excess = difference_estimate(alike);
        bool turn = saved.mean < 0.0 || (saved.mean == 0.0 && excess.mean < 0.0);
        pairs[count++] = (pair_row){turn ? b : a,
                                    turn ? a : b,
                                    turned(saved, turn),
                                    turned(excess, turn),
                                    truth_at(one, "different"),
                                    truth_at(alike, "different")};
    }
    qsort(pairs, count, sizeof *pairs, compare_pairs);
    return count;
}

static void write_difference(FILE *out, const report_column *column, const report_estimate *estimate, bool differs,
                             bar_range range) {
    cell_begin(out, column);
    dot_write(out, estimate, range, differs ? "main" : "muted");
    html_estimate(out, estimate, number_percent, "points");
    if (isfinite(estimate->mean))
        fprintf(out, " <span class=\"verdict%s\">%s</span>", differs ? "" : " no",
                differs                                            ? "more than noise"
                : estimate->mean == 0.0 && !has_interval(estimate) ? "none seen"
                                                                   : "may be noise");
    cell_end(out);
}

/** How far the verdicts can be trusted, or that not all are shown. */
static void write_verdict_note(FILE *out, size_t count) {
    if (count > MOST_PAIRS)
        fprintf(out,
                "<p class=\"note\">The %d largest of %zu differences; all are in <code>final_report.json</code>.</p>\n",
                MOST_PAIRS, count);
    else
        fprintf(out,
                "<p class=\"note\">With %zu comparison%s at 95\xc2\xa0%%, about one in twenty looks like a difference "
                "where there is none.</p>\n",
                count, count == 1 ? "" : "s");
}

void section_differences(const report_data *data, FILE *out) {
    static const char *const topics[] = {"temperature", NULL}, *const contents[] = {"content", NULL};
    static const report_column columns[] = {
        {"More redundant, less redundant", ""}, {"Could be shared", "mark"}, {"Alike beyond chance", "mark"}};
    pair_row *pairs = calloc(json_array_size(json_at(data->final, "differences")) + 1, sizeof *pairs);
    size_t count = pairs != NULL ? collect_pairs(data, pairs) : 0;
    bar_range saved = {0.0, 0.0}, alike = {0.0, 0.0};
    if (count == 0) {
        free(pairs);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        range_add(&saved, &pairs[i].saved);
        range_add(&alike, &pairs[i].alike);
    }
    saved = range_round(saved);
    alike = range_round(alike);
    fputs("<section id=\"differences\">\n<h2>Which differences are more than noise</h2>\n"
          "<p class=\"lead\">A difference counts only if its own 95\xc2\xa0% interval does not hold zero. "
          "Points are points of per cent.</p>\n",
          out);
    write_patterns(data, out, topics);
    table_begin(out, "Differences between each two experiments", NULL, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < count && i < MOST_PAIRS; i++) {
        row_open(out, pairs[i].more->words);
        fputs(" <span class=\"small\">over ", out);
        html_text(out, pairs[i].less->words);
        fputs("</span></th>", out);
        write_difference(out, &columns[1], &pairs[i].saved, pairs[i].saved_differs, saved);
        write_difference(out, &columns[2], &pairs[i].alike, pairs[i].alike_differs, alike);
        row_end(out);
    }
    table_end(out);
    write_verdict_note(out, count);
    fputs("<details><summary>In words, experiment by experiment</summary>\n", out);
    write_patterns(data, out, contents);
    fputs("</details>\n</section>\n", out);
    free(pairs);
}
