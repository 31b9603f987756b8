/* The paged cache: a pool of blocks, their reference counts, and the table by which equal prefixes are shared. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int pool_create(engine *e) {
    const engine_config *c = &e->config;
    block_pool *pool = &e->pool;
    pool->layer_count = c->layers;
    pool->page_tokens = e->options.page_tokens;
    pool->kv_dtype = e->options.kv_dtype;
    pool->row_elements = (size_t)c->kv_heads * (size_t)c->head_dim;
    pool->page_bytes = (size_t)pool->page_tokens * pool->row_elements * kv_element_size(pool->kv_dtype);
    int64_t block_bytes = (int64_t)pool->page_bytes * 2 * c->layers;
    pool->blocks = e->options.max_blocks > 0 ? e->options.max_blocks : e->options.max_bytes / block_bytes;
    if (pool->blocks < 1) {
        return engine_fail(e, ENGINE_E_INVALID, "a pool of %lld bytes holds no block: one takes %lld bytes",
                           (long long)e->options.max_bytes, (long long)block_bytes);
    }
    if (pool->blocks > INT32_MAX) {
        pool->blocks = INT32_MAX;
    }
    size_t blocks = (size_t)pool->blocks;
    size_t buckets = 1;
    while (buckets < blocks) {
        buckets *= 2;
    }
    pool->bucket_mask = buckets - 1;
    pool->layers = engine_array((size_t)c->layers, sizeof *pool->layers);
    pool->references = engine_array(blocks, sizeof *pool->references);
    pool->fill = engine_array(blocks, sizeof *pool->fill);
    pool->free_blocks = engine_array(blocks, sizeof *pool->free_blocks);
    pool->tokens = engine_array(blocks, (size_t)pool->page_tokens * sizeof *pool->tokens);
    pool->previous = engine_array(blocks, sizeof *pool->previous);
    pool->hashes = engine_array(blocks, sizeof *pool->hashes);
    pool->registered = engine_array(blocks, sizeof *pool->registered);
    pool->next = engine_array(blocks, sizeof *pool->next);
    pool->buckets = engine_array(buckets, sizeof *pool->buckets);
    bool complete = pool->layers && pool->references && pool->fill && pool->free_blocks && pool->tokens &&
                    pool->previous && pool->hashes && pool->registered && pool->next && pool->buckets;
    for (int32_t layer = 0; complete && layer < c->layers; layer++) {
        pool->layers[layer] = engine_array(blocks, 2 * pool->page_bytes);
        complete = pool->layers[layer] != NULL;
    }
    if (!complete) {
        return engine_fail(e, ENGINE_E_NOMEM, "out of memory for a pool of %lld blocks of %lld bytes",
                           (long long)pool->blocks, (long long)block_bytes);
    }
    /* The stack hands out low blocks first. */
    for (int64_t i = 0; i < pool->blocks; i++) {
        pool->free_blocks[i] = (int32_t)(pool->blocks - 1 - i);
    }
    pool->free_count = pool->blocks;
    for (size_t i = 0; i < buckets; i++) {
        pool->buckets[i] = -1;
    }
    return ENGINE_OK;
}

void pool_destroy(block_pool *pool) {
    for (int32_t layer = 0; pool->layers && layer < pool->layer_count; layer++) {
        free(pool->layers[layer]);
    }
    free(pool->layers);
    free(pool->references);
    free(pool->fill);
    free(pool->free_blocks);
    free(pool->tokens);
    free(pool->previous);
    free(pool->hashes);
    free(pool->registered);
    free(pool->next);
    free(pool->buckets);
}

int32_t pool_take(block_pool *pool) {
    if (pool->free_count == 0) {
        return -1;
    }
    int32_t block = pool->free_blocks[--pool->free_count];
    pool->references[block] = 1;
    pool->fill[block] = 0;
    return block;
}

void pool_retain(block_pool *pool, int32_t block) {
    pool->references[block]++;
}

static void unregister(block_pool *pool, int32_t block) {
    int32_t *link = &pool->buckets[pool->hashes[block] & pool->bucket_mask];
    while (*link != block) {
        link = &pool->next[*link];
    }
    *link = pool->next[block];
    pool->registered[block] = false;
}

void pool_release(block_pool *pool, int32_t block) {
    if (--pool->references[block] > 0) {
        return;
    }
    if (pool->registered[block]) {
        unregister(pool, block);
    }
    pool->free_blocks[pool->free_count++] = block;
}

void *pool_page(const block_pool *pool, int32_t layer, int32_t block, int kind) {
    return (char *)pool->layers[layer] + (2 * (size_t)block + (size_t)kind) * pool->page_bytes;
}

int32_t pool_copy_on_write(block_pool *pool, int32_t block) {
    int32_t copy = pool_take(pool);
    if (copy < 0) {
        return -1;
    }
    for (int32_t layer = 0; layer < pool->layer_count; layer++) {
        memcpy(pool_page(pool, layer, copy, 0), pool_page(pool, layer, block, 0), 2 * pool->page_bytes);
    }
    pool->fill[copy] = pool->fill[block];
    pool->copies++;
    pool_release(pool, block);
    return copy;
}

/* FNV-1a over 32-bit words, begun with the hash of the chain before, and mixed so that the low bits are good. */
static uint64_t chain_hash(const block_pool *pool, int32_t previous, const int32_t *tokens) {
    uint64_t hash = previous < 0 ? UINT64_C(0xcbf29ce484222325) : pool->hashes[previous];
    for (int32_t i = 0; i < pool->page_tokens; i++) {
        hash = (hash ^ (uint32_t)tokens[i]) * UINT64_C(0x100000001b3);
    }
    hash ^= hash >> 32;
    return hash * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 29;
}

/*
 * The hash only finds candidates. A chain is equal if the tokens are and the block before is the same one: by
 * induction all tokens before it are equal, and they are kept as long as this block, because sequences hold their
 * blocks together.
 */
int32_t pool_find(const block_pool *pool, int32_t previous, const int32_t *tokens) {
    uint64_t hash = chain_hash(pool, previous, tokens);
    size_t bytes = (size_t)pool->page_tokens * sizeof *tokens;
    int32_t block = pool->buckets[hash & pool->bucket_mask];
    while (block >= 0) {
        const int32_t *stored = pool->tokens + (size_t)block * (size_t)pool->page_tokens;
        if (pool->hashes[block] == hash && pool->previous[block] == previous && memcmp(stored, tokens, bytes) == 0) {
            return block;
        }
        block = pool->next[block];
    }
    return -1;
}

void pool_register(block_pool *pool, int32_t block, int32_t previous, const int32_t *tokens) {
    uint64_t hash = chain_hash(pool, previous, tokens);
    memcpy(pool->tokens + (size_t)block * (size_t)pool->page_tokens, tokens,
           (size_t)pool->page_tokens * sizeof *tokens);
    pool->hashes[block] = hash;
    pool->previous[block] = previous;
    pool->next[block] = pool->buckets[hash & pool->bucket_mask];
    pool->buckets[hash & pool->bucket_mask] = block;
    pool->registered[block] = true;
}
