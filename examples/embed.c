/*
 * How an engine embeds libkvsim: hand in the pages of a pool where they lie, compare them, read the result.
 *
 * The pool is one layer's paged KV-cache, [BLOCKS, key or value, 16 slots, 2 heads, 8 channels] in f32. Two requests of
 * 60 tokens use it. They share block 0; their second blocks hold the same content, but the engine did not notice and
 * stored it twice, in 1 and 4.
 */
#include <kvsim/kvsim.h>

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 8, SLOTS = 16, HEADS = 2, CHANNELS = 8 };

static float pool[BLOCKS][2][SLOTS][HEADS][CHANNELS];
static const int32_t block_table[2][4] = {{0, 1, 2, 3}, {0, 4, 5, 6}};
static const int32_t seq_lens[2] = {60, 60};

/* In place of a model: every channel has a mean of its own, as keys have, and noise around it. */
static void fill_pool(void) {
    uint32_t state = 1;
    float *element = (float *)pool;
    for (size_t i = 0; i < sizeof pool / sizeof *element; i++) {
        state = state * 1664525u + 1013904223u;
        element[i] = (float)(i % CHANNELS) / CHANNELS + (float)(state >> 8) / (float)(1u << 24) - 0.5f;
    }
    memcpy(pool[4], pool[1], sizeof pool[1]);
}

static kvsim_status add_pages(kvsim_ctx *ctx) {
    const int64_t shape[5] = {BLOCKS, 2, SLOTS, HEADS, CHANNELS};
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.dtype_code = KVSIM_DTYPE_FLOAT;
    tensor.dtype_bits = 32;
    tensor.ndim = 5;
    tensor.shape = shape;
    tensor.data = pool;

    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.flags = KVSIM_PAGES_BORROW; /* the pool outlives the context */
    pages.kind = KVSIM_KIND_BOTH;
    pages.layout = KVSIM_LAYOUT_B2NHD;
    pages.tensor = &tensor;
    pages.block_table = &block_table[0][0];
    pages.table_rows = 2;
    pages.table_columns = 4;
    pages.seq_lens = seq_lens;
    return kvsim_add_pages(ctx, &pages);
}

/* A column of the table `groups`, which has one row for each group and view. */
static kvsim_column column_of(const kvsim_result *result, const char *name) {
    kvsim_column column = KVSIM_COLUMN_INIT;
    (void)kvsim_result_column(result, "groups", name, &column); /* every name below exists */
    return column;
}

static void print_groups(const kvsim_result *result) {
    const kvsim_column kinds = column_of(result, "kind");
    const int32_t *kind = kinds.data;
    const int32_t *view = column_of(result, "view").data;
    const uint64_t *pages = column_of(result, "pages").data;
    const uint64_t *partial = column_of(result, "partial").data;
    const uint64_t *duplicates = column_of(result, "exact_duplicates").data;
    const double *cosine = column_of(result, "cosine_mean").data;
    printf("kind   view      pages  partial  exact duplicates  mean cosine\n");
    for (int64_t i = 0; i < kinds.rows; i++) {
        printf("%-5s  %-8s  %5llu  %7llu  %16llu  %11.3f\n", kind[i] == KVSIM_KIND_KEY ? "key" : "value",
               view[i] == KVSIM_VIEW_RAW ? "raw" : "centred", (unsigned long long)pages[i],
               (unsigned long long)partial[i], (unsigned long long)duplicates[i], cosine[i]);
    }
}

int main(void) {
    kvsim_ctx *ctx = NULL;
    kvsim_result *result = NULL;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = KVSIM_VIEW_CENTERED; /* besides the raw one */
    fill_pool();
    kvsim_status status = kvsim_ctx_create(NULL, &ctx);
    if (status == KVSIM_OK) {
        status = add_pages(ctx);
    }
    if (status == KVSIM_OK) {
        status = kvsim_compute(ctx, &options, &result);
    }
    if (status == KVSIM_OK) {
        print_groups(result);
    } else {
        fprintf(stderr, "embed: %s\n", ctx != NULL ? kvsim_ctx_error(ctx) : kvsim_status_string(status));
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    return status == KVSIM_OK ? 0 : 1;
}
