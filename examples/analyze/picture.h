/**
 * What the pictures have in common: size, colours, title and legend, the axis of layers; and what draws each.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_PICTURE_H
#define KVSIM_EXAMPLES_ANALYZE_PICTURE_H

#include "figures.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/** Size of a picture in pixels and of its letters in points: still legible when shown at half the size. */
#define WIDTH      1600
#define HEIGHT     1000
#define FONT       "DejaVu Sans"
#define FONT_SIZE  21
#define TITLE_SIZE 25
#define SMALL_SIZE 17

/** Colours of Okabe and Ito, which colour-blind readers tell apart. */
#define COLOR_KEY   "#0072B2"
#define COLOR_VALUE "#E69F00"
#define COLOR_EXACT "#D55E00"
#define COLOR_NEAR  "#56B4E9"
#define COLOR_REST  "#CCCCCC"
#define COLOR_INK   "#404040"

/** Point types of gnuplot: filled and open circle, filled and open square. */
#define POINT_KEY        7
#define POINT_KEY_OPEN   6
#define POINT_VALUE      5
#define POINT_VALUE_OPEN 4

/** Most labels on the layer axis. */
#define MOST_LABELS 16

/** Colours of the kinds. */
extern const char *const kind_colors[FIGURE_KINDS];

/** Begin a picture: the terminal, the file, and settings that all have in common. */
void begin_picture(FILE *script, const char *name, bool svg);

/** One entry of a legend. */
typedef struct legend_entry {
    enum { LEGEND_BOX, LEGEND_DASHES, LEGEND_LINE, LEGEND_DOTS, LEGEND_DISC, LEGEND_SQUARE, LEGEND_RING } mark;
    const char *color;
    char text[96];
} legend_entry;

/** Title and legend of a picture, laid out by hand: gnuplot's own key wraps and then covers the title. */
void draw_head(FILE *script, const char *title, const legend_entry *entries, size_t count);

/** After the first panel: what draw_head set must not be drawn again. */
void end_head(FILE *script);

/** Ticks of the layer axis: every layer, or every few where there are many. */
void set_layer_axis(FILE *script, const report_figures *figures);

/** Offset of a kind's mark from the middle of its layer. */
double kind_offset(int kind);

/** Whether there are pairs of a kind. */
bool has_pairs(const report_figures *figures, int kind);

/** @name The pictures, each from its title on
 * @{ */
void draw_distribution(FILE *script, const report_figures *figures, const char *title);
void draw_layers(FILE *script, const report_figures *figures, const char *title);
void draw_views(FILE *script, const report_figures *figures, const char *title);
void draw_bytes(FILE *script, const report_figures *figures, const saving_figures *saving, const char *title);
void draw_curve(FILE *script, const report_figures *figures, const char *title);
/** @} */

#endif
