#include "engine_builtin.h"

#ifdef KVSIM_HAVE_ENGINE

#include "common/json_file.h"
#include "common/json_text.h"
#include "common/token_ids.h"
#include "common/utf8.h"
#include "engine/engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/** Tokens of the trial that `engine_builtin_plan` times: prompt tokens at most, and new ones, of each sequence. */
#define TRIAL_PROMPT_TOKENS 128
#define TRIAL_NEW_TOKENS    16

/** Most sequences of the trial. */
#define TRIAL_SEQUENCES 4

/** One prompt as tokens. */
typedef struct prompt_tokens {
    int32_t *ids;
    int64_t count;
    int64_t cut;     /**< tokens that were cut off */
    int64_t max_new; /**< new tokens that have room behind it */
} prompt_tokens;

/** A run of the engine. */
typedef struct builtin_run {
    const experiment *experiment;
    const engine_limits *limits;
    engine *engine;
    int64_t context; /**< most tokens of a sequence */
    double begin;    /**< of the run, model included; monotonic clock */
    prompt_tokens *prompts;
} builtin_run;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int32_t cache_type(const char *dtype) {
    return strcmp(dtype, "bfloat16") == 0  ? ENGINE_KV_BF16
           : strcmp(dtype, "float16") == 0 ? ENGINE_KV_F16
                                           : ENGINE_KV_F32;
}

static const char *cache_type_name(int32_t type) {
    return type == ENGINE_KV_BF16 ? "bfloat16" : type == ENGINE_KV_F16 ? "float16" : "float32";
}

/** The longest sequence of a model, for the size of the pool, which is made before the model is known; 0: unknown. */
static int64_t read_model_context(const char *folder) {
    char *path;
    error_text ignored;
    if (asprintf(&path, "%s/config.json", folder) < 0)
        return 0;
    json_t *config = json_file_read(path, &ignored);
    int64_t context = json_integer_value(json_object_get(config, "max_position_embeddings"));
    json_decref(config);
    free(path);
    return context;
}

/** Blocks that hold every sequence at its longest: a token takes at least one byte of the prompt. */
static int64_t count_blocks(const experiment *e) {
    int64_t model = read_model_context(e->model);
    int64_t context = e->max_model_len != 0 && (model == 0 || e->max_model_len < model) ? e->max_model_len : model;
    int64_t blocks = 0;
    for (size_t i = 0; i < e->prompt_count; i++) {
        int64_t tokens = (int64_t)e->prompt_sizes[i] + 1 + e->max_tokens;
        if (context > 0 && tokens > context)
            tokens = context;
        blocks += (tokens + e->page_tokens - 1) / e->page_tokens;
    }
    return blocks;
}

static int load_model(builtin_run *run, error_text *error) {
    const experiment *e = run->experiment;
    engine_options options;
    engine_options_init(&options);
    options.model = e->model;
    options.page_tokens = (int32_t)e->page_tokens;
    options.max_blocks = count_blocks(e);
    options.kv_dtype = cache_type(e->dtype);
    options.threads = run->limits->threads;
    options.share_prefixes = false;
    int status = engine_create(&options, &run->engine);
    if (status == ENGINE_E_NOMEM)
        return fail(error,
                    "model: %s; %zu prompts with max_tokens %" PRId64 " need %" PRId64
                    " cache blocks: give fewer prompts or tokens",
                    engine_error(run->engine), e->prompt_count, e->max_tokens, options.max_blocks);
    if (status != ENGINE_OK)
        return fail(error, "model: %s", engine_error(run->engine));
    const engine_config *config = engine_get_config(run->engine);
    run->context = config->max_position;
    if (e->max_model_len > run->context)
        return fail(error, "max_model_len: %" PRId64 " is more than the %" PRId64 " tokens that model %s takes",
                    e->max_model_len, run->context, config->model_name);
    if (e->max_model_len != 0)
        run->context = e->max_model_len;
    return 0;
}

static int tokenize_prompt(builtin_run *run, size_t number, error_text *error) {
    const experiment *e = run->experiment;
    const engine_config *config = engine_get_config(run->engine);
    prompt_tokens *prompt = &run->prompts[number];
    size_t size = e->prompt_sizes[number];
    error_text reason = {""};
    prompt->ids = calloc(size + 2, sizeof *prompt->ids);
    if (prompt->ids == NULL)
        return fail(error, "out of memory");
    if (!config->byte_level) {
        if (token_ids_read(e->prompts[number], number + 1, config->vocabulary, prompt->ids, &prompt->count, &reason) !=
            0)
            return fail(error, "prompts: %s", reason.text);
        if (prompt->count == 0)
            return fail(error, "prompts: prompt %zu holds no token", number + 1);
    } else if (engine_tokenize(run->engine, e->prompts[number], size, prompt->ids, &prompt->count) != ENGINE_OK) {
        return fail(error, "prompts: prompt %zu: %s", number + 1, engine_error(run->engine));
    }
    if (prompt->count >= run->context) {
        int64_t room = experiment_prompt_room(e, run->context);
        if (!e->cut_prompts)
            return fail(error,
                        "prompts: prompt %zu has %" PRId64 " tokens, which leave no room for a new one in a context "
                        "of %" PRId64 "; shorten it, or let it be cut with --long-prompts cut",
                        number + 1, prompt->count, run->context);
        prompt->cut = prompt->count - room;
        prompt->count = room;
    }
    int64_t room = run->context - prompt->count;
    prompt->max_new = e->max_tokens < room ? e->max_tokens : room;
    return 0;
}

/** Load the model and turn the prompts into tokens. */
static int prepare(builtin_run *run, error_text *error) {
    run->prompts = calloc(run->experiment->prompt_count, sizeof *run->prompts);
    if (run->prompts == NULL)
        return fail(error, "out of memory");
    if (load_model(run, error) != 0)
        return -1;
    for (size_t i = 0; i < run->experiment->prompt_count; i++)
        if (tokenize_prompt(run, i, error) != 0)
            return -1;
    return 0;
}

static void release(builtin_run *run) {
    for (size_t i = 0; run->prompts != NULL && i < run->experiment->prompt_count; i++)
        free(run->prompts[i].ids);
    free(run->prompts);
    engine_destroy(run->engine);
}

/* ---- What is measured ---- */

static json_t *describe_model(const builtin_run *run) {
    const engine_config *config = engine_get_config(run->engine);
    json_t *model = json_object();
    json_object_set_new(model, "name", json_string(config->model_name));
    json_object_set_new(model, "architecture", json_string(config->architecture));
    json_object_set_new(model, "layers", json_integer(config->layers));
    json_object_set_new(model, "kv_heads", json_integer(config->kv_heads));
    json_object_set_new(model, "head_dim", json_integer(config->head_dim));
    json_object_set_new(model, "dtype", json_string(cache_type_name(config->kv_dtype)));
    json_object_set_new(model, "parameters", json_integer(config->parameters));
    json_object_set_new(model, "max_position", json_integer(config->max_position));
    json_object_set_new(model, "vocabulary", json_integer(config->vocabulary));
    return model;
}

static json_t *integers(const int32_t *values, int64_t count) {
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(values[i]));
    return array;
}

/** Generated tokens as text: that of a byte-level model, with U+FFFD for what is no UTF-8; else the ids. */
static json_t *output_text(engine *e, const int32_t *ids, int64_t count) {
    size_t size = 0;
    char *bytes = calloc((size_t)count + 1, 1);
    char *text = NULL;
    if (bytes != NULL && engine_detokenize(e, ids, count, bytes, &size) == ENGINE_OK) {
        text = utf8_repair(bytes, size);
    } else {
        FILE *memory = open_memstream(&text, &size);
        for (int64_t i = 0; memory != NULL && i < count; i++)
            fprintf(memory, i > 0 ? " %d" : "%d", ids[i]);
        if (memory != NULL)
            fclose(memory);
    }
    json_t *result = text != NULL ? json_string(text) : NULL;
    free(text);
    free(bytes);
    return result;
}

static const char *why_finished(const builtin_run *run, size_t number, int64_t generated) {
    const prompt_tokens *prompt = &run->prompts[number];
    if (generated < prompt->max_new)
        return "eos";
    return prompt->max_new < run->experiment->max_tokens ? "context" : "length";
}

static json_t *describe_sequence(const builtin_run *run, size_t number) {
    const prompt_tokens *prompt = &run->prompts[number];
    int64_t count, generated;
    const int32_t *tokens = engine_tokens(run->engine, (int64_t)number, &count);
    const double *seconds = engine_token_seconds(run->engine, (int64_t)number, &generated);
    json_t *gaps = json_array();
    for (int64_t i = 1; i < generated; i++)
        json_array_append_new(gaps, json_number(seconds[i] - seconds[i - 1]));
    json_t *sequence = json_object();
    json_object_set_new(sequence, "prompt", json_string(run->experiment->prompts[number]));
    json_object_set_new(sequence, "prompt_tokens", json_integer(prompt->count));
    json_object_set_new(sequence, "prompt_cut", json_integer(prompt->cut));
    json_object_set_new(sequence, "output", output_text(run->engine, tokens + prompt->count, generated));
    json_object_set_new(sequence, "output_tokens", integers(tokens + prompt->count, generated));
    json_object_set_new(sequence, "prompt_ids", integers(tokens, prompt->count));
    json_object_set_new(sequence, "first_token_seconds", generated > 0 ? json_number(seconds[0]) : json_null());
    json_object_set_new(sequence, "token_seconds", gaps);
    json_object_set_new(sequence, "finish", json_string(why_finished(run, number, generated)));
    return sequence;
}

static json_t *describe_timing(const engine_stats *stats, double wall_seconds) {
    json_t *timing = json_object();
    json_object_set_new(timing, "prefill_tokens", json_integer(stats->prefill_tokens));
    json_object_set_new(timing, "prefill_seconds", json_number(stats->prefill_seconds));
    json_object_set_new(timing, "decode_tokens", json_integer(stats->decode_tokens));
    json_object_set_new(timing, "decode_seconds", json_number(stats->decode_seconds));
    json_object_set_new(timing, "wall_seconds", json_number(wall_seconds));
    return timing;
}

/** Largest resident size of this process so far, without what it was before it became this program; 0: unknown. */
static int64_t read_peak_rss(void) {
    long long kilobytes = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "re");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return kilobytes * 1024;
}

static int compare_hashes(const void *a, const void *b) {
    return XXH128_cmp(a, b);
}

/**
 * Full blocks of the prompts that an earlier sequence holds, too: their tokens and all tokens before them are the same.
 * An engine that shares prefixes keeps them once. As in such an engine, a prompt's last token is computed in any case.
 */
static int64_t count_shared_blocks(const builtin_run *run, error_text *error) {
    int64_t page = run->experiment->page_tokens;
    size_t count = 0, used = 0;
    for (size_t i = 0; i < run->experiment->prompt_count; i++)
        count += (size_t)((run->prompts[i].count - 1) / page);
    XXH128_hash_t *hashes = calloc(count + 1, sizeof *hashes);
    if (hashes == NULL)
        return fail(error, "out of memory");
    for (size_t i = 0; i < run->experiment->prompt_count; i++) {
        XXH128_hash_t chain = {0, 0};
        for (int64_t b = 0; b < (run->prompts[i].count - 1) / page; b++) {
            XXH3_state_t state;
            XXH3_128bits_reset(&state);
            XXH3_128bits_update(&state, &chain, sizeof chain);
            XXH3_128bits_update(&state, run->prompts[i].ids + b * page, (size_t)page * sizeof(int32_t));
            chain = XXH3_128bits_digest(&state);
            hashes[used++] = chain;
        }
    }
    qsort(hashes, used, sizeof *hashes, compare_hashes);
    int64_t shared = 0;
    for (size_t i = 1; i < used; i++)
        shared += XXH128_isEqual(hashes[i - 1], hashes[i]);
    free(hashes);
    return shared;
}

static json_t *describe_memory(const builtin_run *run, const engine_stats *stats, int64_t peak, error_text *error) {
    const experiment *e = run->experiment;
    int64_t cached = 0;
    int64_t shared = count_shared_blocks(run, error);
    if (shared < 0)
        return NULL;
    for (size_t i = 0; i < e->prompt_count; i++)
        cached += engine_cached_length(run->engine, (int64_t)i);
    int64_t reserved = stats->blocks_used * stats->bytes_per_block;
    int64_t used = stats->bytes_per_block / e->page_tokens * cached;
    json_t *memory = json_object();
    json_object_set_new(memory, "peak_rss_bytes", peak > 0 ? json_integer(peak) : json_null());
    json_object_set_new(memory, "kv_reserved_bytes", json_integer(reserved));
    json_object_set_new(memory, "kv_used_bytes", json_integer(used));
    json_object_set_new(memory, "kv_partial_lost_bytes", json_integer(reserved - used));
    json_object_set_new(memory, "kv_prefix_shared_bytes", json_integer(shared * stats->bytes_per_block));
    return memory;
}

/** Fields that the file names and that mean nothing to this engine. */
static json_t *ignored_fields(const experiment *e) {
    json_t *names = json_array();
    if (e->given[FIELD_TENSOR_PARALLEL_SIZE] && e->tensor_parallel_size != 1)
        json_array_append_new(names, json_string("tensor_parallel_size"));
    if (e->given[FIELD_GPU_MEMORY_UTILIZATION])
        json_array_append_new(names, json_string("gpu_memory_utilization"));
    return names;
}

static json_t *describe_run(const builtin_run *run, int64_t repeat, double wall_seconds, int64_t peak,
                            error_text *error) {
    const experiment *e = run->experiment;
    engine_stats stats;
    engine_get_stats(run->engine, &stats);
    json_t *memory = describe_memory(run, &stats, peak, error);
    if (memory == NULL)
        return NULL;
    json_t *sequences = json_array();
    for (size_t i = 0; i < e->prompt_count; i++)
        json_array_append_new(sequences, describe_sequence(run, i));
    json_t *generation = json_object();
    json_object_set_new(generation, "schema", json_string("kvsim.generation.v1"));
    json_object_set_new(generation, "engine", json_string(ENGINE_BUILTIN));
    json_object_set_new(generation, "engine_version", json_string(KVSIM_VERSION_STRING));
    json_object_set_new(generation, "model", describe_model(run));
    json_object_set_new(generation, "page_tokens", json_integer(e->page_tokens));
    json_object_set_new(generation, "seed", json_integer((json_int_t)experiment_repeat_seed(e, repeat)));
    json_object_set_new(generation, "sequences", sequences);
    json_object_set_new(generation, "timing", describe_timing(&stats, wall_seconds));
    json_object_set_new(generation, "memory", memory);
    json_object_set_new(generation, "ignored_fields", ignored_fields(e));
    return generation;
}

/* ---- Running ---- */

static bool is_overdue(const builtin_run *run) {
    return run->limits->seconds > 0.0 && seconds_now() - run->begin > run->limits->seconds;
}

/** Called before each step; stops when the time is over. */
static int report_progress(void *user, int64_t done, int64_t total) {
    const builtin_run *run = user;
    if (run->limits->progress != NULL)
        run->limits->progress(run->limits->progress_user, done, total);
    return interrupted() || is_overdue(run);
}

static int generate(builtin_run *run, int64_t repeat, error_text *error) {
    const experiment *e = run->experiment;
    for (size_t i = 0; i < e->prompt_count; i++) {
        const prompt_tokens *prompt = &run->prompts[i];
        engine_sampling sampling = {.temperature = e->temperature,
                                    .top_p = e->top_p,
                                    .seed = experiment_sequence_seed(e, repeat, i),
                                    .ignore_eos = e->ignore_eos};
        if (engine_add_sequence(run->engine, prompt->ids, prompt->count, &sampling, prompt->max_new, NULL) != ENGINE_OK)
            return fail(error, "prompts: prompt %zu: %s", i + 1, engine_error(run->engine));
    }
    if (engine_run(run->engine, report_progress, run) == ENGINE_OK)
        return 0;
    if (is_overdue(run))
        return fail(error, "engine: the run took longer than its %g s (--time-limit) and was ended",
                    run->limits->seconds);
    return fail(error, "engine: %s", engine_error(run->engine));
}

static int write_dump(builtin_run *run, const char *folder, error_text *error) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    kvsim_ctx *ctx = NULL;
    char *path = NULL;
    kvsim_status status = kvsim_ctx_create(&options, &ctx);
    int result = 0;
    if (status != KVSIM_OK)
        result = fail(error, "%s", kvsim_status_string(status));
    else if (asprintf(&path, "%s/dump.safetensors", folder) < 0)
        result = fail(error, "out of memory");
    else if (engine_dump(run->engine, ctx, path, (const char *const *)run->experiment->prompts) != ENGINE_OK)
        result = fail(error, "%s", engine_error(run->engine));
    free(path);
    kvsim_ctx_destroy(ctx);
    return result;
}

static int write_generation(builtin_run *run, int64_t repeat, double wall_seconds, const char *folder,
                            error_text *error) {
    char *path;
    json_t *generation = describe_run(run, repeat, wall_seconds, read_peak_rss(), error);
    if (generation == NULL)
        return -1;
    if (asprintf(&path, "%s/generation.json", folder) < 0) {
        json_decref(generation);
        return fail(error, "out of memory");
    }
    int result = json_file_write(path, generation, error);
    free(path);
    json_decref(generation);
    return result;
}

int engine_builtin_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                       error_text *error) {
    builtin_run run = {.experiment = e, .limits = limits, .begin = seconds_now()};
    int result = prepare(&run, error);
    if (result == 0) {
        double begin = seconds_now();
        result = generate(&run, repeat, error);
        double wall_seconds = seconds_now() - begin;
        if (result == 0)
            result = write_generation(&run, repeat, wall_seconds, run_folder, error);
    }
    if (result == 0)
        result = write_dump(&run, run_folder, error);
    release(&run);
    return result;
}

/** Time a few short sequences of the experiment; rates go into `plan`. */
static int time_trial(builtin_run *run, json_t *plan, error_text *error) {
    const experiment *e = run->experiment;
    for (size_t i = 0; i < e->prompt_count && i < TRIAL_SEQUENCES; i++) {
        const prompt_tokens *prompt = &run->prompts[i];
        int64_t count = prompt->count < TRIAL_PROMPT_TOKENS ? prompt->count : TRIAL_PROMPT_TOKENS;
        int64_t most = prompt->max_new < TRIAL_NEW_TOKENS ? prompt->max_new : TRIAL_NEW_TOKENS;
        engine_sampling sampling = {.temperature = e->temperature, .top_p = e->top_p, .ignore_eos = true};
        if (engine_add_sequence(run->engine, prompt->ids, count, &sampling, most, NULL) != ENGINE_OK)
            return fail(error, "%s", engine_error(run->engine));
    }
    if (engine_run(run->engine, report_progress, run) != ENGINE_OK)
        return fail(error, "%s", engine_error(run->engine));
    engine_stats stats;
    engine_get_stats(run->engine, &stats);
    json_object_set_new(plan, "prefill_tokens_per_second",
                        json_number((double)stats.prefill_tokens / stats.prefill_seconds));
    json_object_set_new(plan, "decode_tokens_per_second",
                        json_number((double)stats.decode_tokens / stats.decode_seconds));
    return 0;
}

json_t *engine_builtin_plan(const experiment *e, bool trial, const engine_limits *limits, error_text *error) {
    builtin_run run = {.experiment = e, .limits = limits, .begin = seconds_now()};
    json_t *plan = NULL;
    if (prepare(&run, error) == 0) {
        engine_stats stats;
        engine_get_stats(run.engine, &stats);
        int64_t prompt = 0, cut = 0, output = 0, blocks = 0;
        for (size_t i = 0; i < e->prompt_count; i++) {
            prompt += run.prompts[i].count;
            cut += run.prompts[i].cut;
            output += run.prompts[i].max_new;
            blocks += (run.prompts[i].count + run.prompts[i].max_new - 1 + e->page_tokens - 1) / e->page_tokens;
        }
        plan = json_object();
        json_object_set_new(plan, "model", describe_model(&run));
        json_object_set_new(plan, "context", json_integer(run.context));
        json_object_set_new(plan, "prompt_tokens", json_integer(prompt));
        json_object_set_new(plan, "cut_tokens", json_integer(cut));
        json_object_set_new(plan, "output_tokens", json_integer(output));
        json_object_set_new(plan, "blocks", json_integer(blocks));
        json_object_set_new(plan, "kv_bytes", json_integer(blocks * stats.bytes_per_block));
        json_object_set_new(plan, "ignored_fields", ignored_fields(e));
        if (trial && time_trial(&run, plan, error) != 0) {
            json_decref(plan);
            plan = NULL;
        }
    }
    release(&run);
    return plan;
}

#else

static int say_absent(error_text *error) {
    return fail(error, "engine: this build has no embedded engine (it needs OpenBLAS); use --engine transformers or "
                       "command, or build again with libopenblas-dev installed");
}

int engine_builtin_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                       error_text *error) {
    (void)e;
    (void)repeat;
    (void)run_folder;
    (void)limits;
    return say_absent(error);
}

json_t *engine_builtin_plan(const experiment *e, bool trial, const engine_limits *limits, error_text *error) {
    (void)e;
    (void)trial;
    (void)limits;
    say_absent(error);
    return NULL;
}

#endif
