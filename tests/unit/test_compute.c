/* kvsim_compute against the reference: every figure of every view, over sizes and contents that are hard. */
#include "core_tools.h"
#include "kvsim_check.h"
#include "page_set.h"
#include "reference.h"

static const double thresholds[] = {-0.5, 0.0, 0.7, 0.9, 0.95, 0.99}, budgets[] = {0.05, 0.1, 0.2, 0.3, 0.9};
static const uint32_t views[] = {KVSIM_VIEW_RAW, KVSIM_VIEW_CENTERED, KVSIM_VIEW_DEROTATED,
                                 KVSIM_VIEW_DEROTATED_CENTERED};

enum { THRESHOLDS = sizeof thresholds / sizeof(double), BUDGETS = sizeof budgets / sizeof(double) };

static kvsim_compute_options make_options(void) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.thresholds = thresholds;
    options.threshold_count = THRESHOLDS;
    options.budgets = budgets;
    options.budget_count = BUDGETS;
    options.flags = KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS;
    return options;
}

/* Where a comparison stands, for messages. */
typedef struct place {
    const kvsim_result *result;
    const page_set *set;
    const kvsim_compute_options *options;
    uint32_t view;
    int kind, head;
    int64_t row;
} place;

static void check_near(const place *at, const char *what, double is, double expected, double absolute,
                       double relative) {
    const bool same = isnan(expected) ? isnan(is) : fabs(is - expected) <= absolute + relative * fabs(expected);
    require(same, "view %u kind %d head %d: %s is %.17g, not %.17g", at->view, at->kind, at->head, what, is, expected);
}

static void check_count(const place *at, const char *what, int64_t is, size_t expected) {
    require(is == (int64_t)expected, "view %u kind %d head %d: %s is %lld, not %zu", at->view, at->kind, at->head, what,
            (long long)is, expected);
}

static void check_real(const place *at, const char *column, double expected, double absolute, double relative) {
    check_near(at, column, get_real(at->result, "groups", column, at->row), expected, absolute, relative);
}

static void check_integer(const place *at, const char *column, size_t expected) {
    check_count(at, column, get_integer(at->result, "groups", column, at->row), expected);
}

static void check_figures(const place *at, const reference_group *expected) {
    const bool any = expected->pairs > 0;
    const uint32_t metrics = at->options->metrics != 0 ? at->options->metrics : 15;
    const bool hamming = (metrics & KVSIM_METRIC_HAMMING) != 0, jaccard = (metrics & KVSIM_METRIC_JACCARD) != 0;
    check_integer(at, "pages", expected->pages);
    check_integer(at, "pairs", expected->pairs);
    check_integer(at, "exact_duplicates", expected->exact_duplicates);
    check_integer(at, "infinite_relative_errors", expected->infinite_relative_errors);
    check_real(at, "mean_square", expected->pages > 0 ? expected->mean_square : NAN, 0.0, 1e-12);
    check_real(at, "l2_upper", expected->l2_upper, 0.0, 1e-12);
    check_real(at, "cosine_mean", any ? expected->cosine_mean : NAN, 2e-6, 0.0);
    check_real(at, "cosine_min", any ? expected->cosine_min : NAN, 2e-6, 0.0);
    check_real(at, "cosine_max", any ? expected->cosine_max : NAN, 2e-6, 0.0);
    check_real(at, "mean_l2", any ? expected->mean_l2 : NAN, 0.0, 2e-6);
    check_real(at, "mean_relative_error", any ? expected->mean_relative_error : NAN, 0.0, 2e-6);
    check_real(at, "mean_hamming", any && hamming ? expected->mean_hamming : NAN, 1e-4, 0.0);
    check_real(at, "mean_hamming_sign", any && hamming ? expected->mean_hamming_sign : NAN, 0.0, 1e-12);
    check_real(at, "mean_jaccard", any && jaccard ? expected->mean_jaccard : NAN, 0.0, 2e-6);
    check_real(at, "jaccard_union_share", any && jaccard ? expected->jaccard_union_share : NAN, 0.0, 2e-6);
}

/* All pairs are in a histogram; few may lie on the other side of an edge, in the next bin. */
static void check_histograms(const place *at, const reference_group *expected) {
    static const char *const names[] = {"histogram_cosine",  "histogram_l2",           "histogram_relative_error",
                                        "histogram_hamming", "histogram_hamming_sign", "histogram_jaccard"};
    const uint32_t metrics = at->options->metrics != 0 ? at->options->metrics : 15;
    for (int h = 0; h < REFERENCE_HISTOGRAMS; h++) {
        const kvsim_column column = get_column(at->result, "groups", names[h]);
        ck_assert_int_eq(column.width, KVSIM_HISTOGRAM_BINS);
        const uint64_t *bins = (const uint64_t *)column.data + at->row * KVSIM_HISTOGRAM_BINS;
        const bool counted = h < 3 || (metrics & (uint32_t)(h < 5 ? KVSIM_METRIC_HAMMING : KVSIM_METRIC_JACCARD)) != 0;
        int64_t sum = 0, wanted = 0, moved = 0;
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            sum += (int64_t)bins[bin];
            wanted += counted ? (int64_t)expected->histograms[h][bin] : 0;
            moved += sum > wanted ? sum - wanted : wanted - sum;
        }
        check_count(at, names[h], sum, counted ? expected->pairs : 0);
        require(moved <= 1 + (int64_t)expected->pairs / 20, "%s: %lld of %zu pairs are in other bins", names[h],
                (long long)moved, expected->pairs);
    }
}

static void check_thresholds(const place *at, const reference_group *expected) {
    for (uint32_t t = 0; t < at->options->threshold_count; t++) {
        const int64_t row = owned_row(at->result, "thresholds", at->row, t);
        ck_assert_double_eq(get_real(at->result, "thresholds", "threshold", row), at->options->thresholds[t]);
        check_count(at, "pairs at a threshold", get_integer(at->result, "thresholds", "pairs", row),
                    expected->threshold_pairs[t]);
        check_count(at, "pages at a threshold", get_integer(at->result, "thresholds", "pages", row),
                    expected->threshold_pages[t]);
        check_near(at, "pair_share", get_real(at->result, "thresholds", "pair_share", row),
                   expected->pairs > 0 ? (double)expected->threshold_pairs[t] / (double)expected->pairs : NAN, 1e-15,
                   0.0);
        check_near(at, "page_share", get_real(at->result, "thresholds", "page_share", row),
                   expected->pages > 0 ? (double)expected->threshold_pages[t] / (double)expected->pages : NAN, 1e-15,
                   0.0);
    }
    ck_assert_int_eq(owned_row(at->result, "thresholds", at->row, at->options->threshold_count), -1);
}

/* Row of the table `pages` of the page number `page` of the set. */
static size_t page_of_row(const place *at, int64_t row) {
    return (size_t)get_integer(at->result, "pages", "block", row);
}

static void check_matches(const place *at, const reference_group *expected) {
    const size_t count = at->set->reference.count;
    int64_t index = 0;
    const kvsim_column groups = get_column(at->result, "matches", "group");
    for (int64_t row = 0; row < groups.rows; row++) {
        if (((const int64_t *)groups.data)[row] != at->row) {
            continue;
        }
        const size_t page = page_of_row(at, get_integer(at->result, "matches", "page", row));
        const int64_t earlier_row = get_integer(at->result, "matches", "earlier_page", row);
        double best = -INFINITY;
        for (size_t earlier = 0; earlier < page; earlier++) {
            best = fmax(best, expected->cosines[page * count + earlier]); /* fmax passes over NAN */
        }
        check_near(at, "best cosine", get_real(at->result, "matches", "cosine", row), isinf(best) ? NAN : best, 2e-6,
                   0.0);
        require((earlier_row >= 0) == !isinf(best), "page %zu has or has no match", page);
        if (earlier_row >= 0) {
            const size_t cell = page * count + page_of_row(at, earlier_row);
            check_near(at, "cosine of the best match", expected->cosines[cell], best, 4e-6, 0.0);
        }
        index++;
    }
    check_count(at, "matches", index, expected->pages);
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void check_top_pairs(const place *at, const reference_group *expected) {
    const size_t count = at->set->reference.count;
    double *sorted = get_memory(count * count * sizeof *sorted);
    size_t pairs = 0;
    for (size_t cell = 0; cell < count * count; cell++) {
        if (!isnan(expected->cosines[cell])) {
            sorted[pairs++] = expected->cosines[cell];
        }
    }
    qsort(sorted, pairs, sizeof *sorted, falling);
    const size_t top_k = at->options->top_k == KVSIM_TOP_NONE ? 0 : at->options->top_k == 0 ? 16 : at->options->top_k;
    const size_t kept = pairs < top_k ? pairs : top_k;
    double above = INFINITY;
    for (size_t i = 0; i < kept; i++) {
        const int64_t row = owned_row(at->result, "top_pairs", at->row, (int64_t)i);
        ck_assert_int_ge(row, 0);
        const double cosine = get_real(at->result, "top_pairs", "cosine", row);
        const size_t later = (size_t)get_integer(at->result, "top_pairs", "block", row);
        const size_t earlier = (size_t)get_integer(at->result, "top_pairs", "earlier_block", row);
        check_near(at, "cosine of a top pair", cosine, sorted[i], 2e-6, 0.0);
        check_near(at, "cosine of the pair", cosine, expected->cosines[later * count + earlier], 2e-6, 0.0);
        const double error = expected->errors[later * count + earlier];
        const double found = get_real(at->result, "top_pairs", "relative_error", row);
        require(isinf(error) ? isinf(found) : fabs(found * found - error * error) <= 5e-6 * (1.0 + error * error),
                "error %g, not %g", found, error);
        ck_assert_int_eq(get_integer(at->result, "top_pairs", "sequence", row), at->set->reference.sequences[later]);
        ck_assert_int_eq(get_integer(at->result, "top_pairs", "earlier_position", row),
                         at->set->reference.positions[earlier]);
        ck_assert(cosine <= above);
        above = cosine;
    }
    ck_assert_int_eq(owned_row(at->result, "top_pairs", at->row, (int64_t)kept), -1);
    drop_memory(sorted);
}

static void check_dedup_row(const place *at, const char *table, int64_t row, double budget,
                            const reference_dedup *expected) {
    ck_assert_double_eq(get_real(at->result, table, "budget", row), budget);
    check_count(at, "representatives", get_integer(at->result, table, "representatives", row),
                expected->representatives);
    check_count(at, "removed", get_integer(at->result, table, "removed", row), expected->removed);
    check_count(at, "groups_of_two_or_more", get_integer(at->result, table, "groups_of_two_or_more", row),
                expected->groups_of_two_or_more);
    check_count(at, "largest_group", get_integer(at->result, table, "largest_group", row), expected->largest_group);
    const double all = (double)(expected->removed + expected->representatives);
    check_near(at, "removed_share", get_real(at->result, table, "removed_share", row),
               all > 0.0 ? (double)expected->removed / all : NAN, 1e-15, 0.0);
}

/* `second` is the other kind's group, or NULL for pages of one kind. */
static void check_assignments(const place *at, double budget, const reference_dedup *expected,
                              const reference_group *first, const reference_group *second) {
    const size_t count = at->set->reference.count;
    size_t found = 0;
    const kvsim_column view = get_column(at->result, "assignments", "view");
    const kvsim_column kinds = get_column(at->result, "assignments", "kind");
    const kvsim_column head = get_column(at->result, "assignments", "head");
    const kvsim_column budget_of = get_column(at->result, "assignments", "budget");
    for (int64_t row = 0; row < view.rows; row++) {
        if (((const int32_t *)view.data)[row] != (int32_t)at->view || ((const int32_t *)kinds.data)[row] != at->kind ||
            ((const int32_t *)head.data)[row] != at->head || ((const double *)budget_of.data)[row] != budget) {
            continue;
        }
        const size_t page = page_of_row(at, get_integer(at->result, "assignments", "page", row));
        const size_t shared = page_of_row(at, get_integer(at->result, "assignments", "representative", row));
        const size_t cell = page * count + shared;
        const double cosine = second != NULL ? fmin(first->cosines[cell], second->cosines[cell]) : first->cosines[cell];
        const double error = second != NULL ? fmax(first->errors[cell], second->errors[cell]) : first->errors[cell];
        check_near(at, "cosine of an assignment", get_real(at->result, "assignments", "cosine", row), cosine, 1e-12,
                   0.0);
        check_near(at, "error of an assignment", get_real(at->result, "assignments", "relative_error", row), error,
                   1e-12, 0.0);
        /* The nearest representative, or one as near as single precision can tell. */
        require(expected->shares[page] >= 0, "page %zu is no duplicate", page);
        const size_t best = page * count + (size_t)expected->shares[page];
        check_near(at, "error of the nearest", error,
                   second != NULL ? fmax(first->errors[best], second->errors[best]) : first->errors[best], 1e-5, 0.0);
        const int kind = at->kind == 0 ? 0 : at->kind - 1;
        const bool exact = reference_equal(&at->set->reference, kind, at->head, page, shared) &&
                           (second == NULL || reference_equal(&at->set->reference, 1, at->head, page, shared));
        require(get_integer(at->result, "assignments", "exact", row) == exact, "exact of page %zu", page);
        found++;
    }
    check_count(at, "assignments", (int64_t)found, expected->removed);
}

static void check_dedup(const place *at, const reference_group *group, int kind) {
    const reference_pages *pages = &at->set->reference;
    for (uint32_t b = 0; b < at->options->budget_count; b++) {
        reference_dedup expected;
        reference_dedup_groups(pages, at->options->budgets[b], group, pages->takes_part[kind], NULL, NULL, &expected);
        check_dedup_row(at, "dedup", owned_row(at->result, "dedup", at->row, b), at->options->budgets[b], &expected);
        check_assignments(at, at->options->budgets[b], &expected, group, NULL);
        drop_memory(expected.shares);
    }
}

static void check_blocks(place at, const reference_group groups[2]) {
    const reference_pages *pages = &at.set->reference;
    at.kind = 0;
    at.row = find_row(at.result, "blocks", at.view, 0, 0, at.head);
    ck_assert_int_ge(at.row, 0);
    size_t blocks = 0, duplicates = 0;
    for (size_t later = 0; later < pages->count; later++) {
        bool duplicate = false;
        for (size_t earlier = 0; earlier < later; earlier++) {
            const size_t cell = later * pages->count + earlier;
            duplicate = duplicate || (!isnan(groups[0].cosines[cell]) && !isnan(groups[1].cosines[cell]) &&
                                      reference_equal(pages, 0, at.head, later, earlier) &&
                                      reference_equal(pages, 1, at.head, later, earlier));
        }
        blocks += pages->takes_part[0][later] && pages->takes_part[1][later];
        duplicates += duplicate;
    }
    check_count(&at, "blocks", get_integer(at.result, "blocks", "blocks", at.row), blocks);
    check_count(&at, "equal blocks", get_integer(at.result, "blocks", "exact_duplicates", at.row), duplicates);
    for (uint32_t b = 0; b < at.options->budget_count; b++) {
        reference_dedup expected;
        reference_dedup_groups(pages, at.options->budgets[b], &groups[0], pages->takes_part[0], &groups[1],
                               pages->takes_part[1], &expected);
        check_dedup_row(&at, "block_dedup", owned_row(at.result, "block_dedup", at.row, b), at.options->budgets[b],
                        &expected);
        check_assignments(&at, at.options->budgets[b], &expected, &groups[0], &groups[1]);
        drop_memory(expected.shares);
    }
}

/* Compute, and hold every row against the reference. */
static void check_set(page_set *set, kvsim_compute_options options, const kvsim_rope *rope, uint32_t threads) {
    kvsim_ctx *ctx = make_context(threads);
    add_page_set(ctx, set);
    options.views |= KVSIM_VIEW_RAW;
    if (rope != NULL) {
        ck_status(ctx, kvsim_set_rope(ctx, rope), KVSIM_OK);
    }
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    int64_t group_rows = 0;
    const int heads = (options.flags & KVSIM_COMPUTE_PER_HEAD) != 0 ? (int)set->reference.heads : 0;
    for (int head = -1; head < heads; head++) {
        for (int v = 0; v < 4; v++) {
            if ((options.views & views[v]) == 0) {
                continue;
            }
            reference_group groups[2];
            place at = {result, set, &options, views[v], 0, head, -1};
            for (int kind = 0; kind < 2; kind++) {
                if (set->reference.elements[kind] == NULL || set->reference.count == 0) {
                    continue;
                }
                at.kind = kind + 1;
                at.row = find_row(result, "groups", views[v], 0, at.kind, head);
                ck_assert_int_ge(at.row, 0);
                group_rows++;
                reference_compare(&set->reference, &options, rope, views[v], kind, head, &groups[kind]);
                check_figures(&at, &groups[kind]);
                check_histograms(&at, &groups[kind]);
                check_thresholds(&at, &groups[kind]);
                check_dedup(&at, &groups[kind], kind);
                check_matches(&at, &groups[kind]);
                check_top_pairs(&at, &groups[kind]);
            }
            if (set->pages.kind == KVSIM_KIND_BOTH && set->reference.count > 0) {
                check_blocks(at, groups);
            }
        }
    }
    ck_assert_int_eq(row_count(result, "groups"), group_rows);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}

static const kvsim_rope half = {
    .struct_size = sizeof half, .style = KVSIM_ROPE_HALF, .theta = 10000.0, .rotary_dims = 0};

/* Pages x slots x heads x channels. */
static const size_t sizes[][4] = {{0, 1, 1, 2},   {1, 1, 1, 2},   {2, 1, 1, 2},    {3, 1, 1, 2},   {8, 7, 1, 2},
                                  {9, 3, 1, 6},   {33, 7, 3, 6},  {33, 4, 2, 8},   {34, 9, 3, 4},  {100, 16, 4, 8},
                                  {65, 1, 63, 2}, {31, 5, 13, 2}, {40, 16, 4, 64}, {65, 16, 1, 2}, {64, 2, 2, 6}};

enum { SIZES = sizeof sizes / sizeof sizes[0] };

START_TEST(all_figures_of_all_views_are_those_of_the_reference) {
    const size_t *size = sizes[_i];
    for (int kinds = KVSIM_KIND_KEY; kinds <= KVSIM_KIND_BOTH; kinds++) {
        page_set *set = make_page_set((uint64_t)(_i * 10 + kinds), kinds, size[0], size[1], size[2], size[3]);
        refresh_page_set(set);
        kvsim_compute_options options = make_options();
        options.views = 15;
        check_set(set, options, &half, 1 + (uint32_t)_i % 3);
    }
}
END_TEST

START_TEST(odd_head_sizes_and_single_elements_work_without_rope) {
    static const size_t odd[][4] = {{9, 1, 1, 1}, {20, 1, 7, 9}, {20, 7, 1, 9}, {20, 13, 5, 1}, {20, 1, 1, 4096}};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        page_set *set = make_page_set(90 + i, KVSIM_KIND_BOTH, odd[i][0], odd[i][1], odd[i][2], odd[i][3]);
        refresh_page_set(set);
        kvsim_compute_options options = make_options();
        options.views = KVSIM_VIEW_CENTERED;
        options.flags |= KVSIM_COMPUTE_PER_HEAD;
        check_set(set, options, NULL, 2);
    }
}
END_TEST

START_TEST(more_pages_than_a_panel_holds) {
    page_set *set = make_page_set(4, KVSIM_KIND_BOTH, 1100, 1, 1, 4);
    refresh_page_set(set);
    kvsim_compute_options options = make_options();
    options.views = KVSIM_VIEW_DEROTATED_CENTERED;
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    check_set(set, options, &half, 2);
}
END_TEST

START_TEST(options_select_what_they_say) {
    kvsim_compute_options options = make_options();
    kvsim_rope rope = half;
    switch (_i) {
    case 0:
        options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
        break;
    case 1:
        options.flags |= KVSIM_COMPUTE_PER_HEAD;
        break;
    case 2:
        options.flags |= KVSIM_COMPUTE_PER_HEAD;
        options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
        break;
    case 3:
        options.hamming_bits = 4;
        break;
    case 4:
        options.jaccard_absolute = 1;
        options.jaccard_tau = 0.75;
        break;
    case 5:
        options.jaccard_absolute = 1;
        options.jaccard_tau = 0.0;
        break;
    case 6:
        options.jaccard_tau = 1.5;
        break;
    case 7:
        options.metrics = KVSIM_METRIC_COSINE;
        options.top_k = KVSIM_TOP_NONE;
        break;
    case 8:
        options.metrics = KVSIM_METRIC_HAMMING;
        options.top_k = 1;
        break;
    case 9:
        options.metrics = KVSIM_METRIC_JACCARD | KVSIM_METRIC_L2;
        options.top_k = 500;
        break;
    case 10:
        rope.style = KVSIM_ROPE_INTERLEAVED;
        break;
    case 11:
        rope.rotary_dims = 4;
        rope.theta = 500000.0;
        break;
    default:
        rope.rotary_dims = 6;
        rope.style = KVSIM_ROPE_INTERLEAVED;
        rope.theta = 0.0;
        break;
    }
    options.views = 15;
    page_set *set = make_page_set(7 + (uint64_t)_i, KVSIM_KIND_BOTH, 45, 4, 3, 8);
    refresh_page_set(set);
    check_set(set, options, &rope, 2);
}
END_TEST

START_TEST(partial_and_non_finite_pages_are_counted_and_kept_out) {
    page_set *set = make_page_set(21, KVSIM_KIND_BOTH, 60, 4, 2, 6);
    const size_t n = 4 * 2 * 6;
    set->elements[0][7 * n + 3] = NAN;
    set->elements[0][0] = INFINITY;
    set->elements[1][7 * n + n - 1] = -INFINITY;
    set->elements[1][30 * n] = NAN;
    set->fills[12] = 1;
    set->fills[59] = 3;
    set->elements[0][12 * n + n - 1] = NAN;
    refresh_page_set(set);
    kvsim_compute_options options = make_options();
    options.views = 15;
    options.flags |= KVSIM_COMPUTE_PER_HEAD;
    check_set(set, options, &half, 2);
    kvsim_ctx *ctx = make_context(1);
    add_page_set(ctx, set);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, NULL, &result), KVSIM_OK);
    ck_assert_int_eq(get_integer(result, "groups", "non_finite", 0), 2);
    ck_assert_int_eq(get_integer(result, "groups", "non_finite", 1), 2);
    ck_assert_int_eq(get_integer(result, "groups", "partial", 0), 2);
    ck_assert_int_eq(get_integer(result, "groups", "physical_pages", 0), 60);
    ck_assert_int_eq(get_integer(result, "blocks", "blocks", 0), 55);
    ck_assert_int_eq(get_integer(result, "summary", "non_finite_blocks", 0), 3);
    ck_assert_int_eq(get_integer(result, "summary", "partial", 0), 2);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* Contents that overflow, underflow or cancel where single precision is used without care. */
START_TEST(hostile_magnitudes_do_not_disturb) {
    enum { T = 3, H = 2, D = 6, N = T * H * D, COUNT = 40 };
    page_set *set = make_page_set(100 + (uint64_t)_i, KVSIM_KIND_BOTH, COUNT, T, H, D);
    uint64_t seed = 5;
    for (int kind = 0; kind < 2; kind++) {
        float *x = set->elements[kind];
        for (size_t i = 0; i < COUNT * N; i++) {
            const size_t page = i / N;
            switch (_i) {
            case 0: /* one huge element among small ones */
                x[i] = i % N == page % 3 ? 3e38f : x[i];
                break;
            case 1: /* squares overflow a float */
                x[i] *= 1e30f;
                break;
            case 2: /* squares underflow a float */
                x[i] *= 1e-30f;
                break;
            case 3: /* subnormal */
                x[i] *= 1e-40f;
                break;
            case 4: /* every page of another magnitude */
                x[i] = ldexpf(x[i], (int)(page * 6) - 120);
                break;
            case 5: /* all equal */
                x[i] = x[i % N];
                break;
            case 6: /* all zero, some negative */
                x[i] = draw_below(&seed, 3) == 0 ? -0.0f : 0.0f;
                break;
            case 7: /* a large common part, and little else */
                x[i] = 1000.0f + 0.001f * x[i];
                break;
            case 8: /* orthogonal or opposite */
                x[i] = i % N == page % 4 ? (page % 2 == 0 ? 1.0f : -1.0f) : 0.0f;
                break;
            default: /* cancelling sums: pairs of large opposite terms */
                x[i] = (i % 2 == 0 ? 1.0f : (page % 2 == 0 ? -1.0f : 1.0f)) * (1e4f + x[i]);
                break;
            }
        }
    }
    refresh_page_set(set);
    kvsim_compute_options options = make_options();
    options.views = _i == 8 || _i == 5 ? KVSIM_VIEW_RAW : 15;
    check_set(set, options, &half, 2);
}
END_TEST

START_TEST(equal_pages_are_all_but_one_redundant) {
    enum { COUNT = 1030 };
    page_set *set = make_page_set(1, KVSIM_KIND_BOTH, COUNT, 2, 1, 3);
    for (size_t i = 6; i < COUNT * 6; i++) {
        set->elements[0][i] = set->elements[0][i % 6];
        set->elements[1][i] = set->elements[1][i % 6];
    }
    const double exact[] = {0.0}, one[] = {1.0};
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.budgets = exact;
    options.budget_count = 1;
    options.thresholds = one;
    options.threshold_count = 1;
    options.views = KVSIM_VIEW_CENTERED;
    kvsim_ctx *ctx = make_context(2);
    add_page_set(ctx, set);
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    for (int64_t row = 0; row < 4; row++) {
        ck_assert_double_eq(get_real(result, "groups", "cosine_min", row), 1.0);
        ck_assert_double_eq(get_real(result, "groups", "cosine_mean", row), 1.0);
        ck_assert_double_eq(get_real(result, "groups", "mean_l2", row), 0.0);
        ck_assert_double_eq(get_real(result, "groups", "mean_relative_error", row), 0.0);
        ck_assert_double_eq(get_real(result, "groups", "mean_hamming", row), 0.0);
        ck_assert_double_eq(get_real(result, "groups", "mean_jaccard", row), 1.0);
        ck_assert_int_eq(get_integer(result, "groups", "exact_duplicates", row), COUNT - 1);
        ck_assert_int_eq(get_integer(result, "thresholds", "pages", row), COUNT - 1);
        ck_assert_int_eq(get_integer(result, "thresholds", "pairs", row), (int64_t)COUNT * (COUNT - 1) / 2);
        ck_assert_int_eq(get_integer(result, "dedup", "removed", row), COUNT - 1);
        ck_assert_int_eq(get_integer(result, "dedup", "largest_group", row), COUNT);
    }
    ck_assert_int_eq(get_integer(result, "block_dedup", "removed", 0), COUNT - 1);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* ---- other element types: the reference works on what the stored codes stand for ---- */

static double value_of(int code, uint32_t bits) {
    const int exponent_bits = code == KVSIM_DTYPE_F8_E4M3FN ? 4 : code == KVSIM_DTYPE_BFLOAT ? 8 : 5;
    const int mantissa_bits = code == KVSIM_DTYPE_F8_E4M3FN ? 3
                              : code == KVSIM_DTYPE_F8_E5M2 ? 2
                              : code == KVSIM_DTYPE_BFLOAT  ? 7
                                                            : 10;
    const int exponent = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const int mantissa = (int)(bits & ((1u << mantissa_bits) - 1));
    const double sign = bits >> (exponent_bits + mantissa_bits) != 0 ? -1.0 : 1.0;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    return sign * ldexp(exponent > 0 ? mantissa + (1 << mantissa_bits) : mantissa,
                        (exponent > 0 ? exponent : 1) - bias - mantissa_bits);
}

START_TEST(small_element_types_are_compared_by_value) {
    static const struct {
        uint8_t code, bits;
        int32_t scale;
    } types[] = {{KVSIM_DTYPE_FLOAT, 16, KVSIM_SCALE_NONE},    {KVSIM_DTYPE_BFLOAT, 16, KVSIM_SCALE_NONE},
                 {KVSIM_DTYPE_F8_E4M3FN, 8, KVSIM_SCALE_NONE}, {KVSIM_DTYPE_F8_E4M3FN, 8, KVSIM_SCALE_HEAD},
                 {KVSIM_DTYPE_F8_E5M2, 8, KVSIM_SCALE_TENSOR}, {KVSIM_DTYPE_INT, 8, KVSIM_SCALE_TENSOR},
                 {KVSIM_DTYPE_INT, 8, KVSIM_SCALE_HEAD}};
    enum { COUNT = 40, T = 4, H = 2, D = 6, N = T * H * D };
    const uint8_t code = types[_i].code, bits = types[_i].bits;
    page_set *set = make_page_set(300 + (uint64_t)_i, KVSIM_KIND_BOTH, COUNT, T, H, D);
    uint64_t seed = 17;
    static float scales[H] = {0.75f, 0.02f};
    static const int64_t scale_shape[1] = {H}, one[1] = {1};
    const kvsim_tensor scale =
        make_tensor(scales, KVSIM_DTYPE_FLOAT, 32, types[_i].scale == KVSIM_SCALE_HEAD ? scale_shape : one, 1);
    set->reference.stored_size = bits / 8u;
    set->reference.codes_are_stored = code == KVSIM_DTYPE_INT;
    for (int kind = 0; kind < 2; kind++) {
        unsigned char *stored = get_memory(COUNT * N * 2);
        for (size_t i = 0; i < COUNT * N; i++) {
            /* Finite codes of a moderate size; every fourth page repeats. */
            const size_t from = i / N % 4 == 3 ? i - N : i;
            uint32_t number = (uint32_t)draw(&seed) & (bits == 16 ? 0xffffu : 0xffu);
            if (code == KVSIM_DTYPE_BFLOAT) {
                number = (number & 0x80ffu) | 0x3f00u;
            } else if (code != KVSIM_DTYPE_INT) {
                number &= bits == 16 ? 0xc3ffu : 0xb7u;
            }
            memcpy(stored + i * (bits / 8u), from == i ? (void *)&number : (void *)(stored + from * (bits / 8u)),
                   bits / 8u);
            uint32_t kept = 0;
            memcpy(&kept, stored + i * (bits / 8u), bits / 8u);
            const float factor = types[_i].scale == KVSIM_SCALE_NONE
                                     ? 1.0f
                                     : scales[types[_i].scale == KVSIM_SCALE_HEAD ? i / D % H : 0];
            set->reference.elements[kind][i] =
                (code == KVSIM_DTYPE_INT ? (double)(int8_t)kept : value_of(code, kept)) * (double)factor;
        }
        set->reference.stored[kind] = stored;
        set->tensors[kind] = make_tensor(stored, code, bits, set->shape, 4);
    }
    set->pages.scale_mode = types[_i].scale;
    set->pages.scale = types[_i].scale != KVSIM_SCALE_NONE ? &scale : NULL;
    kvsim_compute_options options = make_options();
    options.views = 15;
    check_set(set, options, &half, 2);
    options.hamming_bits = 4;
    check_set(set, options, &half, 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("compute");
    TCase *figures = kvsim_check_case(suite, "figures");
    tcase_add_loop_test(figures, all_figures_of_all_views_are_those_of_the_reference, 0, SIZES);
    tcase_add_test(figures, odd_head_sizes_and_single_elements_work_without_rope);
    tcase_add_test(figures, more_pages_than_a_panel_holds);
    tcase_add_loop_test(figures, options_select_what_they_say, 0, 13);
    tcase_add_test(figures, partial_and_non_finite_pages_are_counted_and_kept_out);
    TCase *contents = kvsim_check_case(suite, "contents");
    tcase_add_loop_test(contents, hostile_magnitudes_do_not_disturb, 0, 10);
    tcase_add_test(contents, equal_pages_are_all_but_one_redundant);
    tcase_add_loop_test(contents, small_element_types_are_compared_by_value, 0, 7);
    return kvsim_check_main(suite, "test_compute", SIZES + 34);
}
