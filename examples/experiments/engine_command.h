/**
 * The engine `command`: a command of the user's own, which leaves a dump.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_COMMAND_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_COMMAND_H

#include "engine_limits.h"
#include "specification.h"

/**
 * Run one repeat of an experiment: `sh -c` runs its engine_command in the folder that the program was started in, with
 * the experiment in environment variables (KVSIM_REQUEST, KVSIM_OUTPUT_DIR, ...). Makes generation.json and
 * dump.safetensors in `run_folder`.
 * @return 0, or -1 with `error` set
 */
int engine_command_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                       error_text *error);

#endif
