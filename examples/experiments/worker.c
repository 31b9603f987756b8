#include "worker.h"

#include "analysis.h"
#include "common/json_file.h"
#include "engine_builtin.h"
#include "engine_command.h"
#include "engine_transformers.h"
#include "path_text.h"
#include "report.h"
#include "results.h"
#include "store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvsim/kvsim.h>

/** Shortest time between two lines of progress. */
#define PROGRESS_SECONDS 0.05

/** A piece of work. */
typedef struct work {
    const char *folder;
    json_t *job;
    experiment_list experiments;
    error_text *error;
    double last_progress;
} work;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/** Tell the campaign something. */
static void tell(const char *what, const char *text) {
    printf("%s %s\n", what, text);
    fflush(stdout);
}

static void tell_progress(void *user, int64_t done, int64_t total) {
    work *w = user;
    double now = seconds_now();
    if (done < total && now - w->last_progress < PROGRESS_SECONDS)
        return;
    w->last_progress = now;
    printf("progress %" PRId64 " %" PRId64 "\n", done, total);
    fflush(stdout);
}

/** A member of the job; empty, 0 or NULL where it is absent. */
static int64_t job_integer(const work *w, const char *name) {
    return json_integer_value(json_object_get(w->job, name));
}

static bool job_flag(const work *w, const char *name) {
    return json_is_true(json_object_get(w->job, name));
}

static const char *job_text(const work *w, const char *name) {
    return json_string_value(json_object_get(w->job, name));
}

static int open_work(work *w) {
    path_text path;
    if (path_make(&path, w->error, "%s/" JOB_NAME, w->folder) != 0 ||
        (w->job = json_file_read(path.text, w->error)) == NULL ||
        path_make(&path, w->error, "%s/" EXPERIMENTS_NAME, w->folder) != 0)
        return -1;
    return specification_read(&w->experiments, path.text, w->error);
}

static int write_document(const work *w, const char *name, const json_t *document) {
    path_text path;
    return path_make(&path, w->error, "%s/%s", w->folder, name) != 0 ? -1
                                                                     : json_file_write(path.text, document, w->error);
}

static engine_limits limits_of(work *w) {
    return (engine_limits){.seconds = json_number_value(json_object_get(w->job, "seconds")),
                           .threads = (int32_t)job_integer(w, "engine_threads"),
                           .python = job_text(w, "python"),
                           .progress = tell_progress,
                           .progress_user = w};
}

static int do_plan(work *w) {
    engine_limits limits = limits_of(w);
    json_t *plan = engine_builtin_plan(&w->experiments.items[0], job_flag(w, "trial"), &limits, w->error);
    int result = plan != NULL ? write_document(w, PLAN_NAME, plan) : -1;
    json_decref(plan);
    return result;
}

static int run_engine(work *w) {
    const experiment *e = &w->experiments.items[0];
    int64_t repeat = job_integer(w, "repeat");
    engine_limits limits = limits_of(w);
    tell("stage", STAGE_GENERATING);
    if (strcmp(e->engine, ENGINE_TRANSFORMERS) == 0)
        return engine_transformers_run(e, repeat, w->folder, &limits, w->error);
    if (strcmp(e->engine, ENGINE_COMMAND) == 0)
        return engine_command_run(e, repeat, w->folder, &limits, w->error);
    return engine_builtin_run(e, repeat, w->folder, &limits, w->error);
}

static analysis_settings settings_of(work *w) {
    return (analysis_settings){
        .threads = (uint32_t)job_integer(w, "analysis_threads"), .progress = tell_progress, .progress_user = w};
}

static int do_run(work *w) {
    const experiment *e = &w->experiments.items[0];
    analysis_settings settings = settings_of(w);
    if (run_engine(w) != 0)
        return -1;
    tell("stage", STAGE_COMPARING);
    if (analysis_run(w->folder, e, &settings, w->error) != 0)
        return -1;
    json_t *object = experiment_to_json(e);
    int result = object != NULL ? write_document(w, EXPERIMENT_NAME, object) : fail(w->error, "out of memory");
    json_decref(object);
    json_t *run = json_object();
    json_object_set_new(run, "schema", json_string(RUN_SCHEMA));
    json_object_set_new(run, "name", json_string(e->name));
    json_object_set_new(run, "repeat", json_integer(job_integer(w, "repeat")));
    json_object_set_new(run, "config_hash", json_string(job_text(w, "config_hash")));
    json_object_set_new(run, "kvsim", json_string(KVSIM_VERSION_STRING));
    json_object_set_new(run, "complete", json_true());
    if (result == 0)
        result = write_document(w, RUN_NAME, run);
    json_decref(run);
    return result;
}

/** The experiments of a job with their runs. [owned] */
static experiment_runs *runs_of(const work *w) {
    const json_t *all = json_object_get(w->job, "runs");
    experiment_runs *runs = calloc(w->experiments.count, sizeof *runs);
    for (size_t i = 0; runs != NULL && i < w->experiments.count; i++) {
        const json_t *entry = json_array_get(all, i);
        const json_t *folders = json_object_get(entry, "run_folders");
        const char **paths = calloc(json_array_size(folders) + 1, sizeof *paths);
        for (size_t f = 0; paths != NULL && f < json_array_size(folders); f++)
            paths[f] = json_string_value(json_array_get(folders, f));
        runs[i].e = &w->experiments.items[i];
        runs[i].config_hash = json_string_value(json_object_get(entry, "config_hash"));
        runs[i].run_folders = paths;
        runs[i].run_count = paths != NULL ? json_array_size(folders) : 0;
        runs[i].failure = json_string_value(json_object_get(entry, "failure"));
    }
    return runs;
}

static void release_runs(experiment_runs *runs, size_t count) {
    for (size_t i = 0; runs != NULL && i < count; i++)
        free((void *)(uintptr_t)runs[i].run_folders);
    free(runs);
}

static int do_results(work *w) {
    error_text remark = {""};
    experiment_runs *runs = runs_of(w);
    if (runs == NULL)
        return fail(w->error, "out of memory");
    int result = results_write(job_text(w, "target"), &runs[0], job_flag(w, "reproducible"), job_flag(w, "pictures"),
                               &remark, w->error);
    release_runs(runs, w->experiments.count);
    if (result == 0 && remark.text[0] != 0)
        tell("remark", remark.text);
    return result;
}

static int do_between(work *w) {
    experiment_runs *runs = runs_of(w);
    size_t count = w->experiments.count;
    const char **folders = calloc(count, sizeof *folders), **names = calloc(count, sizeof *names);
    analysis_settings settings = settings_of(w);
    int result = runs == NULL || folders == NULL || names == NULL ? fail(w->error, "out of memory") : 0;
    for (size_t i = 0; result == 0 && i < count; i++) {
        folders[i] = runs[i].run_folders[0];
        names[i] = runs[i].e->name;
    }
    if (result == 0)
        result = analysis_between(folders, names, count, &settings, job_text(w, "target"), w->error);
    free(folders);
    free(names);
    release_runs(runs, count);
    return result;
}

/** report.html from final_report.json and the results of the experiments that have some. */
static int write_page(const work *w, const char *output, const experiment_runs *runs) {
    path_text path;
    size_t count = 0;
    json_t *report = NULL;
    json_t **results = calloc(w->experiments.count, sizeof *results);
    int result = results == NULL ? fail(w->error, "out of memory") : 0;
    if (result == 0)
        result = path_make(&path, w->error, "%s/" FINAL_REPORT_NAME, output);
    if (result == 0 && (report = json_file_read(path.text, w->error)) == NULL)
        result = -1;
    for (size_t i = 0; result == 0 && i < w->experiments.count; i++) {
        if (runs[i].failure != NULL)
            continue;
        result = path_make(&path, w->error, "%s/%s/" RESULTS_NAME, output, runs[i].e->name);
        if (result == 0 && (results[count++] = json_file_read(path.text, w->error)) == NULL)
            result = -1;
    }
    if (result == 0)
        result = report_write(output, report, results, count, w->error);
    for (size_t i = 0; i < count; i++)
        json_decref(results[i]);
    json_decref(report);
    free(results);
    return result;
}

static int do_final(work *w) {
    const char *output = job_text(w, "target");
    experiment_runs *runs = runs_of(w);
    if (runs == NULL)
        return fail(w->error, "out of memory");
    int result = results_final(output, runs, w->experiments.count, job_text(w, "between"), job_flag(w, "reproducible"),
                               w->error);
    if (result == 0)
        result = write_page(w, output, runs);
    release_runs(runs, w->experiments.count);
    return result;
}

/** What a kind of work is done by. */
typedef struct work_kind {
    const char *name;
    int (*perform)(work *w);
} work_kind;

int worker_main(const char *kind, const char *folder) {
    static const work_kind kinds[] = {{WORKER_PLAN, do_plan},
                                      {WORKER_RUN, do_run},
                                      {WORKER_RESULTS, do_results},
                                      {WORKER_BETWEEN, do_between},
                                      {WORKER_FINAL, do_final}};
    error_text error = {""};
    work w = {.folder = folder, .error = &error};
    int result = fail(&error, "there is no work of the kind '%s'", kind);
    watch_signals();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, kind) == 0)
            result = open_work(&w) != 0 ? -1 : kinds[i].perform(&w);
    if (result != 0)
        tell("error", error.text[0] != 0 ? error.text : "it failed without a reason");
    json_decref(w.job);
    experiments_release(&w.experiments);
    return result == 0 ? EXIT_SUCCESS : EXIT_FAILED;
}
