/**
 * Command line of kvsim-analyze.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_OPTIONS_H
#define KVSIM_EXAMPLES_ANALYZE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvsim/kvsim.h>

/** Name of the program in its messages. */
#define PROGRAM "kvsim-analyze"

/** Largest layer number that the library takes. */
#define MAX_LAYER 65535

/** What the command line asks for; defaults filled in. */
typedef struct analyze_options {
    char **pages;             /**< files and folders of --pages, NULL-terminated; NULL: the engine runs */
    size_t page_file_count;   /**< length of `pages` */
    const char *model;        /**< folder of --model; NULL: the shipped one */
    const char *prompts_file; /**< NULL: the shipped one */
    const char *dump;         /**< file of --dump; NULL: none */
    const char *kv_dtype;     /**< element type of the engine's cache: f32, bf16 or f16 */
    int64_t max_tokens;       /**< new tokens of each prompt */
    double temperature;
    double top_p;
    bool share_prefixes;

    const char *rope_config; /**< path of --rope-config; NULL: none */
    kvsim_rope rope;         /**< of --rope; struct_size 0: not given */

    int32_t page_tokens; /**< 0: as the file says, 16 for the engine */
    int32_t kind;        /**< KVSIM_KIND_* */
    int32_t *layers;     /**< rising; NULL: all */
    size_t layer_count;

    uint32_t metrics; /**< KVSIM_METRIC_* */
    uint32_t views;   /**< KVSIM_VIEW_*; 0: chosen by what is known of RoPE */
    int32_t pairs;    /**< KVSIM_PAIRS_* */
    int32_t backend;  /**< KVSIM_BACKEND_* */
    uint32_t threads; /**< 0: one for each core */
    uint32_t top;     /**< opportunities listed, and top pairs of each group; 0: none */
    bool per_head;
    double thresholds[KVSIM_MAX_LEVELS]; /**< rising */
    size_t threshold_count;
    double budgets[KVSIM_MAX_LEVELS]; /**< rising */
    size_t budget_count;
    double budget;             /**< of the headline; one of `budgets` */
    uint32_t ulps;             /**< of the ledger; 0: 1 */
    bool no_chance;            /**< neither chance levels nor intervals */
    uint32_t null_repetitions; /**< 0: 20 */
    uint64_t seed;             /**< of everything that is drawn */

    const char *output_dir;
    bool no_plots;
    bool quiet;
    bool reproducible;
} analyze_options;

/**
 * Read the command line. Does not return on --help, --version (status 0) and on a mistake (one line on stderr,
 * status 2). The options are [owned] by the caller, for options_release.
 */
void options_read(int argc, char **argv, analyze_options *options);

/** Give back what the options hold. */
void options_release(analyze_options *options);

/** Bytes of an element of the engine's cache. */
int32_t kv_dtype_bytes(const char *kv_dtype);

#endif
