/* Writing kvsim.dump.v1: header first, then one sequence, layer and kind after the other. */
#include "snapshot.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pages/rope.h"

enum {
    LENGTH_SIZE = 8,
    /* Data begins at a multiple of this, and so does every tensor in it of a wider type than the others. */
    DATA_ALIGNMENT = 8,
    /* A double with 17 digits, sign, point and exponent, or an integer. */
    NUMBER_SIZE = 40
};

/* Integers up to here are doubles without loss. */
#define LARGEST_EXACT_INTEGER 9007199254740992.0

typedef struct writer {
    kvsim__base *base;
    kvsim_dump dump;
    uint64_t row_bytes;  /* of one token, layer and kind */
    uint64_t most_bytes; /* of the longest sequence, one layer and kind */
    char *header;
    size_t header_size;
    size_t header_capacity;
    bool header_failed; /* a piece could not be kept */
} writer;

/* ---- Checks ---- */

/* Whether text is UTF-8 as JSON takes it: shortest forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (*at != '\0') {
        const unsigned char lead = *at++;
        const int more = lead < 0x80 ? 0 : lead < 0xc2 ? -1 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : -1;
        if (more < 0) {
            return false;
        }
        unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        for (int i = 0; i < more; i++) {
            if (*at < low || *at > high) {
                return false;
            }
            at++;
            low = 0x80;
            high = 0xbf;
        }
    }
    return true;
}

static kvsim_status check_number(kvsim__base *base, const char *name, int32_t value, int32_t most) {
    if (value < 1 || value > most) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: %s is %" PRId32 ", outside 1..%" PRId32, name, value,
                           most);
    }
    return KVSIM_OK;
}

static const char *dtype_name(const kvsim_dump *dump) {
    if (dump->dtype_code == KVSIM_DTYPE_FLOAT) {
        return dump->dtype_bits == 32 ? "F32" : dump->dtype_bits == 16 ? "F16" : NULL;
    }
    return dump->dtype_code == KVSIM_DTYPE_BFLOAT && dump->dtype_bits == 16 ? "BF16" : NULL;
}

static kvsim_status check_rope(kvsim__base *base, const kvsim_dump *dump) {
    const kvsim_rope *rope = &dump->rope;
    if (rope->style != KVSIM_ROPE_NONE && rope->style != KVSIM_ROPE_HALF && rope->style != KVSIM_ROPE_INTERLEAVED) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: rope.style is %" PRId32 ", not a KVSIM_ROPE_*",
                           rope->style);
    }
    if (!isfinite(rope->theta) || rope->theta < 0.0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: rope.theta is not a finite number above 0");
    }
    if (rope->style == KVSIM_ROPE_NONE) {
        return KVSIM_OK;
    }
    const int32_t dims = rope->rotary_dims == 0 ? dump->head_dim : rope->rotary_dims;
    if (dims < 2 || dims > dump->head_dim || dims % 2 != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_dump: rope.rotary_dims rotates %" PRId32
                           " channels, not an even number of 2..%" PRId32,
                           dims, dump->head_dim);
    }
    kvsim_rope checked = *rope;
    if (kvsim__rope_check(base, &checked) == KVSIM_OK) {
        return KVSIM_OK;
    }
    char reason[KVSIM__ERROR_SIZE];
    memcpy(reason, base->error, sizeof reason);
    return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: %s", reason);
}

static kvsim_status check_sequences(writer *out) {
    const kvsim_dump *dump = &out->dump;
    kvsim__base *base = out->base;
    if (dump->sequences < 0 || (dump->sequences > 0 && (dump->lengths == NULL || dump->tokens == NULL))) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: %" PRId64 " sequences, with lengths and tokens for each",
                           dump->sequences);
    }
    uint64_t total = 0;
    for (int64_t s = 0; s < dump->sequences; s++) {
        const int64_t length = dump->lengths[s];
        uint64_t bytes = 0;
        uint64_t layers = 0;
        if (length < 1 || dump->tokens[s] == NULL) {
            return kvsim__fail(base, KVSIM_E_INVALID,
                               "kvsim_dump: sequence %" PRId64 " has %" PRId64 " tokens%s; each has at least 1", s,
                               length, dump->tokens[s] == NULL ? " and no token ids" : "");
        }
        if (dump->prompts != NULL && dump->prompts[s] != NULL && !is_utf8(dump->prompts[s])) {
            return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: the prompt of sequence %" PRId64 " is not UTF-8", s);
        }
        if (!kvsim__multiply((uint64_t)length, out->row_bytes, &bytes) || bytes > PTRDIFF_MAX ||
            !kvsim__multiply(bytes, 2 * (uint64_t)dump->layers, &layers) ||
            __builtin_add_overflow(total, layers, &total) ||
            __builtin_add_overflow(total, (uint64_t)length * sizeof(int32_t), &total) || total > INT64_MAX) {
            return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: the size of sequence %" PRId64 " overflows", s);
        }
        out->most_bytes = bytes > out->most_bytes ? bytes : out->most_bytes;
    }
    return KVSIM_OK;
}

static kvsim_status check_dump(writer *out) {
    const kvsim_dump *dump = &out->dump;
    kvsim__base *base = out->base;
    kvsim_status status = check_number(base, "layers", dump->layers, KVSIM__LAYERS_LIMIT);
    if (status == KVSIM_OK) {
        status = check_number(base, "kv_heads", dump->kv_heads, INT32_MAX);
    }
    if (status == KVSIM_OK) {
        status = check_number(base, "head_dim", dump->head_dim, INT32_MAX / 2);
    }
    if (status == KVSIM_OK) {
        status = check_number(base, "page_tokens", dump->page_tokens, KVSIM__PAGE_TOKENS_LIMIT);
    }
    if (status == KVSIM_OK) {
        status = check_rope(base, dump);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    if (dtype_name(dump) == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_dump: dtype code %d with %d bits; a dump holds f32, f16 or bf16", dump->dtype_code,
                           dump->dtype_bits);
    }
    if (dump->reserved != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: a reserved field is not 0; begin with KVSIM_DUMP_INIT");
    }
    if (dump->read == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: read is NULL");
    }
    if (dump->model != NULL && !is_utf8(dump->model)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_dump: model is not UTF-8");
    }
    /* Below 2^31 * 2^30 * 4. */
    out->row_bytes = (uint64_t)dump->kv_heads * (uint64_t)dump->head_dim * (dump->dtype_bits / 8u);
    return check_sequences(out);
}

/* ---- Header ---- */

static bool put_text(json_t *object, const char *key, const char *text) {
    return json_object_set_new(object, key, json_string(text)) == 0;
}

static bool put_integer(json_t *object, const char *key, int64_t value) {
    char text[NUMBER_SIZE];
    (void)snprintf(text, sizeof text, "%" PRId64, value);
    return put_text(object, key, text);
}

/* The shortest text that reads back as the same number, whatever the host's locale is. */
static bool put_real(json_t *object, const char *key, double value) {
    if (value == floor(value) && value <= LARGEST_EXACT_INTEGER) {
        return put_integer(object, key, (int64_t)value);
    }
    json_t *number = json_real(value);
    char text[NUMBER_SIZE];
    bool done = false;
    for (size_t digits = 15; number != NULL && digits <= 17 && !done; digits++) {
        const size_t length = json_dumpb(number, text, sizeof text - 1, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
        if (length == 0 || length >= sizeof text) {
            break;
        }
        text[length] = '\0';
        json_t *again = json_loads(text, JSON_DECODE_ANY, NULL);
        done = again != NULL && (digits == 17 || json_real_value(again) == value);
        json_decref(again);
    }
    json_decref(number);
    return done && put_text(object, key, text);
}

/* Keep the text of a JSON value as a string. Takes the value over; NULL is a failure. */
static bool put_json(json_t *object, const char *key, json_t *value, size_t flags) {
    /* jansson's own memory, given back to where it came from. */
    char *text = value != NULL ? json_dumps(value, flags) : NULL;
    const bool done = text != NULL && put_text(object, key, text);
    if (text != NULL) {
        json_free_t release = NULL;
        json_get_alloc_funcs(NULL, &release);
        release(text);
    }
    json_decref(value);
    return done;
}

static bool put_prompts(json_t *object, const kvsim_dump *dump) {
    if (dump->prompts == NULL) {
        return true;
    }
    json_t *list = json_array();
    bool done = list != NULL;
    for (int64_t s = 0; done && s < dump->sequences; s++) {
        done = json_array_append_new(list, json_string(dump->prompts[s] != NULL ? dump->prompts[s] : "")) == 0;
    }
    if (!done) {
        json_decref(list);
        return false;
    }
    return put_json(object, "prompts", list, 0);
}

static bool put_metadata(json_t *root, const kvsim_dump *dump) {
    static const char *const styles[] = {
        [KVSIM_ROPE_NONE] = "none", [KVSIM_ROPE_HALF] = "half", [KVSIM_ROPE_INTERLEAVED] = "interleaved"};
    const kvsim_rope *rope = &dump->rope;
    const bool rotated = rope->style != KVSIM_ROPE_NONE;
    json_t *metadata = json_object();
    bool done = json_object_set_new(root, "__metadata__", metadata) == 0;
    done = done && put_text(metadata, "format", "kvsim.dump.v1");
    done = done && put_text(metadata, "model", dump->model != NULL ? dump->model : "");
    done = done && put_integer(metadata, "layers", dump->layers);
    done = done && put_integer(metadata, "kv_heads", dump->kv_heads);
    done = done && put_integer(metadata, "head_dim", dump->head_dim);
    done = done && put_real(metadata, "rope_theta", rope->theta > 0.0 ? rope->theta : 10000.0);
    done = done && put_text(metadata, "rope_style", styles[rope->style]);
    done = done && put_text(metadata, "rope_applied", rotated ? "true" : "false");
    if (rotated && rope->rotary_dims != 0 && rope->rotary_dims != dump->head_dim) {
        done = done && put_integer(metadata, "rope_dims", rope->rotary_dims);
    }
    if (rotated && rope->scaling != KVSIM_ROPE_SCALING_NONE) {
        done = done &&
               put_json(metadata, "rope_scaling", kvsim__make_scaling(rope), JSON_COMPACT | JSON_REAL_PRECISION(17));
    }
    done = done && put_integer(metadata, "page_tokens", dump->page_tokens);
    done = done && put_integer(metadata, "sequences", dump->sequences);
    return done && put_prompts(metadata, dump);
}

/* Append a tensor that begins at *offset, and move *offset past it. */
static bool put_tensor(json_t *root, const char *name, const char *dtype, json_t *shape, uint64_t bytes,
                       uint64_t *offset) {
    const json_int_t begin = (json_int_t)*offset;
    *offset += bytes;
    json_t *facts =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets", begin, (json_int_t)*offset);
    return facts != NULL && json_object_set_new(root, name, facts) == 0;
}

/* Tokens come first: they are wider than 16-bit pages, and so nothing ever lies askew. */
static bool put_tensors(json_t *root, const writer *out) {
    const kvsim_dump *dump = &out->dump;
    uint64_t offset = 0;
    char name[KVSIM__SCHEMA_NAME_SIZE];
    for (int64_t s = 0; s < dump->sequences; s++) {
        const int64_t length = dump->lengths[s];
        kvsim__name_tokens(name, s);
        json_t *shape = json_pack("[I]", (json_int_t)length);
        if (shape == NULL || !put_tensor(root, name, "I32", shape, (uint64_t)length * sizeof(int32_t), &offset)) {
            return false;
        }
    }
    for (int64_t s = 0; s < dump->sequences; s++) {
        const int64_t length = dump->lengths[s];
        for (int64_t part = 0; part < 2 * (int64_t)dump->layers; part++) {
            kvsim__name_rows(name, s, (int32_t)(part / 2), part % 2 != 0);
            json_t *shape =
                json_pack("[I, I, I]", (json_int_t)length, (json_int_t)dump->kv_heads, (json_int_t)dump->head_dim);
            if (shape == NULL ||
                !put_tensor(root, name, dtype_name(dump), shape, (uint64_t)length * out->row_bytes, &offset)) {
                return false;
            }
        }
    }
    return true;
}

/* Receives the header in pieces. */
static int keep_piece(const char *piece, size_t size, void *user) {
    writer *out = user;
    void *header = out->header;
    const kvsim_status status =
        kvsim__grow(out->base, &header, &out->header_capacity, out->header_size + size + DATA_ALIGNMENT, 1);
    out->header = header;
    /* jansson 2.14 goes on after some failures, so one is remembered here. */
    out->header_failed = out->header_failed || status != KVSIM_OK;
    if (out->header_failed) {
        return -1;
    }
    memcpy(out->header + out->header_size, piece, size);
    out->header_size += size;
    return 0;
}

static kvsim_status make_header(writer *out) {
    kvsim__base *base = out->base;
    /* Names, shapes and offsets take more than this; a dump that cannot fit is refused before it takes memory. */
    const uint64_t least_bytes = 60;
    if ((uint64_t)out->dump.sequences > KVSIM__HEADER_LIMIT / least_bytes / (1 + 2 * (uint64_t)out->dump.layers)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_dump: %" PRId64 " sequences in %" PRId32
                           " layers are too many for the header of one file; write several",
                           out->dump.sequences, out->dump.layers);
    }
    json_t *root = json_object();
    const bool done = root != NULL && put_metadata(root, &out->dump) && put_tensors(root, out) &&
                      json_dump_callback(root, keep_piece, out, JSON_COMPACT) == 0 && !out->header_failed;
    json_decref(root);
    if (!done) {
        return kvsim__fail_memory(base, out->header_size, "the header of a dump");
    }
    while (out->header_size % DATA_ALIGNMENT != 0) {
        out->header[out->header_size++] = ' ';
    }
    if (out->header_size > KVSIM__HEADER_LIMIT) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "kvsim_dump: a header of %zu bytes, where a file may have %u; write several files",
                           out->header_size, KVSIM__HEADER_LIMIT);
    }
    return KVSIM_OK;
}

/* ---- Data ---- */

static kvsim_status write_rows(writer *out, kvsim__file *file, unsigned char *rows) {
    const kvsim_dump *dump = &out->dump;
    for (int64_t s = 0; s < dump->sequences; s++) {
        for (int32_t layer = 0; layer < dump->layers; layer++) {
            for (int32_t kind = KVSIM_KIND_KEY; kind <= KVSIM_KIND_VALUE; kind++) {
                if (dump->read(dump->read_user, s, layer, kind, rows) != 0) {
                    return kvsim__fail(out->base, KVSIM_E_CANCELLED,
                                       "kvsim_dump: read gave up on the %s of sequence %" PRId64 ", layer %" PRId32,
                                       kind == KVSIM_KIND_KEY ? "keys" : "values", s, layer);
                }
                const kvsim_status status =
                    kvsim__file_write(out->base, file, rows, (size_t)dump->lengths[s] * (size_t)out->row_bytes);
                if (status != KVSIM_OK) {
                    return status;
                }
            }
        }
    }
    return KVSIM_OK;
}

static kvsim_status write_data(writer *out, kvsim__file *file) {
    kvsim_status status = KVSIM_OK;
    for (int64_t s = 0; status == KVSIM_OK && s < out->dump.sequences; s++) {
        status =
            kvsim__file_write(out->base, file, out->dump.tokens[s], (size_t)out->dump.lengths[s] * sizeof(int32_t));
    }
    if (status != KVSIM_OK) {
        return status;
    }
    unsigned char *rows = kvsim__allocate(out->base, (size_t)out->most_bytes, 1);
    if (rows == NULL) {
        return kvsim__fail_memory(out->base, (size_t)out->most_bytes, "the rows of a sequence");
    }
    status = write_rows(out, file, rows);
    kvsim__release(out->base, rows, (size_t)out->most_bytes, 1);
    return status;
}

static kvsim_status write_file(writer *out, const char *path) {
    kvsim__base *base = out->base;
    kvsim__file file;
    kvsim_status status = kvsim__file_begin(base, path, &file);
    if (status != KVSIM_OK) {
        return status;
    }
    const uint64_t length = out->header_size;
    status = kvsim__file_write(base, &file, &length, LENGTH_SIZE);
    if (status == KVSIM_OK) {
        status = kvsim__file_write(base, &file, out->header, out->header_size);
    }
    if (status == KVSIM_OK) {
        status = write_data(out, &file);
    }
    if (status == KVSIM_OK) {
        return kvsim__file_commit(base, &file);
    }
    kvsim__file_abandon(base, &file);
    return status;
}

kvsim_status kvsim_dump_write(kvsim_ctx *ctx, const char *path, const kvsim_dump *dump) {
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    writer out = {.base = kvsim__ctx_base(ctx)};
    if (path == NULL || dump == NULL) {
        return kvsim__fail(out.base, KVSIM_E_INVALID, "kvsim_dump_write: %s is NULL", path == NULL ? "path" : "dump");
    }
    kvsim_status status = kvsim__read_struct(&out.dump, sizeof out.dump, dump, sizeof out.dump);
    if (status != KVSIM_OK) {
        return kvsim__fail(out.base, status,
                           "kvsim_dump: struct_size %" PRIu32 " is not one this library knows, or fields it does not "
                           "know are set; begin with KVSIM_DUMP_INIT",
                           dump->struct_size);
    }
    status = check_dump(&out);
    if (status == KVSIM_OK) {
        status = make_header(&out);
    }
    if (status == KVSIM_OK) {
        status = write_file(&out, path);
    }
    kvsim__release(out.base, out.header, out.header_capacity, 1);
    return status;
}
