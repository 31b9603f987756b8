/*
 * kvsim_compute on real KV-cache contents against the results of an independent program (NumPy, float64), which come
 * with the data: see README.md there. Counts must agree exactly.
 */
#include "core_tools.h"
#include "kvsim_check.h"

#include <kvsim/snapshot.h>

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>

/* One file of the data, one choice of pairs. Views without a file of results are passed over. */
static const struct input {
    const char *folder, *name, *variant;
} inputs[] = {
    {"kv", "stories24", "all"},
    {"kv", "stories24", "different-sequences"},
    {"kv", "stories24", "per-head"},
    {"kv", "repetitive_bf16", "all"},
    {"kv", "repetitive_bf16", "different-sequences"},
    {"kv", "shared_prefix", "all"},
    {"kv", "shared_prefix", "different-sequences"},
    {"kv", "paged_vllm_e3", "all"},
    {"kv30m", "general", "all"},
    {"kv30m", "code", "all"},
    {"kv30m", "shared_prefix", "all"},
};

enum { INPUTS = sizeof inputs / sizeof inputs[0] };

static const char *const view_names[] = {"raw", "centered", "derotated", "derotated_centered"};

typedef struct place {
    const kvsim_result *result;
    const char *file;
    int layer, head;
    size_t figures;
} place;

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    require(json_is_number(value), "%s is no number in the expected results", key);
    return json_number_value(value);
}

static void check_integer(place *at, const char *table, const char *column, int64_t row, const json_t *expected,
                          const char *key) {
    const int64_t is = get_integer(at->result, table, column, row);
    const double wanted = number(expected, key);
    require((double)is == wanted, "%s layer %d head %d: %s.%s is %lld, not %.0f", at->file, at->layer, at->head, table,
            column, (long long)is, wanted);
    at->figures++;
}

static void check_real(place *at, const char *table, const char *column, int64_t row, const json_t *expected,
                       const char *key, double absolute, double relative) {
    const double is = get_real(at->result, table, column, row), wanted = number(expected, key);
    /* The expected numbers are rounded to 12 decimals. */
    require(fabs(is - wanted) <= absolute + relative * fabs(wanted) + 1e-12,
            "%s layer %d head %d: %s.%s is %.15g, not %.15g", at->file, at->layer, at->head, table, column, is, wanted);
    at->figures++;
}

static void check_group(place *at, const json_t *expected, uint32_t view) {
    const char *kind = json_string_value(json_object_get(expected, "kind"));
    ck_assert_ptr_nonnull(kind);
    const int number_of_kind = strcmp(kind, "key") == 0 ? KVSIM_KIND_KEY : KVSIM_KIND_VALUE;
    const int64_t row = find_row(at->result, "groups", view, at->layer, number_of_kind, at->head);
    ck_assert_int_ge(row, 0);
    check_integer(at, "groups", "pages", row, expected, "pages");
    check_integer(at, "groups", "pairs", row, expected, "pairs");
    check_integer(at, "groups", "exact_duplicates", row, expected, "exact_duplicates");
    const json_t *cosine = json_object_get(expected, "cosine");
    check_real(at, "groups", "cosine_mean", row, cosine, "mean", 2e-6, 0.0);
    check_real(at, "groups", "cosine_min", row, cosine, "min", 2e-6, 0.0);
    check_real(at, "groups", "cosine_max", row, cosine, "max", 2e-6, 0.0);
    check_real(at, "groups", "mean_square", row, expected, "mean_square", 0.0, 2e-6);
    check_real(at, "groups", "mean_l2", row, expected, "mean_l2", 0.0, 2e-6);
    check_real(at, "groups", "mean_relative_error", row, expected, "mean_relative_error", 0.0, 2e-6);
    check_real(at, "groups", "mean_hamming", row, expected, "mean_hamming_8bit", 1e-4, 0.0);
    check_real(at, "groups", "mean_hamming_sign", row, expected, "mean_hamming_sign", 0.0, 2e-6);
    check_real(at, "groups", "mean_jaccard", row, expected, "mean_jaccard_rms", 0.0, 2e-6);
    const json_t *thresholds = json_object_get(expected, "thresholds");
    ck_assert_uint_eq(json_array_size(thresholds), 3);
    for (size_t t = 0; t < 3; t++) {
        const json_t *level = json_array_get(thresholds, t);
        const int64_t at_level = owned_row(at->result, "thresholds", row, (int64_t)t);
        check_real(at, "thresholds", "threshold", at_level, level, "t", 0.0, 0.0);
        check_integer(at, "thresholds", "pairs", at_level, level, "pairs");
        check_integer(at, "thresholds", "pages", at_level, level, "pages");
        check_real(at, "thresholds", "pair_share", at_level, level, "pair_share", 0.0, 0.0);
        check_real(at, "thresholds", "page_share", at_level, level, "page_share", 0.0, 0.0);
    }
}

static void check_blocks(place *at, const json_t *expected, uint32_t view) {
    const int64_t row = find_row(at->result, "blocks", view, at->layer, 0, at->head);
    ck_assert_int_ge(row, 0);
    check_integer(at, "blocks", "blocks", row, expected, "blocks");
    check_integer(at, "blocks", "exact_duplicates", row, expected, "exact_duplicates");
    const json_t *dedup = json_object_get(expected, "dedup");
    for (size_t b = 0; b < json_array_size(dedup); b++) {
        static const char *const counts[] = {"representatives", "removed", "groups_of_two_or_more", "largest_group"};
        const json_t *level = json_array_get(dedup, b);
        const int64_t at_level = owned_row(at->result, "block_dedup", row, (int64_t)b);
        check_real(at, "block_dedup", "budget", at_level, level, "budget", 0.0, 0.0);
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            check_integer(at, "block_dedup", counts[c], at_level, level, counts[c]);
        }
        check_real(at, "block_dedup", "removed_share", at_level, level, "removed_share", 0.0, 0.0);
    }
}

static void check_file(place *at, const json_t *expected, uint32_t view) {
    static const char *const counts[] = {"references", "full", "partial", "non_finite_blocks"};
    const json_t *summary = json_object_get(expected, "counts");
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        check_integer(at, "summary", counts[c], 0, summary, counts[c]);
    }
    const char *const lists[] = {"groups", "blocks"};
    for (int list = 0; list < 2; list++) {
        size_t index;
        const json_t *item;
        json_array_foreach(json_object_get(expected, lists[list]), index, item) {
            const json_t *head = json_object_get(item, "head");
            at->layer = (int)number(item, "layer");
            at->head = head != NULL ? (int)json_integer_value(head) : -1;
            (list == 0 ? check_group : check_blocks)(at, item, view);
        }
    }
}

START_TEST(figures_of_real_caches_are_those_of_the_independent_program) {
    const struct input *input = &inputs[_i];
    char name[128], path[1024];
    (void)snprintf(name, sizeof name, "%s/%s.safetensors", input->folder, input->name);
    if (!kvsim_check_data(path, sizeof path, name)) {
        kvsim_check_skip("%s is not there", path);
    }
    kvsim_ctx *ctx = make_context(0);
    kvsim_snapshot *snapshot = NULL;
    ck_status(ctx, kvsim_snapshot_open(ctx, path, &snapshot), KVSIM_OK);
    ck_status(ctx, kvsim_snapshot_add_pages(ctx, snapshot, NULL), KVSIM_OK);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = strcmp(input->variant, "per-head") == 0 ? KVSIM_COMPUTE_PER_HEAD : 0;
    options.pairs = strcmp(input->variant, "different-sequences") == 0 ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : 0;
    place at = {.file = path};
    for (int v = 0; v < 4; v++) {
        char expected_path[1024];
        (void)snprintf(name, sizeof name, "%s/expected/%s.%s.%s.json", input->folder, input->name, view_names[v],
                       input->variant);
        if (!kvsim_check_data(expected_path, sizeof expected_path, name)) {
            continue;
        }
        json_error_t error;
        json_t *expected = json_load_file(expected_path, 0, &error);
        ck_assert_msg(expected != NULL, "%s: %s", expected_path, error.text);
        kvsim_result *result = NULL;
        options.views = 1u << v;
        ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
        at.result = result;
        check_file(&at, expected, options.views);
        kvsim_result_destroy(result);
        json_decref(expected);
    }
    ck_assert_uint_gt(at.figures, 100);
    kvsim_snapshot_close(snapshot);
    kvsim_ctx_destroy(ctx);
}
END_TEST

/* Every file of results is looked at: a new one must not be passed over in silence. */
START_TEST(every_file_of_results_belongs_to_an_input) {
    static const char *const folders[] = {"kv", "kv30m"};
    for (int f = 0; f < 2; f++) {
        char name[64], path[1024];
        (void)snprintf(name, sizeof name, "%s/expected", folders[f]);
        if (!kvsim_check_data(path, sizeof path, name)) {
            kvsim_check_skip("%s is not there", path);
        }
        DIR *folder = opendir(path);
        ck_assert_ptr_nonnull(folder);
        const struct dirent *entry;
        while ((entry = readdir(folder)) != NULL) {
            bool known = entry->d_name[0] == '.';
            for (int i = 0; i < INPUTS && !known; i++) {
                for (int v = 0; v < 4; v++) {
                    char file[128];
                    (void)snprintf(file, sizeof file, "%s.%s.%s.json", inputs[i].name, view_names[v],
                                   inputs[i].variant);
                    known = known || (strcmp(inputs[i].folder, folders[f]) == 0 && strcmp(file, entry->d_name) == 0);
                }
            }
            ck_assert_msg(known, "%s/%s belongs to no input of this test", path, entry->d_name);
        }
        (void)closedir(folder);
    }
}
END_TEST

/* ---- the report says what the columns say ---- */

static int keep(void *user, const void *data, size_t size) {
    FILE *stream = user;
    return fwrite(data, 1, size, stream) == size ? 0 : -1;
}

START_TEST(the_report_reads_back_as_the_columns) {
    enum { COUNT = 12, N = 24 };
    float elements[2][COUNT][N];
    uint64_t seed = 6;
    for (int i = 0; i < 2 * COUNT * N; i++) {
        ((float *)elements)[i] = draw_normal(&seed);
    }
    memset(elements[0][4], 0, sizeof elements[0][4]); /* infinite relative errors */
    memcpy(elements[0][7], elements[0][2], sizeof elements[0][7]);
    const int64_t shape[4] = {COUNT, 2, 2, 6};
    const kvsim_tensor keys = make_tensor(elements[0], KVSIM_DTYPE_FLOAT, 32, shape, 4);
    const kvsim_tensor values = make_tensor(elements[1], KVSIM_DTYPE_FLOAT, 32, shape, 4);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_BOTH;
    pages.tensor = &keys;
    pages.value_tensor = &values;
    kvsim_ctx *ctx = make_context(1);
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    /* One page of another layer: no pairs, so means are not numbers. */
    pages.layer = 1;
    pages.page_count = 1;
    ck_status(ctx, kvsim_add_pages(ctx, &pages), KVSIM_OK);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.top_k = 100;
    kvsim_result *result = NULL;
    ck_status(ctx, kvsim_compute(ctx, &options, &result), KVSIM_OK);
    char *data = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&data, &size);
    ck_assert_ptr_nonnull(stream);
    kvsim_report_options to = KVSIM_REPORT_OPTIONS_INIT;
    to.write = keep;
    to.write_user = stream;
    ck_status(ctx, kvsim_report(ctx, result, &to), KVSIM_OK);
    (void)fclose(stream);
    json_error_t error;
    json_t *report = json_loadb(data, size, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(report != NULL, "%s", error.text);
    ck_assert_str_eq(json_string_value(json_object_get(report, "schema")), "kvsim.report.v1");
    const json_t *groups = json_object_get(report, "groups");
    ck_assert_uint_eq(json_array_size(groups), 4);
    static const char *const reals[] = {"mean_square", "mean_l2", "mean_relative_error", "mean_hamming_sign",
                                        "jaccard_union_share"};
    static const char *const counts[] = {"pages", "pairs", "exact_duplicates", "infinite_relative_errors",
                                         "page_bytes"};
    size_t nulls = 0;
    for (size_t g = 0; g < 4; g++) {
        const json_t *group = json_array_get(groups, g);
        for (size_t i = 0; i < 5; i++) {
            const double is = get_real(result, "groups", reals[i], (int64_t)g);
            const json_t *written = json_object_get(group, reals[i]);
            ck_assert(isfinite(is) ? json_is_real(written) && json_real_value(written) == is : json_is_null(written));
            const json_t *count = json_object_get(group, counts[i]);
            ck_assert(json_is_integer(count));
            ck_assert_int_eq(json_integer_value(count), get_integer(result, "groups", counts[i], (int64_t)g));
        }
        const json_t *top = json_object_get(group, "top_pairs"), *pair;
        size_t index;
        json_array_foreach(top, index, pair) {
            nulls += json_is_null(json_object_get(pair, "relative_error"));
        }
        ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(group, "histogram"), "cosine")),
                          KVSIM_HISTOGRAM_BINS);
    }
    ck_assert_int_eq((int64_t)nulls, get_integer(result, "groups", "infinite_relative_errors", 0));
    ck_assert_uint_eq(nulls, 4); /* the zero page has four earlier ones */
    json_decref(report);
    free(data);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("expected");
    TCase *data = kvsim_check_case(suite, "data");
    tcase_add_loop_test(data, figures_of_real_caches_are_those_of_the_independent_program, 0, INPUTS);
    tcase_add_test(data, every_file_of_results_belongs_to_an_input);
    TCase *report = kvsim_check_case(suite, "report");
    tcase_add_test(report, the_report_reads_back_as_the_columns);
    return kvsim_check_main(suite, "test_expected", INPUTS + 2);
}
