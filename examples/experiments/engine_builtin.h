/**
 * The engine `builtin`: examples/engine in a worker process.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_BUILTIN_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_BUILTIN_H

#include "engine_limits.h"
#include "specification.h"

/** Run one repeat of an experiment: generation.json and dump.safetensors in `run_folder`. 0, or -1 with `error` set. */
int engine_builtin_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                       error_text *error);

/**
 * What the engine would do, without doing it: the model is loaded, the prompts become tokens, and both are checked.
 * @param trial time a few short sequences, for an estimate
 * @return [owned] {model, context, prompt_tokens, cut_tokens, output_tokens, blocks, kv_bytes, ignored_fields} of one
 *         repeat, and with `trial` {prefill_tokens_per_second, decode_tokens_per_second}; NULL with `error` set
 */
json_t *engine_builtin_plan(const experiment *e, bool trial, const engine_limits *limits, error_text *error);

#endif
