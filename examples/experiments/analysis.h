/**
 * What the pages of a run say: libkvsim's figures of a dump, kept by sequence so that they can be resampled.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ANALYSIS_H

#include "common/message.h"
#include "specification.h"

#include <stddef.h>
#include <stdint.h>

/** Name of the file in a run's folder, and value of its member `schema`. */
#define ANALYSIS_NAME   "analysis.json"
#define ANALYSIS_SCHEMA "kvsim.run_analysis.v1"

/** The library's report of a run's dump, beside it: the pictures are drawn from it. */
#define ANALYSIS_REPORT_NAME "report.json"

/** Value of the member `schema` of the file that analysis_between writes. */
#define BETWEEN_SCHEMA "kvsim.between.v1"

/** Cosine above which two pages are called alike. */
#define ANALYSIS_THRESHOLD 0.9

/** Relative error within which a page may share an earlier one, for the headline. */
#define ANALYSIS_BUDGET 0.1

/** How to compute; what is found does not depend on it. */
typedef struct analysis_settings {
    uint32_t threads; /**< 0 = one for each core this process may use */
    /** Told now and then how far it is, from 0 to `total`; may be NULL. */
    void (*progress)(void *user, int64_t done, int64_t total);
    void *progress_user;
} analysis_settings;

/**
 * Analyse `dump.safetensors` in a run's folder: `analysis.json` and `report.json` appear there, each whole or not at
 * all. `interrupted()` stops it.
 * @return 0, or -1 with `error` set
 */
int analysis_run(const char *run_folder, const experiment *e, const analysis_settings *settings, error_text *error);

/**
 * Compare each two experiments' pages: for each pair of them the pages of the later one that have an alike page in the
 * earlier one. Written to `path`, whole or not at all.
 * @param run_folders [count] folder of one run of each experiment, with its dump
 * @param names [count] of the experiments
 * @return 0, or -1 with `error` set. Pages that cannot be compared (of another shape or element type) are no error: the
 * pair is left out, with the reason
 */
int analysis_between(const char *const *run_folders, const char *const *names, size_t count,
                     const analysis_settings *settings, const char *path, error_text *error);

#endif
