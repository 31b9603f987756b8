/* The pieces of work of a campaign: which comes next, what its worker is told, and what becomes of it. */
#include "campaign_state.h"

#include "common/json_file.h"
#include "common/terminal.h"
#include "results.h"
#include "worker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/** Estimated seconds of a plan. */
#define PLAN_SECONDS 0.3

/** Longest wait for something to happen. */
#define WAIT_MILLISECONDS 50

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t item_complete_runs(const campaign_item *item) {
    int64_t complete = 0;
    for (int64_t r = 0; r < item->e->repeats; r++)
        complete += item->runs[r] == WORK_DONE;
    return complete;
}

bool item_is_complete(const campaign_item *item) {
    return item->failure == NULL && item_complete_runs(item) == item->e->repeats;
}

bool item_is_comparable(const campaign *c, const campaign_item *item) {
    return item_is_complete(item) && store_has_dump(c->store, item->e->name, 0);
}

void campaign_say(const campaign *c, const char *format, ...) {
    char text[ERROR_TEXT_SIZE], line[ERROR_TEXT_SIZE + sizeof PROGRAM + 2];
    va_list arguments;
    if (c->options->quiet)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(line, sizeof line, PROGRAM ": %s", text);
    progress_print(c->display, line);
}

void item_fail(campaign *c, campaign_item *item, const char *reason) {
    char line[ERROR_TEXT_SIZE + 256];
    if (item->failure != NULL)
        return;
    item->failure = strdup(reason);
    snprintf(line, sizeof line, PROGRAM ": experiment %s failed: %s", item->e->name, reason);
    progress_print(c->display, line);
}

/* ---- What comes next ---- */

static bool needs_plan(const campaign_item *item) {
    return item->failure == NULL && item->planned == WORK_WAITING;
}

bool next_plan(campaign *c, task *t) {
    for (size_t i = 0; i < c->count; i++) {
        if (!needs_plan(&c->items[i]))
            continue;
        c->items[i].planned = WORK_STARTED;
        t->kind = WORKER_PLAN;
        t->item = i;
        return true;
    }
    return false;
}

/** The first run of an experiment that waits; -1: none. */
static int64_t waiting_run(const campaign_item *item) {
    for (int64_t r = 0; r < item->e->repeats; r++)
        if (item->runs[r] == WORK_WAITING)
            return r;
    return -1;
}

bool next_run(campaign *c, task *t) {
    for (size_t i = 0; i < c->count; i++) {
        campaign_item *item = &c->items[i];
        int64_t repeat = item->failure == NULL ? waiting_run(item) : -1;
        t->item = i;
        if (repeat >= 0) {
            item->runs[repeat] = WORK_STARTED;
            t->kind = WORKER_RUN;
            t->repeat = repeat;
            t->limit = c->options->time_limit;
            return true;
        }
        if (item_is_complete(item) && item->results == WORK_WAITING) {
            item->results = WORK_STARTED;
            t->kind = WORKER_RESULTS;
            return true;
        }
    }
    return false;
}

bool next_ending(campaign *c, task *t) {
    if (c->between == WORK_WAITING) {
        c->between = WORK_STARTED;
        t->kind = WORKER_BETWEEN;
        return true;
    }
    if (c->between == WORK_DONE && c->final == WORK_WAITING) {
        c->final = WORK_STARTED;
        t->kind = WORKER_FINAL;
        return true;
    }
    return false;
}

/* ---- What a worker is told ---- */

static void set_flag(json_t *job, const char *name, bool value) {
    json_object_set_new(job, name, json_boolean(value));
}

/** Threads of one analysis, whose outcome does not depend on them. */
static int64_t count_analysis_threads(const campaign *c) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t share = (cores > 0 ? cores : 1) / c->options->jobs;
    return c->options->threads > 0 ? c->options->threads : share > 0 ? share : 1;
}

/**
 * Threads of an engine; 0: as it likes. OpenBLAS rounds differently with another number of them, so the embedded engine
 * has one unless the user says another number: outcomes then do not depend on the cores of the machine.
 */
static int64_t count_engine_threads(const campaign *c, const task *t) {
    bool builtin = strcmp(c->items[t->item].e->engine, ENGINE_BUILTIN) == 0;
    return c->options->threads == 0 && builtin ? 1 : c->options->threads;
}

/** What the worker must know of an experiment's runs, for results and reports. */
static json_t *describe_runs(const campaign *c, const campaign_item *item, error_text *error) {
    path_text path;
    json_t *folders = json_array();
    json_t *runs = json_object();
    for (int64_t r = 0; r < item->e->repeats; r++) {
        if (item->runs[r] != WORK_DONE || store_run_folder(c->store, item->e->name, r, &path, error) != 0)
            continue;
        json_array_append_new(folders, json_string(path.text));
    }
    if (json_array_size(folders) > 0)
        json_object_set_new(runs, "config_hash", json_string(item->hashes[0]));
    json_object_set_new(runs, "run_folders", folders);
    if (item->failure != NULL) {
        json_object_set_new(runs, "failure", json_string(item->failure));
    } else if (!item_is_complete(item)) {
        char text[96];
        snprintf(text, sizeof text, "interrupted when %" PRId64 " of %" PRId64 " runs were complete",
                 item_complete_runs(item), item->e->repeats);
        json_object_set_new(runs, "failure", json_string(text));
    }
    return runs;
}

/** The experiments of a piece of work into `chosen` [count]; returns how many. */
static size_t choose(const campaign *c, const task *t, const campaign_item **chosen) {
    bool about_one = strcmp(t->kind, WORKER_BETWEEN) != 0 && strcmp(t->kind, WORKER_FINAL) != 0;
    size_t count = 0;
    if (about_one) {
        chosen[0] = &c->items[t->item];
        return 1;
    }
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(t->kind, WORKER_FINAL) == 0 || item_is_comparable(c, &c->items[i]))
            chosen[count++] = &c->items[i];
    return count;
}

static json_t *make_job(const campaign *c, const task *t, const campaign_item *const *chosen, size_t count,
                        error_text *error) {
    const campaign_options *options = c->options;
    json_t *job = json_object();
    json_t *runs = json_array();
    json_object_set_new(job, "engine_threads", json_integer(count_engine_threads(c, t)));
    json_object_set_new(job, "analysis_threads", json_integer(count_analysis_threads(c)));
    json_object_set_new(job, "seconds", json_real(options->time_limit));
    if (options->python != NULL)
        json_object_set_new(job, "python", json_string(options->python));
    set_flag(job, "trial", options->dry_run);
    set_flag(job, "reproducible", options->reproducible);
    set_flag(job, "pictures", !options->no_plots);
    if (strcmp(t->kind, WORKER_RUN) == 0) {
        json_object_set_new(job, "repeat", json_integer(t->repeat));
        json_object_set_new(job, "config_hash", json_string(c->items[t->item].hashes[t->repeat]));
    } else if (strcmp(t->kind, WORKER_PLAN) != 0) {
        for (size_t i = 0; i < count; i++)
            json_array_append_new(runs, describe_runs(c, chosen[i], error));
    }
    json_object_set_new(job, "runs", runs);
    return job;
}

/** Where the comparison between experiments is kept. */
static int between_path(const campaign *c, path_text *path, error_text *error) {
    return path_make(path, error, "%s/.runs/" ALL_FOLDER "/between.json", store_path(c->store));
}

/** Make the folder of a piece of work, and say in `job` where the outcome goes. */
static int stage(const campaign *c, task *t, json_t *job, error_text *error) {
    const char *name = c->items[t->item].e->name;
    path_text path;
    int result;
    char label[64];
    path.text[0] = 0;
    if (strcmp(t->kind, WORKER_PLAN) == 0 && c->store == NULL) {
        result = path_make(&t->folder, error, "%s/%s", c->plans.text, name);
        if (result == 0)
            result = path_make_folders(t->folder.text, error);
    } else if (strcmp(t->kind, WORKER_RUN) == 0) {
        snprintf(label, sizeof label, "run-%" PRId64, t->repeat);
        result = store_stage(c->store, name, label, &t->folder, error);
    } else if (strcmp(t->kind, WORKER_BETWEEN) == 0) {
        result = store_stage(c->store, ALL_FOLDER, t->kind, &t->folder, error);
        if (result == 0)
            result = between_path(c, &path, error);
    } else if (strcmp(t->kind, WORKER_FINAL) == 0) {
        result = store_stage(c->store, ALL_FOLDER, t->kind, &t->folder, error);
        if (result == 0 && c->between_stamp != NULL && between_path(c, &path, error) == 0)
            json_object_set_new(job, "between", json_string(path.text));
        if (result == 0)
            result = path_make(&path, error, "%s", store_path(c->store));
    } else {
        result = store_stage(c->store, name, t->kind, &t->folder, error);
        if (result == 0)
            result = path_make(&path, error, "%s/%s", store_path(c->store), name);
    }
    json_object_set_new(job, "target", json_string(path.text));
    return result;
}

int campaign_begin(campaign *c, task *t, error_text *error) {
    const campaign_item **chosen = calloc(c->count, sizeof *chosen);
    const experiment **experiments = calloc(c->count, sizeof *experiments);
    int result = -1;
    if (chosen == NULL || experiments == NULL) {
        fail(error, "out of memory");
    } else {
        size_t count = choose(c, t, chosen);
        for (size_t i = 0; i < count; i++)
            experiments[i] = chosen[i]->e;
        json_t *job = make_job(c, t, chosen, count, error);
        result = stage(c, t, job, error);
        if (result == 0)
            result = task_start(t, job, experiments, count, error);
        else
            json_decref(job);
    }
    free(chosen);
    free(experiments);
    return result;
}

/* ---- What becomes of it ---- */

/** Say once which fields of an experiment have no effect. */
static void warn_of_ignored(campaign *c, campaign_item *item, const json_t *names) {
    size_t index;
    const json_t *name;
    if (item->warned)
        return;
    json_array_foreach(names, index, name) {
        item->warned = true;
        campaign_say(c, "experiment %s: %s has no effect on the engine %s", item->e->name, json_string_value(name),
                     item->e->engine);
    }
}

static void finish_plan(campaign *c, task *t, int outcome, const error_text *text) {
    campaign_item *item = &c->items[t->item];
    path_text path;
    error_text reason = *text;
    if (outcome == 0)
        outcome = path_make(&path, &reason, "%s/" PLAN_NAME, t->folder.text);
    if (outcome == 0 && (item->plan = json_file_read(path.text, &reason)) == NULL)
        outcome = -1;
    item->planned = WORK_DONE;
    if (outcome != 0) {
        item_fail(c, item, reason.text);
        return;
    }
    item->estimate = estimate_run(item->e, item->plan);
    warn_of_ignored(c, item, json_object_get(item->plan, "ignored_fields"));
    int64_t cut = json_integer_value(json_object_get(item->plan, "cut_tokens"));
    if (cut > 0)
        campaign_say(c, "experiment %s: %" PRId64 " tokens of its prompts are cut to fit the context", item->e->name,
                     cut);
}

/** Put a run that is complete in its place. */
static int keep_run(campaign *c, task *t, error_text *error) {
    campaign_item *item = &c->items[t->item];
    path_text path;
    error_text ignored;
    static const char *const done_with[] = {JOB_NAME, EXPERIMENTS_NAME, "dump.safetensors"};
    bool keep_dump = c->options->keep_dumps || t->repeat == 0;
    for (size_t i = 0; i < sizeof done_with / sizeof *done_with - (keep_dump ? 1 : 0); i++)
        if (path_make(&path, &ignored, "%s/%s", t->folder.text, done_with[i]) == 0)
            unlink(path.text);
    if (path_make(&path, error, "%s/" GENERATION_NAME, t->folder.text) != 0)
        return -1;
    json_t *generation = json_file_read(path.text, error);
    if (generation == NULL)
        return -1;
    warn_of_ignored(c, item, json_object_get(generation, "ignored_fields"));
    json_decref(generation);
    return store_commit(c->store, &t->folder, item->e->name, t->repeat, error);
}

static void finish_run(campaign *c, task *t, int outcome, const error_text *text) {
    campaign_item *item = &c->items[t->item];
    error_text reason = *text;
    if (outcome == 0)
        outcome = keep_run(c, t, &reason);
    bool again = item->renewed && t->repeat == 0;
    item->runs[t->repeat] = outcome == 0 || again ? WORK_DONE : WORK_WAITING;
    if (outcome != 0 && again) {
        char line[ERROR_TEXT_SIZE + 256];
        snprintf(line, sizeof line, PROGRAM ": experiment %s is complete, but will not be compared with the others: %s",
                 item->e->name, reason.text);
        progress_print(c->display, line);
    } else if (outcome != 0) {
        char failure[ERROR_TEXT_SIZE + 64];
        snprintf(failure, sizeof failure, "repeat %" PRId64 " of %" PRId64 ": %s", t->repeat + 1, item->e->repeats,
                 reason.text);
        item_fail(c, item, item->e->repeats > 1 ? failure : reason.text);
    }
}

char *results_stamp(const campaign *c, const campaign_item *item) {
    char *text = NULL;
    size_t size;
    FILE *memory = open_memstream(&text, &size);
    if (memory == NULL)
        return NULL;
    for (int64_t r = 0; r < item->e->repeats; r++)
        fprintf(memory, "%s ", item->hashes[r]);
    fprintf(memory, "%s%s%s", item->e->description, c->options->reproducible ? " reproducible" : "",
            c->options->no_plots ? " no-plots" : "");
    fclose(memory);
    return text;
}

static void finish_results(campaign *c, task *t, int outcome, const error_text *text) {
    campaign_item *item = &c->items[t->item];
    error_text reason = *text;
    item->results = WORK_DONE;
    if (outcome == 0) {
        char *stamp = results_stamp(c, item);
        outcome = stamp != NULL ? store_set_stamp(c->store, item->e->name, WORKER_RESULTS, stamp, &reason) : -1;
        free(stamp);
    }
    if (outcome != 0)
        item_fail(c, item, reason.text);
    else if (t->remark.text[0] != 0)
        campaign_say(c, "experiment %s: %s", item->e->name, t->remark.text);
}

static void finish_between(campaign *c, int outcome, const error_text *text) {
    error_text reason = *text;
    c->between = WORK_DONE;
    if (outcome == 0)
        outcome = store_set_stamp(c->store, ALL_FOLDER, WORKER_BETWEEN, c->between_stamp, &reason);
    if (outcome == 0)
        return;
    char line[ERROR_TEXT_SIZE + 96];
    snprintf(line, sizeof line, PROGRAM ": the comparison between experiments failed: %s", reason.text);
    progress_print(c->display, line);
    free(c->between_stamp);
    c->between_stamp = NULL;
    c->failure = strdup("the comparison between experiments is missing");
}

/** Estimated seconds of a piece of work. */
static double estimate_of(const campaign *c, const task *t) {
    const run_estimate *estimate = &c->items[t->item].estimate;
    if (strcmp(t->kind, WORKER_RUN) == 0)
        return estimate->generation_seconds + estimate->analysis_seconds;
    if (strcmp(t->kind, WORKER_BETWEEN) == 0)
        return c->between_seconds;
    bool pictures = strcmp(t->kind, WORKER_RESULTS) == 0 || strcmp(t->kind, WORKER_FINAL) == 0;
    return pictures ? PICTURE_SECONDS : PLAN_SECONDS;
}

/** Take a piece of work back that was not done. */
static void take_back(campaign *c, const task *t) {
    campaign_item *item = &c->items[t->item];
    if (strcmp(t->kind, WORKER_PLAN) == 0)
        item->planned = WORK_WAITING;
    else if (strcmp(t->kind, WORKER_RUN) == 0)
        item->runs[t->repeat] = item->renewed && t->repeat == 0 ? WORK_DONE : WORK_WAITING;
    else if (strcmp(t->kind, WORKER_RESULTS) == 0)
        item->results = WORK_WAITING;
    else if (strcmp(t->kind, WORKER_BETWEEN) == 0)
        c->between = WORK_WAITING;
    else
        c->final = WORK_WAITING;
}

void campaign_finish(campaign *c, task *t, int outcome, const error_text *text, bool stopped) {
    if (stopped && outcome != 0) {
        take_back(c, t);
    } else if (strcmp(t->kind, WORKER_PLAN) == 0) {
        finish_plan(c, t, outcome, text);
    } else if (strcmp(t->kind, WORKER_RUN) == 0) {
        finish_run(c, t, outcome, text);
    } else if (strcmp(t->kind, WORKER_RESULTS) == 0) {
        finish_results(c, t, outcome, text);
    } else if (strcmp(t->kind, WORKER_BETWEEN) == 0) {
        finish_between(c, outcome, text);
    } else {
        c->final = WORK_DONE;
        if (outcome != 0) {
            free(c->failure);
            c->failure = strdup(text->text);
        }
    }
    c->work_done += estimate_of(c, t);
    if (t->folder.text[0] != 0)
        path_remove(t->folder.text);
}

/* ---- At work ---- */

static void start_what_there_is(campaign *c, bool (*next)(campaign *c, task *t)) {
    for (int64_t i = 0; i < c->options->jobs && !c->stopping; i++) {
        if (c->tasks[i] != NULL)
            continue;
        task *t = calloc(1, sizeof *t);
        if (t == NULL || !next(c, t)) {
            free(t);
            return;
        }
        error_text error = {""};
        if (campaign_begin(c, t, &error) == 0) {
            c->tasks[i] = t;
        } else {
            campaign_finish(c, t, -1, &error, false);
            free(t);
            i--;
        }
    }
}

static void end_what_has_ended(campaign *c) {
    for (int64_t i = 0; i < c->options->jobs; i++) {
        task *t = c->tasks[i];
        if (t == NULL)
            continue;
        task_watch(t);
        if (!child_ended(t->child))
            continue;
        error_text error = {""};
        int outcome = task_end(t, &error);
        if (strcmp(t->kind, WORKER_RUN) == 0)
            c->items[t->item].seconds += seconds_now() - t->begin;
        c->tasks[i] = NULL;
        campaign_finish(c, t, outcome, &error, c->stopping);
        free(t);
    }
}

void campaign_work(campaign *c, bool (*next)(campaign *c, task *t)) {
    for (;;) {
        child *children[MOST_JOBS];
        size_t count = 0;
        if (interrupted() && !c->stopping) {
            c->stopping = true;
            for (int64_t i = 0; i < c->options->jobs; i++)
                if (c->tasks[i] != NULL)
                    child_stop(c->tasks[i]->child);
        }
        start_what_there_is(c, next);
        for (int64_t i = 0; i < c->options->jobs; i++)
            if (c->tasks[i] != NULL)
                children[count++] = c->tasks[i]->child;
        if (count == 0)
            return;
        campaign_show(c);
        child_wait(children, count, WAIT_MILLISECONDS);
        end_what_has_ended(c);
    }
}

/** What a piece of work has done of its estimated seconds. */
static double part_done(const campaign *c, const task *t) {
    const run_estimate *estimate = &c->items[t->item].estimate;
    double share = t->total > 0 ? (double)t->done / (double)t->total : 0.0;
    if (strcmp(t->kind, WORKER_RUN) != 0)
        return share * estimate_of(c, t);
    if (strcmp(t->stage, STAGE_COMPARING) == 0)
        return estimate->generation_seconds + share * estimate->analysis_seconds;
    return share * estimate->generation_seconds;
}

static void describe_task(const campaign *c, const task *t, char *text, size_t size) {
    const campaign_item *item = &c->items[t->item];
    char done[32], total[32];
    format_count(done, sizeof done, (uint64_t)t->done);
    format_count(total, sizeof total, (uint64_t)t->total);
    if (strcmp(t->kind, WORKER_BETWEEN) == 0)
        snprintf(text, size, "comparing experiments with each other");
    else if (strcmp(t->kind, WORKER_FINAL) == 0)
        snprintf(text, size, "writing the report");
    else if (strcmp(t->kind, WORKER_PLAN) == 0)
        snprintf(text, size, "reading the model");
    else if (strcmp(t->kind, WORKER_RESULTS) == 0)
        snprintf(text, size, "%zu of %zu, writing results", t->item + 1, c->count);
    else if (strcmp(t->stage, STAGE_COMPARING) == 0)
        snprintf(text, size, "%zu of %zu, repeat %" PRId64 " of %" PRId64 ", comparing pages", t->item + 1, c->count,
                 t->repeat + 1, item->e->repeats);
    else
        snprintf(text, size, "%zu of %zu, repeat %" PRId64 " of %" PRId64 ", %zu prompts, %s of %s tokens", t->item + 1,
                 c->count, t->repeat + 1, item->e->repeats, item->e->prompt_count, done, total);
}

void campaign_show(campaign *c) {
    double done = c->work_done;
    const task *first = NULL;
    char text[160];
    for (int64_t i = 0; i < c->options->jobs; i++) {
        if (c->tasks[i] == NULL)
            continue;
        first = first == NULL ? c->tasks[i] : first;
        done += part_done(c, c->tasks[i]);
    }
    if (first == NULL || c->display == NULL)
        return;
    bool about_one = strcmp(first->kind, WORKER_BETWEEN) != 0 && strcmp(first->kind, WORKER_FINAL) != 0;
    describe_task(c, first, text, sizeof text);
    progress_say(c->display, about_one ? c->items[first->item].e->name : "all experiments", text);
    progress_set(c->display, (uint64_t)(1000.0 * (done < c->work_total ? done : c->work_total)),
                 (uint64_t)(1000.0 * c->work_total));
}
