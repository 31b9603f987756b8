/*
 * Pages in the memory of a device, and the choice of where to compute: layouts, strides, block tables and scales are
 * read as on the host; what cannot be is refused with a reason; a device that cannot be had, fails or is short of
 * memory stops a compute or leaves it to the CPU, as the context was told. The device is the twin.
 */
#include "backend/twin.h"
#include "compute/on_device.h"
#include "core_tools.h"
#include "kvsim_check.h"

#include <stdio.h>

enum { B = 7, N = 3, H = 2, D = 8, TENSOR_ELEMENTS = 2 * B * (N + 1) * (H + 1) * (2 * D + 3), LINES = 32 };

/* ---- contexts ---- */

/* What a context has logged. */
typedef struct lines {
    char text[LINES][300];
    int32_t levels[LINES];
    int count;
} lines;

static void keep_line(void *user, int32_t level, const char *message) {
    lines *log = user;
    ck_assert_int_lt(log->count, LINES);
    (void)snprintf(log->text[log->count], sizeof log->text[0], "%s", message);
    log->levels[log->count++] = level;
}

static char reason[512];

static kvsim_options options_of(int32_t backend, lines *log) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = backend;
    options.threads = 2;
    options.error_buffer = reason;
    options.error_buffer_size = sizeof reason;
    options.log = log != NULL ? keep_line : NULL;
    options.log_user = log;
    options.log_level = KVSIM_LOG_INFO;
    return options;
}

static kvsim_ctx *open_context(int32_t backend, lines *log) {
    const kvsim_options options = options_of(backend, log);
    kvsim_ctx *ctx = NULL;
    ck_assert_msg(kvsim_ctx_create(&options, &ctx) == KVSIM_OK, "%s", reason);
    return ctx;
}

static void check_and_destroy(kvsim_ctx *ctx) {
    kvsim_ctx_destroy(ctx);
    ck_assert_msg(kvsim_twin()->misuses == 0, "%s", kvsim_twin()->misuse);
    ck_assert_uint_eq(kvsim_twin()->opened, 0);
    ck_assert_uint_eq(kvsim_twin()->left_at_close, 0);
}

static void *to_device(const void *from, size_t bytes) {
    void *memory = kvsim_twin_engine_allocate(0, bytes);
    ck_assert_ptr_nonnull(memory);
    ck_assert_int_eq(kvsim_twin_copy(memory, from, bytes), 0);
    return memory;
}

/* A tensor with the same elements, which are on the device. */
static kvsim_tensor far_tensor(const kvsim_tensor *from, const void *memory_begin, void *far_begin) {
    kvsim_tensor tensor = *from;
    tensor.device_type = KVSIM_DEVICE_CUDA;
    tensor.data =
        (unsigned char *)far_begin + ((const unsigned char *)from->data - (const unsigned char *)memory_begin);
    return tensor;
}

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

START_TEST(options_of_a_device_are_checked) {
    kvsim_options options = options_of(KVSIM_BACKEND_CUDA, NULL);
    kvsim_ctx *ctx = NULL;
    options.device_duty_percent = 101;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_E_INVALID);
    options.device_duty_percent = 1;
    options.device_ordinal = -1;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_E_INVALID);
    options.device_ordinal = 3;
    kvsim_twin()->query = KVSIM__TWIN_OTHER_VERSION;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_E_BACKEND);
    ck_assert_msg(strstr(reason, "version") != NULL, "%s", reason);
    kvsim_twin()->query = KVSIM__TWIN_TABLE;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_E_BACKEND);
    ck_assert_ptr_null(ctx);
    ck_assert_msg(strstr(reason, "no device 3") != NULL, "%s", reason);
    options.device_ordinal = 0;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_OK);
    ck_assert_uint_eq(kvsim_twin()->opened, 1);
    check_and_destroy(ctx);
}
END_TEST

/* ---- where to compute ---- */

enum { SLOTS = 40, MOST_SLOTS = 600, ELEMENTS = N * H * D };

/* Host pages: new ones, copies and near copies, in seven sequences. */
typedef struct page_list {
    float elements[2][MOST_SLOTS * ELEMENTS];
    int64_t shape[4], sequences[MOST_SLOTS], ids[MOST_SLOTS];
    kvsim_tensor tensors[2];
    kvsim_pages pages;
} page_list;

static page_list *make_pages(size_t slots, uint64_t seed) {
    page_list *list = get_memory(sizeof *list);
    const int64_t shape[4] = {(int64_t)slots, N, H, D};
    memcpy(list->shape, shape, sizeof shape);
    for (int kind = 0; kind < 2; kind++) {
        for (size_t slot = 0; slot < slots; slot++) {
            const size_t from = slot > 0 ? draw_below(&seed, slot) : 0, choice = slot > 0 ? draw_below(&seed, 4) : 3;
            for (size_t i = 0; i < ELEMENTS; i++) {
                const float near = list->elements[kind][from * ELEMENTS + i];
                const float noise = draw_normal(&seed);
                list->elements[kind][slot * ELEMENTS + i] = choice == 0   ? near
                                                            : choice == 1 ? near + 0.15f * noise
                                                                          : noise;
            }
        }
        list->tensors[kind] = make_tensor(list->elements[kind], KVSIM_DTYPE_FLOAT, 32, list->shape, 4);
    }
    for (size_t slot = 0; slot < slots; slot++) {
        list->sequences[slot] = (int64_t)(slot % 7);
        list->ids[slot] = (int64_t)slot;
    }
    list->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    list->pages.kind = KVSIM_KIND_BOTH;
    list->pages.tensor = &list->tensors[0];
    list->pages.value_tensor = &list->tensors[1];
    list->pages.page_count = (int64_t)slots;
    list->pages.block_ids = list->ids;
    list->pages.sequences = list->sequences;
    return list;
}

/* The same pages in the memory of the device. */
static void move_pages(page_list *list) {
    for (int kind = 0; kind < 2; kind++) {
        void *memory = to_device(list->elements[kind], sizeof list->elements[kind]);
        list->tensors[kind] = far_tensor(&list->tensors[kind], list->elements[kind], memory);
    }
}

static void release_pages(page_list *list) {
    for (int kind = 0; kind < 2; kind++) {
        kvsim_twin_engine_release((void *)list->tensors[kind].data);
    }
}

/* Figures that are the same wherever they are computed. */
typedef struct counts {
    int64_t removed[2 * 3], pairs[2 * 3], duplicates[2];
    double cosine[2], hamming[2], jaccard[2];
} counts;

static counts counts_of(const kvsim_result *result) {
    counts out;
    ck_assert_int_eq(row_count(result, "groups"), 2);
    for (int64_t row = 0; row < 6; row++) {
        out.removed[row] = get_integer(result, "dedup", "removed", row);
        out.pairs[row] = get_integer(result, "thresholds", "pairs", row);
    }
    for (int64_t row = 0; row < 2; row++) {
        out.duplicates[row] = get_integer(result, "groups", "exact_duplicates", row);
        out.cosine[row] = get_real(result, "groups", "cosine_mean", row);
        out.hamming[row] = get_real(result, "groups", "mean_hamming_sign", row);
        out.jaccard[row] = get_real(result, "groups", "mean_jaccard", row);
    }
    return out;
}

static void compare_counts(const counts *a, const counts *b) {
    ck_assert_mem_eq(a->removed, b->removed, sizeof a->removed);
    ck_assert_mem_eq(a->pairs, b->pairs, sizeof a->pairs);
    ck_assert_mem_eq(a->duplicates, b->duplicates, sizeof a->duplicates);
    for (int kind = 0; kind < 2; kind++) {
        ck_assert_double_eq_tol(a->cosine[kind], b->cosine[kind], 2e-6);
        ck_assert_double_eq(a->hamming[kind], b->hamming[kind]);
        ck_assert_double_eq_tol(a->jaccard[kind], b->jaccard[kind], 1e-6);
    }
}

/* Compute, and tell from the report where. */
static counts compute_somewhere(kvsim_ctx *ctx, const char *backend) {
    kvsim_result *result = NULL;
    kvsim_report_options report = KVSIM_REPORT_OPTIONS_INIT;
    char *text = NULL, expected[64];
    size_t size = 0;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    report.file = open_memstream(&text, &size);
    ck_status(ctx, kvsim_report(ctx, result, &report), KVSIM_OK);
    (void)fclose(report.file);
    (void)snprintf(expected, sizeof expected, "\"backend\":\"%s\"", backend);
    ck_assert_msg(strstr(text, expected) != NULL, "no %s in %.120s", expected, text);
    const counts out = counts_of(result);
    free(text);
    kvsim_result_destroy(result);
    return out;
}

static counts expected_counts(page_list *list, page_list *more) {
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_CPU, NULL);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    if (more != NULL) {
        ck_status(ctx, kvsim_add_pages(ctx, &more->pages), KVSIM_OK);
    }
    const counts out = compute_somewhere(ctx, "cpu");
    kvsim_ctx_destroy(ctx);
    return out;
}

START_TEST(a_device_computes_where_there_is_one) {
    page_list *list = make_pages(SLOTS, 5);
    const counts expected = expected_counts(list, NULL);
    lines log = {.count = 0};
    kvsim_ctx *ctx = open_context(_i == 0 ? KVSIM_BACKEND_AUTO : KVSIM_BACKEND_CUDA, &log);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    const counts found = compute_somewhere(ctx, "twin");
    compare_counts(&expected, &found);
    ck_assert_int_eq(log.count, 1);
    ck_assert_msg(strstr(log.text[0], "device 0, twin") != NULL, "%s", log.text[0]);
    ck_assert_int_eq(log.levels[0], KVSIM_LOG_INFO);
    check_and_destroy(ctx);
}
END_TEST

START_TEST(auto_computes_on_the_cpu_where_there_is_no_device) {
    page_list *list = make_pages(SLOTS, 5);
    const counts expected = expected_counts(list, NULL);
    lines log = {.count = 0};
    kvsim_twin()->query = KVSIM__TWIN_NO_FUNCTION;
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_AUTO, &log);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    for (int round = 0; round < 2; round++) { /* the second does not look again */
        const counts found = compute_somewhere(ctx, "cpu");
        ck_assert_mem_eq(&expected, &found, sizeof found);
        ck_assert_str_eq(kvsim_ctx_error(ctx), "");
    }
    ck_assert_int_eq(log.count, 1);
    ck_assert_msg(strstr(log.text[0], "the CPU computes: backend cuda is not available") != NULL, "%s", log.text[0]);
    check_and_destroy(ctx);
}
END_TEST

START_TEST(where_the_device_fails_the_cpu_goes_on_if_it_may) {
    static const uint32_t modes[] = {KVSIM__TWIN_ONCE, KVSIM__TWIN_LOST, KVSIM__TWIN_LATE};
    page_list *list = make_pages(SLOTS, 5);
    const counts expected = expected_counts(list, NULL);
    const bool may = _i % 2 == 0;
    lines log = {.count = 0};
    kvsim_ctx *ctx = open_context(may ? KVSIM_BACKEND_AUTO : KVSIM_BACKEND_CUDA, &log);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    kvsim_twin()->fail_at = kvsim_twin()->calls + 25;
    kvsim_twin()->fail_status = KVSIM_E_BACKEND;
    kvsim_twin()->fail_mode = modes[_i / 2];
    if (may) {
        const counts found = compute_somewhere(ctx, "cpu");
        ck_assert_mem_eq(&expected, &found, sizeof found);
        ck_assert_int_eq(log.count, 2);
        ck_assert_int_eq(log.levels[1], KVSIM_LOG_WARNING);
        ck_assert_msg(strstr(log.text[1], "the CPU goes on") != NULL, "%s", log.text[1]);
        const uint64_t calls = kvsim_twin()->calls;
        const counts again = compute_somewhere(ctx, "cpu");
        ck_assert_mem_eq(&expected, &again, sizeof again);
        ck_assert_uint_eq(kvsim_twin()->calls, calls);
        ck_assert_int_eq(log.count, 2);
    } else {
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_E_BACKEND);
        ck_assert_ptr_null(result);
        ck_assert_msg(strstr(kvsim_ctx_error(ctx), "device 0 (twin)") != NULL, "%s", kvsim_ctx_error(ctx));
        if (modes[_i / 2] == KVSIM__TWIN_ONCE) {
            const counts found = compute_somewhere(ctx, "twin");
            compare_counts(&expected, &found);
        } else {
            ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_E_BACKEND);
            ck_assert_msg(strstr(kvsim_ctx_error(ctx), "lost") != NULL, "%s", kvsim_ctx_error(ctx));
        }
    }
    check_and_destroy(ctx);
}
END_TEST

START_TEST(pages_on_a_lost_device_are_lost_but_the_context_is_not) {
    page_list *list = make_pages(SLOTS, 6), *host = make_pages(SLOTS, 7);
    const counts expected = expected_counts(host, NULL);
    kvsim_result *result = NULL;
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_AUTO, NULL);
    move_pages(list);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    kvsim_twin()->fail_at = kvsim_twin()->calls + 30;
    kvsim_twin()->fail_status = KVSIM_E_BACKEND;
    kvsim_twin()->fail_mode = KVSIM__TWIN_LOST;
    for (int round = 0; round < 2; round++) {
        ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_E_BACKEND);
        ck_assert_msg(strstr(kvsim_ctx_error(ctx), "lost") != NULL, "%s", kvsim_ctx_error(ctx));
    }
    kvsim_ctx_clear(ctx);
    ck_status(ctx, kvsim_add_pages(ctx, &host->pages), KVSIM_OK);
    const counts found = compute_somewhere(ctx, "cpu");
    ck_assert_mem_eq(&expected, &found, sizeof found);
    check_and_destroy(ctx);
    release_pages(list);
}
END_TEST

START_TEST(pages_of_one_group_may_lie_in_both_places) {
    page_list *near = make_pages(SLOTS, 5), *far_away = make_pages(SLOTS, 5);
    const counts expected = expected_counts(near, far_away);
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_CUDA, NULL);
    move_pages(far_away);
    far_away->pages.flags = KVSIM_PAGES_BORROW;
    ck_status(ctx, kvsim_add_pages(ctx, &near->pages), KVSIM_OK);
    ck_status(ctx, kvsim_add_pages(ctx, &far_away->pages), KVSIM_OK);
    const counts found = compute_somewhere(ctx, "twin");
    compare_counts(&expected, &found);
    ck_assert_int_ge(found.duplicates[0], SLOTS);
    check_and_destroy(ctx);
    release_pages(far_away);
}
END_TEST

/* ---- little memory, short lists ---- */

START_TEST(little_memory_makes_panels_small_and_too_little_is_said) {
    page_list *list = make_pages(SLOTS, 8);
    const counts expected = expected_counts(list, NULL);
    kvsim_options options = options_of(KVSIM_BACKEND_CUDA, NULL);
    bool done = false, was_refused = false;
    for (options.device_memory_bytes = 1 << 12; !done; options.device_memory_bytes *= 2) {
        ck_assert_uint_lt(options.device_memory_bytes, (uint64_t)1 << 30);
        kvsim_ctx *ctx = NULL;
        kvsim_result *result = NULL;
        ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_OK);
        ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
        const kvsim_status status = kvsim_compute(ctx, NULL, &result);
        if (status == KVSIM_E_NOMEM) {
            ck_assert_msg(strstr(kvsim_ctx_error(ctx), "out of device memory") != NULL, "%s", kvsim_ctx_error(ctx));
            was_refused = true;
        } else {
            ck_status(ctx, status, KVSIM_OK);
            const counts found = counts_of(result);
            compare_counts(&expected, &found);
            ck_assert_uint_le(kvsim_twin()->peak_bytes, options.device_memory_bytes);
            done = true;
        }
        kvsim_result_destroy(result);
        check_and_destroy(ctx);
    }
    ck_assert(was_refused);
}
END_TEST

START_TEST(panels_launches_and_lists_of_any_size_give_the_same) {
    static const struct {
        uint32_t panel_rows, launch_rows, list_capacity;
    } sizes[] = {{0, 256, 0}, {512, 256, 0}, {256, 0, 1}, {0, 512, 700}, {512, 0, 64}};
    page_list *list = make_pages(MOST_SLOTS, 11);
    const counts expected = expected_counts(list, NULL);
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_CUDA, NULL);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    counts first = {.duplicates = {0}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        ctx->accelerator.panel_rows = sizes[i].panel_rows;
        ctx->accelerator.launch_rows = sizes[i].launch_rows;
        ctx->accelerator.list_capacity = sizes[i].list_capacity;
        const counts found = compute_somewhere(ctx, "twin");
        compare_counts(&expected, &found);
        ck_assert(i == 0 || memcmp(&first, &found, sizeof found) == 0);
        first = found;
    }
    check_and_destroy(ctx);
}
END_TEST

/* ---- exact duplicates ---- */

static int32_t same_hashes(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes) {
    return kvsim_backend_query(KVSIM__BACKEND_VERSION)->fill(device, hashes, 0, group->slots * 2 * sizeof *hashes);
}

START_TEST(pages_of_equal_hashes_are_told_apart_by_their_bytes) {
    page_list *list = make_pages(SLOTS, 9);
    const counts expected = expected_counts(list, NULL);
    ck_assert_int_gt(expected.duplicates[0], 3);
    move_pages(list);
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_CUDA, NULL);
    kvsim__backend table = *ctx->accelerator.table;
    table.hash = same_hashes;
    ctx->accelerator.table = &table;
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    const counts found = compute_somewhere(ctx, "twin");
    compare_counts(&expected, &found);
    check_and_destroy(ctx);
    release_pages(list);
}
END_TEST

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

/* ---- progress ---- */

typedef struct watching {
    uint64_t calls, last, total, stop_at;
} watching;

static int watch(void *user, uint64_t done, uint64_t total) {
    watching *of = user;
    of->calls++;
    ck_assert_uint_ge(done, of->last);
    of->last = done;
    of->total = total;
    return of->calls == of->stop_at;
}

START_TEST(progress_is_told_and_may_stop_a_compute) {
    page_list *list = make_pages(SLOTS, 10);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    kvsim_result *result = NULL;
    watching of = {.stop_at = (uint64_t)_i};
    kvsim_ctx *ctx = open_context(KVSIM_BACKEND_CUDA, NULL);
    ck_status(ctx, kvsim_add_pages(ctx, &list->pages), KVSIM_OK);
    options.views = KVSIM_VIEW_CENTERED;
    options.flags = KVSIM_COMPUTE_PER_HEAD;
    options.progress = watch;
    options.progress_user = &of;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), _i == 0 ? KVSIM_OK : KVSIM_E_CANCELLED);
    if (_i == 0) {
        /* Keys and values, two views, all heads and each of two. */
        ck_assert_uint_eq(of.total, (uint64_t)SLOTS * (SLOTS - 1) / 2 * 2 * 2 * 3);
        ck_assert_uint_eq(of.last, of.total);
    } else {
        ck_assert_uint_eq(of.calls, 1);
    }
    kvsim_result_destroy(result);
    check_and_destroy(ctx);
}
END_TEST

/* ---- bounds ---- */

START_TEST(operands_hold_what_they_are_chosen_for) {
    static const struct {
        kvsim__dtype dtype;
        int32_t scale_mode;
        float scale;
        double largest_norm;
        bool rotate, centre;
        int32_t operand;
    } rows[] = {
        {KVSIM__F32, KVSIM_SCALE_NONE, 1.0f, 1.0, false, false, KVSIM__OPERAND_SPLIT},
        {KVSIM__BF16, KVSIM_SCALE_NONE, 1.0f, 1.0, false, false, KVSIM__OPERAND_BF16},
        {KVSIM__F16, KVSIM_SCALE_NONE, 1.0f, 0.0, false, false, KVSIM__OPERAND_F16},
        {KVSIM__F16, KVSIM_SCALE_NONE, 1.0f, 1.0, true, false, KVSIM__OPERAND_SPLIT},
        {KVSIM__BF16, KVSIM_SCALE_NONE, 1.0f, 1.0, false, true, KVSIM__OPERAND_SPLIT},
        {KVSIM__BF16, KVSIM_SCALE_NONE, 1.0f, 1e-6, false, false, KVSIM__OPERAND_SPLIT},
        {KVSIM__BF16, KVSIM_SCALE_NONE, 1.0f, 1e20, false, false, KVSIM__OPERAND_SPLIT},
        {KVSIM__I8, KVSIM_SCALE_TENSOR, 1e-6f, 1e-4, false, false, KVSIM__OPERAND_I8},
        {KVSIM__I8, KVSIM_SCALE_HEAD, 1.0f, 1.0, false, false, KVSIM__OPERAND_SPLIT},
        {KVSIM__F8_E4M3FN, KVSIM_SCALE_NONE, 1.0f, 1.0, false, false, KVSIM__OPERAND_E4M3},
        {KVSIM__F8_E5M2, KVSIM_SCALE_TENSOR, 0.5f, 1.0, false, false, KVSIM__OPERAND_E5M2},
        {KVSIM__F8_E5M2, KVSIM_SCALE_TOKEN_HEAD, 1.0f, 1.0, false, false, KVSIM__OPERAND_SPLIT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double mean = 0.0;
        float scale = rows[i].scale;
        const kvsim__group group = {
            .rotate = rows[i].rotate, .mean = rows[i].centre ? &mean : NULL, .largest_norm = rows[i].largest_norm};
        const kvsim__format format = {.dtype = rows[i].dtype, .scale_mode = rows[i].scale_mode, .scales = &scale};
        ck_assert_msg(kvsim__choose_operand(&group, &format) == rows[i].operand, "row %zu", i);
    }
    ck_assert_double_eq(kvsim__operand_bound(KVSIM__OPERAND_BF16), KVSIM__COSINE_BOUND);
    ck_assert_double_eq(kvsim__operand_bound(KVSIM__OPERAND_SPLIT), KVSIM__COSINE_BOUND);
    ck_assert_double_lt(kvsim__operand_bound(KVSIM__OPERAND_I8), KVSIM__COSINE_BOUND);
    ck_assert_double_gt(kvsim__operand_bound(KVSIM__OPERAND_E5M2), KVSIM__COSINE_BOUND);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("device");
    TCase *pages = kvsim_check_case(suite, "pages");
    tcase_add_loop_test(pages, device_pages_are_read_as_host_pages_are, 0, LAYOUTS * 3);
    tcase_add_loop_test(pages, unsound_device_pages_are_refused_and_add_nothing, 0, REFUSALS);
    tcase_add_test(pages, pages_of_one_group_may_lie_in_both_places);
    tcase_add_test(pages, pages_of_equal_hashes_are_told_apart_by_their_bytes);
    tcase_add_test(pages, opaque_pages_may_be_on_a_device);
    TCase *choice = kvsim_check_case(suite, "choice");
    tcase_add_test(choice, options_of_a_device_are_checked);
    tcase_add_loop_test(choice, a_device_computes_where_there_is_one, 0, 2);
    tcase_add_test(choice, auto_computes_on_the_cpu_where_there_is_no_device);
    tcase_add_loop_test(choice, where_the_device_fails_the_cpu_goes_on_if_it_may, 0, 6);
    tcase_add_test(choice, pages_on_a_lost_device_are_lost_but_the_context_is_not);
    TCase *computes = kvsim_check_case(suite, "computes");
    tcase_add_test(computes, little_memory_makes_panels_small_and_too_little_is_said);
    tcase_add_test(computes, panels_launches_and_lists_of_any_size_give_the_same);
    tcase_add_loop_test(computes, progress_is_told_and_may_stop_a_compute, 0, 2);
    tcase_add_test(computes, operands_hold_what_they_are_chosen_for);
    return kvsim_check_main(suite, "test_device", LAYOUTS * 3 + REFUSALS + 18);
}
