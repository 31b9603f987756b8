/**
 * What the report looks like.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_STYLE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_STYLE_H

#include <stdio.h>

/** Write the style sheet: light, dark and paper, from a phone's width up. */
void style_write(FILE *out);

#endif
