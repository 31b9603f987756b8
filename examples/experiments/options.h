/**
 * Command line of kvsim-experiments.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_OPTIONS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_OPTIONS_H

#include "specification.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Name of the program in its messages. */
#define PROGRAM "kvsim-experiments"

/** Most runs at the same time. */
#define MOST_JOBS 64

/** What the command line asks for; defaults filled in. */
typedef struct campaign_options {
    char **files; /**< of --experiments */
    size_t file_count;
    char **only; /**< names of --only */
    size_t only_count;
    bool quick_test;

    const char *model;          /**< in place of every experiment's; NULL: not given, as below */
    const char *engine;         /**< ENGINE_* */
    const char *engine_command; /**< of the engine `command` */
    const char *dtype;          /**< element type */
    const char *long_prompts;   /**< "refuse" or "cut" */
    int64_t repeats;            /**< 0: not given */
    int64_t seed;               /**< -1: not given */

    const char *python; /**< of the engine `transformers`; NULL: $KVSIM_PYTHON, else python3 */
    double time_limit;  /**< seconds of one run of an engine; 0: none */
    int64_t jobs;       /**< runs at the same time */
    int64_t threads;    /**< of one run; 0: see --help */
    const char *output_dir;
    bool resume;
    bool keep_dumps;
    bool no_plots;
    bool reproducible;
    bool quiet;
    bool list;
    bool dry_run;
    char *command; /**< the command line for the shell, without --resume; NULL: there was no memory */
} campaign_options;

/**
 * Read the command line. Does not return on --help, --version (status 0) and on a mistake (one line on stderr,
 * status 2). The options are [owned] by the caller, for options_release.
 */
void options_read(int argc, char **argv, campaign_options *options);

/**
 * The experiments that the options select, changed as the options say, in the order in which they run.
 * @return 0, or -1 with `error` set; the list must be released in any case
 */
int options_experiments(const campaign_options *options, experiment_list *list, error_text *error);

/** Give back what the options hold. */
void options_release(campaign_options *options);

#endif
