/**
 * Engines that are programs of their own: what they are asked, and what they leave.
 *
 * Such an engine reads a request (kvsim.request.v1) and leaves `dump.safetensors`, and `generation.json` if it has
 * something to say, in a folder of its own inside the run's folder. Both are checked there, and only then become part
 * of the run. docs/formats.md is what the author of an engine reads.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_EXCHANGE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_EXCHANGE_H

#include "child.h"
#include "engine_limits.h"
#include "specification.h"

/** One run of such an engine. */
typedef struct engine_exchange {
    const experiment *e;
    int64_t repeat;
    const char *run_folder;
    char *request; /**< path of the request */
    char *prompts; /**< path of the prompts, one a line, as kvsim-analyze reads them */
    char *folder;  /**< absolute path of the folder that the engine writes to */
} engine_exchange;

/**
 * Make the folder and write the request.
 * @param ignored fields that the engine cannot honour; NULL-terminated
 * @return 0, or -1 with `error` set. The exchange must be closed in any case
 */
int engine_exchange_open(engine_exchange *x, const experiment *e, int64_t repeat, const char *run_folder,
                         const engine_limits *limits, const char *const *ignored, error_text *error);

/**
 * Check what the engine left, complete it, and move it into the run's folder.
 * @param what who is to blame, for the error texts
 * @param peak_rss_bytes of the engine; 0 = not known
 * @return 0, or -1 with `error` set
 */
int engine_exchange_take(engine_exchange *x, const char *what, int64_t peak_rss_bytes, error_text *error);

/** Take away the request and what is left of the folder. */
void engine_exchange_close(engine_exchange *x);

#endif
