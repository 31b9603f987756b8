/**
 * A context of libkvsim with the pages of one dump, or of two that are compared with each other.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_PAGES_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_PAGES_H

#include "analysis.h"

#include <kvsim/kvsim.h>
#include <kvsim/snapshot.h>
#include <stdbool.h>

/** Pages on their way to a result. */
typedef struct page_context {
    kvsim_ctx *ctx;
    kvsim_snapshot *snapshots[2];
    int count;                /**< of `snapshots` */
    kvsim_snapshot_info info; /**< of the first */
    int32_t page_tokens;
    uint32_t views;     /**< that can be computed: KVSIM_VIEW_* */
    uint32_t best_view; /**< the one that hides neither mean nor rotation */
    const analysis_settings *settings;
    double progress_from, progress_to; /**< share of the work that the compute at hand is */
} page_context;

/** Steps that the progress of an analysis is told in. */
#define ANALYSIS_STEPS 1000

/** Make an empty context. page_context_close is due in any case. 0, or -1 with `error` set. */
int page_context_open(page_context *context, const analysis_settings *settings, error_text *error);

/** Add a dump, cut into pages. 0, or -1 with `error` set. */
int page_context_add(page_context *context, const char *path, int64_t page_tokens, error_text *error);

/**
 * Add two dumps whose pages are compared between them: all sequences of a dump are one sequence, 0 or 1, to the
 * library, and the generation of a page is the number of its real sequence. The dumps may not fit together: `reason`
 * then says why, and 1 is returned.
 */
int page_context_add_two(page_context *context, const char *const paths[2], int64_t page_tokens, error_text *reason,
                         error_text *error);

/** Compute; `from` and `to` are the share of the progress that it is. 0, or -1 with `error` set. */
int page_context_compute(page_context *context, const kvsim_compute_options *options, double from, double to,
                         kvsim_result **result, error_text *error);

/** Give everything back. */
void page_context_close(page_context *context);

#endif
