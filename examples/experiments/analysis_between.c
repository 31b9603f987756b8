/* Likeness between experiments: for each two of them, the pages of the later one that the earlier one has. */
#include "analysis.h"
#include "analysis_pages.h"
#include "analysis_series.h"
#include "columns.h"
#include "common/json_file.h"
#include "common/json_text.h"
#include "path_text.h"
#include "statistics.h"

#include <math.h>
#include <stdlib.h>

/** Shufflings behind a chance level. */
#define REPETITIONS 20

/** Seed of shufflings and intervals: the same for all pairs. */
#define SEED 1

/** The earlier and the later experiment, as sequences of the library. */
enum { EARLIER, LATER };

/** One pair of experiments, compared. */
typedef struct comparison {
    const kvsim_result *result;
    size_t sequences; /**< of the later experiment */
    int64_t view;     /**< in which pages are alike */
} comparison;

/** Columns of `pages`. */
typedef struct page_columns {
    kvsim_column sequence, generation, layer, kind, block, state, bytes;
} page_columns;

static page_columns page_columns_of(const kvsim_result *result) {
    return (page_columns){column_of(result, "pages", "sequence"), column_of(result, "pages", "generation"),
                          column_of(result, "pages", "layer"),    column_of(result, "pages", "kind"),
                          column_of(result, "pages", "block"),    column_of(result, "pages", "state"),
                          column_of(result, "pages", "bytes")};
}

static bool is_later(const page_columns *pages, int64_t row) {
    return column_integer(&pages->sequence, row) == LATER;
}

/** Count a page of the later experiment. */
static void count(double *cells, const page_columns *pages, int64_t row, double amount) {
    cells[column_integer(&pages->generation, row)] += amount;
}

/** Whether figures of `wanted` hold a kind: 0 holds both. */
static bool holds(int64_t wanted, int64_t kind) {
    return wanted == 0 || wanted == kind;
}

static void count_whole(const comparison *of, int64_t kind, double *cells, double unit) {
    page_columns pages = page_columns_of(of->result);
    for (int64_t row = 0; row < pages.state.rows; row++)
        if (is_later(&pages, row) && column_integer(&pages.state, row) == 0 &&
            holds(kind, column_integer(&pages.kind, row)))
            count(cells, &pages, row, unit);
}

/** Chance level of pages alike, of the later experiment's pages: those of the earlier one have none to match. */
static void find_chance(const comparison *of, int64_t kind, double whole, share_counts *counts) {
    static const char table[] = "statistics";
    kvsim_column view = column_of(of->result, table, "view"), kinds = column_of(of->result, table, "kind");
    kvsim_column layer = column_of(of->result, table, "layer"), statistic = column_of(of->result, table, "statistic");
    kvsim_column mean = column_of(of->result, table, "null_mean");
    kvsim_column deviation = column_of(of->result, table, "null_deviation");
    kvsim_column group_view = column_of(of->result, "groups", "view"),
                 group_layer = column_of(of->result, "groups", "layer");
    kvsim_column group_kind = column_of(of->result, "groups", "kind"), pages = column_of(of->result, "groups", "pages");
    double sum = 0.0, error = 0.0;
    for (int64_t row = 0; row < view.rows; row++) {
        int64_t own = column_integer(&kinds, row);
        if (column_integer(&statistic, row) != 3 || column_integer(&view, row) != of->view || own == 0 ||
            !holds(kind, own))
            continue;
        for (int64_t group = 0; group < pages.rows; group++) {
            if (column_integer(&group_view, group) != of->view || column_integer(&group_kind, group) != own ||
                column_integer(&group_layer, group) != column_integer(&layer, row))
                continue;
            double all = (double)column_integer(&pages, group);
            sum += all * column_real(&mean, row);
            error += all * column_real(&deviation, row) / sqrt(REPETITIONS);
        }
    }
    counts->chance[0] = whole > 0.0 ? sum / whole : (double)NAN;
    counts->chance_error[0] = whole > 0.0 ? error / whole : (double)NAN;
}

static void count_alike(const comparison *of, int64_t kind, share_counts *counts) {
    static const char table[] = "page_thresholds";
    page_columns pages = page_columns_of(of->result);
    kvsim_column group = column_of(of->result, table, "group"), page = column_of(of->result, table, "page");
    kvsim_column earlier = column_of(of->result, table, "earlier_sequences");
    kvsim_column view = column_of(of->result, "groups", "view"), kinds = column_of(of->result, "groups", "kind");
    double whole = 0.0;
    for (int64_t row = 0; row < group.rows; row++) {
        int64_t owner = column_integer(&group, row), own = column_integer(&page, row);
        if (column_integer(&view, owner) != of->view || !holds(kind, column_integer(&kinds, owner)) ||
            !is_later(&pages, own))
            continue;
        whole += 1.0;
        count(counts->whole, &pages, own, 1.0);
        count(counts->part, &pages, own, column_integer(&earlier, row) > 0);
    }
    find_chance(of, kind, whole, counts);
}

/** Bytes of the later experiment that pages of the earlier one save; of blocks for kind 0. */
static void count_saved(const comparison *of, int64_t kind, share_counts *counts) {
    static const char table[] = "assignments";
    page_columns pages = page_columns_of(of->result);
    kvsim_column view = column_of(of->result, table, "view"), kinds = column_of(of->result, table, "kind");
    kvsim_column page = column_of(of->result, table, "page");
    double bytes = pages.bytes.rows > 0 ? (double)column_integer(&pages.bytes, 0) : 0.0;
    count_whole(of, kind, counts->whole, bytes);
    for (int64_t row = 0; row < view.rows; row++) {
        int64_t own = column_integer(&page, row);
        if (column_integer(&view, row) == KVSIM_VIEW_RAW && column_integer(&kinds, row) == kind &&
            is_later(&pages, own))
            count(counts->part, &pages, own, fmax(0.0, bytes - 8.0) * (kind == 0 ? 2.0 : 1.0));
    }
}

static void count_exact(const comparison *of, int64_t kind, share_counts *counts) {
    static const char table[] = "duplicates";
    page_columns pages = page_columns_of(of->result);
    kvsim_column kinds = column_of(of->result, table, "kind"), page = column_of(of->result, table, "page");
    kvsim_column first = column_of(of->result, table, "first_page");
    count_whole(of, kind, counts->whole, kind == 0 ? 0.5 : 1.0);
    for (int64_t row = 0; row < kinds.rows; row++) {
        int64_t own = column_integer(&page, row);
        if (column_integer(&kinds, row) == kind && is_later(&pages, own) && column_integer(&pages.state, own) == 0 &&
            !is_later(&pages, column_integer(&first, row)))
            count(counts->part, &pages, own, 1.0);
    }
}

static int put_estimate(json_t *object, const char *name, const share_counts *counts, share_aspect aspect) {
    estimate found;
    if (estimate_share(counts, aspect, 0.0, 1.0, SEED, &found) != 0)
        return -1;
    json_t *document = json_object();
    json_object_set_new(document, "observed", json_number(found.mean));
    json_object_set_new(document, "low", json_number(found.low));
    json_object_set_new(document, "high", json_number(found.high));
    return json_object_set_new(object, name, document);
}

static int put_figure(const comparison *of, int64_t kind, const char *name,
                      void (*fill)(const comparison *of, int64_t kind, share_counts *counts), json_t *object) {
    share_counts counts;
    int status = share_counts_open(&counts, 1, of->sequences);
    if (status == 0) {
        fill(of, kind, &counts);
        status = put_estimate(object, name, &counts, SHARE_OBSERVED);
    }
    if (status == 0 && fill == count_alike) {
        json_object_set_new(object, "alike_chance", json_number(share_of_repeat(&counts, SHARE_CHANCE, 0)));
        status = put_estimate(object, "alike_excess", &counts, SHARE_EXCESS);
    }
    share_counts_close(&counts);
    return status;
}

/** All figures of a pair of experiments: kinds by name. NULL when out of memory. */
static json_t *describe(const comparison *of) {
    static const char *const names[] = {"both", "key", "value"};
    json_t *pair = json_object();
    int status = pair != NULL ? 0 : -1;
    for (int64_t kind = 0; kind <= KVSIM_KIND_VALUE && status == 0; kind++) {
        json_t *object = json_object();
        status = put_figure(of, kind, "saved_share", count_saved, object);
        if (status == 0)
            status = put_figure(of, kind, "exact_share", count_exact, object);
        if (status == 0)
            status = put_figure(of, kind, "alike_share", count_alike, object);
        json_object_set_new(pair, names[kind], object);
    }
    if (status != 0) {
        json_decref(pair);
        return NULL;
    }
    return pair;
}

/** Where the work stands: pair `at` of `pairs`. */
typedef struct pair_progress {
    double from, to;
} pair_progress;

static int compute(page_context *pages, const pair_progress *step, kvsim_result **result, error_text *error) {
    static const double threshold = ANALYSIS_THRESHOLD, budget = ANALYSIS_BUDGET;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.metrics = KVSIM_METRIC_COSINE | KVSIM_METRIC_L2;
    options.views = pages->best_view;
    options.flags = KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_PAGES;
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    options.thresholds = &threshold;
    options.budgets = &budget;
    options.threshold_count = options.budget_count = 1;
    options.null_repetitions = REPETITIONS;
    options.seed = SEED;
    options.top_k = KVSIM_TOP_NONE;
    return page_context_compute(pages, &options, step->from, step->to, result, error);
}

/** Tokens of a page of the run in a folder; -1 with `error` set if its analysis cannot be read. */
static int64_t page_tokens_of(const char *folder, error_text *error) {
    path_text path;
    if (path_make(&path, error, "%s/" ANALYSIS_NAME, folder) != 0)
        return -1;
    json_t *analysis = json_file_read(path.text, error);
    int64_t tokens = json_integer_value(json_object_get(json_object_get(analysis, "facts"), "page_tokens"));
    json_decref(analysis);
    return analysis != NULL ? tokens : -1;
}

/** Add the pages of both runs. 0, 1 with `reason` set if they cannot be compared, -1 with `error` set. */
static int add_runs(page_context *pages, const char *const folders[2], error_text *reason, error_text *error) {
    path_text paths[2];
    int64_t tokens[2];
    for (int side = 0; side < 2; side++)
        if (path_make(&paths[side], error, "%s/dump.safetensors", folders[side]) != 0 ||
            (tokens[side] = page_tokens_of(folders[side], error)) < 0)
            return -1;
    if (tokens[EARLIER] != tokens[LATER]) {
        fail(reason, "their pages are of another number of tokens");
        return 1;
    }
    return page_context_add_two(pages, (const char *const[]){paths[0].text, paths[1].text}, tokens[0], reason, error);
}

/** Compare two runs. 0 with `out` [owned], 1 with `reason` set if they cannot be compared, -1 with `error` set. */
static int compare(const char *const folders[2], const analysis_settings *settings, const pair_progress *step,
                   json_t **out, error_text *reason, error_text *error) {
    page_context pages;
    kvsim_result *result = NULL;
    int status = page_context_open(&pages, settings, error);
    if (status == 0)
        status = add_runs(&pages, folders, reason, error);
    if (status == 0)
        status = compute(&pages, step, &result, error);
    if (status == 0) {
        kvsim_snapshot_info later = KVSIM_SNAPSHOT_INFO_INIT;
        (void)kvsim_snapshot_get_info(pages.ctx, pages.snapshots[LATER], &later);
        comparison of = {result, (size_t)later.sequences, pages.best_view};
        *out = describe(&of);
        if (*out == NULL)
            status = fail(error, "out of memory");
        else
            json_object_set_new(*out, "view", json_string(series_view_name(pages.best_view)));
    }
    kvsim_result_destroy(result);
    page_context_close(&pages);
    return status;
}

int analysis_between(const char *const *run_folders, const char *const *names, size_t count_of_runs,
                     const analysis_settings *settings, const char *path, error_text *error) {
    json_t *pairs = json_array(), *left_out = json_array();
    double all = (double)(count_of_runs * (count_of_runs - 1) / 2), done = 0.0;
    int status = 0;
    for (size_t i = 0; i < count_of_runs && status >= 0; i++) {
        for (size_t j = i + 1; j < count_of_runs && status >= 0; j++, done += 1.0) {
            error_text reason = {""};
            json_t *pair = NULL;
            pair_progress step = {done / all, (done + 1.0) / all};
            status =
                compare((const char *const[]){run_folders[i], run_folders[j]}, settings, &step, &pair, &reason, error);
            json_t *entry = status == 0 ? pair : json_object();
            json_object_set_new(entry, "earlier", json_string(names[i]));
            json_object_set_new(entry, "later", json_string(names[j]));
            if (status == 1)
                json_object_set_new(entry, "reason", json_string(reason.text));
            json_array_append_new(status == 1 ? left_out : pairs, entry);
        }
    }
    json_t *document = json_pack("{s:s, s:o, s:o}", "schema", BETWEEN_SCHEMA, "pairs", pairs, "left_out", left_out);
    if (status >= 0)
        status = document != NULL ? json_file_write(path, document, error) : fail(error, "out of memory");
    json_decref(document);
    return status >= 0 ? 0 : -1;
}
