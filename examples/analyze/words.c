#include "words.h"

#include "common/terminal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Share of the raw likeness above which what is left of it counts as most of it. */
#define MOST_OF_IT 0.5

/** Longest text of one figure. */
#define FIGURE_SIZE 64

static const char *const kind_words[FIGURE_KINDS] = {"key", "value"};

static void add_text(json_t *list, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add_text(json_t *list, const char *format, ...) {
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    json_array_append_new(list, json_string(text != NULL ? text : ""));
    free(text);
}

void percent_text(char *text, size_t size, double share) {
    double percent = 100.0 * share;
    if (isnan(share))
        snprintf(text, size, "-");
    else if (fabs(percent) < 0.005)
        snprintf(text, size, "0");
    else
        snprintf(text, size, "%.*f", fabs(percent) < 0.995 ? 2 : 1, percent);
}

void interval_text(char *text, size_t size, const share_evidence *evidence, double low, double high) {
    char from[FIGURE_SIZE / 4], to[FIGURE_SIZE / 4];
    if (evidence->without_interval > 0)
        snprintf(text, size, "none, %llu of %d sequences", (unsigned long long)evidence->sequences, FEWEST_SEQUENCES);
    else if (isnan(low))
        snprintf(text, size, "none, all sequences alike");
    else {
        percent_text(from, sizeof from, low);
        percent_text(to, sizeof to, high);
        snprintf(text, size, "%s to %s", from, to);
    }
}

/** "; shuffled pages give 51.9 %; what is left is 0.94 % (95 % interval -1.2 to 2.0)", or why not. */
static void excess_text(char *text, size_t size, const share_evidence *evidence) {
    share_estimate estimate = evidence_estimate(evidence);
    char chance[FIGURE_SIZE], excess[FIGURE_SIZE], interval[FIGURE_SIZE];
    if (evidence->pages <= 0.0) {
        snprintf(text, size, "; the chance level was left out (--no-chance)");
        return;
    }
    if (isnan(estimate.chance)) {
        snprintf(text, size, "; there is no chance level, since a layer has fewer than %d pages", FEWEST_PAGES);
        return;
    }
    percent_text(chance, sizeof chance, estimate.chance);
    percent_text(excess, sizeof excess, estimate.excess);
    int used = snprintf(text, size, "; shuffled pages give %s %%; what is left is %s %%", chance, excess);
    text += used;
    size -= (size_t)used;
    if (!isnan(estimate.excess_low)) {
        interval_text(interval, sizeof interval, evidence, estimate.excess_low, estimate.excess_high);
        snprintf(text, size, " (95 %% interval %s)%s", interval,
                 evidence_is_certain(&estimate) ? ""
                 : estimate.excess_high < 0.0   ? ": less than chance"
                                                : ": cannot be told from 0");
    } else if (evidence->without_interval > 0)
        snprintf(text, size, " (no interval: that takes %d sequences, here are %llu)", FEWEST_SEQUENCES,
                 (unsigned long long)evidence->sequences);
    else
        snprintf(text, size, " (no interval: no sequence differs from the others)");
}

static double share_alike(const kind_figures *kind, size_t view) {
    return kind->pages > 0 ? (double)kind->cosine[view].alike / (double)kind->pages : (double)NAN;
}

/** What the raw cosine would have claimed. */
static void add_claim(json_t *list, const report_figures *figures, int kind) {
    const kind_figures *one = &figures->total.kind[kind];
    char share[FIGURE_SIZE], rest[512];
    percent_text(share, sizeof share, share_alike(one, 0));
    excess_text(rest, sizeof rest, &one->cosine[0].evidence);
    add_text(list, "A cosine of %g would call %s %% of %s pages alike%s.", figures->threshold, share, kind_words[kind],
             rest);
}

/** What is left of it in the view that takes out most, and why. */
static void add_reason(json_t *list, const report_figures *figures, int kind) {
    const kind_figures *one = &figures->total.kind[kind];
    size_t both = figures_view(figures, "derotated_centered"), centered = figures_view(figures, "centered");
    size_t view = both < FIGURE_VIEWS && kind == FIGURE_KEY ? both : centered < FIGURE_VIEWS ? centered : both;
    if (view == FIGURE_VIEWS || one->cosine[0].alike == 0)
        return;
    char share[FIGURE_SIZE], rest[512];
    double raw = share_alike(one, 0), left = share_alike(one, view);
    bool derotated = view == both && kind == FIGURE_KEY;
    percent_text(share, sizeof share, left);
    excess_text(rest, sizeof rest, &one->cosine[view].evidence);
    add_text(list, "With the mean that all %ss of a layer share%s taken out, %s %% are alike%s. %s.", kind_words[kind],
             derotated ? " and the rotation by position" : "", share, rest,
             left >= MOST_OF_IT * raw ? "Most of the raw figure is likeness of content"
             : derotated              ? "Most of the raw figure was that mean and position, not content"
                                      : "Most of the raw figure was that mean, not content");
}

static void add_bytes(json_t *list, const report_figures *figures, const saving_figures *saving) {
    const curve_point *point = figures_headline(figures);
    double all = saving->bytes;
    if (point == NULL || all <= 0.0)
        return;
    char saved[FIGURE_SIZE], possible[FIGURE_SIZE], pairs[FIGURE_SIZE], alike[FIGURE_SIZE], rest[512];
    char saved_share[FIGURE_SIZE], possible_share[FIGURE_SIZE], pair_share[FIGURE_SIZE], alike_share[FIGURE_SIZE];
    double bytes_alike = figures->total.kind[FIGURE_KEY].alike_bytes + figures->total.kind[FIGURE_VALUE].alike_bytes;
    format_bytes(saved, sizeof saved, point->removed_bytes);
    format_bytes(possible, sizeof possible, point->possible_bytes);
    format_bytes(pairs, sizeof pairs, figures->pair_bytes);
    format_bytes(alike, sizeof alike, bytes_alike);
    percent_text(saved_share, sizeof saved_share, point->removed_bytes / all);
    percent_text(possible_share, sizeof possible_share, point->possible_bytes / all);
    percent_text(pair_share, sizeof pair_share, figures->pair_bytes / all);
    percent_text(alike_share, sizeof alike_share, bytes_alike / all);
    excess_text(rest, sizeof rest, &point->evidence);
    add_text(list,
             "Within a relative error of %g, sharing %s saves %s, %s %% of what was compared%s. "
             "No choice of pages to keep could save more than %s (%s %%).",
             figures->budget, saving->by_block ? "blocks (key page and value page must both pass)" : "pages", saved,
             saved_share, rest, possible, possible_share);
    add_text(list, "The cosine alone would have claimed %s (%s %%), and counting pairs, as is often done, %s (%s %%).",
             alike, alike_share, pairs, pair_share);
}

json_t *words_headline(const report_figures *figures, const saving_figures *saving) {
    json_t *list = json_array();
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        if (figures->total.kind[kind].cosine[0].pairs == 0)
            continue;
        add_claim(list, figures, kind);
        add_reason(list, figures, kind);
    }
    add_bytes(list, figures, saving);
    return list;
}

/** Why these views. */
static void add_views(json_t *list, const analyze_options *options, const page_source *source) {
    if (options->views != 0)
        return;
    add_text(list, "%s",
             source->rope_known
                 ? "Views: all four, since it is known how the keys were rotated."
                 : "Views: raw and centered; the others need to know how the keys were rotated, and the pages do not "
                   "say, or not the same in all files.");
}

json_t *words_notes(const analyze_options *options, const page_source *source, const report_figures *figures) {
    json_t *list = json_array();
    const layer_figures *total = &figures->total;
    uint64_t pairs = 0, others = 0, without_interval = 0, without_chance = 0;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        pairs += total->kind[kind].cosine[0].pairs;
        others += total->kind[kind].others;
        without_interval += total->kind[kind].cosine[0].evidence.without_interval;
        without_chance += total->kind[kind].cosine[0].evidence.without_chance;
    }
    if (pairs == 0)
        add_text(list, "There are no two pages to compare: a group needs two full pages without NaN or infinity. "
                       "Means and shares are null.");
    if (others > 0)
        add_text(list, "Pages that are partial, opaque, or hold NaN or infinity are counted and not compared.");
    add_views(list, options, source);
    if (options->no_chance)
        add_text(list, "Chance levels and intervals were left out (--no-chance).");
    if (without_chance > 0)
        add_text(list, "A layer has fewer than %d pages: too few to shuffle, so there is no chance level.",
                 FEWEST_PAGES);
    if (without_interval > 0)
        add_text(list, "There are fewer than %d sequences: too few for an interval.", FEWEST_SEQUENCES);
    return list;
}
