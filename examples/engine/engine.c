/* Requests and scheduling: which tokens go through the model next, and in which blocks their keys and values lie. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "internal.h"

#define DEFAULT_PAGE_TOKENS  16
#define DEFAULT_POOL_BYTES   (INT64_C(1) << 30)
#define DEFAULT_BATCH_TOKENS 512
#define LARGEST_PAGE_TOKENS  1024
#define LARGEST_BATCH_TOKENS 65536

int engine_fail(engine *e, int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->error, sizeof e->error, format, arguments);
    va_end(arguments);
    return status;
}

int engine_fail_memory(engine *e, const char *what) {
    return engine_fail(e, ENGINE_E_NOMEM, "out of memory for %s", what);
}

void engine_say(engine *e, const char *format, ...) {
    char line[ENGINE_ERROR_SIZE];
    if (!e->options.log) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    e->options.log(e->options.log_user, line);
}

void *engine_array(size_t count, size_t size) {
    return calloc(count ? count : 1, size ? size : 1);
}

int64_t whole_tiles(int64_t count) {
    return (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

void engine_options_init(engine_options *options) {
    memset(options, 0, sizeof *options);
    options->page_tokens = DEFAULT_PAGE_TOKENS;
    options->max_bytes = DEFAULT_POOL_BYTES;
    options->batch_tokens = DEFAULT_BATCH_TOKENS;
    options->share_prefixes = true;
    options->source = 1;
}

/* Last part of a path, without slashes at its end. */
static char *base_name(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') {
        begin--;
    }
    char *name = engine_array(end - begin + 1, 1);
    if (name) {
        memcpy(name, path + begin, end - begin);
    }
    return name;
}

static int check_options(engine *e) {
    const engine_options *o = &e->options;
    if (!o->model || !*o->model) {
        return engine_fail(e, ENGINE_E_INVALID, "no model folder was given");
    }
    if (o->page_tokens < 1 || o->page_tokens > LARGEST_PAGE_TOKENS) {
        return engine_fail(e, ENGINE_E_INVALID, "page_tokens %d is not from 1 to %d", o->page_tokens,
                           LARGEST_PAGE_TOKENS);
    }
    if (o->batch_tokens < 1 || o->batch_tokens > LARGEST_BATCH_TOKENS) {
        return engine_fail(e, ENGINE_E_INVALID, "batch_tokens %d is not from 1 to %d", o->batch_tokens,
                           LARGEST_BATCH_TOKENS);
    }
    if (o->kv_dtype < ENGINE_KV_F32 || o->kv_dtype > ENGINE_KV_F16) {
        return engine_fail(e, ENGINE_E_INVALID, "kv_dtype %d is unknown", o->kv_dtype);
    }
    if (o->max_blocks < 0 || (o->max_blocks == 0 && o->max_bytes < 1) || o->threads < 0 || o->source == 0) {
        return engine_fail(e, ENGINE_E_INVALID, "max_blocks, max_bytes and threads must not be negative, source not 0");
    }
    return ENGINE_OK;
}

static int create_batch(engine *e) {
    batch *b = &e->batch;
    b->capacity = whole_tiles(e->options.batch_tokens);
    size_t rows = (size_t)b->capacity;
    b->segments = engine_array(rows, sizeof *b->segments);
    b->tokens = engine_array(rows, sizeof *b->tokens);
    b->positions = engine_array(rows, sizeof *b->positions);
    b->logit_rows = engine_array(rows, sizeof *b->logit_rows);
    if (!b->segments || !b->tokens || !b->positions || !b->logit_rows) {
        return engine_fail_memory(e, "a batch");
    }
    return ENGINE_OK;
}

static int load(engine *e) {
    engine_config *c = &e->config;
    int status = check_options(e);
    if (status != ENGINE_OK) {
        return status;
    }
    e->model_name = base_name(e->options.model);
    if (!e->model_name) {
        return engine_fail_memory(e, "the model's name");
    }
    c->model_name = e->model_name;
    status = engine_load_config(e, e->options.model);
    if (status == ENGINE_OK) {
        status = engine_load_weights(e, e->options.model);
    }
    if (status == ENGINE_OK) {
        status = pool_create(e);
    }
    if (status == ENGINE_OK) {
        status = create_batch(e);
    }
    if (status == ENGINE_OK) {
        status = workspace_create(e);
    }
    if (status != ENGINE_OK) {
        return status;
    }
    c->page_tokens = e->pool.page_tokens;
    c->max_blocks = e->pool.blocks;
    c->kv_dtype = e->pool.kv_dtype;
    e->loaded = true;
    e->threads = e->options.threads ? e->options.threads : openblas_get_num_procs();
    engine_say(e, "%s: %s, %lld parameters, %d layers, %d query heads, %d KV heads of %d channels", c->model_name,
               c->architecture, (long long)c->parameters, c->layers, c->query_heads, c->kv_heads, c->head_dim);
    engine_say(e, "pool of %lld blocks of %d tokens, %lld bytes each", (long long)c->max_blocks, c->page_tokens,
               (long long)e->pool.page_bytes * 2 * c->layers);
    return ENGINE_OK;
}

int engine_create(const engine_options *options, engine **out) {
    engine *e = engine_array(1, sizeof *e);
    *out = e;
    if (!e) {
        return ENGINE_E_NOMEM;
    }
    e->options = *options;
    int status = load(e);
    e->options.model = NULL; /* it was the caller's */
    return status;
}

static void free_sequence(engine *e, sequence *s) {
    if (!s) {
        return;
    }
    for (int64_t i = 0; i < s->block_count; i++) {
        pool_release(&e->pool, s->blocks[i]);
    }
    free(s->tokens);
    free(s->token_seconds);
    free(s->blocks);
    free(s);
}

void engine_destroy(engine *e) {
    if (!e) {
        return;
    }
    for (int64_t i = 0; i < e->sequence_count; i++) {
        free_sequence(e, e->sequences[i]);
    }
    free(e->sequences);
    free(e->batch.segments);
    free(e->batch.tokens);
    free(e->batch.positions);
    free(e->batch.logit_rows);
    workspace_destroy(&e->workspace);
    pool_destroy(&e->pool);
    engine_free_weights(e);
    free(e->model_name);
    free(e->architecture);
    free(e);
}

const char *engine_error(const engine *e) {
    return e ? e->error : "out of memory";
}

const engine_config *engine_get_config(const engine *e) {
    return e && e->loaded ? &e->config : NULL;
}

/* A sequence of these tokens that ends at `limit` tokens; NULL when out of memory. */
static sequence *new_sequence(engine *e, const int32_t *ids, int64_t count, int64_t limit) {
    sequence *s = engine_array(1, sizeof *s);
    int64_t most = limit > count ? limit : count;
    if (!s) {
        return NULL;
    }
    s->tokens = engine_array((size_t)most, sizeof *s->tokens);
    s->blocks = engine_array((size_t)(most / e->pool.page_tokens + 1), sizeof *s->blocks);
    s->token_seconds = engine_array((size_t)(most - count), sizeof *s->token_seconds);
    if (!s->tokens || !s->blocks || !s->token_seconds) {
        free_sequence(e, s);
        return NULL;
    }
    memcpy(s->tokens, ids, (size_t)count * sizeof *ids);
    s->token_count = count;
    s->given_count = count;
    s->prompt_length = count;
    s->limit = limit;
    return s;
}

/* Put a sequence into the list; on failure it is freed. */
static int append_sequence(engine *e, sequence *s, int64_t *number) {
    if (!s) {
        return engine_fail_memory(e, "a sequence");
    }
    if (e->sequence_count == e->sequence_capacity) {
        size_t capacity = e->sequence_capacity ? 2 * (size_t)e->sequence_capacity : 16;
        sequence **larger = realloc(e->sequences, capacity * sizeof *larger);
        if (!larger) {
            free_sequence(e, s);
            return engine_fail_memory(e, "the list of sequences");
        }
        e->sequences = larger;
        e->sequence_capacity = (int64_t)capacity;
    }
    if (number) {
        *number = e->sequence_count;
    }
    e->sequences[e->sequence_count++] = s;
    return ENGINE_OK;
}

static int check_tokens(engine *e, const int32_t *ids, int64_t count) {
    if (!e->loaded) {
        return engine_fail(e, ENGINE_E_INVALID, "the engine has no model");
    }
    if (count < 1 || count > e->config.max_position) {
        return engine_fail(e, ENGINE_E_INVALID, "a sequence of %lld tokens: %s takes 1 to %d", (long long)count,
                           e->config.model_name, e->config.max_position);
    }
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= e->config.vocabulary) {
            return engine_fail(e, ENGINE_E_INVALID, "token %lld is %d: the vocabulary of %s has the ids 0 to %d",
                               (long long)i, ids[i], e->config.model_name, e->config.vocabulary - 1);
        }
    }
    return ENGINE_OK;
}

static int check_sampling(engine *e, const engine_sampling *o, int64_t max_new) {
    if (max_new < 0) {
        return engine_fail(e, ENGINE_E_INVALID, "max_new %lld is negative", (long long)max_new);
    }
    if (o && !(o->temperature >= 0.0 && o->temperature <= 1e6)) {
        return engine_fail(e, ENGINE_E_INVALID, "temperature %g is not from 0 to 1e6", o->temperature);
    }
    if (o && (o->top_k < 0 || !(o->top_p >= 0.0))) {
        return engine_fail(e, ENGINE_E_INVALID, "top_k %d or top_p %g is negative", o->top_k, o->top_p);
    }
    return ENGINE_OK;
}

static int64_t limit_of(const engine *e, int64_t count, int64_t max_new) {
    int64_t room = e->config.max_position - count;
    return count + (max_new < room ? max_new : room);
}

int engine_add_sequence(engine *e, const int32_t *ids, int64_t count, const engine_sampling *sampling, int64_t max_new,
                        int64_t *number) {
    int status = check_tokens(e, ids, count);
    if (status == ENGINE_OK) {
        status = check_sampling(e, sampling, max_new);
    }
    if (status != ENGINE_OK) {
        return status;
    }
    sequence *s = new_sequence(e, ids, count, limit_of(e, count, max_new));
    if (s) {
        sampler_init(&s->sampler, sampling);
    }
    return append_sequence(e, s, number);
}

int engine_fork(engine *e, int64_t parent, const engine_sampling *sampling, int64_t max_new, int64_t *child) {
    const sequence *from = engine_find(e, parent);
    if (!from) {
        return engine_fail(e, ENGINE_E_INVALID, "there is no sequence %lld", (long long)parent);
    }
    int status = check_sampling(e, sampling, max_new);
    if (status != ENGINE_OK) {
        return status;
    }
    sequence *s = new_sequence(e, from->tokens, from->token_count, limit_of(e, from->token_count, max_new));
    if (s) {
        sampler_init(&s->sampler, sampling);
        s->prompt_length = from->prompt_length;
        s->cached = from->cached;
        if (s->cached == s->token_count && s->limit > s->token_count) {
            /* The logits of the last token are needed again, so its block and what follows is computed again. */
            s->cached = (s->token_count - 1) / e->pool.page_tokens * e->pool.page_tokens;
        }
        s->block_count = (s->cached + e->pool.page_tokens - 1) / e->pool.page_tokens;
        for (int64_t i = 0; i < s->block_count; i++) {
            s->blocks[i] = from->blocks[i];
            pool_retain(&e->pool, s->blocks[i]);
        }
    }
    return append_sequence(e, s, child);
}

sequence *engine_find(const engine *e, int64_t number) {
    return number >= 0 && number < e->sequence_count ? e->sequences[number] : NULL;
}

int engine_release(engine *e, int64_t number) {
    if (!engine_find(e, number)) {
        return engine_fail(e, ENGINE_E_INVALID, "there is no sequence %lld", (long long)number);
    }
    free_sequence(e, e->sequences[number]);
    e->sequences[number] = NULL;
    return ENGINE_OK;
}

int64_t engine_sequence_count(const engine *e) {
    return e->sequence_count;
}

const int32_t *engine_tokens(const engine *e, int64_t number, int64_t *count) {
    const sequence *s = engine_find(e, number);
    if (count) {
        *count = s ? s->token_count : 0;
    }
    return s ? s->tokens : NULL;
}

int64_t engine_prompt_length(const engine *e, int64_t number) {
    const sequence *s = engine_find(e, number);
    return s ? s->prompt_length : -1;
}

int64_t engine_cached_length(const engine *e, int64_t number) {
    const sequence *s = engine_find(e, number);
    return s ? s->cached : -1;
}

const double *engine_token_seconds(const engine *e, int64_t number, int64_t *count) {
    const sequence *s = engine_find(e, number);
    if (count) {
        *count = s ? s->token_count - s->given_count : 0;
    }
    return s ? s->token_seconds : NULL;
}

const int32_t *engine_block_table(const engine *e, int64_t number, int64_t *count) {
    const sequence *s = engine_find(e, number);
    if (count) {
        *count = s ? s->block_count : 0;
    }
    return s ? s->blocks : NULL;
}
