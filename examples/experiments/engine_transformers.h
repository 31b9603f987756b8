/**
 * The engine `transformers`: any causal language model, run by Hugging Face transformers in a Python process.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_TRANSFORMERS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_TRANSFORMERS_H

#include "engine_limits.h"
#include "specification.h"

/**
 * Run one repeat of an experiment with transformers_engine.py: generation.json and dump.safetensors in `run_folder`.
 * @return 0, or -1 with `error` set
 */
int engine_transformers_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                            error_text *error);

#endif
