#include "report_parts.h"

#include <math.h>
#include <string.h>

/** Longest path of a value in the documents. */
#define PATH_SIZE 96

void numbers_begin(const report_data *data, FILE *out, const char *summary, const char *const *heads,
                   const char *unit) {
    fputs("<details><summary>", out);
    html_text(out, summary);
    fputs("</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"", out);
    html_text(out, summary);
    fputs("\"><table><thead><tr>", out);
    for (; *heads != NULL; heads++) {
        fputs("<th scope=\"col\">", out);
        html_text(out, *heads);
        fputs("</th>", out);
    }
    for (size_t i = 0; i < data->complete; i++) {
        fputs("<th scope=\"col\" class=\"n\">", out);
        html_text(out, data->rows[i].words);
        html_text(out, unit);
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody>\n", out);
}

void numbers_cell(FILE *out, const report_estimate *estimate, const char *unit) {
    fputs("<td class=\"n\">", out);
    html_estimate(out, estimate, number_percent, unit);
    fputs("</td>", out);
}

void numbers_end(FILE *out) {
    fputs("</tbody></table></div></details>\n", out);
}

void fold_budgets(const report_data *data, FILE *out) {
    static const char *const heads[] = {"Relative error at most", NULL};
    const json_t *curve = NULL, *point;
    size_t index;
    for (size_t i = 0; i < data->complete && json_array_size(curve) == 0; i++)
        curve = json_at(data->rows[i].results, "cache_analysis/dedup_curve");
    if (json_array_size(curve) == 0)
        return;
    numbers_begin(data, out, "What could be shared at other errors", heads, ", %");
    json_array_foreach(curve, index, point) {
        double budget = number_at(point, "budget");
        if (!isfinite(budget))
            continue;
        fprintf(out, "<tr><th scope=\"row\">%g\xc2\xa0%%</th>", 100.0 * budget);
        for (size_t i = 0; i < data->complete; i++) {
            char path[PATH_SIZE];
            snprintf(path, sizeof path, "cache_analysis/dedup_curve/%zu/saved_share", index);
            report_estimate share = estimate_at(data->rows[i].results, path);
            numbers_cell(out, &share, "");
        }
        fputs("</tr>\n", out);
    }
    numbers_end(out);
}

/** A row of the ledger: a figure's mean in per cent of the bytes seen. */
static void write_bin(const report_data *data, FILE *out, const char *name, const char *path) {
    fputs("<tr><th scope=\"row\">", out);
    html_text(out, name);
    fputs("</th>", out);
    for (size_t i = 0; i < data->complete; i++) {
        double seen = number_at(data->rows[i].results, "cache_analysis/ledger/seen_bytes/mean");
        double bytes = number_at(data->rows[i].results, path);
        report_estimate share = {seen > 0.0 ? bytes / seen : (double)NAN, (double)NAN, (double)NAN};
        numbers_cell(out, &share, "%");
    }
    fputs("</tr>\n", out);
}

void fold_ledger(const report_data *data, FILE *out) {
    static const char *const heads[] = {"Of the bytes of a repeat", NULL};
    static const struct {
        const char *name, *path;
    } bins[] = {
        {"equal to an earlier block", "cache_analysis/ledger/exact_bytes/mean"},
        {"equal but for the last binary digit", "cache_analysis/ledger/ulp_bytes/mean"},
        {"near an earlier block", "cache_analysis/ledger/near_bytes/mean"},
        {"like nothing before", "cache_analysis/ledger/unique_bytes/mean"},
        {"not compared: partial pages, NaN", "cache_analysis/ledger/left_out_bytes/mean"},
        {"besides: coding without loss would save", "cache_analysis/lossless/coding_gain_bytes/mean"},
        {"besides: repeated stretches of bytes", "cache_analysis/lossless/repetition_gain_bytes/mean"},
    };
    bool any = false;
    for (size_t i = 0; i < data->complete; i++)
        any = any || isfinite(number_at(data->rows[i].results, "cache_analysis/ledger/seen_bytes/mean"));
    if (!any)
        return;
    numbers_begin(data, out, "Where every byte belongs", heads, "");
    fputs("<tr><th scope=\"row\">bytes seen</th>", out);
    for (size_t i = 0; i < data->complete; i++) {
        fputs("<td class=\"n\">", out);
        html_number(out, number_at(data->rows[i].results, "cache_analysis/ledger/seen_bytes/mean"), number_bytes, "");
        fputs("</td>", out);
    }
    fputs("</tr>\n", out);
    for (size_t i = 0; i < sizeof bins / sizeof *bins; i++)
        write_bin(data, out, bins[i].name, bins[i].path);
    numbers_end(out);
}
