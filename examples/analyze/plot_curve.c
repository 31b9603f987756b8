#include "picture.h"

#include "common/terminal.h"

#include <math.h>

#define COLOR_SAVED    "#0072B2"
#define COLOR_SCALED   "#009E73"
#define COLOR_POSSIBLE "#D6E6F2"
#define COLOR_CLAIM    "#D55E00"

/** Smallest top of the axis in per cent, so that a curve of nothing is not blown up. */
#define LEAST_TOP 10.0

/** Bytes of all pages that have an earlier one alike. */
static double claimed_bytes(const report_figures *figures) {
    return figures->total.kind[FIGURE_KEY].alike_bytes + figures->total.kind[FIGURE_VALUE].alike_bytes;
}

/** Budget and, in per cent of the bytes compared, what is saved, saved with scaling, and possible. */
static void write_curve(FILE *script, const report_figures *figures) {
    double percent = 100.0 / figures_compared_bytes(figures);
    fputs("$curve << END_OF_DATA\n", script);
    for (size_t i = 0; i < figures->point_count; i++) {
        const curve_point *point = &figures->curve[i];
        fprintf(script, "%.6g %.6g %.6g %.6g\n", point->budget, percent * point->removed_bytes,
                percent * point->scaled_bytes, percent * point->possible_bytes);
    }
    fputs("END_OF_DATA\n$headline << END_OF_DATA\n", script);
    const curve_point *headline = figures_headline(figures);
    if (headline != NULL)
        fprintf(script, "%.6g %.6g\n", headline->budget, percent * headline->removed_bytes);
    fputs("END_OF_DATA\n", script);
}

static double axis_top(const report_figures *figures) {
    double most = claimed_bytes(figures);
    for (size_t i = 0; i < figures->point_count; i++)
        most = fmax(most, fmax(figures->curve[i].possible_bytes, figures->curve[i].scaled_bytes));
    return fmin(103.0, fmax(LEAST_TOP, 112.0 * most / figures_compared_bytes(figures)));
}

void draw_curve(FILE *script, const report_figures *figures, const char *title) {
    char text[512], share[32];
    double percent = 100.0 / figures_compared_bytes(figures);
    double last = figures->curve[figures->point_count - 1].budget;
    double claim = percent * claimed_bytes(figures), top = axis_top(figures);
    legend_entry legend[4] = {{LEGEND_LINE, COLOR_SAVED, "saved"},
                              {LEGEND_DASHES, COLOR_SCALED, "saved, best scale"},
                              {LEGEND_BOX, COLOR_POSSIBLE, "possible at most, unscaled"},
                              {LEGEND_DOTS, COLOR_CLAIM, ""}};
    snprintf(legend[3].text, sizeof legend[3].text, "claimed by cosine ≥ %g", figures->threshold);
    snprintf(text, sizeof text, "What an error budget saves: %s", title);
    draw_head(script, text, legend, 4);
    write_curve(script, figures);
    fprintf(script,
            "set origin 0,0\nset size 1,0.89\nset lmargin 10\nset rmargin 3\nset tmargin 1\nset bmargin 3.5\n"
            "set xlabel 'Relative error that a page may have, ‖x − y‖ / ‖x‖' offset 0,0.3\n"
            "set ylabel '%s saved (%% of bytes compared)' offset -0.5,0\n"
            "set xrange [0:%g]\nset yrange [0:%g]\n",
            figures->by_block ? "Blocks" : "Pages", last > 0.0 ? last : 1.0, top);
    format_share(share, sizeof share, claim / 100.0);
    fprintf(script, "set label 1 '%s' at graph 0.01,first %g left offset 0,0.7 textcolor rgb '%s'\n", share, claim,
            COLOR_CLAIM);
    const curve_point *headline = figures_headline(figures);
    if (headline != NULL) {
        format_share(share, sizeof share, headline->removed_bytes / figures_compared_bytes(figures));
        fprintf(script, "set label 2 '%s at %g' at first %g,%g left offset 0.3,1.1 textcolor rgb '%s'\n", share,
                headline->budget, headline->budget, percent * headline->removed_bytes, COLOR_SAVED);
    }
    fprintf(script,
            "plot $curve using 1:2:4 with filledcurves linecolor rgb '%s' notitle, "
            "%.6g with lines linewidth 4 dashtype (2,5) linecolor rgb '%s' notitle, "
            "$curve using 1:3 with lines linewidth 4 dashtype (12,6) linecolor rgb '%s' notitle, "
            "$curve using 1:2 with linespoints linewidth 4 pointtype %d pointsize 0.6*point linecolor rgb '%s' "
            "notitle, "
            "$headline using 1:2 with points pointtype %d pointsize 1.2*point linecolor rgb '%s' notitle\n"
            "unset multiplot\n",
            COLOR_POSSIBLE, claim, COLOR_CLAIM, COLOR_SCALED, POINT_KEY, COLOR_SAVED, POINT_KEY, COLOR_SAVED);
}
