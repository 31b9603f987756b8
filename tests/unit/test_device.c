/*
 * Where a context computes, and that it finds the same there: a device that cannot be had, fails or is short of memory
 * stops a compute or leaves it to the CPU, as the context was told; panels, launches and lists of any size, equal pages
 * and rotations change nothing. The device is the twin.
 */
#include "device_context.h"
#include "kvsim_check.h"

enum { N = 3, H = 2, D = 8 };

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
    ck_assert_msg(strstr(reason_text(), "version") != NULL, "%s", reason_text());
    kvsim_twin()->query = KVSIM__TWIN_TABLE;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_E_BACKEND);
    ck_assert_ptr_null(ctx);
    ck_assert_msg(strstr(reason_text(), "no device 3") != NULL, "%s", reason_text());
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

/* ---- pages that tempt ---- */

static kvsim_result *compute_with(int32_t backend, page_list *list, const kvsim_rope *rope,
                                  const kvsim_compute_options *options, uint32_t list_capacity, kvsim_ctx **ctx) {
    kvsim_result *result = NULL;
    *ctx = open_context(backend, NULL);
    (*ctx)->accelerator.list_capacity = list_capacity;
    ck_status(*ctx, kvsim_add_pages(*ctx, &list->pages), KVSIM_OK);
    ck_status(*ctx, kvsim_set_rope(*ctx, rope), KVSIM_OK);
    ck_status(*ctx, kvsim_compute(*ctx, options, &result), KVSIM_OK);
    return result;
}

/* All rows of a column of whole numbers are the same. */
static void compare_column(const kvsim_result *a, const kvsim_result *b, const char *table, const char *name) {
    const int64_t rows = row_count(a, table);
    ck_assert_int_eq(row_count(b, table), rows);
    for (int64_t row = 0; row < rows; row++) {
        require(get_integer(a, table, name, row) == get_integer(b, table, name, row), "%s.%s, row %lld: %lld and %lld",
                table, name, (long long)row, (long long)get_integer(a, table, name, row),
                (long long)get_integer(b, table, name, row));
    }
}

/* Pages that are all equal, or all zero, or half zero: perfect pairs by the thousand, of which the first are the best.
 */
START_TEST(equal_pages_are_ranked_by_arrival) {
    page_list *list = make_pages(MOST_SLOTS, 12);
    const kvsim_rope rope = KVSIM_ROPE_INIT;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.pairs = _i >= 3 ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    options.flags = KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_BOUNDS;
    options.top_k = 30;
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = ELEMENTS; i < MOST_SLOTS * ELEMENTS; i++) {
            const bool zero = _i % 3 == 1 || (_i % 3 == 2 && i / ELEMENTS % 2 == 0);
            list->elements[kind][i] = zero ? 0.0f : list->elements[kind][i % ELEMENTS];
        }
    }
    kvsim_ctx *cpu, *device;
    kvsim_result *expected = compute_with(KVSIM_BACKEND_CPU, list, &rope, &options, 0, &cpu);
    kvsim_result *found = compute_with(KVSIM_BACKEND_CUDA, list, &rope, &options, 40, &device);
    compare_column(expected, found, "top_pairs", "block");
    compare_column(expected, found, "top_pairs", "earlier_block");
    compare_column(expected, found, "matches", "earlier_page");
    compare_column(expected, found, "thresholds", "pairs");
    compare_column(expected, found, "groups", "infinite_relative_errors");
    compare_column(expected, found, "dedup", "removed");
    compare_column(expected, found, "dedup", "largest_group");
    compare_column(expected, found, "dedup", "scaled_representatives");
    compare_column(expected, found, "dedup", "lower_bound");
    compare_column(expected, found, "block_dedup", "removed");
    kvsim_result_destroy(expected);
    kvsim_result_destroy(found);
    kvsim_ctx_destroy(cpu);
    check_and_destroy(device);
}
END_TEST

START_TEST(rotations_of_any_kind_are_undone_on_the_device) {
    static const kvsim_rope ropes[] = {
        {.struct_size = sizeof(kvsim_rope), .style = KVSIM_ROPE_INTERLEAVED},
        {.struct_size = sizeof(kvsim_rope), .style = KVSIM_ROPE_HALF, .rotary_dims = 4, .theta = 500.0},
        {.struct_size = sizeof(kvsim_rope),
         .style = KVSIM_ROPE_INTERLEAVED,
         .rotary_dims = 6,
         .scaling = KVSIM_ROPE_SCALING_LINEAR,
         .factor = 4.0},
    };
    page_list *list = make_pages(SLOTS, 13);
    int64_t positions[SLOTS];
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED;
    for (int64_t slot = 0; slot < SLOTS; slot++) {
        positions[slot] = slot % 5 * 1000;
    }
    list->pages.positions = positions;
    kvsim_ctx *cpu, *device;
    kvsim_result *expected = compute_with(KVSIM_BACKEND_CPU, list, &ropes[_i], &options, 0, &cpu);
    kvsim_result *found = compute_with(KVSIM_BACKEND_CUDA, list, &ropes[_i], &options, 0, &device);
    ck_assert_int_eq(row_count(found, "groups"), 6);
    compare_column(expected, found, "thresholds", "pairs");
    compare_column(expected, found, "thresholds", "pages");
    compare_column(expected, found, "dedup", "removed");
    compare_column(expected, found, "block_dedup", "removed");
    for (int64_t row = 0; row < 6; row++) {
        ck_assert_double_eq_tol(get_real(expected, "groups", "cosine_mean", row),
                                get_real(found, "groups", "cosine_mean", row), 2e-6);
    }
    kvsim_result_destroy(expected);
    kvsim_result_destroy(found);
    kvsim_ctx_destroy(cpu);
    check_and_destroy(device);
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
    tcase_add_test(pages, pages_of_one_group_may_lie_in_both_places);
    tcase_add_test(pages, pages_of_equal_hashes_are_told_apart_by_their_bytes);
    TCase *choice = kvsim_check_case(suite, "choice");
    tcase_add_test(choice, options_of_a_device_are_checked);
    tcase_add_loop_test(choice, a_device_computes_where_there_is_one, 0, 2);
    tcase_add_test(choice, auto_computes_on_the_cpu_where_there_is_no_device);
    tcase_add_loop_test(choice, where_the_device_fails_the_cpu_goes_on_if_it_may, 0, 6);
    tcase_add_test(choice, pages_on_a_lost_device_are_lost_but_the_context_is_not);
    TCase *computes = kvsim_check_case(suite, "computes");
    tcase_add_test(computes, little_memory_makes_panels_small_and_too_little_is_said);
    tcase_add_test(computes, panels_launches_and_lists_of_any_size_give_the_same);
    tcase_add_loop_test(computes, equal_pages_are_ranked_by_arrival, 0, 6);
    tcase_add_loop_test(computes, rotations_of_any_kind_are_undone_on_the_device, 0, 3);
    tcase_add_loop_test(computes, progress_is_told_and_may_stop_a_compute, 0, 2);
    tcase_add_test(computes, operands_hold_what_they_are_chosen_for);
    return kvsim_check_main(suite, "test_device", 27);
}
