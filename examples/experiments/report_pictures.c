#include "report_parts.h"

#include "common/gnuplot.h"
#include "report_svg.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Seconds after which gnuplot is stopped; it takes about one. */
#define TIME_LIMIT 120.0

/** Width of a picture in its own units; letters are 14 of them high, so that a phone still shows them legibly. */
#define WIDTH 460

/** Width of one of the smaller pictures, three of which stand side by side. */
#define NARROW_WIDTH 350

/** Heat map: height of an experiment's strip with its name above, and of what is below all. */
#define STRIP_HEIGHT 50
#define AXIS_HEIGHT  52

/** Layers above which the cells of a heat map have no numbers. */
#define MOST_NUMBERED 10

/** Labels on an axis of layers. */
#define MOST_LABELS 12

/** Characters of a name in a picture; a longer one is cut. */
#define NAME_CHARACTERS 44

/** Bytes of a picture that is read back. */
#define MOST_BYTES (8u << 20)

static void file_name(char name[64], const char *picture, size_t number) {
    snprintf(name, 64, "%s-%zu.svg", picture, number);
}

/** A name as a quoted text of gnuplot, short enough for the width of a picture. */
static void quote_name(FILE *script, const char *words) {
    char cut[NAME_CHARACTERS + 4];
    if (strlen(words) <= NAME_CHARACTERS) {
        gnuplot_quote(script, words);
        return;
    }
    size_t size = NAME_CHARACTERS;
    while (size > 0 && ((unsigned char)words[size] & 0xc0) == 0x80)
        size--;
    snprintf(cut, sizeof cut, "%.*s\xe2\x80\xa6", (int)size, words);
    gnuplot_quote(script, cut);
}

/** Ticks at the layers, `shift` from where a layer's number lies. */
static void set_layers(FILE *script, const report_row *row, double shift) {
    size_t count = layers_of(row), step = (count + MOST_LABELS - 1) / MOST_LABELS;
    fputs("set xtics (", script);
    for (size_t i = 0; i < count; i += step)
        fprintf(script, "%s'%g' %g", i > 0 ? ", " : "", number_at(layer_of(row, i), "layer"), (double)i + shift);
    fputs(")\n", script);
}

/** A cell's number in per cent, with a question mark where it cannot be told from chance. */
static void cell_number(char *text, size_t size, const report_estimate *excess) {
    char number[48];
    double percent = 100.0 * excess->mean;
    number_decimals(number, sizeof number, percent, fabs(percent) < 9.95 && fabs(percent) >= 0.05 ? 1 : 0);
    snprintf(text, size, "%s%s", number, excess->low > 0.0 || excess->high < 0.0 ? "" : "?");
}

static void draw_strip(const report_data *data, FILE *script, size_t at, const char *kind, double scale,
                       unsigned *object) {
    const report_row *row = &data->rows[at];
    size_t layers = layers_of(row);
    double bottom = (double)(data->complete - at - 1);
    fprintf(script, "set label %u ", ++*object);
    quote_name(script, row->words);
    fprintf(script, " at graph 0,first %g left textcolor rgb '" ROLE_INK "'\n", bottom + 0.77);
    for (size_t i = 0; i < layers; i++) {
        char path[64], color[8], text[64];
        snprintf(path, sizeof path, "%s/alike_excess", kind);
        report_estimate excess = estimate_at(layer_of(row, i), path);
        if (!isfinite(excess.mean))
            continue;
        int step = heat_step(excess.mean, scale);
        double gap = layers <= 2 * MOST_NUMBERED ? 0.02 : 0.0;
        heat_color(color, step);
        fprintf(script, "set object %u rectangle from %g,%g to %g,%g fillstyle solid 1 noborder fillcolor rgb '%s'\n",
                ++*object, (double)i + gap, bottom + 0.06, (double)i + 1.0 - gap, bottom + 0.58, color);
        if (layers > MOST_NUMBERED)
            continue;
        heat_letters(color, step);
        cell_number(text, sizeof text, &excess);
        fprintf(script, "set label %u '%s' at %g,%g center font ',13' textcolor rgb '%s' front\n", ++*object, text,
                (double)i + 0.5, bottom + 0.32, color);
    }
}

/** One strip of cells for each experiment, a cell for each layer. */
static void draw_heat(const report_data *data, FILE *script, size_t kind) {
    char name[64];
    size_t most = 0;
    const report_row *longest = NULL;
    for (size_t i = 0; i < data->complete; i++) {
        if (layers_of(&data->rows[i]) <= most)
            continue;
        longest = &data->rows[i];
        most = layers_of(longest);
    }
    if (longest == NULL)
        return;
    int height = (int)data->complete * STRIP_HEIGHT + AXIS_HEIGHT;
    unsigned object = 0;
    file_name(name, "layers", kind);
    svg_begin(script, name, WIDTH, height);
    fprintf(script,
            "set lmargin at screen 0.003\nset rmargin at screen 0.997\nset tmargin at screen 1\n"
            "set bmargin at screen %g\nset border 0\nunset ytics\nunset grid\nset xrange [0:%zu]\nset yrange [0:%zu]\n"
            "set tics scale 0\nset xlabel 'Layer' offset 0,0.7 textcolor rgb '" ROLE_MUTED "'\n",
            (double)AXIS_HEIGHT / height, most, data->complete);
    set_layers(script, longest, 0.5);
    for (size_t i = 0; i < data->complete; i++)
        draw_strip(data, script, i, report_kinds[kind], heat_scale(data), &object);
    fputs("plot -1 notitle\nset output\n", script);
}

/** A block of data: x, mean, low, high; the ends are the mean where there is no interval. */
static void write_point(FILE *script, double x, const report_estimate *estimate, double factor) {
    if (!isfinite(estimate->mean))
        return;
    bool interval = has_interval(estimate);
    fprintf(script, "%g %.6g %.6g %.6g\n", x, factor * estimate->mean,
            factor * (interval ? estimate->low : estimate->mean),
            factor * (interval ? estimate->high : estimate->mean));
}

/** From the lowest to the highest end of an interval that the two experiments have in any layer, in per cent. */
static void range_of_pair(const report_row *const pair[2], double *low, double *high) {
    *low = 0.0;
    *high = 0.01;
    for (size_t side = 0; side < 2; side++)
        for (size_t i = 0; i < layers_of(pair[side]); i++)
            for (size_t kind = 0; kind < 2; kind++) {
                char path[64];
                snprintf(path, sizeof path, "%s/alike_excess", report_kinds[kind]);
                report_estimate excess = estimate_at(layer_of(pair[side], i), path);
                *low = fmin(*low, fmin(excess.mean, excess.low));
                *high = fmax(*high, fmax(excess.mean, excess.high));
            }
    *low *= 100.0;
    *high *= 100.0;
}

/** Two experiments layer by layer, with their intervals. */
static void draw_pair(const report_data *data, FILE *script, size_t kind) {
    const report_row *pair[2];
    if (!rows_to_compare(data, &pair[0], &pair[1]))
        return;
    char name[64], path[64];
    double low, high;
    size_t layers = layers_of(pair[0]) > layers_of(pair[1]) ? layers_of(pair[0]) : layers_of(pair[1]);
    range_of_pair(pair, &low, &high);
    file_name(name, "pair", kind);
    svg_begin(script, name, WIDTH, 270);
    fprintf(script,
            "set lmargin at screen 0.115\nset rmargin at screen 0.99\nset tmargin at screen 0.9\nset bmargin at screen "
            "0.21\n"
            "set border 1\nset tics scale 0\nset xrange [-0.6:%g]\nset yrange [%g:%g]\nset ytics autofreq\n"
            "set format y '%%g'\nset xlabel 'Layer' offset 0,0.5 textcolor rgb '" ROLE_MUTED "'\n"
            "set label 1 'per cent of pages' at screen 0.003,0.96 left textcolor rgb '" ROLE_MUTED "'\n"
            "set xzeroaxis linecolor rgb '" ROLE_MUTED "' linewidth 1 linetype 1\n",
            (double)layers - 0.4, low * 1.05, fmin(101.0, high * 1.05));
    set_layers(script, pair[layers_of(pair[0]) > layers_of(pair[1]) ? 0 : 1], 0.0);
    snprintf(path, sizeof path, "%s/alike_excess", report_kinds[kind]);
    for (size_t side = 0; side < 2; side++) {
        fprintf(script, "$side%zu << END_OF_DATA\n", side);
        for (size_t i = 0; i < layers_of(pair[side]); i++) {
            report_estimate excess = estimate_at(layer_of(pair[side], i), path);
            write_point(script, (double)i + (side == 0 ? -0.12 : 0.12), &excess, 100.0);
        }
        fputs("END_OF_DATA\n", script);
    }
    double mark = layers > 16 ? 0.6 : 1.0;
    fprintf(script,
            "plot $side0 using 1:3:(0):($4-$3) with vectors nohead linewidth 2 linecolor rgb '" ROLE_MAIN "' notitle, "
            "$side1 using 1:3:(0):($4-$3) with vectors nohead linewidth 2 linecolor rgb '" ROLE_OTHER "' notitle, "
            "$side0 using 1:2 with points pointtype 7 pointsize %g linecolor rgb '" ROLE_MAIN "' notitle, "
            "$side1 using 1:2 with points pointtype 5 pointsize %g linecolor rgb '" ROLE_OTHER "' notitle\n"
            "set output\n",
            0.75 * mark, 0.65 * mark);
}

/** Lowest and highest mean cosine of any experiment's bins, intervals included, as round numbers. */
static void range_of_distances(const report_data *data, double *low, double *high, double *far) {
    *low = 0.0;
    *high = 0.1;
    *far = 1.0;
    for (size_t i = 0; i < data->complete; i++) {
        const json_t *bins = json_at(data->rows[i].results, "cache_analysis/distance/bins"), *bin;
        size_t at;
        json_array_foreach(bins, at, bin) {
            *far = fmax(*far, number_at(bin, "to_tokens"));
            for (size_t kind = 0; kind < 2; kind++) {
                char path[64];
                snprintf(path, sizeof path, "%s/mean_cosine", report_kinds[kind]);
                report_estimate cosine = estimate_at(bin, path);
                *low = fmin(*low, fmin(cosine.mean, cosine.low));
                *high = fmax(*high, fmax(cosine.mean, cosine.high));
            }
        }
    }
    *low = 0.05 * floor(20.0 * *low);
    *high = 0.1 * ceil(10.0 * *high - 1e-9);
}

/** Similarity against distance in one experiment. */
static void draw_distance(const report_data *data, FILE *script, size_t at) {
    static const char *const colors[] = {ROLE_KEY, ROLE_VALUE}, *const soft[] = {ROLE_KEY_SOFT, ROLE_VALUE_SOFT};
    const json_t *distance = json_at(data->rows[at].results, "cache_analysis/distance"), *bin;
    char name[64], path[64];
    double low, high, far, tokens = number_at(data->settings, "page_tokens");
    size_t index;
    if (json_array_size(json_at(distance, "bins")) == 0)
        return;
    range_of_distances(data, &low, &high, &far);
    tokens = tokens > 0.0 ? tokens : 1.0;
    file_name(name, "distance", at);
    svg_begin(script, name, NARROW_WIDTH, 230);
    fprintf(script,
            "set lmargin at screen 0.12\nset rmargin at screen 0.975\nset tmargin at screen 0.95\n"
            "set bmargin at screen 0.23\n"
            "set border 1\nset tics scale 0\nset logscale x 2\nset xrange [%g:%g]\nset yrange [%g:%g]\n"
            "set xlabel 'Tokens apart' offset 0,0.5 textcolor rgb '" ROLE_MUTED "'\n"
            "set xzeroaxis linecolor rgb '" ROLE_MUTED "' linewidth 1 linetype 1\nset ytics %g\nset xtics (",
            0.85 * tokens, 1.15 * far, low, high, high - low > 0.45 ? 0.2 : 0.1);
    for (double tick = tokens; tick <= far; tick *= far / tokens > 40.0 ? 4.0 : 2.0)
        fprintf(script, "%s'%g' %g", tick > tokens ? ", " : "", tick, tick);
    fputs(")\n", script);
    for (size_t kind = 0; kind < 2; kind++) {
        snprintf(path, sizeof path, "%s/mean_cosine", report_kinds[kind]);
        fprintf(script, "$kind%zu << END_OF_DATA\n", kind);
        json_array_foreach(json_at(distance, "bins"), index, bin) {
            report_estimate cosine = estimate_at(bin, path);
            write_point(script, sqrt(number_at(bin, "from_tokens") * number_at(bin, "to_tokens")), &cosine, 1.0);
        }
        fputs("END_OF_DATA\n", script);
    }
    const char *separator = "plot ";
    for (size_t kind = 0; kind < 2; kind++) {
        fprintf(script, "%s$kind%zu using 1:3:4 with filledcurves linecolor rgb '%s' notitle", separator, kind,
                soft[kind]);
        separator = ", ";
    }
    for (size_t kind = 0; kind < 2; kind++) {
        snprintf(path, sizeof path, "different_sequences/%s/mean_cosine/mean", report_kinds[kind]);
        double others = number_at(distance, path);
        if (isfinite(others))
            fprintf(script, ", %.6g with lines linewidth 1.5 dashtype (4,4) linecolor rgb '%s' notitle", others,
                    colors[kind]);
        fprintf(script,
                ", $kind%zu using 1:2 with lines linewidth 2 linecolor rgb '%s' notitle"
                ", $kind%zu using 1:2 with points pointtype %d pointsize 0.6 linecolor rgb '%s' notitle",
                kind, colors[kind], kind, kind == 0 ? 7 : 5, colors[kind]);
    }
    fputs("\nset output\n", script);
}

void pictures_draw(report_data *data) {
    char *text = NULL;
    size_t size = 0;
    FILE *script = open_memstream(&text, &size);
    if (script == NULL) {
        fail(&data->why_not, "%s", strerror(errno));
        return;
    }
    for (size_t kind = 0; kind < 2; kind++) {
        draw_heat(data, script, kind);
        draw_pair(data, script, kind);
    }
    for (size_t i = 0; i < data->complete; i++)
        draw_distance(data, script, i);
    bool failed = ferror(script) != 0;
    failed = fclose(script) != 0 || failed;
    if (failed) {
        fail(&data->why_not, "out of memory");
    } else {
        int result = gnuplot_run(text, size, data->folder, TIME_LIMIT, &data->why_not);
        data->pictures = result == GNUPLOT_OK;
        if (result == GNUPLOT_ABSENT)
            fail(&data->why_not, "gnuplot is not installed");
        else if (result == GNUPLOT_INTERRUPTED)
            fail(&data->why_not, "the program was asked to stop");
    }
    free(text);
}

/** The file in new memory; NULL if it cannot be read. */
static char *read_picture(const char *folder, const char *name, size_t *size) {
    char *path = NULL, *text = NULL;
    FILE *file = asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : fopen(path, "rbe");
    if (file != NULL && (text = malloc(MOST_BYTES)) != NULL)
        *size = fread(text, 1, MOST_BYTES, file);
    if (file != NULL)
        fclose(file);
    free(path);
    return text;
}

void picture_write(const report_data *data, FILE *out, const char *name, size_t number, const char *label) {
    char file[64], *drawn = NULL, *document = NULL;
    size_t size = 0, drawn_size = 0;
    file_name(file, name, number);
    if (data->pictures)
        document = read_picture(data->folder, file, &size);
    FILE *inside = document != NULL ? open_memstream(&drawn, &drawn_size) : NULL;
    int result = inside != NULL ? svg_inline(inside, document, size, label) : -1;
    if (inside != NULL && fclose(inside) != 0)
        result = -1;
    if (result == 0)
        fwrite(drawn, 1, drawn_size, out);
    else if (data->pictures)
        fputs("<p class=\"note\">This picture could not be drawn; the numbers are in the table below.</p>\n", out);
    free(drawn);
    free(document);
}

void picture_excuse(const report_data *data, FILE *out) {
    if (data->pictures)
        return;
    fputs("<p class=\"note\">There is no picture here: ", out);
    html_text(out, data->why_not.text);
    fputs(". The numbers are in the table below.</p>\n", out);
}
