/* What the engines said of an experiment's runs: time, memory, tokens, outputs. */
#include "analyze/figures.h"
#include "common/json_file.h"
#include "common/json_text.h"
#include "path_text.h"
#include "results_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static json_t *read_document(const char *folder, const char *name, error_text *error) {
    path_text path;
    return path_make(&path, error, "%s/%s", folder, name) == 0 ? json_file_read(path.text, error) : NULL;
}

int run_documents_open(run_documents *documents, const experiment_runs *runs, error_text *error) {
    *documents = (run_documents){.e = runs->e, .repeats = runs->run_count};
    documents->generations = calloc(runs->run_count + 1, sizeof *documents->generations);
    documents->analyses = calloc(runs->run_count + 1, sizeof *documents->analyses);
    if (documents->generations == NULL || documents->analyses == NULL)
        return fail(error, "out of memory");
    for (size_t r = 0; r < runs->run_count; r++) {
        documents->generations[r] = read_document(runs->run_folders[r], "generation.json", error);
        documents->analyses[r] = read_document(runs->run_folders[r], ANALYSIS_NAME, error);
        if (documents->generations[r] == NULL || documents->analyses[r] == NULL)
            return -1;
        if (member_count(documents->analyses[r], "sequences") != member_count(documents->analyses[0], "sequences"))
            return fail(error, "%s: the repeats have another number of sequences", runs->e->name);
    }
    return runs->run_count > 0 ? 0 : fail(error, "%s has no run", runs->e->name);
}

void run_documents_close(run_documents *documents) {
    for (size_t r = 0; r < documents->repeats; r++) {
        if (documents->generations != NULL)
            json_decref(documents->generations[r]);
        if (documents->analyses != NULL)
            json_decref(documents->analyses[r]);
    }
    free(documents->generations);
    free(documents->analyses);
}

/** Spread of a member of an object of generation.json. NULL when out of memory. */
static json_t *spread_of(const run_documents *documents, const char *object, const char *name) {
    double *values = calloc(documents->repeats + 1, sizeof *values);
    for (size_t r = 0; values != NULL && r < documents->repeats; r++)
        values[r] = member_number(json_object_get(documents->generations[r], object), name);
    json_t *spread = values != NULL ? spread_document(values, documents->repeats) : NULL;
    free(values);
    return spread;
}

/** Spread of a rate. NULL when out of memory. */
static json_t *spread_of_rate(const run_documents *documents, const char *tokens, const char *seconds) {
    double *values = calloc(documents->repeats + 1, sizeof *values);
    for (size_t r = 0; values != NULL && r < documents->repeats; r++) {
        const json_t *timing = json_object_get(documents->generations[r], "timing");
        double time = member_number(timing, seconds);
        values[r] = time > 0.0 ? member_number(timing, tokens) / time : (double)NAN;
    }
    json_t *spread = values != NULL ? spread_document(values, documents->repeats) : NULL;
    free(values);
    return spread;
}

/** A growing list of numbers. Zero is empty. */
typedef struct number_list {
    double *values;
    size_t count, capacity;
} number_list;

static int add_number(number_list *list, const json_t *value) {
    if (!json_is_number(value))
        return 0;
    if (list->count == list->capacity) {
        size_t larger = 2 * list->capacity + 64;
        double *values = realloc(list->values, larger * sizeof *values);
        if (values == NULL)
            return -1;
        list->values = values;
        list->capacity = larger;
    }
    list->values[list->count++] = json_number_value(value);
    return 0;
}

static json_t *quantiles_of(number_list *list) {
    double sum = 0.0;
    for (size_t i = 0; i < list->count; i++)
        sum += list->values[i];
    json_t *document = json_object();
    json_object_set_new(document, "count", json_integer((json_int_t)list->count));
    json_object_set_new(document, "mean", json_number(list->count > 0 ? sum / (double)list->count : (double)NAN));
    json_object_set_new(document, "p50", json_number(sorted_quantile(list->values, list->count, 0.50)));
    json_object_set_new(document, "p95", json_number(sorted_quantile(list->values, list->count, 0.95)));
    json_object_set_new(document, "p99", json_number(sorted_quantile(list->values, list->count, 0.99)));
    free(list->values);
    return document;
}

/** Quantiles of a number of every sequence of all repeats, or of the numbers of an array. NULL when out of memory. */
static json_t *quantiles(const run_documents *documents, const char *name) {
    number_list list = {NULL, 0, 0};
    const json_t *sequence, *value;
    size_t i, j;
    int status = 0;
    for (size_t r = 0; r < documents->repeats; r++) {
        json_array_foreach(json_object_get(documents->generations[r], "sequences"), i, sequence) {
            const json_t *own = json_object_get(sequence, name);
            status |= add_number(&list, own);
            json_array_foreach(own, j, value) status |= add_number(&list, value);
        }
    }
    json_t *document = quantiles_of(&list);
    if (status == 0)
        return document;
    json_decref(document);
    return NULL;
}

json_t *describe_timing(const run_documents *documents) {
    json_t *timing = json_object();
    json_object_set_new(timing, "prefill_tokens_per_second",
                        spread_of_rate(documents, "prefill_tokens", "prefill_seconds"));
    json_object_set_new(timing, "decode_tokens_per_second",
                        spread_of_rate(documents, "decode_tokens", "decode_seconds"));
    json_object_set_new(timing, "prefill_seconds", spread_of(documents, "timing", "prefill_seconds"));
    json_object_set_new(timing, "decode_seconds", spread_of(documents, "timing", "decode_seconds"));
    json_object_set_new(timing, "wall_seconds", spread_of(documents, "timing", "wall_seconds"));
    json_object_set_new(timing, "first_token_seconds", quantiles(documents, "first_token_seconds"));
    json_object_set_new(timing, "between_tokens_seconds", quantiles(documents, "token_seconds"));
    return timing;
}

json_t *describe_memory(const run_documents *documents, bool reproducible) {
    static const char *const names[] = {"kv_reserved_bytes", "kv_used_bytes", "kv_partial_lost_bytes",
                                        "kv_prefix_shared_bytes"};
    json_t *memory = json_object();
    if (!reproducible)
        json_object_set_new(memory, "peak_rss_bytes", spread_of(documents, "memory", "peak_rss_bytes"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        json_object_set_new(memory, names[i], spread_of(documents, "memory", names[i]));
    return memory;
}

/** Tokens of all sequences of a repeat; NaN where one is unknown. */
static double sum_tokens(const json_t *generation, const char *name) {
    const json_t *sequence;
    size_t index;
    double sum = 0.0;
    json_array_foreach(json_object_get(generation, "sequences"), index, sequence) {
        const json_t *own = json_object_get(sequence, name);
        sum += json_is_array(own)                                           ? (double)json_array_size(own)
               : json_is_number(json_object_get(sequence, "prompt_tokens")) ? json_number_value(own)
                                                                            : (double)NAN;
    }
    return sum;
}

json_t *describe_tokens(const run_documents *documents) {
    static const char *const members[][2] = {
        {"prompt", "prompt_tokens"}, {"output", "output_tokens"}, {"cut", "prompt_cut"}};
    json_t *tokens = json_object();
    double *values = calloc(documents->repeats + 1, sizeof *values);
    for (size_t i = 0; values != NULL && i < sizeof members / sizeof *members; i++) {
        for (size_t r = 0; r < documents->repeats; r++)
            values[r] = sum_tokens(documents->generations[r], members[i][1]);
        json_object_set_new(tokens, members[i][0], spread_document(values, documents->repeats));
    }
    free(values);
    return tokens;
}

json_t *describe_engine(const run_documents *documents) {
    const json_t *first = documents->generations[0];
    return json_pack("{s:s, s:s}", "name", member_text(first, "engine"), "version",
                     member_text(first, "engine_version"));
}

json_t *describe_ignored_fields(const run_documents *documents) {
    json_t *fields = json_object_get(documents->generations[0], "ignored_fields");
    return json_is_array(fields) ? json_incref(fields) : json_array();
}

json_t *describe_environment(void) {
    json_t *environment = json_object();
    char text[64];
    time_t now = time(NULL);
    struct tm parts;
    struct utsname machine;
    gmtime_r(&now, &parts);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    json_object_set_new(environment, "time", json_string(text));
    if (uname(&machine) == 0) {
        json_object_set_new(environment, "system", json_string(machine.sysname));
        json_object_set_new(environment, "release", json_string(machine.release));
        json_object_set_new(environment, "machine", json_string(machine.machine));
    }
    json_object_set_new(environment, "processors", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(environment, "program_version", json_string(KVSIM_VERSION_STRING));
    json_object_set_new(environment, "library_version", json_string(kvsim_version_string()));
    return environment;
}
