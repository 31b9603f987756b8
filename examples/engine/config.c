/* config.json of a Hugging Face model folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "internal.h"

/* Bounds that no model of these families reaches; they keep products of sizes far from overflow. */
#define LARGEST_LAYERS     1024
#define LARGEST_WIDTH      (1 << 20)
#define LARGEST_HEADS      4096
#define LARGEST_HEAD_DIM   4096
#define LARGEST_VOCABULARY (1 << 24)
#define LARGEST_POSITION   (1 << 24)

/* The families that are tested against Hugging Face transformers. */
#define LLAMA   "LlamaForCausalLM"
#define MISTRAL "MistralForCausalLM"
#define QWEN2   "Qwen2ForCausalLM"

/* Mistral's window where config.json does not say. */
#define MISTRAL_DEFAULT_WINDOW 4096

/* Being read: the file's path for error texts, and the JSON object. */
typedef struct reader {
    engine *e;
    const char *path;
    const json_t *root;
} reader;

/* A whole number in [smallest, largest]; `fallback` if the key is absent or null, unless it is negative. */
static int read_int(const reader *r, const char *key, int64_t smallest, int64_t largest, int64_t fallback,
                    int32_t *out) {
    const json_t *value = json_object_get(r->root, key);
    if (!value || json_is_null(value)) {
        if (fallback < 0) {
            return engine_fail(r->e, ENGINE_E_MODEL, "%s: '%s' is missing", r->path, key);
        }
        *out = (int32_t)fallback;
        return ENGINE_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < smallest || json_integer_value(value) > largest) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: '%s' must be a whole number from %lld to %lld", r->path, key,
                           (long long)smallest, (long long)largest);
    }
    *out = (int32_t)json_integer_value(value);
    return ENGINE_OK;
}

/* A positive number; `fallback` if the key is absent or null. */
static int read_number(const reader *r, const json_t *object, const char *key, double fallback, double *out) {
    const json_t *value = json_object_get(object, key);
    *out = fallback;
    if (!value || json_is_null(value)) {
        return ENGINE_OK;
    }
    if (!json_is_number(value) || !(json_number_value(value) > 0.0)) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: '%s' must be a number above 0", r->path, key);
    }
    *out = json_number_value(value);
    return ENGINE_OK;
}

static bool read_flag(const reader *r, const char *key, bool fallback) {
    const json_t *value = json_object_get(r->root, key);
    return json_is_boolean(value) ? json_is_true(value) : fallback;
}

/* A token id, or the first of a list of them; -1 if there is none. */
static int32_t read_token_id(const reader *r, const char *key) {
    const json_t *value = json_object_get(r->root, key);
    if (json_is_array(value)) {
        value = json_array_get(value, 0);
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= r->e->config.vocabulary) {
        return -1;
    }
    return (int32_t)json_integer_value(value);
}

static int read_architecture(const reader *r) {
    const char *name = json_string_value(json_array_get(json_object_get(r->root, "architectures"), 0));
    if (!name) {
        return engine_fail(r->e, ENGINE_E_MODEL,
                           "%s: 'architectures' does not name a model; supported: " LLAMA ", " MISTRAL ", " QWEN2,
                           r->path);
    }
    if (strcmp(name, LLAMA) != 0 && strcmp(name, MISTRAL) != 0 && strcmp(name, QWEN2) != 0) {
        return engine_fail(r->e, ENGINE_E_MODEL,
                           "%s: architecture '%s' is not supported; supported: " LLAMA ", " MISTRAL ", " QWEN2, r->path,
                           name);
    }
    r->e->architecture = engine_array(strlen(name) + 1, 1);
    if (!r->e->architecture) {
        return engine_fail_memory(r->e, "the architecture's name");
    }
    memcpy(r->e->architecture, name, strlen(name));
    r->e->config.architecture = r->e->architecture;
    return ENGINE_OK;
}

static int read_sizes(const reader *r) {
    engine_config *c = &r->e->config;
    int status = read_int(r, "vocab_size", 1, LARGEST_VOCABULARY, -1, &c->vocabulary);
    if (status == ENGINE_OK) {
        status = read_int(r, "hidden_size", 1, LARGEST_WIDTH, -1, &c->hidden);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "intermediate_size", 1, LARGEST_WIDTH, -1, &c->intermediate);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "num_hidden_layers", 1, LARGEST_LAYERS, -1, &c->layers);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "num_attention_heads", 1, LARGEST_HEADS, -1, &c->query_heads);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "num_key_value_heads", 1, LARGEST_HEADS, c->query_heads, &c->kv_heads);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "head_dim", 2, LARGEST_HEAD_DIM, c->hidden / c->query_heads, &c->head_dim);
    }
    if (status == ENGINE_OK) {
        status = read_int(r, "max_position_embeddings", 1, LARGEST_POSITION, -1, &c->max_position);
    }
    if (status != ENGINE_OK) {
        return status;
    }
    if (c->query_heads % c->kv_heads != 0) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: num_attention_heads %d is no multiple of num_key_value_heads %d",
                           r->path, c->query_heads, c->kv_heads);
    }
    if (c->head_dim < 2 || c->head_dim % 2 != 0) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: head_dim %d is odd: RoPE needs pairs of channels", r->path,
                           c->head_dim);
    }
    return ENGINE_OK;
}

/* Old files have rope_theta and rope_scaling, newer ones both in rope_parameters. */
static int read_rope(const reader *r) {
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    int status = read_number(r, r->root, "rope_theta", 10000.0, &r->e->config.rope_theta);
    for (size_t i = 0; i < sizeof places / sizeof *places && status == ENGINE_OK; i++) {
        const json_t *object = json_object_get(r->root, places[i]);
        if (!object || json_is_null(object)) {
            continue;
        }
        const char *type = json_string_value(json_object_get(object, "rope_type"));
        if (!type) {
            type = json_string_value(json_object_get(object, "type"));
        }
        if (!type || strcmp(type, "default") != 0) {
            return engine_fail(r->e, ENGINE_E_MODEL, "%s: %s '%s' is not supported, only plain RoPE ('default')",
                               r->path, places[i], type ? type : "(no rope_type)");
        }
        status = read_number(r, object, "rope_theta", r->e->config.rope_theta, &r->e->config.rope_theta);
    }
    double share = 1.0;
    if (status == ENGINE_OK) {
        status = read_number(r, r->root, "partial_rotary_factor", 1.0, &share);
    }
    if (status == ENGINE_OK && share != 1.0) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: partial_rotary_factor %g is not supported, only 1", r->path,
                           share);
    }
    return status;
}

/* Refuse by name whatever would make the forward pass another one. */
static int refuse_variants(const reader *r) {
    const engine_config *c = &r->e->config;
    const char *activation = json_string_value(json_object_get(r->root, "hidden_act"));
    if (activation && strcmp(activation, "silu") != 0) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: hidden_act '%s' is not supported, only 'silu'", r->path,
                           activation);
    }
    if (read_flag(r, "mlp_bias", false)) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: mlp_bias is not supported", r->path);
    }
    const json_t *quantization = json_object_get(r->root, "quantization_config");
    if (quantization && !json_is_null(quantization)) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: quantised weights (quantization_config) are not supported",
                           r->path);
    }
    if (strcmp(c->architecture, QWEN2) == 0 && read_flag(r, "use_sliding_window", false)) {
        return engine_fail(r->e, ENGINE_E_MODEL, "%s: use_sliding_window is not supported", r->path);
    }
    if (strcmp(c->architecture, MISTRAL) == 0) {
        const json_t *value = json_object_get(r->root, "sliding_window");
        json_int_t window = value ? json_integer_value(value) : MISTRAL_DEFAULT_WINDOW;
        if (!json_is_null(value) && window < c->max_position) {
            return engine_fail(r->e, ENGINE_E_MODEL,
                               "%s: sliding_window %lld below max_position_embeddings is not supported", r->path,
                               (long long)window);
        }
    }
    size_t index;
    json_t *type;
    json_array_foreach(json_object_get(r->root, "layer_types"), index, type) {
        if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention") != 0) {
            return engine_fail(r->e, ENGINE_E_MODEL, "%s: layer_types has '%s'; only 'full_attention' is supported",
                               r->path, json_is_string(type) ? json_string_value(type) : "no string");
        }
    }
    return ENGINE_OK;
}

static int read_config(const reader *r) {
    engine_config *c = &r->e->config;
    int status = read_architecture(r);
    if (status == ENGINE_OK) {
        status = read_sizes(r);
    }
    if (status == ENGINE_OK) {
        status = read_rope(r);
    }
    if (status == ENGINE_OK) {
        status = read_number(r, r->root, "rms_norm_eps", 1e-6, &c->norm_epsilon);
    }
    if (status == ENGINE_OK) {
        status = refuse_variants(r);
    }
    if (status != ENGINE_OK) {
        return status;
    }
    bool llama = strcmp(c->architecture, LLAMA) == 0;
    r->e->model.tied_embeddings = read_flag(r, "tie_word_embeddings", false);
    r->e->model.output_bias = llama && read_flag(r, "attention_bias", false);
    r->e->model.qkv_bias = r->e->model.output_bias || strcmp(c->architecture, QWEN2) == 0;
    c->bos = read_token_id(r, "bos_token_id");
    c->eos = read_token_id(r, "eos_token_id");
    c->byte_level = c->bos == 256 && c->eos == 257;
    return ENGINE_OK;
}

int engine_load_config(engine *e, const char *folder) {
    size_t size = strlen(folder) + sizeof "/config.json";
    char *path = engine_array(size, 1);
    if (!path) {
        return engine_fail_memory(e, "a path");
    }
    snprintf(path, size, "%s/config.json", folder);
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    int status;
    if (!root) {
        /* Line -1: the file could not be opened, and the text has its path. */
        status = error.line < 0 ? engine_fail(e, ENGINE_E_MODEL, "%s", error.text)
                                : engine_fail(e, ENGINE_E_MODEL, "%s: line %d: %s", path, error.line, error.text);
    } else if (!json_is_object(root)) {
        status = engine_fail(e, ENGINE_E_MODEL, "%s: not a JSON object", path);
    } else {
        const reader r = {e, path, root};
        status = read_config(&r);
    }
    json_decref(root);
    free(path);
    return status;
}
