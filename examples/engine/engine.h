/**
 * @file engine.h
 * @brief A small paged-attention engine: the first user of libkvsim.
 *
 * It loads a Llama-family folder in Hugging Face's layout (config.json and safetensors), keeps keys and values in a
 * pool of fixed-size blocks with block tables, reference counts, prefix sharing and copy-on-write, and hands the
 * pages of its pool to libkvsim where they lie.
 *
 * @code{.c}
 *   engine_options options;
 *   engine_options_init(&options);
 *   options.model = "examples/models/tiny";
 *   engine *e;
 *   if (engine_create(&options, &e) != ENGINE_OK)      // e is there even then, for its error text
 *       fprintf(stderr, "%s\n", engine_error(e));
 *   engine_add_sequence(e, ids, count, &sampling, 128, &sequence);
 *   engine_run(e, NULL, NULL);                         // prefill and decode everything that was added
 *   const int32_t *tokens = engine_tokens(e, sequence, &token_count);
 *   engine_add_pages(e, ctx);                          // borrowed: the engine must not run or go away meanwhile
 *   kvsim_compute(ctx, NULL, &result);
 *   ...
 *   engine_destroy(e);                                 // after the result and the context
 * @endcode
 *
 * Every function that can fail returns ENGINE_OK or one of the negative statuses, and then `engine_error` has one
 * line that says what was wrong. Nothing here prints, exits or keeps global state, but for OpenBLAS's number of
 * threads, which belongs to the process: engines of one process share it. One engine, one thread at a time.
 */
#ifndef KVSIM_EXAMPLES_ENGINE_H
#define KVSIM_EXAMPLES_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvsim/kvsim.h>

/** An engine with its model, block pool and sequences. Opaque. */
typedef struct engine engine;

/** @name Statuses
 * @{ */
#define ENGINE_OK          0
#define ENGINE_E_INVALID   (-1) /**< an argument is outside what its text allows */
#define ENGINE_E_NOMEM     (-2) /**< out of memory */
#define ENGINE_E_MODEL     (-3) /**< the model folder cannot be read, is damaged, or is of an unknown kind */
#define ENGINE_E_FULL      (-4) /**< the block pool is full: release sequences, or make it larger */
#define ENGINE_E_CANCELLED (-5) /**< the progress callback asked to stop; the engine is usable */
#define ENGINE_E_KVSIM     (-6) /**< libkvsim refused; its error text is part of ours */
/** @} */

/** @name Element types of the cache (kv_dtype)
 * @{ */
#define ENGINE_KV_F32  0 /**< default */
#define ENGINE_KV_BF16 1
#define ENGINE_KV_F16  2
/** @} */

/** Options of `engine_create`. Start from `engine_options_init`. */
typedef struct engine_options {
    const char *model;   /**< folder with config.json and model.safetensors, or an index with its shards */
    int32_t page_tokens; /**< token slots of a block, 1..1,024; default 16 */
    int64_t max_blocks;  /**< blocks of the pool; 0 = as many as fit in `max_bytes` */
    int64_t max_bytes;   /**< bytes of the pool when `max_blocks` is 0; default 1 GiB. Touched only when used */
    int32_t kv_dtype;    /**< ENGINE_KV_* */
    int32_t threads;     /**< threads of OpenBLAS; 0 = one for each core */
    /** Let sequences whose first tokens are the same share the full blocks of these tokens; default true. Off, every
     * sequence has its own blocks, so that the live pages and those of a dump are the same set. */
    bool share_prefixes;
    int32_t batch_tokens; /**< most tokens of one step, 1..65,536; default 512 */
    /** Receives whole lines without a newline (what was loaded, how large the pool is). NULL: nothing is logged. */
    void (*log)(void *user, const char *line);
    void *log_user; /**< handed to `log` */
    /** Number of the pool in `engine_add_pages`, not 0; default 1. Engines whose pages meet in one context need
     * different ones. */
    uint64_t source;
} engine_options;

/** Fill `options` with the defaults. */
void engine_options_init(engine_options *options);

/**
 * Load a model and make its block pool.
 * @param out [owned] the engine, for `engine_destroy`. Set on failure too, so that `engine_error` can be asked; NULL
 *        only when there is not even memory for that.
 * @return ENGINE_OK, ENGINE_E_INVALID, ENGINE_E_NOMEM, ENGINE_E_MODEL
 */
int engine_create(const engine_options *options, engine **out);

/** Destroy an engine with its pool. A context that borrowed its pages must be cleared or destroyed before. NULL is
 * allowed. */
void engine_destroy(engine *e);

/** Text of the last failure, one line; "out of memory" for NULL. [borrowed] until the next call on `e`. */
const char *engine_error(const engine *e);

/* ------------------------------------------------------------------------------------------------
 * The model
 * ---------------------------------------------------------------------------------------------- */

/** Facts of the model that was loaded. */
typedef struct engine_config {
    const char *model_name;   /**< last part of the folder's path. [borrowed] from the engine */
    const char *architecture; /**< "LlamaForCausalLM", for example. [borrowed] from the engine */
    int32_t layers;           /**< decoder layers */
    int32_t hidden;           /**< width of the residual stream */
    int32_t intermediate;     /**< width of the SwiGLU */
    int32_t query_heads;      /**< query heads */
    int32_t kv_heads;         /**< key and value heads, H */
    int32_t head_dim;         /**< channels of a head, D */
    int32_t vocabulary;       /**< number of token ids */
    int32_t max_position;     /**< longest sequence in tokens */
    double rope_theta;        /**< base of RoPE; the style is KVSIM_ROPE_HALF */
    double norm_epsilon;      /**< of RMSNorm */
    int32_t bos;              /**< begin of sequence, -1 = none */
    int32_t eos;              /**< end of sequence, -1 = none */
    bool byte_level;          /**< ids 0..255 are bytes, 256 bos, 257 eos: text can be tokenised */
    int64_t parameters;       /**< number of weights */
    int32_t page_tokens;      /**< N of the pool */
    int64_t max_blocks;       /**< B of the pool */
    int32_t kv_dtype;         /**< ENGINE_KV_* of the pool */
} engine_config;

/** Facts of the model and the pool. [borrowed] from the engine; NULL if loading failed. */
const engine_config *engine_get_config(const engine *e);

/**
 * Turn bytes of text into token ids, bos first. Only for byte-level models.
 * @param ids receives the ids; room for `size + 1`
 * @param count receives their number
 * @return ENGINE_OK; ENGINE_E_INVALID if the model is not byte-level
 */
int engine_tokenize(engine *e, const char *text, size_t size, int32_t *ids, int64_t *count);

/**
 * Turn token ids into bytes; special ids give nothing. Only for byte-level models.
 * @param text receives the bytes and a terminating NUL; room for `count + 1`
 * @param size receives the number of bytes without the NUL; may be NULL
 * @return ENGINE_OK; ENGINE_E_INVALID if the model is not byte-level
 */
int engine_detokenize(engine *e, const int32_t *ids, int64_t count, char *text, size_t *size);

/* ------------------------------------------------------------------------------------------------
 * Sequences
 * ---------------------------------------------------------------------------------------------- */

/** How the next token is chosen. All zero: greedily. */
typedef struct engine_sampling {
    double temperature; /**< 0 = the most likely token (ties: the smallest id); the fields below are then unused */
    int32_t top_k;      /**< only the k most likely tokens; 0 = all */
    double top_p;       /**< only the fewest most likely tokens whose probabilities reach p; 0 or >= 1 = all */
    uint64_t seed;      /**< of the sequence's own random numbers: the same seed gives the same tokens */
    bool ignore_eos;    /**< go on after the end of sequence */
} engine_sampling;

/**
 * Add a sequence. Nothing is computed before `engine_run`.
 * @param ids prompt, copied; [count] ids in 0..vocabulary-1
 * @param count 1..max_position
 * @param sampling NULL = greedy
 * @param max_new tokens to generate at most, >= 0; 0 = only fill the cache with the prompt. Generation also ends with
 *        eos and when the sequence reaches max_position
 * @param sequence receives the sequence's number (0, 1, 2, ... in order of adding; never reused); may be NULL
 * @return ENGINE_OK, ENGINE_E_INVALID, ENGINE_E_NOMEM
 */
int engine_add_sequence(engine *e, const int32_t *ids, int64_t count, const engine_sampling *sampling, int64_t max_new,
                        int64_t *sequence);

/**
 * Add a sequence that goes on from where `parent` is now. It shares all blocks of the parent, the partial last one
 * too: whoever writes to a shared block first gets a copy of it (copy-on-write).
 * @param max_new tokens to generate at most from here on
 * @param child receives the new sequence's number; may be NULL
 * @return ENGINE_OK, ENGINE_E_INVALID, ENGINE_E_NOMEM
 */
int engine_fork(engine *e, int64_t parent, const engine_sampling *sampling, int64_t max_new, int64_t *child);

/** Forget a sequence and give its blocks back. Pages that a context borrowed must be gone.
 * @return ENGINE_OK, ENGINE_E_INVALID (no such sequence) */
int engine_release(engine *e, int64_t sequence);

/**
 * Called before every step of `engine_run`.
 * @param done tokens that are in the cache by now, of all sequences
 * @param total tokens that will be there at the end if no sequence ends early
 * @return 0 to go on, anything else to cancel
 */
typedef int (*engine_progress)(void *user, int64_t done, int64_t total);

/**
 * Prefill and decode until every sequence is finished. Finished sequences keep their blocks until they are released.
 *
 * The tokens do not depend on the size of the pages, on the number of threads or on which other sequences there are,
 * except where two tokens are equally likely to within the rounding of float32.
 *
 * Prefill is reproducible to the bit: without `share_prefixes`, the pages of equal tokens after equal prefixes are
 * exact duplicates, whatever the batches were, for one number of threads and one OpenBLAS. Tokens that were generated
 * are computed in steps of another shape and agree with a prefill to within rounding.
 *
 * @param progress may be NULL
 * @return ENGINE_OK, ENGINE_E_NOMEM, ENGINE_E_FULL, ENGINE_E_CANCELLED. After the last two everything that was
 *         computed is kept, and another `engine_run` goes on
 */
int engine_run(engine *e, engine_progress progress, void *progress_user);

/** Number of sequences that were ever added; those that were released count. */
int64_t engine_sequence_count(const engine *e);

/**
 * Tokens of a sequence: the prompt, then what was generated.
 * @param count receives their number; may be NULL
 * @return [borrowed] until the next call that runs or releases; NULL if there is no such sequence
 */
const int32_t *engine_tokens(const engine *e, int64_t sequence, int64_t *count);

/** Tokens of the prompt of a sequence; -1 if there is no such sequence. */
int64_t engine_prompt_length(const engine *e, int64_t sequence);

/** Tokens of a sequence whose keys and values are in the cache: all but the last one that was sampled. -1 if there is
 * no such sequence. */
int64_t engine_cached_length(const engine *e, int64_t sequence);

/**
 * When the generated tokens of a sequence were chosen: seconds since the beginning of the first step that computed
 * tokens of it, by the monotonic clock, the other sequences of the steps and pauses between two `engine_run` included.
 * The first one is the time to the first token; tokens of one sequence never come from one step, so the differences are
 * times between tokens.
 * @param count receives their number: the tokens after those that the sequence was added, or forked, with; may be NULL
 * @return [borrowed] until the next call that runs or releases; NULL if there is no such sequence
 */
const double *engine_token_seconds(const engine *e, int64_t sequence, int64_t *count);

/**
 * Physical blocks of a sequence, in order.
 * @param count receives their number; may be NULL
 * @return [borrowed] until the next call that runs or releases; NULL if there is no such sequence
 */
const int32_t *engine_block_table(const engine *e, int64_t sequence, int64_t *count);

/** What was done so far. */
typedef struct engine_stats {
    int64_t blocks;         /**< blocks of the pool */
    int64_t blocks_used;    /**< blocks that at least one sequence refers to */
    int64_t blocks_shared;  /**< of these, blocks that two or more sequences refer to */
    int64_t blocks_partial; /**< of these, blocks with unused slots */
    int64_t references;     /**< entries of all block tables */
    int64_t blocks_copied;  /**< copies made on write, so far */
    int64_t prefix_tokens;  /**< prompt tokens that were found in the cache and not computed, so far */
    int64_t prefill_tokens; /**< prompt tokens computed, so far */
    int64_t decode_tokens; /**< tokens generated by decode steps, so far (the first of a sequence comes from prefill) */
    double prefill_seconds;  /**< wall time of the prefill steps */
    double decode_seconds;   /**< wall time of the decode steps */
    int64_t bytes_per_block; /**< keys and values of all layers */
} engine_stats;

/** Fill `stats`. */
void engine_get_stats(const engine *e, engine_stats *stats);

/**
 * Logits of some tokens' last positions, for tests. Uses the pool for the time of the call.
 * @param ids [count] tokens
 * @param first logits of the positions first..count-1 are wanted
 * @param logits receives [count - first, vocabulary]
 * @return ENGINE_OK, ENGINE_E_INVALID, ENGINE_E_NOMEM, ENGINE_E_FULL
 */
int engine_logits(engine *e, const int32_t *ids, int64_t count, int64_t first, float *logits);

/* ------------------------------------------------------------------------------------------------
 * Pages for libkvsim
 * ---------------------------------------------------------------------------------------------- */

/**
 * Add every page of every sequence that was not released to `ctx`, by pointer (KVSIM_PAGES_BORROW), and tell it how
 * keys were rotated. A row of the block table is a sequence, `sequences` its number. The pool is one tensor
 * [B, 2, N, H, D] a layer (KVSIM_LAYOUT_B2NHD), and the source is the same for all layers and calls of this engine,
 * so that a block that is shared is one page with several references.
 * Until the context is cleared or destroyed, the engine must not run, release or be destroyed.
 * @return ENGINE_OK (also when there are no pages), ENGINE_E_NOMEM, ENGINE_E_KVSIM
 */
int engine_add_pages(engine *e, kvsim_ctx *ctx);

/**
 * As engine_add_pages, for some of the pages.
 * @param kind KVSIM_KIND_*
 * @param layers [layer_count] layers, each once; NULL = all
 * @return ENGINE_OK, ENGINE_E_INVALID (no such layer), ENGINE_E_NOMEM, ENGINE_E_KVSIM
 */
int engine_add_selected_pages(engine *e, kvsim_ctx *ctx, int32_t kind, const int32_t *layers, size_t layer_count);

/**
 * Write what `engine_add_pages` would add as a file of the schema kvsim.dump.v1: for each sequence its tokens in the
 * cache and their keys and values. The dump has no block tables: a block that is shared is written once for each
 * sequence. Turn `share_prefixes` off where the pages of the dump must be the same as the live ones.
 * @param prompts UTF-8 prompt text of each sequence number, [engine_sequence_count]; NULL, or NULL entries: the
 *        prompt's own bytes for a byte-level model if they are UTF-8, else ""
 * @return ENGINE_OK, ENGINE_E_INVALID (nothing in the cache), ENGINE_E_NOMEM, ENGINE_E_KVSIM
 */
int engine_dump(engine *e, kvsim_ctx *ctx, const char *path, const char *const *prompts);

#endif
