/**
 * What every engine of kvsim-experiments is told besides the experiment.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_LIMITS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_ENGINE_LIMITS_H

#include <stdint.h>

/**
 * Limits of one run of an engine, and where its progress goes.
 *
 * An engine runs inside a worker process, in the folder of the run: what it leaves there is `generation.json` and
 * `dump.safetensors`. It returns 0, or -1 with an error text that names the field of the experiment that is to blame,
 * if there is one. `interrupted()` (common/message.h) asks it to stop.
 */
typedef struct engine_limits {
    double seconds;     /**< of the whole run; 0 = none. Engines with a child of their own end it then */
    int32_t threads;    /**< threads of the engine; 0 = as it likes */
    const char *python; /**< program of --python for `transformers`; NULL: $KVSIM_PYTHON, else python3 */
    void (*progress)(void *user, int64_t done, int64_t total); /**< tokens; may be NULL */
    void *progress_user;
} engine_limits;

#endif
