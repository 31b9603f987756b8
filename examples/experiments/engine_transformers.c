#include "engine_transformers.h"

#include "common/data_folder.h"
#include "engine_exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT "experiments/transformers_engine.py"

/** Before the line in which the script says what went wrong. */
#define SCRIPT_ERROR "error: "

/** Fields that this engine cannot honour, and the NULL behind them. */
#define MOST_IGNORED 3

static const char *find_python(const engine_limits *limits) {
    const char *chosen = limits->python != NULL ? limits->python : getenv("KVSIM_PYTHON");
    return chosen != NULL && chosen[0] != 0 ? chosen : "python3";
}

/** A line of the script: "progress DONE TOTAL". Python packages may print others. */
static void take_line(void *user, const char *line) {
    const engine_limits *limits = user;
    long long done, total;
    if (limits->progress != NULL && sscanf(line, "progress %lld %lld", &done, &total) == 2)
        limits->progress(limits->progress_user, done, total);
}

/** The script's own error in the last words, NULL if it came to no such line. */
static const char *find_script_error(const char *words) {
    const char *found = strncmp(words, SCRIPT_ERROR, strlen(SCRIPT_ERROR)) == 0 ? words + strlen(SCRIPT_ERROR) : NULL;
    for (const char *at = words; (at = strstr(at, " | " SCRIPT_ERROR)) != NULL;)
        found = at = at + strlen(" | " SCRIPT_ERROR);
    return found;
}

static int run_script(engine_exchange *x, const engine_limits *limits, const char *script, error_text *error) {
    child_result ran = {0};
    const char *python = find_python(limits);
    const char *const arguments[] = {python, script, x->request, x->folder, NULL};
    const child_options options = {
        .arguments = arguments,
        .seconds = limits->seconds,
        .line = take_line,
        .line_user = (void *)(uintptr_t)limits,
    };
    error_text reason;
    if (child_run(&options, &ran, &reason) != 0)
        return fail(error, "engine: %s; name a Python that has torch and transformers with --python or KVSIM_PYTHON",
                    reason.text);
    if (child_verdict("engine: transformers", &options, &ran, error) != 0) {
        const char *said = find_script_error(ran.last_words);
        bool failed = ran.status > 0 && !ran.timed_out && !ran.interrupted;
        return failed && said != NULL ? fail(error, "%s", said) : -1;
    }
    return engine_exchange_take(x, "engine: transformers", ran.peak_rss_bytes, error);
}

int engine_transformers_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                            error_text *error) {
    const char *ignored[MOST_IGNORED] = {NULL};
    size_t count = 0;
    if (e->given[FIELD_TENSOR_PARALLEL_SIZE] && e->tensor_parallel_size != 1)
        ignored[count++] = experiment_field_names[FIELD_TENSOR_PARALLEL_SIZE];
    if (e->given[FIELD_GPU_MEMORY_UTILIZATION])
        ignored[count++] = experiment_field_names[FIELD_GPU_MEMORY_UTILIZATION];
    char *script = find_shipped(SCRIPT);
    engine_exchange x;
    if (script == NULL)
        return fail(error, "out of memory");
    int result = engine_exchange_open(&x, e, repeat, run_folder, limits, ignored, error);
    if (result == 0)
        result = run_script(&x, limits, script, error);
    engine_exchange_close(&x);
    free(script);
    return result;
}
