#include "generation.h"

#include <stdio.h>
#include <string.h>

/** Bytes of a JSON pointer to a member. */
#define POINTER_SIZE 96

/** Name of an element type, as the field `dtype` of an experiment has it. */
static const char *dtype_name(const kvsim_snapshot_info *dump) {
    switch (dump->dtype_code) {
    case KVSIM_DTYPE_BFLOAT:
        return "bfloat16";
    case KVSIM_DTYPE_F8_E4M3FN:
        return "float8_e4m3fn";
    case KVSIM_DTYPE_F8_E5M2:
        return "float8_e5m2";
    default:
        return dump->dtype_bits == 16 ? "float16" : "float32";
    }
}

/** What a member of a document may be. */
typedef enum wanted {
    WANT_TEXT,
    WANT_COUNT,  /**< a whole number from 0 on, or null */
    WANT_NUMBER, /**< a number from 0 on, or null */
    WANT_TEXTS,
    WANT_COUNTS,
    WANT_NUMBERS, /**< an array of WANT_NUMBER, or null */
    WANT_FINISH   /**< why a sequence ended, or null */
} wanted;

static const char *const wanted_words[] = {
    [WANT_TEXT] = "a text",
    [WANT_COUNT] = "a whole number from 0 on, or null",
    [WANT_NUMBER] = "a number from 0 on, or null",
    [WANT_TEXTS] = "an array of texts",
    [WANT_COUNTS] = "an array of whole numbers from 0 on",
    [WANT_NUMBERS] = "an array of numbers from 0 on, or null",
    [WANT_FINISH] = "\"length\", \"eos\", \"context\" or null",
};

static bool is_count(const json_t *value) {
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static bool is_finish(const json_t *value) {
    const char *text = json_string_value(value);
    return text != NULL && (strcmp(text, "length") == 0 || strcmp(text, "eos") == 0 || strcmp(text, "context") == 0);
}

static bool is_wanted(const json_t *value, wanted what) {
    bool number = json_is_number(value) && json_number_value(value) >= 0.0;
    switch (what) {
    case WANT_TEXT:
        return json_is_string(value);
    case WANT_COUNT:
        return json_is_null(value) || is_count(value);
    case WANT_NUMBER:
        return json_is_null(value) || number;
    case WANT_FINISH:
        return json_is_null(value) || is_finish(value);
    default:
        break;
    }
    if (what == WANT_NUMBERS && json_is_null(value))
        return true;
    bool good = json_is_array(value);
    for (size_t i = 0; good && i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        good = what == WANT_TEXTS    ? json_is_string(item)
               : what == WANT_COUNTS ? is_count(item)
                                     : json_is_number(item) && json_number_value(item) >= 0.0;
    }
    return good;
}

/** A member of an object, with what stands for it where the engine does not say. */
typedef struct member {
    const char *name;
    wanted what;
    const char *fallback; /**< JSON text */
} member;

/** Copy members of `given` (NULL: it is left out) into `out`, each checked. `place` is the JSON pointer of the object.
 */
static int take_members(const json_t *given, const char *place, const member *members, size_t count, json_t *out,
                        error_text *error) {
    for (size_t i = 0; i < count; i++) {
        json_t *value = json_object_get(given, members[i].name);
        if (value != NULL && !is_wanted(value, members[i].what))
            return fail(error, "%s/%s: must be %s", place, members[i].name, wanted_words[members[i].what]);
        if (value == NULL)
            json_object_set_new(out, members[i].name, json_loads(members[i].fallback, JSON_DECODE_ANY, NULL));
        else
            json_object_set(out, members[i].name, value);
    }
    return 0;
}

/** An object that may be left out. */
static int find_object(const json_t *given, const char *name, const json_t **out, error_text *error) {
    *out = json_object_get(given, name);
    return *out == NULL || json_is_object(*out) ? 0 : fail(error, "/%s: must be an object", name);
}

static int take_object(const json_t *given, const char *name, const member *members, size_t count, json_t *document,
                       error_text *error) {
    char place[POINTER_SIZE];
    const json_t *object;
    json_t *out = json_object();
    json_object_set_new(document, name, out);
    snprintf(place, sizeof place, "/%s", name);
    return find_object(given, name, &object, error) != 0 ? -1 : take_members(object, place, members, count, out, error);
}

static int take_model(const json_t *given, const generation_facts *facts, json_t *document, error_text *error) {
    static const member members[] = {
        {"name", WANT_TEXT, "\"\""},          {"architecture", WANT_TEXT, "\"\""}, {"parameters", WANT_COUNT, "null"},
        {"max_position", WANT_COUNT, "null"}, {"vocabulary", WANT_COUNT, "null"},
    };
    const kvsim_snapshot_info *dump = facts->dump;
    if (take_object(given, "model", members, sizeof members / sizeof members[0], document, error) != 0)
        return -1;
    json_t *model = json_object_get(document, "model");
    if (json_string_length(json_object_get(model, "name")) == 0) {
        const char *slash = strrchr(facts->e->model, '/');
        const char *folder = slash != NULL && slash[1] != 0 ? slash + 1 : facts->e->model;
        json_object_set_new(model, "name",
                            json_string(dump->model != NULL && dump->model[0] != 0 ? dump->model : folder));
    }
    json_object_set_new(model, "layers", json_integer(dump->layers));
    json_object_set_new(model, "kv_heads", json_integer(dump->kv_heads));
    json_object_set_new(model, "head_dim", json_integer(dump->head_dim));
    json_object_set_new(model, "dtype", json_string(dtype_name(dump)));
    return 0;
}

/** The last token that was chosen is in the cache of some engines and not of others. */
static int check_length(const json_t *sequence, const char *place, int64_t length, error_text *error) {
    const json_t *prompt = json_object_get(sequence, "prompt_tokens");
    int64_t output = (int64_t)json_array_size(json_object_get(sequence, "output_tokens"));
    if (json_is_null(prompt))
        return 0;
    int64_t tokens = json_integer_value(prompt);
    if (tokens > length || (output > 0 && length - tokens != output && length - tokens != output - 1))
        return fail(error,
                    "%s: prompt_tokens is %lld, with %lld output_tokens, but this sequence of the dump has %lld tokens",
                    place, (long long)tokens, (long long)output, (long long)length);
    return 0;
}

static int take_sequence(const json_t *given, const generation_facts *facts, size_t number, json_t *sequences,
                         error_text *error) {
    static const member members[] = {
        {"prompt_tokens", WANT_COUNT, "null"},   {"prompt_cut", WANT_COUNT, "0"},
        {"output", WANT_TEXT, "\"\""},           {"output_tokens", WANT_COUNTS, "[]"},
        {"prompt_ids", WANT_COUNTS, "[]"},       {"first_token_seconds", WANT_NUMBER, "null"},
        {"token_seconds", WANT_NUMBERS, "null"}, {"finish", WANT_FINISH, "null"},
    };
    char place[POINTER_SIZE];
    json_t *out = json_object();
    json_array_append_new(sequences, out);
    snprintf(place, sizeof place, "/sequences/%zu", number);
    if (given != NULL && !json_is_object(given))
        return fail(error, "%s: must be an object", place);
    json_object_set_new(out, "prompt", json_string(facts->e->prompts[number]));
    if (take_members(given, place, members, sizeof members / sizeof members[0], out, error) != 0)
        return -1;
    return check_length(out, place, facts->lengths[number], error);
}

static int take_sequences(const json_t *given, const generation_facts *facts, json_t *document, error_text *error) {
    const json_t *theirs = json_object_get(given, "sequences");
    size_t count = facts->e->prompt_count;
    json_t *sequences = json_array();
    json_object_set_new(document, "sequences", sequences);
    if (theirs != NULL && (!json_is_array(theirs) || json_array_size(theirs) != count))
        return fail(error, "/sequences: must be an array of %zu objects, one for each prompt", count);
    for (size_t i = 0; i < count; i++)
        if (take_sequence(json_array_get(theirs, i), facts, i, sequences, error) != 0)
            return -1;
    return 0;
}

static int take_measurements(const json_t *given, const generation_facts *facts, json_t *document, error_text *error) {
    static const member timing[] = {
        {"prefill_tokens", WANT_COUNT, "null"}, {"prefill_seconds", WANT_NUMBER, "null"},
        {"decode_tokens", WANT_COUNT, "null"},  {"decode_seconds", WANT_NUMBER, "null"},
        {"wall_seconds", WANT_NUMBER, "null"},
    };
    static const member memory[] = {
        {"peak_rss_bytes", WANT_COUNT, "null"},         {"kv_reserved_bytes", WANT_COUNT, "null"},
        {"kv_used_bytes", WANT_COUNT, "null"},          {"kv_partial_lost_bytes", WANT_COUNT, "null"},
        {"kv_prefix_shared_bytes", WANT_COUNT, "null"},
    };
    if (take_object(given, "timing", timing, sizeof timing / sizeof timing[0], document, error) != 0 ||
        take_object(given, "memory", memory, sizeof memory / sizeof memory[0], document, error) != 0)
        return -1;
    const kvsim_snapshot_info *dump = facts->dump;
    json_t *measured = json_object_get(document, "memory");
    int64_t token_bytes = (int64_t)2 * dump->layers * dump->kv_heads * dump->head_dim * (dump->dtype_bits / 8);
    if (json_is_null(json_object_get(measured, "peak_rss_bytes")) && facts->peak_rss_bytes > 0)
        json_object_set_new(measured, "peak_rss_bytes", json_integer(facts->peak_rss_bytes));
    if (json_is_null(json_object_get(measured, "kv_used_bytes")))
        json_object_set_new(measured, "kv_used_bytes", json_integer(token_bytes * dump->tokens));
    return 0;
}

static int complete(const json_t *given, const generation_facts *facts, json_t *document, error_text *error) {
    static const member version[] = {{"engine_version", WANT_TEXT, "\"\""}};
    static const member remarks[] = {{"ignored_fields", WANT_TEXTS, "[]"}, {"notes", WANT_TEXTS, "[]"}};
    const json_t *schema = json_object_get(given, "schema");
    if (given != NULL && !json_is_object(given))
        return fail(error, "/: must be an object");
    if (schema != NULL && (!json_is_string(schema) || strcmp(json_string_value(schema), "kvsim.generation.v1") != 0))
        return fail(error, "/schema: must be \"kvsim.generation.v1\"");
    json_object_set_new(document, "schema", json_string("kvsim.generation.v1"));
    json_object_set_new(document, "engine", json_string(facts->e->engine));
    if (take_members(given, "", version, 1, document, error) != 0 || take_model(given, facts, document, error) != 0)
        return -1;
    json_object_set_new(document, "page_tokens", json_integer(facts->e->page_tokens));
    json_object_set_new(document, "seed", json_integer((json_int_t)experiment_repeat_seed(facts->e, facts->repeat)));
    if (take_sequences(given, facts, document, error) != 0 || take_measurements(given, facts, document, error) != 0)
        return -1;
    return take_members(given, "", remarks, 2, document, error);
}

json_t *generation_complete(const json_t *given, const generation_facts *facts, error_text *error) {
    json_t *document = json_object();
    if (document != NULL && complete(given, facts, document, error) == 0)
        return document;
    if (document == NULL)
        fail(error, "out of memory");
    json_decref(document);
    return NULL;
}

void generation_add_note(json_t *document, const char *text) {
    json_array_append_new(json_object_get(document, "notes"), json_string(text));
}
