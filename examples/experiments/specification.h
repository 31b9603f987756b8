/**
 * Experiments: what a file of them says, checked and with every default filled in.
 *
 * A file is JSON: one experiment (an object) or several (an array of objects). Every mistake is reported with the line
 * and the JSON pointer of the value: `FILE:LINE: /0/temperature: ...`.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_SPECIFICATION_H
#define KVSIM_EXAMPLES_EXPERIMENTS_SPECIFICATION_H

#include "common/message.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Fields of an experiment, in the order in which they are written. */
typedef enum experiment_field {
    FIELD_NAME,
    FIELD_DESCRIPTION,
    FIELD_MODEL,
    FIELD_PROMPTS,      /**< array of texts */
    FIELD_PROMPTS_FILE, /**< in place of `prompts`: a text file, one prompt a line (common/prompts.h) */
    FIELD_MAX_TOKENS,
    FIELD_TEMPERATURE,
    FIELD_TOP_P,
    FIELD_SEED,
    FIELD_REPEATS,
    FIELD_TENSOR_PARALLEL_SIZE,
    FIELD_GPU_MEMORY_UTILIZATION,
    FIELD_MAX_MODEL_LEN,
    FIELD_ENGINE,
    FIELD_PAGE_TOKENS,
    FIELD_IGNORE_EOS,
    FIELD_DTYPE,
    FIELD_LONG_PROMPTS,
    FIELD_ENGINE_COMMAND,
    FIELD_COUNT
} experiment_field;

/** Names of the fields, [FIELD_COUNT]. */
extern const char *const experiment_field_names[FIELD_COUNT];

/** @name Names of the engines
 * @{ */
#define ENGINE_BUILTIN      "builtin"
#define ENGINE_TRANSFORMERS "transformers"
#define ENGINE_COMMAND      "command"
/** @} */

/** One experiment as it will run. Texts are UTF-8 without NUL. */
typedef struct experiment {
    char *name;           /**< letters, digits, '_' and '-'; names a folder */
    char *description;    /**< "" if there is none */
    char *model;          /**< folder of the model, absolute; for `transformers` it may be a name of a hub, as given */
    char **prompts;       /**< [prompt_count] */
    size_t *prompt_sizes; /**< bytes of each prompt without the NUL */
    size_t prompt_count;  /**< at least 1 */
    int64_t max_tokens;   /**< new tokens of each prompt, at least 1 */
    double temperature;   /**< 0 = greedy */
    double top_p;         /**< over 0 to 1 */
    uint64_t seed;        /**< of repeat 0, at most INT64_MAX */
    int64_t repeats;      /**< at least 1 */
    int64_t tensor_parallel_size;
    double gpu_memory_utilization;
    int64_t max_model_len; /**< most tokens of a sequence, prompt included; 0 = what the model takes */
    char *engine;          /**< ENGINE_* */
    int64_t page_tokens;   /**< tokens of a page */
    bool ignore_eos;       /**< generate max_tokens whatever the model says, so that runs are comparable; default */
    char *dtype;      /**< of the cache and, in `transformers`, of the weights: auto, float32, bfloat16 or float16 */
    bool cut_prompts; /**< `long_prompts`: "cut" in place of "refuse", see experiment_prompt_room */
    char *engine_command;    /**< for `command`: what `sh -c` runs; NULL for the others unless the file has one */
    bool given[FIELD_COUNT]; /**< fields that the file, or an option in its place, names */
} experiment;

/** Experiments in the order in which they run. Zero is an empty list. */
typedef struct experiment_list {
    experiment *items;
    size_t count;
} experiment_list;

/**
 * Append the experiments of a file. Paths in the file (`model`, `prompts_file`) are relative to the file's folder.
 * @return 0, or -1 with `error` set; the list must be released in any case
 */
int specification_read(experiment_list *list, const char *path, error_text *error);

/** As specification_read, for a text. `path` is for the error texts and for relative paths. */
int specification_parse(experiment_list *list, const char *text, size_t size, const char *path, error_text *error);

/** Give back an experiment's memory, or that of a list with its experiments. */
void experiment_release(experiment *e);
void experiments_release(experiment_list *list);

/**
 * The experiment as a JSON object that specification_parse takes, prompts included: every field, but for those that
 * were not given and have no value of their own (tensor_parallel_size, gpu_memory_utilization, max_model_len,
 * engine_command). The same experiment gives the same text. @return [owned]; NULL when out of memory
 */
json_t *experiment_to_json(const experiment *e);

/**
 * Most tokens of a prompt in a context of `context` tokens. A prompt is too long if it leaves no room for one new token
 * (`tokens >= context`). It is then refused, or cut to this many tokens, which leave room for max_tokens new ones
 * where that is possible: its first tokens stay.
 */
int64_t experiment_prompt_room(const experiment *e, int64_t context);

/** Seed of a repeat: seed + repeat. */
uint64_t experiment_repeat_seed(const experiment *e, int64_t repeat);

/**
 * Seed of the random numbers of one sequence: a hash of the repeat's seed and of the prompt's number, so that no two
 * sequences of any repeats share their random numbers, even where they share the prompt.
 */
uint64_t experiment_sequence_seed(const experiment *e, int64_t repeat, size_t prompt);

#endif
