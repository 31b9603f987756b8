/**
 * The schemas kvsim.dump.v1 and kvsim.paged.v1 (docs/formats.md): metadata is read strictly, and every tensor is
 * checked against it.
 */
#include "snapshot.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT_DUMP   "kvsim.dump.v1"
#define FORMAT_PAGED  "kvsim.paged.v1"
#define FORMAT_PREFIX "kvsim."

/* What is read from: all errors name its first file. */
typedef struct origin {
    kvsim__base *base;
    const kvsim_snapshot *snapshot;
    const char *shown;
} origin;

/* ---- Names ---- */

void kvsim__name_tokens(char out[KVSIM__SCHEMA_NAME_SIZE], int64_t sequence) {
    (void)snprintf(out, KVSIM__SCHEMA_NAME_SIZE, "seq.%" PRId64 ".tokens", sequence);
}

void kvsim__name_rows(char out[KVSIM__SCHEMA_NAME_SIZE], int64_t sequence, int32_t layer, bool values) {
    (void)snprintf(out, KVSIM__SCHEMA_NAME_SIZE, "seq.%" PRId64 ".layer.%" PRId32 ".%s", sequence, layer,
                   values ? "value" : "key");
}

void kvsim__name_cache(char out[KVSIM__SCHEMA_NAME_SIZE], int32_t layer, const char *cache) {
    (void)snprintf(out, KVSIM__SCHEMA_NAME_SIZE, "layers.%" PRId32 ".%s", layer, cache);
}

int32_t kvsim__integer_at(const kvsim__entry *entry, int64_t index) {
    int32_t value = 0;
    memcpy(&value, entry->data + (uint64_t)index * sizeof value, sizeof value);
    return value;
}

/* ---- Metadata ---- */

static kvsim_status refuse_metadata(const origin *from, const char *key, const char *text, const char *wanted) {
    char shortened[KVSIM__SHORT_SIZE];
    if (text == NULL) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: metadata '%s' is missing", from->shown, key);
    }
    return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: metadata '%s' is '%s', not %s", from->shown, key,
                       kvsim__shorten(text, false, shortened), wanted);
}

/* A decimal number without sign, blank or leading zero. */
static bool parse_count(const char *text, int64_t least, int64_t most, int64_t *out) {
    int64_t value = 0;
    if (text == NULL || text[0] == '\0' || (text[0] == '0' && text[1] != '\0')) {
        return false;
    }
    for (const char *c = text; *c != '\0'; c++) {
        if (*c < '0' || *c > '9' || value > (INT64_MAX - 9) / 10) {
            return false;
        }
        value = value * 10 + (*c - '0');
    }
    *out = value;
    return value >= least && value <= most;
}

static kvsim_status read_count(const origin *from, const char *key, int32_t most, int32_t *out) {
    char wanted[64];
    int64_t value = 0;
    const char *text = kvsim_snapshot_metadata(from->snapshot, key);
    if (!parse_count(text, 1, most, &value)) {
        (void)snprintf(wanted, sizeof wanted, "a number of 1..%" PRId32, most);
        return refuse_metadata(from, key, text, wanted);
    }
    *out = (int32_t)value;
    return KVSIM_OK;
}

/* A number that the schema does not ask for, but that must be right where it is given. */
static kvsim_status check_count(const origin *from, const char *key, int64_t actual) {
    char wanted[64];
    int64_t value = 0;
    const char *text = kvsim_snapshot_metadata(from->snapshot, key);
    if (text == NULL || (parse_count(text, 0, INT64_MAX, &value) && value == actual)) {
        return KVSIM_OK;
    }
    (void)snprintf(wanted, sizeof wanted, "%" PRId64 " as the tensors have it", actual);
    return refuse_metadata(from, key, text, wanted);
}

/* The parser of JSON numbers serves here because it ignores the host's locale. */
static bool parse_theta(const char *text, double *out) {
    json_t *number = json_loads(text, JSON_DECODE_ANY, NULL);
    *out = json_number_value(number);
    const bool valid = json_is_number(number) && isfinite(*out) && *out > 0.0;
    json_decref(number);
    return valid;
}

static kvsim_status read_rope(const origin *from, kvsim__facts *facts) {
    const char *applied = kvsim_snapshot_metadata(from->snapshot, "rope_applied");
    const char *style = kvsim_snapshot_metadata(from->snapshot, "rope_style");
    const char *theta = kvsim_snapshot_metadata(from->snapshot, "rope_theta");
    const char *dims = kvsim_snapshot_metadata(from->snapshot, "rope_dims");
    int32_t known_style = KVSIM_ROPE_NONE;
    double known_theta = 0.0;
    int64_t known_dims = 0;
    const char *scaling = kvsim_snapshot_metadata(from->snapshot, "rope_scaling");
    kvsim_rope scaled = KVSIM_ROPE_INIT;
    facts->rope = (kvsim_rope)KVSIM_ROPE_INIT;
    facts->rope_applied = applied != NULL && strcmp(applied, "true") == 0;
    if (applied != NULL && !facts->rope_applied && strcmp(applied, "false") != 0) {
        return refuse_metadata(from, "rope_applied", applied, "true or false");
    }
    if (style != NULL && strcmp(style, "half") == 0) {
        known_style = KVSIM_ROPE_HALF;
    } else if (style != NULL && strcmp(style, "interleaved") == 0) {
        known_style = KVSIM_ROPE_INTERLEAVED;
    } else if (style != NULL && strcmp(style, "none") != 0) {
        return refuse_metadata(from, "rope_style", style, "half, interleaved or none");
    }
    if (theta != NULL && !parse_theta(theta, &known_theta)) {
        return refuse_metadata(from, "rope_theta", theta, "a number above 0");
    }
    if (dims != NULL && (!parse_count(dims, 2, facts->head_dim, &known_dims) || known_dims % 2 != 0)) {
        return refuse_metadata(from, "rope_dims", dims, "an even number of 2..head_dim");
    }
    if (scaling != NULL) {
        const kvsim_status status =
            kvsim__parse_scaling(from->base, from->shown, "metadata 'rope_scaling'", scaling, &scaled);
        if (status != KVSIM_OK) {
            return status;
        }
    }
    if (!facts->rope_applied) {
        return KVSIM_OK;
    }
    if (style != NULL && known_style == KVSIM_ROPE_NONE) {
        return refuse_metadata(from, "rope_style", style, "what rope_applied 'true' asks for: half or interleaved");
    }
    if (known_style == KVSIM_ROPE_NONE) {
        return KVSIM_OK;
    }
    if (theta == NULL) {
        return refuse_metadata(from, "rope_theta", NULL, "");
    }
    if (dims == NULL && facts->head_dim % 2 != 0) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT,
                           "%s: metadata: RoPE over heads of %" PRId32 " channels, an odd number, needs 'rope_dims'",
                           from->shown, facts->head_dim);
    }
    facts->rope = scaled;
    facts->rope.style = known_style;
    facts->rope.theta = known_theta;
    facts->rope.rotary_dims = (int32_t)known_dims;
    return KVSIM_OK;
}

static kvsim_status read_common(const origin *from, kvsim__facts *facts) {
    kvsim_status status = read_count(from, "layers", KVSIM__LAYERS_LIMIT, &facts->layers);
    if (status == KVSIM_OK) {
        status = read_count(from, "kv_heads", INT32_MAX, &facts->kv_heads);
    }
    if (status == KVSIM_OK) {
        /* Twice the head size is an axis of a packed layout. */
        status = read_count(from, "head_dim", INT32_MAX / 2, &facts->head_dim);
    }
    if (status == KVSIM_OK) {
        status = read_count(from, "page_tokens", KVSIM__PAGE_TOKENS_LIMIT, &facts->page_tokens);
    }
    if (status == KVSIM_OK) {
        status = read_rope(from, facts);
    }
    const char *model = kvsim_snapshot_metadata(from->snapshot, "model");
    facts->model = model != NULL ? model : "";
    return status;
}

/* ---- Tensors ---- */

static kvsim_status find_tensor(const origin *from, const char *name, const kvsim__entry **out) {
    *out = kvsim__find_entry(from->snapshot, name);
    if (*out == NULL) {
        return kvsim__fail(from->base, KVSIM_E_FORMAT, "%s: tensor '%s' is missing", from->shown, name);
    }
    return KVSIM_OK;
}

/* Find a tensor of that name and shape; an axis of -1 may have any length. */
static kvsim_status find_shaped(const origin *from, const char *name, int32_t ndim, const int64_t *shape,
                                const kvsim__entry **out) {
    kvsim_status status = find_tensor(from, name, out);
    if (status != KVSIM_OK) {
        return status;
    }
    if ((*out)->ndim != ndim) {
        return kvsim__refuse_tensor(from->base, from->shown, name, "%" PRId32 " axes, not %" PRId32, (*out)->ndim,
                                    ndim);
    }
    for (int32_t axis = 0; axis < ndim; axis++) {
        if (shape[axis] >= 0 && shape[axis] != (*out)->shape[axis]) {
            return kvsim__refuse_tensor(from->base, from->shown, name,
                                        "axis %" PRId32 " of the shape is %" PRId64 ", not %" PRId64, axis,
                                        (*out)->shape[axis], shape[axis]);
        }
    }
    return KVSIM_OK;
}

static kvsim_status find_integers(const origin *from, const char *name, int32_t ndim, const int64_t *shape,
                                  const kvsim__entry **out) {
    const kvsim_status status = find_shaped(from, name, ndim, shape, out);
    if (status == KVSIM_OK && ((*out)->dtype_code != KVSIM_DTYPE_INT || (*out)->dtype_bits != 32)) {
        return kvsim__refuse_tensor(from->base, from->shown, name, "the dtype is not I32");
    }
    return status;
}

static bool is_page_type(const kvsim__entry *entry) {
    switch (entry->dtype_code) {
    case KVSIM_DTYPE_FLOAT:
        return entry->dtype_bits == 16 || entry->dtype_bits == 32;
    case KVSIM_DTYPE_BFLOAT:
    case KVSIM_DTYPE_F8_E4M3FN:
    case KVSIM_DTYPE_F8_E5M2:
        return true;
    default:
        return false;
    }
}

/* Find a tensor of pages. The first one sets the element type, the others must have it too. */
static kvsim_status find_pages(const origin *from, const char *name, int32_t ndim, const int64_t *shape,
                               kvsim__facts *facts, const kvsim__entry **out) {
    const kvsim_status status = find_shaped(from, name, ndim, shape, out);
    if (status != KVSIM_OK) {
        return status;
    }
    if (!is_page_type(*out)) {
        return kvsim__refuse_tensor(from->base, from->shown, name,
                                    "keys and values are F32, F16, BF16, F8_E4M3 or F8_E5M2");
    }
    if (facts->dtype_bits == 0) {
        facts->dtype_code = (*out)->dtype_code;
        facts->dtype_bits = (*out)->dtype_bits;
    }
    if (facts->dtype_code != (*out)->dtype_code || facts->dtype_bits != (*out)->dtype_bits) {
        return kvsim__refuse_tensor(from->base, from->shown, name, "another dtype than the pages before it");
    }
    return KVSIM_OK;
}

/* ---- kvsim.dump.v1 ---- */

static kvsim_status check_sequence(const origin *from, kvsim__facts *facts, const kvsim__entry *tokens) {
    const int64_t any[] = {-1};
    const kvsim__entry *entry = NULL;
    char name[KVSIM__SCHEMA_NAME_SIZE];
    kvsim_status status = find_integers(from, tokens->name, 1, any, &entry);
    if (status != KVSIM_OK) {
        return status;
    }
    const int64_t length = tokens->shape[0];
    const int64_t shape[] = {length, facts->kv_heads, facts->head_dim};
    for (int32_t layer = 0; layer < facts->layers; layer++) {
        for (int values = 0; values < 2; values++) {
            kvsim__name_rows(name, facts->sequences, layer, values != 0);
            status = find_pages(from, name, 3, shape, facts, &entry);
            if (status != KVSIM_OK) {
                return status;
            }
        }
    }
    facts->sequences++;
    /* Each token is four bytes of a mapped file, so the sum does not overflow. */
    facts->tokens += length;
    facts->longest = length > facts->longest ? length : facts->longest;
    return KVSIM_OK;
}

/* A tensor of the schema that the facts do not cover: a gap in the sequences, or a layer too many. */
static kvsim_status refuse_strays(const origin *from, const kvsim__facts *facts) {
    for (size_t i = 0; i < from->snapshot->entry_count; i++) {
        const kvsim__entry *entry = &from->snapshot->entries[i];
        if (strncmp(entry->name, "seq.", 4) != 0) {
            continue;
        }
        int64_t sequence = -1;
        int32_t layer = 0;
        char again[KVSIM__SCHEMA_NAME_SIZE] = "";
        if (sscanf(entry->name, "seq.%18" SCNd64 ".layer.%9" SCNd32, &sequence, &layer) == 2) {
            kvsim__name_rows(again, sequence, layer, strstr(entry->name, ".value") != NULL);
        } else if (sequence >= 0) {
            kvsim__name_tokens(again, sequence);
        }
        if (strcmp(again, entry->name) != 0 || sequence < 0 || sequence >= facts->sequences || layer < 0 ||
            layer >= facts->layers) {
            return kvsim__refuse_tensor(from->base, from->shown, entry->name,
                                        "not one of the %" PRId64
                                        " sequences, counted from 0 without a gap, in %" PRId32 " layers",
                                        facts->sequences, facts->layers);
        }
    }
    return KVSIM_OK;
}

/* The prompts may be left out; if they are there, one text for each sequence. */
static kvsim_status check_prompts(const origin *from, const kvsim__facts *facts) {
    const char *text = kvsim_snapshot_metadata(from->snapshot, "prompts");
    if (text == NULL) {
        return KVSIM_OK;
    }
    json_t *prompts = json_loads(text, 0, NULL);
    bool valid = json_is_array(prompts) && (int64_t)json_array_size(prompts) == facts->sequences;
    for (size_t i = 0; valid && i < json_array_size(prompts); i++) {
        valid = json_is_string(json_array_get(prompts, i));
    }
    json_decref(prompts);
    return valid ? KVSIM_OK : refuse_metadata(from, "prompts", text, "a JSON list of one text for each sequence");
}

static kvsim_status read_dump(const origin *from, kvsim__facts *facts) {
    facts->schema = KVSIM_SCHEMA_DUMP;
    facts->layout = KVSIM_LAYOUT_BNHD;
    kvsim_status status = read_common(from, facts);
    while (status == KVSIM_OK) {
        char name[KVSIM__SCHEMA_NAME_SIZE];
        kvsim__name_tokens(name, facts->sequences);
        const kvsim__entry *tokens = kvsim__find_entry(from->snapshot, name);
        if (tokens == NULL) {
            break;
        }
        status = check_sequence(from, facts, tokens);
    }
    if (status == KVSIM_OK) {
        status = refuse_strays(from, facts);
    }
    if (status == KVSIM_OK) {
        status = check_count(from, "sequences", facts->sequences);
    }
    return status == KVSIM_OK ? check_prompts(from, facts) : status;
}

/* ---- kvsim.paged.v1 ---- */

/* Shape of a layer's tensor; returns its number of axes. */
static int32_t paged_shape(const kvsim__facts *facts, int64_t blocks, int64_t shape[KVSIM__AXES_LIMIT]) {
    const int64_t tokens = facts->page_tokens;
    const int64_t heads = facts->kv_heads;
    const int64_t dim = facts->head_dim;
    const int64_t layouts[][5] = {
        [KVSIM_LAYOUT_BNHD] = {blocks, tokens, heads, dim},
        [KVSIM_LAYOUT_BHND] = {blocks, heads, tokens, dim},
        [KVSIM_LAYOUT_BHN2D] = {blocks, heads, tokens, 2 * dim},
        [KVSIM_LAYOUT_BNH2D] = {blocks, tokens, heads, 2 * dim},
        [KVSIM_LAYOUT_2BNHD] = {2, blocks, tokens, heads, dim},
        [KVSIM_LAYOUT_B2NHD] = {blocks, 2, tokens, heads, dim},
    };
    memcpy(shape, layouts[facts->layout], sizeof layouts[0]);
    return facts->layout == KVSIM_LAYOUT_2BNHD || facts->layout == KVSIM_LAYOUT_B2NHD ? 5 : 4;
}

static kvsim_status read_layout(const origin *from, kvsim__facts *facts) {
    static const char *const names[] = {
        [KVSIM_LAYOUT_BNHD] = "BNHD",   [KVSIM_LAYOUT_BHND] = "BHND",   [KVSIM_LAYOUT_BHN2D] = "BHN2D",
        [KVSIM_LAYOUT_BNH2D] = "BNH2D", [KVSIM_LAYOUT_2BNHD] = "2BNHD", [KVSIM_LAYOUT_B2NHD] = "B2NHD",
    };
    const char *text = kvsim_snapshot_metadata(from->snapshot, "layout");
    for (int32_t layout = KVSIM_LAYOUT_BNHD; text != NULL && layout <= KVSIM_LAYOUT_B2NHD; layout++) {
        if (strcmp(names[layout], text) == 0) {
            facts->layout = layout;
            return KVSIM_OK;
        }
    }
    return refuse_metadata(from, "layout", text, "BNHD, BHND, BHN2D, BNH2D, 2BNHD or B2NHD");
}

static kvsim_status check_caches(const origin *from, kvsim__facts *facts) {
    const bool apart = facts->layout == KVSIM_LAYOUT_BNHD || facts->layout == KVSIM_LAYOUT_BHND;
    facts->blocks = -1;
    for (int32_t layer = 0; layer < facts->layers; layer++) {
        for (int part = 0; part < (apart ? 2 : 1); part++) {
            char name[KVSIM__SCHEMA_NAME_SIZE];
            int64_t shape[KVSIM__AXES_LIMIT];
            const kvsim__entry *entry = NULL;
            kvsim__name_cache(name, layer, !apart ? "kv_cache" : part == 0 ? "key_cache" : "value_cache");
            const int32_t ndim = paged_shape(facts, facts->blocks, shape);
            const kvsim_status status = find_pages(from, name, ndim, shape, facts, &entry);
            if (status != KVSIM_OK) {
                return status;
            }
            facts->blocks = entry->shape[facts->layout == KVSIM_LAYOUT_2BNHD ? 1 : 0];
        }
    }
    char beyond[KVSIM__SCHEMA_NAME_SIZE];
    kvsim__name_cache(beyond, facts->layers, apart ? "key_cache" : "kv_cache");
    if (kvsim__find_entry(from->snapshot, beyond) != NULL) {
        return kvsim__refuse_tensor(from->base, from->shown, beyond, "beyond the %" PRId32 " layers of the metadata",
                                    facts->layers);
    }
    return check_count(from, "blocks", facts->blocks);
}

static kvsim_status check_row(const origin *from, const kvsim__facts *facts, const kvsim__entry *tables, int64_t row,
                              int64_t length) {
    const int64_t columns = tables->shape[1];
    /* Both factors are below 2^31. */
    if (length < 0 || length > columns * facts->page_tokens) {
        return kvsim__refuse_tensor(from->base, from->shown, "seq_lens",
                                    "entry %" PRId64 " is %" PRId64 ", outside 0..%" PRId64
                                    ", what a row of block_tables holds",
                                    row, length, columns * facts->page_tokens);
    }
    const int64_t used = (length + facts->page_tokens - 1) / facts->page_tokens;
    for (int64_t column = 0; column < used; column++) {
        const int32_t block = kvsim__integer_at(tables, row * columns + column);
        if (block < 0 || block >= facts->blocks) {
            return kvsim__refuse_tensor(from->base, from->shown, "block_tables",
                                        "entry [%" PRId64 ", %" PRId64 "] is %" PRId32 ", not one of the %" PRId64
                                        " blocks",
                                        row, column, block, facts->blocks);
        }
    }
    return KVSIM_OK;
}

static kvsim_status check_tables(const origin *from, kvsim__facts *facts) {
    const int64_t any[] = {-1, -1};
    const kvsim__entry *tables = NULL;
    const kvsim__entry *lengths = NULL;
    kvsim_status status = find_integers(from, "block_tables", 2, any, &tables);
    if (status == KVSIM_OK) {
        status = find_integers(from, "seq_lens", 1, tables->shape, &lengths);
    }
    if (status == KVSIM_OK && tables->shape[1] > INT32_MAX) {
        status = kvsim__refuse_tensor(from->base, from->shown, "block_tables", "rows of more than 2^31 - 1 blocks");
    }
    if (status != KVSIM_OK) {
        return status;
    }
    facts->sequences = tables->shape[0];
    for (int64_t row = 0; row < facts->sequences; row++) {
        const int64_t length = kvsim__integer_at(lengths, row);
        status = check_row(from, facts, tables, row, length);
        if (status != KVSIM_OK) {
            return status;
        }
        facts->tokens += length;
        facts->longest = length > facts->longest ? length : facts->longest;
    }
    return check_count(from, "sequences", facts->sequences);
}

static kvsim_status read_paged(const origin *from, kvsim__facts *facts) {
    facts->schema = KVSIM_SCHEMA_PAGED;
    kvsim_status status = read_common(from, facts);
    if (status == KVSIM_OK) {
        status = read_layout(from, facts);
    }
    if (status == KVSIM_OK) {
        status = check_caches(from, facts);
    }
    return status == KVSIM_OK ? check_tables(from, facts) : status;
}

/* ---- npy, and the choice ---- */

static kvsim_status read_array(const origin *from, kvsim__facts *facts) {
    const kvsim__entry *entry = &from->snapshot->entries[0];
    const int64_t *shape = entry->shape;
    if (shape[1] < 1 || shape[1] > KVSIM__PAGE_TOKENS_LIMIT || shape[2] < 1 || shape[2] > INT32_MAX || shape[3] < 1 ||
        shape[3] > INT32_MAX) {
        return kvsim__refuse_tensor(from->base, from->shown, entry->name,
                                    "pages of %" PRId64 " tokens, %" PRId64 " heads, %" PRId64
                                    " channels; each must be at least 1, tokens at most %d",
                                    shape[1], shape[2], shape[3], KVSIM__PAGE_TOKENS_LIMIT);
    }
    facts->schema = KVSIM_SCHEMA_NPY;
    facts->layout = KVSIM_LAYOUT_BNHD;
    facts->layers = 1;
    facts->page_tokens = (int32_t)shape[1];
    facts->kv_heads = (int32_t)shape[2];
    facts->head_dim = (int32_t)shape[3];
    facts->blocks = shape[0];
    facts->sequences = 1;
    facts->tokens = shape[0] * shape[1];
    facts->longest = facts->tokens;
    facts->dtype_code = entry->dtype_code;
    facts->dtype_bits = entry->dtype_bits;
    return KVSIM_OK;
}

kvsim_status kvsim__read_facts(kvsim__base *base, const kvsim_snapshot *snapshot, kvsim__facts *facts) {
    const origin from = {base, snapshot, snapshot->files[0].shown};
    char shortened[KVSIM__SHORT_SIZE];
    *facts = (kvsim__facts){.rope = KVSIM_ROPE_INIT, .model = ""};
    if (snapshot->npy) {
        return read_array(&from, facts);
    }
    const char *format = kvsim_snapshot_metadata(snapshot, "format");
    if (format == NULL || strncmp(format, FORMAT_PREFIX, strlen(FORMAT_PREFIX)) != 0) {
        facts->schema = KVSIM_SCHEMA_NONE;
        return KVSIM_OK;
    }
    if (strcmp(format, FORMAT_DUMP) == 0) {
        return read_dump(&from, facts);
    }
    if (strcmp(format, FORMAT_PAGED) == 0) {
        return read_paged(&from, facts);
    }
    return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                       "%s: metadata 'format' is '%s'; this library reads " FORMAT_DUMP " and " FORMAT_PAGED,
                       from.shown, kvsim__shorten(format, false, shortened));
}

kvsim_status kvsim_snapshot_get_info(kvsim_ctx *ctx, const kvsim_snapshot *snapshot, kvsim_snapshot_info *info) {
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = kvsim__ctx_base(ctx);
    if (snapshot == NULL || info == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_snapshot_get_info: %s is NULL",
                           snapshot == NULL ? "snapshot" : "info");
    }
    const uint32_t theirs = info->struct_size;
    if (theirs < sizeof(kvsim_snapshot_info)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_snapshot_info: struct_size %" PRIu32 " is too small; begin with "
                           "KVSIM_SNAPSHOT_INFO_INIT",
                           theirs);
    }
    kvsim__facts facts;
    const kvsim_status status = kvsim__read_facts(base, snapshot, &facts);
    if (status != KVSIM_OK) {
        return status;
    }
    *info = (kvsim_snapshot_info){.struct_size = theirs,
                                  .schema = facts.schema,
                                  .layers = facts.layers,
                                  .kv_heads = facts.kv_heads,
                                  .head_dim = facts.head_dim,
                                  .page_tokens = facts.page_tokens,
                                  .sequences = facts.sequences,
                                  .tokens = facts.tokens,
                                  .dtype_code = facts.dtype_code,
                                  .dtype_bits = facts.dtype_bits,
                                  .rope_applied = facts.rope_applied ? 1 : 0,
                                  .rope = facts.rope,
                                  .model = facts.model};
    for (size_t i = 0; i < snapshot->file_count; i++) {
        info->file_bytes += snapshot->files[i].size;
    }
    return KVSIM_OK;
}
