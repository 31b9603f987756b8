#include "campaign.h"

#include "campaign_state.h"
#include "common/json_file.h"
#include "common/terminal.h"
#include "results.h"
#include "worker.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_item(campaign_item *item, const experiment *e, error_text *error) {
    item->e = e;
    item->hashes = calloc((size_t)e->repeats, sizeof *item->hashes);
    item->runs = calloc((size_t)e->repeats, sizeof *item->runs);
    if (item->hashes == NULL || item->runs == NULL)
        return fail(error, "out of memory");
    if (strcmp(e->engine, ENGINE_BUILTIN) != 0) {
        item->planned = WORK_DONE;
        item->estimate = estimate_run(e, NULL);
    }
    return 0;
}

/** Make the items of a campaign. 0, or -1 with `error` set; the campaign must be closed in any case. */
static int campaign_open(campaign *c, const campaign_options *options, const experiment_list *experiments,
                         error_text *error) {
    memset(c, 0, sizeof *c);
    c->options = options;
    c->items = calloc(experiments->count, sizeof *c->items);
    c->tasks = calloc((size_t)options->jobs, sizeof *c->tasks);
    if (c->items == NULL || c->tasks == NULL)
        return fail(error, "out of memory");
    c->count = experiments->count;
    for (size_t i = 0; i < c->count; i++)
        if (open_item(&c->items[i], &experiments->items[i], error) != 0)
            return -1;
    return 0;
}

/** Give back what a campaign holds. */
static void campaign_close(campaign *c) {
    progress_end(c->display, false);
    for (size_t i = 0; i < c->count; i++) {
        json_decref(c->items[i].plan);
        free(c->items[i].hashes);
        free(c->items[i].runs);
        free(c->items[i].failure);
    }
    free(c->items);
    free(c->tasks);
    free(c->between_stamp);
    free(c->failure);
    store_close(c->store);
    if (c->plans.text[0] != 0)
        path_remove(c->plans.text);
}

/* ---- What is there already ---- */

/** Look for the runs of an experiment. */
static int find_runs(campaign *c, campaign_item *item, error_text *error) {
    for (int64_t r = 0; r < item->e->repeats; r++) {
        if (store_hash(item->e, r, item->hashes[r], error) != 0)
            return -1;
        int found = store_find(c->store, item->e, r, item->hashes[r], error);
        if (found < 0 || found == RUN_OTHER)
            return -1;
        item->runs[r] = found == RUN_COMPLETE ? WORK_DONE : WORK_WAITING;
    }
    return 0;
}

static bool has_not_failed(const campaign *c, const campaign_item *item) {
    (void)c;
    return item->failure == NULL;
}

static bool is_complete(const campaign *c, const campaign_item *item) {
    (void)c;
    return item_is_complete(item);
}

/** What a comparison between some experiments is made from: a run of each. [owned]; NULL: there are fewer than two. */
static char *make_between_stamp(const campaign *c, bool (*takes_part)(const campaign *c, const campaign_item *item)) {
    char *text = NULL;
    size_t size, used = 0;
    FILE *memory = open_memstream(&text, &size);
    if (memory == NULL)
        return NULL;
    for (size_t i = 0; i < c->count; i++) {
        const campaign_item *item = &c->items[i];
        if (!takes_part(c, item))
            continue;
        fprintf(memory, "%s ", item->hashes[0]);
        used++;
    }
    fclose(memory);
    if (used >= 2)
        return text;
    free(text);
    return NULL;
}

/**
 * The comparison between experiments needs the pages of one run of each. Where they were deleted and it is to be made
 * again, because there are other experiments now, that run is made again, too; it comes out the same.
 */
static void renew_dumps(campaign *c) {
    char *stamp = make_between_stamp(c, has_not_failed);
    bool there = stamp == NULL || store_has_stamp(c->store, ALL_FOLDER, WORKER_BETWEEN, stamp);
    for (size_t i = 0; i < c->count && !there; i++) {
        campaign_item *item = &c->items[i];
        if (item->failure != NULL || item->runs[0] != WORK_DONE || store_has_dump(c->store, item->e->name, 0))
            continue;
        item->runs[0] = WORK_WAITING;
        item->renewed = true;
        campaign_say(c,
                     "experiment %s: its first repeat is run again, since the comparison with the others needs its "
                     "cache",
                     item->e->name);
    }
    free(stamp);
}

/** Results that were written from these very runs are not written again. */
static void find_results(campaign *c) {
    for (size_t i = 0; i < c->count; i++) {
        campaign_item *item = &c->items[i];
        path_text path;
        error_text ignored;
        char *stamp = results_stamp(c, item);
        bool there = path_make(&path, &ignored, "%s/%s/" RESULTS_NAME, store_path(c->store), item->e->name) == 0 &&
                     path_exists(path.text);
        if (there && stamp != NULL && store_has_stamp(c->store, item->e->name, WORKER_RESULTS, stamp))
            item->results = WORK_DONE;
        free(stamp);
    }
}

/** Estimated seconds of the comparison between the experiments that have not failed. */
static double estimate_comparison(const campaign *c) {
    run_estimate *runs = calloc(c->count, sizeof *runs);
    size_t count = 0;
    for (size_t i = 0; runs != NULL && i < c->count; i++)
        if (c->items[i].failure == NULL)
            runs[count++] = c->items[i].estimate;
    double seconds = estimate_between(runs, count);
    free(runs);
    return seconds;
}

/** Add up what is to be done, for the progress. */
static void weigh_work(campaign *c) {
    c->work_done = 0.0;
    c->between_seconds = estimate_comparison(c);
    c->work_total = c->between_seconds + PICTURE_SECONDS;
    for (size_t i = 0; i < c->count; i++) {
        const campaign_item *item = &c->items[i];
        int64_t runs = item->failure == NULL ? item->e->repeats - item_complete_runs(item) : 0;
        c->work_total += (double)runs * (item->estimate.generation_seconds + item->estimate.analysis_seconds);
        if (item->failure == NULL && item->results != WORK_DONE)
            c->work_total += PICTURE_SECONDS;
    }
}

/* ---- The end ---- */

/** Print the sentences of the report, and where it is. 0, or -1 if they cannot be printed. */
static int print_answer(const campaign *c) {
    path_text path;
    error_text ignored;
    json_t *report = NULL;
    size_t index;
    const json_t *sentence;
    if (c->options->quiet || c->final != WORK_DONE || c->failure != NULL)
        return 0;
    if (path_make(&path, &ignored, "%s/" FINAL_REPORT_NAME, store_path(c->store)) == 0)
        report = json_file_read(path.text, &ignored);
    json_array_foreach(json_object_get(report, "answer"), index, sentence) if (json_is_string(sentence))
        printf("%s\n", json_string_value(sentence));
    json_decref(report);
    const char *folder = c->options->output_dir;
    size_t length = strlen(folder);
    printf("\nReport     %s%sreport.html\n", folder, length > 0 && folder[length - 1] == '/' ? "" : "/");
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -1;
}

static size_t count_complete(const campaign *c) {
    size_t complete = 0;
    for (size_t i = 0; i < c->count; i++)
        complete += item_is_complete(&c->items[i]) && c->items[i].results == WORK_DONE;
    return complete;
}

/** Compare the experiments with each other and write the report. */
static void write_ending(campaign *c, bool with_comparison) {
    c->between_stamp = make_between_stamp(c, is_complete);
    bool there = c->between_stamp != NULL && store_has_stamp(c->store, ALL_FOLDER, WORKER_BETWEEN, c->between_stamp);
    if (!there) {
        free(c->between_stamp);
        c->between_stamp = with_comparison ? make_between_stamp(c, item_is_comparable) : NULL;
    }
    c->between = c->between_stamp == NULL || there ? WORK_DONE : WORK_WAITING;
    campaign_work(c, next_ending);
}

/** The dumps have done their work if everything is complete; else --resume may need them. */
static void drop_dumps(const campaign *c) {
    if (c->options->keep_dumps || count_complete(c) < c->count || c->final != WORK_DONE || c->failure != NULL)
        return;
    for (size_t i = 0; i < c->count; i++)
        store_drop_dumps(c->store, c->items[i].e);
}

/** Say how far it got, and how to go on. */
static void say_interrupted(const campaign *c, bool report) {
    int64_t runs = 0, complete = 0;
    for (size_t i = 0; i < c->count; i++) {
        runs += c->items[i].e->repeats;
        complete += item_complete_runs(&c->items[i]);
    }
    print_error(PROGRAM,
                "interrupted: %zu of %zu experiments and %" PRId64 " of %" PRId64
                " runs are complete%s; go on with: %s "
                "--resume",
                count_complete(c), c->count, complete, runs, report ? ", and the report has what there is" : "",
                c->options->command != NULL ? c->options->command : PROGRAM);
}

/** Run everything. Returns the exit status. */
static int work(campaign *c) {
    c->display = progress_start("experiments", "runs", c->options->quiet);
    campaign_work(c, next_plan);
    if (!c->stopping) {
        renew_dumps(c);
        find_results(c);
        weigh_work(c);
        campaign_work(c, next_run);
    }
    bool stopped = c->stopping;
    bool report = !stopped || count_complete(c) > 0;
    if (stopped) {
        /* What follows is short; a second request stops it, too. */
        forget_interruption();
        c->stopping = false;
    }
    if (report)
        write_ending(c, !stopped);
    progress_end(c->display, false);
    c->display = NULL;
    if (stopped || c->stopping) {
        say_interrupted(c, c->final == WORK_DONE && c->failure == NULL);
        return EXIT_INTERRUPTED;
    }
    drop_dumps(c);
    if (c->failure != NULL)
        print_error(PROGRAM, "%s", c->failure);
    int printed = print_answer(c);
    if (printed != 0)
        print_error(PROGRAM, "cannot print the answer; the report is complete");
    return c->failure == NULL && printed == 0 && count_complete(c) == c->count ? EXIT_SUCCESS : EXIT_FAILED;
}

int campaign_run(const campaign_options *options, const experiment_list *experiments) {
    campaign c;
    error_text error = {""};
    int result = campaign_open(&c, options, experiments, &error);
    if (result == 0 && (c.store = store_open(options->output_dir, options->resume, &error)) == NULL)
        result = -1;
    for (size_t i = 0; result == 0 && i < c.count; i++)
        result = find_runs(&c, &c.items[i], &error);
    int status = EXIT_FAILED;
    if (result == 0)
        status = work(&c);
    else
        print_error(PROGRAM, "%s", error.text);
    campaign_close(&c);
    return status;
}

/* ---- Without running ---- */

int campaign_list(const experiment_list *experiments) {
    for (size_t i = 0; i < experiments->count; i++) {
        const experiment *e = &experiments->items[i];
        printf("%-20s %zu prompts, %" PRId64 " new tokens each, temperature %g, %" PRId64 " repeats, engine %s\n",
               e->name, e->prompt_count, e->max_tokens, e->temperature, e->repeats, e->engine);
        if (e->description[0] != 0)
            printf("    %s\n", e->description);
    }
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_SUCCESS;
    print_error(PROGRAM, "cannot print the list");
    return EXIT_FAILED;
}

/** One line of a dry run, and its seconds. */
static double print_estimate(const campaign_item *item) {
    const experiment *e = item->e;
    const run_estimate *estimate = &item->estimate;
    char prompt[32], output[32], bytes[64] = "unknown size", seconds[32];
    double total = (double)e->repeats * (estimate->generation_seconds + estimate->analysis_seconds);
    format_count(prompt, sizeof prompt, (uint64_t)estimate->prompt_tokens);
    format_count(output, sizeof output, (uint64_t)estimate->output_tokens);
    if (isfinite(estimate->kv_bytes))
        format_bytes(bytes, sizeof bytes, estimate->kv_bytes);
    format_seconds(seconds, sizeof seconds, total);
    printf("%s: engine %s, model %s\n", e->name, e->engine, e->model);
    printf("    %" PRId64 " repeats of %zu prompts, %s%s + %s tokens each, cache of %s each, about %s%s\n", e->repeats,
           e->prompt_count, estimate->measured ? "" : "about ", prompt, output, bytes, seconds,
           estimate->measured ? "" : " (a guess)");
    return total;
}

static int print_estimates(const campaign *c) {
    double total = estimate_comparison(c) + PICTURE_SECONDS, dumps = 0.0;
    char seconds[32], bytes[64];
    size_t failed = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (c->items[i].failure != NULL) {
            failed++;
            continue;
        }
        total += print_estimate(&c->items[i]) / (double)c->options->jobs + PICTURE_SECONDS;
        dumps += isfinite(c->items[i].estimate.kv_bytes) ? c->items[i].estimate.kv_bytes : 0.0;
    }
    format_seconds(seconds, sizeof seconds, total);
    format_bytes(bytes, sizeof bytes, dumps);
    printf("%zu experiments into %s: about %s, and %s of caches on the disk meanwhile\n", c->count - failed,
           c->options->output_dir, seconds, bytes);
    if (fflush(stdout) != 0 || ferror(stdout))
        print_error(PROGRAM, "cannot print the estimates");
    else if (failed == 0)
        return EXIT_SUCCESS;
    return EXIT_FAILED;
}

int campaign_dry_run(const campaign_options *options, const experiment_list *experiments) {
    campaign c;
    error_text error = {""};
    const char *temporary = getenv("TMPDIR");
    int status = EXIT_FAILED;
    int result = campaign_open(&c, options, experiments, &error);
    if (result == 0)
        result = path_make(&c.plans, &error, "%s/kvsim-experiments-XXXXXX",
                           temporary != NULL && temporary[0] != 0 ? temporary : "/tmp");
    if (result == 0 && mkdtemp(c.plans.text) == NULL) {
        result = fail(&error, "cannot make a folder for plans in %s: %s",
                      temporary != NULL && temporary[0] != 0 ? temporary : "/tmp", strerror(errno));
        c.plans.text[0] = 0;
    }
    if (result == 0) {
        campaign_work(&c, next_plan);
        status = c.stopping ? EXIT_INTERRUPTED : print_estimates(&c);
        if (c.stopping)
            print_error(PROGRAM, "interrupted");
    } else {
        print_error(PROGRAM, "%s", error.text);
    }
    campaign_close(&c);
    return status;
}
