/**
 * The safetensors format (github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, the data.
 */
#include "snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH_SIZE = 8 };

/*
 * { "name": { "shape": [ ] } }, at most a million times, which is ten times the tensors of the largest models. The
 * longest list of a good header is a shape. Trainers keep a few hundred facts in the metadata.
 */
static const kvsim__json_limits header_limits = {
    .depth = 3, .list = 16, .values = 16000000, .members = 3, .metadata = 10000};

enum { TENSORS_LIMIT = 1000000 };

#define METADATA_KEY "__metadata__"

typedef struct element_type {
    const char *name;
    uint8_t code;
    uint8_t bits;
} element_type;

static const element_type element_types[] = {
    {"BOOL", KVSIM_DTYPE_UINT, 8},
    {"F4", KVSIM_DTYPE_OPAQUE, 4},
    {"F6_E2M3", KVSIM_DTYPE_OPAQUE, 6},
    {"F6_E3M2", KVSIM_DTYPE_OPAQUE, 6},
    {"U8", KVSIM_DTYPE_UINT, 8},
    {"I8", KVSIM_DTYPE_INT, 8},
    {"F8_E5M2", KVSIM_DTYPE_F8_E5M2, 8},
    {"F8_E4M3", KVSIM_DTYPE_F8_E4M3FN, 8},
    {"F8_E8M0", KVSIM_DTYPE_OPAQUE, 8},
    {"F8_E4M3FNUZ", KVSIM_DTYPE_OPAQUE, 8},
    {"F8_E5M2FNUZ", KVSIM_DTYPE_OPAQUE, 8},
    {"I16", KVSIM_DTYPE_INT, 16},
    {"U16", KVSIM_DTYPE_UINT, 16},
    {"F16", KVSIM_DTYPE_FLOAT, 16},
    {"BF16", KVSIM_DTYPE_BFLOAT, 16},
    {"I32", KVSIM_DTYPE_INT, 32},
    {"U32", KVSIM_DTYPE_UINT, 32},
    {"F32", KVSIM_DTYPE_FLOAT, 32},
    {"C64", KVSIM_DTYPE_OPAQUE, 64},
    {"F64", KVSIM_DTYPE_FLOAT, 64},
    {"I64", KVSIM_DTYPE_INT, 64},
    {"U64", KVSIM_DTYPE_UINT, 64},
};

/* ---- JSON ---- */

/*
 * Depth, list lengths and members, before the parser builds anything: its recursion and its memory are then bounded
 * by ours. Malformed text is left to the parser.
 */
static const char *find_excess(const unsigned char *text, size_t size, const kvsim__json_limits *limits) {
    size_t values[KVSIM__DEPTH_LIMIT + 1] = {0};
    bool is_list[KVSIM__DEPTH_LIMIT + 1] = {false};
    size_t total = 0;
    bool metadata_seen = false;
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (depth == limits->depth) {
                return "nested too deeply";
            }
            depth++;
            values[depth] = 1;
            is_list[depth] = c == '[';
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        } else if (c == ',') {
            values[depth]++;
            if (++total > limits->values) {
                return "too many values";
            }
            if (is_list[depth]) {
                if (values[depth] > limits->list) {
                    return "a list is too long";
                }
            } else if (depth == 2 && limits->members > 0) {
                if (values[depth] > limits->metadata) {
                    return "too much metadata";
                }
                if (values[depth] == limits->members + 1) {
                    if (metadata_seen) {
                        return "more than one object of more members than a tensor has";
                    }
                    metadata_seen = true;
                }
            }
        }
    }
    return NULL;
}

json_t *kvsim__parse_json(kvsim__base *base, const char *shown, const char *what, const unsigned char *text,
                          size_t size, const kvsim__json_limits *limits, kvsim_status *status) {
    const char *excess = find_excess(text, size, limits);
    if (excess != NULL) {
        *status = kvsim__fail(base, KVSIM_E_FORMAT, "%s: %s: %s", shown, what, excess);
        return NULL;
    }
    json_error_t error;
    json_t *root = json_loadb((const char *)text, size, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        /* jansson 2.14 says nothing at all when it runs out of memory. */
        if (error.text[0] == '\0' || json_error_code(&error) == json_error_out_of_memory) {
            *status = kvsim__fail_memory(base, size, what);
        } else {
            *status =
                kvsim__fail(base, KVSIM_E_FORMAT, "%s: %s: %s (byte %d)", shown, what, error.text, error.position);
        }
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        *status = kvsim__fail(base, KVSIM_E_FORMAT, "%s: %s: not a JSON object", shown, what);
        return NULL;
    }
    return root;
}

/* ---- One tensor ---- */

static const element_type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof element_types / sizeof element_types[0]; i++) {
        if (strcmp(element_types[i].name, name) == 0) {
            return &element_types[i];
        }
    }
    return NULL;
}

/* Where to put a tensor, and what it is checked against. */
typedef struct header {
    kvsim__base *base;
    const kvsim__source *source;
    const unsigned char *data;
    uint64_t data_size;
} header;

static kvsim_status check_keys(const header *of, const char *name, json_t *facts) {
    static const char *const wanted[] = {"dtype", "shape", "data_offsets"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (json_object_get(facts, wanted[i]) == NULL) {
            return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                        json_is_object(facts) ? "'%s' is missing" : "not an object with '%s'",
                                        wanted[i]);
        }
    }
    if (json_object_size(facts) == sizeof wanted / sizeof wanted[0]) {
        return KVSIM_OK;
    }
    const char *key = NULL;
    json_t *value = NULL;
    char shortened[KVSIM__SHORT_SIZE] = "";
    json_object_foreach(facts, key, value) {
        if (strcmp(key, wanted[0]) != 0 && strcmp(key, wanted[1]) != 0 && strcmp(key, wanted[2]) != 0) {
            (void)kvsim__shorten(key, false, shortened);
        }
    }
    return kvsim__refuse_tensor(of->base, of->source->shown, name, "unknown key '%s'", shortened);
}

/* Shape into `shape`, number of bytes into *bytes. */
static kvsim_status read_shape(const header *of, const char *name, json_t *list, const element_type *type,
                               int64_t *shape, uint64_t *bytes) {
    uint64_t count = 1;
    /* As count, empty axes taken for 1: no product of any of the axes overflows then. */
    uint64_t room = 1;
    for (size_t axis = 0; axis < json_array_size(list); axis++) {
        json_t *value = json_array_get(list, axis);
        const json_int_t extent = json_integer_value(value);
        if (!json_is_integer(value) || extent < 0) {
            return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                        "axis %zu of the shape is not a non-negative integer", axis);
        }
        shape[axis] = extent;
        count *= (uint64_t)extent;
        if (!kvsim__multiply(room, extent > 0 ? (uint64_t)extent : 1, &room) || room > INT64_MAX / type->bits) {
            return kvsim__refuse_tensor(of->base, of->source->shown, name, "the product of the shape overflows");
        }
    }
    if (count * type->bits % 8 != 0) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                    "%" PRIu64 " elements of %d bits are not whole bytes", count, type->bits);
    }
    *bytes = count * type->bits / 8;
    return KVSIM_OK;
}

static kvsim_status read_offsets(const header *of, const char *name, json_t *list, kvsim__entry *entry) {
    json_t *begin = json_array_get(list, 0);
    json_t *end = json_array_get(list, 1);
    if (json_array_size(list) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < 0) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                    "data_offsets is not a list of two non-negative integers");
    }
    entry->begin = (uint64_t)json_integer_value(begin);
    entry->end = (uint64_t)json_integer_value(end);
    if (entry->begin > entry->end) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                    "data_offsets [%" PRIu64 ", %" PRIu64 ") end before they begin", entry->begin,
                                    entry->end);
    }
    if (entry->end > of->data_size) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name,
                                    "data_offsets [%" PRIu64 ", %" PRIu64 ") reach beyond the %" PRIu64
                                    " bytes of data",
                                    entry->begin, entry->end, of->data_size);
    }
    return KVSIM_OK;
}

/* Fill an entry whose name and shape point at the memory that is theirs. */
static kvsim_status read_tensor(const header *of, const char *name, json_t *facts, int64_t *shape,
                                kvsim__entry *entry) {
    char shortened[KVSIM__SHORT_SIZE];
    kvsim_status status = check_keys(of, name, facts);
    if (status != KVSIM_OK) {
        return status;
    }
    const char *type_name = json_string_value(json_object_get(facts, "dtype"));
    json_t *axes = json_object_get(facts, "shape");
    if (type_name == NULL || !json_is_array(axes)) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name, "%s",
                                    type_name == NULL ? "dtype is not a string" : "shape is not a list");
    }
    const element_type *type = find_type(type_name);
    if (type == NULL) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name, "unknown dtype '%s'",
                                    kvsim__shorten(type_name, false, shortened));
    }
    if (json_array_size(axes) > KVSIM__AXES_LIMIT) {
        return kvsim__refuse_tensor(of->base, of->source->shown, name, "%zu axes; at most %d are supported",
                                    json_array_size(axes), KVSIM__AXES_LIMIT);
    }
    uint64_t bytes = 0;
    status = read_shape(of, name, axes, type, shape, &bytes);
    if (status == KVSIM_OK) {
        status = read_offsets(of, name, json_object_get(facts, "data_offsets"), entry);
    }
    if (status == KVSIM_OK && entry->end - entry->begin != bytes) {
        status = kvsim__refuse_tensor(of->base, of->source->shown, name,
                                      "data_offsets [%" PRIu64 ", %" PRIu64 ") hold %" PRIu64
                                      " bytes, dtype and shape make %" PRIu64,
                                      entry->begin, entry->end, entry->end - entry->begin, bytes);
    }
    entry->data = of->data + entry->begin;
    entry->shape = shape;
    entry->ndim = (int32_t)json_array_size(axes);
    entry->dtype_code = type->code;
    entry->dtype_bits = type->bits;
    return status;
}

/* ---- The whole header ---- */

/* Every byte of the data belongs to exactly one tensor: nothing can hide between them, or be two things at once. */
static kvsim_status check_tiling(const header *of, kvsim__entry *entries, size_t count) {
    char shortened[KVSIM__SHORT_SIZE];
    uint64_t covered = 0;
    kvsim__sort_entries(entries, count, false);
    for (size_t i = 0; i < count; i++) {
        const kvsim__entry *entry = &entries[i];
        if (entry->begin != covered) {
            const bool hole = entry->begin > covered;
            const char *place = i == 0 ? "" : kvsim__shorten(entries[i - 1].name, false, shortened);
            const char *quote = i == 0 ? "" : "'";
            return kvsim__refuse_tensor(of->base, of->source->shown, entry->name,
                                        "data_offsets [%" PRIu64 ", %" PRIu64 ") %s %s%s%s", entry->begin, entry->end,
                                        !hole    ? "overlap tensor"
                                        : i == 0 ? "leave a hole at the begin of the data"
                                                 : "leave a hole after tensor",
                                        quote, place, quote);
        }
        covered = entry->end;
    }
    if (covered != of->data_size) {
        return kvsim__fail(of->base, KVSIM_E_FORMAT, "%s: the last %" PRIu64 " bytes of the file belong to no tensor",
                           of->source->shown, of->data_size - covered);
    }
    return KVSIM_OK;
}

static kvsim_status keep_metadata(kvsim_snapshot *snapshot, const kvsim__source *source, json_t *metadata, bool keep) {
    kvsim__base *base = snapshot->base;
    const char *key = NULL;
    json_t *value = NULL;
    char shortened[KVSIM__SHORT_SIZE];
    size_t text_size = 0;
    if (metadata == NULL) {
        return KVSIM_OK;
    }
    if (!json_is_object(metadata)) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: " METADATA_KEY " is not an object", source->shown);
    }
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value)) {
            return kvsim__fail(base, KVSIM_E_FORMAT, "%s: metadata '%s' is not a string", source->shown,
                               kvsim__shorten(key, false, shortened));
        }
        text_size += strlen(key) + strlen(json_string_value(value)) + 2;
    }
    const size_t count = json_object_size(metadata);
    if (!keep || count == 0) {
        return KVSIM_OK;
    }
    char *text = kvsim__allocate(base, text_size, 1);
    kvsim__metadata *pairs = kvsim__allocate(base, count, sizeof *pairs);
    snapshot->metadata_text = text;
    snapshot->metadata_text_size = text_size;
    snapshot->metadata = pairs;
    if (text == NULL || pairs == NULL) {
        snapshot->metadata_count = pairs == NULL ? 0 : count;
        return kvsim__fail_memory(base, text_size + count * sizeof *pairs, "metadata");
    }
    snapshot->metadata_count = count;
    size_t index = 0;
    json_object_foreach(metadata, key, value) {
        const size_t key_size = strlen(key) + 1;
        const size_t value_size = strlen(json_string_value(value)) + 1;
        pairs[index].key = memcpy(text, key, key_size);
        pairs[index].value = memcpy(text + key_size, json_string_value(value), value_size);
        text += key_size + value_size;
        index++;
    }
    return KVSIM_OK;
}

/* Memory for the names and shapes of all tensors, and room for their entries. */
static kvsim_status make_room(kvsim_snapshot *snapshot, kvsim__source *source, json_t *root, size_t count) {
    kvsim__base *base = snapshot->base;
    const char *name = NULL;
    json_t *facts = NULL;
    size_t names_size = 0;
    size_t axes = 0;
    json_object_foreach(root, name, facts) {
        names_size += strlen(name) + 1;
        axes += json_array_size(json_object_get(facts, "shape"));
    }
    void *entries = snapshot->entries;
    const size_t needed = snapshot->entry_count + count;
    const kvsim_status status =
        kvsim__grow(base, &entries, &snapshot->entry_capacity, needed > 0 ? needed : 1, sizeof *snapshot->entries);
    snapshot->entries = entries;
    if (status != KVSIM_OK) {
        return status;
    }
    source->names_size = names_size;
    source->names = kvsim__allocate(base, names_size, 1);
    source->shapes_count = axes;
    source->shapes = kvsim__allocate(base, axes, sizeof *source->shapes);
    if (source->names == NULL || source->shapes == NULL) {
        return kvsim__fail_memory(base, names_size + axes * sizeof *source->shapes, "names and shapes of tensors");
    }
    return KVSIM_OK;
}

static kvsim_status read_tensors(kvsim_snapshot *snapshot, size_t file, const header *of, json_t *root) {
    kvsim__source *source = &snapshot->files[file];
    json_t *metadata = json_object_get(root, METADATA_KEY);
    const size_t count = json_object_size(root) - (metadata == NULL ? 0 : 1);
    if (count > TENSORS_LIMIT) {
        return kvsim__fail(snapshot->base, KVSIM_E_FORMAT, "%s: %zu tensors; at most %d are allowed", source->shown,
                           count, TENSORS_LIMIT);
    }
    kvsim_status status = keep_metadata(snapshot, source, metadata, file == 0);
    if (status == KVSIM_OK) {
        status = make_room(snapshot, source, root, count);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    kvsim__entry *first = snapshot->entries + snapshot->entry_count;
    kvsim__entry *entry = first;
    char *names = source->names;
    int64_t *shapes = source->shapes;
    const char *name = NULL;
    json_t *facts = NULL;
    json_object_foreach(root, name, facts) {
        if (facts == metadata) {
            continue;
        }
        *entry = (kvsim__entry){.file = (uint32_t)file};
        const size_t name_size = strlen(name) + 1;
        entry->name = memcpy(names, name, name_size);
        status = read_tensor(of, name, facts, shapes, entry);
        if (status != KVSIM_OK) {
            return status;
        }
        names += name_size;
        shapes += entry->ndim;
        entry++;
    }
    snapshot->entry_count += count;
    return check_tiling(of, first, count);
}

kvsim_status kvsim__read_safetensors(kvsim_snapshot *snapshot, size_t file) {
    kvsim__base *base = snapshot->base;
    const kvsim__source *source = &snapshot->files[file];
    if (source->size < LENGTH_SIZE) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: %zu bytes are too few for a safetensors file", source->shown,
                           source->size);
    }
    uint64_t length = 0;
    memcpy(&length, source->bytes, LENGTH_SIZE);
    if (length > KVSIM__HEADER_LIMIT) {
        return kvsim__fail(base, KVSIM_E_FORMAT,
                           "%s: a header of %" PRIu64 " bytes; at most %u are allowed (is this a safetensors file?)",
                           source->shown, length, KVSIM__HEADER_LIMIT);
    }
    if (length > source->size - LENGTH_SIZE) {
        return kvsim__fail(base, KVSIM_E_FORMAT,
                           "%s: a header of %" PRIu64 " bytes reaches beyond the %zu bytes of the file", source->shown,
                           length, source->size);
    }
    const unsigned char *text = source->bytes + LENGTH_SIZE;
    if (length == 0 || text[0] != '{') {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: the header does not begin with '{'", source->shown);
    }
    const header of = {
        .base = base, .source = source, .data = text + length, .data_size = source->size - LENGTH_SIZE - length};
    kvsim_status status = KVSIM_OK;
    json_t *root = kvsim__parse_json(base, source->shown, "header", text, (size_t)length, &header_limits, &status);
    if (root == NULL) {
        return status;
    }
    status = read_tensors(snapshot, file, &of, root);
    json_decref(root);
    return status;
}
