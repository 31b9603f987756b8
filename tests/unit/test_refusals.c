/* What the public calls of the core refuse, with which status, and that nothing changes by it. */
#include "core_tools.h"
#include "kvsim_check.h"

enum { B = 3, N = 4, H = 2, D = 4 };

/* A sound descriptor and everything it points to, for a case to spoil. */
typedef struct sound {
    float keys[B * N * H * 2 * D], values[B * N * H * D];
    int8_t small[B * N * H * D];
    float scales[B * N * H];
    int64_t shape[8], scale_shape[8], strides[8];
    int32_t table[2 * 2], lengths[2], fills[B];
    int64_t ids[B], positions[B];
    uint64_t generations[B];
    kvsim_tensor tensor, value_tensor, scale;
    kvsim_pages pages;
} sound;

static void set_shape(int64_t *shape, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e) {
    const int64_t axes[5] = {a, b, c, d, e};
    memcpy(shape, axes, sizeof axes);
}

static sound *make_sound(void) {
    sound *s = get_memory(sizeof *s);
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof s->keys / sizeof s->keys[0]; i++) {
        s->keys[i] = draw_normal(&seed);
        s->values[i % (B * N * H * D)] = draw_normal(&seed);
        s->small[i % (B * N * H * D)] = (int8_t)draw(&seed);
        s->scales[i % (B * N * H)] = 1.0f;
    }
    set_shape(s->shape, B, N, H, D, 0);
    set_shape(s->strides, N * H * D, H * D, D, 1, 0);
    set_shape(s->scale_shape, B, N, H, 0, 0);
    for (int i = 0; i < B; i++) {
        s->ids[i] = i;
        s->fills[i] = N;
    }
    s->table[0] = 0;
    s->table[1] = 1;
    s->table[2] = 2;
    s->table[3] = -1;
    s->lengths[0] = 2 * N;
    s->lengths[1] = N;
    s->tensor = make_tensor(s->keys, KVSIM_DTYPE_FLOAT, 32, s->shape, 4);
    s->value_tensor = make_tensor(s->values, KVSIM_DTYPE_FLOAT, 32, s->shape, 4);
    s->scale = make_tensor(s->scales, KVSIM_DTYPE_FLOAT, 32, s->scale_shape, 3);
    s->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    s->pages.kind = KVSIM_KIND_BOTH;
    s->pages.tensor = &s->tensor;
    s->pages.value_tensor = &s->value_tensor;
    return s;
}

static void use_table(sound *s) {
    s->pages.block_table = s->table;
    s->pages.table_rows = 2;
    s->pages.table_columns = 2;
    s->pages.seq_lens = s->lengths;
}

static void use_list(sound *s) {
    s->pages.page_count = B;
    s->pages.block_ids = s->ids;
    s->pages.fills = s->fills;
    s->pages.positions = s->positions;
}

static void use_scale(sound *s, int32_t mode) {
    s->pages.kind = KVSIM_KIND_KEY;
    s->pages.value_tensor = NULL;
    s->tensor = make_tensor(s->small, KVSIM_DTYPE_INT, 8, s->shape, 4);
    s->pages.scale = &s->scale;
    s->pages.scale_mode = mode;
    s->scale.ndim = mode == KVSIM_SCALE_TOKEN_HEAD ? 3 : 1;
    if (mode != KVSIM_SCALE_TOKEN_HEAD) {
        s->scale_shape[0] = mode == KVSIM_SCALE_HEAD ? H : 1;
    }
}

#define CASE(name, body)                                                                                               \
    static void name(sound *s) {                                                                                       \
        body                                                                                                           \
    }

CASE(negative_layer, s->pages.layer = -1;)
CASE(large_layer, s->pages.layer = 65536;)
CASE(no_kind, s->pages.kind = 0;)
CASE(unknown_kind, s->pages.kind = 4;)
CASE(negative_layout, s->pages.layout = -1;)
CASE(unknown_layout, s->pages.layout = 8;)
CASE(unknown_scale_mode, s->pages.scale_mode = 4;)
CASE(unknown_flag, s->pages.flags = 2;)
CASE(no_tensor, s->pages.tensor = NULL;)
CASE(no_value_tensor, s->pages.value_tensor = NULL;)
CASE(value_tensor_for_keys, s->pages.kind = KVSIM_KIND_KEY;)
CASE(packed_keys_only, s->pages.layout = KVSIM_LAYOUT_BNH2D; s->pages.kind = KVSIM_KIND_KEY;
     s->pages.value_tensor = NULL;)
CASE(packed_and_values, s->pages.layout = KVSIM_LAYOUT_BNH2D;)
CASE(packed_odd, s->pages.layout = KVSIM_LAYOUT_BNH2D; s->pages.value_tensor = NULL; s->shape[3] = 5;)
CASE(pair_of_three, s->pages.layout = KVSIM_LAYOUT_2BNHD; s->pages.value_tensor = NULL; s->tensor.ndim = 5;
     set_shape(s->shape, 3, B, 1, 1, D);)
CASE(three_axes, s->tensor.ndim = 3;)
CASE(nine_axes, s->tensor.ndim = 9;)
CASE(negative_axes, s->tensor.ndim = -1;)
CASE(no_shape, s->tensor.shape = NULL;)
CASE(negative_length, s->shape[1] = -4;)
CASE(no_slots, s->shape[1] = 0;)
CASE(no_heads, s->shape[2] = 0;)
CASE(no_channels, s->shape[3] = 0;)
CASE(huge_page, s->shape[1] = 1 << 20; s->shape[2] = 1 << 20;)
CASE(product_overflows, s->shape[1] = INT64_MAX; s->shape[2] = INT64_MAX;)
CASE(extent_overflows, s->shape[0] = INT64_MAX / 4; s->strides[0] = 1 << 20; s->tensor.strides = s->strides;)
CASE(stride_overflows, s->strides[0] = INT64_MIN; s->tensor.strides = s->strides;)
CASE(row_major_overflows, s->shape[0] = INT64_MAX; s->shape[3] = 16;)
CASE(offset_overflows, s->tensor.byte_offset = UINT64_MAX - 4;)
CASE(no_data, s->tensor.data = NULL;)
CASE(no_value_data, s->value_tensor.data = NULL;)
CASE(other_block_counts, s->value_tensor.shape = s->scale_shape; set_shape(s->scale_shape, B - 1, N, H, D, 0);)
CASE(other_slots, s->value_tensor.shape = s->scale_shape; set_shape(s->scale_shape, B, N / 2, H, D, 0);)
CASE(f64, s->tensor.dtype_bits = 64;)
CASE(unsigned_bytes, s->tensor.dtype_code = KVSIM_DTYPE_UINT; s->tensor.dtype_bits = 8;)
CASE(two_lanes, s->tensor.dtype_lanes = 2;)
CASE(opaque_in_layout, s->tensor.dtype_code = KVSIM_DTYPE_OPAQUE; s->tensor.dtype_bits = 8;)
CASE(floats_in_opaque, s->pages.layout = KVSIM_LAYOUT_OPAQUE; s->tensor.ndim = 2;)
CASE(cuda_memory, s->tensor.device_type = KVSIM_DEVICE_CUDA;)
CASE(unknown_device, s->value_tensor.device_type = 99;)
CASE(small_tensor_struct, s->tensor.struct_size = 12;)
CASE(reserved_of_tensor, s->tensor.reserved = 1;)
CASE(reserved_of_pages, s->pages.reserved = 1;)
CASE(tokens_of_clear_pages, s->pages.page_tokens = 16;)
CASE(scale_without_mode, s->pages.scale = &s->scale;)
CASE(value_scale_without_mode, s->pages.value_scale = &s->scale;)
CASE(scaled_floats, s->pages.scale_mode = KVSIM_SCALE_TENSOR; s->pages.scale = &s->scale;)
CASE(bytes_without_scale, use_scale(s, KVSIM_SCALE_NONE); s->pages.scale = NULL;)
CASE(mode_without_scale, use_scale(s, KVSIM_SCALE_TENSOR); s->pages.scale = NULL;)
CASE(value_scale_for_keys, use_scale(s, KVSIM_SCALE_TENSOR); s->pages.value_scale = &s->scale;)
CASE(scale_of_halves, use_scale(s, KVSIM_SCALE_TENSOR); s->scale.dtype_bits = 16;)
CASE(scale_without_data, use_scale(s, KVSIM_SCALE_HEAD); s->scale.data = NULL;)
CASE(scale_of_two, use_scale(s, KVSIM_SCALE_TENSOR); s->scale_shape[0] = 2;)
CASE(scale_of_three_heads, use_scale(s, KVSIM_SCALE_HEAD); s->scale_shape[0] = 3;)
CASE(scale_of_two_axes, use_scale(s, KVSIM_SCALE_TOKEN_HEAD); s->scale.ndim = 2;)
CASE(scale_of_other_blocks, use_scale(s, KVSIM_SCALE_TOKEN_HEAD); s->scale_shape[0] = B + 1;)
CASE(zero_scale, use_scale(s, KVSIM_SCALE_TENSOR); s->scales[0] = 0.0f;)
CASE(negative_scale, use_scale(s, KVSIM_SCALE_HEAD); s->scales[1] = -1.0f;)
CASE(nan_scale, use_scale(s, KVSIM_SCALE_TENSOR); s->scales[0] = NAN;)
CASE(infinite_slot_scale, use_scale(s, KVSIM_SCALE_TOKEN_HEAD); s->scales[B * N * H - 1] = INFINITY;)
CASE(list_and_table, use_list(s); use_table(s);)
CASE(ids_without_count, s->pages.block_ids = s->ids;)
CASE(fills_without_count, s->pages.fills = s->fills;)
CASE(negative_count, s->pages.page_count = -1;)
CASE(count_beyond_blocks, s->pages.page_count = B + 1;)
CASE(id_beyond_blocks, use_list(s); s->ids[2] = B;)
CASE(negative_id, use_list(s); s->ids[0] = -1;)
CASE(no_fill, use_list(s); s->fills[1] = 0;)
CASE(fill_beyond_slots, use_list(s); s->fills[2] = N + 1;)
CASE(two_fills, use_list(s); s->ids[2] = 0; s->fills[2] = N - 1;)
CASE(negative_position, use_list(s); s->positions[2] = -1;)
CASE(position_overflows, use_list(s); s->positions[2] = INT64_MAX - 1;)
CASE(table_without_lengths, use_table(s); s->pages.seq_lens = NULL;)
CASE(negative_rows, use_table(s); s->pages.table_rows = -1;)
CASE(negative_columns, use_table(s); s->pages.table_columns = -1;)
CASE(short_stride, use_table(s); s->pages.table_stride = 1;)
CASE(negative_sequence_length, use_table(s); s->lengths[1] = -1;)
CASE(long_sequence, use_table(s); s->lengths[1] = 2 * N + 1;)
CASE(block_beyond_blocks, use_table(s); s->table[2] = B;)
CASE(block_minus_two, use_table(s); s->table[2] = -2;)
CASE(two_fills_in_table, use_table(s); s->table[2] = 0; s->lengths[1] = N - 1;)
CASE(table_position_overflows, use_table(s); s->pages.positions = s->positions; s->positions[0] = INT64_MAX - N;)
CASE(negative_table_position, use_table(s); s->pages.positions = s->positions; s->positions[1] = -1;)
CASE(too_many_blocks_for_memory, s->shape[0] = INT64_MAX / 2; set_shape(s->strides, 0, H *D, D, 1, 0);
     s->tensor.strides = s->strides; s->value_tensor.strides = s->strides;)

/* The sound descriptor, and what the page looked like when it was added before. */
CASE(known_page_with_another_fill, use_list(s); s->pages.source = 77; s->fills[0] = N - 1;)
CASE(known_page_of_another_shape, s->pages.source = 77; s->shape[3] = D / 2;)
CASE(known_page_of_another_type, s->pages.source = 77; s->tensor.dtype_code = KVSIM_DTYPE_BFLOAT;
     s->tensor.dtype_bits = 16;)

#define INVALID(name)                                                                                                  \
    { #name, name, KVSIM_E_INVALID }
#define UNSUPPORTED(name)                                                                                              \
    { #name, name, KVSIM_E_UNSUPPORTED }

static const struct {
    const char *name;
    void (*spoil)(sound *s);
    kvsim_status expected;
} cases[] = {
    INVALID(negative_layer),
    INVALID(large_layer),
    INVALID(no_kind),
    INVALID(unknown_kind),
    INVALID(negative_layout),
    INVALID(unknown_layout),
    INVALID(unknown_scale_mode),
    INVALID(unknown_flag),
    INVALID(no_tensor),
    INVALID(no_value_tensor),
    INVALID(value_tensor_for_keys),
    INVALID(packed_keys_only),
    INVALID(packed_and_values),
    INVALID(packed_odd),
    INVALID(pair_of_three),
    INVALID(three_axes),
    INVALID(nine_axes),
    INVALID(negative_axes),
    INVALID(no_shape),
    INVALID(negative_length),
    INVALID(no_slots),
    INVALID(no_heads),
    INVALID(no_channels),
    INVALID(huge_page),
    INVALID(product_overflows),
    INVALID(extent_overflows),
    INVALID(stride_overflows),
    INVALID(row_major_overflows),
    INVALID(offset_overflows),
    INVALID(no_data),
    INVALID(no_value_data),
    INVALID(other_block_counts),
    INVALID(other_slots),
    UNSUPPORTED(f64),
    UNSUPPORTED(unsigned_bytes),
    UNSUPPORTED(two_lanes),
    UNSUPPORTED(opaque_in_layout),
    UNSUPPORTED(floats_in_opaque),
    UNSUPPORTED(cuda_memory),
    UNSUPPORTED(unknown_device),
    INVALID(small_tensor_struct),
    INVALID(reserved_of_tensor),
    INVALID(reserved_of_pages),
    INVALID(tokens_of_clear_pages),
    INVALID(scale_without_mode),
    INVALID(value_scale_without_mode),
    INVALID(scaled_floats),
    INVALID(bytes_without_scale),
    INVALID(mode_without_scale),
    INVALID(value_scale_for_keys),
    INVALID(scale_of_halves),
    INVALID(scale_without_data),
    INVALID(scale_of_two),
    INVALID(scale_of_three_heads),
    INVALID(scale_of_two_axes),
    INVALID(scale_of_other_blocks),
    INVALID(zero_scale),
    INVALID(negative_scale),
    INVALID(nan_scale),
    INVALID(infinite_slot_scale),
    INVALID(list_and_table),
    INVALID(ids_without_count),
    INVALID(fills_without_count),
    INVALID(negative_count),
    INVALID(count_beyond_blocks),
    INVALID(id_beyond_blocks),
    INVALID(negative_id),
    INVALID(no_fill),
    INVALID(fill_beyond_slots),
    INVALID(two_fills),
    INVALID(negative_position),
    INVALID(position_overflows),
    INVALID(table_without_lengths),
    INVALID(negative_rows),
    INVALID(negative_columns),
    INVALID(short_stride),
    INVALID(negative_sequence_length),
    INVALID(long_sequence),
    INVALID(block_beyond_blocks),
    INVALID(block_minus_two),
    INVALID(two_fills_in_table),
    INVALID(table_position_overflows),
    INVALID(negative_table_position),
    {"too_many_blocks_for_memory", too_many_blocks_for_memory, KVSIM_E_NOMEM},
    INVALID(known_page_with_another_fill),
    INVALID(known_page_of_another_shape),
    INVALID(known_page_of_another_type),
};

enum { CASES = sizeof cases / sizeof cases[0] };

START_TEST(unsound_pages_are_refused_and_add_nothing) {
    kvsim_ctx *ctx = make_context(1);
    sound *before = make_sound();
    before->pages.source = 77;
    ck_status(ctx, kvsim_add_pages(ctx, &before->pages), KVSIM_OK);
    sound *s = make_sound();
    cases[_i].spoil(s);
    const kvsim_status status = kvsim_add_pages(ctx, &s->pages);
    ck_assert_msg(status == cases[_i].expected, "%s gives %d: %s", cases[_i].name, status, kvsim_ctx_error(ctx));
    ck_assert_str_ne(kvsim_ctx_error(ctx), "");
    ck_assert_uint_eq(kvsim_page_count(ctx), 2 * B);
    sound *after = make_sound();
    ck_status(ctx, kvsim_add_pages(ctx, &after->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 4 * B);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(row_count(result, "groups"), 2);
    ck_assert_int_eq(get_integer(result, "groups", "references", 0), 2 * B);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), B);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(values_of_a_known_block_must_have_its_fill_too) {
    /* Key and value pages of block 0 come by calls of their own; a third call fits the keys only. */
    sound *s = make_sound();
    kvsim_ctx *ctx = make_context(1);
    use_list(s);
    s->pages.source = 3;
    s->pages.kind = KVSIM_KIND_KEY;
    s->pages.value_tensor = NULL;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    s->pages.kind = KVSIM_KIND_VALUE;
    s->fills[0] = N - 1;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    s->pages.kind = KVSIM_KIND_BOTH;
    s->pages.value_tensor = &s->value_tensor;
    s->fills[0] = N;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_E_INVALID);
    ck_assert_uint_eq(kvsim_page_count(ctx), 2 * B);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_call_may_name_no_page) {
    sound *s = make_sound();
    kvsim_ctx *ctx = make_context(1);
    s->shape[0] = 0;
    s->tensor.data = NULL;
    s->value_tensor.data = NULL;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    s = make_sound();
    use_table(s);
    s->pages.table_rows = 0;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 0);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_table_wider_than_memory_is_no_overflow) {
    sound *s = make_sound();
    kvsim_ctx *ctx = make_context(1);
    use_table(s);
    s->pages.table_rows = 1;
    s->pages.table_columns = INT64_MAX;
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), 4);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- sized structs ---- */

/* Hand a struct to a call as a caller with another header would: its size changed, a tail behind it. */
typedef kvsim_status (*call)(kvsim_ctx *ctx, const void *from);

static kvsim_status call_create(kvsim_ctx *ctx, const void *from) {
    (void)ctx;
    kvsim_ctx *made = NULL;
    const kvsim_status status = kvsim_ctx_create(from, &made);
    ck_assert_int_eq(made != NULL, status == KVSIM_OK);
    kvsim_ctx_destroy(made);
    return status;
}

static kvsim_status call_add(kvsim_ctx *ctx, const void *from) {
    return kvsim_add_pages(ctx, from);
}

static kvsim_status call_add_tensor(kvsim_ctx *ctx, const void *from) {
    sound *s = make_sound();
    s->pages.value_tensor = from;
    return kvsim_add_pages(ctx, &s->pages);
}

static kvsim_status call_rope(kvsim_ctx *ctx, const void *from) {
    return kvsim_set_rope(ctx, from);
}

static kvsim_status call_compute(kvsim_ctx *ctx, const void *from) {
    kvsim_result *result = (kvsim_result *)(void *)&result;
    const kvsim_status status = kvsim_compute(ctx, from, &result);
    ck_assert_int_eq(result != NULL, status == KVSIM_OK);
    kvsim_result_destroy(result);
    return status;
}

static int swallow(void *user, const void *data, size_t size) {
    (void)user;
    (void)data;
    (void)size;
    return 0;
}

static kvsim_status call_report(kvsim_ctx *ctx, const void *from) {
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    const kvsim_status status = kvsim_report(ctx, result, from);
    kvsim_result_destroy(result);
    return status;
}

START_TEST(structs_of_other_sizes_follow_one_rule) {
    sound *s = make_sound();
    const kvsim_options options = KVSIM_OPTIONS_INIT;
    const kvsim_rope rope = KVSIM_ROPE_INIT;
    const kvsim_compute_options compute = KVSIM_COMPUTE_OPTIONS_INIT;
    kvsim_report_options report = KVSIM_REPORT_OPTIONS_INIT;
    report.write = swallow;
    const struct {
        const void *sound;
        size_t size;
        call make;
    } structs[] = {{&options, sizeof options, call_create},         {&s->pages, sizeof s->pages, call_add},
                   {&s->tensor, sizeof s->tensor, call_add_tensor}, {&rope, sizeof rope, call_rope},
                   {&compute, sizeof compute, call_compute},        {&report, sizeof report, call_report}};
    kvsim_ctx *ctx = make_context(1);
    for (size_t i = 0; i < sizeof structs / sizeof structs[0]; i++) {
        const size_t size = structs[i].size;
        for (size_t given = 0; given < size + 40; given++) {
            /* The struct ends at memory that must not be touched, as near as its alignment allows. */
            unsigned char *memory = get_guarded(given > 8 ? (given + 7) / 8 * 8 : 8, true);
            memcpy(memory, structs[i].sound, given < size ? given : size);
            const uint32_t number = (uint32_t)given;
            memcpy(memory, &number, sizeof number);
            const kvsim_status expected = given < size ? KVSIM_E_INVALID : KVSIM_OK;
            const kvsim_status status = structs[i].make(ctx, memory);
            ck_assert_msg(status == expected, "struct %zu of %zu bytes instead of %zu: %d", i, given, size, status);
            if (given > size) {
                memory[size + draw_below(&(uint64_t){given}, given - size)] = 1;
                ck_assert_int_eq(structs[i].make(ctx, memory), KVSIM_E_UNSUPPORTED);
            }
            ck_assert_int_eq(munmap(memory - (uintptr_t)memory % 4096, 4096), 0);
        }
    }
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_column_is_copied_as_far_as_the_callers_struct_goes) {
    struct {
        kvsim_column column;
        uint64_t more;
    } newer = {KVSIM_COLUMN_INIT, 42};
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    newer.column.struct_size = sizeof newer;
    ck_assert_int_eq(kvsim_result_column(result, "summary", "pages", &newer.column), KVSIM_OK);
    ck_assert_uint_eq(newer.column.struct_size, sizeof newer);
    ck_assert_uint_eq(newer.more, 42);
    ck_assert_str_eq(newer.column.name, "pages");
    ck_assert_str_eq(newer.column.table, "summary");
    ck_assert_str_eq(newer.column.unit, "pages");
    kvsim_column column = KVSIM_COLUMN_INIT;
    ck_assert_int_eq(kvsim_result_column(result, "summary", "nothing", &column), KVSIM_E_NOT_FOUND);
    ck_assert_int_eq(kvsim_result_column(result, "nothing", "pages", &column), KVSIM_E_NOT_FOUND);
    ck_assert_int_eq(kvsim_result_column(NULL, "summary", "pages", &column), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_result_column(result, NULL, "pages", &column), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_result_column(result, "summary", NULL, &column), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_result_column(result, "summary", "pages", NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_result_column_at(result, kvsim_result_column_count(result), &column), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_result_column_at(result, UINT32_MAX, &column), KVSIM_E_INVALID);
    column.struct_size--;
    ck_assert_int_eq(kvsim_result_column_at(result, 0, &column), KVSIM_E_INVALID);
    ck_assert_uint_eq(kvsim_result_column_count(NULL), 0);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- other calls ---- */

START_TEST(unsound_compute_options_are_refused) {
    const double falling[] = {0.9, 0.9}, outside[] = {1.5}, nan[] = {NAN};
    double many[KVSIM_MAX_LEVELS + 1];
    for (int i = 0; i <= KVSIM_MAX_LEVELS; i++) {
        many[i] = i / 100.0;
    }
    const struct {
        kvsim_compute_options options;
        kvsim_status expected;
    } tried[] = {
        {{.metrics = 16}, KVSIM_E_INVALID},
        {{.views = 16}, KVSIM_E_INVALID},
        {{.flags = 512}, KVSIM_E_INVALID},
        {{.pairs = 3}, KVSIM_E_INVALID},
        {{.pairs = -1}, KVSIM_E_INVALID},
        {{.top_k = 65537}, KVSIM_E_INVALID},
        {{.hamming_bits = 1}, KVSIM_E_INVALID},
        {{.hamming_bits = 16}, KVSIM_E_INVALID},
        {{.threshold_count = 1}, KVSIM_E_INVALID},
        {{.budget_count = 1}, KVSIM_E_INVALID},
        {{.thresholds = many}, KVSIM_E_INVALID},
        {{.thresholds = many, .threshold_count = KVSIM_MAX_LEVELS + 1}, KVSIM_E_INVALID},
        {{.thresholds = falling, .threshold_count = 2}, KVSIM_E_INVALID},
        {{.thresholds = outside, .threshold_count = 1}, KVSIM_E_INVALID},
        {{.thresholds = nan, .threshold_count = 1}, KVSIM_E_INVALID},
        {{.budgets = falling, .budget_count = 2}, KVSIM_E_INVALID},
        {{.budgets = outside, .budget_count = 1}, KVSIM_E_INVALID},
        {{.budgets = nan, .budget_count = 1}, KVSIM_E_INVALID},
        {{.jaccard_absolute = 2}, KVSIM_E_INVALID},
        {{.jaccard_tau = -1.0}, KVSIM_E_INVALID},
        {{.jaccard_tau = NAN}, KVSIM_E_INVALID},
        {{.jaccard_tau = INFINITY}, KVSIM_E_INVALID},
        {{.views = KVSIM_VIEW_DEROTATED}, KVSIM_E_UNSUPPORTED},
        {{.views = KVSIM_VIEW_DEROTATED_CENTERED}, KVSIM_E_UNSUPPORTED},
        {{.thresholds = many, .threshold_count = KVSIM_MAX_LEVELS}, KVSIM_OK},
        {{.budgets = many, .budget_count = KVSIM_MAX_LEVELS}, KVSIM_OK},
        {{.top_k = 65536}, KVSIM_OK},
        {{.top_k = KVSIM_TOP_NONE}, KVSIM_OK},
    };
    sound *s = make_sound();
    kvsim_ctx *ctx = make_context(1);
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        kvsim_compute_options options = tried[i].options;
        options.struct_size = sizeof options;
        kvsim_result *result = (kvsim_result *)(void *)&result;
        const kvsim_status status = kvsim_compute(ctx, &options, &result);
        ck_assert_msg(status == tried[i].expected, "options %zu: %d (%s)", i, status, kvsim_ctx_error(ctx));
        ck_assert_int_eq(result != NULL, status == KVSIM_OK);
        kvsim_result_destroy(result);
    }
    ck_assert_int_eq(kvsim_compute(ctx, NULL, NULL), KVSIM_E_INVALID);
    kvsim_result *none = NULL;
    ck_assert_int_eq(kvsim_compute(NULL, NULL, &none), KVSIM_E_INVALID);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(unsound_rope_is_refused_and_leaves_the_old_one) {
    sound *s = make_sound();
    kvsim_ctx *ctx = make_context(1);
    ck_status(ctx, kvsim_add_pages(ctx, &s->pages), KVSIM_OK);
    const kvsim_rope good = {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = 0};
    ck_status(ctx, kvsim_set_rope(ctx, &good), KVSIM_OK);
    const kvsim_rope bad[] = {
        {.struct_size = sizeof good, .style = 3, .theta = 0.0, .rotary_dims = 0},
        {.struct_size = sizeof good, .style = -1, .theta = 0.0, .rotary_dims = 0},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = -1.0, .rotary_dims = 0},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = NAN, .rotary_dims = 0},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = INFINITY, .rotary_dims = 0},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = 3},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = -2},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .scaling = 5},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .factor = 0.5},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .scaling = KVSIM_ROPE_SCALING_YARN},
        {.struct_size = sizeof good, .style = KVSIM_ROPE_HALF, .low_freq_factor = 8.0}};
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = KVSIM_VIEW_DEROTATED;
    kvsim_result *result = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_msg(kvsim_set_rope(ctx, &bad[i]) == KVSIM_E_INVALID, "rope %zu", i);
        ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
        kvsim_result_destroy(result);
    }
    const kvsim_rope wide = {.struct_size = sizeof wide, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = D + 2};
    ck_status(ctx, kvsim_set_rope(ctx, &wide), KVSIM_OK);
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_E_INVALID);
    ck_assert_ptr_null(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

static void *no_memory(void *user, size_t size, size_t alignment) {
    (void)user;
    (void)size;
    (void)alignment;
    return NULL;
}

static void no_release(void *user, void *memory, size_t size) {
    (void)user;
    (void)memory;
    (void)size;
}

START_TEST(unsound_context_options_are_refused_with_a_reason) {
    const kvsim_allocator half = {NULL, no_release, NULL}, empty = {no_memory, no_release, NULL};
    const struct {
        kvsim_options options;
        kvsim_status expected;
    } tried[] = {
        {{.backend = 3}, KVSIM_E_INVALID},       {{.backend = -1}, KVSIM_E_INVALID},
        {{.log_level = 5}, KVSIM_E_INVALID},     {{.log_level = -1}, KVSIM_E_INVALID},
        {{.allocator = &half}, KVSIM_E_INVALID}, {{.allocator = &empty}, KVSIM_E_NOMEM},
    };
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        char reason[16] = "";
        kvsim_options options = tried[i].options;
        options.struct_size = sizeof options;
        options.error_buffer = reason;
        options.error_buffer_size = sizeof reason;
        kvsim_ctx *ctx = (kvsim_ctx *)(void *)&ctx;
        ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), tried[i].expected);
        ck_assert_ptr_null(ctx);
        ck_assert_uint_eq(strlen(reason), sizeof reason - 1); /* cut to fit */
        options.error_buffer_size = 0;
        ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), tried[i].expected);
    }
    ck_assert_int_eq(kvsim_ctx_create(NULL, NULL), KVSIM_E_INVALID);
    kvsim_ctx_destroy(NULL);
    kvsim_ctx_clear(NULL);
    kvsim_result_destroy(NULL);
    ck_assert_uint_eq(kvsim_page_count(NULL), 0);
    ck_assert_ptr_nonnull(kvsim_ctx_error(NULL));
    ck_assert_int_eq(kvsim_add_pages(NULL, NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_set_rope(NULL, NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_report(NULL, NULL, NULL), KVSIM_E_INVALID);
    kvsim_ctx *ctx = make_context(0);
    ck_assert_int_eq(kvsim_add_pages(ctx, NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_report(ctx, NULL, NULL), KVSIM_E_INVALID);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(init_functions_do_what_the_macros_do) {
#define CHECK_INIT(type, macro)                                                                                        \
    do {                                                                                                               \
        type by_function, by_macro = macro;                                                                            \
        memset(&by_function, 0xff, sizeof by_function);                                                                \
        type##_init(&by_function);                                                                                     \
        ck_assert_mem_eq(&by_function, &by_macro, sizeof by_macro);                                                    \
    } while (0)
    CHECK_INIT(kvsim_options, KVSIM_OPTIONS_INIT);
    CHECK_INIT(kvsim_tensor, KVSIM_TENSOR_INIT);
    CHECK_INIT(kvsim_pages, KVSIM_PAGES_INIT);
    CHECK_INIT(kvsim_rope, KVSIM_ROPE_INIT);
    CHECK_INIT(kvsim_compute_options, KVSIM_COMPUTE_OPTIONS_INIT);
    CHECK_INIT(kvsim_report_options, KVSIM_REPORT_OPTIONS_INIT);
}
END_TEST

START_TEST(every_status_has_a_name_of_its_own) {
    const kvsim_status statuses[] = {KVSIM_OK,          KVSIM_E_INVALID, KVSIM_E_NOMEM,  KVSIM_E_UNSUPPORTED,
                                     KVSIM_E_CANCELLED, KVSIM_E_IO,      KVSIM_E_FORMAT, KVSIM_E_NOT_FOUND,
                                     KVSIM_E_BACKEND,   KVSIM_E_INTERNAL};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        ck_assert_str_ne(kvsim_status_string(statuses[i]), kvsim_status_string(-9999));
        for (size_t j = 0; j < i; j++) {
            ck_assert_str_ne(kvsim_status_string(statuses[i]), kvsim_status_string(statuses[j]));
        }
    }
    ck_assert_str_eq(kvsim_version_string(), KVSIM_VERSION_STRING);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("refusals");
    TCase *pages = kvsim_check_case(suite, "pages");
    tcase_add_loop_test(pages, unsound_pages_are_refused_and_add_nothing, 0, CASES);
    tcase_add_test(pages, values_of_a_known_block_must_have_its_fill_too);
    tcase_add_test(pages, a_call_may_name_no_page);
    tcase_add_test(pages, a_table_wider_than_memory_is_no_overflow);
    TCase *structs = kvsim_check_case(suite, "structs");
    tcase_add_test(structs, structs_of_other_sizes_follow_one_rule);
    tcase_add_test(structs, a_column_is_copied_as_far_as_the_callers_struct_goes);
    tcase_add_test(structs, init_functions_do_what_the_macros_do);
    TCase *calls = kvsim_check_case(suite, "calls");
    tcase_add_test(calls, unsound_compute_options_are_refused);
    tcase_add_test(calls, unsound_rope_is_refused_and_leaves_the_old_one);
    tcase_add_test(calls, unsound_context_options_are_refused_with_a_reason);
    tcase_add_test(calls, every_status_has_a_name_of_its_own);
    return kvsim_check_main(suite, "test_refusals", CASES + 10);
}
