#include "analysis.h"

#include "analysis_pages.h"
#include "analysis_series.h"
#include "analyze/figures.h"
#include "analyze/ledger.h"
#include "common/json_file.h"
#include "common/json_text.h"
#include "path_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Shufflings behind a chance level. */
#define REPETITIONS 20

/** Budgets of the curve: those of kvsim-analyze. */
static const double budgets[] = {0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5};

/** Thresholds of the report, from which the pictures are drawn; the first is that of every share. */
static const double thresholds[] = {ANALYSIS_THRESHOLD, 0.95, 0.99};

/** One run while it is analysed. */
typedef struct run_analysis {
    const char *folder;
    page_context pages;
    kvsim_result *all;       /**< all pairs, all views */
    kvsim_result *different; /**< pairs of different sequences, the views that need it */
    json_t *report;          /**< of `all` */
    json_t *series;
    uint64_t seed;
} run_analysis;

static int compute_all(run_analysis *run, error_text *error) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.metrics = KVSIM_METRIC_COSINE | KVSIM_METRIC_L2;
    options.views = run->pages.views;
    options.flags = KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER |
                    KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_PAGES | KVSIM_COMPUTE_DISTANCES;
    options.thresholds = thresholds;
    options.threshold_count = sizeof thresholds / sizeof *thresholds;
    options.budgets = budgets;
    options.budget_count = sizeof budgets / sizeof *budgets;
    options.null_repetitions = REPETITIONS;
    options.seed = run->seed;
    options.top_k = KVSIM_TOP_NONE;
    return page_context_compute(&run->pages, &options, 0.0, 0.8, &run->all, error);
}

static int compute_different(run_analysis *run, error_text *error) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.metrics = KVSIM_METRIC_COSINE;
    options.views = run->pages.best_view;
    options.flags = KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_PAGES;
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    options.thresholds = thresholds;
    options.threshold_count = 1;
    options.null_repetitions = REPETITIONS;
    options.seed = run->seed;
    options.top_k = KVSIM_TOP_NONE;
    return page_context_compute(&run->pages, &options, 0.8, 1.0, &run->different, error);
}

static int write_piece(void *user, const void *data, size_t size) {
    return fwrite(data, 1, size, user) == size ? 0 : -1;
}

/** The library's report as a document, and as a file from which the pictures are drawn. */
static int load_report(run_analysis *run, error_text *error) {
    char *text = NULL;
    size_t size = 0;
    path_text path;
    FILE *memory = open_memstream(&text, &size);
    if (memory == NULL)
        return fail(error, "out of memory");
    kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
    options.write = write_piece;
    options.write_user = memory;
    kvsim_status status = kvsim_report(run->pages.ctx, run->all, &options);
    bool failed = fclose(memory) != 0 || status != KVSIM_OK;
    if (!failed)
        run->report = json_loadb(text, size, 0, NULL);
    free(text);
    if (run->report == NULL)
        return fail(error, "the library's report cannot be read: %s", kvsim_ctx_error(run->pages.ctx));
    if (path_make(&path, error, "%s/" ANALYSIS_REPORT_NAME, run->folder) != 0)
        return -1;
    return json_file_write(path.text, run->report, error);
}

static int collect_series(run_analysis *run, error_text *error) {
    series_source from = {run->all, (size_t)run->pages.info.sequences, REPETITIONS, ANALYSIS_THRESHOLD, NULL};
    from.series = run->series = json_array();
    int status = series_add_alike(&from, run->pages.best_view, false);
    if (status == 0)
        status = series_add_saved(&from, ANALYSIS_BUDGET);
    if (status == 0)
        status = series_add_exact(&from);
    from.result = run->different;
    if (status == 0)
        status = series_add_alike(&from, run->pages.best_view, true);
    return status == 0 ? 0 : fail(error, "out of memory");
}

/** What was compared, of all layers, from the groups in the raw view. */
static json_t *describe_counts(const run_analysis *run) {
    const json_t *group, *block;
    size_t index;
    double pages = 0.0, others = 0.0, bytes = 0.0, other_bytes = 0.0, blocks = 0.0;
    json_array_foreach(json_object_get(run->report, "groups"), index, group) {
        if (strcmp(member_text(group, "view"), "raw") != 0)
            continue;
        double page_bytes = (double)member_count(group, "page_bytes");
        double left_out = (double)(member_count(group, "partial") + member_count(group, "non_finite"));
        pages += (double)member_count(group, "pages");
        others += left_out;
        bytes += page_bytes * (double)member_count(group, "pages");
        other_bytes += page_bytes * left_out;
    }
    json_array_foreach(json_object_get(run->report, "blocks"), index, block) {
        if (strcmp(member_text(block, "view"), "raw") == 0)
            blocks += (double)member_count(block, "blocks");
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "pages_compared", (json_int_t)pages, "pages_left_out",
                     (json_int_t)others, "blocks_compared", (json_int_t)blocks, "compared_bytes", (json_int_t)bytes,
                     "left_out_bytes", (json_int_t)other_bytes);
}

static json_t *describe_facts(const run_analysis *run) {
    const kvsim_snapshot_info *info = &run->pages.info;
    const json_t *first = json_array_get(json_object_get(run->report, "groups"), 0);
    bool blocks = json_array_size(json_object_get(run->report, "blocks")) > 0;
    const char *type = info->dtype_code == KVSIM_DTYPE_BFLOAT ? "bf16" : info->dtype_bits == 16 ? "f16" : "f32";
    return json_pack("{s:I, s:I, s:I, s:s, s:I, s:I, s:s}", "layers", (json_int_t)info->layers, "kv_heads",
                     (json_int_t)info->kv_heads, "head_dim", (json_int_t)info->head_dim, "element_type", type,
                     "page_bytes", (json_int_t)member_count(first, "page_bytes"), "page_tokens",
                     (json_int_t)run->pages.page_tokens, "level", blocks ? "block" : "page");
}

static json_t *describe_views(const run_analysis *run) {
    static const uint32_t views[] = {KVSIM_VIEW_RAW, KVSIM_VIEW_CENTERED, KVSIM_VIEW_DEROTATED,
                                     KVSIM_VIEW_DEROTATED_CENTERED};
    json_t *names = json_array();
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        if ((run->pages.views & views[i]) != 0)
            json_array_append_new(names, json_string(series_view_name(views[i])));
    return names;
}

static int set_ledger(const run_analysis *run, json_t *document, error_text *error) {
    ledger_totals ledger;
    if (ledger_collect(&ledger, run->report, ANALYSIS_BUDGET, error) != 0)
        return -1;
    lossless_totals lossless = lossless_collect(run->report);
    json_object_set_new(document, "ledger",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "left_out_bytes", ledger.left_out,
                                  "exact_bytes", ledger.exact, "ulp_bytes", ledger.ulp, "near_bytes", ledger.near,
                                  "unique_bytes", ledger.unique, "seen_bytes", ledger.seen, "metadata_bytes",
                                  ledger.metadata));
    json_t *coded = json_object();
    json_object_set_new(coded, "bytes", json_number(lossless.bytes));
    json_object_set_new(coded, "order0_bytes", json_number(lossless.order0));
    json_object_set_new(coded, "zstd_bytes", json_number(lossless.zstd));
    json_object_set_new(coded, "coding_gain_bytes", json_number(lossless.coding_gain));
    json_object_set_new(coded, "repetition_gain_bytes", json_number(lossless.repetition_gain));
    json_object_set_new(document, "lossless", coded);
    return 0;
}

static int write_document(run_analysis *run, error_text *error) {
    series_source from = {run->all, (size_t)run->pages.info.sequences, REPETITIONS, ANALYSIS_THRESHOLD, NULL};
    json_t *document = json_object();
    json_object_set_new(document, "schema", json_string(ANALYSIS_SCHEMA));
    json_object_set_new(document, "sequences", json_integer((json_int_t)run->pages.info.sequences));
    json_object_set_new(document, "threshold", json_real(ANALYSIS_THRESHOLD));
    json_object_set_new(document, "budget", json_real(ANALYSIS_BUDGET));
    json_object_set_new(document, "null_repetitions", json_integer(REPETITIONS));
    json_object_set_new(document, "views", describe_views(run));
    json_object_set_new(document, "best_view", json_string(series_view_name(run->pages.best_view)));
    json_object_set_new(document, "facts", describe_facts(run));
    json_object_set_new(document, "counts", describe_counts(run));
    json_object_set(document, "series", run->series);
    json_object_set_new(document, "means", series_means(run->all));
    json_object_set_new(document, "different_means", series_means(run->different));
    json_object_set_new(document, "distances", series_distances(&from, run->pages.best_view));
    int status = set_ledger(run, document, error);
    if (status == 0 && json_object_size(document) < 15)
        status = fail(error, "out of memory");
    path_text path;
    if (status == 0)
        status = path_make(&path, error, "%s/" ANALYSIS_NAME, run->folder);
    if (status == 0)
        status = json_file_write(path.text, document, error);
    json_decref(document);
    return status;
}

int analysis_run(const char *run_folder, const experiment *e, const analysis_settings *settings, error_text *error) {
    run_analysis run = {.folder = run_folder, .seed = e->seed % INT64_MAX + 1};
    path_text path;
    int status = path_make(&path, error, "%s/dump.safetensors", run_folder);
    if (status == 0)
        status = page_context_open(&run.pages, settings, error);
    if (status == 0)
        status = page_context_add(&run.pages, path.text, e->page_tokens, error);
    if (status == 0)
        status = compute_all(&run, error);
    if (status == 0)
        status = compute_different(&run, error);
    if (status == 0)
        status = load_report(&run, error);
    if (status == 0)
        status = collect_series(&run, error);
    if (status == 0)
        status = write_document(&run, error);
    json_decref(run.report);
    json_decref(run.series);
    kvsim_result_destroy(run.all);
    kvsim_result_destroy(run.different);
    page_context_close(&run.pages);
    return status;
}
