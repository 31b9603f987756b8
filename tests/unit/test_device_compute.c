/*
 * A whole compute on a device finds what the CPU finds, column by column: pages that lie on the host, pages that lie on
 * the device (borrowed and copied), every element type, view and finding, small panels and short lists. The device is
 * the twin.
 */
#include "backend/twin.h"
#include "device_tools.h"
#include "kvsim_check.h"

#include <stdio.h>

#define EVERYTHING                                                                                                     \
    (KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA |              \
     KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER | KVSIM_COMPUTE_PAGES | KVSIM_COMPUTE_DISTANCES)

enum { ALL_VIEWS = 15 };

/* Where pages lie, and how the device is used. */
typedef struct placement {
    bool on_device, borrowed;
    uint32_t panel_rows, launch_rows, list_capacity; /* 0 = as many as serve well */
    uint32_t backwards;
    double noise;
} placement;

/* Pages, keys and values of one layer, and what is asked. */
typedef struct recipe {
    uint64_t seed;
    int64_t slots;
    int32_t tokens, heads, head_dim;
    kvsim__dtype dtype;
    int32_t scale_mode;
    int32_t gaps; /* elements between rows */
    bool some_partial, some_not_finite, keys_only;
    bool is_coarse; /* elements are -1, 0 and 1: many pairs lie exactly at a threshold */
    uint32_t views, flags, metrics;
    bool different_sequences;
    uint32_t hamming_bits;
    float magnitude;
} recipe;

enum { LEVELS = 6 };

static const double thresholds[LEVELS] = {-0.5, 0.0, 0.5, 0.9, 0.95, 0.99};
static const double budgets[LEVELS] = {0.0, 0.05, 0.1, 0.2, 0.3, 0.9};

/* ---- pages ---- */

/* What one call of kvsim_add_pages takes; the arrays stay until the test ends. */
typedef struct batch {
    unsigned char *elements[2];
    float *scales;
    size_t bytes, scale_bytes;
    int64_t shape[4], strides[4], scale_shape[3];
    int64_t *ids, *sequences, *positions;
    int32_t *fills;
    kvsim_tensor tensors[2], scale;
    kvsim_pages pages;
} batch;

static void fill_elements(const recipe *of, batch *out, int kind) {
    static const float noise[] = {0.0f, 0.003f, 0.03f, 0.1f, 0.2f, 0.31f, 0.6f, 1.0f};
    const size_t n = (size_t)of->tokens * (size_t)of->heads * (size_t)of->head_dim, slots = (size_t)of->slots;
    const size_t channels = (size_t)of->head_dim, row = channels + (size_t)of->gaps;
    const size_t size = kvsim__dtype_size(of->dtype);
    const float magnitude = of->magnitude > 0.0f ? of->magnitude : 1.0f;
    /* Kinds draw alike, so that blocks are alike too. */
    uint64_t seed = of->seed;
    uint64_t noise_seed = of->seed + 1000 + (uint64_t)kind;
    float *values = get_memory(slots * n * sizeof *values);
    out->bytes = slots * (n / channels) * row * size;
    out->elements[kind] = get_memory(out->bytes);
    memset(out->elements[kind], 0xff, out->bytes);
    for (size_t slot = 0; slot < slots; slot++) {
        const float *from = slot > 0 ? values + draw_below(&seed, slot) * n : NULL;
        const size_t choice = draw_below(&seed, 13);
        const bool is_zero = draw_below(&seed, 40) == 0;
        for (size_t i = 0; i < n; i++) {
            const float fresh = magnitude * (draw_normal(&noise_seed) + (i % 5 == 0 ? 0.7f : 0.0f));
            const float near =
                from != NULL && choice < 8 ? from[i] + magnitude * noise[choice] * draw_normal(&noise_seed) : fresh;
            values[slot * n + i] = is_zero ? 0.0f : from != NULL && choice == 8 ? -2.0f * from[i] : near;
            const size_t at = (slot * n + i) / channels * row + i % channels;
            if (of->is_coarse) {
                values[slot * n + i] = (float)draw_below(&seed, 3) - 1.0f;
            }
            encode_element(of->dtype, values[slot * n + i], out->elements[kind] + at * size);
        }
        const size_t last_row = (slot * n + n - channels) / channels * row;
        if (of->some_not_finite && slot % 17 == 5) {
            memset(out->elements[kind] + last_row * size, 0xff, size);
        }
    }
    drop_memory(values);
}

static batch *make_batch(const recipe *of) {
    static const struct {
        uint8_t code, bits;
    } types[] = {{KVSIM_DTYPE_FLOAT, 32},    {KVSIM_DTYPE_FLOAT, 16},  {KVSIM_DTYPE_BFLOAT, 16},
                 {KVSIM_DTYPE_F8_E4M3FN, 8}, {KVSIM_DTYPE_F8_E5M2, 8}, {KVSIM_DTYPE_INT, 8}};
    batch *out = get_memory(sizeof *out);
    const int64_t row = of->head_dim + of->gaps;
    const int64_t shape[4] = {of->slots, of->tokens, of->heads, of->head_dim};
    const int64_t strides[4] = {of->tokens * of->heads * row, of->heads * row, row, 1};
    memcpy(out->shape, shape, sizeof shape);
    memcpy(out->strides, strides, sizeof strides);
    const size_t slots = (size_t)of->slots, rows = (size_t)of->tokens * (size_t)of->heads;
    out->ids = get_memory(slots * sizeof(int64_t));
    out->sequences = get_memory(slots * sizeof(int64_t));
    out->positions = get_memory(slots * sizeof(int64_t));
    out->fills = get_memory(slots * sizeof(int32_t));
    uint64_t seed = of->seed + 5;
    for (size_t slot = 0; slot < slots; slot++) {
        out->ids[slot] = (int64_t)slot;
        out->sequences[slot] = (int64_t)draw_below(&seed, 7);
        out->positions[slot] = 500 * (int64_t)draw_below(&seed, 8);
        out->fills[slot] = of->some_partial && slot % 13 == 4 ? of->tokens - 1 : of->tokens;
    }
    for (int kind = 0; kind < (of->keys_only ? 1 : 2); kind++) {
        fill_elements(of, out, kind);
        out->tensors[kind] =
            make_tensor(out->elements[kind], types[of->dtype].code, types[of->dtype].bits, out->shape, 4);
        out->tensors[kind].strides = out->strides;
    }
    const int64_t scale_shapes[4][3] = {{0}, {1}, {of->heads}, {of->slots, of->tokens, of->heads}};
    memcpy(out->scale_shape, scale_shapes[of->scale_mode], sizeof out->scale_shape);
    const size_t scale_counts[] = {0, 1, (size_t)of->heads, slots * rows};
    out->scale_bytes = scale_counts[of->scale_mode] * sizeof(float);
    out->scales = get_memory(out->scale_bytes);
    for (size_t i = 0; i < scale_counts[of->scale_mode]; i++) {
        out->scales[i] = 0.04f * (float)(1 + (i % rows + (i / rows % 5 == 3)) % 3);
    }
    out->scale = make_tensor(out->scales, KVSIM_DTYPE_FLOAT, 32, out->scale_shape,
                             of->scale_mode == KVSIM_SCALE_TOKEN_HEAD ? 3 : 1);
    out->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    out->pages.kind = of->keys_only ? KVSIM_KIND_KEY : KVSIM_KIND_BOTH;
    out->pages.tensor = &out->tensors[0];
    out->pages.value_tensor = of->keys_only ? NULL : &out->tensors[1];
    out->pages.scale = of->scale_mode != KVSIM_SCALE_NONE ? &out->scale : NULL;
    out->pages.scale_mode = of->scale_mode;
    out->pages.page_count = of->slots;
    out->pages.block_ids = out->ids;
    out->pages.fills = out->fills;
    out->pages.sequences = out->sequences;
    out->pages.positions = out->positions;
    return out;
}

static void move_tensor(kvsim_tensor *tensor, size_t bytes) {
    void *memory = kvsim_twin_engine_allocate(0, bytes);
    ck_assert_ptr_nonnull(memory);
    ck_assert_int_eq(kvsim_twin_copy(memory, tensor->data, bytes), 0);
    tensor->data = memory;
    tensor->device_type = KVSIM_DEVICE_CUDA;
}

/* Move a batch's tensors to the memory of the device. */
static void move_batch(batch *of) {
    move_tensor(&of->tensors[0], of->bytes);
    if (of->pages.value_tensor != NULL) {
        move_tensor(&of->tensors[1], of->bytes);
    }
    if (of->pages.scale != NULL) {
        move_tensor(&of->scale, of->scale_bytes);
    }
}

/* The engine's memory is as it was; give it back. */
static void check_and_release_batch(batch *of) {
    for (int kind = 0; kind < 2; kind++) {
        if (of->tensors[kind].device_type == KVSIM_DEVICE_CUDA) {
            unsigned char *now = get_memory(of->bytes);
            ck_assert_int_eq(kvsim_twin_copy(now, of->tensors[kind].data, of->bytes), 0);
            require(memcmp(now, of->elements[kind], of->bytes) == 0, "the engine's memory was written to");
            drop_memory(now);
            kvsim_twin_engine_release((void *)of->tensors[kind].data);
        }
    }
    if (of->scale.device_type == KVSIM_DEVICE_CUDA) {
        kvsim_twin_engine_release((void *)of->scale.data);
    }
}

/* ---- computes ---- */

static kvsim_ctx *make_backend_context(int32_t backend) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    static char error[256];
    options.backend = backend;
    options.threads = 1;
    options.error_buffer = error;
    options.error_buffer_size = sizeof error;
    kvsim_ctx *ctx = NULL;
    ck_assert_msg(kvsim_ctx_create(&options, &ctx) == KVSIM_OK, "%s", error);
    return ctx;
}

static kvsim_result *compute(kvsim_ctx *ctx, const recipe *of) {
    static const int64_t families[] = {0, 0, 1, 1, 2, 2, 2};
    const kvsim_rope rope = {.struct_size = sizeof rope, .style = KVSIM_ROPE_HALF};
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = of->views;
    options.flags = of->flags;
    options.metrics = of->metrics;
    options.pairs = of->different_sequences ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    options.hamming_bits = of->hamming_bits;
    options.top_k = 40;
    options.thresholds = thresholds;
    options.threshold_count = LEVELS;
    options.budgets = budgets;
    options.budget_count = LEVELS;
    options.families = families;
    options.family_count = sizeof families / sizeof families[0];
    options.null_repetitions = 2;
    options.resamples = 20;
    ck_status(ctx, kvsim_set_rope(ctx, &rope), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    return result;
}

/* ---- columns ---- */

/* Where cosines are alike within the bound, either page may be named. */
static bool is_a_choice(const kvsim_column *column) {
    return (strcmp(column->table, "matches") == 0 && strcmp(column->name, "earlier_page") == 0) ||
           (strcmp(column->table, "top_pairs") == 0 && strcmp(column->name, "group") != 0 &&
            strcmp(column->name, "cosine") != 0);
}

/* Where representatives are equally near, any of them may be shared. */
static bool is_of_representatives(const kvsim_column *column) {
    return strcmp(column->name, "groups_of_two_or_more") == 0 || strcmp(column->name, "largest_group") == 0;
}

/* Where many pairs lie exactly at the edge of a bin, only their number is compared. */
static void compare_histograms(const kvsim_column *a, const kvsim_column *b, bool ties_abound) {
    const uint64_t *x = a->data, *y = b->data;
    for (int64_t row = 0; row < a->rows; row++) {
        uint64_t left = 0, right = 0;
        for (int64_t bin = 0; bin < a->width; bin++) {
            left += x[row * a->width + bin];
            right += y[row * a->width + bin];
            const uint64_t apart = left > right ? left - right : right - left;
            require(ties_abound || apart <= 4 + left / 500, "%s.%s, row %lld: %llu and %llu up to bin %lld", a->table,
                    a->name, (long long)row, (unsigned long long)left, (unsigned long long)right, (long long)bin);
        }
        require(left == right, "%s.%s, row %lld: %llu and %llu pairs", a->table, a->name, (long long)row,
                (unsigned long long)left, (unsigned long long)right);
    }
}

/* `bound` is that of a cosine. */
static void compare_reals(const kvsim_column *a, const kvsim_column *b, double bound) {
    const double *x = a->data, *y = b->data;
    for (int64_t i = 0; i < a->rows * a->width; i++) {
        const bool same = isnan(x[i]) ? isnan(y[i]) : x[i] == y[i];
        require(same || fabs(x[i] - y[i]) <= 2.0 * bound + 5.0 * bound * fabs(x[i]), "%s.%s, row %lld: %.17g and %.17g",
                a->table, a->name, (long long)i, x[i], y[i]);
    }
}

static void compare_results(const kvsim_result *cpu, const kvsim_result *device, double bound, bool ties_abound) {
    const uint32_t count = kvsim_result_column_count(cpu);
    ck_assert_uint_eq(kvsim_result_column_count(device), count);
    for (uint32_t i = 0; i < count; i++) {
        kvsim_column a = KVSIM_COLUMN_INIT, b = KVSIM_COLUMN_INIT;
        ck_assert_int_eq(kvsim_result_column_at(cpu, i, &a), KVSIM_OK);
        ck_assert_int_eq(kvsim_result_column_at(device, i, &b), KVSIM_OK);
        require(strcmp(a.table, b.table) == 0 && strcmp(a.name, b.name) == 0 && a.rows == b.rows &&
                    a.width == b.width && a.dtype_code == b.dtype_code && a.dtype_bits == b.dtype_bits,
                "%s.%s: %lld and %lld rows", a.table, a.name, (long long)a.rows, (long long)b.rows);
        const size_t bytes = (size_t)(a.rows * a.width) * a.dtype_bits / 8;
        if ((bound > 0.0 && is_a_choice(&a)) || (ties_abound && is_of_representatives(&a))) {
            continue;
        }
        if (a.dtype_code == KVSIM_DTYPE_FLOAT) {
            compare_reals(&a, &b, bound);
        } else if (a.width == KVSIM_HISTOGRAM_BINS) {
            compare_histograms(&a, &b, ties_abound);
        } else {
            require(bytes == 0 || memcmp(a.data, b.data, bytes) == 0, "%s.%s differs", a.table, a.name);
        }
    }
}

/* ---- tests ---- */

static const placement placements[] = {
    {.on_device = false},
    {.on_device = true, .borrowed = true},
    {.on_device = true, .borrowed = false},
    {.on_device = false, .panel_rows = 512, .launch_rows = 256, .list_capacity = 64, .noise = 1.0},
    {.on_device = true, .borrowed = true, .panel_rows = 256, .list_capacity = 300, .noise = 1.0, .backwards = 1},
};

enum { PLACEMENTS = sizeof placements / sizeof placements[0] };

static const recipe recipes[] = {
    {.seed = 1, .slots = 90, .tokens = 4, .heads = 2, .head_dim = 8, .dtype = KVSIM__F32, .views = ALL_VIEWS},
    {.seed = 2,
     .slots = 90,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .views = ALL_VIEWS,
     .flags = EVERYTHING,
     .some_partial = true,
     .some_not_finite = true},
    {.seed = 3,
     .slots = 80,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .views = ALL_VIEWS,
     .flags = EVERYTHING | KVSIM_COMPUTE_PER_HEAD,
     .gaps = 3,
     .different_sequences = true},
    {.seed = 4,
     .slots = 80,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E4M3FN,
     .scale_mode = KVSIM_SCALE_TENSOR,
     .views = KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED,
     .flags = EVERYTHING,
     .some_not_finite = true},
    {.seed = 5,
     .slots = 80,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E5M2,
     .scale_mode = KVSIM_SCALE_HEAD,
     .views = ALL_VIEWS,
     .flags = EVERYTHING,
     .different_sequences = true},
    {.seed = 6,
     .slots = 80,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .scale_mode = KVSIM_SCALE_TENSOR,
     .views = ALL_VIEWS,
     .flags = EVERYTHING | KVSIM_COMPUTE_PER_HEAD},
    {.seed = 7,
     .slots = 80,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .scale_mode = KVSIM_SCALE_TOKEN_HEAD,
     .views = ALL_VIEWS,
     .flags = EVERYTHING,
     .gaps = 1,
     .hamming_bits = 4},
    {.seed = 8,
     .slots = 700,
     .tokens = 2,
     .heads = 1,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .views = KVSIM_VIEW_RAW,
     .flags = EVERYTHING & ~(KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_PAGES),
     .some_partial = true},
    {.seed = 9,
     .slots = 700,
     .tokens = 2,
     .heads = 1,
     .head_dim = 8,
     .dtype = KVSIM__F32,
     .keys_only = true,
     .views = KVSIM_VIEW_RAW | KVSIM_VIEW_DEROTATED,
     .flags = KVSIM_COMPUTE_ASSIGNMENTS,
     .different_sequences = true,
     .metrics = KVSIM_METRIC_COSINE},
    {.seed = 10,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .views = KVSIM_VIEW_RAW,
     .flags = EVERYTHING,
     .magnitude = 1e-20f},
    {.seed = 11,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .views = KVSIM_VIEW_RAW,
     .flags = EVERYTHING,
     .magnitude = 1e25f,
     .metrics = KVSIM_METRIC_L2},
    {.seed = 12,
     .slots = 1,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .views = ALL_VIEWS,
     .flags = EVERYTHING},
    {.seed = 13,
     .slots = 120,
     .tokens = 2,
     .heads = 2,
     .head_dim = 4,
     .dtype = KVSIM__F16,
     .views = KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED,
     .flags = (EVERYTHING | KVSIM_COMPUTE_PER_HEAD) & ~(KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_LEDGER),
     .is_coarse = true},
};

enum { RECIPES = sizeof recipes / sizeof recipes[0] };

START_TEST(the_device_finds_what_the_cpu_finds) {
    const recipe *of = &recipes[_i / PLACEMENTS];
    const placement *where = &placements[_i % PLACEMENTS];
    batch *pages = make_batch(of);
    kvsim_ctx *cpu = make_backend_context(KVSIM_BACKEND_CPU), *device = make_backend_context(KVSIM_BACKEND_CUDA);
    kvsim_twin()->backwards = where->backwards;
    kvsim_twin()->noise = where->noise;
    device->accelerator.panel_rows = where->panel_rows;
    device->accelerator.launch_rows = where->launch_rows;
    device->accelerator.list_capacity = where->list_capacity;
    ck_status(cpu, kvsim_add_pages(cpu, &pages->pages), KVSIM_OK);
    if (where->on_device) {
        move_batch(pages);
    }
    pages->pages.flags = where->borrowed ? KVSIM_PAGES_BORROW : 0;
    ck_status(device, kvsim_add_pages(device, &pages->pages), KVSIM_OK);
    const uint64_t held = kvsim_twin()->blocks, calls = kvsim_twin()->calls;
    kvsim_result *expected = compute(cpu, of), *found = compute(device, of);
    ck_assert_msg(kvsim_twin()->misuses == 0, "%s", kvsim_twin()->misuse);
    ck_assert_uint_eq(kvsim_twin()->blocks, held);
    ck_assert_uint_gt(kvsim_twin()->calls, calls);
    const bool is_f8 = of->dtype == KVSIM__F8_E4M3FN || of->dtype == KVSIM__F8_E5M2;
    compare_results(expected, found, is_f8 ? 2.5e-4 : 2e-6, of->is_coarse);
    /* Once more, on the same context: the same, bit for bit. */
    kvsim_result *again = compute(device, of);
    compare_results(found, again, 0.0, false);
    kvsim_result_destroy(again);
    kvsim_result_destroy(found);
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(cpu);
    kvsim_ctx_destroy(device);
    check_and_release_batch(pages);
    ck_assert_uint_eq(kvsim_twin()->blocks, 0);
    ck_assert_uint_eq(kvsim_twin()->opened, 0);
    ck_assert_uint_eq(kvsim_twin()->left_at_close, 0);
}
END_TEST

/* ---- stopping ---- */

static int stop_at(void *user, uint64_t done, uint64_t total) {
    uint64_t *calls_left = user;
    ck_assert_uint_le(done, total);
    return (*calls_left)-- == 0;
}

/* Stopped at any of its calls, a compute leaves nothing behind, and the next one is whole. */
START_TEST(a_compute_on_a_device_can_be_stopped) {
    const recipe *of = &recipes[7];
    batch *pages = make_batch(of);
    kvsim_ctx *device = make_backend_context(KVSIM_BACKEND_CUDA);
    ck_status(device, kvsim_add_pages(device, &pages->pages), KVSIM_OK);
    device->accelerator.panel_rows = device->accelerator.launch_rows = 256;
    uint64_t calls = (uint64_t)_i;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.progress = stop_at;
    options.progress_user = &calls;
    kvsim_result *result = NULL;
    const kvsim_status status = kvsim_compute(device, &options, &result);
    ck_assert(status == KVSIM_E_CANCELLED ? calls == UINT64_MAX : status == KVSIM_OK && calls != UINT64_MAX);
    ck_assert(_i > 0 || status == KVSIM_E_CANCELLED);
    ck_assert_uint_eq(kvsim_twin()->blocks, 0);
    kvsim_result_destroy(result);
    kvsim_result_destroy(compute(device, of));
    kvsim_ctx_destroy(device);
    ck_assert_msg(kvsim_twin()->misuses == 0, "%s", kvsim_twin()->misuse);
    ck_assert_uint_eq(kvsim_twin()->opened, 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("device_compute");
    TCase *computes = kvsim_check_case(suite, "computes");
    tcase_add_loop_test(computes, the_device_finds_what_the_cpu_finds, 0, RECIPES * PLACEMENTS);
    tcase_add_loop_test(computes, a_compute_on_a_device_can_be_stopped, 0, 3);
    return kvsim_check_main(suite, "test_device_compute", RECIPES * PLACEMENTS + 3);
}
