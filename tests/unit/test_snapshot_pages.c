/* The schemas: facts checked against tensors, and pages handed to a context. */
#define _GNU_SOURCE
#include "snapshot_files.h"

#include "compute/context.h"

#define TENSOR(NAME, TYPE, SHAPE, OFFSETS)                                                                             \
    "\"" NAME "\":{\"dtype\":\"" TYPE "\",\"shape\":" SHAPE ",\"data_offsets\":" OFFSETS "}"

/* Two sequences of 3 and 2 tokens, 2 layers, 1 head of 2 channels, pages of 2 tokens; tokens at the end. */
static const char dump_header[] =
    "{\"__metadata__\":{\"format\":\"kvsim.dump.v1\",\"model\":\"m\",\"layers\":\"2\",\"kv_heads\":\"1\","
    "\"head_dim\":\"2\",\"rope_theta\":\"10000\",\"rope_style\":\"half\",\"rope_applied\":\"true\","
    "\"page_tokens\":\"2\",\"sequences\":\"2\",\"prompts\":\"[\\\"p\\\", \\\"\\\"]\"}," TENSOR("seq.0.layer.0.key", "F32", "[3,1,2]", "[0,24]") "," TENSOR("seq.0.layer.0.value", "F32", "[3,1,2]", "[24,48]") "," TENSOR(
        "seq.0.layer.1.key", "F32", "[3,1,2]",
        "[48,72]") "," TENSOR("seq.0.layer.1.value", "F32", "[3,1,2]",
                              "[72,96]") "," TENSOR("seq.1.layer.0.key", "F32", "[2,1,2]",
                                                    "[96,112]") "," TENSOR("seq.1.layer.0.value", "F32", "[2,1,2]",
                                                                           "[112,128]") "," TENSOR("seq.1.layer.1.key",
                                                                                                   "F32", "[2,1,2]",
                                                                                                   "[128,144]") "," TENSOR("seq.1.layer.1.value",
                                                                                                                           "F32",
                                                                                                                           "[2,1,2]",
                                                                                                                           "[144,160]") "," TENSOR("seq.0.tokens",
                                                                                                                                                   "I32",
                                                                                                                                                   "[3]",
                                                                                                                                                   "[160,172]") "," TENSOR("seq.1.tokens",
                                                                                                                                                                           "I32",
                                                                                                                                                                           "[2]",
                                                                                                                                                                           "[172,180]") "}";

enum { DUMP_DATA = 180 };

/* A pool of 3 blocks, 2 layers, 1 head of 2 channels, pages of 2 tokens, 2 sequences. */
static const char paged_header[] =
    "{\"__metadata__\":{\"format\":\"kvsim.paged.v1\",\"layout\":\"BHN2D\",\"layers\":\"2\",\"kv_heads\":\"1\","
    "\"head_dim\":\"2\",\"rope_theta\":\"1e4\",\"rope_style\":\"interleaved\",\"rope_applied\":\"true\","
    "\"page_tokens\":\"2\",\"sequences\":\"2\",\"blocks\":\"3\"}," TENSOR(
        "block_tables", "I32", "[2,2]",
        "[0,16]") "," TENSOR("seq_lens", "I32", "[2]", "[16,24]") "," TENSOR("layers.0.kv_cache", "F32", "[3,1,2,4]",
                                                                             "[24,120]") "," TENSOR("layers.1.kv_cache",
                                                                                                    "F32", "[3,1,2,4]",
                                                                                                    "[120,216]") "}";

enum { PAGED_DATA = 216 };

/* Copy of `text` with the first `from` replaced by `to`; [owned] by free. */
static char *replace(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    ck_assert_msg(at != NULL, "'%s' is not in the header", from);
    char *out = malloc(strlen(text) + strlen(to) + 1);
    ck_assert_ptr_nonnull(out);
    (void)sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void write_paged(const char *name, const char *header, const int32_t tables[4], const int32_t lengths[2]) {
    size_t size = 0;
    unsigned char *bytes = make_safetensors(header, PAGED_DATA, &size);
    memcpy(bytes + size - PAGED_DATA, tables, 16);
    memcpy(bytes + size - PAGED_DATA + 16, lengths, 8);
    write_bytes(name, bytes, size);
    free(bytes);
}

static const int32_t good_tables[4] = {2, 0, 2, -1};
static const int32_t good_lengths[2] = {3, 2};

static void expect_info(const char *name, kvsim_status status, const char *error) {
    kvsim_snapshot *snapshot = open_good(path_of(name));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    const kvsim_status actual = kvsim_snapshot_get_info(ctx, snapshot, &info);
    ck_assert_msg(actual == status, "status %d: %s", actual, kvsim_ctx_error(ctx));
    expect_error(error);
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, NULL), status);
    ck_assert_uint_eq(kvsim_page_count(ctx), 0);
    kvsim_snapshot_close(snapshot);
}

/* ---- kvsim.dump.v1 ---- */

START_TEST(a_dump_says_what_it_is) {
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.schema, KVSIM_SCHEMA_DUMP);
    ck_assert_int_eq(info.layers, 2);
    ck_assert_int_eq(info.kv_heads, 1);
    ck_assert_int_eq(info.head_dim, 2);
    ck_assert_int_eq(info.page_tokens, 2);
    ck_assert_int_eq(info.sequences, 2);
    ck_assert_int_eq(info.tokens, 5);
    ck_assert_int_eq(info.dtype_code, KVSIM_DTYPE_FLOAT);
    ck_assert_int_eq(info.dtype_bits, 32);
    ck_assert_int_eq(info.rope_applied, 1);
    ck_assert_int_eq(info.rope.style, KVSIM_ROPE_HALF);
    ck_assert_double_eq(info.rope.theta, 10000.0);
    ck_assert_str_eq(info.model, "m");
    info.struct_size = 8;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, NULL, &info), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, NULL), KVSIM_E_INVALID);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static const struct {
    const char *from;
    const char *to;
    kvsim_status status;
    const char *error;
} dump_lies[] = {
    {"kvsim.dump.v1", "kvsim.dump.v2", KVSIM_E_UNSUPPORTED, "this library reads kvsim.dump.v1"},
    {"\"layers\"", "\"l\"", KVSIM_E_FORMAT, "metadata 'layers' is missing"},
    {"\"kv_heads\"", "\"h\"", KVSIM_E_FORMAT, "metadata 'kv_heads' is missing"},
    {"\"head_dim\"", "\"d\"", KVSIM_E_FORMAT, "metadata 'head_dim' is missing"},
    {"\"page_tokens\"", "\"p\"", KVSIM_E_FORMAT, "metadata 'page_tokens' is missing"},
    {"\"layers\":\"2\"", "\"layers\":\"0\"", KVSIM_E_FORMAT, "metadata 'layers' is '0', not a number of 1..65536"},
    {"\"layers\":\"2\"", "\"layers\":\"02\"", KVSIM_E_FORMAT, "metadata 'layers' is '02'"},
    {"\"layers\":\"2\"", "\"layers\":\"+2\"", KVSIM_E_FORMAT, "metadata 'layers' is '+2'"},
    {"\"layers\":\"2\"", "\"layers\":\" 2\"", KVSIM_E_FORMAT, "metadata 'layers' is ' 2'"},
    {"\"layers\":\"2\"", "\"layers\":\"2.0\"", KVSIM_E_FORMAT, "metadata 'layers' is '2.0'"},
    {"\"layers\":\"2\"", "\"layers\":\"\"", KVSIM_E_FORMAT, "metadata 'layers' is ''"},
    {"\"layers\":\"2\"", "\"layers\":\"99999999999999999999\"", KVSIM_E_FORMAT, "metadata 'layers' is '9999"},
    {"\"layers\":\"2\"", "\"layers\":\"1\"", KVSIM_E_FORMAT, "tensor 'seq.0.layer.1.key': not one of the 2 sequences"},
    {"\"layers\":\"2\"", "\"layers\":\"3\"", KVSIM_E_FORMAT, "tensor 'seq.0.layer.2.key' is missing"},
    {"\"head_dim\":\"2\"", "\"head_dim\":\"4\"", KVSIM_E_FORMAT, "axis 2 of the shape is 2, not 4"},
    {"\"page_tokens\":\"2\"", "\"page_tokens\":\"65537\"", KVSIM_E_FORMAT, "metadata 'page_tokens'"},
    {"\"sequences\":\"2\"", "\"sequences\":\"3\"", KVSIM_E_FORMAT, "metadata 'sequences' is '3', not 2"},
    {"\"true\"", "\"yes\"", KVSIM_E_FORMAT, "metadata 'rope_applied' is 'yes', not true or false"},
    {"\"half\"", "\"spiral\"", KVSIM_E_FORMAT, "metadata 'rope_style' is 'spiral'"},
    {"\"half\"", "\"none\"", KVSIM_E_FORMAT, "metadata 'rope_style' is 'none'"},
    {"\"rope_theta\"", "\"t\"", KVSIM_E_FORMAT, "metadata 'rope_theta' is missing"},
    {"\"10000\"", "\"-1\"", KVSIM_E_FORMAT, "metadata 'rope_theta' is '-1'"},
    {"\"10000\"", "\"nan\"", KVSIM_E_FORMAT, "metadata 'rope_theta' is 'nan'"},
    {"\"10000\"", "\"1,5\"", KVSIM_E_FORMAT, "metadata 'rope_theta' is '1,5'"},
    {"\"10000\"", "\"10000\",\"rope_dims\":\"1\"", KVSIM_E_FORMAT, "metadata 'rope_dims' is '1'"},
    {"\"10000\"", "\"10000\",\"rope_dims\":\"4\"", KVSIM_E_FORMAT, "metadata 'rope_dims' is '4'"},
    {"[\\\"p\\\", ", "[", KVSIM_E_FORMAT, "metadata 'prompts'"},
    {"[\\\"p\\\", ", "[1, ", KVSIM_E_FORMAT, "metadata 'prompts'"},
    {"[\\\"p\\\", ", "", KVSIM_E_FORMAT, "metadata 'prompts'"},
    {"seq.0.tokens", "sq.0.tokens", KVSIM_E_FORMAT, "not one of the 0 sequences"},
    {"seq.1.tokens", "seq.2.tokens", KVSIM_E_FORMAT, "not one of the 1 sequences"},
    {"seq.1.tokens", "seq.01.tokens", KVSIM_E_FORMAT, "not one of the 1 sequences"},
    {"seq.1.layer.1.value", "seq.1.layer.1.velue", KVSIM_E_FORMAT, "tensor 'seq.1.layer.1.value' is missing"},
    {"\"seq.0.tokens\":{\"dtype\":\"I32\"", "\"seq.0.tokens\":{\"dtype\":\"U32\"", KVSIM_E_FORMAT,
     "tensor 'seq.0.tokens': the dtype is not I32"},
    {"[3],", "[3,1],", KVSIM_E_FORMAT, "tensor 'seq.0.tokens': 2 axes, not 1"},
    {"[3,1,2]", "[3,2,1]", KVSIM_E_FORMAT, "tensor 'seq.0.layer.0.key': axis 1 of the shape is 2, not 1"},
    {"[3,1,2]", "[1,3,2]", KVSIM_E_FORMAT, "tensor 'seq.0.layer.0.key': axis 0 of the shape is 1, not 3"},
    {"[3,1,2]", "[3,2]", KVSIM_E_FORMAT, "tensor 'seq.0.layer.0.key': 2 axes, not 3"},
    {"\"F32\"", "\"I32\"", KVSIM_E_FORMAT, "tensor 'seq.0.layer.0.key': keys and values are F32"},
    {"\"F32\",\"shape\":[2,1,2],\"data_offsets\":[112,128]", "\"BF16\",\"shape\":[2,1,2],\"data_offsets\":[112,120]",
     KVSIM_E_FORMAT, ""},
};

START_TEST(lying_dumps_are_refused) {
    char *header = replace(dump_header, dump_lies[_i].from, dump_lies[_i].to);
    if (dump_lies[_i].error[0] == '\0') {
        /* Another type for one tensor, with a tensor that fills the hole this leaves. */
        char *filled = replace(header, "[112,120]}", "[112,120]}," TENSOR("more", "U8", "[8]", "[120,128]"));
        write_safetensors("d.safetensors", filled, DUMP_DATA);
        free(filled);
        expect_info("d.safetensors", dump_lies[_i].status, "another dtype than the pages before it");
    } else {
        write_safetensors("d.safetensors", header, DUMP_DATA);
        expect_info("d.safetensors", dump_lies[_i].status, dump_lies[_i].error);
    }
    free(header);
}
END_TEST

START_TEST(rope_facts_may_be_left_out) {
    char *header = replace(dump_header, "\"rope_applied\"", "\"r\"");
    write_safetensors("d.safetensors", header, DUMP_DATA);
    free(header);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.rope_applied, 0);
    ck_assert_int_eq(info.rope.style, KVSIM_ROPE_NONE);
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, NULL), KVSIM_OK);
    ck_assert_int_eq(ctx->rope.style, KVSIM_ROPE_NONE);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static const unsigned char *data_of(const kvsim_snapshot *snapshot, const char *name) {
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, name, &tensor), KVSIM_OK);
    return tensor.data;
}

static const kvsim__page *find_page(int32_t layer, int32_t kind, int64_t sequence, int64_t position) {
    const kvsim__page *found = NULL;
    for (size_t i = 0; i < ctx->store.page_count; i++) {
        const kvsim__page *page = &ctx->store.pages[i];
        if (page->layer == layer && page->kind == kind && page->sequence == sequence && page->position == position) {
            ck_assert_ptr_null(found);
            found = page;
        }
    }
    return found;
}

START_TEST(a_dump_becomes_pages_where_it_lies) {
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    options.first_sequence = 10;
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, &options), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 12);
    ck_assert_int_eq(ctx->rope.style, KVSIM_ROPE_HALF);
    for (int layer = 0; layer < 2; layer++) {
        for (int kind = KVSIM_KIND_KEY; kind <= KVSIM_KIND_VALUE; kind++) {
            char name[64];
            (void)snprintf(name, sizeof name, "seq.0.layer.%d.%s", layer, kind == KVSIM_KIND_KEY ? "key" : "value");
            const unsigned char *rows = data_of(snapshot, name);
            const kvsim__page *full = find_page(layer, kind, 10, 0);
            const kvsim__page *partial = find_page(layer, kind, 10, 2);
            ck_assert_ptr_nonnull(full);
            ck_assert_ptr_nonnull(partial);
            ck_assert_ptr_eq(full->data, rows);
            ck_assert_int_eq(full->fill, 2);
            ck_assert_ptr_eq(partial->data, rows + 16);
            ck_assert_int_eq(partial->fill, 1);
            ck_assert_ptr_nonnull(find_page(layer, kind, 11, 0));
            /* Keys and values of all layers belong to one block; blocks come in the order of the text. */
            ck_assert_uint_eq(full->identity, 0);
            ck_assert_uint_eq(partial->identity, 1);
            ck_assert_uint_eq(find_page(layer, kind, 11, 0)->identity, 2);
        }
    }
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(layers_kinds_and_page_sizes_are_chosen) {
    const int32_t second[] = {1};
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    options.layers = second;
    options.layer_count = 1;
    options.kind = KVSIM_KIND_VALUE;
    options.page_tokens = 1;
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, &options), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 5);
    ck_assert_ptr_eq(find_page(1, KVSIM_KIND_VALUE, 0, 2)->data, data_of(snapshot, "seq.0.layer.1.value") + 16);
    /* The keys added later find their values: a block is known by where it lies. */
    options.kind = KVSIM_KIND_KEY;
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, &options), KVSIM_OK);
    ck_assert_uint_eq(ctx->store.identity_count, 5);
    kvsim_ctx_clear(ctx);
    options = (kvsim_snapshot_pages)KVSIM_SNAPSHOT_PAGES_INIT;
    options.page_tokens = 65536;
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, &options), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 8);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(two_files_in_one_context_do_not_mix) {
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    kvsim_snapshot *first = open_good(path_of("d.safetensors"));
    kvsim_snapshot *second = open_good(path_of("d.safetensors"));
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, first, NULL), KVSIM_OK);
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, second, NULL), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 24);
    ck_assert_uint_eq(ctx->store.identity_count, 6);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(first);
    kvsim_snapshot_close(second);
}
END_TEST

static void expect_add(const kvsim_snapshot *snapshot, const kvsim_snapshot_pages *options, kvsim_status status,
                       const char *error) {
    const kvsim_status actual = kvsim_snapshot_add_pages(ctx, snapshot, options);
    ck_assert_msg(actual == status, "status %d: %s", actual, kvsim_ctx_error(ctx));
    expect_error(error);
    ck_assert_uint_eq(kvsim_page_count(ctx), 0);
}

START_TEST(wrong_options_are_refused) {
    const int32_t missing[] = {0, 2};
    const int32_t falling[] = {1, 0};
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    options.layers = missing;
    options.layer_count = 2;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layer 2 does not exist");
    expect_error("has the layers 0..1");
    options.layers = falling;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layers do not rise: 0 comes after 1");
    options.layer_count = 0;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layer_count is 0");
    options.layers = NULL;
    options.layer_count = 1;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layers is NULL");
    options.layer_count = 0;
    options.kind = 4;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "kind is 4");
    options.kind = 0;
    options.page_tokens = -1;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "page_tokens is -1");
    options.page_tokens = 0;
    options.first_sequence = -1;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "first_sequence is -1");
    options.first_sequence = INT64_MAX;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "first_sequence is 9223372036854775807");
    options.first_sequence = 0;
    options.layer = 1;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layer is 1");
    options.layer = 0;
    options.struct_size = 8;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "struct_size 8");
    ck_assert_int_eq(kvsim_snapshot_add_pages(NULL, snapshot, NULL), KVSIM_E_INVALID);
    expect_add(NULL, NULL, KVSIM_E_INVALID, "snapshot is NULL");
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(weights_hold_no_pages) {
    write_safetensors("w.safetensors", "{\"__metadata__\":{\"format\":\"pt\"}}", 0);
    kvsim_snapshot *snapshot = open_good(path_of("w.safetensors"));
    expect_add(snapshot, NULL, KVSIM_E_UNSUPPORTED, "names no schema of kvsim");
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(a_dump_of_no_sequences_adds_nothing) {
    write_safetensors("d.safetensors",
                      "{\"__metadata__\":{\"format\":\"kvsim.dump.v1\",\"layers\":\"2\",\"kv_heads\":\"1\","
                      "\"head_dim\":\"2\",\"page_tokens\":\"2\",\"prompts\":\"[]\"}}",
                      0);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    expect_add(snapshot, NULL, KVSIM_OK, "");
    kvsim_snapshot_close(snapshot);
}
END_TEST

/* ---- kvsim.paged.v1 ---- */

static const struct {
    const char *layout;
    const char *shape;
    long key; /* of block 2 */
    long value;
} layouts[] = {
    {"BHN2D", "[3,1,2,4]", 64, 72},
    {"BNH2D", "[3,2,1,4]", 64, 72},
    {"2BNHD", "[2,3,2,1,2]", 32, 80},
    {"B2NHD", "[3,2,2,1,2]", 64, 80},
};

START_TEST(a_pool_becomes_pages_in_every_layout) {
    char *named = replace(paged_header, "BHN2D", layouts[_i].layout);
    char *once = replace(named, "\"shape\":[3,1,2,4],\"data_offsets\":[24", "\"shape\":@,\"data_offsets\":[24");
    char *shaped = replace(once, "[3,1,2,4]", layouts[_i].shape);
    char *header = replace(shaped, "@", layouts[_i].shape);
    write_paged("p.safetensors", header, good_tables, good_lengths);
    kvsim_snapshot *snapshot = open_good(path_of("p.safetensors"));
    const unsigned char *cache = data_of(snapshot, "layers.1.kv_cache");
    for (int kind = 0; kind <= KVSIM_KIND_BOTH; kind++) {
        kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
        options.kind = kind;
        options.first_sequence = 5;
        const kvsim_status status = kvsim_snapshot_add_pages(ctx, snapshot, &options);
        ck_assert_msg(status == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
        const bool both = kind == 0 || kind == KVSIM_KIND_BOTH;
        ck_assert_uint_eq(kvsim_page_count(ctx), both ? 8 : 4);
        ck_assert_uint_eq(ctx->store.identity_count, 2);
        ck_assert_int_eq(ctx->rope.style, KVSIM_ROPE_INTERLEAVED);
        const kvsim__page *key = find_page(1, KVSIM_KIND_KEY, 5, 0);
        const kvsim__page *value = find_page(1, KVSIM_KIND_VALUE, 5, 0);
        ck_assert_ptr_eq(key != NULL ? key->data : NULL, kind == KVSIM_KIND_VALUE ? NULL : cache + layouts[_i].key);
        ck_assert_ptr_eq(value != NULL ? value->data : NULL, kind == KVSIM_KIND_KEY ? NULL : cache + layouts[_i].value);
        const kvsim__page *last = find_page(0, kind == KVSIM_KIND_VALUE ? KVSIM_KIND_VALUE : KVSIM_KIND_KEY, 5, 2);
        ck_assert_int_eq(last->fill, 1);
        kvsim_ctx_clear(ctx);
    }
    kvsim_snapshot_close(snapshot);
    free(named);
    free(once);
    free(shaped);
    free(header);
}
END_TEST

START_TEST(a_pool_may_keep_keys_and_values_apart) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"kvsim.paged.v1\",\"layout\":\"BNHD\",\"layers\":\"1\",\"kv_heads\":\"1\","
        "\"head_dim\":\"2\",\"page_tokens\":\"2\"}," TENSOR("block_tables", "I32", "[2,2]", "[0,16]") "," TENSOR(
            "seq_lens", "I32", "[2]", "[16,24]") "," TENSOR("layers.0.key_cache", "F32", "[6,2,1,2]",
                                                            "[24,120]") "," TENSOR("layers.0.value_cache", "F32",
                                                                                   "[6,2,1,2]", "[120,216]") "}";
    write_paged("p.safetensors", header, good_tables, good_lengths);
    kvsim_snapshot *snapshot = open_good(path_of("p.safetensors"));
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, NULL), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 4);
    ck_assert_ptr_eq(find_page(0, KVSIM_KIND_VALUE, 0, 0)->data, data_of(snapshot, "layers.0.value_cache") + 32);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    options.page_tokens = 4;
    expect_add(snapshot, &options, KVSIM_E_UNSUPPORTED, "only a dump can be cut into pages of 4");
    kvsim_snapshot_close(snapshot);
}
END_TEST

static const struct {
    const char *from;
    const char *to;
    const char *error;
} paged_lies[] = {
    {"\"layout\"", "\"l\"", "metadata 'layout' is missing"},
    {"\"BHN2D\"", "\"NHD\"", "metadata 'layout' is 'NHD', not BNHD"},
    {"\"BHN2D\"", "\"BNH2D\"", "tensor 'layers.0.kv_cache': axis 1 of the shape is 1, not 2"},
    {"\"BHN2D\"", "\"2BNHD\"", "tensor 'layers.0.kv_cache': 4 axes, not 5"},
    {"\"BHN2D\"", "\"BHND\"", "tensor 'layers.0.key_cache' is missing"},
    {"\"layers\":\"2\"", "\"layers\":\"1\"", "tensor 'layers.1.kv_cache': beyond the 1 layers"},
    {"\"layers\":\"2\"", "\"layers\":\"3\"", "tensor 'layers.2.kv_cache' is missing"},
    {"\"blocks\":\"3\"", "\"blocks\":\"4\"", "metadata 'blocks' is '4', not 3"},
    {"\"sequences\":\"2\"", "\"sequences\":\"1\"", "metadata 'sequences' is '1', not 2"},
    {"block_tables", "tables", "tensor 'block_tables' is missing"},
    {"seq_lens", "lens", "tensor 'seq_lens' is missing"},
    {"[2,2]", "[4]", "tensor 'block_tables': 1 axes, not 2"},
    {"[2,2]", "[1,4]", "tensor 'seq_lens': axis 0 of the shape is 2, not 1"},
    {"\"I32\",\"shape\":[2,2]", "\"F32\",\"shape\":[2,2]", "tensor 'block_tables': the dtype is not I32"},
    {"\"F32\"", "\"I32\"", "tensor 'layers.0.kv_cache': keys and values are F32"},
};

START_TEST(lying_pools_are_refused) {
    char *header = replace(paged_header, paged_lies[_i].from, paged_lies[_i].to);
    write_paged("p.safetensors", header, good_tables, good_lengths);
    free(header);
    expect_info("p.safetensors", KVSIM_E_FORMAT, paged_lies[_i].error);
}
END_TEST

static const struct {
    int32_t tables[4];
    int32_t lengths[2];
    const char *error;
} table_lies[] = {
    {{2, 3, 2, -1}, {3, 2}, "tensor 'block_tables': entry [0, 1] is 3, not one of the 3 blocks"},
    {{2, -1, 2, -1}, {3, 2}, "tensor 'block_tables': entry [0, 1] is -1"},
    {{2, 0, INT32_MIN, -1}, {3, 2}, "tensor 'block_tables': entry [1, 0] is -2147483648"},
    {{2, 0, 2, 1}, {3, 5}, "tensor 'seq_lens': entry 1 is 5, outside 0..4"},
    {{2, 0, 2, 1}, {-1, 2}, "tensor 'seq_lens': entry 0 is -1, outside 0..4"},
    {{2, 0, 2, 1}, {INT32_MAX, 2}, "tensor 'seq_lens': entry 0 is 2147483647"},
};

START_TEST(lying_tables_are_refused) {
    write_paged("p.safetensors", paged_header, table_lies[_i].tables, table_lies[_i].lengths);
    expect_info("p.safetensors", KVSIM_E_FORMAT, table_lies[_i].error);
}
END_TEST

START_TEST(one_block_with_two_fills_is_refused_by_file_and_layer) {
    const int32_t lengths[] = {3, 1};
    write_paged("p.safetensors", paged_header, good_tables, lengths);
    kvsim_snapshot *snapshot = open_good(path_of("p.safetensors"));
    expect_add(snapshot, NULL, KVSIM_E_INVALID, "p.safetensors: layer 0: ");
    kvsim_snapshot_close(snapshot);
}
END_TEST

/* ---- npy ---- */

static void write_array(const char *shape, size_t data_size) {
    char text[256] = "\x93NUMPY\1";
    const int length = snprintf(text + 10, 200, "{'descr': '<f4', 'fortran_order': False, 'shape': %s}", shape);
    text[8] = (char)length;
    const size_t size = 10 + (size_t)length + data_size;
    unsigned char *bytes = calloc(1, size);
    memcpy(bytes, text, 10 + (size_t)length);
    write_bytes("a.npy", bytes, size);
    free(bytes);
}

START_TEST(an_array_becomes_pages_of_one_sequence) {
    write_array("(3, 2, 1, 4)", 96);
    kvsim_snapshot *snapshot = open_good(path_of("a.npy"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.schema, KVSIM_SCHEMA_NPY);
    ck_assert_int_eq(info.tokens, 6);
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    options.layer = 7;
    options.first_sequence = 3;
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, &options), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 3);
    ck_assert_ptr_eq(find_page(7, KVSIM_KIND_KEY, 3, 4)->data, data_of(snapshot, "pages") + 64);
    kvsim_ctx_clear(ctx);
    options.kind = KVSIM_KIND_BOTH;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "pages of one kind");
    options.kind = KVSIM_KIND_VALUE;
    options.page_tokens = 4;
    expect_add(snapshot, &options, KVSIM_E_UNSUPPORTED, "its pages have 2 tokens");
    options.page_tokens = 2;
    options.layers = &options.layer;
    options.layer_count = 1;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "set layer, not layers");
    options.layers = NULL;
    options.layer_count = 0;
    options.layer = 65536;
    expect_add(snapshot, &options, KVSIM_E_INVALID, "layer is 65536");
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(an_array_of_no_size_has_no_pages) {
    write_array("(0, 2, 1, 4)", 0);
    kvsim_snapshot *snapshot = open_good(path_of("a.npy"));
    expect_add(snapshot, NULL, KVSIM_OK, "");
    kvsim_snapshot_close(snapshot);
    write_array("(3, 0, 1, 4)", 0);
    expect_info("a.npy", KVSIM_E_FORMAT, "pages of 0 tokens, 1 heads, 4 channels");
}
END_TEST

/* ---- Memory, and the real files ---- */

static kvsim_status add_both(kvsim_ctx *with) {
    kvsim_snapshot *dump = NULL;
    kvsim_snapshot *paged = NULL;
    kvsim_status status = kvsim_snapshot_open(with, path_of("d.safetensors"), &dump);
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_open(with, path_of("p.safetensors"), &paged);
    }
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_add_pages(with, dump, NULL);
    }
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_add_pages(with, paged, NULL);
    }
    kvsim_ctx_clear(with);
    kvsim_snapshot_close(dump);
    kvsim_snapshot_close(paged);
    return status;
}

START_TEST(adding_survives_every_failing_allocation) {
    write_safetensors("d.safetensors", dump_header, DUMP_DATA);
    write_paged("p.safetensors", paged_header, good_tables, good_lengths);
    sweep_allocations(add_both);
}
END_TEST

static const struct {
    const char *file;
    int schema;
    int layers;
    int64_t sequences;
    int64_t tokens;
    uint64_t pages;
} real_files[] = {
    {"kv/stories24.safetensors", KVSIM_SCHEMA_DUMP, 5, 13, 4277, 2710},
    {"kv/repetitive_bf16.safetensors", KVSIM_SCHEMA_DUMP, 5, 12, 4194, 2680},
    {"kv/shared_prefix.safetensors", KVSIM_SCHEMA_DUMP, 5, 12, 3735, 2370},
    {"kv/paged_vllm_e3.safetensors", KVSIM_SCHEMA_PAGED, 5, 6, 1461, 800},
    {"llama30m", KVSIM_SCHEMA_NONE, 0, 0, 0, 0},
};

START_TEST(real_files_are_read) {
    char path[PATH_MAX];
    if (!kvsim_check_data(path, sizeof path, real_files[_i].file)) {
        kvsim_check_skip("%s is not here", path);
    }
    kvsim_snapshot *snapshot = open_good(path);
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.schema, real_files[_i].schema);
    ck_assert_int_eq(info.layers, real_files[_i].layers);
    ck_assert_int_eq(info.sequences, real_files[_i].sequences);
    ck_assert_int_eq(info.tokens, real_files[_i].tokens);
    if (info.schema != KVSIM_SCHEMA_NONE) {
        ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, NULL), KVSIM_OK);
    }
    ck_assert_uint_eq(kvsim_page_count(ctx), real_files[_i].pages);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
}
END_TEST

#define COUNT_OF(ROWS) ((int)(sizeof(ROWS) / sizeof(ROWS)[0]))

int main(void) {
    Suite *suite = suite_create("snapshot_pages");
    TCase *schemas = kvsim_check_case(suite, "schemas");
    tcase_add_checked_fixture(schemas, make_folder, remove_folder);
    tcase_add_test(schemas, a_dump_says_what_it_is);
    tcase_add_loop_test(schemas, lying_dumps_are_refused, 0, COUNT_OF(dump_lies));
    tcase_add_test(schemas, rope_facts_may_be_left_out);
    tcase_add_test(schemas, a_dump_becomes_pages_where_it_lies);
    tcase_add_test(schemas, layers_kinds_and_page_sizes_are_chosen);
    tcase_add_test(schemas, two_files_in_one_context_do_not_mix);
    tcase_add_test(schemas, wrong_options_are_refused);
    tcase_add_test(schemas, weights_hold_no_pages);
    tcase_add_test(schemas, a_dump_of_no_sequences_adds_nothing);
    tcase_add_loop_test(schemas, a_pool_becomes_pages_in_every_layout, 0, COUNT_OF(layouts));
    tcase_add_test(schemas, a_pool_may_keep_keys_and_values_apart);
    tcase_add_loop_test(schemas, lying_pools_are_refused, 0, COUNT_OF(paged_lies));
    tcase_add_loop_test(schemas, lying_tables_are_refused, 0, COUNT_OF(table_lies));
    tcase_add_test(schemas, one_block_with_two_fills_is_refused_by_file_and_layer);
    tcase_add_test(schemas, an_array_becomes_pages_of_one_sequence);
    tcase_add_test(schemas, an_array_of_no_size_has_no_pages);
    tcase_add_test(schemas, adding_survives_every_failing_allocation);
    tcase_add_loop_test(schemas, real_files_are_read, 0, COUNT_OF(real_files));
    return kvsim_check_main(suite, "test_snapshot_pages", 80);
}
