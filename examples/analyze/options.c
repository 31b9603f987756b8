#include "options.h"

#include "common/arguments.h"
#include "common/message.h"
#include "rotation.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

const char *const program_name = PROGRAM;

/** New tokens of each prompt if --max-tokens does not say: six prompts then give a few hundred blocks. */
#define DEFAULT_MAX_TOKENS 512

/** Most new tokens of one prompt; the model's own limit is far below. */
#define MOST_NEW_TOKENS 10000000

/** Rows of compression_opportunities, and top pairs of each group, if --top does not say. */
#define DEFAULT_TOP 50

/** Most top pairs that the library keeps of a group. */
#define MOST_TOP 65536

/** Most shufflings that the library makes. */
#define MOST_REPETITIONS 1000

/** Most units in the last place: beyond that nothing is left of a bf16's fraction. */
#define MOST_ULPS 128

/** Longest page in tokens. */
#define MOST_PAGE_TOKENS 65536

/** Most threads that can be asked for. */
#define MOST_THREADS 4096

enum option_key {
    KEY_PAGES = 256,
    KEY_MODEL,
    KEY_PROMPTS_FILE,
    KEY_MAX_TOKENS,
    KEY_TEMPERATURE,
    KEY_TOP_P,
    KEY_KV_DTYPE,
    KEY_SHARE_PREFIXES,
    KEY_DUMP,
    KEY_PAGE_TOKENS,
    KEY_LAYERS,
    KEY_KIND,
    KEY_METRICS,
    KEY_VIEW,
    KEY_PER_HEAD,
    KEY_THRESHOLDS,
    KEY_BUDGETS,
    KEY_BUDGET,
    KEY_ULPS,
    KEY_NO_CHANCE,
    KEY_NULL_REPETITIONS,
    KEY_SEED,
    KEY_PAIRS,
    KEY_TOP,
    KEY_BACKEND,
    KEY_THREADS,
    KEY_OUTPUT_DIR,
    KEY_NO_PLOTS,
    KEY_QUIET,
    KEY_REPRODUCIBLE,
    KEY_ROPE_CONFIG,
    KEY_ROPE
};

enum option_group { GROUP_SOURCE = 1, GROUP_ENGINE, GROUP_PAGES, GROUP_COMPARE, GROUP_OUTPUT };

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "Where the pages come from (without --pages: the embedded engine)", GROUP_SOURCE},
    {"pages", KEY_PAGES, "FILE...", 0, "safetensors files, indices or folders, or .npy files with pages", 0},
    {"rope-config", KEY_ROPE_CONFIG, "PATH", 0,
     "config.json, or the model's folder, that says how the keys in the files were rotated; comes before the files", 0},
    {"rope", KEY_ROPE, "HOW", 0,
     "the same by hand: none, half or interleaved, then ,theta=X (default 10000) and ,dims=N (default: all channels)",
     0},
    {"model", KEY_MODEL, "DIR", 0, "Llama-family folder in Hugging Face's layout; default: the shipped model", 0},
    {NULL, 0, NULL, 0, "What the engine does", GROUP_ENGINE},
    {"prompts-file", KEY_PROMPTS_FILE, "FILE", 0,
     "one prompt a line, UTF-8, with \\n, \\t and \\\\; token ids for a model that is not byte-level", 0},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0, "new tokens of each prompt at most; default 512", 0},
    {"temperature", KEY_TEMPERATURE, "T", 0, "of the sampling, 0 = greedy; default 0.8", 0},
    {"top-p", KEY_TOP_P, "P", 0, "sample from the fewest tokens whose probabilities reach P; default 1", 0},
    {"kv-dtype", KEY_KV_DTYPE, "TYPE", 0, "element type of the cache: f32, bf16 or f16; default f32", 0},
    {"share-prefixes", KEY_SHARE_PREFIXES, NULL, 0,
     "let equal first blocks be one block with several references, as serving engines do", 0},
    {"dump", KEY_DUMP, "FILE", 0, "write the pages of the engine to a safetensors file for --pages", 0},
    {NULL, 0, NULL, 0, "Which pages", GROUP_PAGES},
    {"page-tokens", KEY_PAGE_TOKENS, "N", 0, "tokens of a page; default: as the file says, 16 for the engine", 0},
    {"layers", KEY_LAYERS, "LIST", 0, "for example 0,4-7; default: all", 0},
    {"kind", KEY_KIND, "LIST", 0, "key, value or both; default key,value", 0},
    {NULL, 0, NULL, 0, "How they are compared", GROUP_COMPARE},
    {"metrics", KEY_METRICS, "LIST", 0, "of cosine,l2,hamming,jaccard; default: all (cosine and l2 are always there)",
     0},
    {"view", KEY_VIEW, "LIST", 0,
     "of raw,centered,derotated,derotated_centered; raw is always there. Default: all, or raw,centered if it is not "
     "known how the keys were rotated",
     0},
    {"per-head", KEY_PER_HEAD, NULL, 0, "besides, compare the pages of each KV head on its own", 0},
    {"thresholds", KEY_THRESHOLDS, "LIST", 0, "cosines in [-1, 1]; default 0.9,0.95,0.99", 0},
    {"budgets", KEY_BUDGETS, "LIST", 0,
     "relative errors in [0, 1] for sharing a page, the points of the curve; default "
     "0,0.02,0.05,0.1,0.15,0.2,0.25,0.3,0.4,0.5",
     0},
    {"budget", KEY_BUDGET, "E", 0, "relative error of the headline; joins the budgets; default 0.1", 0},
    {"ulps", KEY_ULPS, "K", 0, "units in the last place that the ledger takes for equal; default 1", 0},
    {"pairs", KEY_PAIRS, "WHICH", 0, "all or different-sequences; default all", 0},
    {"top", KEY_TOP, "K", 0, "pages that could be shared to list, and most similar pairs of each group; default 50", 0},
    {"no-chance", KEY_NO_CHANCE, NULL, 0, "no chance levels and no intervals: faster, and only half of the answer", 0},
    {"null-repetitions", KEY_NULL_REPETITIONS, "N", 0, "shufflings behind a chance level; default 20", 0},
    {"seed", KEY_SEED, "S", 0,
     "of the chance levels and intervals, and of the engine's sampling, where prompt number i uses S + i; default 1",
     0},
    {"backend", KEY_BACKEND, "WHICH", 0, "auto, cpu or cuda; default auto", 0},
    {"threads", KEY_THREADS, "N", 0, "default: one for each core", 0},
    {NULL, 0, NULL, 0, "What is written", GROUP_OUTPUT},
    {"output-dir", KEY_OUTPUT_DIR, "DIR", 0, "folder of the report; default kvsim-report", 0},
    {"no-plots", KEY_NO_PLOTS, NULL, 0, "no pictures", 0},
    {"quiet", KEY_QUIET, NULL, 0, "print nothing but errors", 0},
    {"reproducible", KEY_REPRODUCIBLE, NULL, 0, "leave time, machine and versions out of the report", 0},
    {NULL, 0, NULL, 0, NULL, -1},
    {NULL, 0, NULL, 0, NULL, 0},
};

/** Options that only the engine has, to refuse them beside --pages. */
typedef struct parse_state {
    analyze_options *options;
    const char *engine_option;
} parse_state;

static const word kind_words[] = {{"key", KVSIM_KIND_KEY}, {"value", KVSIM_KIND_VALUE}, {NULL, 0}};
static const word metric_words[] = {{"cosine", KVSIM_METRIC_COSINE},
                                    {"l2", KVSIM_METRIC_L2},
                                    {"hamming", KVSIM_METRIC_HAMMING},
                                    {"jaccard", KVSIM_METRIC_JACCARD},
                                    {NULL, 0}};
static const word view_words[] = {{"raw", KVSIM_VIEW_RAW},
                                  {"centered", KVSIM_VIEW_CENTERED},
                                  {"derotated", KVSIM_VIEW_DEROTATED},
                                  {"derotated_centered", KVSIM_VIEW_DEROTATED_CENTERED},
                                  {NULL, 0}};
static const word pair_words[] = {
    {"all", KVSIM_PAIRS_ALL}, {"different-sequences", KVSIM_PAIRS_DIFFERENT_SEQUENCES}, {NULL, 0}};
static const word backend_words[] = {
    {"auto", KVSIM_BACKEND_AUTO}, {"cpu", KVSIM_BACKEND_CPU}, {"cuda", KVSIM_BACKEND_CUDA}, {NULL, 0}};
static const word dtype_words[] = {{"f32", 4}, {"bf16", 2}, {"f16", 2}, {NULL, 0}};

static void take_layers(void *user, const char *name, const char *part) {
    char *wanted = user;
    char *end;
    long first = strtol(part, &end, 10), last = first;
    bool valid = end != part && *part >= '0' && *part <= '9';
    if (valid && *end == '-') {
        const char *second = end + 1;
        last = strtol(second, &end, 10);
        valid = *second >= '0' && *second <= '9';
    }
    if (!valid || *end != 0 || first > last || last > MAX_LAYER)
        usage_error("--%s takes layers like 0,4-7, up to %d, not '%s'", name, MAX_LAYER, part);
    memset(wanted + first, 1, (size_t)(last - first + 1));
}

static void read_layers(const char *name, const char *text, analyze_options *options) {
    char *wanted = calloc(1, MAX_LAYER + 1);
    free(options->layers);
    options->layers = calloc(MAX_LAYER + 1, sizeof *options->layers);
    options->layer_count = 0;
    if (wanted == NULL || options->layers == NULL)
        usage_error("out of memory");
    read_list(name, text, take_layers, wanted);
    for (int32_t layer = 0; layer <= MAX_LAYER; layer++)
        if (wanted[layer])
            options->layers[options->layer_count++] = layer;
    free(wanted);
}

static void add_page_file(analyze_options *options, char *path) {
    char **larger = realloc(options->pages, (options->page_file_count + 2) * sizeof *larger);
    if (larger == NULL)
        usage_error("out of memory");
    options->pages = larger;
    larger[options->page_file_count++] = path;
    larger[options->page_file_count] = NULL;
}

static void take_engine_option(parse_state *state, int key, char *value) {
    analyze_options *options = state->options;
    const struct argp_option *entry = option_table;
    while (entry->key != key)
        entry++;
    state->engine_option = entry->name;
    switch (key) {
    case KEY_MODEL:
        options->model = value;
        break;
    case KEY_PROMPTS_FILE:
        options->prompts_file = value;
        break;
    case KEY_MAX_TOKENS:
        options->max_tokens = read_integer("max-tokens", value, 1, MOST_NEW_TOKENS);
        break;
    case KEY_TEMPERATURE:
        options->temperature = read_number("temperature", value, 0.0, 1000.0);
        break;
    case KEY_TOP_P:
        options->top_p = read_number("top-p", value, 0.0, 1.0);
        break;
    case KEY_KV_DTYPE:
        read_word("kv-dtype", value, dtype_words);
        options->kv_dtype = value;
        break;
    case KEY_SHARE_PREFIXES:
        options->share_prefixes = true;
        break;
    default:
        options->dump = value;
        break;
    }
}

static void check_together(const parse_state *state) {
    const analyze_options *options = state->options;
    if (options->pages != NULL && state->engine_option != NULL)
        usage_error("--%s is for the engine, which does not run with --pages; leave one of the two out",
                    state->engine_option);
    if (options->dump != NULL && options->share_prefixes)
        usage_error("--dump writes each sequence on its own, --share-prefixes does not keep them so; leave one out");
    if (options->no_chance && options->null_repetitions != 0)
        usage_error("--null-repetitions has no effect with --no-chance; leave one out");
    if (options->pages == NULL && (options->rope_config != NULL || options->rope.struct_size != 0))
        usage_error("--rope and --rope-config are for --pages; the engine's model says how its keys are rotated");
    if (options->rope_config != NULL && options->rope.struct_size != 0)
        usage_error("--rope and --rope-config both say how the keys were rotated; leave one out");
    if (options->output_dir[0] == 0)
        usage_error("--output-dir needs a folder");
}

static void read_rope(const char *value, kvsim_rope *rope) {
    error_text error = {""};
    if (rotation_read(value, rope, &error) != 0)
        usage_error("%s", error.text);
}

static error_t take_option(int key, char *value, struct argp_state *argp) {
    parse_state *state = argp->input;
    analyze_options *options = state->options;
    switch (key) {
    case KEY_PAGES:
        add_page_file(options, value);
        break;
    case ARGP_KEY_ARG:
        if (options->pages == NULL)
            usage_error("'%s' is no option; files with pages go behind --pages", value);
        add_page_file(options, value);
        break;
    case KEY_PAGE_TOKENS:
        options->page_tokens = (int32_t)read_integer("page-tokens", value, 1, MOST_PAGE_TOKENS);
        break;
    case KEY_LAYERS:
        read_layers("layers", value, options);
        break;
    case KEY_KIND:
        options->kind = (int32_t)read_words("kind", value, kind_words);
        break;
    case KEY_METRICS:
        options->metrics = read_words("metrics", value, metric_words);
        break;
    case KEY_VIEW:
        options->views = read_words("view", value, view_words);
        break;
    case KEY_ROPE_CONFIG:
        options->rope_config = value;
        break;
    case KEY_ROPE:
        read_rope(value, &options->rope);
        break;
    case KEY_PER_HEAD:
        options->per_head = true;
        break;
    case KEY_THRESHOLDS:
        options->threshold_count = read_levels("thresholds", value, -1.0, 1.0, options->thresholds);
        break;
    case KEY_BUDGETS:
        options->budget_count = read_levels("budgets", value, 0.0, 1.0, options->budgets);
        break;
    case KEY_BUDGET:
        options->budget = read_number("budget", value, 0.0, 1.0);
        break;
    case KEY_ULPS:
        options->ulps = (uint32_t)read_integer("ulps", value, 1, MOST_ULPS);
        break;
    case KEY_NO_CHANCE:
        options->no_chance = true;
        break;
    case KEY_NULL_REPETITIONS:
        options->null_repetitions = (uint32_t)read_integer("null-repetitions", value, 2, MOST_REPETITIONS);
        break;
    case KEY_SEED:
        options->seed = (uint64_t)read_integer("seed", value, 0, INT64_MAX);
        break;
    case KEY_PAIRS:
        options->pairs = (int32_t)read_word("pairs", value, pair_words);
        break;
    case KEY_TOP:
        options->top = (uint32_t)read_integer("top", value, 0, MOST_TOP);
        break;
    case KEY_BACKEND:
        options->backend = (int32_t)read_word("backend", value, backend_words);
        break;
    case KEY_THREADS:
        options->threads = (uint32_t)read_integer("threads", value, 1, MOST_THREADS);
        break;
    case KEY_OUTPUT_DIR:
        options->output_dir = value;
        break;
    case KEY_NO_PLOTS:
        options->no_plots = true;
        break;
    case KEY_QUIET:
        options->quiet = true;
        break;
    case KEY_REPRODUCIBLE:
        options->reproducible = true;
        break;
    case ARGP_KEY_END:
        check_together(state);
        break;
    default:
        if (key < KEY_MODEL || key > KEY_DUMP)
            return ARGP_ERR_UNKNOWN;
        take_engine_option(state, key, value);
        break;
    }
    return 0;
}

static void print_version(FILE *stream, struct argp_state *argp) {
    (void)argp;
    fprintf(stream, "%s %s (libkvsim %s)\n", PROGRAM, KVSIM_VERSION_STRING, kvsim_version_string());
}

void options_read(int argc, char **argv, analyze_options *options) {
    static const struct argp parser = {
        option_table,
        take_option,
        NULL,
        "Measure how much of a paged KV-cache is redundant.\v"
        "Every pair of pages of one layer and kind is compared. The report goes to DIR/analysis_report.json, pictures "
        "as PNG and SVG beside it. Exit status: 0, 1 failure, 2 wrong usage, 130 interrupted (DIR is then as it was, "
        "or complete).",
        NULL,
        NULL,
        NULL,
    };
    static const double default_thresholds[] = {0.9, 0.95, 0.99};
    static const double default_budgets[] = {0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5};
    memset(options, 0, sizeof *options);
    options->kv_dtype = "f32";
    options->max_tokens = DEFAULT_MAX_TOKENS;
    options->temperature = 0.8;
    options->top_p = 1.0;
    options->seed = 1;
    options->kind = KVSIM_KIND_BOTH;
    options->metrics = KVSIM_METRIC_COSINE | KVSIM_METRIC_L2 | KVSIM_METRIC_HAMMING | KVSIM_METRIC_JACCARD;
    options->pairs = KVSIM_PAIRS_ALL;
    options->top = DEFAULT_TOP;
    memcpy(options->thresholds, default_thresholds, sizeof default_thresholds);
    memcpy(options->budgets, default_budgets, sizeof default_budgets);
    options->threshold_count = sizeof default_thresholds / sizeof *default_thresholds;
    options->budget_count = sizeof default_budgets / sizeof *default_budgets;
    options->budget = 0.1;
    options->output_dir = "kvsim-report";
    parse_state state = {options, NULL};
    static char program[] = PROGRAM;
    argv[0] = program;
    argp_program_version_hook = print_version;
    argp_err_exit_status = EXIT_USAGE;
    argp_parse(&parser, argc, argv, 0, NULL, &state);
    options->budget_count = join_level("budgets", options->budget, options->budgets, options->budget_count);
}

void options_release(analyze_options *options) {
    free(options->pages);
    free(options->layers);
}

int32_t kv_dtype_bytes(const char *kv_dtype) {
    return (int32_t)read_word("kv-dtype", kv_dtype, dtype_words);
}
