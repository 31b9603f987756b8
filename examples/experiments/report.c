#include "report.h"

#include "common/output.h"
#include "report_parts.h"
#include "report_style.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const report_kinds[2] = {"key", "value"};
const char *const report_kind_words[2] = {"Keys", "Values"};

/** The two experiments of the question that the program was made for. */
#define FIRST_OF_QUESTION  "repetitive_content"
#define SECOND_OF_QUESTION "code_generation"

/** What the browser may do with the page: show it, and nothing else. */
#define POLICY "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

/** "code_generation" as "Code generation". */
static void name_in_words(char words[WORDS_SIZE], const char *name) {
    snprintf(words, WORDS_SIZE, "%s", name);
    for (char *c = words; *c != 0; c++)
        if (*c == '_' || *c == '-')
            *c = ' ';
    words[0] = (char)toupper((unsigned char)words[0]);
}

const report_row *row_of(const report_data *data, const char *name) {
    for (size_t i = 0; i < data->count; i++)
        if (strcmp(data->rows[i].name, name) == 0)
            return &data->rows[i];
    return NULL;
}

bool rows_to_compare(const report_data *data, const report_row **first, const report_row **second) {
    const report_row *end = data->rows + data->complete;
    if (data->complete < 2)
        return false;
    *first = row_of(data, FIRST_OF_QUESTION);
    *second = row_of(data, SECOND_OF_QUESTION);
    if (*first == NULL || *second == NULL || *first >= end || *second >= end) {
        *first = &data->rows[0];
        *second = end - 1;
    }
    return layers_of(*first) > 0 && layers_of(*second) > 0;
}

size_t layers_of(const report_row *row) {
    return json_array_size(json_at(row->results, "cache_analysis/layers"));
}

const json_t *layer_of(const report_row *row, size_t layer) {
    return json_array_get(json_at(row->results, "cache_analysis/layers"), layer);
}

double heat_scale(const report_data *data) {
    double most = 0.0;
    for (size_t i = 0; i < data->complete; i++)
        for (size_t layer = 0; layer < layers_of(&data->rows[i]); layer++)
            for (size_t kind = 0; kind < 2; kind++) {
                char path[64];
                snprintf(path, sizeof path, "%s/alike_excess/mean", report_kinds[kind]);
                most = fmax(most, number_at(layer_of(&data->rows[i], layer), path));
            }
    return fmin(1.0, fmax(0.01, most <= 0.1 ? ceil(100.0 * most) / 100.0 : ceil(10.0 * most - 1e-9) / 10.0));
}

/** Complete ones first, by what could be shared, then by what is alike; the others as they ran. */
static int compare_rows(const void *a, const void *b) {
    const report_row *one = a, *other = b;
    static const char *const figures[] = {"headline/saved_share/both/mean", "headline/alike_excess/both/mean"};
    bool one_complete = strcmp(text_at(one->summary, "status"), "complete") == 0;
    bool other_complete = strcmp(text_at(other->summary, "status"), "complete") == 0;
    if (one_complete != other_complete)
        return one_complete ? -1 : 1;
    for (size_t i = 0; one_complete && i < sizeof figures / sizeof *figures; i++) {
        double first = number_at(one->summary, figures[i]), second = number_at(other->summary, figures[i]);
        if (isfinite(first) != isfinite(second))
            return isfinite(first) ? -1 : 1;
        if (first != second && isfinite(first))
            return first > second ? -1 : 1;
    }
    return one->number < other->number ? -1 : 1;
}

static int read_rows(report_data *data, json_t *const *results, size_t count, error_text *error) {
    const json_t *experiments = json_at(data->final, "experiments"), *summary;
    size_t index;
    data->count = json_array_size(experiments);
    data->rows = calloc(data->count + 1, sizeof *data->rows);
    data->as_run = calloc(data->count + 1, sizeof *data->as_run);
    if (data->rows == NULL || data->as_run == NULL)
        return fail(error, "out of memory");
    json_array_foreach(experiments, index, summary) {
        report_row *row = &data->rows[index];
        row->summary = summary;
        row->number = index;
        row->name = text_at(summary, "name");
        name_in_words(row->words, row->name);
        bool complete = strcmp(text_at(summary, "status"), "complete") == 0;
        data->complete += complete;
        for (size_t i = 0; i < count && complete; i++)
            if (strcmp(text_at(results[i], "name"), row->name) == 0)
                row->results = results[i];
    }
    qsort(data->rows, data->count, sizeof *data->rows, compare_rows);
    size_t found = 0;
    for (size_t number = 0; number < data->count; number++)
        for (size_t i = 0; i < data->complete; i++)
            if (data->rows[i].number == number)
                data->as_run[found++] = &data->rows[i];
    return 0;
}

/** "6 experiments on the model tiny, each run 3 times · 25 November 2026 · kvsim 0.1.0". */
static void write_about(const report_data *data, FILE *out) {
    static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                         "July",    "August",   "September", "October", "November", "December"};
    const char *model = data->complete > 0 ? text_at(data->rows[0].summary, "model") : "";
    const char *time = text_at(data->final, "environment/time");
    const char *version = text_at(data->final, "environment/library_version");
    int year, month, day;
    fprintf(out, "<p class=\"about\">%zu experiment%s", data->count, data->count == 1 ? "" : "s");
    bool same = *model != 0;
    for (size_t i = 0; i < data->complete; i++)
        same = same && strcmp(text_at(data->rows[i].summary, "model"), model) == 0;
    if (same) {
        fputs(" on the model <b>", out);
        html_text(out, model);
        fputs("</b>", out);
    }
    if (sscanf(time, "%4d-%2d-%2d", &year, &month, &day) == 3 && month >= 1 && month <= 12)
        fprintf(out, " \xc2\xb7 %d %s %d", day, months[month - 1], year);
    if (*version != 0) {
        fputs(" \xc2\xb7 kvsim ", out);
        html_text(out, version);
    }
    fputs("</p>\n", out);
}

static void write_head(const report_data *data, FILE *out) {
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"" POLICY "\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n"
          "<link rel=\"icon\" href=\"data:,\">\n<title>How redundant is the KV-cache? "
          "kvsim-experiments</title>\n<style>\n",
          out);
    style_write(out);
    fputs("</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#answer\">To the answer</a>\n<header>\n"
          "<h1>How redundant is the KV-cache?</h1>\n",
          out);
    write_about(data, out);
    fputs("</header>\n<main>\n", out);
}

/** Order of the page. */
static void write_page(const report_data *data, FILE *out) {
    write_head(data, out);
    section_answer(data, out);
    section_experiments(data, out);
    section_differences(data, out);
    section_layers(data, out);
    section_places(data, out);
    section_distance(data, out);
    section_cost(data, out);
    section_failed(data, out);
    section_texts(data, out);
    section_method(data, out);
    section_limits(data, out);
    fputs("</main>\n<footer><p>Written by kvsim-experiments. Everything on this page comes from "
          "<code>final_report.json</code> and the <code>results.json</code> of each experiment, which lie beside it. "
          "The page loads nothing and runs nothing.</p></footer>\n</body>\n</html>\n",
          out);
}

static int write_file(const report_data *data, output_folder *folder, error_text *error) {
    char *page = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&page, &size);
    if (out == NULL)
        return fail(error, "cannot make the report: %s", strerror(errno));
    write_page(data, out);
    bool failed = ferror(out) != 0;
    failed = fclose(out) != 0 || failed;
    static const char *const names[] = {REPORT_NAME};
    int result = failed ? fail(error, "cannot make the report: out of memory")
                        : output_write(folder, REPORT_NAME, page, size, error);
    if (result == 0)
        result = output_commit(folder, names, 1, NULL, 0, error);
    free(page);
    return result;
}

int report_write(const char *output_path, const json_t *final_report, json_t *const *results, size_t count,
                 error_text *error) {
    report_data data = {.final = final_report, .settings = json_at(final_report, "settings")};
    output_folder *folder = output_open(output_path, error);
    if (folder == NULL)
        return -1;
    int result = read_rows(&data, results, count, error);
    if (result == 0) {
        data.folder = output_staging(folder);
        pictures_draw(&data);
        result = write_file(&data, folder, error);
    }
    free(data.as_run);
    free(data.rows);
    output_close(folder);
    return result;
}
