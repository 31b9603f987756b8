/*
 * What scripts that measure KV-cache redundancy have got wrong, one test each: it fails if kvsim ever does the same.
 */
#include "core_tools.h"
#include "kvsim_check.h"

enum { MOST_PAGES = 160 };

/* Pages of one layer and one kind, for one call. */
typedef struct batch {
    float *elements;
    int64_t shape[4], ids[MOST_PAGES], sequences[MOST_PAGES], positions[MOST_PAGES];
    int32_t fills[MOST_PAGES];
    kvsim_tensor tensor;
    kvsim_pages pages;
} batch;

static batch *make_batch(int64_t count, int64_t tokens, int64_t channels) {
    batch *out = get_memory(sizeof *out);
    ck_assert_int_le(count, MOST_PAGES);
    out->elements = get_memory((size_t)(count * tokens * channels) * sizeof(float));
    const int64_t shape[4] = {count, tokens, 1, channels};
    memcpy(out->shape, shape, sizeof shape);
    for (int64_t p = 0; p < count; p++) {
        out->ids[p] = out->sequences[p] = p;
        out->fills[p] = (int32_t)tokens;
    }
    out->tensor = make_tensor(out->elements, KVSIM_DTYPE_FLOAT, 32, out->shape, 4);
    out->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    out->pages.kind = KVSIM_KIND_VALUE;
    out->pages.tensor = &out->tensor;
    out->pages.page_count = count;
    out->pages.block_ids = out->ids;
    out->pages.sequences = out->sequences;
    out->pages.positions = out->positions;
    out->pages.fills = out->fills;
    return out;
}

static void fill_with_noise(batch *of, uint64_t seed) {
    for (int64_t i = 0; i < of->shape[0] * of->shape[1] * of->shape[3]; i++) {
        of->elements[i] = draw_normal(&seed);
    }
}

static size_t page_elements(const batch *of) {
    return (size_t)(of->shape[1] * of->shape[3]);
}

static void copy_page(batch *of, size_t to, size_t from) {
    const size_t n = page_elements(of);
    memcpy(of->elements + to * n, of->elements + from * n, n * sizeof(float));
}

static kvsim_result *compute(kvsim_ctx *ctx) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = KVSIM_COMPUTE_LEDGER | KVSIM_COMPUTE_BOUNDS;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    return result;
}

static kvsim_result *compute_batch(kvsim_ctx *ctx, batch *of) {
    ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
    return compute(ctx);
}

static void finish(kvsim_ctx *ctx, kvsim_result *result) {
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}

/* a) Similarities were drawn from a beta distribution. */
START_TEST(figures_come_from_the_pages) {
    static const double cosines[] = {1.0, 0.0, -1.0, 0.6};
    batch *of = make_batch(2, 1, 2);
    of->elements[0] = 1.0f;
    of->elements[2] = _i == 0 ? 2.0f : _i == 2 ? -3.0f : _i == 3 ? 3.0f : 0.0f;
    of->elements[3] = _i == 1 ? 5.0f : _i == 3 ? 4.0f : 0.0f;
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_double_eq_tol(get_real(result, "groups", "cosine_mean", 0), cosines[_i], 1e-7);
    ck_assert_double_eq_tol(get_real(result, "groups", "cosine_min", 0), cosines[_i], 1e-7);
    ck_assert_int_eq(get_integer(result, "thresholds", "pairs", 0), _i == 0);
    finish(ctx, result);
}
END_TEST

/* b) Codes were int8(127 x), which wraps: 1 and 1 + 256 / 127 have one code, as have most large values. */
START_TEST(codes_do_not_wrap) {
    batch *of = make_batch(2, 1, 64);
    for (size_t i = 0; i < 64; i++) {
        of->elements[i] = 1.0f;
        of->elements[64 + i] = 1.0f + 256.0f / 127.0f;
    }
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_double_eq(get_real(result, "groups", "mean_hamming", 0), 1.0);
    finish(ctx, result);
    /* Unrelated pages of large values: nearly all codes differ. */
    of = make_batch(20, 4, 32);
    fill_with_noise(of, 1);
    for (size_t i = 0; i < 20 * 128; i++) {
        of->elements[i] *= 40.0f;
    }
    ctx = make_context(1);
    result = compute_batch(ctx, of);
    ck_assert_double_gt(get_real(result, "groups", "mean_hamming", 0), 0.95);
    finish(ctx, result);
}
END_TEST

/* c) Jaccard was that of {|x| > 1e-6}: 1 for any two dense pages. */
START_TEST(jaccard_tells_dense_pages_apart_or_says_that_it_cannot) {
    batch *of = make_batch(20, 4, 32);
    fill_with_noise(of, 2);
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_double_lt(get_real(result, "groups", "mean_jaccard", 0), 0.4);
    ck_assert_double_lt(get_real(result, "groups", "jaccard_union_share", 0), 0.7);
    kvsim_result_destroy(result);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.jaccard_absolute = 1;
    options.jaccard_tau = 1e-6;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    ck_assert_double_gt(get_real(result, "groups", "jaccard_union_share", 0), 0.99);
    finish(ctx, result);
}
END_TEST

/* d) Savings were pairs above a threshold times half a page: k equal pages "saved" k (k - 1) / 4 pages. */
START_TEST(savings_count_pages_not_pairs) {
    enum { COUNT = 20, BYTES = 4 * 8 * 4 };
    batch *of = make_batch(COUNT, 4, 8);
    fill_with_noise(of, 3);
    for (size_t p = 1; p < COUNT; p++) {
        copy_page(of, p, 0);
    }
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_int_eq(get_integer(result, "thresholds", "pairs", 0), COUNT * (COUNT - 1) / 2);
    ck_assert_int_eq(get_integer(result, "thresholds", "pages", 0), COUNT - 1);
    ck_assert_int_eq(get_integer(result, "dedup", "removed", 0), COUNT - 1);
    ck_assert_int_eq(get_integer(result, "dedup", "lower_bound", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), COUNT - 1);
    ck_assert_int_eq(get_integer(result, "ledger", "seen_bytes", 0), COUNT * BYTES);
    ck_assert_int_eq(get_integer(result, "ledger", "exact_bytes", 0), (COUNT - 1) * BYTES);
    ck_assert_int_eq(get_integer(result, "ledger", "unique_bytes", 0), BYTES);
    finish(ctx, result);
}
END_TEST

/* e) Every capture had layer 0, so pages of all layers were compared with each other. */
START_TEST(layers_and_kinds_do_not_mix) {
    batch *of = make_batch(3, 2, 8);
    fill_with_noise(of, 4);
    kvsim_ctx *ctx = make_context(1);
    for (int32_t layer = 0; layer < 3; layer++) {
        for (int32_t kind = KVSIM_KIND_KEY; kind <= KVSIM_KIND_VALUE; kind++) {
            of->pages.layer = layer;
            of->pages.kind = kind;
            of->pages.source = 1;
            ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
        }
    }
    kvsim_result *result = compute(ctx);
    ck_assert_int_eq(row_count(result, "groups"), 6);
    for (int64_t row = 0; row < 6; row++) {
        ck_assert_int_eq(get_integer(result, "groups", "pairs", row), 3);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", row), 0);
        ck_assert_double_lt(get_real(result, "groups", "cosine_max", row), 0.9);
    }
    finish(ctx, result);
}
END_TEST

/* f) A block was captured at every decoding step, and compared with its own past. */
START_TEST(a_page_is_not_compared_with_itself_seen_again) {
    batch *of = make_batch(3, 4, 8);
    fill_with_noise(of, 5);
    of->pages.source = 7;
    of->pages.flags = KVSIM_PAGES_BORROW;
    kvsim_ctx *ctx = make_context(1);
    for (int step = 0; step < 50; step++) {
        ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
    }
    kvsim_result *result = compute(ctx);
    ck_assert_int_eq(get_integer(result, "groups", "pages", 0), 3);
    ck_assert_int_eq(get_integer(result, "groups", "references", 0), 150);
    ck_assert_int_eq(get_integer(result, "groups", "pairs", 0), 3);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 0);
    ck_assert_int_eq(get_integer(result, "ledger", "exact", 0), 0);
    ck_assert_int_eq(get_integer(result, "ledger", "seen_bytes", 0), 3 * 4 * 8 * 4);
    kvsim_result_destroy(result);
    /* The same block with more of its slots filled is no other page either: it must be called a new generation. */
    of->fills[1] = 2;
    ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_E_INVALID);
    uint64_t generations[3] = {0, 1, 0};
    of->pages.generations = generations;
    ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
    result = compute(ctx);
    ck_assert_int_eq(get_integer(result, "groups", "physical_pages", 0), 4);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 1);
    ck_assert_int_eq(get_integer(result, "groups", "pairs", 0), 3);
    finish(ctx, result);
}
END_TEST

/* g) There was no fill count: what earlier requests had left in the last slots was compared. */
START_TEST(stale_slots_are_not_compared) {
    batch *of = make_batch(6, 4, 8);
    fill_with_noise(of, 6);
    for (size_t p = 1; p < 6; p++) { /* the stale part is the same everywhere, the valid one is not */
        memcpy(of->elements + p * 32 + 8, of->elements + 8, 24 * sizeof(float));
    }
    for (size_t p = 3; p < 6; p++) {
        of->fills[p] = 1;
        of->elements[p * 32 + 8] = NAN;
    }
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_int_eq(get_integer(result, "groups", "pages", 0), 3);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 3);
    ck_assert_int_eq(get_integer(result, "groups", "non_finite", 0), 0);
    ck_assert_int_eq(get_integer(result, "groups", "pairs", 0), 3);
    ck_assert_int_eq(get_integer(result, "ledger", "left_out_bytes", 0), 3 * 32 * 4);
    finish(ctx, result);
}
END_TEST

/* h) Pages had 16 slots, whatever the engine's have, and a page was `cache[0, block]` in any layout. */
START_TEST(pages_have_the_size_and_layout_of_the_engine) {
    static const int64_t sizes[] = {1, 7, 16, 32, 64};
    const int64_t tokens = sizes[_i];
    batch *of = make_batch(4, tokens, 4);
    fill_with_noise(of, 7);
    const size_t n = page_elements(of);
    memset(of->elements + 2 * n, 0, n * sizeof(float));
    copy_page(of, 3, 1);
    of->elements[3 * n + n - 1] += 1.0f; /* only the last slot differs */
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_int_eq(get_integer(result, "groups", "tokens", 0), tokens);
    ck_assert_int_eq(get_integer(result, "groups", "page_bytes", 0), tokens * 16);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 0);
    const double mean = get_real(result, "groups", "mean_l2", 0);
    finish(ctx, result);
    /* The same pages with heads before slots: two heads of two channels each, seen through strides. */
    const int64_t shape[4] = {4, 2, tokens, 2}, strides[4] = {tokens * 4, 2, 4, 1};
    memcpy(of->shape, shape, sizeof shape);
    of->tensor.strides = strides;
    of->pages.layout = KVSIM_LAYOUT_BHND;
    ctx = make_context(1);
    result = compute_batch(ctx, of);
    ck_assert_int_eq(get_integer(result, "groups", "tokens", 0), tokens);
    ck_assert_int_eq(get_integer(result, "groups", "heads", 0), 2);
    ck_assert_double_eq_tol(get_real(result, "groups", "mean_l2", 0), mean, 1e-6 * mean);
    finish(ctx, result);
}
END_TEST

/* i) Only the last hundred snapshots were kept. */
START_TEST(no_page_is_forgotten) {
    batch *of = make_batch(MOST_PAGES, 1, 64);
    fill_with_noise(of, 8);
    copy_page(of, MOST_PAGES - 1, 0);
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_batch(ctx, of);
    ck_assert_int_eq(get_integer(result, "groups", "pages", 0), MOST_PAGES);
    ck_assert_int_eq(get_integer(result, "groups", "pairs", 0), MOST_PAGES * (MOST_PAGES - 1) / 2);
    ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", 0), 1);
    ck_assert_int_eq(get_integer(result, "top_pairs", "block", 0), MOST_PAGES - 1);
    ck_assert_int_eq(get_integer(result, "top_pairs", "earlier_block", 0), 0);
    finish(ctx, result);
}
END_TEST

/* j) Distances were absolute: not to be compared between layers, whose values differ in size. */
START_TEST(errors_are_relative) {
    batch *of = make_batch(30, 2, 16);
    fill_with_noise(of, 9);
    for (size_t p = 15; p < 30; p++) {
        for (size_t i = 0; i < 32; i++) {
            of->elements[p * 32 + i] = of->elements[(p - 15) * 32 + i] + 0.01f * (float)p * of->elements[p * 32 + i];
        }
    }
    kvsim_ctx *ctx = make_context(1);
    of->pages.source = 1;
    ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
    for (size_t i = 0; i < 30 * 32; i++) {
        of->elements[i] *= 1024.0f;
    }
    of->pages.layer = 1;
    ck_status(ctx, kvsim_add_pages(ctx, &of->pages), KVSIM_OK);
    kvsim_result *result = compute(ctx);
    ck_assert_double_eq_tol(get_real(result, "groups", "mean_l2", 1), 1024.0 * get_real(result, "groups", "mean_l2", 0),
                            1e-3);
    ck_assert_double_eq_tol(get_real(result, "groups", "mean_relative_error", 1),
                            get_real(result, "groups", "mean_relative_error", 0), 1e-12);
    for (int64_t b = 0; b < 3; b++) {
        ck_assert_int_eq(get_integer(result, "dedup", "removed", 3 + b), get_integer(result, "dedup", "removed", b));
        ck_assert_int_eq(get_integer(result, "ledger", "near", 3 + b), get_integer(result, "ledger", "near", b));
    }
    ck_assert_int_gt(get_integer(result, "dedup", "removed", 2), 0);
    ck_assert_int_lt(get_integer(result, "dedup", "removed", 0), get_integer(result, "dedup", "removed", 2));
    finish(ctx, result);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("faults");
    TCase *faults = kvsim_check_case(suite, "faults");
    tcase_add_loop_test(faults, figures_come_from_the_pages, 0, 4);
    tcase_add_test(faults, codes_do_not_wrap);
    tcase_add_test(faults, jaccard_tells_dense_pages_apart_or_says_that_it_cannot);
    tcase_add_test(faults, savings_count_pages_not_pairs);
    tcase_add_test(faults, layers_and_kinds_do_not_mix);
    tcase_add_test(faults, a_page_is_not_compared_with_itself_seen_again);
    tcase_add_test(faults, stale_slots_are_not_compared);
    tcase_add_loop_test(faults, pages_have_the_size_and_layout_of_the_engine, 0, 5);
    tcase_add_test(faults, no_page_is_forgotten);
    tcase_add_test(faults, errors_are_relative);
    return kvsim_check_main(suite, "test_faults", 17);
}
