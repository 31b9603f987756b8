/* final_report.json: all experiments beside each other. */
#include "analysis_series.h"
#include "analyze/figures.h"
#include "common/json_file.h"
#include "common/json_text.h"
#include "path_text.h"
#include "patterns.h"
#include "results_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/** All experiments, and what is known of them. */
typedef struct final_report {
    const experiment_runs *experiments;
    run_documents *documents; /**< [count] zero where an experiment is not complete */
    size_t count;
    bool reproducible;
} final_report;

static bool is_complete(const final_report *report, size_t i) {
    const experiment_runs *runs = &report->experiments[i];
    return runs->failure == NULL && runs->run_count > 0 && runs->run_count == (size_t)runs->e->repeats;
}

static int open_documents(final_report *report, error_text *error) {
    report->documents = calloc(report->count + 1, sizeof *report->documents);
    if (report->documents == NULL)
        return fail(error, "out of memory");
    for (size_t i = 0; i < report->count; i++)
        if (is_complete(report, i) && run_documents_open(&report->documents[i], &report->experiments[i], error) != 0)
            return -1;
    return 0;
}

static void close_documents(final_report *report) {
    for (size_t i = 0; report->documents != NULL && i < report->count; i++)
        run_documents_close(&report->documents[i]);
    free(report->documents);
}

static json_t *describe_experiment(const final_report *report, size_t i) {
    const experiment *e = report->experiments[i].e;
    const run_documents *documents = &report->documents[i];
    bool complete = is_complete(report, i);
    const char *failure = report->experiments[i].failure, *hash = report->experiments[i].config_hash;
    json_t *object = json_object(), *seeds = json_array();
    for (int64_t r = 0; r < e->repeats; r++)
        json_array_append_new(seeds, json_integer((json_int_t)experiment_repeat_seed(e, r)));
    json_object_set_new(object, "name", json_string(e->name));
    json_object_set_new(object, "description", json_string(e->description));
    json_object_set_new(object, "status", json_string(complete ? "complete" : failure != NULL ? "failed" : "not_run"));
    json_object_set_new(object, "failure", failure != NULL ? json_string(failure) : json_null());
    json_object_set_new(object, "results", complete ? json_sprintf("%s/" RESULTS_NAME, e->name) : json_null());
    json_object_set_new(object, "config_hash", hash != NULL ? json_string(hash) : json_null());
    json_object_set_new(object, "engine", complete ? describe_engine(documents) : json_null());
    json_t *model = complete ? json_object_get(json_object_get(documents->generations[0], "model"), "name") : NULL;
    json_object_set_new(object, "model", model != NULL ? json_incref(model) : json_null());
    json_object_set_new(object, "temperature", json_real(e->temperature));
    json_object_set_new(object, "repeats", json_integer((json_int_t)e->repeats));
    json_object_set_new(object, "seeds", seeds);
    json_object_set_new(object, "sequences", json_integer((json_int_t)e->prompt_count));
    json_object_set_new(object, "tokens", complete ? describe_tokens(documents) : json_null());
    json_object_set_new(object, "ignored_fields", complete ? describe_ignored_fields(documents) : json_array());
    json_object_set_new(object, "headline", complete ? describe_headline(documents, SCOPE_ALL) : json_null());
    json_object_set_new(object, "within_sequence", complete ? describe_within(documents) : json_null());
    json_object_set_new(object, "between_sequences",
                        complete ? describe_headline(documents, SCOPE_BETWEEN) : json_null());
    if (!report->reproducible)
        json_object_set_new(object, "timing", complete ? describe_timing(documents) : json_null());
    json_object_set_new(object, "memory_stats",
                        complete ? describe_memory(documents, report->reproducible) : json_null());
    return object;
}

static json_t *describe_experiments(const final_report *report) {
    json_t *experiments = json_array();
    for (size_t i = 0; i < report->count; i++)
        json_array_append_new(experiments, describe_experiment(report, i));
    return experiments;
}

/* ---- differences ---- */

static bool same_prompts(const experiment *a, const experiment *b) {
    if (a->prompt_count != b->prompt_count)
        return false;
    for (size_t i = 0; i < a->prompt_count; i++)
        if (a->prompt_sizes[i] != b->prompt_sizes[i] || memcmp(a->prompts[i], b->prompts[i], a->prompt_sizes[i]) != 0)
            return false;
    return true;
}

/** What is compared of two experiments. */
typedef struct compared {
    int metric;
    const char *kind;
    long long layer; /**< ANY_LAYER, or one */
} compared;

/** Append one difference. 0, or -1 when out of memory. */
static int add_difference(const final_report *report, size_t first, size_t second, const compared *what,
                          json_t *differences) {
    const run_documents *a = &report->documents[first], *b = &report->documents[second];
    const metric *of = &metrics[what->metric];
    share_counts counts[2];
    estimate means[2];
    difference found = {0};
    bool paired = same_prompts(a->e, b->e);
    int status = metric_counts(a, of, SCOPE_ALL, what->kind, what->layer, &counts[0]);
    int second_status = metric_counts(b, of, SCOPE_ALL, what->kind, what->layer, &counts[1]);
    if (status == 0 && second_status == 0)
        status = estimate_difference(&counts[0], &counts[1], of->aspect, paired, a->e->seed, &found);
    for (int side = 0; side < 2 && status == 0 && second_status == 0; side++)
        status = estimate_share(&counts[side], of->aspect, 0.0, 1.0, a->e->seed, &means[side]);
    share_counts_close(&counts[0]);
    share_counts_close(&counts[1]);
    if (status != 0 || second_status != 0)
        return -1;
    json_t *object = json_object();
    json_object_set_new(object, "a", json_string(a->e->name));
    json_object_set_new(object, "b", json_string(b->e->name));
    json_object_set_new(object, "metric", json_string(of->name));
    json_object_set_new(object, "kind", json_string(what->kind));
    if (what->layer != ANY_LAYER)
        json_object_set_new(object, "layer", json_integer(what->layer));
    json_object_set_new(object, "a_mean", json_number(means[0].mean));
    json_object_set_new(object, "b_mean", json_number(means[1].mean));
    json_object_set_new(object, "difference", json_number(found.difference));
    json_object_set_new(object, "low", json_number(found.low));
    json_object_set_new(object, "high", json_number(found.high));
    json_object_set_new(object, "paired", json_boolean(paired));
    json_object_set_new(object, "different", json_boolean(found.different));
    return json_array_append_new(differences, object);
}

/** Every pair of complete experiments, over all layers; by layer too, which the answer may want of any pair. */
static json_t *describe_differences(const final_report *report) {
    static const compared wanted[] = {{METRIC_SAVED, "both", ANY_LAYER},
                                      {METRIC_EXACT, "both", ANY_LAYER},
                                      {METRIC_EXCESS, "key", ANY_LAYER},
                                      {METRIC_EXCESS, "value", ANY_LAYER},
                                      {METRIC_EXCESS, "both", ANY_LAYER}};
    json_t *differences = json_array();
    int status = 0;
    for (size_t i = 0; i < report->count; i++) {
        for (size_t j = i + 1; j < report->count && is_complete(report, i); j++) {
            if (!is_complete(report, j))
                continue;
            for (size_t w = 0; w < sizeof wanted / sizeof *wanted && status == 0; w++)
                status = add_difference(report, i, j, &wanted[w], differences);
            json_int_t layers =
                (json_int_t)member_count(json_object_get(report->documents[i].analyses[0], "facts"), "layers");
            for (long long layer = 0; layer < layers; layer++)
                for (int kind = 0; kind < RESULT_KINDS && status == 0; kind++) {
                    compared one = {METRIC_EXCESS, result_kinds[kind], layer};
                    status = add_difference(report, i, j, &one, differences);
                }
        }
    }
    if (status != 0) {
        json_decref(differences);
        return NULL;
    }
    return differences;
}

/* ---- the rest ---- */

/** The comparison between experiments, as the report holds it. */
static json_t *describe_between(const char *path, error_text *error) {
    json_t *document = json_file_read(path, error), *pair;
    size_t index;
    if (document == NULL)
        return NULL;
    json_t *pairs = json_object_get(document, "pairs"), *between = json_object();
    json_t *view = json_object_get(json_array_get(pairs, 0), "view");
    json_object_set_new(between, "view", view != NULL ? json_incref(view) : json_null());
    json_object_set_new(between, "repeat", json_integer(0));
    json_object_set(between, "pairs", pairs);
    json_object_set(between, "left_out", json_object_get(document, "left_out"));
    json_array_foreach(pairs, index, pair) json_object_del(pair, "view");
    json_decref(document);
    return between;
}

/** Settings are the same for all experiments, but for the views, which are those of the first. */
static json_t *settings_of_first(const final_report *report) {
    for (size_t i = 0; i < report->count; i++)
        if (is_complete(report, i))
            return describe_settings(&report->documents[i]);
    return json_null();
}

static json_t *describe_total(const final_report *report) {
    double seconds = 0.0;
    for (size_t i = 0; i < report->count; i++)
        for (size_t r = 0; r < report->documents[i].repeats; r++)
            seconds += member_number(json_object_get(report->documents[i].generations[r], "timing"), "wall_seconds");
    return json_pack("{s:o}", "generation_seconds", json_number(seconds));
}

static json_t *build(const final_report *report, const char *between, error_text *error) {
    json_t *experiments = describe_experiments(report), *differences = describe_differences(report);
    json_t *compared_pages = between != NULL ? describe_between(between, error) : json_null();
    json_t *document = json_object();
    if (experiments == NULL || differences == NULL || compared_pages == NULL || document == NULL) {
        json_decref(experiments);
        json_decref(differences);
        json_decref(compared_pages);
        json_decref(document);
        if (error->text[0] == 0)
            fail(error, "out of memory");
        return NULL;
    }
    json_object_set_new(document, "schema", json_string(FINAL_REPORT_SCHEMA));
    json_object_set_new(document, "answer", patterns_answer(experiments, differences));
    json_object_set_new(document, "settings", settings_of_first(report));
    json_object_set_new(document, "experiments", experiments);
    json_object_set_new(document, "differences", differences);
    json_object_set_new(document, "between_experiments", compared_pages);
    json_object_set_new(document, "patterns", patterns_between_experiments(experiments, differences, compared_pages));
    json_object_set_new(document, "method", patterns_method(experiments));
    json_object_set_new(document, "not_shown", patterns_not_shown(experiments));
    if (!report->reproducible) {
        json_object_set_new(document, "total", describe_total(report));
        json_object_set_new(document, "environment", describe_environment());
    }
    return document;
}

int results_final(const char *output_folder, const experiment_runs *experiments, size_t count, const char *between,
                  bool reproducible, error_text *error) {
    final_report report = {experiments, NULL, count, reproducible};
    path_text path;
    json_t *document = NULL;
    error->text[0] = 0;
    int status = open_documents(&report, error);
    if (status == 0)
        status = path_make(&path, error, "%s/" FINAL_REPORT_NAME, output_folder);
    if (status == 0 && (document = build(&report, between, error)) == NULL)
        status = -1;
    if (status == 0)
        status = json_file_write(path.text, document, error);
    json_decref(document);
    close_documents(&report);
    return status;
}
