/**
 * Pictures by gnuplot as a child process: no shell, data inline, texts quoted.
 */
#ifndef KVSIM_EXAMPLES_COMMON_GNUPLOT_H
#define KVSIM_EXAMPLES_COMMON_GNUPLOT_H

#include "message.h"

#include <stddef.h>
#include <stdio.h>

/** @name Results of gnuplot_run
 * @{ */
#define GNUPLOT_OK          0
#define GNUPLOT_FAILED      (-1) /**< it ran and failed, or took too long; the error text says why */
#define GNUPLOT_ABSENT      (-2) /**< there is no gnuplot in PATH */
#define GNUPLOT_INTERRUPTED (-3) /**< a signal asked this program to stop */
/** @} */

/**
 * Run a script in `folder`. The child gets the script on stdin and nothing else of this process.
 * @param seconds it is killed after that many
 */
int gnuplot_run(const char *script, size_t size, const char *folder, double seconds, error_text *error);

/**
 * Write `text` as a single-quoted gnuplot string. gnuplot runs commands inside double quotes and ends a command at a
 * newline, so every quote is doubled and control characters are dropped. Labels made from such texts must be
 * `noenhanced`.
 */
void gnuplot_quote(FILE *script, const char *text);

#endif
