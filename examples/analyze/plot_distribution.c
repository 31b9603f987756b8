#include "picture.h"

#include <math.h>
#include <string.h>

/** Power of ten at which the axis of shares (per cent) ends at the latest. */
#define LOWEST_DECADE -4.0

/** One of the four metrics. */
typedef struct metric_panel {
    const char *name;  /**< member of `histogram` */
    const char *label; /**< of the axis */
    double least;      /**< left edge of the first bin */
    double most;       /**< right edge of the last bin */
    bool open;         /**< the last bin holds everything above, too */
} metric_panel;

static const metric_panel panels[] = {
    {"cosine", "Cosine similarity", -1.0, 1.0, false},
    {"relative_error", "Relative L2 distance, ‖x − y‖ / ‖x‖", 0.0, 2.0, true},
    {"hamming", "Hamming distance, share of 8-bit codes", 0.0, 1.0, false},
    {"jaccard", "Jaccard similarity of the active sets", 0.0, 1.0, false},
};

/** Shares of pairs (per cent) in the bins of a metric, all layers of a view pooled. */
typedef struct distribution {
    double share[FIGURE_KINDS][KVSIM_HISTOGRAM_BINS];
    double pairs[FIGURE_KINDS];
    size_t first[FIGURE_KINDS]; /**< bins that anything lies in: first..last */
    size_t last[FIGURE_KINDS];
    double least; /**< smallest share above 0 */
} distribution;

static distribution pool_histograms(const report_figures *figures, const char *view, const char *metric) {
    distribution pooled;
    const json_t *group;
    size_t index;
    memset(&pooled, 0, sizeof pooled);
    json_array_foreach(json_object_get(figures->report, "groups"), index, group) {
        const json_t *bins = json_object_get(json_object_get(group, "histogram"), metric);
        if (json_object_get(group, "head") != NULL || strcmp(member_text(group, "view"), view) != 0)
            continue;
        int kind = strcmp(member_text(group, "kind"), "key") == 0 ? FIGURE_KEY : FIGURE_VALUE;
        for (size_t i = 0; i < KVSIM_HISTOGRAM_BINS; i++) {
            double count = json_number_value(json_array_get(bins, i));
            pooled.share[kind][i] += count;
            pooled.pairs[kind] += count;
        }
    }
    pooled.least = 100.0;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        pooled.first[kind] = KVSIM_HISTOGRAM_BINS;
        for (size_t i = 0; i < KVSIM_HISTOGRAM_BINS; i++) {
            double *share = &pooled.share[kind][i];
            if (*share <= 0.0)
                continue;
            *share *= 100.0 / pooled.pairs[kind];
            pooled.first[kind] = i < pooled.first[kind] ? i : pooled.first[kind];
            pooled.last[kind] = i;
            pooled.least = fmin(pooled.least, *share);
        }
    }
    return pooled;
}

/** Write a distribution as a staircase. Empty bins get `bottom`, the lower end of the logarithmic axis. */
static void write_steps(FILE *script, const char *name, const metric_panel *panel, const distribution *pooled, int kind,
                        double bottom) {
    double width = (panel->most - panel->least) / KVSIM_HISTOGRAM_BINS;
    fprintf(script, "$%s%d << END_OF_DATA\n", name, kind);
    for (size_t i = pooled->first[kind]; i <= pooled->last[kind]; i++) {
        double share = pooled->share[kind][i] > 0.0 ? pooled->share[kind][i] : bottom;
        double left = panel->least + width * (double)i;
        fprintf(script, "%.6g %.6g\n%.6g %.6g\n", left, share, left + width, share);
    }
    fputs("END_OF_DATA\n", script);
}

/** Set the range of x to the bins that are in use, in either of two distributions. */
static void set_bin_range(FILE *script, const metric_panel *panel, const distribution *a, const distribution *b) {
    double width = (panel->most - panel->least) / KVSIM_HISTOGRAM_BINS;
    size_t first = KVSIM_HISTOGRAM_BINS, last = 0;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        first = a->first[kind] < first ? a->first[kind] : first;
        first = b->first[kind] < first ? b->first[kind] : first;
        last = a->last[kind] > last ? a->last[kind] : last;
        last = b->last[kind] > last ? b->last[kind] : last;
    }
    fprintf(script, "set xrange [%.6g:%.6g]\n", fmax(panel->least, panel->least + width * ((double)first - 2.0)),
            fmin(panel->most + width, panel->least + width * ((double)last + 3.0)));
}

static void plot_steps(FILE *script, const char *name, const distribution *pooled, const char *style,
                       const char **separator) {
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        if (pooled->pairs[kind] == 0.0)
            continue;
        fprintf(script, "%s$%s%d using 1:2 with %s linecolor rgb '%s' notitle", *separator, name, kind, style,
                kind_colors[kind]);
        *separator = ", ";
    }
}

static void draw_panel(FILE *script, const report_figures *figures, size_t number, double bottom) {
    const metric_panel *panel = &panels[number];
    distribution raw = pool_histograms(figures, "raw", panel->name);
    bool second = number == 0 && figures->view_count > 1;
    distribution other = second ? pool_histograms(figures, figures->views[figures->view_count - 1], panel->name) : raw;
    fprintf(script, "set origin %s,%s\nset size 0.5,0.44\n", number % 2 == 0 ? "0" : "0.5", number < 2 ? "0.44" : "0");
    fprintf(script, "set xlabel '%s' offset 0,0.3\nset ylabel 'Pairs in a bin (%%)' offset 1,0\n", panel->label);
    if (raw.pairs[FIGURE_KEY] + raw.pairs[FIGURE_VALUE] == 0.0) {
        fputs("unset logscale y\nset xrange [0:1]\nset yrange [0:1]\nset label 9 'not measured' at graph 0.5,0.5 "
              "center\nplot NaN notitle\nunset label 9\n",
              script);
        return;
    }
    char fill[80];
    snprintf(fill, sizeof fill, "filledcurves y1=%g fillstyle transparent solid 0.25 noborder", bottom);
    fprintf(script, "set logscale y\nset yrange [%g:150]\n", bottom);
    set_bin_range(script, panel, &raw, &other);
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        write_steps(script, "raw", panel, &raw, kind, bottom);
        if (second)
            write_steps(script, "other", panel, &other, kind, bottom);
    }
    const char *separator = "plot ";
    plot_steps(script, "raw", &raw, fill, &separator);
    plot_steps(script, "raw", &raw, "lines linewidth 3", &separator);
    if (second)
        plot_steps(script, "other", &other, "lines linewidth 2.5 dashtype (12,6)", &separator);
    fputs("\n", script);
}

void draw_distribution(FILE *script, const report_figures *figures, const char *title) {
    char text[512];
    legend_entry legend[3] = {
        {LEGEND_BOX, COLOR_KEY, "keys, raw"}, {LEGEND_BOX, COLOR_VALUE, "values, raw"}, {LEGEND_DASHES, COLOR_INK, ""}};
    snprintf(text, sizeof text, "How alike are pairs of pages? %s", title);
    snprintf(legend[2].text, sizeof legend[2].text, "keys and values, %s", figures->views[figures->view_count - 1]);
    draw_head(script, text, legend, figures->view_count > 1 ? 3 : 2);
    double least = 100.0;
    for (size_t i = 0; i < sizeof panels / sizeof *panels; i++)
        least = fmin(least, pool_histograms(figures, "raw", panels[i].name).least);
    double bottom = pow(10.0, fmax(floor(log10(least)), LOWEST_DECADE));
    fputs("set lmargin 11\nset rmargin 2\nset tmargin 1\nset bmargin 3.5\n", script);
    for (size_t i = 0; i < sizeof panels / sizeof *panels; i++) {
        draw_panel(script, figures, i, bottom);
        end_head(script);
    }
    fputs("unset multiplot\n", script);
}
