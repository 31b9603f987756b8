#include "picture.h"

#include "common/gnuplot.h"
#include "common/terminal.h"

#include <math.h>

/** Bars are labelled with their share of duplicates up to this number of layers. */
#define MOST_LABELLED_LAYERS 12

/** One bar: x, the tops of its three parts, and the share of duplicates in words. */
static void write_bar(FILE *script, double x, double bytes, double exact, double removed, double unit) {
    char share[32];
    format_share(share, sizeof share, bytes > 0.0 ? removed / bytes : 0.0);
    if (bytes > 0.0)
        fprintf(script, "%g %.9g %.9g %.9g \"%s\"\n", x, exact / unit, removed / unit, bytes / unit, share);
}

static void write_bars(FILE *script, const report_figures *figures, double unit) {
    fputs("$pages << END_OF_DATA\n", script);
    for (size_t i = 0; i < figures->layer_count; i++)
        for (int kind = 0; kind < FIGURE_KINDS; kind++) {
            const kind_figures *one = &figures->layers[i].kind[kind];
            write_bar(script, (double)i + 1.4 * kind_offset(kind), one->bytes, one->exact_bytes, one->removed_bytes,
                      unit);
        }
    fputs("END_OF_DATA\n$blocks << END_OF_DATA\n", script);
    for (size_t i = 0; i < figures->layer_count; i++) {
        const block_figures *one = &figures->layers[i].block;
        write_bar(script, (double)i, one->bytes, one->exact_bytes, one->removed_bytes, unit);
    }
    fputs("END_OF_DATA\n", script);
}

/** Bars drawn from the tallest part to the lowest, one over the other. */
static void plot_bars(FILE *script, const report_figures *figures, const char *data) {
    fprintf(script,
            "plot $%s using 1:4 with boxes linecolor rgb '%s' notitle, $%s using 1:3 with boxes linecolor rgb '%s' "
            "notitle, $%s using 1:2 with boxes linecolor rgb '%s' notitle",
            data, COLOR_REST, data, COLOR_NEAR, data, COLOR_EXACT);
    if (figures->layer_count <= MOST_LABELLED_LAYERS)
        fprintf(script, ", $%s using 1:4:5 with labels offset 0,0.6 font sprintf('%s,%%g', %d * letter) notitle", data,
                FONT, SMALL_SIZE);
    fputs("\n", script);
}

static double largest_bytes(const report_figures *figures) {
    double largest = 0.0;
    for (size_t i = 0; i < figures->layer_count; i++) {
        for (int kind = 0; kind < FIGURE_KINDS; kind++)
            largest = fmax(largest, figures->layers[i].kind[kind].bytes);
        largest = fmax(largest, figures->layers[i].block.bytes);
    }
    return largest;
}

void draw_bytes(FILE *script, const report_figures *figures, const saving_figures *saving, const char *title) {
    char text[512], saved[64], all[64];
    double largest = largest_bytes(figures);
    double unit = largest >= 1e9 ? 1e9 : largest >= 1e6 ? 1e6 : 1e3;
    bool blocks = saving->by_block;
    legend_entry legend[3] = {{LEGEND_BOX, COLOR_EXACT, "exact duplicates"},
                              {LEGEND_BOX, COLOR_NEAR, ""},
                              {LEGEND_BOX, COLOR_REST, "unique"}};
    snprintf(legend[1].text, sizeof legend[1].text, "near duplicates, relative error ≤ %g", figures->budget);
    format_bytes(saved, sizeof saved, saving->saved_bytes);
    format_bytes(all, sizeof all, saving->bytes);
    snprintf(text, sizeof text, "Bytes that pages could share: %s", title);
    draw_head(script, text, legend, 3);
    write_bars(script, figures, unit);
    set_layer_axis(script, figures);
    fprintf(script, "set lmargin 10\nset rmargin 2\nset tmargin 2.2\nset boxwidth 0.36\nset ylabel '%s'\n",
            unit == 1e9   ? "GB"
            : unit == 1e6 ? "MB"
                          : "kB");
    fprintf(script, "set yrange [0:*]\nset offsets 0,0,graph 0.12,0\n");
    fputs(blocks ? "set origin 0,0.45\nset size 1,0.44\nset bmargin 2\n"
                 : "set origin 0,0\nset size 1,0.89\nset bmargin 3.2\nset xlabel 'Layer' offset 0,0.3\n",
          script);
    fputs("set title 'Each kind on its own: keys left, values right' offset 0,-0.3\n", script);
    plot_bars(script, figures, "pages");
    end_head(script);
    if (blocks) {
        snprintf(text, sizeof text, "Blocks, where key page and value page must both pass: %s of %s", saved, all);
        fputs("set origin 0,0\nset size 1,0.45\nset bmargin 3.2\nset xlabel 'Layer' offset 0,0.3\nset title ", script);
        gnuplot_quote(script, text);
        fputs("\nset boxwidth 0.76\n", script);
        plot_bars(script, figures, "blocks");
    }
    fputs("unset multiplot\n", script);
}
