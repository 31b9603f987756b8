/* Runs of kvsim_compute (threads, order, progress, cancelling) and where kvsim_report writes to. */
#include "core_tools.h"
#include "kvsim_check.h"
#include "page_set.h"

#include <locale.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* ---- a report in memory ---- */

typedef struct text {
    char *data;
    size_t size, calls, fail_at; /* fail_at 0 = never */
} text;

static int keep(void *user, const void *data, size_t size) {
    text *to = user;
    if (++to->calls == to->fail_at) {
        return 7;
    }
    ck_assert_msg(to->fail_at == 0 || to->calls < to->fail_at, "called again after a refusal");
    char *longer = get_memory(to->size + size + 1);
    if (to->data != NULL) {
        memcpy(longer, to->data, to->size);
        drop_memory(to->data);
    }
    memcpy(longer + to->size, data, size);
    to->data = longer;
    to->size += size;
    return 0;
}

static text write_report(kvsim_ctx *ctx, const kvsim_result *result, uint32_t indent) {
    text out = {0};
    kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
    options.write = keep;
    options.write_user = &out;
    options.indent = indent;
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_OK);
    ck_assert_int_eq(out.data[out.size - 1], '\n');
    return out;
}

/* Everything on: all views, all tables. */
static kvsim_compute_options make_options(void) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = 15;
    options.flags = KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_PER_HEAD;
    return options;
}

static const kvsim_rope half = {.struct_size = sizeof half, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = 0};

static kvsim_result *compute_set(kvsim_ctx *ctx, page_set *set, const kvsim_compute_options *options) {
    add_page_set(ctx, set);
    ck_status(ctx, kvsim_set_rope(ctx, &half), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, options, &result), KVSIM_OK);
    return result;
}

static void check_same_columns(const kvsim_result *a, const kvsim_result *b) {
    for (uint32_t i = 0; i < kvsim_result_column_count(a); i++) {
        kvsim_column x = KVSIM_COLUMN_INIT, y = KVSIM_COLUMN_INIT;
        ck_assert_int_eq(kvsim_result_column_at(a, i, &x), KVSIM_OK);
        ck_assert_int_eq(kvsim_result_column_at(b, i, &y), KVSIM_OK);
        ck_assert_int_eq(x.rows, y.rows);
        ck_assert_int_eq(x.width, y.width);
        const size_t bytes = (size_t)x.rows * (size_t)x.width * (x.dtype_bits / 8u);
        ck_assert_msg(memcmp(x.data, y.data, bytes) == 0, "column %s of %s differs", x.name, x.table);
    }
}

/* ---- threads ---- */

static void run_in_reverse(void *user, uint32_t count, void (*body)(void *argument, uint32_t index), void *argument) {
    ++*(uint32_t *)user;
    while (count > 0) {
        body(argument, --count);
    }
}

START_TEST(threads_and_their_order_do_not_change_a_byte) {
    /* More than one panel, so that tiles of several kinds run side by side. */
    const size_t count = _i == 0 ? 1100 : 150, channels = _i == 0 ? 4 : 64;
    page_set *set = make_page_set(8, KVSIM_KIND_BOTH, count, 2, 2, channels);
    kvsim_compute_options options = make_options();
    if (_i == 0) {
        options.views = KVSIM_VIEW_CENTERED;
        options.flags &= ~KVSIM_COMPUTE_PER_HEAD;
    }
    kvsim_ctx *first = make_context(1);
    kvsim_result *expected = compute_set(first, set, &options);
    const text expected_report = write_report(first, expected, 0);
    static const uint32_t threads[] = {2, 7, 0};
    for (int run = 0; run < 3; run++) {
        uint32_t calls = 0;
        kvsim_options own = KVSIM_OPTIONS_INIT;
        own.threads = threads[run];
        if (run == 2) {
            own.parallel_for = run_in_reverse;
            own.parallel_user = &calls;
        }
        kvsim_ctx *ctx = NULL;
        ck_assert_int_eq(kvsim_ctx_create(&own, &ctx), KVSIM_OK);
        kvsim_result *result = compute_set(ctx, set, &options);
        const text report = write_report(ctx, result, 0);
        ck_assert_uint_eq(report.size, expected_report.size);
        ck_assert(memcmp(report.data, expected_report.data, report.size) == 0);
        check_same_columns(result, expected);
        ck_assert_int_eq(calls > 0, run == 2);
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(first);
}
END_TEST

START_TEST(splitting_the_calls_changes_nothing) {
    page_set *set = make_page_set(30 + (uint64_t)_i, KVSIM_KIND_BOTH, 70, 3, 2, 6);
    const kvsim_compute_options options = make_options();
    set->pages.source = 5;
    kvsim_ctx *whole = make_context(2), *parts = make_context(2);
    kvsim_result *expected = compute_set(whole, set, &options);
    uint64_t seed = (uint64_t)_i;
    kvsim_pages pages = set->pages;
    for (int64_t done = 0; done < 70; done += pages.page_count) {
        pages.page_count = 1 + (int64_t)draw_below(&seed, 20);
        pages.page_count = pages.page_count > 70 - done ? 70 - done : pages.page_count;
        pages.flags = (uint32_t)draw_below(&seed, 2);
        pages.block_ids = set->ids + done;
        pages.fills = set->fills + done;
        pages.sequences = set->reference.sequences + done;
        pages.positions = set->reference.positions + done;
        ck_status(parts, kvsim_add_pages(parts, &pages), KVSIM_OK);
    }
    ck_status(parts, kvsim_set_rope(parts, &half), KVSIM_OK);
    kvsim_result *result = NULL;
    ck_status(parts, kvsim_compute(parts, &options, &result), KVSIM_OK);
    check_same_columns(result, expected);
    kvsim_result_destroy(result);
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(parts);
    kvsim_ctx_destroy(whole);
}
END_TEST

START_TEST(the_order_of_pages_does_not_matter_to_figures_of_pairs) {
    page_set *set = make_page_set(50 + (uint64_t)_i, KVSIM_KIND_BOTH, 60, 3, 2, 6);
    kvsim_compute_options options = make_options();
    options.pairs = _i % 2 == 0 ? KVSIM_PAIRS_ALL : KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    kvsim_ctx *ctx = make_context(1), *shuffled = make_context(1);
    kvsim_result *expected = compute_set(ctx, set, &options);
    uint64_t seed = (uint64_t)_i;
    for (size_t i = 59; i > 0; i--) {
        const size_t j = draw_below(&seed, i + 1);
        const int64_t id = set->ids[i], sequence = set->reference.sequences[i], position = set->reference.positions[i];
        set->ids[i] = set->ids[j];
        set->ids[j] = id;
        set->reference.sequences[i] = set->reference.sequences[j];
        set->reference.sequences[j] = sequence;
        set->reference.positions[i] = set->reference.positions[j];
        set->reference.positions[j] = position;
    }
    kvsim_result *result = compute_set(shuffled, set, &options);
    static const char *const counts[] = {"pages", "pairs", "references", "physical_pages"};
    static const char *const reals[] = {"mean_square",  "cosine_mean",       "cosine_min",   "cosine_max", "mean_l2",
                                        "mean_hamming", "mean_hamming_sign", "mean_jaccard", "l2_upper"};
    for (int64_t row = 0; row < row_count(result, "groups"); row++) {
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            ck_assert_int_eq(get_integer(result, "groups", counts[c], row),
                             get_integer(expected, "groups", counts[c], row));
        }
        if (options.pairs == KVSIM_PAIRS_ALL) {
            ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", row),
                             get_integer(expected, "groups", "exact_duplicates", row));
        }
        for (size_t c = 0; c < sizeof reals / sizeof reals[0]; c++) {
            const double is = get_real(result, "groups", reals[c], row);
            ck_assert_double_eq_tol(is, get_real(expected, "groups", reals[c], row), 1e-6 * (1.0 + fabs(is)));
        }
    }
    for (int64_t row = 0; row < row_count(result, "thresholds"); row++) {
        ck_assert_int_eq(get_integer(result, "thresholds", "pairs", row),
                         get_integer(expected, "thresholds", "pairs", row));
    }
    kvsim_result_destroy(result);
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(shuffled);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_result_can_be_computed_again_and_outlives_new_pages) {
    page_set *set = make_page_set(3, KVSIM_KIND_BOTH, 40, 3, 2, 6);
    const kvsim_compute_options options = make_options();
    kvsim_ctx *ctx = make_context(2);
    kvsim_result *first = compute_set(ctx, set, &options), *second = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &second), KVSIM_OK);
    check_same_columns(first, second);
    const text before = write_report(ctx, first, 2);
    add_page_set(ctx, set); /* another source: new pages */
    kvsim_ctx_clear(ctx);
    const text after = write_report(ctx, first, 2);
    ck_assert_str_eq(before.data, after.data);
    check_same_columns(first, second);
    kvsim_result_destroy(first);
    kvsim_result_destroy(second);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- progress ---- */

typedef struct progress {
    uint64_t calls, cancel_at, last, total;
    atomic_int inside;
} progress;

static int note_progress(void *user, uint64_t done, uint64_t total) {
    progress *to = user;
    if (atomic_fetch_add(&to->inside, 1) != 0 || done < to->last || done > total ||
        (to->total != 0 && total != to->total)) {
        abort(); /* another thread's call, or a step back; Check's own calls belong to the first thread */
    }
    to->calls++;
    to->last = done;
    to->total = total;
    /* Longer than the interval between calls, so that every tile reports. */
    (void)nanosleep(&(struct timespec){.tv_nsec = to->cancel_at > 1 ? 101000000 : 0}, NULL);
    atomic_fetch_sub(&to->inside, 1);
    return to->calls == to->cancel_at ? -3 : 0;
}

START_TEST(progress_rises_to_the_total) {
    page_set *set = make_page_set(3, KVSIM_KIND_BOTH, 100, 3, 2, 6);
    kvsim_compute_options options = make_options();
    progress seen = {0};
    options.progress = note_progress;
    options.progress_user = &seen;
    options.pairs = _i == 0 ? KVSIM_PAIRS_ALL : KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    kvsim_ctx *ctx = make_context(3);
    kvsim_result *result = compute_set(ctx, set, &options);
    ck_assert_uint_ge(seen.calls, 1);
    ck_assert_uint_eq(seen.last, seen.total);
    /* 4 views, all heads and each of two, keys and values. */
    ck_assert_uint_eq(seen.total, 4 * 3 * 2 * (100 * 99 / 2));
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(every_call_of_the_progress_callback_can_cancel) {
    page_set *set = make_page_set(3, KVSIM_KIND_BOTH, 40, 3, 2, 6);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.progress = note_progress;
    kvsim_ctx *ctx = make_context(2);
    add_page_set(ctx, set);
    kvsim_result *expected = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &expected), KVSIM_OK);
    kvsim_status status = KVSIM_E_CANCELLED;
    uint64_t cancel_at = 0;
    while (status == KVSIM_E_CANCELLED) {
        progress seen = {.cancel_at = ++cancel_at};
        options.progress_user = &seen;
        kvsim_result *result = (kvsim_result *)(void *)&result;
        status = kvsim_compute(ctx, &options, &result);
        /* Told to cancel means cancelled, also by the last call of all. */
        ck_assert_int_eq(status, seen.calls >= cancel_at ? KVSIM_E_CANCELLED : KVSIM_OK);
        ck_assert_int_eq(result != NULL, status == KVSIM_OK);
        if (result != NULL) {
            check_same_columns(result, expected);
        }
        kvsim_result_destroy(result);
        ck_assert_uint_le(cancel_at, 50);
    }
    ck_assert_uint_ge(cancel_at, 3);
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- sinks ---- */

static kvsim_result *make_result(kvsim_ctx *ctx) {
    page_set *set = make_page_set(3, KVSIM_KIND_BOTH, 30, 3, 2, 6);
    memset(set->elements[0] + 36, 0, 36 * sizeof(float)); /* an infinite relative error */
    const kvsim_compute_options options = make_options();
    return compute_set(ctx, set, &options);
}

START_TEST(callback_stream_and_path_receive_the_same_bytes) {
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = make_result(ctx);
    for (uint32_t indent = 0; indent <= 16; indent += 4) {
        const text expected = write_report(ctx, result, indent);
        char folder[] = "/tmp/kvsim-test-XXXXXX", path[64];
        ck_assert_ptr_nonnull(mkdtemp(folder));
        (void)snprintf(path, sizeof path, "%s/report.json", folder);
        FILE *stream = tmpfile();
        ck_assert_ptr_nonnull(stream);
        kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
        options.indent = indent;
        options.file = stream;
        ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_OK);
        options.file = NULL;
        options.path = path;
        ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_OK);
        ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_OK); /* over the one that is there */
        FILE *file = fopen(path, "rb");
        ck_assert_ptr_nonnull(file);
        rewind(stream);
        char *from_file = get_memory(expected.size + 1), *from_stream = get_memory(expected.size + 1);
        ck_assert_uint_eq(fread(from_file, 1, expected.size + 1, file), expected.size);
        ck_assert_uint_eq(fread(from_stream, 1, expected.size + 1, stream), expected.size);
        ck_assert_str_eq(from_file, expected.data);
        ck_assert_str_eq(from_stream, expected.data);
        (void)fclose(file);
        (void)fclose(stream);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(rmdir(folder), 0); /* nothing else was left in it */
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_sink_that_fails_is_an_io_error) {
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = make_result(ctx);
    const text whole = write_report(ctx, result, 2);
    ck_assert_uint_gt(whole.calls, 3);
    for (size_t fail_at = 1; fail_at <= whole.calls; fail_at++) {
        text out = {.fail_at = fail_at};
        kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
        options.write = keep;
        options.write_user = &out;
        options.indent = 2;
        ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_IO);
        ck_assert_uint_eq(out.calls, fail_at);
    }
    kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
    options.file = fopen("/dev/full", "wb");
    if (options.file != NULL) {
        ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_IO);
        ck_assert_ptr_nonnull(strstr(kvsim_ctx_error(ctx), "space"));
        (void)fclose(options.file);
        options.file = NULL;
    }
    options.path = "/tmp/kvsim-no-such-folder/report.json";
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_IO);
    ck_assert_ptr_nonnull(strstr(kvsim_ctx_error(ctx), "/tmp/kvsim-no-such-folder/report.json"));
    options.path = "";
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_INVALID);
    options.path = "/dev/null";
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_INVALID);
    options.path = NULL;
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_INVALID);
    options.file = stdout;
    options.write = keep;
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_INVALID);
    options.write = NULL;
    options.indent = 17;
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_E_INVALID);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_decimal_comma_does_not_reach_the_report) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "nl_NL.UTF-8"};
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = make_result(ctx);
    const text expected = write_report(ctx, result, 0);
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; i++) {
        found = setlocale(LC_ALL, names[i]) != NULL && strcmp(localeconv()->decimal_point, ".") != 0;
    }
    const text localised = write_report(ctx, result, 0);
    (void)setlocale(LC_ALL, "C");
    ck_assert_str_eq(localised.data, expected.data);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    if (!found) {
        kvsim_check_skip("no locale with a decimal comma is installed");
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("report");
    TCase *runs = kvsim_check_case(suite, "runs");
    tcase_add_loop_test(runs, threads_and_their_order_do_not_change_a_byte, 0, 2);
    tcase_add_loop_test(runs, splitting_the_calls_changes_nothing, 0, 4);
    tcase_add_loop_test(runs, the_order_of_pages_does_not_matter_to_figures_of_pairs, 0, 6);
    tcase_add_test(runs, a_result_can_be_computed_again_and_outlives_new_pages);
    TCase *progress_case = kvsim_check_case(suite, "progress");
    tcase_add_loop_test(progress_case, progress_rises_to_the_total, 0, 2);
    tcase_add_test(progress_case, every_call_of_the_progress_callback_can_cancel);
    TCase *sinks = kvsim_check_case(suite, "sinks");
    tcase_add_test(sinks, callback_stream_and_path_receive_the_same_bytes);
    tcase_add_test(sinks, a_sink_that_fails_is_an_io_error);
    tcase_add_test(sinks, a_decimal_comma_does_not_reach_the_report);
    return kvsim_check_main(suite, "test_report", 19);
}
