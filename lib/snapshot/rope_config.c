/* How a model rotates its keys, from the config.json of its Hugging Face folder. */
#include "snapshot.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define CONFIG_FILE "config.json"

/* Real ones have a few kilobytes; those that list every label of a classifier have some more. */
#define CONFIG_LIMIT ((size_t)16 << 20)

/* Larger than any head. */
#define HEAD_DIM_LIMIT 65536

static const kvsim__json_limits config_limits = {.depth = KVSIM__DEPTH_LIMIT, .list = SIZE_MAX, .values = 1000000};

/* What config.json leaves to the code of a model: see each configuration class of Hugging Face transformers. */
typedef struct family {
    const char *model_type;
    int32_t style;
    double theta;       /* where the file does not say; 0 = 10,000 */
    double partial;     /* share of the channels that are rotated, likewise; 0 = all */
    int32_t rotary_dim; /* their number, likewise */
} family;

static const family families[] = {
    {"llama", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"mistral", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"ministral", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"mixtral", KVSIM_ROPE_HALF, 1e6, 0.0, 0},
    {"qwen2", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"qwen2_moe", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"qwen3", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"qwen3_moe", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"gemma", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"gemma2", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"phi", KVSIM_ROPE_HALF, 0.0, 0.5, 0},
    {"phi3", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"gpt_neox", KVSIM_ROPE_HALF, 0.0, 0.25, 0},
    {"falcon", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"stablelm", KVSIM_ROPE_HALF, 0.0, 0.25, 0},
    {"persimmon", KVSIM_ROPE_HALF, 25000.0, 0.5, 0},
    {"nemotron", KVSIM_ROPE_HALF, 0.0, 0.5, 0},
    {"starcoder2", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"granite", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"granitemoe", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"olmo", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"olmo2", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"olmoe", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"gpt_oss", KVSIM_ROPE_HALF, 150000.0, 0.0, 0},
    {"glm4_moe", KVSIM_ROPE_HALF, 0.0, 0.5, 0},
    {"hunyuan_v1_dense", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"hunyuan_v1_moe", KVSIM_ROPE_HALF, 0.0, 0.0, 0},
    {"gptj", KVSIM_ROPE_INTERLEAVED, 0.0, 0.0, 64},
    {"codegen", KVSIM_ROPE_INTERLEAVED, 0.0, 0.0, 64},
    {"cohere", KVSIM_ROPE_INTERLEAVED, 500000.0, 0.0, 0},
    {"glm", KVSIM_ROPE_INTERLEAVED, 0.0, 0.5, 0},
    {"glm4", KVSIM_ROPE_INTERLEAVED, 0.0, 0.5, 0},
    {"ernie4_5", KVSIM_ROPE_INTERLEAVED, 500000.0, 0.0, 0},
    {"ernie4_5_moe", KVSIM_ROPE_INTERLEAVED, 500000.0, 0.0, 0},
    {"helium", KVSIM_ROPE_INTERLEAVED, 100000.0, 0.0, 0},
    {"gpt2", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"gpt_neo", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"gpt_bigcode", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"opt", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"bloom", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"mpt", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"biogpt", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"xglm", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
    {"ctrl", KVSIM_ROPE_NONE, 0.0, 0.0, 0},
};

/* One kvsim_rope holds for all layers. */
static const char *const mixed_models[] = {
    "cohere2", "cohere2_moe", "exaone4",     "llama4",     "llama4_text",
    "smollm3", "gemma3",      "gemma3_text", "gemma3n",    "gemma3n_text",
    "gemma4",  "gemma4_text", "t5gemma2",    "modernbert", "modernbert-decoder",
};

typedef struct reader {
    kvsim__base *base;
    const char *shown;
    const json_t *root;    /* facts of the language model */
    const json_t *scaling; /* its object rope_scaling or rope_parameters; NULL if it has none */
    const char *scaling_name;
    const char *model_type; /* "" if not said */
    const family *known;    /* NULL if the model type is none of the above */
} reader;

static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static kvsim_status malformed(const reader *from, const char *key, const char *wanted) {
    return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: '%s' is not %s", from->shown, key, wanted);
}

/* A number in (0, most]; where it is missing *out stays as it is. */
static kvsim_status read_number(const reader *from, const json_t *object, const char *key, double most, double *out) {
    const json_t *value = member(object, key);
    if (value == NULL) {
        return KVSIM_OK;
    }
    const double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || !(number > 0.0) || number > most) {
        return malformed(from, key, most == 1.0 ? "a number above 0 and up to 1" : "a number above 0");
    }
    *out = number;
    return KVSIM_OK;
}

/* A whole number of 1..INT32_MAX under the first of two names; where it is missing *out stays as it is. */
static kvsim_status read_count(const reader *from, const char *key, const char *other, int32_t *out) {
    const char *name = member(from->root, key) != NULL ? key : other;
    const json_t *value = member(from->root, name);
    if (value == NULL) {
        return KVSIM_OK;
    }
    const json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || number > INT32_MAX) {
        return malformed(from, name, "a whole number above 0");
    }
    *out = (int32_t)number;
    return KVSIM_OK;
}

/* Models of pictures and text keep the facts of the language model in an object of their own. */
static const json_t *language_model(const json_t *root) {
    static const char *const names[] = {"text_config", "language_config", "llm_config"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *inner = json_object_get(root, names[i]);
        if (json_is_object(inner) && member(root, "hidden_size") == NULL) {
            return inner;
        }
    }
    return root;
}

static kvsim_status read_family(reader *from) {
    const json_t *type = member(from->root, "model_type");
    if (type != NULL && !json_is_string(type)) {
        return malformed(from, "model_type", "a text");
    }
    from->model_type = type != NULL ? json_string_value(type) : "";
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i].model_type, from->model_type) == 0) {
            from->known = &families[i];
        }
    }
    return KVSIM_OK;
}

/* Why the keys of this model are not rotated, or are left as they are; NULL if they are rotated. */
static const char *why_unrotated(const reader *from) {
    static const char *const without[] = {"alibi", "nope", "absolute", "learned_absolute"};
    if (member(from->root, "kv_lora_rank") != NULL || member(from->root, "qk_rope_head_dim") != NULL) {
        return "multi-head latent attention (kv_lora_rank); its latents are left as they are";
    }
    if (from->known != NULL && from->known->style == KVSIM_ROPE_NONE) {
        return "this model has no RoPE; keys are left as they are";
    }
    if (json_is_true(json_object_get(from->root, "alibi"))) {
        return "'alibi' in place of RoPE; keys are left as they are";
    }
    const char *kind = json_string_value(json_object_get(from->root, "position_embedding_type"));
    for (size_t i = 0; kind != NULL && i < sizeof without / sizeof without[0]; i++) {
        if (strcmp(kind, without[i]) == 0) {
            return "its position_embedding_type is not RoPE; keys are left as they are";
        }
    }
    return NULL;
}

static kvsim_status refuse_mixed(const reader *from) {
    char shortened[KVSIM__SHORT_SIZE];
    for (size_t i = 0; i < sizeof mixed_models / sizeof mixed_models[0]; i++) {
        if (strcmp(mixed_models[i], from->model_type) == 0) {
            return kvsim__fail(from->base, KVSIM_E_UNSUPPORTED,
                               "%s: model_type '%s': its layers are not all rotated alike, which kvsim does not undo",
                               from->shown, from->model_type);
        }
    }
    if (strcmp(from->model_type, "chatglm") == 0) {
        return kvsim__fail(from->base, KVSIM_E_UNSUPPORTED,
                           "%s: model_type 'chatglm' says its rotation in code of "
                           "its own, not in " CONFIG_FILE,
                           from->shown);
    }
    if (member(from->root, "rope_local_base_freq") != NULL) {
        return kvsim__fail(
            from->base, KVSIM_E_UNSUPPORTED,
            "%s: 'rope_local_base_freq': its layers are not all rotated alike, which kvsim does not undo", from->shown);
    }
    const json_t *layers = json_object_get(from->root, "no_rope_layers");
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *rotated = json_array_get(layers, i);
        if (!json_is_integer(rotated) || json_integer_value(rotated) != 1) {
            return kvsim__fail(from->base, KVSIM_E_UNSUPPORTED,
                               "%s: 'no_rope_layers': its layers are not all rotated alike, which kvsim does not undo",
                               from->shown);
        }
    }
    const char *key = NULL;
    json_t *value = NULL;
    /* The macro's iterator wants an object without const and does not change it. */
    json_object_foreach((json_t *)(uintptr_t)from->scaling, key, value) {
        if (json_is_object(value)) {
            return kvsim__fail(from->base, KVSIM_E_UNSUPPORTED,
                               "%s: '%s' has a rotation of its own for each type of layer ('%s'), which kvsim does not "
                               "undo",
                               from->shown, from->scaling_name, kvsim__shorten(key, false, shortened));
        }
    }
    return KVSIM_OK;
}

/* As transformers does: rope_scaling, if there is anything in it, comes before rope_parameters. */
static kvsim_status find_scaling(reader *from) {
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *object = member(from->root, names[i]);
        if (object != NULL && !json_is_object(object)) {
            return malformed(from, names[i], "an object");
        }
        if (from->scaling == NULL && json_object_size(object) > 0) {
            from->scaling = object;
            from->scaling_name = names[i];
        }
    }
    return KVSIM_OK;
}

static kvsim_status read_theta(const reader *from, kvsim_rope *rope) {
    const bool said = member(from->root, "rope_theta") != NULL || member(from->root, "rotary_emb_base") != NULL ||
                      member(from->scaling, "rope_theta") != NULL;
    rope->theta = from->known != NULL && from->known->theta > 0.0 ? from->known->theta : 10000.0;
    kvsim_status status = read_number(from, from->root, "rotary_emb_base", INFINITY, &rope->theta);
    if (status == KVSIM_OK) {
        status = read_number(from, from->root, "rope_theta", INFINITY, &rope->theta);
    }
    if (status == KVSIM_OK) {
        status = read_number(from, from->scaling, "rope_theta", INFINITY, &rope->theta);
    }
    if (status == KVSIM_OK && !said) {
        kvsim__log(from->base, KVSIM_LOG_INFO, "%s: no rope_theta; %g is taken", from->shown, rope->theta);
    }
    return status;
}

/* Channels of a head; 0 if the file does not say. */
static kvsim_status read_head_dim(const reader *from, int32_t *out) {
    int32_t hidden = 0;
    int32_t heads = 0;
    kvsim_status status = read_count(from, "hidden_size", "n_embd", &hidden);
    if (status == KVSIM_OK) {
        status = read_count(from, "num_attention_heads", "n_head", &heads);
    }
    *out = heads > 0 ? hidden / heads : 0;
    if (status == KVSIM_OK) {
        status = read_count(from, "head_dim", "head_dim", out);
    }
    if (status == KVSIM_OK && *out > HEAD_DIM_LIMIT) {
        status = malformed(from, "head_dim", "a number of channels that a head can have");
    }
    return status;
}

static kvsim_status read_rotary(const reader *from, kvsim_rope *rope) {
    int32_t head_dim = 0;
    int32_t dims = 0;
    double share = from->known != NULL && from->known->partial > 0.0 ? from->known->partial : 1.0;
    kvsim_status status = read_head_dim(from, &head_dim);
    if (status == KVSIM_OK) {
        status = read_number(from, from->root, "rotary_pct", 1.0, &share);
    }
    if (status == KVSIM_OK) {
        status = read_number(from, from->root, "partial_rotary_factor", 1.0, &share);
    }
    if (status == KVSIM_OK) {
        status = read_number(from, from->scaling, "partial_rotary_factor", 1.0, &share);
    }
    if (status == KVSIM_OK) {
        /* null says all of them, a file without the key leaves it to the model. */
        const bool said = json_object_get(from->root, "rotary_dim") != NULL;
        dims = !said && from->known != NULL ? from->known->rotary_dim : 0;
        status = read_count(from, "rotary_dim", "rotary_dim", &dims);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    if (dims == 0 && head_dim == 0 && share < 1.0) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT,
                           "%s: %g of the channels are rotated, but neither 'head_dim' nor 'hidden_size' and "
                           "'num_attention_heads' say of how many",
                           from->shown, share);
    }
    dims = dims > 0 ? dims : (int32_t)(head_dim * share);
    if (dims % 2 != 0 || (head_dim > 0 && (dims < 2 || dims > head_dim))) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT,
                           "%s: %" PRId32 " of %" PRId32
                           " channels ('head_dim') would be rotated, which is not an even "
                           "number of 2..%" PRId32,
                           from->shown, dims, head_dim, head_dim);
    }
    rope->rotary_dims = dims;
    return KVSIM_OK;
}

static kvsim_status read_scaling(const reader *from, kvsim_rope *rope) {
    double max_position = 0.0;
    kvsim_status status = read_number(from, from->root, "max_position_embeddings", INFINITY, &max_position);
    if (status == KVSIM_OK && from->scaling != NULL) {
        status = kvsim__read_scaling(from->base, from->shown, from->scaling_name, from->scaling, max_position, rope);
    }
    /* Beside the object it comes before the one in it. */
    if (status == KVSIM_OK && rope->original_max_position > 0.0) {
        status =
            read_number(from, from->root, "original_max_position_embeddings", INFINITY, &rope->original_max_position);
    }
    return status;
}

static kvsim_status read_rotation(const reader *from, kvsim_rope *rope) {
    char shortened[KVSIM__SHORT_SIZE];
    kvsim_status status = refuse_mixed(from);
    if (status == KVSIM_OK) {
        status = read_theta(from, rope);
    }
    if (status == KVSIM_OK) {
        status = read_rotary(from, rope);
    }
    if (status == KVSIM_OK) {
        status = read_scaling(from, rope);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    rope->style = from->known != NULL ? from->known->style : KVSIM_ROPE_HALF;
    if (from->known == NULL) {
        kvsim__log(from->base, KVSIM_LOG_WARNING,
                   "%s: model_type '%s' is not one that kvsim knows; channel i is taken to be paired with "
                   "i + rotary/2 (half)",
                   from->shown, kvsim__shorten(from->model_type, false, shortened));
    }
    return KVSIM_OK;
}

static kvsim_status read_root(kvsim__base *base, const char *shown, const json_t *root, kvsim_rope *rope) {
    reader from = {.base = base, .shown = shown, .root = language_model(root)};
    kvsim_status status = read_family(&from);
    if (status != KVSIM_OK) {
        return status;
    }
    const char *reason = why_unrotated(&from);
    if (reason != NULL) {
        kvsim__log(base, KVSIM_LOG_WARNING, "%s: %s", shown, reason);
        return KVSIM_OK;
    }
    status = find_scaling(&from);
    return status == KVSIM_OK ? read_rotation(&from, rope) : status;
}

static kvsim_status read_bytes(kvsim__base *base, const char *path, const unsigned char *bytes, size_t size,
                               kvsim_rope *rope) {
    char shown[KVSIM__SHORT_SIZE];
    (void)kvsim__shorten(path, true, shown);
    if (size > CONFIG_LIMIT) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: a " CONFIG_FILE " of %zu bytes; at most %zu are allowed", shown,
                           size, CONFIG_LIMIT);
    }
    kvsim_status status = KVSIM_OK;
    json_t *root = kvsim__parse_json(base, shown, CONFIG_FILE, bytes, size, &config_limits, &status);
    if (root != NULL) {
        status = read_root(base, shown, root, rope);
    }
    json_decref(root);
    return status;
}

/* Read a file, or a folder's CONFIG_FILE if `inside` is still allowed. */
static kvsim_status read_path(kvsim__base *base, const char *path, bool inside, kvsim_rope *rope) {
    char shown[KVSIM__SHORT_SIZE];
    const unsigned char *bytes = NULL;
    size_t size = 0;
    bool folder = false;
    kvsim_status status = kvsim__map_path(base, path, &bytes, &size, &folder);
    if (status == KVSIM_OK && !folder) {
        status = read_bytes(base, path, bytes, size, rope);
        kvsim__unmap(bytes, size);
    }
    if (status != KVSIM_OK || !folder) {
        return status;
    }
    if (!inside) {
        return kvsim__fail(base, KVSIM_E_IO, "%s: not a regular file", kvsim__shorten(path, true, shown));
    }
    size_t joined_size = 0;
    char *joined = kvsim__join(base, path, strlen(path), CONFIG_FILE, &joined_size);
    if (joined == NULL) {
        return KVSIM_E_NOMEM;
    }
    status = read_path(base, joined, false, rope);
    kvsim__release(base, joined, joined_size, 1);
    return status;
}

kvsim_status kvsim_rope_read_config(kvsim_ctx *ctx, const char *path, kvsim_rope *out) {
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = kvsim__ctx_base(ctx);
    if (path == NULL || out == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_rope_read_config: %s is NULL", path == NULL ? "path" : "out");
    }
    const uint32_t theirs = out->struct_size;
    if (theirs < sizeof(kvsim_rope)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_rope: struct_size %" PRIu32 " is too small; begin with KVSIM_ROPE_INIT", theirs);
    }
    kvsim_rope rope = KVSIM_ROPE_INIT;
    const kvsim_status status = read_path(base, path, true, &rope);
    if (status == KVSIM_OK) {
        *out = rope;
        out->struct_size = theirs;
    }
    return status;
}
