/* Weights of a Hugging Face model folder, expanded to float when they are loaded. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <kvsim/snapshot.h>

#include "internal.h"

#define NAME_SIZE 128

/* Being read: the folder for error texts, and its mapped files. */
typedef struct source {
    engine *e;
    const char *folder;
    kvsim_snapshot *files;
} source;

/* The engine's code for a tensor's element type, or -1. */
static int32_t stored_type(const kvsim_tensor *tensor) {
    if (tensor->dtype_code == KVSIM_DTYPE_FLOAT && tensor->dtype_bits == 32) {
        return ENGINE_KV_F32;
    }
    if (tensor->dtype_code == KVSIM_DTYPE_FLOAT && tensor->dtype_bits == 16) {
        return ENGINE_KV_F16;
    }
    if (tensor->dtype_code == KVSIM_DTYPE_BFLOAT && tensor->dtype_bits == 16) {
        return ENGINE_KV_BF16;
    }
    return -1;
}

/* "[576, 192]" */
static void format_shape(const kvsim_tensor *tensor, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int32_t axis = 0; axis < tensor->ndim && used < size; axis++) {
        used += (size_t)snprintf(text + used, size - used, "%s%lld", axis ? ", " : "", (long long)tensor->shape[axis]);
    }
    if (used < size) {
        snprintf(text + used, size - used, "]");
    }
}

/* Find a tensor [rows, columns], or a vector [columns] if rows is 0, and check it. */
static int find(const source *s, const char *name, int64_t rows, int64_t columns, kvsim_tensor *tensor) {
    kvsim_tensor_init(tensor);
    kvsim_status found = kvsim_snapshot_find(s->files, name, tensor);
    if (found != KVSIM_OK) {
        return engine_fail(s->e, ENGINE_E_MODEL, "%s: tensor '%s' is missing", s->folder, name);
    }
    bool fits = rows ? tensor->ndim == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns
                     : tensor->ndim == 1 && tensor->shape[0] == columns;
    if (!fits) {
        char shape[96];
        char wanted[48];
        format_shape(tensor, shape, sizeof shape);
        if (rows) {
            snprintf(wanted, sizeof wanted, "[%lld, %lld]", (long long)rows, (long long)columns);
        } else {
            snprintf(wanted, sizeof wanted, "[%lld]", (long long)columns);
        }
        return engine_fail(s->e, ENGINE_E_MODEL, "%s: tensor '%s' has shape %s, config.json asks for %s", s->folder,
                           name, shape, wanted);
    }
    if (stored_type(tensor) < 0) {
        return engine_fail(s->e, ENGINE_E_MODEL,
                           "%s: tensor '%s' has element type %d of %d bits, only F32, F16 and BF16 are "
                           "supported",
                           s->folder, name, tensor->dtype_code, tensor->dtype_bits);
    }
    return ENGINE_OK;
}

/* A part of a matrix or vector: a tensor's name and its rows. */
typedef struct part {
    char name[NAME_SIZE];
    int64_t rows;
} part;

static part part_of(int64_t rows, const char *format, ...) ENGINE_PRINTF(2, 3);

static part part_of(int64_t rows, const char *format, ...) {
    part p = {.rows = rows};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p.name, sizeof p.name, format, arguments);
    va_end(arguments);
    return p;
}

/*
 * Load tensors one below the other into one matrix [sum of rows, columns], or vectors (columns 0) into one vector.
 * Sizes come from tensors that exist, so a config.json that lies cannot ask for more memory than its files have.
 */
static int load(const source *s, const part *parts, size_t count, int64_t columns, float **out) {
    kvsim_tensor tensor;
    int64_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        int status = columns ? find(s, parts[i].name, parts[i].rows, columns, &tensor)
                             : find(s, parts[i].name, 0, parts[i].rows, &tensor);
        if (status != ENGINE_OK) {
            return status;
        }
        rows += parts[i].rows;
    }
    size_t width = columns ? (size_t)columns : 1;
    *out = engine_array((size_t)rows * width, sizeof(float));
    if (!*out) {
        return engine_fail_memory(s->e, parts[0].name);
    }
    float *to = *out;
    for (size_t i = 0; i < count; i++) {
        kvsim_snapshot_find(s->files, parts[i].name, &tensor);
        size_t elements = (size_t)parts[i].rows * width;
        kv_widen(stored_type(&tensor), (const char *)tensor.data + tensor.byte_offset, to, elements);
        to += elements;
    }
    s->e->config.parameters += (int64_t)((size_t)rows * width);
    return ENGINE_OK;
}

static int load_one(const source *s, part p, int64_t columns, float **out) {
    return load(s, &p, 1, columns, out);
}

static int load_attention(const source *s, int32_t i, layer_weights *layer) {
    const engine_config *c = &s->e->config;
    int64_t queries = (int64_t)c->query_heads * c->head_dim;
    int64_t keys = (int64_t)c->kv_heads * c->head_dim;
    const part weights[] = {part_of(queries, "model.layers.%d.self_attn.q_proj.weight", i),
                            part_of(keys, "model.layers.%d.self_attn.k_proj.weight", i),
                            part_of(keys, "model.layers.%d.self_attn.v_proj.weight", i)};
    const part biases[] = {part_of(queries, "model.layers.%d.self_attn.q_proj.bias", i),
                           part_of(keys, "model.layers.%d.self_attn.k_proj.bias", i),
                           part_of(keys, "model.layers.%d.self_attn.v_proj.bias", i)};
    int status =
        load_one(s, part_of(c->hidden, "model.layers.%d.input_layernorm.weight", i), 0, &layer->attention_norm);
    if (status == ENGINE_OK) {
        status = load(s, weights, 3, c->hidden, &layer->qkv);
    }
    if (status == ENGINE_OK && s->e->model.qkv_bias) {
        status = load(s, biases, 3, 0, &layer->qkv_bias);
    }
    if (status == ENGINE_OK) {
        status = load_one(s, part_of(c->hidden, "model.layers.%d.self_attn.o_proj.weight", i), queries, &layer->output);
    }
    if (status == ENGINE_OK && s->e->model.output_bias) {
        status = load_one(s, part_of(c->hidden, "model.layers.%d.self_attn.o_proj.bias", i), 0, &layer->output_bias);
    }
    return status;
}

static int load_mlp(const source *s, int32_t i, layer_weights *layer) {
    const engine_config *c = &s->e->config;
    const part gate_up[] = {part_of(c->intermediate, "model.layers.%d.mlp.gate_proj.weight", i),
                            part_of(c->intermediate, "model.layers.%d.mlp.up_proj.weight", i)};
    int status =
        load_one(s, part_of(c->hidden, "model.layers.%d.post_attention_layernorm.weight", i), 0, &layer->mlp_norm);
    if (status == ENGINE_OK) {
        status = load(s, gate_up, 2, c->hidden, &layer->gate_up);
    }
    if (status == ENGINE_OK) {
        status =
            load_one(s, part_of(c->hidden, "model.layers.%d.mlp.down_proj.weight", i), c->intermediate, &layer->down);
    }
    return status;
}

static int load_all(const source *s) {
    const engine_config *c = &s->e->config;
    model_weights *w = &s->e->weights;
    int status = load_one(s, part_of(c->vocabulary, "model.embed_tokens.weight"), c->hidden, &w->embedding);
    if (status == ENGINE_OK) {
        status = load_one(s, part_of(c->hidden, "model.norm.weight"), 0, &w->final_norm);
    }
    if (status == ENGINE_OK && s->e->model.tied_embeddings) {
        w->head = w->embedding;
    } else if (status == ENGINE_OK) {
        status = load_one(s, part_of(c->vocabulary, "lm_head.weight"), c->hidden, &w->head);
    }
    if (status != ENGINE_OK) {
        return status;
    }
    w->layers = engine_array((size_t)c->layers, sizeof *w->layers);
    if (!w->layers) {
        return engine_fail_memory(s->e, "the layers");
    }
    for (int32_t i = 0; i < c->layers && status == ENGINE_OK; i++) {
        status = load_attention(s, i, &w->layers[i]);
        if (status == ENGINE_OK) {
            status = load_mlp(s, i, &w->layers[i]);
        }
    }
    return status;
}

int engine_load_weights(engine *e, const char *folder) {
    source s = {e, folder, NULL};
    kvsim_ctx *ctx = NULL;
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = KVSIM_BACKEND_CPU;
    kvsim_status opened = kvsim_ctx_create(&options, &ctx);
    if (opened != KVSIM_OK) {
        return engine_fail(e, opened == KVSIM_E_NOMEM ? ENGINE_E_NOMEM : ENGINE_E_KVSIM, "libkvsim: %s",
                           kvsim_status_string(opened));
    }
    opened = kvsim_snapshot_open(ctx, folder, &s.files);
    int status = opened == KVSIM_OK        ? load_all(&s)
                 : opened == KVSIM_E_NOMEM ? engine_fail_memory(e, "the model's files")
                                           : engine_fail(e, ENGINE_E_MODEL, "%s", kvsim_ctx_error(ctx));
    kvsim_snapshot_close(s.files);
    kvsim_ctx_destroy(ctx);
    return status;
}

void engine_free_weights(engine *e) {
    model_weights *w = &e->weights;
    for (int32_t i = 0; w->layers && i < e->config.layers; i++) {
        free(w->layers[i].attention_norm);
        free(w->layers[i].qkv);
        free(w->layers[i].qkv_bias);
        free(w->layers[i].output);
        free(w->layers[i].output_bias);
        free(w->layers[i].mlp_norm);
        free(w->layers[i].gate_up);
        free(w->layers[i].down);
    }
    free(w->layers);
    free(w->final_norm);
    if (w->head != w->embedding) {
        free(w->head);
    }
    free(w->embedding);
}
