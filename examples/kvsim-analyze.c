/**
 * kvsim-analyze: how much of a paged KV-cache is redundant. Reads pages from files or lets the embedded engine make
 * them, compares them with libkvsim, and writes a report and pictures.
 */
#include "analyze/document.h"
#include "analyze/figures.h"
#include "analyze/ledger.h"
#include "analyze/options.h"
#include "analyze/plots.h"
#include "analyze/rotation.h"
#include "analyze/source.h"
#include "analyze/summary.h"
#include "common/gnuplot.h"
#include "common/json_text.h"
#include "common/message.h"
#include "common/output.h"
#include "common/progress.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvsim/kvsim.h>

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/** Everything of one run. */
typedef struct analysis {
    analyze_options options;
    output_folder *output;
    kvsim_ctx *ctx;
    page_source source;
    kvsim_result *result;
    json_t *report; /**< of the library */
    report_figures figures;
    saving_figures saving;
    ledger_totals ledger;
    lossless_totals lossless;
    double compute_seconds;
    bool pictures;                /**< they were drawn */
    char remark[ERROR_TEXT_SIZE]; /**< why not; empty if there is nothing to say */
} analysis;

static void print_log(void *user, int32_t level, const char *message) {
    (void)user;
    if (level <= KVSIM_LOG_WARNING)
        print_error(PROGRAM, "%s", message);
}

static int create_context(analysis *run, error_text *error) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = run->options.backend;
    options.threads = run->options.threads;
    options.log = run->options.quiet ? NULL : print_log;
    options.error_buffer = error->text;
    options.error_buffer_size = sizeof error->text;
    kvsim_status status = kvsim_ctx_create(&options, &run->ctx);
    if (status != KVSIM_OK && error->text[0] == 0)
        return fail(error, "%s", kvsim_status_string(status));
    return status == KVSIM_OK ? 0 : -1;
}

static int show_pairs(void *user, uint64_t done, uint64_t total) {
    progress_set(user, done, total);
    return interrupted();
}

static uint32_t choose_views(const analysis *run) {
    if (run->options.views != 0)
        return run->options.views | KVSIM_VIEW_RAW;
    uint32_t derotated = KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED;
    return KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED | (run->source.rope_known ? derotated : 0);
}

static int compute(analysis *run, error_text *error) {
    const analyze_options *options = &run->options;
    kvsim_compute_options settings = KVSIM_COMPUTE_OPTIONS_INIT;
    settings.metrics = options->metrics;
    settings.views = choose_views(run);
    settings.flags = KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER |
                     (options->per_head ? KVSIM_COMPUTE_PER_HEAD : 0) | (options->no_chance ? 0 : KVSIM_COMPUTE_CHANCE);
    settings.families = run->source.families.numbers;
    settings.family_count = run->source.families.count;
    settings.null_repetitions = options->null_repetitions;
    settings.ulps = options->ulps;
    settings.seed = options->seed;
    settings.pairs = options->pairs;
    settings.top_k = options->top != 0 ? options->top : KVSIM_TOP_NONE;
    settings.threshold_count = (uint32_t)options->threshold_count;
    settings.thresholds = options->thresholds;
    settings.budget_count = (uint32_t)options->budget_count;
    settings.budgets = options->budgets;
    settings.progress = show_pairs;
    bool derotated = (settings.views & (KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED)) != 0;
    if (derotated && !run->source.rope_known)
        return fail(error,
                    "--view %s needs to know how the keys were rotated, and the pages do not say, or not the "
                    "same in all files; say it with --rope-config or --rope, or use --view raw,centered",
                    (settings.views & KVSIM_VIEW_DEROTATED) != 0 ? "derotated" : "derotated_centered");
    if (derotated && rotation_check(&run->source, run->ctx, options, error) != 0)
        return -1;
    progress *display = progress_start("comparing", "pairs", options->quiet);
    settings.progress_user = display;
    double begin = seconds_now();
    kvsim_status status = kvsim_compute(run->ctx, &settings, &run->result);
    run->compute_seconds = seconds_now() - begin;
    progress_end(display, status == KVSIM_OK);
    return status == KVSIM_OK ? 0 : fail(error, "%s", kvsim_ctx_error(run->ctx));
}

static int write_piece(void *user, const void *data, size_t size) {
    return fwrite(data, 1, size, user) == size ? 0 : -1;
}

/** The library's own report as a JSON document, so that every figure has one source. */
static int load_report(analysis *run, error_text *error) {
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (memory == NULL)
        return fail(error, "out of memory");
    kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
    options.write = write_piece;
    options.write_user = memory;
    kvsim_status status = kvsim_report(run->ctx, run->result, &options);
    bool failed = fclose(memory) != 0;
    json_error_t reason;
    int result = 0;
    if (status != KVSIM_OK)
        result = fail(error, "%s", kvsim_ctx_error(run->ctx));
    else if (failed)
        result = fail(error, "out of memory");
    else if ((run->report = json_loadb(text, size, JSON_REJECT_DUPLICATES, &reason)) == NULL)
        result = fail(error, "libkvsim wrote a report that is no JSON: %s", reason.text);
    free(text);
    return result;
}

static int write_document(analysis *run, error_text *error) {
    document_parts parts = {&run->options, &run->source,   &run->figures, &run->saving,
                            &run->ledger,  &run->lossless, run->result,   run->compute_seconds};
    json_t *document = document_build(&parts, error);
    if (document == NULL)
        return -1;
    size_t size = 0;
    char *text = json_text(document, &size);
    json_decref(document);
    if (text == NULL)
        return fail(error, "out of memory");
    int result = output_write(run->output, DOCUMENT_NAME, text, size, error);
    free(text);
    return result;
}

/** Pictures are an extra: where gnuplot is missing or fails, the report is written without them. */
static int draw_pictures(analysis *run, error_text *error) {
    bool any =
        run->figures.total.kind[FIGURE_KEY].cosine[0].pairs + run->figures.total.kind[FIGURE_VALUE].cosine[0].pairs > 0;
    if (run->options.no_plots)
        return 0;
    if (!any) {
        snprintf(run->remark, sizeof run->remark, "no pictures: there are no pairs to show");
        return 0;
    }
    error_text reason = {""};
    int drawn = plots_draw(&run->figures, &run->saving, run->source.title, output_staging(run->output), &reason);
    if (drawn == GNUPLOT_INTERRUPTED)
        return fail(error, "interrupted");
    if (drawn == GNUPLOT_FAILED)
        return fail(error, "%s; --no-plots leaves the pictures out", reason.text);
    if (drawn == GNUPLOT_ABSENT)
        snprintf(run->remark, sizeof run->remark,
                 "no pictures: gnuplot is not installed; install the package gnuplot-nox");
    run->pictures = drawn == GNUPLOT_OK;
    return 0;
}

static int commit(analysis *run, error_text *error) {
    const char *names[PLOT_FILE_COUNT + 1];
    size_t count = 0;
    if (run->pictures)
        for (; count < PLOT_FILE_COUNT; count++)
            names[count] = plot_files[count];
    names[count++] = DOCUMENT_NAME;
    return output_commit(run->output, names, count, plot_files, run->pictures ? 0 : PLOT_FILE_COUNT, error);
}

static int run_analysis(analysis *run, error_text *error) {
    const analyze_options *options = &run->options;
    if ((run->output = output_open(options->output_dir, error)) == NULL || create_context(run, error) != 0)
        return -1;
    double begin = seconds_now();
    if (source_open(&run->source, run->ctx, options, error) != 0)
        return -1;
    run->source.load_seconds = seconds_now() - begin;
    if (compute(run, error) != 0 || load_report(run, error) != 0 ||
        figures_collect(&run->figures, run->report, options->thresholds[0], options->budget, error) != 0 ||
        ledger_collect(&run->ledger, run->report, options->budget, error) != 0)
        return -1;
    run->lossless = lossless_collect(run->report);
    run->saving = figures_saving(&run->figures);
    if (write_document(run, error) != 0 || draw_pictures(run, error) != 0 || interrupted())
        return -1;
    return commit(run, error);
}

static void release(analysis *run) {
    output_close(run->output);
    figures_release(&run->figures);
    json_decref(run->report);
    kvsim_result_destroy(run->result);
    /* The pages are borrowed from the source, and the files of the source from the context. */
    if (run->ctx != NULL)
        kvsim_ctx_clear(run->ctx);
    source_close(&run->source);
    kvsim_ctx_destroy(run->ctx);
    options_release(&run->options);
}

int main(int argc, char **argv) {
    static analysis run;
    error_text error = {""};
    setlocale(LC_CTYPE, "");
    options_read(argc, argv, &run.options);
    watch_signals();
    int status = run_analysis(&run, &error) == 0 ? EXIT_SUCCESS : EXIT_FAILED;
    if (status != EXIT_SUCCESS && interrupted()) {
        status = EXIT_INTERRUPTED;
        print_error(PROGRAM, "interrupted; %s is as it was", run.options.output_dir);
    } else if (status != EXIT_SUCCESS) {
        print_error(PROGRAM, "%s", error.text);
    } else {
        if (run.remark[0] != 0 && !run.options.quiet)
            print_error(PROGRAM, "%s", run.remark);
        if (!run.options.quiet && print_summary(stdout, &run.options, &run.source, &run.figures, &run.saving,
                                                &run.ledger, &run.lossless, run.pictures) != 0) {
            print_error(PROGRAM, "cannot print the summary; the report is complete");
            status = EXIT_FAILED;
        }
    }
    release(&run);
    return status;
}
