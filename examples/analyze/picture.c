#include "picture.h"

#include "common/gnuplot.h"

const char *const kind_colors[FIGURE_KINDS] = {COLOR_KEY, COLOR_VALUE};

void begin_picture(FILE *script, const char *name, bool svg) {
    fputs("reset\n", script);
    /* The SVG terminal takes the size of letters in pixels and makes points larger. */
    if (svg)
        fprintf(script, "set terminal svg size %d,%d dynamic noenhanced font '%s,%d' background '#FFFFFF'\n", WIDTH,
                HEIGHT, FONT, FONT_SIZE * 4 / 3);
    else
        fprintf(script, "set terminal pngcairo size %d,%d noenhanced font '%s,%d' background '#FFFFFF'\n", WIDTH,
                HEIGHT, FONT, FONT_SIZE);
    fprintf(script, "set output '%s'\npoint = %s\nletter = %s\n", name, svg ? "1.1" : "2.4", svg ? "4.0 / 3" : "1");
    fputs("set encoding utf8\n"
          "set border 3 linecolor rgb '" COLOR_INK "' linewidth 1.5\n"
          "set tics nomirror out scale 0.6\n"
          "set grid ytics linecolor rgb '#D8D8D8' linewidth 1 linetype 1\n"
          "set style fill solid 1.0 noborder\n"
          "set format x '%g'\n"
          "set format y '%g'\n"
          "unset key\n",
          script);
}

/** Characters of a UTF-8 text. */
static double count_characters(const char *text) {
    double count = 0.0;
    for (; *text != 0; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

void draw_head(FILE *script, const char *title, const legend_entry *entries, size_t count) {
    const double letter = 0.0098, mark_width = 0.03, gap = 0.022, y = 0.905;
    double x = 0.5;
    for (size_t i = 0; i < count; i++)
        x -= 0.5 * (letter * count_characters(entries[i].text) + mark_width + gap);
    x += 0.5 * gap;
    fputs("set multiplot\nset label 100 ", script);
    gnuplot_quote(script, title);
    fprintf(script, " at screen 0.5,0.965 center font sprintf('%s,%%g', %d * letter) noenhanced\n", FONT, TITLE_SIZE);
    for (size_t i = 0; i < count; i++) {
        const legend_entry *entry = &entries[i];
        double middle = x + 0.35 * mark_width;
        unsigned number = 101 + (unsigned)i;
        if (entry->mark == LEGEND_BOX)
            fprintf(script,
                    "set object %u rectangle from screen %g,%g to screen %g,%g fillstyle solid 1 noborder fillcolor "
                    "rgb '%s'\n",
                    number, x, y - 0.011, x + 0.7 * mark_width, y + 0.011, entry->color);
        else if (entry->mark == LEGEND_LINE || entry->mark == LEGEND_DASHES || entry->mark == LEGEND_DOTS)
            fprintf(script, "set arrow %u from screen %g,%g to screen %g,%g nohead linewidth 3 %s linecolor rgb '%s'\n",
                    number, x, y, x + 0.7 * mark_width, y,
                    entry->mark == LEGEND_DASHES ? "dashtype (12,6)"
                    : entry->mark == LEGEND_DOTS ? "dashtype (2,5)"
                                                 : "",
                    entry->color);
        else
            fprintf(
                script,
                "set label %u '' at screen %g,%g point pointtype %d pointsize point linewidth 3 linecolor rgb '%s'\n",
                number, middle, y,
                entry->mark == LEGEND_DISC     ? POINT_KEY
                : entry->mark == LEGEND_SQUARE ? POINT_VALUE
                                               : POINT_KEY_OPEN,
                entry->color);
        fprintf(script, "set label %u ", number + 50);
        gnuplot_quote(script, entry->text);
        fprintf(script, " at screen %g,%g left\n", x + mark_width, y);
        x += letter * count_characters(entry->text) + mark_width + gap;
    }
}

void end_head(FILE *script) {
    fputs("unset label\nunset arrow\nunset object\n", script);
}

void set_layer_axis(FILE *script, const report_figures *figures) {
    size_t step = (figures->layer_count + MOST_LABELS - 1) / MOST_LABELS;
    fputs("set xtics (", script);
    for (size_t i = 0; i < figures->layer_count; i += step)
        fprintf(script, "%s'%d' %zu", i > 0 ? ", " : "", figures->layers[i].layer, i);
    fprintf(script, ")\nset xrange [-0.6:%g]\n", (double)figures->layer_count - 0.4);
}

double kind_offset(int kind) {
    return kind == FIGURE_KEY ? -0.14 : 0.14;
}

bool has_pairs(const report_figures *figures, int kind) {
    return figures->total.kind[kind].cosine[0].pairs > 0;
}
