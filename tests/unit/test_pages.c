/* kvsim_add_pages: layouts, element types, scales, identities, fills, and what it refuses. */
#include "core_tools.h"
#include "kvsim_check.h"

#include "compute/context.h"

enum { BLOCKS = 3, SLOTS = 4, HEADS = 2, CHANNELS = 6, SEEDS = 12 };

/* ---- elements ---- */

/* Value of a binary float of the given widths, from its definition. */
static double from_fields(uint32_t code, int exponent_bits, int mantissa_bits, bool has_infinity) {
    const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    const int exponent = (int)(code >> mantissa_bits) & top;
    const int mantissa = (int)(code & ((1u << mantissa_bits) - 1));
    const double sign = code >> (exponent_bits + mantissa_bits) != 0 ? -1.0 : 1.0;
    if (exponent == top && has_infinity) {
        return mantissa == 0 ? sign * INFINITY : NAN;
    }
    if (exponent == top && mantissa == (1 << mantissa_bits) - 1) {
        return NAN;
    }
    return exponent == 0 ? sign * ldexp(mantissa, 1 - bias - mantissa_bits)
                         : sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static void check_codes(kvsim__dtype dtype, int exponent_bits, int mantissa_bits, bool has_infinity) {
    const int bits = 1 + exponent_bits + mantissa_bits;
    for (uint32_t code = 0; code < 1u << bits; code++) {
        unsigned char bytes[3] = {0xaa, (unsigned char)code, (unsigned char)(code >> 8)};
        float out;
        kvsim__convert_row(dtype, bytes + 1, bits / 8, 1, &out);
        const double expected = from_fields(code, exponent_bits, mantissa_bits, has_infinity);
        const bool same = isnan(expected) ? isnan(out) : (double)out == expected && !signbit(out) == !signbit(expected);
        ck_assert_msg(same, "code 0x%x gives %.9g, not %.17g", code, (double)out, expected);
    }
}

START_TEST(every_code_of_the_small_floats_has_its_value) {
    check_codes(KVSIM__F16, 5, 10, true);
    check_codes(KVSIM__BF16, 8, 7, true);
    check_codes(KVSIM__F8_E4M3FN, 4, 3, false);
    check_codes(KVSIM__F8_E5M2, 5, 2, true);
    for (int code = -128; code < 128; code++) {
        const unsigned char byte = (unsigned char)code;
        float out;
        kvsim__convert_row(KVSIM__I8, &byte, 1, 1, &out);
        ck_assert_float_eq(out, (float)code);
    }
}
END_TEST

START_TEST(largest_values_are_those_of_the_specification) {
    const unsigned char codes[] = {0x7e, 0x01, 0x08, 0xfe};
    const float e4m3fn[] = {448.0f, 0x1p-9f, 0x1p-6f, -448.0f};
    const unsigned char e5m2_codes[] = {0x7b, 0x01, 0x04, 0xfb};
    const float e5m2[] = {57344.0f, 0x1p-16f, 0x1p-14f, -57344.0f};
    float out[4];
    kvsim__convert_row(KVSIM__F8_E4M3FN, codes, 1, 4, out);
    ck_assert_mem_eq(out, e4m3fn, sizeof out);
    kvsim__convert_row(KVSIM__F8_E5M2, e5m2_codes, 1, 4, out);
    ck_assert_mem_eq(out, e5m2, sizeof out);
}
END_TEST

/* ---- layouts ---- */

/* Axes of a layout, in the order of the tensor: p = pair, b = block, n = slot, h = head, d = channel, 2 = both halves.
 */
static const struct layout {
    int32_t number;
    const char *axes;
    bool packed;
} layouts[] = {
    {KVSIM_LAYOUT_BNHD, "bnhd", false},
    {KVSIM_LAYOUT_BHND, "bhnd", false},
    {KVSIM_LAYOUT_BHN2D, "bhn2", true},
    {KVSIM_LAYOUT_BNH2D, "bnh2", true},
    {KVSIM_LAYOUT_2BNHD, "pbnhd", true},
    {KVSIM_LAYOUT_B2NHD, "bpnhd", true},
    {0, "bnhd", false},
};

enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static float content(int kind, int64_t b, int64_t n, int64_t h, int64_t d) {
    return (float)(((((kind * BLOCKS) + b) * SLOTS + n) * HEADS + h) * CHANNELS + d + 1);
}

typedef struct placed {
    kvsim_tensor tensor;
    int64_t shape[5], strides[5];
    const char *axes;
} placed;

static int64_t length_of(char axis) {
    return axis == 'p'   ? 2
           : axis == 'b' ? BLOCKS
           : axis == 'n' ? SLOTS
           : axis == 'h' ? HEADS
           : axis == 'd' ? CHANNELS
                         : 2 * CHANNELS;
}

static int64_t index_of(char axis, int kind, int64_t b, int64_t n, int64_t h, int64_t d) {
    return axis == 'p'   ? kind
           : axis == 'b' ? b
           : axis == 'n' ? n
           : axis == 'h' ? h
           : axis == 'd' ? d
                         : kind * CHANNELS + d;
}

/* Lay the contents of one kind (both, if packed) out in memory: permuted, negative and gapped strides by the seed. */
static placed *place(const struct layout *layout, int kind, uint64_t seed) {
    placed *out = get_memory(sizeof *out);
    const int ndim = (int)strlen(layout->axes);
    int order[5] = {0, 1, 2, 3, 4};
    int64_t extent = 1, lowest = 0;
    for (int i = 0; i < ndim && seed > 0; i++) {
        const int other = (int)draw_below(&seed, (size_t)ndim), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (int i = ndim - 1; i >= 0; i--) {
        const int axis = order[i];
        const bool negative = seed > 0 && draw_below(&seed, 2) == 1;
        out->shape[axis] = length_of(layout->axes[axis]);
        out->strides[axis] = negative ? -extent : extent;
        lowest += negative ? extent * (out->shape[axis] - 1) : 0;
        extent = extent * out->shape[axis] + (seed > 0 ? (int64_t)draw_below(&seed, 3) : 0);
    }
    const size_t shift = seed > 0 ? draw_below(&seed, 4) : 0;
    unsigned char *memory = get_memory((size_t)extent * sizeof(float) + shift + 8);
    memset(memory, 0xff, (size_t)extent * sizeof(float) + shift + 8);
    out->tensor = make_tensor(memory + shift, KVSIM_DTYPE_FLOAT, 32, out->shape, ndim);
    out->tensor.strides = seed > 0 ? out->strides : NULL;
    out->tensor.byte_offset = (uint64_t)lowest * sizeof(float);
    out->axes = layout->axes;
    for (int k = layout->packed ? 0 : kind; k <= (layout->packed ? 1 : kind); k++) {
        for (int64_t at = 0; at < BLOCKS * SLOTS * HEADS * CHANNELS; at++) {
            const int64_t d = at % CHANNELS, h = at / CHANNELS % HEADS, n = at / CHANNELS / HEADS % SLOTS;
            const int64_t b = at / CHANNELS / HEADS / SLOTS;
            int64_t element = lowest;
            for (int axis = 0; axis < ndim; axis++) {
                element += out->strides[axis] * index_of(layout->axes[axis], k, b, n, h, d);
            }
            const float value = content(k, b, n, h, d);
            memcpy(memory + shift + element * (int64_t)sizeof(float), &value, sizeof value);
        }
    }
    return out;
}

/* Overwrite or keep: a copy must not notice, a borrowed page must. */
static void check_contents(const kvsim_ctx *ctx) {
    ck_assert_uint_eq(kvsim_page_count(ctx), 2 * BLOCKS);
    for (uint32_t i = 0; i < 2 * BLOCKS; i++) {
        const kvsim__page *page = &ctx->store.pages[i];
        const kvsim__format *format = kvsim__page_format(&ctx->store, i);
        const int64_t block = ctx->store.identities[page->identity].block;
        for (int64_t at = 0; at < SLOTS * HEADS * CHANNELS; at++) {
            const int64_t d = at % CHANNELS, h = at / CHANNELS % HEADS, n = at / CHANNELS / HEADS;
            float value;
            memcpy(&value, page->data + n * format->token_stride + h * format->head_stride + d * format->channel_stride,
                   sizeof value);
            ck_assert_float_eq(value, content(page->kind == KVSIM_KIND_VALUE, block, n, h, d));
        }
    }
}

START_TEST(every_layout_and_stride_gives_the_same_pages) {
    const struct layout *layout = &layouts[_i % LAYOUTS];
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        for (uint32_t flags = 0; flags <= KVSIM_PAGES_BORROW; flags++) {
            kvsim_ctx *ctx = make_context(1);
            placed *keys = place(layout, 0, seed), *values = place(layout, 1, seed * 77);
            kvsim_pages pages = KVSIM_PAGES_INIT;
            pages.kind = KVSIM_KIND_BOTH;
            pages.layout = layout->number;
            pages.flags = flags;
            pages.tensor = &keys->tensor;
            pages.value_tensor = layout->packed ? NULL : &values->tensor;
            ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
            check_contents(ctx);
            kvsim_ctx_destroy(ctx);
        }
    }
}
END_TEST

START_TEST(pages_of_all_layouts_are_exact_duplicates) {
    kvsim_ctx *ctx = make_context(1);
    for (uint64_t seed = 0; seed < 3; seed++) {
        for (int i = 0; i < LAYOUTS; i++) {
            placed *keys = place(&layouts[i], 0, seed), *values = place(&layouts[i], 1, seed);
            kvsim_pages pages = KVSIM_PAGES_INIT;
            pages.kind = KVSIM_KIND_BOTH;
            pages.layout = layouts[i].number;
            pages.flags = (uint32_t)(i % 2);
            pages.tensor = &keys->tensor;
            pages.value_tensor = layouts[i].packed ? NULL : &values->tensor;
            ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
        }
    }
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(row_count(result, "groups"), 2);
    for (int64_t row = 0; row < 2; row++) {
        ck_assert_int_eq(get_integer(result, "groups", "pages", row), 3 * LAYOUTS * BLOCKS);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", row), (3 * LAYOUTS - 1) * BLOCKS);
    }
    ck_assert_int_eq(get_integer(result, "blocks", "exact_duplicates", 0), (3 * LAYOUTS - 1) * BLOCKS);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(opaque_pages_are_compared_byte_by_byte_only) {
    unsigned char bytes[4][5] = {"abcd", "abce", "abcd", "abcd"};
    const int64_t shape[2] = {4, 5};
    const int32_t fills[4] = {16, 16, 16, 9};
    kvsim_tensor tensor = make_tensor(bytes, KVSIM_DTYPE_OPAQUE, 8, shape, 2);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.layout = KVSIM_LAYOUT_OPAQUE;
    pages.tensor = &tensor;
    pages.page_tokens = 16;
    pages.page_count = 4;
    pages.fills = fills;
    kvsim_ctx *ctx = make_context(2);
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(row_count(result, "groups"), 1);
    ck_assert_int_eq(get_integer(result, "groups", "opaque", 0), 3);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "pairs", 0), 0);
    ck_assert_int_eq(get_integer(result, "groups", "page_bytes", 0), 5);
    ck_assert_double_nan(get_real(result, "groups", "cosine_mean", 0));
    ck_assert_int_eq(get_integer(result, "summary", "opaque_blocks", 0), 3);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- a plain set of pages to start from ---- */

typedef struct sample {
    float keys[BLOCKS][SLOTS][HEADS][CHANNELS];
    float values[BLOCKS][SLOTS][HEADS][CHANNELS];
    int64_t shape[4];
    kvsim_tensor key_tensor, value_tensor;
    kvsim_pages pages;
} sample;

static sample *make_sample(void) {
    sample *out = get_memory(sizeof *out);
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof out->keys / sizeof(float); i++) {
        ((float *)out->keys)[i] = draw_normal(&seed);
        ((float *)out->values)[i] = draw_normal(&seed);
    }
    const int64_t shape[4] = {BLOCKS, SLOTS, HEADS, CHANNELS};
    memcpy(out->shape, shape, sizeof shape);
    out->key_tensor = make_tensor(out->keys, KVSIM_DTYPE_FLOAT, 32, out->shape, 4);
    out->value_tensor = make_tensor(out->values, KVSIM_DTYPE_FLOAT, 32, out->shape, 4);
    out->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    out->pages.kind = KVSIM_KIND_BOTH;
    out->pages.tensor = &out->key_tensor;
    out->pages.value_tensor = &out->value_tensor;
    return out;
}

START_TEST(copies_do_not_follow_the_tensor_and_borrowed_pages_do) {
    for (uint32_t flags = 0; flags <= KVSIM_PAGES_BORROW; flags++) {
        sample *from = make_sample();
        kvsim_ctx *ctx = make_context(1);
        from->pages.flags = flags;
        ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
        memcpy(from->keys[1], from->keys[0], sizeof from->keys[0]);
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), flags == KVSIM_PAGES_BORROW ? 1 : 0);
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
}
END_TEST

/* ---- block tables and identities ---- */

START_TEST(block_table_names_pages_once_and_counts_references) {
    /* Row 1 shares block 2 with row 0 and has let go of its second block; row 2 is empty; stride 4 of 3 columns. */
    const int32_t table[] = {2, 0, -7, 99, 2, -1, 1, 99, 55, 55, 55, 99};
    const int32_t lengths[] = {2 * SLOTS, 2 * SLOTS + 1, 0};
    const int64_t positions[] = {0, 100, 7}, sequences[] = {70, 71, 72};
    sample *from = make_sample();
    from->pages.block_table = table;
    from->pages.table_rows = 3;
    from->pages.table_columns = 3;
    from->pages.table_stride = 4;
    from->pages.seq_lens = lengths;
    from->pages.sequences = sequences;
    from->pages.positions = positions;
    kvsim_ctx *ctx = make_context(1);
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 6);
    const struct {
        int64_t block, sequence, position, references;
        int32_t fill, state;
    } expected[] = {{2, 70, 0, 2, SLOTS, 0}, {0, 70, SLOTS, 1, SLOTS, 0}, {1, 71, 100 + 2 * SLOTS, 1, 1, 1}};
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = KVSIM_COMPUTE_BEST_MATCH;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    for (int64_t row = 0; row < 6; row++) {
        ck_assert_int_eq(get_integer(result, "pages", "block", row), expected[row / 2].block);
        ck_assert_int_eq(get_integer(result, "pages", "kind", row), row % 2 == 0 ? KVSIM_KIND_KEY : KVSIM_KIND_VALUE);
        ck_assert_int_eq(get_integer(result, "pages", "sequence", row), expected[row / 2].sequence);
        ck_assert_int_eq(get_integer(result, "pages", "position", row), expected[row / 2].position);
        ck_assert_int_eq(get_integer(result, "pages", "references", row), expected[row / 2].references);
        ck_assert_int_eq(get_integer(result, "pages", "fill", row), expected[row / 2].fill);
        ck_assert_int_eq(get_integer(result, "pages", "state", row), expected[row / 2].state);
    }
    ck_assert_int_eq(get_integer(result, "summary", "references", 0), 4);
    ck_assert_int_eq(get_integer(result, "summary", "full", 0), 2);
    ck_assert_int_eq(get_integer(result, "summary", "partial", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "references", 0), 4);
    ck_assert_int_eq(get_integer(result, "groups", "physical_pages", 0), 3);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(source_and_generation_make_the_identity) {
    const uint64_t generations[BLOCKS] = {0, 5, 0};
    sample *from = make_sample();
    kvsim_ctx *ctx = make_context(1);
    from->pages.source = 9;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 6);
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 6);
    from->pages.layer = 1;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 12);
    from->pages.layer = 0;
    from->pages.generations = generations;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 14);
    from->pages.source = 0;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 26);
    kvsim_ctx_clear(ctx);
    ck_assert_uint_eq(kvsim_page_count(ctx), 0);
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 6);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(naming_known_pages_again_takes_no_memory_for_copies) {
    sample *from = make_sample();
    kvsim_ctx *ctx = make_context(1);
    from->pages.source = 4;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    size_t before = 0, after = 0;
    for (size_t i = 0; i < ctx->store.chunk_count; i++) {
        before += ctx->store.chunks[i].bytes;
    }
    for (int again = 0; again < 100; again++) {
        ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    }
    for (size_t i = 0; i < ctx->store.chunk_count; i++) {
        after += ctx->store.chunks[i].bytes;
    }
    ck_assert_uint_eq(after, before);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(keys_and_values_of_two_calls_form_blocks) {
    sample *from = make_sample();
    kvsim_ctx *ctx = make_context(1);
    memcpy(from->keys[2], from->keys[0], sizeof from->keys[0]);
    memcpy(from->values[2], from->values[0], sizeof from->values[0]);
    from->pages.source = 1;
    from->pages.kind = KVSIM_KIND_KEY;
    from->pages.value_tensor = NULL;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    from->pages.kind = KVSIM_KIND_VALUE;
    from->pages.tensor = &from->value_tensor;
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(row_count(result, "blocks"), 1);
    ck_assert_int_eq(get_integer(result, "blocks", "blocks", 0), BLOCKS);
    ck_assert_int_eq(get_integer(result, "blocks", "exact_duplicates", 0), 1);
    ck_assert_int_eq(get_integer(result, "blocks", "block_bytes", 0), 2 * (int64_t)sizeof from->keys[0]);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- fills ---- */

/* One page of 8 slots of one head, slot t at its own memory page; those past the fill cannot be touched. */
START_TEST(slots_past_the_fill_are_never_read) {
    enum { N = 8, D = 16, FILL = 3 };
    const bool borrow = _i % 2 == 1, head_first = _i / 2 == 1;
    unsigned char *memory = mmap(NULL, N * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    float *scales = (float *)(void *)get_guarded(FILL * sizeof(float), true);
    ck_assert(memory != MAP_FAILED);
    for (int t = 0; t < FILL; t++) {
        memset(memory + 4096 * t, 0x38 + t, D);
        scales[t] = 0.5f;
    }
    ck_assert_int_eq(mprotect(memory + 4096 * FILL, 4096 * (N - FILL), PROT_NONE), 0);
    const int64_t shape[4] = {1, head_first ? 1 : N, head_first ? N : 1, D}, scale_shape[3] = {1, N, 1};
    const int64_t strides[4] = {N * 4096, head_first ? N * 4096 : 4096, head_first ? 4096 : N * 4096, 1};
    const int32_t fill = FILL;
    kvsim_tensor tensor = make_tensor(memory, KVSIM_DTYPE_F8_E4M3FN, 8, shape, 4);
    kvsim_tensor scale = make_tensor(scales, KVSIM_DTYPE_FLOAT, 32, scale_shape, 3);
    tensor.strides = strides;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.layout = head_first ? KVSIM_LAYOUT_BHND : KVSIM_LAYOUT_BNHD;
    pages.flags = borrow ? KVSIM_PAGES_BORROW : 0;
    pages.tensor = &tensor;
    pages.scale = &scale;
    pages.scale_mode = KVSIM_SCALE_TOKEN_HEAD;
    pages.page_count = 1;
    pages.fills = &fill;
    kvsim_ctx *ctx = make_context(2);
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED;
    options.flags = KVSIM_COMPUTE_PER_HEAD | KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 2);
    ck_assert_int_eq(get_integer(result, "groups", "pages", 0), 0);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(pages_at_the_edge_of_memory_are_read_to_their_edge_only) {
    for (int at_end = 0; at_end < 2; at_end++) {
        enum { N = 5, D = 7 };
        const int64_t shape[4] = {2, N, 1, D};
        float *memory = (float *)(void *)get_guarded(2 * N * D * sizeof(float), at_end == 1);
        kvsim_tensor tensor = make_tensor(memory, KVSIM_DTYPE_FLOAT, 32, shape, 4);
        kvsim_pages pages = KVSIM_PAGES_INIT;
        pages.kind = KVSIM_KIND_VALUE;
        pages.tensor = &tensor;
        pages.flags = KVSIM_PAGES_BORROW;
        kvsim_ctx *ctx = make_context(1);
        ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
        pages.flags = 0;
        ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 3);
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
}
END_TEST

START_TEST(a_nan_past_the_fill_does_not_make_a_page_non_finite) {
    const int32_t fills[BLOCKS] = {SLOTS, SLOTS - 1, SLOTS - 1};
    sample *from = make_sample();
    from->keys[1][SLOTS - 1][1][0] = NAN;
    from->keys[0][SLOTS - 1][1][CHANNELS - 1] = INFINITY;
    from->pages.page_count = BLOCKS;
    from->pages.fills = fills;
    kvsim_ctx *ctx = make_context(1);
    ck_status(ctx, kvsim_add_pages(ctx, &from->pages), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(get_integer(result, "groups", "non_finite", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 2);
    ck_assert_int_eq(get_integer(result, "groups", "non_finite", 1), 0);
    ck_assert_int_eq(get_integer(result, "groups", "pages", 1), 1);
    ck_assert_int_eq(get_integer(result, "summary", "non_finite_blocks", 0), 1);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- scales ---- */

START_TEST(scales_multiply_the_stored_elements) {
    enum { B = 2, N = 3, H = 2, D = 4 };
    int8_t stored[B][N][H][D];
    float tensor_scale = 0.25f, head_scales[H] = {0.5f, 3.0f}, slot_scales[B][N][H];
    uint64_t seed = 11;
    for (int i = 0; i < B * N * H * D; i++) {
        ((int8_t *)stored)[i] = (int8_t)draw(&seed);
    }
    for (int i = 0; i < B * N * H; i++) {
        ((float *)slot_scales)[i] = 0.125f * (float)(1 + draw_below(&seed, 50));
    }
    const int64_t shape[4] = {B, N, H, D}, head_shape[1] = {H}, slot_shape[3] = {B, N, H};
    const kvsim_tensor tensor = make_tensor(stored, KVSIM_DTYPE_INT, 8, shape, 4);
    const kvsim_tensor scales[] = {make_tensor(&tensor_scale, KVSIM_DTYPE_FLOAT, 32, NULL, 0),
                                   make_tensor(head_scales, KVSIM_DTYPE_FLOAT, 32, head_shape, 1),
                                   make_tensor(slot_scales, KVSIM_DTYPE_FLOAT, 32, slot_shape, 3)};
    for (int mode = KVSIM_SCALE_TENSOR; mode <= KVSIM_SCALE_TOKEN_HEAD; mode++) {
        kvsim_pages pages = KVSIM_PAGES_INIT;
        pages.kind = KVSIM_KIND_KEY;
        pages.tensor = &tensor;
        pages.scale_mode = mode;
        pages.scale = &scales[mode - 1];
        kvsim_ctx *ctx = make_context(1);
        ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
        double squares = 0.0, dot = 0.0, norms[B] = {0};
        for (int i = 0; i < N * H * D; i++) {
            double x[B];
            for (int b = 0; b < B; b++) {
                const float scale = mode == KVSIM_SCALE_TENSOR ? tensor_scale
                                    : mode == KVSIM_SCALE_HEAD ? head_scales[i / D % H]
                                                               : slot_scales[b][i / D / H][i / D % H];
                x[b] = (double)((int8_t *)stored[b])[i] * (double)scale;
                squares += x[b] * x[b];
                norms[b] += x[b] * x[b];
            }
            dot += x[0] * x[1];
        }
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
        ck_assert_double_eq_tol(get_real(result, "groups", "mean_square", 0), squares / (B * N * H * D),
                                1e-12 * squares);
        ck_assert_double_eq_tol(get_real(result, "groups", "cosine_mean", 0), dot / sqrt(norms[0] * norms[1]), 2e-6);
        ck_assert_int_eq(get_integer(result, "groups", "page_bytes", 0),
                         N * H * D + (mode == KVSIM_SCALE_TOKEN_HEAD ? N * H * 4 : 0));
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
}
END_TEST

START_TEST(pages_of_other_scales_are_another_group_and_slot_scales_are_contents) {
    int8_t stored[2][4] = {{1, 2, 3, 4}, {1, 2, 3, 4}};
    float first = 1.0f, second = 2.0f, slot_scales[2] = {1.0f, 1.5f};
    const int64_t shape[4] = {2, 1, 1, 4}, one[1] = {1}, slots[3] = {2, 1, 1};
    const kvsim_tensor tensor = make_tensor(stored, KVSIM_DTYPE_INT, 8, shape, 4);
    const kvsim_tensor a = make_tensor(&first, KVSIM_DTYPE_FLOAT, 32, one, 1);
    const kvsim_tensor b = make_tensor(&second, KVSIM_DTYPE_FLOAT, 32, one, 1);
    const kvsim_tensor c = make_tensor(slot_scales, KVSIM_DTYPE_FLOAT, 32, slots, 3);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.tensor = &tensor;
    pages.scale_mode = KVSIM_SCALE_TENSOR;
    kvsim_ctx *ctx = make_context(1);
    pages.scale = &a;
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    first = 1000.0f; /* scales were copied */
    pages.scale = &b;
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    first = 1.0f;
    pages.scale = &a;
    pages.flags = KVSIM_PAGES_BORROW;
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    pages.scale = &c;
    pages.scale_mode = KVSIM_SCALE_TOKEN_HEAD;
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(row_count(result, "groups"), 3);
    const int64_t expected[3][2] = {{4, 3}, {2, 1}, {2, 0}};
    for (int64_t row = 0; row < 3; row++) {
        ck_assert_int_eq(get_integer(result, "groups", "pages", row), expected[row][0]);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", row), expected[row][1]);
    }
    ck_assert_double_eq_tol(get_real(result, "groups", "cosine_mean", 2), 1.0, 1e-12);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pages");
    TCase *elements = kvsim_check_case(suite, "elements");
    tcase_add_test(elements, every_code_of_the_small_floats_has_its_value);
    tcase_add_test(elements, largest_values_are_those_of_the_specification);
    TCase *memory = kvsim_check_case(suite, "layouts");
    tcase_add_loop_test(memory, every_layout_and_stride_gives_the_same_pages, 0, LAYOUTS);
    tcase_add_test(memory, pages_of_all_layouts_are_exact_duplicates);
    tcase_add_test(memory, opaque_pages_are_compared_byte_by_byte_only);
    tcase_add_test(memory, copies_do_not_follow_the_tensor_and_borrowed_pages_do);
    TCase *identities = kvsim_check_case(suite, "identities");
    tcase_add_test(identities, block_table_names_pages_once_and_counts_references);
    tcase_add_test(identities, source_and_generation_make_the_identity);
    tcase_add_test(identities, naming_known_pages_again_takes_no_memory_for_copies);
    tcase_add_test(identities, keys_and_values_of_two_calls_form_blocks);
    TCase *fills = kvsim_check_case(suite, "fills");
    tcase_add_loop_test(fills, slots_past_the_fill_are_never_read, 0, 4);
    tcase_add_test(fills, pages_at_the_edge_of_memory_are_read_to_their_edge_only);
    tcase_add_test(fills, a_nan_past_the_fill_does_not_make_a_page_non_finite);
    TCase *scales = kvsim_check_case(suite, "scales");
    tcase_add_test(scales, scales_multiply_the_stored_elements);
    tcase_add_test(scales, pages_of_other_scales_are_another_group_and_slot_scales_are_contents);
    return kvsim_check_main(suite, "test_pages", 24);
}
