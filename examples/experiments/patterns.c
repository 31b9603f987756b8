#include "patterns.h"

#include "analyze/figures.h"
#include "common/json_text.h"
#include "patterns_words.h"
#include "statistics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Append a pattern; `figures` is taken over. */
static void put(json_t *patterns, const char *pattern, const char *text, json_t *figures) {
    json_array_append_new(patterns, json_pack("{s:s, s:s, s:o}", "pattern", pattern, "text", text, "figures", figures));
}

static void set_figure(json_t *figures, const char *name, const figure *of) {
    json_t *object = json_object();
    json_object_set_new(object, "mean", json_number(of->mean));
    json_object_set_new(object, "low", json_number(of->low));
    json_object_set_new(object, "high", json_number(of->high));
    json_object_set_new(figures, name, object);
}

/* ---- layers ---- */

/** Rank of a value among others, from 1; ties share the mean of theirs. */
static double rank_of(const double *values, size_t count, size_t own) {
    double below = 0.0, equal = 0.0;
    for (size_t i = 0; i < count; i++) {
        below += values[i] < values[own];
        equal += values[i] == values[own];
    }
    return below + (equal + 1.0) / 2.0;
}

/** Spearman's rank correlation of the values with their places; NaN if all are equal. */
static double rank_correlation(const double *values, size_t count) {
    double mean = ((double)count + 1.0) / 2.0, product = 0.0, squares = 0.0, depth = 0.0;
    for (size_t i = 0; i < count; i++) {
        double rank = rank_of(values, count, i) - mean, place = (double)i + 1.0 - mean;
        product += rank * place;
        squares += rank * rank;
        depth += place * place;
    }
    return squares > 0.0 ? product / sqrt(squares * depth) : (double)NAN;
}

/** Whether a rank correlation of so many layers is more than chance gives in 95 of 100 orders. */
static bool is_trend(double correlation, size_t count) {
    if (isnan(correlation) || count < 5)
        return false;
    double degrees = (double)count - 2.0;
    double t = fabs(correlation) * sqrt(degrees / fmax(1e-12, 1.0 - correlation * correlation));
    return t > student_975(degrees);
}

/** What is known of the layers of one kind. */
typedef struct layer_excess {
    double *means; /**< [count] */
    bool *certain; /**< [count] the interval lies above 0 */
    size_t count, most, least;
} layer_excess;

static bool collect_layers(const json_t *layers, const char *path, layer_excess *of) {
    *of = (layer_excess){.count = json_array_size(layers)};
    of->means = calloc(of->count + 1, sizeof *of->means);
    of->certain = calloc(of->count + 1, sizeof *of->certain);
    if (of->means == NULL || of->certain == NULL)
        return false;
    for (size_t i = 0; i < of->count; i++) {
        figure own = figure_at(json_array_get(layers, i), path);
        of->means[i] = own.mean;
        of->certain[i] = is_certain(&own);
        of->most = own.mean > of->means[of->most] ? i : of->most;
        of->least = own.mean < of->means[of->least] ? i : of->least;
    }
    return of->count > 0 && !isnan(of->means[0]);
}

static void describe_layer_excess(const json_t *layers, const char *path, const char *kind, const layer_excess *of,
                                  json_t *patterns) {
    char text[1024];
    figure top = figure_at(json_array_get(layers, of->most), path);
    figure bottom = figure_at(json_array_get(layers, of->least), path);
    double correlation = rank_correlation(of->means, of->count);
    bool trend = is_trend(correlation, of->count), flat = top.mean == bottom.mean;
    phrase high = percent_with_interval(&top), low = percent_with_interval(&bottom);
    phrase where = layers_in_words(of->certain, of->count);
    size_t certain = 0;
    for (size_t i = 0; i < of->count; i++)
        certain += of->certain[i];
    if (flat && top.mean == 0.0)
        snprintf(text, sizeof text, "No %s page is alike an earlier one beyond chance in any layer.", kind);
    else if (flat)
        snprintf(text, sizeof text, "%s of the %s pages are alike beyond chance in every layer.", high.text, kind);
    else
        snprintf(
            text, sizeof text,
            "In %s more %s pages are alike than chance gives%s: the excess reaches from %s in layer %zu to %s in layer "
            "%zu%s.",
            where.text, kind, certain > 0 ? "" : ", as far as these prompts can tell", low.text, of->least, high.text,
            of->most,
            !trend              ? ", without a trend with depth"
            : correlation > 0.0 ? ", and rises with depth"
                                : ", and falls with depth");
    json_t *figures = json_pack("{s:s, s:I, s:I}", "kind", kind, "largest_layer", (json_int_t)of->most,
                                "smallest_layer", (json_int_t)of->least);
    set_figure(figures, "largest", &top);
    set_figure(figures, "smallest", &bottom);
    json_object_set_new(figures, "rank_correlation", json_number(correlation));
    json_object_set_new(figures, "trend", json_boolean(trend));
    json_object_set_new(figures, "layers_above_chance", json_integer((json_int_t)certain));
    put(patterns, "layers", text, figures);
}

static void describe_layers(const json_t *layers, const char *kind, json_t *patterns) {
    char path[64];
    layer_excess of;
    snprintf(path, sizeof path, "%s/alike_excess", kind);
    if (collect_layers(layers, path, &of))
        describe_layer_excess(layers, path, kind, &of, patterns);
    free(of.means);
    free(of.certain);
}

/* ---- places of the match, position, distance ---- */

static void describe_places(const json_t *analysis, json_t *patterns) {
    figure within = figure_at(analysis, "within_sequence/alike_share/both");
    figure between = figure_at(analysis, "between_sequences/alike_share/both");
    figure chance = figure_at(analysis, "headline/alike_chance/both");
    phrase inside = percent_with_interval(&within), across = percent_with_interval(&between);
    phrase luck = percent(chance.mean);
    char text[1024];
    const char *verdict = within.mean == 0.0 && between.mean == 0.0 ? "No page is alike an earlier one"
                          : lies_above(&within, &between)           ? "Likeness is at home inside single sequences"
                          : lies_above(&between, &within)
                              ? "Likeness is mostly between sequences"
                              : "Likeness inside and between sequences cannot be told apart";
    snprintf(
        text, sizeof text,
        "%s: %s of the pages have an alike earlier page in their own sequence, %s in another one; chance gives %s.",
        verdict, inside.text, across.text, luck.text);
    json_t *figures = json_object();
    set_figure(figures, "within_sequence", &within);
    set_figure(figures, "between_sequences", &between);
    set_figure(figures, "chance", &chance);
    put(patterns, "places", text, figures);
}

static void describe_position(const json_t *analysis, json_t *patterns) {
    figure first = figure_at(analysis, "positions/first/both/alike_share");
    figure middle = figure_at(analysis, "positions/middle/both/alike_share");
    figure last = figure_at(analysis, "positions/last/both/alike_share");
    phrase of_first = percent_with_interval(&first), of_middle = percent_with_interval(&middle);
    phrase of_last = percent_with_interval(&last);
    char text[1024];
    if (isnan(first.mean) || isnan(middle.mean) || isnan(last.mean) || first.mean + middle.mean + last.mean == 0.0)
        return;
    const char *beginning = lies_above(&first, &middle) ? "First pages are alike more often than those in the middle"
                            : lies_above(&middle, &first)
                                ? "First pages are alike less often than those in the middle"
                                : "First pages are alike about as often as those in the middle";
    const char *end = lies_above(&last, &middle)   ? "more often"
                      : lies_above(&middle, &last) ? "less often"
                                                   : "about as often";
    snprintf(text, sizeof text, "%s (%s against %s), last full pages %s (%s).", beginning, of_first.text,
             of_middle.text, end, of_last.text);
    json_t *figures = json_object();
    set_figure(figures, "first", &first);
    set_figure(figures, "middle", &middle);
    set_figure(figures, "last", &last);
    put(patterns, "position", text, figures);
}

static void describe_time(const json_t *analysis, const char *kind, json_t *patterns) {
    const json_t *bins = member_at(analysis, "distance/bins");
    size_t count = json_array_size(bins);
    char path[64], text[1024];
    if (count < 2)
        return;
    snprintf(path, sizeof path, "%s/mean_cosine", kind);
    const json_t *near_bin = json_array_get(bins, 0), *far_bin = json_array_get(bins, count - 1);
    figure near_figure = figure_at(near_bin, path), far_figure = figure_at(far_bin, path);
    snprintf(path, sizeof path, "distance/different_sequences/%s/mean_cosine", kind);
    figure others = figure_at(analysis, path);
    phrase of_near = cosine_with_interval(&near_figure), of_far = cosine_with_interval(&far_figure);
    phrase of_others = cosine_with_interval(&others);
    const char *verdict = lies_above(&near_figure, &far_figure)   ? "fades with distance"
                          : lies_above(&far_figure, &near_figure) ? "grows with distance"
                                                                  : "does not change clearly with distance";
    snprintf(text, sizeof text,
             "Likeness of %ss inside a sequence %s: the mean cosine is %s of pages %d tokens apart and %s at %d tokens "
             "and more; of pages of different sequences it is %s.",
             kind, verdict, of_near.text, (int)member_count(near_bin, "from_tokens"), of_far.text,
             (int)member_count(far_bin, "from_tokens"), of_others.text);
    json_t *figures =
        json_pack("{s:s, s:I, s:I}", "kind", kind, "near_tokens", (json_int_t)member_count(near_bin, "from_tokens"),
                  "far_tokens", (json_int_t)member_count(far_bin, "from_tokens"));
    set_figure(figures, "near", &near_figure);
    set_figure(figures, "far", &far_figure);
    set_figure(figures, "different_sequences", &others);
    put(patterns, "time", text, figures);
}

json_t *patterns_of_experiment(const json_t *analysis) {
    static const char *const kinds[] = {"key", "value"};
    json_t *patterns = json_array();
    for (size_t kind = 0; kind < 2; kind++)
        describe_layers(json_object_get(analysis, "layers"), kinds[kind], patterns);
    describe_places(analysis, patterns);
    describe_position(analysis, patterns);
    for (size_t kind = 0; kind < 2; kind++)
        describe_time(analysis, kinds[kind], patterns);
    return patterns;
}
