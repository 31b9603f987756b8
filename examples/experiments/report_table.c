#include "report_table.h"

#include <math.h>

/** Width of a bar's own units: per cent of its cell. */
#define BAR_UNITS 100.0

void table_begin(FILE *out, const char *caption, const char *remark, const report_column *columns, size_t count) {
    fputs("<table class=\"cards\" role=\"table\">\n<caption>", out);
    html_text(out, caption);
    if (remark != NULL) {
        fputs("<span class=\"small\">", out);
        html_text(out, remark);
        fputs("</span>", out);
    }
    fputs("</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">", out);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "<th scope=\"col\" role=\"columnheader\"%s%s%s>", *columns[i].class != 0 ? " class=\"" : "",
                columns[i].class, *columns[i].class != 0 ? "\"" : "");
        html_text(out, columns[i].label);
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody role=\"rowgroup\">\n", out);
}

void table_end(FILE *out) {
    fputs("</tbody></table>\n", out);
}

void row_open(FILE *out, const char *name) {
    fputs("<tr role=\"row\"><th scope=\"row\" role=\"rowheader\">", out);
    html_text(out, name);
}

void row_begin(FILE *out, const char *name) {
    row_open(out, name);
    fputs("</th>", out);
}

void row_end(FILE *out) {
    fputs("</tr>\n", out);
}

void cell_begin(FILE *out, const report_column *column) {
    fprintf(out, "<td role=\"cell\"%s%s%s data-label=\"", *column->class != 0 ? " class=\"" : "", column->class,
            *column->class != 0 ? "\"" : "");
    html_text(out, column->label);
    fputs("\"><div class=\"cell\">", out);
}

void cell_end(FILE *out) {
    fputs("</div></td>", out);
}

void cell_estimate(FILE *out, const report_column *column, const report_estimate *estimate, number_writer *write,
                   const char *unit) {
    cell_begin(out, column);
    html_estimate(out, estimate, write, unit);
    cell_end(out);
}

void range_add(bar_range *range, const report_estimate *estimate) {
    const double ends[] = {estimate->mean, estimate->low, estimate->high};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (!isfinite(ends[i]))
            continue;
        range->low = fmin(range->low, ends[i]);
        range->high = fmax(range->high, ends[i]);
    }
}

/** The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is not smaller. */
static double round_up(double value) {
    static const double steps[] = {1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0};
    if (!(value > 0.0))
        return 0.0;
    double unit = pow(10.0, floor(log10(value)));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i] * unit >= value * (1.0 - 1e-9))
            return steps[i] * unit;
    return 10.0 * unit;
}

bar_range range_round(bar_range range) {
    bar_range rounded = {-round_up(-range.low), round_up(range.high)};
    if (rounded.high - rounded.low <= 0.0)
        rounded.high = 1.0;
    return rounded;
}

static double place_of(double value, bar_range range) {
    double place = BAR_UNITS * (value - range.low) / (range.high - range.low);
    return fmin(fmax(place, 0.0), BAR_UNITS);
}

static void begin_bar(FILE *out) {
    fputs("<svg class=\"bar\" viewBox=\"0 0 100 12\" preserveAspectRatio=\"none\" aria-hidden=\"true\">", out);
}

/** A line from end to end of the interval, with a short stroke across at either end. */
static void write_whisker(FILE *out, const report_estimate *estimate, bar_range range) {
    if (!has_interval(estimate))
        return;
    double low = place_of(estimate->low, range), high = place_of(estimate->high, range);
    fprintf(out, "<path class=\"s-ink\" fill=\"none\" stroke-width=\"1.5\" d=\"M%.2f,6H%.2fM%.2f,3V9M%.2f,3V9\"/>", low,
            high, low, high);
}

void bar_write(FILE *out, const report_estimate *estimate, bar_range range, const char *role) {
    double zero = place_of(0.0, range);
    begin_bar(out);
    fputs("<rect class=\"f-track\" x=\"0\" y=\"1\" width=\"100\" height=\"10\"/>", out);
    if (isfinite(estimate->mean)) {
        double end = place_of(estimate->mean, range);
        fprintf(out, "<rect class=\"f-%s-bar\" x=\"%.2f\" y=\"1\" width=\"%.2f\" height=\"10\"/>", role,
                fmin(zero, end), fabs(end - zero));
    }
    if (range.low < 0.0)
        fprintf(out, "<path class=\"s-muted\" stroke-width=\"1\" d=\"M%.2f,0V12\"/>", zero);
    write_whisker(out, estimate, range);
    fputs("</svg>", out);
}

void dot_write(FILE *out, const report_estimate *estimate, bar_range range, const char *role) {
    begin_bar(out);
    fprintf(out,
            "<path class=\"s-rule\" stroke-width=\"1\" d=\"M0,6H100\"/>"
            "<path class=\"s-muted\" stroke-width=\"1.5\" d=\"M%.2f,-2V14\"/>",
            place_of(0.0, range));
    write_whisker(out, estimate, range);
    /* A stroke of no length with round ends is a disc, whatever the bar is stretched to. */
    if (isfinite(estimate->mean))
        fprintf(out, "<path class=\"s-%s\" stroke-width=\"9\" stroke-linecap=\"round\" d=\"M%.2f,6h0\"/>", role,
                place_of(estimate->mean, range));
    fputs("</svg>", out);
}

void parts_write(FILE *out, double first, double second, double most) {
    double scale = most > 0.0 ? BAR_UNITS / most : 0.0;
    begin_bar(out);
    fprintf(out,
            "<rect class=\"f-track\" x=\"0\" y=\"1\" width=\"100\" height=\"10\"/>"
            "<rect class=\"f-main-bar\" x=\"0\" y=\"1\" width=\"%.2f\" height=\"10\"/>"
            "<rect class=\"f-other-bar\" x=\"%.2f\" y=\"1\" width=\"%.2f\" height=\"10\"/></svg>",
            scale * first, scale * first, scale * second);
}
