/* RoPE scaling as Hugging Face writes it in config.json, which is also how a dump carries it. */
#include "snapshot.h"

#include <math.h>
#include <string.h>

#include "pages/rope.h"

/* A description has a dozen members; lists of factors (LongRoPE) have one number for each channel pair. */
static const kvsim__json_limits text_limits = {.depth = 3, .list = 4096, .values = 16384};

/* What is being read. */
typedef struct reader {
    kvsim__base *base;
    const char *shown;
    const char *what;
    const json_t *object;
} reader;

static const json_t *member(const reader *from, const char *key) {
    const json_t *value = json_object_get(from->object, key);
    return json_is_null(value) ? NULL : value;
}

/* A number above 0. Where it is missing: `fallback`, or a failure if that is negative. */
static kvsim_status read_number(const reader *from, const char *key, double fallback, double *out) {
    const json_t *value = member(from, key);
    *out = value == NULL ? fallback : json_number_value(value);
    if (value == NULL && fallback >= 0.0) {
        return KVSIM_OK;
    }
    if (value == NULL) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: %s: '%s' is missing", from->shown, from->what, key);
    }
    if (!json_is_number(value) || !isfinite(*out) || !(*out > 0.0)) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: %s: '%s' is not a number above 0", from->shown, from->what,
                           key);
    }
    return KVSIM_OK;
}

static kvsim_status refuse(const reader *from, const char *type, const char *reason) {
    char shortened[KVSIM__SHORT_SIZE];
    return kvsim__fail(from->base, KVSIM_E_UNSUPPORTED, "%s: %s: rope_type '%s': %s", from->shown, from->what,
                       kvsim__shorten(type, false, shortened), reason);
}

static kvsim_status read_type(const reader *from, const char **type) {
    const json_t *value = member(from, "rope_type");
    value = value != NULL ? value : member(from, "type");
    *type = value != NULL ? json_string_value(value) : "default";
    if (*type == NULL) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: %s: 'rope_type' is not a text", from->shown, from->what);
    }
    if (value == NULL && member(from, "factor") != NULL) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: %s: 'rope_type' is missing", from->shown, from->what);
    }
    return KVSIM_OK;
}

/* The figure that a fixed NTK scaling stretches theta by: some call it alpha. */
static kvsim_status read_ntk(const reader *from, kvsim_rope *rope) {
    rope->scaling = KVSIM_ROPE_SCALING_NTK;
    return read_number(from, member(from, "alpha") != NULL ? "alpha" : "factor", -1.0, &rope->factor);
}

static kvsim_status read_dynamic(const reader *from, kvsim_rope *rope) {
    if (member(from, "alpha") != NULL) {
        return read_ntk(from, rope);
    }
    double factor = 0.0;
    const kvsim_status status = read_number(from, "factor", -1.0, &factor);
    if (status != KVSIM_OK || factor == 1.0) {
        return status;
    }
    return refuse(from, "dynamic",
                  "its angles depend on the length that a sequence had when each key was stored, which no file says");
}

static kvsim_status read_yarn(const reader *from, double max_position, kvsim_rope *rope) {
    rope->scaling = KVSIM_ROPE_SCALING_YARN;
    if (json_is_false(member(from, "truncate"))) {
        return refuse(from, "yarn", "\"truncate\": false, a variant that kvsim does not undo");
    }
    kvsim_status status = read_number(from, "factor", -1.0, &rope->factor);
    if (status == KVSIM_OK) {
        status = read_number(from, "original_max_position_embeddings", max_position > 0.0 ? max_position : -1.0,
                             &rope->original_max_position);
    }
    if (status == KVSIM_OK) {
        status = read_number(from, "beta_fast", 0.0, &rope->beta_fast);
    }
    return status == KVSIM_OK ? read_number(from, "beta_slow", 0.0, &rope->beta_slow) : status;
}

static kvsim_status read_llama3(const reader *from, double max_position, kvsim_rope *rope) {
    rope->scaling = KVSIM_ROPE_SCALING_LLAMA3;
    kvsim_status status = read_number(from, "factor", -1.0, &rope->factor);
    if (status == KVSIM_OK) {
        status = read_number(from, "original_max_position_embeddings", max_position > 0.0 ? max_position : -1.0,
                             &rope->original_max_position);
    }
    if (status == KVSIM_OK) {
        status = read_number(from, "low_freq_factor", -1.0, &rope->low_freq_factor);
    }
    return status == KVSIM_OK ? read_number(from, "high_freq_factor", -1.0, &rope->high_freq_factor) : status;
}

static kvsim_status read_typed(const reader *from, const char *type, double max_position, kvsim_rope *rope) {
    /* Multimodal RoPE turns text as plain RoPE does. */
    if (strcmp(type, "default") == 0 || strcmp(type, "mrope") == 0) {
        return KVSIM_OK;
    }
    if (strcmp(type, "linear") == 0) {
        rope->scaling = KVSIM_ROPE_SCALING_LINEAR;
        return read_number(from, "factor", -1.0, &rope->factor);
    }
    if (strcmp(type, "ntk") == 0) {
        return read_ntk(from, rope);
    }
    if (strcmp(type, "dynamic") == 0) {
        return read_dynamic(from, rope);
    }
    if (strcmp(type, "yarn") == 0) {
        return read_yarn(from, max_position, rope);
    }
    if (strcmp(type, "llama3") == 0) {
        return read_llama3(from, max_position, rope);
    }
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        return refuse(from, type, "its factors change with the length of a sequence, which no file says");
    }
    return refuse(from, type, "not one of default, linear, ntk, yarn and llama3");
}

kvsim_status kvsim__read_scaling(kvsim__base *base, const char *shown, const char *what, const json_t *object,
                                 double max_position, kvsim_rope *rope) {
    const reader from = {base, shown, what, object};
    const char *type = NULL;
    kvsim_status status = read_type(&from, &type);
    if (status == KVSIM_OK) {
        status = read_typed(&from, type, max_position, rope);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    kvsim_rope checked = *rope;
    if (kvsim__rope_check(base, &checked) == KVSIM_OK) {
        return KVSIM_OK;
    }
    char reason[KVSIM__ERROR_SIZE];
    memcpy(reason, base->error, sizeof reason);
    return kvsim__fail(base, KVSIM_E_FORMAT, "%s: %s: %s", shown, what, reason);
}

kvsim_status kvsim__parse_scaling(kvsim__base *base, const char *shown, const char *what, const char *text,
                                  kvsim_rope *rope) {
    kvsim_status status = KVSIM_OK;
    json_t *object =
        kvsim__parse_json(base, shown, what, (const unsigned char *)text, strlen(text), &text_limits, &status);
    if (object != NULL) {
        status = kvsim__read_scaling(base, shown, what, object, 0.0, rope);
    }
    json_decref(object);
    return status;
}

static bool put_number(json_t *object, const char *key, double value, double fallback) {
    const double number = value != 0.0 ? value : fallback;
    /* Integers of this size are doubles without loss. */
    const bool whole = number == floor(number) && fabs(number) <= 9007199254740992.0;
    return json_object_set_new(object, key, whole ? json_integer((json_int_t)number) : json_real(number)) == 0;
}

json_t *kvsim__make_scaling(const kvsim_rope *rope) {
    static const char *const types[] = {[KVSIM_ROPE_SCALING_NONE] = "default",
                                        [KVSIM_ROPE_SCALING_LINEAR] = "linear",
                                        [KVSIM_ROPE_SCALING_NTK] = "ntk",
                                        [KVSIM_ROPE_SCALING_YARN] = "yarn",
                                        [KVSIM_ROPE_SCALING_LLAMA3] = "llama3"};
    const bool yarn = rope->scaling == KVSIM_ROPE_SCALING_YARN;
    const bool llama3 = rope->scaling == KVSIM_ROPE_SCALING_LLAMA3;
    json_t *object = json_object();
    bool done = json_object_set_new(object, "rope_type", json_string(types[rope->scaling])) == 0;
    done = done && put_number(object, "factor", rope->factor, 1.0);
    if (yarn || llama3) {
        done = done && put_number(object, "original_max_position_embeddings", rope->original_max_position, 0.0);
    }
    if (yarn) {
        done = done && put_number(object, "beta_fast", rope->beta_fast, 32.0);
        done = done && put_number(object, "beta_slow", rope->beta_slow, 1.0);
    }
    if (llama3) {
        done = done && put_number(object, "low_freq_factor", rope->low_freq_factor, 1.0);
        done = done && put_number(object, "high_freq_factor", rope->high_freq_factor, 4.0);
    }
    if (!done) {
        json_decref(object);
        return NULL;
    }
    return object;
}
