/*
 * How an engine embeds libkvsim: hand in the pages of a pool where they lie, compare them, read the result.
 *
 * The pool holds the keys of one layer, [BLOCKS, 16 slots, 2 heads, 8 channels] in f32. Two requests of 64 tokens
 * use it. Their first two pages hold the same content, but the engine did not notice and stored them twice.
 */
#include <kvsim/kvsim.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 8, SLOTS = 16, HEADS = 2, CHANNELS = 8, BLOCK_ELEMENTS = SLOTS * HEADS * CHANNELS };

static float pool[BLOCKS][BLOCK_ELEMENTS];
static const int32_t block_table[2][4] = {{0, 1, 2, 3}, {4, 5, 6, 7}};
static const int32_t seq_lens[2] = {64, 64};

/* What a model would have computed. */
static void fill_pool(void) {
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof pool / sizeof(float); i++) {
        state = state * 1664525u + 1013904223u;
        pool[i / BLOCK_ELEMENTS][i % BLOCK_ELEMENTS] = (float)(state >> 8) / (float)(1u << 23) - 1.0f;
    }
    memcpy(pool[4], pool[0], 2 * sizeof pool[0]);
}

static kvsim_status add_pages(kvsim_ctx *ctx) {
    const int64_t shape[4] = {BLOCKS, SLOTS, HEADS, CHANNELS};
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.dtype_code = KVSIM_DTYPE_FLOAT;
    tensor.dtype_bits = 32;
    tensor.ndim = 4;
    tensor.shape = shape;
    tensor.data = pool;

    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.flags = KVSIM_PAGES_BORROW; /* the pool outlives the context */
    pages.kind = KVSIM_KIND_KEY;
    pages.layout = KVSIM_LAYOUT_BNHD;
    pages.tensor = &tensor;
    pages.block_table = &block_table[0][0];
    pages.table_rows = 2;
    pages.table_columns = 4;
    pages.seq_lens = seq_lens;
    return kvsim_add_pages(ctx, &pages);
}

/* The value of a column that has one number in its first row, as of a table with one group. */
static uint64_t first_count(const kvsim_result *result, const char *table, const char *name) {
    kvsim_column column = KVSIM_COLUMN_INIT;
    if (kvsim_result_column(result, table, name, &column) != KVSIM_OK || column.rows < 1 || column.dtype_bits != 64) {
        return 0;
    }
    return *(const uint64_t *)column.data;
}

int main(void) {
    kvsim_ctx *ctx = NULL;
    kvsim_result *result = NULL;
    fill_pool();
    kvsim_status status = kvsim_ctx_create(NULL, &ctx);
    if (status == KVSIM_OK) {
        status = add_pages(ctx);
    }
    if (status == KVSIM_OK) {
        status = kvsim_compute(ctx, NULL, &result);
    }
    if (status == KVSIM_OK) {
        printf("%llu pages, %llu pairs, %llu exact duplicates\n",
               (unsigned long long)first_count(result, "groups", "pages"),
               (unsigned long long)first_count(result, "groups", "pairs"),
               (unsigned long long)first_count(result, "groups", "exact_duplicates"));
    } else {
        fprintf(stderr, "embed: %s\n", ctx != NULL ? kvsim_ctx_error(ctx) : kvsim_status_string(status));
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    return status == KVSIM_OK ? 0 : 1;
}
