#include "picture.h"

#include <math.h>

/** Marks are smaller above this number of layers. */
#define MOST_LARGE_LAYERS 12

/**
 * One block of data for each kind: x, mean, 5 %, 95 %, least, most, mean in the last view, and in both views the share
 * of pages alike (per cent).
 */
static void write_layers(FILE *script, const report_figures *figures) {
    size_t last = figures->view_count - 1;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        fprintf(script, "$layers%d << END_OF_DATA\n", kind);
        for (size_t i = 0; i < figures->layer_count; i++) {
            const kind_figures *one = &figures->layers[i].kind[kind];
            const cosine_figures *raw = &one->cosine[0];
            double percent = 100.0 / (double)one->pages;
            if (raw->pairs == 0)
                continue;
            fprintf(script, "%g %.6g %.6g %.6g %.6g %.6g %.6g %.6g %.6g\n", (double)i + kind_offset(kind),
                    figures_mean(raw), figures_quantile(raw, 0.05), figures_quantile(raw, 0.95), raw->least, raw->most,
                    figures_mean(&one->cosine[last]), percent * (double)raw->alike,
                    percent * (double)one->cosine[last].alike);
        }
        fputs("END_OF_DATA\n", script);
    }
}

/** Bottom of the axis of cosines: 0, or lower where there are lower ones. */
static double lowest_cosine(const report_figures *figures) {
    double least = 0.0;
    for (int kind = 0; kind < FIGURE_KINDS; kind++)
        if (has_pairs(figures, kind))
            least = fmin(least, figures->total.kind[kind].cosine[0].least);
    return floor(10.0 * least) / 10.0;
}

/** Open marks on white for a column of the last view. */
static void plot_last_view(FILE *script, int kind, int column) {
    fprintf(script,
            ", $layers%d using 1:%d with points pointtype %d pointsize point linewidth 3 linecolor rgb '#FFFFFF' "
            "notitle, $layers%d using 1:%d with points pointtype %d pointsize point linewidth 3 linecolor rgb '%s' "
            "notitle",
            kind, column, kind == FIGURE_KEY ? POINT_KEY : POINT_VALUE, kind, column,
            kind == FIGURE_KEY ? POINT_KEY_OPEN : POINT_VALUE_OPEN, COLOR_INK);
}

static void draw_layer_means(FILE *script, const report_figures *figures) {
    fprintf(script,
            "set origin 0,0.38\nset size 1,0.51\nset bmargin 2\nset ylabel 'Cosine'\nset yrange [%g:1.03]\n"
            "set title 'Cosine of pairs of pages' offset 0,-0.4\n",
            lowest_cosine(figures));
    /* Wide bars become thinner where there are many layers. */
    double thick = fmax(2.0, fmin(16.0, 200.0 / (double)figures->layer_count));
    const char *separator = "plot ";
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        if (!has_pairs(figures, kind))
            continue;
        fprintf(script,
                "%s$layers%d using 1:5:(0):($6-$5) with vectors nohead linewidth 2 linecolor rgb '%s' notitle, "
                "$layers%d using 1:3:(0):($4-$3) with vectors nohead linewidth %g linecolor rgb '#80%s' notitle",
                separator, kind, kind_colors[kind], kind, thick, kind_colors[kind] + 1);
        separator = ", ";
    }
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        if (!has_pairs(figures, kind))
            continue;
        fprintf(script, ", $layers%d using 1:2 with points pointtype %d pointsize point linecolor rgb '%s' notitle",
                kind, kind == FIGURE_KEY ? POINT_KEY : POINT_VALUE, kind_colors[kind]);
        if (figures->view_count > 1)
            plot_last_view(script, kind, 7);
    }
    fputs("\n", script);
}

static void draw_layer_shares(FILE *script, const report_figures *figures) {
    fprintf(script,
            "set origin 0,0\nset size 1,0.38\nset bmargin 3.2\nset xlabel 'Layer' offset 0,0.3\n"
            "set ylabel 'Pages (%%)'\nset yrange [0:105]\nset boxwidth 0.26\n"
            "set title 'Pages with an earlier page at cosine ≥ %g' offset 0,-0.4\n",
            figures->threshold);
    const char *separator = "plot ";
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        if (!has_pairs(figures, kind))
            continue;
        fprintf(script, "%s$layers%d using 1:8 with boxes linecolor rgb '%s' notitle", separator, kind,
                kind_colors[kind]);
        separator = ", ";
    }
    for (int kind = 0; kind < FIGURE_KINDS; kind++)
        if (has_pairs(figures, kind) && figures->view_count > 1)
            plot_last_view(script, kind, 9);
    fputs("\n", script);
}

void draw_layers(FILE *script, const report_figures *figures, const char *title) {
    char text[512];
    legend_entry legend[5] = {{LEGEND_DISC, COLOR_KEY, "keys, raw"},
                              {LEGEND_SQUARE, COLOR_VALUE, "values, raw"},
                              {LEGEND_BOX, COLOR_REST, "5–95 % of pairs"},
                              {LEGEND_LINE, COLOR_INK, "min–max"},
                              {LEGEND_RING, COLOR_INK, ""}};
    snprintf(text, sizeof text, "Similarity of pages by layer: %s", title);
    snprintf(legend[4].text, sizeof legend[4].text, "%s", figures->views[figures->view_count - 1]);
    draw_head(script, text, legend, figures->view_count > 1 ? 5 : 4);
    write_layers(script, figures);
    set_layer_axis(script, figures);
    fputs("set lmargin 10\nset rmargin 2\nset tmargin 2\n", script);
    if (figures->layer_count > MOST_LARGE_LAYERS)
        fputs("point = 0.6 * point\n", script);
    draw_layer_means(script, figures);
    end_head(script);
    draw_layer_shares(script, figures);
    fputs("unset multiplot\n", script);
}
