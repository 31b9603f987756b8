/**
 * How the keys of files were rotated: what the command line says of it, and whether it can be true.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_ROTATION_H
#define KVSIM_EXAMPLES_ANALYZE_ROTATION_H

#include "source.h"

/**
 * Read the value of --rope: none, half or interleaved, then ,theta=X and ,dims=N.
 * @return 0, or -1 with `error` set
 */
int rotation_read(const char *text, kvsim_rope *rope, error_text *error);

/**
 * Tell the context what --rope or --rope-config say, in place of what the files said.
 * @return 0, or -1 with `error` set
 */
int rotation_tell(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error);

/**
 * Check the rotation on the files that say which token each key is of, and put the outcome into the report. Prints a
 * warning where it cannot be true, unless the program is quiet.
 * @return 0, or -1 with `error` set
 */
int rotation_check(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error);

#endif
