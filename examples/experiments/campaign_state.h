/**
 * What a campaign knows of its experiments while it works; for its own files.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_CAMPAIGN_STATE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_CAMPAIGN_STATE_H

#include "common/progress.h"
#include "estimate.h"
#include "options.h"
#include "store.h"
#include "task.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Folder of .runs for what is about all experiments; none of them can have such a name. */
#define ALL_FOLDER ".all"

/** Estimated seconds of work that draws pictures: the results of one experiment, and the report. */
#define PICTURE_SECONDS 2.0

/** How far something is. */
typedef enum work_state { WORK_WAITING, WORK_STARTED, WORK_DONE } work_state;

/** One experiment. */
typedef struct campaign_item {
    const experiment *e;
    work_state planned;
    json_t *plan; /**< of engine_builtin_plan; NULL for other engines */
    run_estimate estimate;
    char (*hashes)[HASH_SIZE]; /**< [repeats] of the runs */
    work_state *runs;          /**< [repeats] */
    work_state results;
    bool renewed;   /**< repeat 0 is complete, and run again for its dump */
    bool warned;    /**< of fields that have no effect */
    char *failure;  /**< why it failed; NULL: it has not */
    double seconds; /**< that its runs took in this process */
} campaign_item;

/** A campaign. */
typedef struct campaign {
    const campaign_options *options;
    campaign_item *items; /**< [count] */
    size_t count;
    store *store;           /**< NULL in a dry run */
    path_text plans;        /**< folder of plans of a dry run */
    task **tasks;           /**< [options->jobs] those that are at work; NULL: a free place */
    progress *display;      /**< NULL: nothing is shown */
    bool stopping;          /**< asked to stop: nothing more is started */
    work_state between;     /**< the comparison between experiments */
    work_state final;       /**< report.html and final_report.json */
    char *between_stamp;    /**< what the comparison is made from; NULL: there is nothing to compare */
    double between_seconds; /**< estimated */
    double work_done;       /**< estimated seconds of what is finished */
    double work_total;      /**< estimated seconds of everything that was to be done */
    char *failure;          /**< why there is no final report; NULL: there is no reason */
} campaign;

/** Runs of an experiment that are complete. */
int64_t item_complete_runs(const campaign_item *item);

/** Whether all runs of an experiment are complete and it has not failed. */
bool item_is_complete(const campaign_item *item);

/** Whether an experiment can be compared with others: it is complete and the dump of repeat 0 is there. */
bool item_is_comparable(const campaign *c, const campaign_item *item);

/** Note why an experiment failed, and say so. */
void item_fail(campaign *c, campaign_item *item, const char *reason);

/** Print a line, above the progress if there is some, unless the program is quiet. */
void campaign_say(const campaign *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** @name Find the next piece of work of a part of the campaign; false: there is none now
 * @{ */
bool next_plan(campaign *c, task *t);
bool next_run(campaign *c, task *t);
bool next_ending(campaign *c, task *t);
/** @} */

/** Make the folder of a piece of work and start its worker. 0, or -1 with `error` set. */
int campaign_begin(campaign *c, task *t, error_text *error);

/** Take what a worker has done. `outcome`: of task_end, with its text; `stopped`: it was told to end. */
void campaign_finish(campaign *c, task *t, int outcome, const error_text *text, bool stopped);

/** Do all work that `next` finds, several pieces at the same time. */
void campaign_work(campaign *c, bool (*next)(campaign *c, task *t));

/** What the results of an experiment are made from: its runs, and how they are written. [owned]; NULL: no memory */
char *results_stamp(const campaign *c, const campaign_item *item);

/** Show how far the work is. */
void campaign_show(campaign *c);

#endif
