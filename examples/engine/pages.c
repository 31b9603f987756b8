/* The engine's pages for libkvsim: live ones by pointer, or a dump. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <kvsim/snapshot.h>

#include "internal.h"

static uint8_t dtype_code(const engine *e) {
    return e->pool.kv_dtype == ENGINE_KV_BF16 ? KVSIM_DTYPE_BFLOAT : KVSIM_DTYPE_FLOAT;
}

static uint8_t dtype_bits(const engine *e) {
    return (uint8_t)(8 * kv_element_size(e->pool.kv_dtype));
}

static kvsim_rope rope_of(const engine *e) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    rope.style = KVSIM_ROPE_HALF;
    rope.theta = e->config.rope_theta;
    return rope;
}

static int fail_kvsim(engine *e, const kvsim_ctx *ctx, kvsim_status status) {
    return engine_fail(e, status == KVSIM_E_NOMEM ? ENGINE_E_NOMEM : ENGINE_E_KVSIM, "libkvsim: %s",
                       kvsim_ctx_error(ctx));
}

/* Sequences that have something in the cache, with their blocks as one table. */
typedef struct table {
    int64_t rows;
    int64_t columns;
    int64_t *numbers; /* [rows] sequence numbers */
    int32_t *lengths; /* [rows] tokens in the cache */
    int32_t *blocks;  /* [rows, columns], -1 = none */
} table;

static void free_table(table *t) {
    free(t->numbers);
    free(t->lengths);
    free(t->blocks);
}

static int make_table(engine *e, table *t) {
    int64_t page_tokens = e->pool.page_tokens;
    memset(t, 0, sizeof *t);
    for (int64_t i = 0; i < e->sequence_count; i++) {
        const sequence *s = e->sequences[i];
        if (s && s->cached > 0) {
            int64_t blocks = (s->cached + page_tokens - 1) / page_tokens;
            t->rows++;
            t->columns = blocks > t->columns ? blocks : t->columns;
        }
    }
    t->numbers = engine_array((size_t)t->rows, sizeof *t->numbers);
    t->lengths = engine_array((size_t)t->rows, sizeof *t->lengths);
    t->blocks = engine_array((size_t)t->rows, (size_t)t->columns * sizeof *t->blocks);
    if (!t->numbers || !t->lengths || !t->blocks) {
        free_table(t);
        return engine_fail_memory(e, "a block table");
    }
    int64_t row = 0;
    for (int64_t i = 0; i < e->sequence_count; i++) {
        const sequence *s = e->sequences[i];
        if (!s || s->cached == 0) {
            continue;
        }
        t->numbers[row] = i;
        t->lengths[row] = (int32_t)s->cached;
        for (int64_t column = 0; column < t->columns; column++) {
            bool used = column * page_tokens < s->cached;
            t->blocks[row * t->columns + column] = used ? s->blocks[column] : -1;
        }
        row++;
    }
    return ENGINE_OK;
}

/* The pool of a layer as a tensor: both kinds packed, or one of them as a strided view. */
typedef struct layer_tensor {
    kvsim_tensor tensor;
    int64_t shape[5];
    int64_t strides[5];
} layer_tensor;

static void make_layer_tensor(const engine *e, int32_t layer, int32_t kind, layer_tensor *out) {
    const int64_t tokens = e->pool.page_tokens, heads = e->config.kv_heads, size = e->config.head_dim;
    const int64_t packed[] = {e->pool.blocks, 2, tokens, heads, size};
    const int64_t packed_strides[] = {2 * tokens * heads * size, tokens * heads * size, heads * size, size, 1};
    int axes = 0;
    for (int axis = 0; axis < 5; axis++) {
        if (axis == 1 && kind != KVSIM_KIND_BOTH) {
            continue;
        }
        out->shape[axes] = packed[axis];
        out->strides[axes++] = packed_strides[axis];
    }
    out->tensor = (kvsim_tensor)KVSIM_TENSOR_INIT;
    out->tensor.device_type = KVSIM_DEVICE_CPU;
    out->tensor.ndim = axes;
    out->tensor.dtype_code = dtype_code(e);
    out->tensor.dtype_bits = dtype_bits(e);
    out->tensor.data = e->pool.layers[layer];
    out->tensor.byte_offset = kind == KVSIM_KIND_VALUE ? (uint64_t)e->pool.page_bytes : 0;
    out->tensor.shape = out->shape;
    out->tensor.strides = out->strides;
}

static kvsim_status add_layer(const engine *e, kvsim_ctx *ctx, const table *t, int32_t layer, int32_t kind) {
    layer_tensor view;
    make_layer_tensor(e, layer, kind, &view);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.flags = KVSIM_PAGES_BORROW;
    pages.layer = layer;
    pages.kind = kind;
    pages.layout = kind == KVSIM_KIND_BOTH ? KVSIM_LAYOUT_B2NHD : KVSIM_LAYOUT_BNHD;
    pages.source = e->options.source;
    pages.tensor = &view.tensor;
    pages.block_table = t->blocks;
    pages.table_rows = t->rows;
    pages.table_columns = t->columns;
    pages.seq_lens = t->lengths;
    pages.sequences = t->numbers;
    return kvsim_add_pages(ctx, &pages);
}

int engine_add_pages(engine *e, kvsim_ctx *ctx) {
    return engine_add_selected_pages(e, ctx, KVSIM_KIND_BOTH, NULL, 0);
}

int engine_add_selected_pages(engine *e, kvsim_ctx *ctx, int32_t kind, const int32_t *layers, size_t layer_count) {
    if (!e->loaded) {
        return engine_fail(e, ENGINE_E_INVALID, "the engine has no model");
    }
    for (size_t i = 0; layers && i < layer_count; i++) {
        if (layers[i] < 0 || layers[i] >= e->config.layers) {
            return engine_fail(e, ENGINE_E_INVALID, "layer %d does not exist: the model has the layers 0 to %d",
                               layers[i], e->config.layers - 1);
        }
    }
    table t;
    int status = make_table(e, &t);
    if (status != ENGINE_OK) {
        return status;
    }
    size_t count = layers ? layer_count : (size_t)e->config.layers;
    kvsim_status added = KVSIM_OK;
    for (size_t i = 0; i < count && t.rows > 0 && added == KVSIM_OK; i++) {
        added = add_layer(e, ctx, &t, layers ? layers[i] : (int32_t)i, kind);
    }
    free_table(&t);
    if (added == KVSIM_OK) {
        kvsim_rope rope = rope_of(e);
        added = kvsim_set_rope(ctx, &rope);
    }
    return added == KVSIM_OK ? ENGINE_OK : fail_kvsim(e, ctx, added);
}

/* What the writer of a dump asks us for its rows by. */
typedef struct dump_source {
    const engine *e;
    const table *t;
} dump_source;

/* Gather the keys or values of one sequence and layer through its row of the block table. */
static int read_rows(void *user, int64_t row, int32_t layer, int32_t kind, void *out) {
    const dump_source *source = user;
    const block_pool *pool = &source->e->pool;
    const table *t = source->t;
    size_t row_bytes = pool->page_bytes / (size_t)pool->page_tokens;
    char *to = out;
    int64_t left = t->lengths[row];
    for (int64_t column = 0; left > 0; column++) {
        int64_t tokens = left < pool->page_tokens ? left : pool->page_tokens;
        size_t bytes = (size_t)tokens * row_bytes;
        int32_t block = t->blocks[row * t->columns + column];
        memcpy(to, pool_page(pool, layer, block, kind == KVSIM_KIND_VALUE), bytes);
        to += bytes;
        left -= tokens;
    }
    return 0;
}

/* The prompt's own bytes, if the model is byte-level and they are UTF-8; else "". [owned], NULL when out of memory. */
static char *prompt_text(engine *e, const sequence *s) {
    char *text = engine_array((size_t)s->prompt_length + 1, 1);
    size_t size = 0;
    if (!text || !e->config.byte_level) {
        return text;
    }
    engine_detokenize(e, s->tokens, s->prompt_length, text, &size);
    json_t *valid = json_stringn(text, size); /* NULL unless UTF-8 */
    if (!valid || memchr(text, '\0', size)) {
        text[0] = '\0';
    }
    json_decref(valid);
    return text;
}

/* The arrays that a dump points to. */
typedef struct dump_arrays {
    int64_t *lengths;
    const int32_t **tokens;
    const char **prompts;
    char **owned; /* prompts that were made here */
} dump_arrays;

static void free_dump_arrays(dump_arrays *a, int64_t rows) {
    for (int64_t i = 0; a->owned && i < rows; i++) {
        free(a->owned[i]);
    }
    free(a->owned);
    free(a->lengths);
    free(a->tokens);
    free(a->prompts);
}

static int make_dump_arrays(engine *e, const table *t, const char *const *prompts, dump_arrays *a) {
    a->lengths = engine_array((size_t)t->rows, sizeof *a->lengths);
    a->tokens = engine_array((size_t)t->rows, sizeof *a->tokens);
    a->prompts = engine_array((size_t)t->rows, sizeof *a->prompts);
    a->owned = engine_array((size_t)t->rows, sizeof *a->owned);
    if (!a->lengths || !a->tokens || !a->prompts || !a->owned) {
        return engine_fail_memory(e, "a dump");
    }
    for (int64_t row = 0; row < t->rows; row++) {
        const sequence *s = e->sequences[t->numbers[row]];
        a->lengths[row] = t->lengths[row];
        a->tokens[row] = s->tokens;
        a->prompts[row] = prompts ? prompts[t->numbers[row]] : NULL;
        if (!a->prompts[row]) {
            a->prompts[row] = a->owned[row] = prompt_text(e, s);
        }
        if (!a->prompts[row]) {
            return engine_fail_memory(e, "a prompt");
        }
    }
    return ENGINE_OK;
}

int engine_dump(engine *e, kvsim_ctx *ctx, const char *path, const char *const *prompts) {
    if (!e->loaded) {
        return engine_fail(e, ENGINE_E_INVALID, "the engine has no model");
    }
    table t;
    dump_arrays arrays = {0};
    int status = make_table(e, &t);
    if (status != ENGINE_OK) {
        return status;
    }
    if (t.rows == 0) {
        status = engine_fail(e, ENGINE_E_INVALID, "nothing to dump: no sequence has tokens in the cache");
    } else {
        status = make_dump_arrays(e, &t, prompts, &arrays);
    }
    if (status == ENGINE_OK) {
        dump_source source = {e, &t};
        kvsim_dump dump = KVSIM_DUMP_INIT;
        dump.layers = e->config.layers;
        dump.kv_heads = e->config.kv_heads;
        dump.head_dim = e->config.head_dim;
        dump.page_tokens = e->pool.page_tokens;
        dump.dtype_code = dtype_code(e);
        dump.dtype_bits = dtype_bits(e);
        dump.rope = rope_of(e);
        dump.model = e->config.model_name;
        dump.sequences = t.rows;
        dump.lengths = arrays.lengths;
        dump.tokens = arrays.tokens;
        dump.prompts = arrays.prompts;
        dump.read = read_rows;
        dump.read_user = &source;
        kvsim_status written = kvsim_dump_write(ctx, path, &dump);
        status = written == KVSIM_OK ? ENGINE_OK : fail_kvsim(e, ctx, written);
    }
    free_dump_arrays(&arrays, t.rows);
    free_table(&t);
    return status;
}
