#include "engine_command.h"

#include "engine_exchange.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/** The field that is to blame, for error texts. */
#define BLAME "engine_command"

/** Variables of the command, and the NULL behind them. */
#define MOST_VARIABLES 16

/** NAME=VALUE texts of a child. */
typedef struct environment {
    char *texts[MOST_VARIABLES];
    size_t count;
    bool complete; /**< none was lost for want of memory */
} environment;

static void set_variable(environment *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void set_variable(environment *to, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&to->texts[to->count], format, arguments) < 0)
        to->texts[to->count] = NULL;
    va_end(arguments);
    to->complete = to->complete && to->texts[to->count] != NULL;
    to->count++;
}

/** The experiment in words that a shell can use; the request has all of it. */
static void describe(const engine_exchange *x, const engine_limits *limits, environment *to) {
    const experiment *e = x->e;
    to->complete = true;
    set_variable(to, "KVSIM_REQUEST=%s", x->request);
    set_variable(to, "KVSIM_PROMPTS_FILE=%s", x->prompts);
    set_variable(to, "KVSIM_OUTPUT_DIR=%s", x->folder);
    set_variable(to, "KVSIM_EXPERIMENT=%s", e->name);
    set_variable(to, "KVSIM_REPEAT=%" PRId64, x->repeat);
    set_variable(to, "KVSIM_MODEL=%s", e->model);
    set_variable(to, "KVSIM_MAX_TOKENS=%" PRId64, e->max_tokens);
    set_variable(to, "KVSIM_MAX_MODEL_LEN=%" PRId64, e->max_model_len);
    set_variable(to, "KVSIM_TEMPERATURE=%.17g", e->temperature);
    set_variable(to, "KVSIM_TOP_P=%.17g", e->top_p);
    set_variable(to, "KVSIM_SEED=%" PRIu64, experiment_repeat_seed(e, x->repeat));
    set_variable(to, "KVSIM_PAGE_TOKENS=%" PRId64, e->page_tokens);
    set_variable(to, "KVSIM_DTYPE=%s", e->dtype);
    set_variable(to, "KVSIM_THREADS=%" PRId32, limits->threads);
}

static int run_command(engine_exchange *x, const engine_limits *limits, error_text *error) {
    environment variables = {0};
    child_result ran = {0};
    const char *const arguments[] = {"/bin/sh", "-c", x->e->engine_command, NULL};
    describe(x, limits, &variables);
    const child_options options = {
        .arguments = arguments,
        .environment = (const char *const *)variables.texts,
        .seconds = limits->seconds,
        .words_from_output = true,
    };
    int result = !variables.complete ? fail(error, "out of memory") : child_run(&options, &ran, error);
    for (size_t i = 0; i < variables.count; i++)
        free(variables.texts[i]);
    if (result != 0 || child_verdict(BLAME ": the command", &options, &ran, error) != 0)
        return -1;
    return engine_exchange_take(x, BLAME, ran.peak_rss_bytes, error);
}

int engine_command_run(const experiment *e, int64_t repeat, const char *run_folder, const engine_limits *limits,
                       error_text *error) {
    static const char *const ignored[] = {NULL};
    engine_exchange x;
    if (e->engine_command == NULL)
        return fail(error, BLAME ": the engine \"command\" needs a command: give this field, or --engine-command");
    int result = engine_exchange_open(&x, e, repeat, run_folder, limits, ignored, error);
    if (result == 0)
        result = run_command(&x, limits, error);
    engine_exchange_close(&x);
    return result;
}
