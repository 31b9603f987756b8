#include "task.h"

#include "common/json_file.h"
#include "worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/** Seconds that an engine has to notice itself that its time is over. */
#define LIMIT_GRACE 5.0

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/** The rest of a line behind its first word, if that is `word`; else NULL. */
static const char *behind(const char *line, const char *word) {
    size_t length = strlen(word);
    return strncmp(line, word, length) == 0 && line[length] == ' ' ? line + length + 1 : NULL;
}

static void take_line(void *user, const char *line) {
    task *t = user;
    const char *rest;
    if ((rest = behind(line, "progress")) != NULL) {
        int64_t done, total;
        if (sscanf(rest, "%" SCNd64 " %" SCNd64, &done, &total) == 2 && done >= 0 && done <= total) {
            t->done = done;
            t->total = total;
        }
    } else if ((rest = behind(line, "stage")) != NULL) {
        snprintf(t->stage, sizeof t->stage, "%s", rest);
        t->stage_begin = seconds_now();
        t->done = t->total = 0;
    } else if ((rest = behind(line, "error")) != NULL) {
        snprintf(t->failure.text, sizeof t->failure.text, "%s", rest);
    } else if ((rest = behind(line, "remark")) != NULL) {
        snprintf(t->remark.text, sizeof t->remark.text, "%s", rest);
    }
}

static int write_experiments(const task *t, const experiment *const *experiments, size_t count, error_text *error) {
    path_text path;
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, experiment_to_json(experiments[i]));
    int result = json_array_size(array) == count ? 0 : fail(error, "out of memory");
    if (result == 0)
        result = path_make(&path, error, "%s/" EXPERIMENTS_NAME, t->folder.text);
    if (result == 0)
        result = json_file_write(path.text, array, error);
    json_decref(array);
    return result;
}

int task_start(task *t, json_t *job, const experiment *const *experiments, size_t count, error_text *error) {
    path_text path;
    int result = write_experiments(t, experiments, count, error);
    if (result == 0)
        result = path_make(&path, error, "%s/" JOB_NAME, t->folder.text);
    if (result == 0)
        result = json_file_write(path.text, job, error);
    json_decref(job);
    if (result != 0)
        return -1;
    t->arguments[0] = "/proc/self/exe";
    t->arguments[1] = WORKER_OPTION;
    t->arguments[2] = t->kind;
    t->arguments[3] = t->folder.text;
    t->options = (child_options){.arguments = t->arguments, .line = take_line, .line_user = t};
    t->begin = t->stage_begin = seconds_now();
    t->child = child_start(&t->options, error);
    return t->child != NULL ? 0 : -1;
}

void task_watch(task *t) {
    bool generating = strcmp(t->stage, STAGE_GENERATING) == 0;
    if (t->limit > 0.0 && generating && !t->overdue && seconds_now() - t->stage_begin > t->limit + LIMIT_GRACE) {
        t->overdue = true;
        child_stop(t->child);
    }
}

int task_end(task *t, error_text *error) {
    child_result result;
    child_end(t->child, &result);
    t->child = NULL;
    if (t->overdue)
        return fail(error, "engine: the run took longer than its %g s (--time-limit) and was ended", t->limit);
    if (result.status == EXIT_FAILED && t->failure.text[0] != 0)
        return fail(error, "%s", t->failure.text);
    return child_verdict("its process", &t->options, &result, error);
}
