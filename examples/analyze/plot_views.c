#include "picture.h"

#include <math.h>
#include <string.h>

/** Colours and marks of the views, in the order of `view_names`. */
static const char *const view_names[FIGURE_VIEWS] = {"raw", "centered", "derotated", "derotated_centered"};
static const char *const view_colors[FIGURE_VIEWS] = {"#D55E00", "#0072B2", "#CC79A7", "#009E73"};

/** Smallest top of the axis in per cent, so that little does not look like much. */
#define LEAST_TOP 5.0

/** Above this number of layers marks are smaller. */
#define MOST_MARKED_LAYERS 24

static size_t style_of(const char *view) {
    for (size_t i = 0; i < FIGURE_VIEWS; i++)
        if (strcmp(view_names[i], view) == 0)
            return i;
    return 0;
}

/** Offset of a view's marks from the middle of its layer. */
static double view_offset(size_t view, size_t count) {
    return 0.16 * ((double)view - 0.5 * ((double)count - 1.0));
}

/** x, share alike, share by chance (per cent) of each layer, one block of data for each kind and view. */
static void write_views(FILE *script, const report_figures *figures) {
    for (int kind = 0; kind < FIGURE_KINDS; kind++)
        for (size_t view = 0; view < figures->view_count; view++) {
            fprintf(script, "$views%d%zu << END_OF_DATA\n", kind, view);
            for (size_t i = 0; i < figures->layer_count; i++) {
                const kind_figures *one = &figures->layers[i].kind[kind];
                share_estimate estimate = evidence_estimate(&one->cosine[view].evidence);
                double x = (double)i + view_offset(view, figures->view_count);
                if (one->cosine[view].pairs == 0)
                    continue;
                fprintf(script, "%g %.6g ", x, 100.0 * (double)one->cosine[view].alike / (double)one->pages);
                if (isnan(estimate.chance))
                    fputs("NaN\n", script);
                else
                    fprintf(script, "%.6g\n", 100.0 * estimate.chance);
            }
            fputs("END_OF_DATA\n", script);
        }
}

/** Top of the axis of a kind in per cent: little above the highest mark. */
static double views_top(const report_figures *figures, int kind) {
    double most = LEAST_TOP;
    for (size_t view = 0; view < figures->view_count; view++)
        for (size_t i = 0; i < figures->layer_count; i++) {
            const kind_figures *one = &figures->layers[i].kind[kind];
            share_estimate estimate = evidence_estimate(&one->cosine[view].evidence);
            if (one->pages > 0)
                most = fmax(most, 100.0 * (double)one->cosine[view].alike / (double)one->pages);
            most = fmax(most, 100.0 * estimate.chance);
        }
    return most;
}

static void draw_views_of(FILE *script, const report_figures *figures, int kind) {
    const char *separator = "plot ";
    double top = views_top(figures, kind);
    fprintf(script, "set title '%s' offset 0,-0.4\nset yrange [%g:%g]\n", kind == FIGURE_KEY ? "Keys" : "Values",
            -0.04 * top, 1.06 * top);
    if (!has_pairs(figures, kind)) {
        fputs("set label 9 'not analysed' at graph 0.5,0.5 center\nplot NaN notitle\nunset label 9\n", script);
        return;
    }
    for (size_t view = 0; view < figures->view_count; view++) {
        const char *color = view_colors[style_of(figures->views[view])];
        /* From chance to what was seen: the excess as a line. */
        fprintf(script,
                "%s$views%d%zu using 1:3:(0):($2-$3) with vectors nohead linewidth 4 linecolor rgb '%s' notitle",
                separator, kind, view, color);
        fprintf(script,
                ", $views%d%zu using 1:3 with points pointtype %d pointsize 1.25*point linecolor rgb '#FFFFFF' notitle",
                kind, view, POINT_KEY);
        fprintf(script,
                ", $views%d%zu using 1:3 with points pointtype %d pointsize 1.25*point linewidth 3 linecolor rgb '%s' "
                "notitle",
                kind, view, POINT_KEY_OPEN, color);
        fprintf(script,
                ", $views%d%zu using 1:2 with points pointtype %d pointsize 0.8*point linecolor rgb '%s' notitle", kind,
                view, POINT_KEY, color);
        separator = ", ";
    }
    fputs("\n", script);
}

void draw_views(FILE *script, const report_figures *figures, const char *title) {
    char text[512];
    legend_entry legend[FIGURE_VIEWS + 1];
    for (size_t view = 0; view < figures->view_count; view++) {
        legend[view] = (legend_entry){LEGEND_DISC, view_colors[style_of(figures->views[view])], ""};
        snprintf(legend[view].text, sizeof legend[view].text, "%s", figures->views[view]);
    }
    legend[figures->view_count] = (legend_entry){LEGEND_RING, COLOR_INK, "shuffled pages (chance)"};
    snprintf(text, sizeof text, "Pages with an earlier page at cosine ≥ %g: %s", figures->threshold, title);
    draw_head(script, text, legend, figures->view_count + 1);
    write_views(script, figures);
    set_layer_axis(script, figures);
    fputs("set lmargin 10\nset rmargin 2\nset tmargin 2\nset ylabel 'Pages (%)'\n", script);
    if (figures->layer_count > MOST_MARKED_LAYERS)
        fputs("point = 0.5 * point\n", script);
    fputs("set origin 0,0.46\nset size 1,0.43\nset bmargin 2\n", script);
    draw_views_of(script, figures, FIGURE_KEY);
    end_head(script);
    fputs("set origin 0,0\nset size 1,0.46\nset bmargin 3.2\nset xlabel 'Layer' offset 0,0.3\n", script);
    draw_views_of(script, figures, FIGURE_VALUE);
    fputs("unset multiplot\n", script);
}
