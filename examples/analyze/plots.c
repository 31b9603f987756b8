#include "plots.h"

#include "common/gnuplot.h"
#include "common/terminal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Seconds after which gnuplot is stopped; it takes about one. */
#define TIME_LIMIT 120.0

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

/** Bars are labelled with their share of duplicates up to this number of layers. */
#define MOST_LABELLED_LAYERS 12

/** Most labels on the layer axis. */
#define MOST_LABELS 16

/** Power of ten at which the axis of shares (per cent) ends at the latest. */
#define LOWEST_DECADE -4.0

const char *const plot_files[PLOT_FILE_COUNT] = {
    "similarity_distribution.png", "similarity_distribution.svg",   "layer_similarity.png",
    "layer_similarity.svg",        "compression_opportunities.png", "compression_opportunities.svg",
};

static const char *const kind_colors[FIGURE_KINDS] = {COLOR_KEY, COLOR_VALUE};

/** Begin a picture: the terminal, the file, and settings that all have in common. */
static void begin_picture(FILE *script, size_t file) {
    bool svg = file % 2 == 1;
    fputs("reset\n", script);
    /* The SVG terminal takes the size of letters in pixels and makes points larger. */
    if (svg)
        fprintf(script, "set terminal svg size %d,%d dynamic noenhanced font '%s,%d' background '#FFFFFF'\n", WIDTH,
                HEIGHT, FONT, FONT_SIZE * 4 / 3);
    else
        fprintf(script, "set terminal pngcairo size %d,%d noenhanced font '%s,%d' background '#FFFFFF'\n", WIDTH,
                HEIGHT, FONT, FONT_SIZE);
    fprintf(script, "set output '%s'\npoint = %s\nletter = %s\n", plot_files[file], svg ? "1.1" : "2.4",
            svg ? "4.0 / 3" : "1");
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

/** One entry of a legend. */
typedef struct legend_entry {
    enum { LEGEND_BOX, LEGEND_DASHES, LEGEND_LINE, LEGEND_DISC, LEGEND_SQUARE, LEGEND_RING } mark;
    const char *color;
    char text[96];
} legend_entry;

/** Characters of a UTF-8 text. */
static double count_characters(const char *text) {
    double count = 0.0;
    for (; *text != 0; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

/** Title and legend of a picture, laid out by hand: gnuplot's own key wraps and then covers the title. */
static void draw_head(FILE *script, const char *title, const legend_entry *entries, size_t count) {
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
        else if (entry->mark == LEGEND_LINE || entry->mark == LEGEND_DASHES)
            fprintf(script, "set arrow %u from screen %g,%g to screen %g,%g nohead linewidth 3 %s linecolor rgb '%s'\n",
                    number, x, y, x + 0.7 * mark_width, y, entry->mark == LEGEND_DASHES ? "dashtype (12,6)" : "",
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

/** After the first panel: what draw_head set must not be drawn again. */
static void end_head(FILE *script) {
    fputs("unset label\nunset arrow\nunset object\n", script);
}

/* ------------------------------------------------------------------------------------------------
 * Distribution of the metrics
 * ---------------------------------------------------------------------------------------------- */

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

static void draw_distribution(FILE *script, const report_figures *figures, const char *title) {
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

/* ------------------------------------------------------------------------------------------------
 * Layers
 * ---------------------------------------------------------------------------------------------- */

/** Ticks of the layer axis: every layer, or every few where there are many. */
static void set_layer_axis(FILE *script, const report_figures *figures) {
    size_t step = (figures->layer_count + MOST_LABELS - 1) / MOST_LABELS;
    fputs("set xtics (", script);
    for (size_t i = 0; i < figures->layer_count; i += step)
        fprintf(script, "%s'%d' %zu", i > 0 ? ", " : "", figures->layers[i].layer, i);
    fprintf(script, ")\nset xrange [-0.6:%g]\n", (double)figures->layer_count - 0.4);
}

/** Offset of a kind's mark from the middle of its layer. */
static double kind_offset(int kind) {
    return kind == FIGURE_KEY ? -0.14 : 0.14;
}

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

static bool has_pairs(const report_figures *figures, int kind) {
    return figures->total.kind[kind].cosine[0].pairs > 0;
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

static void draw_layers(FILE *script, const report_figures *figures, const char *title) {
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
    if (figures->layer_count > MOST_LABELLED_LAYERS)
        fputs("point = 0.6 * point\n", script);
    draw_layer_means(script, figures);
    end_head(script);
    draw_layer_shares(script, figures);
    fputs("unset multiplot\n", script);
}

/* ------------------------------------------------------------------------------------------------
 * Bytes
 * ---------------------------------------------------------------------------------------------- */

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

static void draw_bytes(FILE *script, const report_figures *figures, const saving_figures *saving, const char *title) {
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

/* ------------------------------------------------------------------------------------------------ */

/** gnuplot does not notice a full disk: look whether the pictures have their ends. */
static int check_pictures(const char *folder, error_text *error) {
    for (size_t i = 0; i < PLOT_FILE_COUNT; i++) {
        char path[4096], tail[16] = "";
        snprintf(path, sizeof path, "%s/%s", folder, plot_files[i]);
        const char *end = i % 2 == 1 ? "</svg>" : "IEND";
        FILE *file = fopen(path, "rbe");
        bool whole = false;
        if (file != NULL && fseek(file, -(long)sizeof tail, SEEK_END) == 0 && fread(tail, 1, sizeof tail, file) > 0)
            whole = memmem(tail, sizeof tail, end, strlen(end)) != NULL;
        if (file != NULL)
            fclose(file);
        if (!whole)
            return fail(error, "gnuplot left %s unfinished; is there room in the output folder?", plot_files[i]);
    }
    return 0;
}

int plots_draw(const report_figures *figures, const saving_figures *saving, const char *title, const char *folder,
               error_text *error) {
    char *script = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&script, &size);
    if (out == NULL)
        return fail(error, "cannot make the pictures: %s", strerror(errno));
    for (size_t file = 0; file < PLOT_FILE_COUNT; file++) {
        begin_picture(out, file);
        if (file < 2)
            draw_distribution(out, figures, title);
        else if (file < 4)
            draw_layers(out, figures, title);
        else
            draw_bytes(out, figures, saving, title);
        fputs("set output\n", out);
    }
    bool failed = ferror(out) != 0;
    failed = fclose(out) != 0 || failed;
    int result = failed ? fail(error, "cannot make the pictures: out of memory")
                        : gnuplot_run(script, size, folder, TIME_LIMIT, error);
    free(script);
    if (result == GNUPLOT_OK && check_pictures(folder, error) != 0)
        result = GNUPLOT_FAILED;
    return result;
}
