/* Chance levels, intervals, strata, bounds and the ledger: options, refusals, threads, and contents that are hard. */
#include "core_tools.h"
#include "kvsim_check.h"
#include "page_set.h"

#include "compute/context.h"
#include "pages/view.h"

#include <stdio.h>

enum {
    FINDINGS = KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER,
    EVERYTHING = FINDINGS | KVSIM_COMPUTE_PER_HEAD | KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS |
                 KVSIM_COMPUTE_PAGES | KVSIM_COMPUTE_DISTANCES
};

static const kvsim_rope half = {.struct_size = sizeof half, .style = KVSIM_ROPE_HALF};

static kvsim_compute_options make_options(uint32_t flags) {
    static const double thresholds[] = {0.2, 0.7, 0.95}, budgets[] = {0.0, 0.1, 0.4};
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = flags;
    options.views = 15;
    options.null_repetitions = 6;
    options.resamples = 50;
    options.thresholds = thresholds;
    options.budgets = budgets;
    options.threshold_count = options.budget_count = 3;
    return options;
}

static kvsim_result *compute_set(kvsim_ctx *ctx, page_set *set, const kvsim_compute_options *options) {
    kvsim_result *result = NULL;
    add_page_set(ctx, set);
    ck_status(ctx, kvsim_set_rope(ctx, &half), KVSIM_OK);
    ck_status(ctx, kvsim_compute(ctx, options, &result), KVSIM_OK);
    return result;
}

typedef struct text {
    char *data;
    size_t size, room;
} text;

static int append(void *user, const void *data, size_t size) {
    text *to = user;
    if (to->size + size + 1 > to->room) {
        char *larger = get_memory(2 * (to->size + size + 1));
        if (to->size > 0) {
            memcpy(larger, to->data, to->size);
        }
        to->data = larger;
        to->room = 2 * (to->size + size + 1);
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
    to->data[to->size] = '\0';
    return 0;
}

static text write_report(kvsim_ctx *ctx, const kvsim_result *result) {
    text report = {0};
    kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
    options.write = append;
    options.write_user = &report;
    ck_status(ctx, kvsim_report(ctx, result, &options), KVSIM_OK);
    return report;
}

static void check_same_columns(const kvsim_result *a, const kvsim_result *b) {
    for (uint32_t i = 0; i < kvsim_result_column_count(a); i++) {
        kvsim_column x = KVSIM_COLUMN_INIT, y = KVSIM_COLUMN_INIT;
        ck_assert_int_eq(kvsim_result_column_at(a, i, &x), KVSIM_OK);
        ck_assert_int_eq(kvsim_result_column_at(b, i, &y), KVSIM_OK);
        require(x.rows == y.rows && x.width == y.width, "%s.%s: another number of rows", x.table, x.name);
        const size_t bytes = (size_t)x.rows * (size_t)x.width * (x.dtype_bits / 8u);
        require(bytes == 0 || memcmp(x.data, y.data, bytes) == 0, "column %s of %s differs", x.name, x.table);
    }
}

/* The bins of every row add up, and the first rows of all layers to the bytes of all pages. */
static void check_ledger(const kvsim_result *result) {
    static const char *const bins[] = {"left_out_bytes", "exact_bytes", "ulp_bytes", "near_bytes", "unique_bytes"};
    int64_t all = 0;
    for (int64_t row = 0; row < row_count(result, "ledger"); row++) {
        int64_t sum = 0;
        for (size_t bin = 0; bin < sizeof bins / sizeof bins[0]; bin++) {
            const int64_t bytes = get_integer(result, "ledger", bins[bin], row);
            ck_assert_int_ge(bytes, 0);
            sum += bytes;
        }
        ck_assert_int_eq(sum, get_integer(result, "ledger", "seen_bytes", row));
        all += get_real(result, "ledger", "budget", row) == 0.0 ? sum : 0;
    }
    ck_assert_int_eq(all, get_integer(result, "summary", "physical_bytes", 0));
}

static void check_bounds(const kvsim_result *result) {
    static const char *const tables[] = {"dedup", "block_dedup"};
    for (int t = 0; t < 2; t++) {
        for (int64_t row = 0; row < row_count(result, tables[t]); row++) {
            const int64_t least = get_integer(result, tables[t], "lower_bound", row);
            const int64_t kept = get_integer(result, tables[t], "representatives", row);
            require(least <= kept, "%s, row %lld: at least %lld, but %lld", tables[t], (long long)row, (long long)least,
                    (long long)kept);
            ck_assert_int_eq(least > 0, kept > 0);
            ck_assert_int_eq(get_integer(result, tables[t], "scaled_representatives", row) > 0, kept > 0);
        }
    }
}

/* ---- options ---- */

START_TEST(options_of_findings_are_checked) {
    static const int64_t families[2] = {1, 1};
    page_set *set = make_page_set(1, KVSIM_KIND_BOTH, 9, 1, 1, 4);
    kvsim_ctx *ctx = make_context(1);
    add_page_set(ctx, set);
    for (int i = 0; i < 6; i++) {
        kvsim_compute_options options = make_options(FINDINGS);
        options.views = KVSIM_VIEW_RAW;
        options.null_repetitions = i == 0 ? 1001 : 1;
        options.resamples = i == 1 ? 100001 : 2;
        options.families = i == 2 ? families : NULL;
        options.family_count = i == 3 ? 2 : 0;
        options.reserved = i == 4 ? 1 : 0;
        options.flags |= i == 5 ? 1u << 30 : 0;
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_E_INVALID);
        ck_assert_ptr_null(result);
        ck_assert_str_ne(kvsim_ctx_error(ctx), "");
    }
    kvsim_compute_options options = make_options(FINDINGS);
    options.views = KVSIM_VIEW_RAW;
    options.null_repetitions = 1000;
    options.resamples = 100000;
    options.ulps = UINT32_MAX;
    options.families = families;
    options.family_count = 2;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    const text report = write_report(ctx, result);
    ck_assert_ptr_nonnull(strstr(report.data, "\"null_repetitions\":1000"));
    ck_assert_ptr_nonnull(strstr(report.data, "\"resamples\":100000"));
    ck_assert_ptr_nonnull(strstr(report.data, "\"ulps\":4294967295"));
    kvsim_result_destroy(result);
    options = make_options(FINDINGS);
    options.views = KVSIM_VIEW_RAW;
    options.null_repetitions = options.resamples = 0;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    const text defaults = write_report(ctx, result);
    ck_assert_ptr_nonnull(strstr(defaults.data, "\"null_repetitions\":20"));
    ck_assert_ptr_nonnull(strstr(defaults.data, "\"resamples\":1000"));
    ck_assert_ptr_nonnull(strstr(defaults.data, "\"ulps\":1"));
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(tables_that_were_not_asked_for_are_empty) {
    static const char *const tables[] = {"statistics", "strata", "ledger", "lossless"};
    static const uint32_t flags[] = {KVSIM_COMPUTE_CHANCE, KVSIM_COMPUTE_STRATA, KVSIM_COMPUTE_LEDGER,
                                     KVSIM_COMPUTE_LEDGER};
    page_set *set = make_page_set(1, KVSIM_KIND_BOTH, 20, 2, 1, 4);
    for (int asked = 0; asked < 4; asked++) {
        const kvsim_compute_options options = make_options(flags[asked]);
        kvsim_ctx *ctx = make_context(1);
        kvsim_result *result = compute_set(ctx, set, &options);
        const text report = write_report(ctx, result);
        for (int t = 0; t < 4; t++) {
            char key[32];
            (void)snprintf(key, sizeof key, "\"%s\":[", tables[t]);
            ck_assert_int_eq(row_count(result, tables[t]) > 0, flags[t] == flags[asked]);
            ck_assert_int_eq(strstr(report.data, key) != NULL, flags[t] == flags[asked]);
        }
        ck_assert_int_eq(get_integer(result, "dedup", "lower_bound", 0), 0);
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
}
END_TEST

START_TEST(what_each_page_found_needs_what_finds_it) {
    page_set *set = make_page_set(1, KVSIM_KIND_BOTH, 9, 1, 1, 4);
    kvsim_ctx *ctx = make_context(1);
    add_page_set(ctx, set);
    static const uint32_t without[] = {0, KVSIM_COMPUTE_CHANCE, KVSIM_COMPUTE_STRATA};
    for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
        kvsim_compute_options options = make_options(KVSIM_COMPUTE_PAGES | without[i]);
        options.views = KVSIM_VIEW_RAW;
        kvsim_result *result = NULL;
        ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_E_INVALID);
        ck_assert_ptr_nonnull(strstr(kvsim_ctx_error(ctx), "KVSIM_COMPUTE_CHANCE"));
    }
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- rows that are added up in another way ---- */

/* Rows of `page_thresholds` of a group and threshold, summed: pages that match, by relation. */
static void sum_page_thresholds(const kvsim_result *result, int64_t group, double threshold, int64_t sums[3],
                                int64_t *pages_above) {
    static const char *const relations[] = {"same", "family", "different"};
    sums[0] = sums[1] = sums[2] = *pages_above = 0;
    for (int64_t row = 0; row < row_count(result, "page_thresholds"); row++) {
        if (get_integer(result, "page_thresholds", "group", row) != group ||
            get_real(result, "page_thresholds", "threshold", row) != threshold) {
            continue;
        }
        const int64_t page = get_integer(result, "page_thresholds", "page", row);
        const int64_t own = get_integer(result, "pages", "sequence", page);
        const int64_t earlier = get_integer(result, "page_thresholds", "earlier_sequences", row);
        const int64_t only = get_integer(result, "page_thresholds", "only_sequence", row);
        bool any = false;
        int64_t found[3];
        for (int r = 0; r < 3; r++) {
            found[r] = get_integer(result, "page_thresholds", relations[r], row);
            sums[r] += found[r];
            any = any || found[r] != 0;
        }
        *pages_above += any;
        ck_assert_int_eq(any, earlier > 0);
        require(earlier == 1 ? only >= 0 && (found[0] != 0) == (only == own) : only == -1,
                "%lld earlier sequences, the only one %lld", (long long)earlier, (long long)only);
    }
}

START_TEST(what_each_page_found_adds_up) {
    static const int64_t families[SEQUENCES] = {7, 8, 7, 9, 8};
    page_set *set = make_page_set(21, KVSIM_KIND_BOTH, 80, 2, 1, 8);
    kvsim_compute_options options = make_options(FINDINGS | KVSIM_COMPUTE_PAGES);
    options.families = families;
    options.family_count = SEQUENCES;
    options.pairs = _i == 1 ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_set(ctx, set, &options);
    const int64_t thresholds = row_count(result, "thresholds");
    for (int64_t row = 0; row < thresholds; row++) {
        const int64_t group = get_integer(result, "thresholds", "group", row);
        const double threshold = get_real(result, "thresholds", "threshold", row);
        int64_t sums[3], above, strata[3] = {0, 0, 0};
        sum_page_thresholds(result, group, threshold, sums, &above);
        ck_assert_int_eq(above, get_integer(result, "thresholds", "pages", row));
        for (int64_t s = 0; s < row_count(result, "strata"); s++) {
            if (get_integer(result, "strata", "group", s) == group &&
                get_real(result, "strata", "threshold", s) == threshold) {
                strata[get_integer(result, "strata", "relation", s)] += get_integer(result, "strata", "pages_above", s);
            }
        }
        for (int r = 0; r < 3; r++) {
            ck_assert_int_eq(sums[r], strata[r]);
        }
    }
    ck_assert_int_eq(row_count(result, "page_thresholds"), thresholds * 80);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(duplicates_are_listed_with_the_first_of_their_bytes) {
    page_set *set = make_page_set(22, KVSIM_KIND_BOTH, 60, 2, 1, 4);
    kvsim_compute_options options = make_options(FINDINGS | KVSIM_COMPUTE_PAGES);
    kvsim_ctx *ctx = make_context(1);
    const size_t n = 2 * 4 * sizeof(float);
    memcpy(set->elements[0] + 30 * 8, set->elements[0] + 3 * 8, n);
    memcpy(set->elements[0] + 31 * 8, set->elements[0] + 3 * 8, n);
    memcpy(set->elements[1] + 31 * 8, set->elements[1] + 30 * 8, n);
    kvsim_result *result = compute_set(ctx, set, &options);
    int64_t listed[3] = {0, 0, 0}, block_page = -1;
    for (int64_t row = 0; row < row_count(result, "duplicates"); row++) {
        const int64_t kind = get_integer(result, "duplicates", "kind", row);
        const int64_t page = get_integer(result, "duplicates", "page", row);
        const int64_t first = get_integer(result, "duplicates", "first_page", row);
        const int64_t a = get_integer(result, "pages", "block", page), b = get_integer(result, "pages", "block", first);
        ck_assert_int_lt(b, a);
        const int element = kind == KVSIM_KIND_VALUE ? 1 : 0;
        ck_assert_int_eq(memcmp(set->elements[element] + a * 8, set->elements[element] + b * 8, n), 0);
        ck_assert_int_eq(memcmp(set->elements[1] + a * 8, set->elements[1] + b * 8, n) == 0 || kind == KVSIM_KIND_KEY,
                         1);
        listed[kind]++;
        block_page = kind == 0 && a == 31 ? b : block_page;
    }
    ck_assert_int_eq(block_page, 30);
    ck_assert_int_eq(listed[KVSIM_KIND_KEY], get_integer(result, "groups", "exact_duplicates", 0));
    ck_assert_int_eq(listed[KVSIM_KIND_VALUE], get_integer(result, "groups", "exact_duplicates", 1));
    ck_assert_int_eq(listed[0], get_integer(result, "blocks", "exact_duplicates", 0));
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* Against cosines in double of the pages as they are, in the raw view: all pairs of a sequence, at their distance. */
START_TEST(distances_hold_the_pairs_of_each_sequence) {
    enum { PAGES = 300, TOKENS = 2, CHANNELS = 8, N = TOKENS * CHANNELS };
    page_set *set = make_page_set(23, KVSIM_KIND_VALUE, PAGES, TOKENS, 1, CHANNELS);
    int64_t next[SEQUENCES] = {0};
    for (size_t p = 0; p < PAGES; p++) {
        set->reference.positions[p] = TOKENS * next[set->reference.sequences[p]]++;
    }
    static const double threshold = 0.7;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = KVSIM_COMPUTE_DISTANCES;
    options.thresholds = &threshold;
    options.threshold_count = 1;
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES; /* is left aside */
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_set(ctx, set, &options);
    uint64_t pairs_seen = 0, pairs_there = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        pairs_there += (uint64_t)(next[s] * (next[s] - 1) / 2);
    }
    for (int64_t row = 0; row < row_count(result, "distances"); row++) {
        const int64_t sequence = get_integer(result, "distances", "sequence", row);
        const int64_t distance = get_integer(result, "distances", "distance", row);
        int64_t pairs = 0, above = 0;
        double sum = 0.0;
        for (size_t a = 0; a < PAGES; a++) {
            for (size_t b = 0; b < a; b++) {
                if (set->reference.sequences[a] != sequence || set->reference.sequences[b] != sequence ||
                    set->reference.positions[a] - set->reference.positions[b] != distance) {
                    continue;
                }
                double dot = 0.0, x = 0.0, y = 0.0;
                for (size_t i = 0; i < N; i++) {
                    const double left = set->elements[1][a * N + i], right = set->elements[1][b * N + i];
                    dot += left * right;
                    x += left * left;
                    y += right * right;
                }
                const double cosine = x == 0.0 && y == 0.0 ? 1.0 : x == 0.0 || y == 0.0 ? 0.0 : dot / sqrt(x * y);
                pairs++;
                above += cosine >= threshold;
                sum += cosine;
            }
        }
        ck_assert_int_gt(pairs, 0);
        ck_assert_int_eq(get_integer(result, "distances", "pairs", row), pairs);
        ck_assert_int_eq(get_integer(result, "distances", "pairs_above", row), above);
        require(fabs(get_real(result, "distances", "cosine_mean", row) - sum / (double)pairs) < 2e-6, "row %lld",
                (long long)row);
        pairs_seen += (uint64_t)pairs;
    }
    ck_assert_int_eq((int64_t)pairs_seen, (int64_t)pairs_there);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- runs ---- */

static void run_in_reverse(void *user, uint32_t count, void (*body)(void *argument, uint32_t index), void *argument) {
    (void)user;
    while (count > 0) {
        body(argument, --count);
    }
}

START_TEST(threads_change_no_byte_of_the_findings) {
    /* Row 1 has more pages than are drawn for a chance level, and more than a panel. */
    page_set *set = make_page_set(8, KVSIM_KIND_BOTH, _i == 1 ? 600 : 90, 2, _i == 1 ? 1 : 2, _i == 1 ? 4 : 32);
    kvsim_compute_options options = make_options(EVERYTHING);
    options.pairs = _i == 2 ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    if (_i == 1) {
        options.views = KVSIM_VIEW_DEROTATED_CENTERED;
        options.flags &= ~(uint32_t)KVSIM_COMPUTE_PER_HEAD;
    }
    kvsim_ctx *first = make_context(1);
    kvsim_result *expected = compute_set(first, set, &options);
    const text expected_report = write_report(first, expected);
    check_ledger(expected);
    check_bounds(expected);
    static const uint32_t threads[] = {2, 7, 0};
    for (int run = 0; run < 3; run++) {
        kvsim_options own = KVSIM_OPTIONS_INIT;
        own.threads = threads[run];
        own.parallel_for = run == 2 ? run_in_reverse : NULL;
        kvsim_ctx *ctx = NULL;
        ck_assert_int_eq(kvsim_ctx_create(&own, &ctx), KVSIM_OK);
        kvsim_result *result = compute_set(ctx, set, &options);
        const text report = write_report(ctx, result);
        ck_assert_str_eq(report.data, expected_report.data);
        check_same_columns(result, expected);
        kvsim_result_destroy(result);
        kvsim_ctx_destroy(ctx);
    }
    kvsim_result_destroy(expected);
    kvsim_ctx_destroy(first);
}
END_TEST

START_TEST(a_seed_changes_what_is_drawn_and_nothing_else) {
    page_set *set = make_page_set(4, KVSIM_KIND_BOTH, 60, 2, 2, 8);
    kvsim_compute_options options = make_options(EVERYTHING);
    kvsim_ctx *ctx = make_context(2);
    kvsim_result *one = compute_set(ctx, set, &options), *other = NULL;
    options.seed = 2;
    ck_status(ctx, kvsim_compute(ctx, &options, &other), KVSIM_OK);
    int64_t nulls = 0;
    for (int64_t row = 0; row < row_count(one, "statistics"); row++) {
        const double a = get_real(one, "statistics", "observed", row),
                     b = get_real(other, "statistics", "observed", row);
        require(a == b, "observed %g and %g", a, b);
        nulls += get_real(one, "statistics", "null_mean", row) != get_real(other, "statistics", "null_mean", row);
    }
    ck_assert_int_gt(nulls, row_count(one, "statistics") / 10);
    for (uint32_t i = 0; i < kvsim_result_column_count(one); i++) {
        kvsim_column x = KVSIM_COLUMN_INIT, y = KVSIM_COLUMN_INIT;
        ck_assert_int_eq(kvsim_result_column_at(one, i, &x), KVSIM_OK);
        ck_assert_int_eq(kvsim_result_column_at(other, i, &y), KVSIM_OK);
        const size_t bytes = (size_t)x.rows * (size_t)x.width * (x.dtype_bits / 8u);
        require(strcmp(x.table, "statistics") == 0 || bytes == 0 || memcmp(x.data, y.data, bytes) == 0, "%s.%s differs",
                x.table, x.name);
    }
    kvsim_result_destroy(one);
    kvsim_result_destroy(other);
    kvsim_ctx_destroy(ctx);
}
END_TEST

static int cancel_when_all_pairs_are_done(void *user, uint64_t done, uint64_t total) {
    ++*(int *)user;
    return done >= total;
}

START_TEST(cancelling_in_a_chance_level_leaves_the_context_usable) {
    page_set *set = make_page_set(2, KVSIM_KIND_BOTH, 300, 2, 1, 8);
    kvsim_compute_options options = make_options(FINDINGS);
    options.views = KVSIM_VIEW_RAW;
    options.null_repetitions = 200;
    kvsim_ctx *ctx = make_context(2);
    add_page_set(ctx, set);
    int calls = 0;
    options.progress = cancel_when_all_pairs_are_done;
    options.progress_user = &calls;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_E_CANCELLED);
    ck_assert_ptr_null(result);
    ck_assert_int_gt(calls, 0);
    options.progress = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- groups that are too small ---- */

START_TEST(too_few_pages_or_sequences_give_no_figure_not_a_narrow_one) {
    static const size_t counts[] = {0, 1, 2, 4, 7, 8, 9};
    page_set *set = make_page_set(3, KVSIM_KIND_BOTH, counts[_i], 2, 1, 4);
    for (size_t p = 0; p < counts[_i]; p++) {
        set->reference.sequences[p] = (int64_t)(p % (counts[_i] == 9 ? 5 : 4));
    }
    const kvsim_compute_options options = make_options(EVERYTHING);
    kvsim_ctx *ctx = make_context(2);
    kvsim_result *result = compute_set(ctx, set, &options);
    ck_assert_int_eq(row_count(result, "statistics") > 0, counts[_i] > 0);
    int64_t intervals = 0;
    for (int64_t row = 0; row < row_count(result, "statistics"); row++) {
        const double chance = get_real(result, "statistics", "null_mean", row);
        const double low = get_real(result, "statistics", "low", row),
                     high = get_real(result, "statistics", "high", row);
        ck_assert_int_eq(isnan(chance), counts[_i] < 8);
        ck_assert_int_eq(isnan(get_real(result, "statistics", "excess", row)), counts[_i] < 8);
        ck_assert_int_eq(isnan(low), isnan(high));
        ck_assert(isnan(low) || (low < high && counts[_i] == 9));
        ck_assert_int_eq(isnan(get_real(result, "statistics", "excess_low", row)), isnan(low) || counts[_i] < 8);
        intervals += !isnan(low);
    }
    ck_assert_int_eq(intervals > 0, counts[_i] == 9);
    const text report = write_report(ctx, result);
    ck_assert_ptr_null(strstr(report.data, "nan"));
    ck_assert_ptr_null(strstr(report.data, "inf\""));
    if (counts[_i] > 0 && counts[_i] < 8) {
        ck_assert_ptr_nonnull(strstr(report.data, "\"null\":null"));
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- kinds, heads, filters ---- */

START_TEST(pages_of_one_kind_have_all_findings) {
    page_set *set = make_page_set(5, _i == 0 ? KVSIM_KIND_KEY : KVSIM_KIND_VALUE, 40, 2, 2, 6);
    set->fills[3] = 1; /* partial: left out, and in the ledger as that */
    const kvsim_compute_options options = make_options(EVERYTHING);
    kvsim_ctx *ctx = make_context(2);
    kvsim_result *result = compute_set(ctx, set, &options);
    const int kind = _i == 0 ? KVSIM_KIND_KEY : KVSIM_KIND_VALUE;
    check_ledger(result);
    check_bounds(result);
    ck_assert_int_eq(row_count(result, "block_dedup"), 0);
    ck_assert_int_eq(row_count(result, "ledger"), 3);
    ck_assert_int_eq(row_count(result, "lossless"), 1);
    ck_assert_int_eq(get_integer(result, "ledger", "kind", 0), kind);
    ck_assert_int_eq(get_integer(result, "ledger", "left_out_bytes", 0), 2 * 2 * 6 * 4);
    for (int64_t row = 0; row < row_count(result, "statistics"); row++) {
        ck_assert_int_eq(get_integer(result, "statistics", "kind", row), kind);
    }
    /* 1 mean cosine, 3 pair, 3 page and 3 removed shares; 4 views; all heads and 2 of them. */
    ck_assert_int_eq(row_count(result, "statistics"), 10 * 4 * 3);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_head_has_the_findings_of_its_pages_alone) {
    enum { COUNT = 40, TOKENS = 2, HEADS = 2, CHANNELS = 6 };
    page_set *whole = make_page_set(6, KVSIM_KIND_BOTH, COUNT, TOKENS, HEADS, CHANNELS);
    page_set *alone = make_page_set(6, KVSIM_KIND_BOTH, COUNT, TOKENS, 1, CHANNELS);
    memcpy(alone->reference.sequences, whole->reference.sequences, COUNT * sizeof(int64_t));
    memcpy(alone->reference.positions, whole->reference.positions, COUNT * sizeof(int64_t));
    for (int kind = 0; kind < 2; kind++) {
        for (size_t row = 0; row < COUNT * TOKENS; row++) {
            memcpy(alone->elements[kind] + row * CHANNELS, whole->elements[kind] + (row * HEADS + 1) * CHANNELS,
                   CHANNELS * sizeof(float));
        }
    }
    const kvsim_compute_options options = make_options(FINDINGS | KVSIM_COMPUTE_PER_HEAD);
    kvsim_ctx *first = make_context(1), *second = make_context(1);
    kvsim_result *all = compute_set(first, whole, &options), *one = compute_set(second, alone, &options);
    int64_t compared = 0;
    int64_t of_alone = 0;
    for (int64_t row = 0; row < row_count(all, "statistics"); row++) {
        if (get_integer(all, "statistics", "head", row) != 1) {
            continue;
        }
        while (get_integer(one, "statistics", "head", of_alone) != -1) {
            of_alone++;
        }
        ck_assert_int_eq(get_integer(all, "statistics", "view", row), get_integer(one, "statistics", "view", of_alone));
        ck_assert_int_eq(get_integer(all, "statistics", "statistic", row),
                         get_integer(one, "statistics", "statistic", of_alone));
        const double a = get_real(all, "statistics", "observed", row);
        ck_assert_double_eq_tol(a, get_real(one, "statistics", "observed", of_alone), 1e-7);
        ck_assert_double_eq_tol(get_real(all, "statistics", "null_mean", row),
                                get_real(one, "statistics", "null_mean", of_alone), 1e-6);
        of_alone++;
        compared++;
    }
    ck_assert_int_eq(compared, (10 + 10 + 3) * 4);
    const int64_t a = find_row(all, "groups", KVSIM_VIEW_RAW, 0, KVSIM_KIND_KEY, 1);
    const int64_t b = find_row(one, "groups", KVSIM_VIEW_RAW, 0, KVSIM_KIND_KEY, -1);
    for (int64_t i = 0; i < 3; i++) {
        ck_assert_int_eq(get_integer(all, "dedup", "lower_bound", owned_row(all, "dedup", a, i)),
                         get_integer(one, "dedup", "lower_bound", owned_row(one, "dedup", b, i)));
    }
    kvsim_result_destroy(all);
    kvsim_result_destroy(one);
    kvsim_ctx_destroy(first);
    kvsim_ctx_destroy(second);
}
END_TEST

START_TEST(opaque_pages_are_in_the_ledger_and_in_no_other_finding) {
    static unsigned char bytes[12 * 16];
    static const int64_t shape[2] = {12, 16};
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i / 16 % 6 * 31 + i % 16);
    }
    const kvsim_tensor tensor = make_tensor(bytes, KVSIM_DTYPE_OPAQUE, 8, shape, 2);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = _i == 0 ? KVSIM_KIND_BOTH : _i == 1 ? KVSIM_KIND_KEY : KVSIM_KIND_VALUE;
    pages.layout = KVSIM_LAYOUT_OPAQUE;
    pages.tensor = &tensor;
    pages.value_tensor = _i == 0 ? &tensor : NULL;
    pages.layer = 1;
    page_set *set = make_page_set(7, KVSIM_KIND_BOTH, 12, 2, 1, 4);
    const kvsim_compute_options options = make_options(EVERYTHING);
    kvsim_ctx *ctx = make_context(2);
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    kvsim_result *result = compute_set(ctx, set, &options);
    check_bounds(result);
    check_ledger(result);
    const int64_t last = row_count(result, "ledger") - 1;
    ck_assert_int_eq(get_integer(result, "ledger", "layer", last), 1);
    ck_assert_int_eq(get_integer(result, "ledger", "kind", last), _i);
    ck_assert_int_eq(get_integer(result, "ledger", "exact", last), 6);
    ck_assert_int_eq(get_integer(result, "ledger", "unique", last), 6);
    ck_assert_int_eq(get_integer(result, "lossless", "pages", row_count(result, "lossless") - 1), 6);
    for (int64_t i = 0; i < row_count(result, "statistics"); i++) {
        ck_assert_int_eq(get_integer(result, "statistics", "layer", i), 0);
    }
    (void)write_report(ctx, result);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

START_TEST(dropped_pairs_are_in_no_finding) {
    page_set *set = make_page_set(9 + (uint64_t)_i, KVSIM_KIND_BOTH, 50, 2, 2, 6);
    kvsim_compute_options options = make_options(EVERYTHING);
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    kvsim_ctx *ctx = make_context(2);
    kvsim_result *result = compute_set(ctx, set, &options);
    check_ledger(result);
    check_bounds(result);
    int64_t pairs = 0;
    for (int64_t row = 0; row < row_count(result, "strata"); row++) {
        if (get_integer(result, "strata", "relation", row) == 0) {
            ck_assert_int_eq(get_integer(result, "strata", "pairs", row), 0);
            ck_assert_int_eq(get_integer(result, "strata", "pages_above", row), 0);
        }
        if (get_integer(result, "strata", "group", row) == 0 && get_real(result, "strata", "threshold", row) == 0.2) {
            pairs += get_integer(result, "strata", "pairs", row);
        }
    }
    ck_assert_int_eq(pairs, get_integer(result, "groups", "pairs", 0));
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* Four equal pages of sequences 1, 2, 1, 1. The second could stand for all others of sequence 1 but the first, so two
   are enough: pages that the filter keeps from each other must not all be counted as apart. */
START_TEST(a_lower_bound_knows_that_another_sequence_may_stand_for_two) {
    static const int64_t sequences[4] = {1, 2, 1, 1};
    page_set *set = make_page_set(1, KVSIM_KIND_BOTH, 4, 1, 1, 4);
    for (size_t p = 0; p < 4; p++) {
        set->reference.sequences[p] = sequences[p];
        for (int kind = 0; kind < 2; kind++) {
            memcpy(set->elements[kind] + p * 4, set->elements[kind], 4 * sizeof(float));
        }
    }
    set->elements[0][0] = set->elements[0][4] = set->elements[0][8] = set->elements[0][12] = 1.0f;
    kvsim_compute_options options = make_options(FINDINGS);
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_set(ctx, set, &options);
    for (int64_t row = 0; row < 3; row++) {
        ck_assert_int_eq(get_integer(result, "block_dedup", "lower_bound", row), 1);
        ck_assert_int_eq(get_integer(result, "block_dedup", "representatives", row), 3);
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* Nine pages without anything in common: shuffled, no page may meet a token of its own. */
START_TEST(chance_never_compares_a_token_with_itself) {
    enum { COUNT = 9, CHANNELS = 16 };
    page_set *set = make_page_set(1, KVSIM_KIND_VALUE, COUNT, 2, 1, CHANNELS);
    memset(set->elements[1], 0, COUNT * 2 * CHANNELS * sizeof(float));
    for (size_t p = 0; p < COUNT; p++) {
        set->elements[1][(p * 2 + 0) * CHANNELS + p] = 1.0f;
        set->elements[1][(p * 2 + 1) * CHANNELS + p] = -2.0f;
    }
    kvsim_compute_options options = make_options(FINDINGS);
    options.null_repetitions = 50;
    kvsim_ctx *ctx = make_context(1);
    kvsim_result *result = compute_set(ctx, set, &options);
    ck_assert_int_eq(get_integer(result, "statistics", "statistic", 0), 1);
    /* A page that met itself in one slot would have a cosine of 0.2 or 0.8. */
    ck_assert_double_eq(get_real(result, "statistics", "null_mean", 0), 0.0);
    ck_assert_double_eq(get_real(result, "statistics", "null_mean", 1), 0.0);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- rotation ---- */

/* De-rotated as the library does it, then rotated here: the stored page again, to 2 units in the last place of its pair
   of channels. */
START_TEST(rotating_a_derotated_page_gives_it_back) {
    enum { COUNT = 30, TOKENS = 3, CHANNELS = 16 };
    page_set *set = make_page_set(3, KVSIM_KIND_KEY, COUNT, TOKENS, 1, CHANNELS);
    kvsim_rope rope = half;
    rope.style = _i % 2 == 0 ? KVSIM_ROPE_HALF : KVSIM_ROPE_INTERLEAVED;
    rope.rotary_dims = _i < 2 ? 0 : 8;
    kvsim_ctx *ctx = make_context(1);
    add_page_set(ctx, set);
    ck_status(ctx, kvsim_set_rope(ctx, &rope), KVSIM_OK);
    uint32_t numbers[COUNT];
    for (uint32_t p = 0; p < COUNT; p++) {
        numbers[p] = p;
    }
    kvsim__group group = {.base = &ctx->base,
                          .store = &ctx->store,
                          .pages = numbers,
                          .slots = COUNT,
                          .count = COUNT,
                          .tokens = TOKENS,
                          .heads = 1,
                          .head_dim = CHANNELS,
                          .elements = TOKENS * CHANNELS};
    ck_status(ctx, kvsim__group_open(&group, KVSIM_VIEW_DEROTATED, KVSIM_KIND_KEY, &ctx->rope), KVSIM_OK);
    kvsim__scratch scratch = kvsim__scratch_at(&group, get_memory(kvsim__scratch_size(&group)));
    const int rotary = rope.rotary_dims != 0 ? rope.rotary_dims : CHANNELS;
    for (uint32_t p = 0; p < COUNT; p++) {
        kvsim__view_begin(&group, p, &scratch);
        for (int t = 0; t < TOKENS; t++) {
            const double *row = kvsim__view_row(&group, p, t, 0, &scratch);
            const float *stored = set->elements[0] + ((size_t)p * TOKENS + (size_t)t) * CHANNELS;
            for (int i = 0; i < CHANNELS; i++) {
                double value = row[i];
                float size = fabsf(stored[i]);
                if (i < rotary) {
                    const bool halves = rope.style == KVSIM_ROPE_HALF;
                    const int pair = halves ? i % (rotary / 2) : i / 2;
                    const bool second = halves ? i >= rotary / 2 : i % 2 == 1;
                    const int other = halves ? (second ? i - rotary / 2 : i + rotary / 2) : (second ? i - 1 : i + 1);
                    const double angle = (double)(set->reference.positions[p] + t) * pow(10000.0, -2.0 * pair / rotary);
                    value = second ? row[i] * cos(angle) + row[other] * sin(angle)
                                   : row[i] * cos(angle) - row[other] * sin(angle);
                    size = fmaxf(size, fabsf(stored[other]));
                }
                const double ulp = (double)(nextafterf(size, INFINITY) - size);
                require(fabs(value - (double)stored[i]) <= 2.0 * ulp, "page %u, slot %d, channel %d: %.9g, not %.9g", p,
                        t, i, value, (double)stored[i]);
            }
        }
    }
    kvsim__group_close(&group);
    kvsim_ctx_destroy(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("findings");
    TCase *options = kvsim_check_case(suite, "options");
    tcase_add_test(options, options_of_findings_are_checked);
    tcase_add_test(options, tables_that_were_not_asked_for_are_empty);
    tcase_add_test(options, what_each_page_found_needs_what_finds_it);
    TCase *rows = kvsim_check_case(suite, "rows");
    tcase_add_loop_test(rows, what_each_page_found_adds_up, 0, 2);
    tcase_add_test(rows, duplicates_are_listed_with_the_first_of_their_bytes);
    tcase_add_test(rows, distances_hold_the_pairs_of_each_sequence);
    TCase *runs = kvsim_check_case(suite, "runs");
    tcase_add_loop_test(runs, threads_change_no_byte_of_the_findings, 0, 3);
    tcase_add_test(runs, a_seed_changes_what_is_drawn_and_nothing_else);
    tcase_add_test(runs, cancelling_in_a_chance_level_leaves_the_context_usable);
    TCase *contents = kvsim_check_case(suite, "contents");
    tcase_add_loop_test(contents, too_few_pages_or_sequences_give_no_figure_not_a_narrow_one, 0, 7);
    tcase_add_loop_test(contents, pages_of_one_kind_have_all_findings, 0, 2);
    tcase_add_test(contents, a_head_has_the_findings_of_its_pages_alone);
    tcase_add_loop_test(contents, opaque_pages_are_in_the_ledger_and_in_no_other_finding, 0, 3);
    tcase_add_loop_test(contents, dropped_pairs_are_in_no_finding, 0, 4);
    tcase_add_test(contents, a_lower_bound_knows_that_another_sequence_may_stand_for_two);
    tcase_add_test(contents, chance_never_compares_a_token_with_itself);
    tcase_add_loop_test(contents, rotating_a_derotated_page_gives_it_back, 0, 4);
    return kvsim_check_main(suite, "test_findings", 35);
}
