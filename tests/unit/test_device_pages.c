/*
 * Pages in the memory of a device: layouts, strides, block tables and scales are read as on the host, and what cannot
 * be is refused with a reason. The device is the twin.
 */
#include "device_context.h"
#include "kvsim_check.h"

enum { B = 7, N = 3, H = 2, D = 8, TENSOR_ELEMENTS = 2 * B * (N + 1) * (H + 1) * (2 * D + 3) };

/* ---- layouts ---- */

typedef struct layout_row {
    int32_t layout;
    uint8_t code, bits;
    int32_t scale_mode;
    bool table, gaps, backwards;
} layout_row;

static const layout_row layouts[] = {
    {KVSIM_LAYOUT_BNHD, KVSIM_DTYPE_BFLOAT, 16, KVSIM_SCALE_NONE, false, false, false},
    {KVSIM_LAYOUT_BNHD, KVSIM_DTYPE_FLOAT, 32, KVSIM_SCALE_NONE, true, true, false},
    {KVSIM_LAYOUT_BHND, KVSIM_DTYPE_FLOAT, 16, KVSIM_SCALE_NONE, true, false, true},
    {KVSIM_LAYOUT_BHN2D, KVSIM_DTYPE_BFLOAT, 16, KVSIM_SCALE_NONE, false, true, false},
    {KVSIM_LAYOUT_BNH2D, KVSIM_DTYPE_INT, 8, KVSIM_SCALE_TOKEN_HEAD, true, true, false},
    {KVSIM_LAYOUT_2BNHD, KVSIM_DTYPE_F8_E4M3FN, 8, KVSIM_SCALE_TENSOR, true, false, false},
    {KVSIM_LAYOUT_B2NHD, KVSIM_DTYPE_F8_E5M2, 8, KVSIM_SCALE_HEAD, false, true, true},
    {KVSIM_LAYOUT_B2NHD, KVSIM_DTYPE_INT, 8, KVSIM_SCALE_TOKEN_HEAD, false, true, true},
    {KVSIM_LAYOUT_OPAQUE, KVSIM_DTYPE_OPAQUE, 8, KVSIM_SCALE_NONE, true, true, false},
};

enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

/* A descriptor with its arrays, on the host and on the device. */
typedef struct layout_set {
    unsigned char elements[2][TENSOR_ELEMENTS * 4];
    float scales[2 * B * N * H];
    void *far_elements[2], *far_scales;
    int64_t shape[5], strides[5], scale_shape[3], scale_strides[3];
    kvsim_tensor tensors[2], scale, far_tensors[2], far_scale;
    int32_t table[2 * 4], lengths[2];
    kvsim_pages pages, far_pages;
} layout_set;

static void set_axes(layout_set *set, const layout_row *row) {
    static const int64_t shapes[][5] = {
        [KVSIM_LAYOUT_BNHD] = {B, N, H, D},      [KVSIM_LAYOUT_BHND] = {B, H, N, D},
        [KVSIM_LAYOUT_BHN2D] = {B, H, N, 2 * D}, [KVSIM_LAYOUT_BNH2D] = {B, N, H, 2 * D},
        [KVSIM_LAYOUT_2BNHD] = {2, B, N, H, D},  [KVSIM_LAYOUT_B2NHD] = {B, 2, N, H, D},
        [KVSIM_LAYOUT_OPAQUE] = {B, D}};
    const int ndim = row->layout == KVSIM_LAYOUT_OPAQUE                                       ? 2
                     : row->layout == KVSIM_LAYOUT_2BNHD || row->layout == KVSIM_LAYOUT_B2NHD ? 5
                                                                                              : 4;
    memcpy(set->shape, shapes[row->layout], sizeof set->shape);
    int64_t stride = 1, offset = 0;
    for (int axis = ndim - 1; axis >= 0; axis--) {
        set->strides[axis] = stride;
        stride *= set->shape[axis] + (row->gaps && axis > 0 ? 1 : 0);
    }
    if (row->backwards) { /* the tokens lie in memory from the last to the first */
        const int axis = row->layout == KVSIM_LAYOUT_B2NHD ? 2 : row->layout == KVSIM_LAYOUT_BHND ? 2 : 1;
        offset = set->strides[axis] * (set->shape[axis] - 1);
        set->strides[axis] = -set->strides[axis];
    }
    for (int kind = 0; kind < 2; kind++) {
        set->tensors[kind] = make_tensor(set->elements[kind], row->code, row->bits, set->shape, ndim);
        set->tensors[kind].strides = set->strides;
        set->tensors[kind].byte_offset = (uint64_t)offset * row->bits / 8;
        set->far_elements[kind] = to_device(set->elements[kind], sizeof set->elements[kind]);
        set->far_tensors[kind] = far_tensor(&set->tensors[kind], set->elements[kind], set->far_elements[kind]);
    }
}

static void set_scales(layout_set *set, const layout_row *row) {
    const int64_t shapes[][3] = {{0}, {1}, {H}, {B, N, H}};
    for (size_t i = 0; i < sizeof set->scales / sizeof set->scales[0]; i++) {
        set->scales[i] = 0.5f + (float)(i % 11);
    }
    memcpy(set->scale_shape, shapes[row->scale_mode], sizeof set->scale_shape);
    const bool slots = row->scale_mode == KVSIM_SCALE_TOKEN_HEAD;
    const int64_t strides[3] = {slots ? N * H * 2 : 2, H * 2, 2};
    memcpy(set->scale_strides, strides, sizeof strides);
    set->scale = make_tensor(set->scales, KVSIM_DTYPE_FLOAT, 32, set->scale_shape, slots ? 3 : 1);
    set->scale.strides = set->scale_strides;
    set->far_scales = to_device(set->scales, sizeof set->scales);
    set->far_scale = far_tensor(&set->scale, set->scales, set->far_scales);
}

static layout_set *make_layout(const layout_row *row) {
    layout_set *set = get_memory(sizeof *set);
    uint64_t seed = 40 + (uint64_t)row->layout;
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < sizeof set->elements[0]; i++) {
            set->elements[kind][i] = (unsigned char)draw(&seed);
        }
    }
    const bool packed = row->layout >= KVSIM_LAYOUT_BHN2D && row->layout <= KVSIM_LAYOUT_B2NHD;
    set_axes(set, row);
    set_scales(set, row);
    set->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    set->pages.kind = KVSIM_KIND_BOTH;
    set->pages.layout = row->layout;
    set->pages.scale_mode = row->scale_mode;
    set->pages.tensor = &set->tensors[0];
    set->pages.value_tensor = packed ? NULL : &set->tensors[1];
    set->pages.scale = row->scale_mode != KVSIM_SCALE_NONE ? &set->scale : NULL;
    if (row->table) { /* one block twice, one row that ends inside a page */
        const int32_t table[2 * 4] = {6, 2, 0, -1, 1, 6, 5, 3};
        const int32_t tokens = row->layout == KVSIM_LAYOUT_OPAQUE ? 1 : N;
        memcpy(set->table, table, sizeof table);
        set->lengths[0] = 3 * tokens;
        set->lengths[1] = 4 * tokens - (tokens > 1);
        set->pages.block_table = set->table;
        set->pages.table_rows = 2;
        set->pages.table_columns = 4;
        set->pages.seq_lens = set->lengths;
    }
    set->far_pages = set->pages;
    set->far_pages.tensor = &set->far_tensors[0];
    set->far_pages.value_tensor = packed ? NULL : &set->far_tensors[1];
    set->far_pages.scale = set->pages.scale != NULL ? &set->far_scale : NULL;
    return set;
}

static void release_layout(layout_set *set) {
    kvsim_twin_engine_release(set->far_elements[0]);
    kvsim_twin_engine_release(set->far_elements[1]);
    kvsim_twin_engine_release(set->far_scales);
}

/* Bytes of a page as the store has it, row after row. `data` is where the host can read it. */
static void read_page(const kvsim__store *store, uint32_t number, unsigned char *out) {
    const kvsim__page *page = &store->pages[number];
    const kvsim__format *format = &store->formats[page->format];
    const size_t size = kvsim__dtype_size(format->dtype);
    for (int32_t t = 0; t < page->fill && t < format->tokens; t++) {
        for (int32_t h = 0; h < format->heads; h++) {
            for (int32_t d = 0; d < format->head_dim; d++, out += size) {
                const unsigned char *from =
                    page->data + t * format->token_stride + h * format->head_stride + d * format->channel_stride;
                ck_assert_int_eq(kvsim_twin_copy(out, from, size), 0);
            }
        }
    }
}

/* All pages of the two stores are the same, but for where they lie. */
static void compare_stores(const kvsim__store *host, const kvsim__store *device) {
    unsigned char left[N * H * D * 4], right[N * H * D * 4];
    ck_assert_uint_eq(host->page_count, device->page_count);
    for (uint32_t i = 0; i < host->page_count; i++) {
        const kvsim__page *x = &host->pages[i], *y = &device->pages[i];
        const kvsim__format *a = &host->formats[x->format], *b = &device->formats[y->format];
        ck_assert(!a->on_device && b->on_device);
        ck_assert(kvsim__same_class(a, b));
        ck_assert(x->identity == y->identity && x->fill == y->fill && x->references == y->references &&
                  x->sequence == y->sequence && x->position == y->position && x->kind == y->kind);
        memset(left, 0, sizeof left);
        memset(right, 0, sizeof right);
        read_page(host, i, left);
        read_page(device, i, right);
        ck_assert_mem_eq(left, right, sizeof left);
        ck_assert((x->token_scales == NULL) == (y->token_scales == NULL));
        if (x->token_scales != NULL) {
            ck_assert_mem_eq(x->token_scales, y->token_scales, N * H * sizeof(float));
        }
    }
}

static void check_layout(const layout_row *row, bool borrow, bool scales_on_host) {
    layout_set *set = make_layout(row);
    kvsim_ctx *host = open_context(KVSIM_BACKEND_CPU, NULL), *device = open_context(KVSIM_BACKEND_AUTO, NULL);
    set->far_pages.flags = borrow ? KVSIM_PAGES_BORROW : 0;
    set->far_pages.stream = &set->shape; /* the twin only looks at the address */
    set->far_pages.scale = scales_on_host ? set->pages.scale : set->far_pages.scale;
    ck_status(host, kvsim_add_pages(host, &set->pages), KVSIM_OK);
    ck_status(device, kvsim_add_pages(device, &set->far_pages), KVSIM_OK);
    ck_assert_ptr_eq(kvsim_twin()->last_stream, &set->shape);
    ck_assert_uint_eq(device->store.device_pages, device->store.page_count);
    if (!borrow) { /* what becomes of the tensors does not matter any more */
        memset(set->elements, 0x77, sizeof set->elements);
        for (int kind = 0; kind < 2; kind++) {
            ck_assert_int_eq(kvsim_twin_copy(set->far_elements[kind], set->elements[kind], sizeof set->elements[0]), 0);
        }
    }
    compare_stores(&host->store, &device->store);
    kvsim_ctx_clear(device);
    ck_assert_uint_eq(kvsim_page_count(device), 0);
    ck_assert_uint_eq(kvsim_twin()->blocks, 0);
    ck_status(device, kvsim_add_pages(device, &set->far_pages), KVSIM_OK);
    kvsim_ctx_destroy(host);
    check_and_destroy(device);
    release_layout(set);
}

START_TEST(device_pages_are_read_as_host_pages_are) {
    check_layout(&layouts[_i / 3], _i % 3 > 0, _i % 3 == 2);
}
END_TEST

/* ---- refusals ---- */

typedef enum refused {
    OTHER_DEVICE,
    HOST_MEMORY,
    OF_ANOTHER_DEVICE,
    UNALIGNED,
    SCALE_IN_HOST_MEMORY,
    BAD_SCALE,
    CPU_CONTEXT,
    NO_BACKEND,
    NO_DEVICE,
    REFUSALS
} refused;

static const struct {
    kvsim_status status;
    const char *says;
} refusals[REFUSALS] = {[OTHER_DEVICE] = {KVSIM_E_INVALID, "device_ordinal"},
                        [HOST_MEMORY] = {KVSIM_E_INVALID, "no memory of device 0"},
                        [OF_ANOTHER_DEVICE] = {KVSIM_E_INVALID, "another"},
                        [UNALIGNED] = {KVSIM_E_INVALID, "aligned"},
                        [SCALE_IN_HOST_MEMORY] = {KVSIM_E_INVALID, "scale"},
                        [BAD_SCALE] = {KVSIM_E_INVALID, "not a finite number above 0"},
                        [CPU_CONTEXT] = {KVSIM_E_UNSUPPORTED, "compares on the CPU"},
                        [NO_BACKEND] = {KVSIM_E_BACKEND, "backend cuda is not available"},
                        [NO_DEVICE] = {KVSIM_E_BACKEND, "no device 0"}};

START_TEST(unsound_device_pages_are_refused_and_add_nothing) {
    const layout_row row = {KVSIM_LAYOUT_BNHD, KVSIM_DTYPE_INT, 8, KVSIM_SCALE_TOKEN_HEAD, false, false, false};
    const layout_row wide = {KVSIM_LAYOUT_BNHD, KVSIM_DTYPE_BFLOAT, 16, KVSIM_SCALE_NONE, false, false, false};
    layout_set *set = make_layout(_i == UNALIGNED ? &wide : &row);
    const float bad = -1.0f;
    void *other = kvsim_twin_engine_allocate(1, sizeof set->elements[0]);
    kvsim_twin()->query = _i == NO_BACKEND ? KVSIM__TWIN_NO_TABLE : KVSIM__TWIN_TABLE;
    kvsim_twin()->devices = _i == NO_DEVICE ? 0 : 2;
    kvsim_ctx *ctx = open_context(_i == CPU_CONTEXT ? KVSIM_BACKEND_CPU : KVSIM_BACKEND_AUTO, NULL);
    set->far_tensors[1].device_id = _i == OTHER_DEVICE ? 1 : 0;
    set->far_tensors[1].data = _i == HOST_MEMORY         ? set->elements[1]
                               : _i == OF_ANOTHER_DEVICE ? other
                                                         : set->far_tensors[1].data;
    set->far_tensors[1].byte_offset = _i == UNALIGNED ? 1 : 0;
    set->far_scale.data = _i == SCALE_IN_HOST_MEMORY ? set->scales : set->far_scale.data;
    if (_i == BAD_SCALE) {
        ck_assert_int_eq(kvsim_twin_copy((float *)set->far_scales + 4, &bad, sizeof bad), 0);
    }
    ck_status(ctx, kvsim_add_pages(ctx, &set->far_pages), refusals[_i].status);
    ck_assert_msg(strstr(kvsim_ctx_error(ctx), refusals[_i].says) != NULL, "%s", kvsim_ctx_error(ctx));
    ck_assert_uint_eq(kvsim_page_count(ctx), 0);
    ck_assert_uint_eq(kvsim_twin()->blocks, 0);
    ck_status(ctx, kvsim_add_pages(ctx, &set->pages), KVSIM_OK);
    check_and_destroy(ctx);
    kvsim_twin_engine_release(other);
    release_layout(set);
}
END_TEST

/* ---- opaque pages ---- */

START_TEST(opaque_pages_may_be_on_a_device) {
    const layout_row row = {KVSIM_LAYOUT_OPAQUE, KVSIM_DTYPE_OPAQUE, 8, KVSIM_SCALE_NONE, false, true, false};
    layout_set *set = make_layout(&row);
    /* Blocks 1 and 4 are the same. */
    memcpy(set->elements[0] + 4 * set->strides[0], set->elements[0] + set->strides[0], D);
    ck_assert_int_eq(kvsim_twin_copy(set->far_elements[0], set->elements[0], sizeof set->elements[0]), 0);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = KVSIM_COMPUTE_LEDGER;
    double expected[2] = {0.0, 0.0};
    for (int round = 0; round < 2; round++) {
        kvsim_ctx *ctx = open_context(round == 0 ? KVSIM_BACKEND_CPU : KVSIM_BACKEND_AUTO, NULL);
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_add_pages(ctx, round == 0 ? &set->pages : &set->far_pages), KVSIM_OK);
        ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 1);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 1), 0);
        expected[round] = get_real(result, "lossless", "order0_bytes", 0);
        kvsim_result_destroy(result);
        check_and_destroy(ctx);
    }
    ck_assert_double_eq(expected[0], expected[1]);
    release_layout(set);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("device_pages");
    TCase *pages = kvsim_check_case(suite, "pages");
    tcase_add_loop_test(pages, device_pages_are_read_as_host_pages_are, 0, LAYOUTS * 3);
    tcase_add_loop_test(pages, unsound_device_pages_are_refused_and_add_nothing, 0, REFUSALS);
    tcase_add_test(pages, opaque_pages_may_be_on_a_device);
    return kvsim_check_main(suite, "test_device_pages", LAYOUTS * 3 + REFUSALS + 1);
}
