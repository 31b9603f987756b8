#include "options.h"

#include "common/arguments.h"
#include "common/data_folder.h"
#include "common/message.h"
#include "path_text.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <kvsim/kvsim.h>

const char *const program_name = PROGRAM;

/** The experiments that run if --experiments does not say: files of the folder experiments that is shipped. */
static const char *const shipped[] = {"general_knowledge", "repetitive_content", "code_generation", "high_temperature",
                                      "long_context"};

/** --quick-test: prompts, and new tokens of each. */
#define QUICK_PROMPTS    2
#define QUICK_MAX_TOKENS 128

/** Most repeats, most threads of one run. */
#define MOST_REPEATS 1000
#define MOST_THREADS 4096

/** Longest time limit in seconds: a year. */
#define LONGEST_LIMIT 31536000.0

enum option_key {
    KEY_EXPERIMENTS = 256,
    KEY_ONLY,
    KEY_QUICK_TEST,
    KEY_LIST,
    KEY_DRY_RUN,
    KEY_MODEL,
    KEY_ENGINE,
    KEY_ENGINE_COMMAND,
    KEY_PYTHON,
    KEY_DTYPE,
    KEY_LONG_PROMPTS,
    KEY_REPEATS,
    KEY_SEED,
    KEY_TIME_LIMIT,
    KEY_JOBS,
    KEY_THREADS,
    KEY_OUTPUT_DIR,
    KEY_RESUME,
    KEY_KEEP_DUMPS,
    KEY_NO_PLOTS,
    KEY_REPRODUCIBLE,
    KEY_QUIET
};

enum option_group { GROUP_WHAT = 1, GROUP_HOW, GROUP_WORK, GROUP_OUTPUT };

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "Which experiments", GROUP_WHAT},
    {"experiments", KEY_EXPERIMENTS, "FILE...", 0,
     "JSON files with an experiment or an array of them; default: the five that are shipped", 0},
    {"only", KEY_ONLY, "LIST", 0, "names of the experiments to run, for example general_knowledge,code_generation", 0},
    {"quick-test", KEY_QUICK_TEST, NULL, 0,
     "the first experiment with its first 2 prompts, 128 new tokens and, without --repeats, once", 0},
    {"list", KEY_LIST, NULL, 0, "print the experiments and end", 0},
    {"dry-run", KEY_DRY_RUN, NULL, 0, "say what would run: tokens, bytes, about how long; write nothing", 0},
    {NULL, 0, NULL, 0, "In place of what the experiments say", GROUP_HOW},
    {"model", KEY_MODEL, "DIR", 0, "folder of the model; for transformers, a name is taken, too", 0},
    {"engine", KEY_ENGINE, "WHICH", 0, "builtin, transformers or command", 0},
    {"engine-command", KEY_ENGINE_COMMAND, "TEXT", 0, "what the shell runs for the engine command", 0},
    {"dtype", KEY_DTYPE, "TYPE", 0, "element type of the cache: auto, float32, bfloat16 or float16", 0},
    {"long-prompts", KEY_LONG_PROMPTS, "WHAT", 0,
     "refuse or cut: what becomes of a prompt that leaves no room in the context", 0},
    {"repeats", KEY_REPEATS, "N", 0, "runs of each experiment, with the seeds S, S + 1, ...", 0},
    {"seed", KEY_SEED, "S", 0, "seed of the first repeat", 0},
    {NULL, 0, NULL, 0, "How the work is done", GROUP_WORK},
    {"python", KEY_PYTHON, "PATH", 0, "Python of the engine transformers; default: $KVSIM_PYTHON, else python3", 0},
    {"time-limit", KEY_TIME_LIMIT, "SECONDS", 0, "longest run of an engine; default: none", 0},
    {"jobs", KEY_JOBS, "N", 0, "runs at the same time; more than 1 disturbs the times that are measured; default 1", 0},
    {"threads", KEY_THREADS, "N", 0,
     "of each run; default: 1 for the embedded engine, so that its outcome does not depend on the machine's cores (a "
     "large model wants more), and the cores, shared among the jobs, for the analysis",
     0},
    {NULL, 0, NULL, 0, "What is written", GROUP_OUTPUT},
    {"output-dir", KEY_OUTPUT_DIR, "DIR", 0, "folder of the results; default kvsim-experiments", 0},
    {"resume", KEY_RESUME, NULL, 0, "go on in a folder that holds results: what is complete is not done again", 0},
    {"keep-dumps", KEY_KEEP_DUMPS, NULL, 0, "keep the caches, in DIR/.runs", 0},
    {"no-plots", KEY_NO_PLOTS, NULL, 0, "no pictures beside the results of each experiment", 0},
    {"reproducible", KEY_REPRODUCIBLE, NULL, 0, "leave times, speeds, sizes of processes and the machine out", 0},
    {"quiet", KEY_QUIET, NULL, 0, "print nothing but errors", 0},
    {NULL, 0, NULL, 0, NULL, -1},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const word engine_words[] = {{ENGINE_BUILTIN, 0}, {ENGINE_TRANSFORMERS, 0}, {ENGINE_COMMAND, 0}, {NULL, 0}};
static const word dtype_words[] = {{"auto", 0}, {"float32", 0}, {"bfloat16", 0}, {"float16", 0}, {NULL, 0}};
static const word long_words[] = {{"refuse", 0}, {"cut", 0}, {NULL, 0}};

/** Append a text to a list; texts are borrowed. */
static void add_text(char ***list, size_t *count, char *text) {
    char **larger = realloc(*list, (*count + 1) * sizeof *larger);
    if (larger == NULL)
        usage_error("out of memory");
    *list = larger;
    larger[(*count)++] = text;
}

static void take_name(void *user, const char *name, const char *part) {
    campaign_options *options = user;
    (void)name;
    char *copy = strdup(part);
    if (copy == NULL)
        usage_error("out of memory");
    add_text(&options->only, &options->only_count, copy);
}

static const char *read_text(const char *name, const char *value) {
    if (value[0] == 0)
        usage_error("--%s needs a value that is not empty", name);
    return value;
}

static bool take_flag(campaign_options *options, int key) {
    switch (key) {
    case KEY_QUICK_TEST:
        return options->quick_test = true;
    case KEY_LIST:
        return options->list = true;
    case KEY_DRY_RUN:
        return options->dry_run = true;
    case KEY_RESUME:
        return options->resume = true;
    case KEY_KEEP_DUMPS:
        return options->keep_dumps = true;
    case KEY_NO_PLOTS:
        return options->no_plots = true;
    case KEY_REPRODUCIBLE:
        return options->reproducible = true;
    case KEY_QUIET:
        return options->quiet = true;
    default:
        return false;
    }
}

static error_t take_option(int key, char *value, struct argp_state *argp) {
    campaign_options *options = argp->input;
    switch (key) {
    case KEY_EXPERIMENTS:
    case ARGP_KEY_ARG:
        add_text(&options->files, &options->file_count, value);
        break;
    case KEY_ONLY:
        read_list("only", value, take_name, options);
        break;
    case KEY_MODEL:
        options->model = read_text("model", value);
        break;
    case KEY_ENGINE:
        read_word("engine", value, engine_words);
        options->engine = value;
        break;
    case KEY_ENGINE_COMMAND:
        options->engine_command = read_text("engine-command", value);
        break;
    case KEY_PYTHON:
        options->python = read_text("python", value);
        break;
    case KEY_DTYPE:
        read_word("dtype", value, dtype_words);
        options->dtype = value;
        break;
    case KEY_LONG_PROMPTS:
        read_word("long-prompts", value, long_words);
        options->long_prompts = value;
        break;
    case KEY_REPEATS:
        options->repeats = read_integer("repeats", value, 1, MOST_REPEATS);
        break;
    case KEY_SEED:
        options->seed = read_integer("seed", value, 0, INT64_MAX);
        break;
    case KEY_TIME_LIMIT:
        options->time_limit = read_number("time-limit", value, 0.0, LONGEST_LIMIT);
        break;
    case KEY_JOBS:
        options->jobs = read_integer("jobs", value, 1, MOST_JOBS);
        break;
    case KEY_THREADS:
        options->threads = read_integer("threads", value, 1, MOST_THREADS);
        break;
    case KEY_OUTPUT_DIR:
        options->output_dir = read_text("output-dir", value);
        break;
    default:
        return take_flag(options, key) ? 0 : ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void print_version(FILE *stream, struct argp_state *argp) {
    (void)argp;
    fprintf(stream, "%s %s (libkvsim %s)\n", PROGRAM, KVSIM_VERSION_STRING, kvsim_version_string());
}

/** Whether the shell takes a word as it is. */
static bool is_plain(const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
    return text[0] != 0 && text[strspn(text, plain)] == 0;
}

/** The command line as the shell takes it, but for --resume. [owned]; NULL when out of memory */
static char *join_command(int argc, char **argv) {
    char *text = NULL;
    size_t size;
    FILE *memory = open_memstream(&text, &size);
    for (int i = 0; memory != NULL && i < argc; i++) {
        if (strcmp(argv[i], "--resume") == 0)
            continue;
        fputs(i > 0 ? " " : "", memory);
        if (is_plain(argv[i])) {
            fputs(argv[i], memory);
            continue;
        }
        fputc('\'', memory);
        for (const char *c = argv[i]; *c != 0; c++)
            fputs(*c == '\'' ? "'\\''" : (const char[]){*c, 0}, memory);
        fputc('\'', memory);
    }
    if (memory != NULL)
        fclose(memory);
    return text;
}

void options_read(int argc, char **argv, campaign_options *options) {
    static const struct argp parser = {
        option_table,
        take_option,
        NULL,
        "Run whole workloads through an engine and measure how redundant the KV-cache of each one is, how sure that "
        "is, and what it cost.\v"
        "DIR/report.html has the answer, DIR/final_report.json its numbers, DIR/NAME/results.json those of each "
        "experiment. Exit status: 0, 1 failure of the program or of an experiment, 2 wrong usage or a wrong file of "
        "experiments, 130 interrupted (what is complete is written; --resume goes on).",
        NULL,
        NULL,
        NULL,
    };
    memset(options, 0, sizeof *options);
    options->seed = -1;
    options->jobs = 1;
    options->output_dir = "kvsim-experiments";
    options->command = join_command(argc, argv);
    static char program[] = PROGRAM;
    argv[0] = program;
    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_USAGE;
    argp_parse(&parser, argc, argv, 0, NULL, options);
}

static int read_shipped(experiment_list *list, error_text *error) {
    for (size_t i = 0; i < sizeof shipped / sizeof *shipped; i++) {
        char *name;
        if (asprintf(&name, "experiments/%s.json", shipped[i]) < 0)
            return fail(error, "out of memory");
        char *path = find_shipped(name);
        free(name);
        int result = path != NULL ? specification_read(list, path, error) : fail(error, "out of memory");
        free(path);
        if (result != 0)
            return -1;
    }
    return 0;
}

static bool is_named(const campaign_options *options, const char *name) {
    for (size_t i = 0; i < options->only_count; i++)
        if (strcmp(options->only[i], name) == 0)
            return true;
    return options->only_count == 0;
}

static int check_names(const campaign_options *options, const experiment_list *list, error_text *error) {
    for (size_t i = 0; i < options->only_count; i++) {
        bool known = false;
        for (size_t e = 0; e < list->count; e++)
            known = known || strcmp(list->items[e].name, options->only[i]) == 0;
        if (!known)
            return fail(error, "--only: there is no experiment '%s'; --list prints them", options->only[i]);
    }
    return 0;
}

/** Keep the experiments that are asked for. */
static void select_experiments(const campaign_options *options, experiment_list *list) {
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        if (is_named(options, list->items[i].name) && !(options->quick_test && kept == 1))
            list->items[kept++] = list->items[i];
        else
            experiment_release(&list->items[i]);
    }
    list->count = kept;
}

/** Replace a text. */
static int set_text(char **text, const char *value, error_text *error) {
    free(*text);
    *text = strdup(value);
    return *text != NULL ? 0 : fail(error, "out of memory");
}

/** A model of the command line: a folder's path from here, or a name. */
static int set_model(experiment *e, const char *model, error_text *error) {
    struct stat facts;
    bool folder = stat(model, &facts) == 0 || strcmp(e->engine, ENGINE_BUILTIN) == 0;
    char *absolute = folder ? path_absolute(model) : strdup(model);
    int result = absolute != NULL ? set_text(&e->model, absolute, error) : fail(error, "out of memory");
    free(absolute);
    return result;
}

static void make_quick(const campaign_options *options, experiment *e) {
    while (e->prompt_count > QUICK_PROMPTS)
        free(e->prompts[--e->prompt_count]);
    e->max_tokens = QUICK_MAX_TOKENS;
    if (options->repeats == 0)
        e->repeats = 1;
}

/** Let the options replace what an experiment says. */
static int override(const campaign_options *options, experiment *e, error_text *error) {
    if (options->quick_test)
        make_quick(options, e);
    if (options->engine != NULL && set_text(&e->engine, options->engine, error) != 0)
        return -1;
    if (options->model != NULL && set_model(e, options->model, error) != 0)
        return -1;
    if (options->engine_command != NULL && set_text(&e->engine_command, options->engine_command, error) != 0)
        return -1;
    if (options->dtype != NULL && set_text(&e->dtype, options->dtype, error) != 0)
        return -1;
    if (options->long_prompts != NULL)
        e->cut_prompts = strcmp(options->long_prompts, "cut") == 0;
    if (options->repeats != 0)
        e->repeats = options->repeats;
    if (options->seed >= 0)
        e->seed = (uint64_t)options->seed;
    if (strcmp(e->engine, ENGINE_COMMAND) == 0 && e->engine_command == NULL)
        return fail(error,
                    "experiment %s: engine_command: the engine command needs one; give it in the file or with "
                    "--engine-command",
                    e->name);
    return 0;
}

int options_experiments(const campaign_options *options, experiment_list *list, error_text *error) {
    int result = options->file_count == 0 ? read_shipped(list, error) : 0;
    for (size_t i = 0; result == 0 && i < options->file_count; i++)
        result = specification_read(list, options->files[i], error);
    if (result != 0 || check_names(options, list, error) != 0)
        return -1;
    select_experiments(options, list);
    for (size_t i = 0; result == 0 && i < list->count; i++)
        result = override(options, &list->items[i], error);
    return result;
}

void options_release(campaign_options *options) {
    for (size_t i = 0; i < options->only_count; i++)
        free(options->only[i]);
    free(options->only);
    free(options->command);
    free(options->files);
    memset(options, 0, sizeof *options);
}
