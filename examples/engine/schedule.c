/*
 * Scheduling. A step takes tokens that are not in the cache yet, of as many sequences as fit in a batch: prompts first
 * (prefill, in the order of adding, long ones in several steps), then one token of each sequence (decode). Finished
 * sequences keep their blocks, so nothing would come free by preempting: a pool that is full is an error.
 */
#define _POSIX_C_SOURCE 199309L
#include <string.h>
#include <time.h>

#include "internal.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t pending(const sequence *s) {
    return s->finished ? 0 : s->token_count - s->cached;
}

/* The prompt is not in the cache yet, or a fork computes several tokens again. */
static bool needs_prefill(const sequence *s) {
    return pending(s) > 1 || (pending(s) == 1 && s->cached < s->prompt_length);
}

/* Refer to the full blocks of the prompt that are in the cache. One token at least is left to compute, for its
 * logits. */
static void share_prefix(engine *e, sequence *s) {
    int64_t page_tokens = e->pool.page_tokens;
    int32_t previous = s->block_count > 0 ? s->blocks[s->block_count - 1] : -1;
    while ((s->block_count + 1) * page_tokens < s->token_count) {
        int32_t block = pool_find(&e->pool, previous, s->tokens + s->block_count * page_tokens);
        if (block < 0) {
            break;
        }
        pool_retain(&e->pool, block);
        s->blocks[s->block_count++] = block;
        previous = block;
    }
    e->stats.prefix_tokens += s->block_count * page_tokens - s->cached;
    s->cached = s->block_count * page_tokens;
}

/* Is the next full block of this sequence just being computed in the batch? Then it waits for the next step and
 * shares it. */
static bool prefix_is_under_way(const engine *e, const sequence *s) {
    int64_t tokens = s->cached + e->pool.page_tokens;
    if (tokens >= s->token_count) {
        return false;
    }
    for (int64_t i = 0; i < e->batch.segment_count; i++) {
        const sequence *other = e->batch.segments[i].sequence;
        if (other->cached < tokens && other->token_count >= tokens &&
            memcmp(other->tokens, s->tokens, (size_t)tokens * sizeof *s->tokens) == 0) {
            return true;
        }
    }
    return false;
}

/* Give the sequence blocks of its own for the slots of its next `tokens` tokens. False if the pool is full; then
 * nothing has changed. */
static bool reserve(engine *e, sequence *s, int64_t tokens) {
    block_pool *pool = &e->pool;
    int64_t wanted = (s->cached + tokens + pool->page_tokens - 1) / pool->page_tokens;
    int64_t had = s->block_count;
    while (s->block_count < wanted) {
        int32_t block = pool_take(pool);
        if (block < 0) {
            break;
        }
        s->blocks[s->block_count++] = block;
    }
    bool complete = s->block_count == wanted;
    int64_t written = s->cached / pool->page_tokens;
    if (complete && written < had && pool->references[s->blocks[written]] > 1) {
        int32_t copy = pool_copy_on_write(pool, s->blocks[written]);
        complete = copy >= 0;
        if (complete) {
            s->blocks[written] = copy;
        }
    }
    while (!complete && s->block_count > had) {
        pool_release(pool, s->blocks[--s->block_count]);
    }
    return complete;
}

/* Begin an empty batch. */
static void begin_batch(batch *b, bool tiled) {
    b->tiled = tiled;
    b->segment_count = 0;
    b->logit_count = 0;
    b->token_count = 0;
    b->rows = 0;
}

static void add_empty_rows(batch *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        b->tokens[b->rows] = -1;
        b->positions[b->rows++] = 0;
    }
}

/* Put the next `rows` tokens of a sequence into the batch; `logits`: those of all rows are wanted, else those of the
 * sequence's last token if another one is to follow. */
static void add_segment(batch *b, sequence *s, int64_t rows, bool logits) {
    if (b->tiled) {
        add_empty_rows(b, whole_tiles(b->rows) - b->rows + s->cached % TILE_ROWS);
    }
    segment *part = &b->segments[b->segment_count++];
    part->sequence = s;
    part->first_row = b->rows;
    part->rows = rows;
    for (int64_t i = 0; i < rows; i++) {
        int64_t position = s->cached + i;
        b->tokens[b->rows] = s->tokens[position];
        b->positions[b->rows] = position;
        if (logits || (position + 1 == s->token_count && s->token_count < s->limit)) {
            b->logit_rows[b->logit_count++] = b->rows;
        }
        b->rows++;
    }
    b->token_count += rows;
}

/* Complete the last tile. */
static void end_batch(batch *b) {
    if (b->tiled) {
        add_empty_rows(b, whole_tiles(b->rows) - b->rows);
    }
}

/* How many of the next `wanted` tokens of a sequence fit into the batch. */
static int64_t next_rows(const engine *e, const sequence *s, int64_t wanted) {
    const batch *b = &e->batch;
    int64_t room = b->capacity - (b->tiled ? whole_tiles(b->rows) + s->cached % TILE_ROWS : b->rows);
    int64_t left = e->options.batch_tokens - b->token_count;
    room = room < left ? room : left;
    return wanted < room ? wanted : room;
}

/* Fill the batch with prompts, or with one token of each sequence. Returns how many sequences found no block. */
static int64_t fill_batch(engine *e, bool prefill) {
    batch *b = &e->batch;
    int64_t refused = 0;
    begin_batch(b, prefill);
    for (int64_t i = 0; i < e->sequence_count && b->token_count < e->options.batch_tokens; i++) {
        sequence *s = e->sequences[i];
        if (!s || pending(s) == 0 || needs_prefill(s) != prefill) {
            continue;
        }
        if (prefill && e->options.share_prefixes && s->cached == s->block_count * e->pool.page_tokens) {
            share_prefix(e, s);
            if (prefix_is_under_way(e, s)) {
                continue;
            }
        }
        int64_t rows = next_rows(e, s, pending(s));
        if (rows <= 0) {
            break;
        }
        if (reserve(e, s, rows)) {
            add_segment(b, s, rows, false);
        } else {
            refused++;
        }
    }
    end_batch(b);
    return refused;
}

/* Let the blocks that the last step filled be found by other sequences; one that is there already takes their place. */
static void register_full_blocks(engine *e, sequence *s, int64_t cached_before) {
    int64_t page_tokens = e->pool.page_tokens;
    for (int64_t i = cached_before / page_tokens; i < s->cached / page_tokens; i++) {
        int32_t previous = i > 0 ? s->blocks[i - 1] : -1;
        int32_t same = pool_find(&e->pool, previous, s->tokens + i * page_tokens);
        if (same < 0) {
            pool_register(&e->pool, s->blocks[i], previous, s->tokens + i * page_tokens);
        } else if (same != s->blocks[i]) {
            pool_retain(&e->pool, same);
            pool_release(&e->pool, s->blocks[i]);
            s->blocks[i] = same;
        }
    }
}

/* The step's tokens are in the cache: choose next tokens from the logits. */
static void finish_step(engine *e, bool prefill, double start) {
    const batch *b = &e->batch;
    int64_t logit = 0;
    for (int64_t i = 0; i < b->segment_count; i++) {
        sequence *s = b->segments[i].sequence;
        int64_t before = s->cached;
        s->begin_time = s->begin_time != 0.0 ? s->begin_time : start;
        s->cached += b->segments[i].rows;
        if (e->options.share_prefixes) {
            register_full_blocks(e, s, before);
        }
        if (s->cached == s->token_count && s->token_count < s->limit) {
            const float *logits = e->workspace.logits + logit++ * e->config.vocabulary;
            int32_t token = sampler_next(&s->sampler, logits, e->config.vocabulary, e->workspace.candidates);
            s->token_seconds[s->token_count - s->given_count] = now() - s->begin_time;
            s->tokens[s->token_count++] = token;
            s->finished = s->token_count == s->limit || (token == e->config.eos && !s->sampler.options.ignore_eos);
            e->stats.decode_tokens += !prefill;
        } else {
            s->finished = s->cached == s->token_count;
        }
    }
    e->stats.prefill_tokens += prefill ? b->token_count : 0;
}

static int report_full(engine *e) {
    int64_t waiting = 0;
    int64_t tokens = 0;
    for (int64_t i = 0; i < e->sequence_count; i++) {
        const sequence *s = e->sequences[i];
        if (s && !s->finished) {
            waiting++;
            tokens += s->limit - s->cached;
        }
    }
    return engine_fail(
        e, ENGINE_E_FULL,
        "the pool of %lld blocks of %d tokens is full: %lld sequences still need up to %lld tokens; make the "
        "pool larger, generate fewer tokens or release sequences",
        (long long)e->pool.blocks, e->pool.page_tokens, (long long)waiting, (long long)tokens);
}

static int report_progress(engine *e, engine_progress progress, void *user) {
    int64_t done = 0;
    int64_t total = 0;
    for (int64_t i = 0; progress && i < e->sequence_count; i++) {
        const sequence *s = e->sequences[i];
        done += s ? s->cached : 0;
        total += !s ? 0 : s->finished ? s->cached : s->limit > s->prompt_length ? s->limit - 1 : s->limit;
    }
    if (progress && progress(user, done, total) != 0) {
        return engine_fail(e, ENGINE_E_CANCELLED, "cancelled");
    }
    return ENGINE_OK;
}

int engine_run(engine *e, engine_progress progress, void *progress_user) {
    if (!e->loaded) {
        return engine_fail(e, ENGINE_E_INVALID, "the engine has no model");
    }
    while (true) {
        int status = report_progress(e, progress, progress_user);
        if (status != ENGINE_OK) {
            return status;
        }
        double start = now();
        bool prefill = true;
        int64_t refused = fill_batch(e, true);
        if (e->batch.rows == 0) {
            prefill = false;
            refused += fill_batch(e, false);
        }
        if (e->batch.rows == 0) {
            return refused ? report_full(e) : ENGINE_OK;
        }
        status = engine_forward(e, &e->batch);
        if (status != ENGINE_OK) {
            return status;
        }
        finish_step(e, prefill, start);
        *(prefill ? &e->stats.prefill_seconds : &e->stats.decode_seconds) += now() - start;
    }
}

int engine_logits(engine *e, const int32_t *ids, int64_t count, int64_t first, float *logits) {
    int64_t number;
    int status = engine_add_sequence(e, ids, count, NULL, 0, &number);
    if (status != ENGINE_OK) {
        return status;
    }
    sequence *s = e->sequences[number];
    size_t vocabulary = (size_t)e->config.vocabulary;
    if (first < 0 || first >= count) {
        status = engine_fail(e, ENGINE_E_INVALID, "first %lld is not a position of %lld tokens", (long long)first,
                             (long long)count);
    }
    while (status == ENGINE_OK && s->cached < count) {
        begin_batch(&e->batch, true);
        int64_t rows = next_rows(e, s, count - s->cached);
        if (!reserve(e, s, rows)) {
            status = report_full(e);
            break;
        }
        add_segment(&e->batch, s, rows, true);
        end_batch(&e->batch);
        status = engine_forward(e, &e->batch);
        for (int64_t r = 0; status == ENGINE_OK && r < rows; r++) {
            if (s->cached + r >= first) {
                memcpy(logits + (size_t)(s->cached + r - first) * vocabulary,
                       e->workspace.logits + (size_t)r * vocabulary, vocabulary * sizeof *logits);
            }
        }
        s->cached += rows;
    }
    engine_release(e, number);
    e->sequence_count--; /* it was never the caller's */
    return status;
}

void engine_get_stats(const engine *e, engine_stats *stats) {
    const block_pool *pool = &e->pool;
    *stats = e->stats;
    stats->blocks = pool->blocks;
    stats->blocks_used = pool->blocks - pool->free_count;
    stats->blocks_copied = pool->copies;
    stats->bytes_per_block = (int64_t)pool->page_bytes * 2 * pool->layer_count;
    stats->blocks_shared = 0;
    stats->blocks_partial = 0;
    stats->references = 0;
    for (int64_t i = 0; i < pool->blocks; i++) {
        stats->references += pool->references[i];
        stats->blocks_shared += pool->references[i] > 1;
        stats->blocks_partial += pool->references[i] > 0 && pool->fill[i] < pool->page_tokens;
    }
}
