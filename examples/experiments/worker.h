/**
 * The worker: this program, started by itself to do one piece of work that may crash, hang or eat all memory.
 *
 * `kvsim-experiments --worker KIND FOLDER` reads `job.json` and `experiments.json` in FOLDER and says on standard
 * output, line by line, what the campaign must know: "stage NAME", "progress DONE TOTAL", "remark TEXT", and
 * "error TEXT" before it ends with status 1.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_WORKER_H
#define KVSIM_EXAMPLES_EXPERIMENTS_WORKER_H

/** First argument of a worker. */
#define WORKER_OPTION "--worker"

/** @name Kinds of work
 * @{ */
#define WORKER_PLAN    "plan"    /**< look at an experiment without running it: plan.json */
#define WORKER_RUN     "run"     /**< one run: generation.json, the dump, the analysis, run.json */
#define WORKER_RESULTS "results" /**< results.json of an experiment, and its pictures */
#define WORKER_BETWEEN "between" /**< the comparison between experiments */
#define WORKER_FINAL   "final"   /**< final_report.json and report.html */
/** @} */

/** @name Files of a job's folder
 * @{ */
#define JOB_NAME         "job.json"
#define EXPERIMENTS_NAME "experiments.json"
#define PLAN_NAME        "plan.json"
#define RUN_NAME         "run.json"
#define EXPERIMENT_NAME  "experiment.json"
#define GENERATION_NAME  "generation.json"
/** @} */

/** @name Stages of a run
 * @{ */
#define STAGE_GENERATING "generating"
#define STAGE_COMPARING  "comparing"
/** @} */

/** Do the work. Returns the exit status. */
int worker_main(const char *kind, const char *folder);

#endif
