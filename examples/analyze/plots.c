#include "plots.h"

#include "common/gnuplot.h"
#include "picture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/** Seconds after which gnuplot is stopped; it takes about one. */
#define TIME_LIMIT 120.0

const char *const plot_files[PLOT_FILE_COUNT] = {
    "similarity_distribution.png",
    "similarity_distribution.svg",
    "layer_similarity.png",
    "layer_similarity.svg",
    "views.png",
    "views.svg",
    "compression_opportunities.png",
    "compression_opportunities.svg",
    "dedup_curve.png",
    "dedup_curve.svg",
};

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

static void draw(FILE *out, const report_figures *figures, const saving_figures *saving, const char *title,
                 size_t picture) {
    switch (picture) {
    case 0:
        draw_distribution(out, figures, title);
        break;
    case 1:
        draw_layers(out, figures, title);
        break;
    case 2:
        draw_views(out, figures, title);
        break;
    case 3:
        draw_bytes(out, figures, saving, title);
        break;
    default:
        draw_curve(out, figures, title);
        break;
    }
}

int plots_draw(const report_figures *figures, const saving_figures *saving, const char *title, const char *folder,
               error_text *error) {
    char *script = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&script, &size);
    if (out == NULL)
        return fail(error, "cannot make the pictures: %s", strerror(errno));
    for (size_t file = 0; file < PLOT_FILE_COUNT; file++) {
        begin_picture(out, plot_files[file], file % 2 == 1);
        draw(out, figures, saving, title, file / 2);
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
