/**
 * The five pictures of a report, each as PNG and SVG.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_PLOTS_H
#define KVSIM_EXAMPLES_ANALYZE_PLOTS_H

#include "common/message.h"
#include "figures.h"

#include <stddef.h>

/** Files that plots_draw makes. */
#define PLOT_FILE_COUNT 10
extern const char *const plot_files[PLOT_FILE_COUNT];

/**
 * Draw all pictures into `folder` with gnuplot.
 * @param title what was analysed; any text
 * @return GNUPLOT_* of common/gnuplot.h; `error` is set unless it is GNUPLOT_OK or GNUPLOT_INTERRUPTED
 */
int plots_draw(const report_figures *figures, const saving_figures *saving, const char *title, const char *folder,
               error_text *error);

#endif
