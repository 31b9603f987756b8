/**
 * One piece of work of a campaign while a worker does it.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_TASK_H
#define KVSIM_EXAMPLES_EXPERIMENTS_TASK_H

#include "child.h"
#include "path_text.h"
#include "specification.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/** A piece of work with its worker. */
typedef struct task {
    const char *kind; /**< WORKER_* */
    size_t item;      /**< number of the experiment, if it is about one */
    int64_t repeat;   /**< of a run */
    path_text folder; /**< what the worker reads, and where it leaves what it makes */
    double limit;     /**< seconds of the stage of generating; 0: none */

    /* What the worker has said. */
    char stage[32];
    double begin, stage_begin; /**< monotonic clock */
    int64_t done, total;       /**< of the stage */
    error_text failure;        /**< empty: it said none */
    error_text remark;         /**< empty: it said none */

    child *child;
    bool overdue; /**< it was ended because the stage took too long */
    child_options options;
    const char *arguments[5];
} task;

/**
 * Write the job into the task's folder, which is there, and start the worker.
 * @param job consumed
 * @param experiments [count]
 * @return 0, or -1 with `error` set
 */
int task_start(task *t, json_t *job, const experiment *const *experiments, size_t count, error_text *error);

/** End the worker if its stage took too long. Call now and then. */
void task_watch(task *t);

/**
 * Take the end of a worker.
 * @return 0 if the work is done; -1 with `error` set: what the worker said, or what became of it
 */
int task_end(task *t, error_text *error);

#endif
