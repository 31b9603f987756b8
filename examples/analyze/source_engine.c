#include "source.h"

#ifdef KVSIM_HAVE_ENGINE

#include "common/data_folder.h"
#include "common/progress.h"
#include "common/prompts.h"
#include "common/token_ids.h"
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

/** Tokens of a page if --page-tokens does not say. */
#define DEFAULT_PAGE_TOKENS 16

static int show_tokens(void *user, int64_t done, int64_t total) {
    progress_set(user, (uint64_t)done, (uint64_t)total);
    return interrupted();
}

static int32_t kv_dtype_code(const char *name) {
    return strcmp(name, "bf16") == 0 ? ENGINE_KV_BF16 : strcmp(name, "f16") == 0 ? ENGINE_KV_F16 : ENGINE_KV_F32;
}

static int add_prompt(engine *e, const char *text, size_t number, const analyze_options *options, error_text *error) {
    const engine_config *config = engine_get_config(e);
    size_t size = strlen(text);
    int32_t *ids = calloc(size + 2, sizeof *ids);
    if (ids == NULL)
        return fail(error, "out of memory");
    int64_t count = 0;
    int result = 0;
    if (!config->byte_level)
        result = token_ids_read(text, number + 1, config->vocabulary, ids, &count, error);
    else if (engine_tokenize(e, text, size, ids, &count) != ENGINE_OK)
        result = fail(error, "%s", engine_error(e));
    engine_sampling sampling = {options->temperature, 0, options->top_p, options->seed + number, false};
    if (result == 0 && count > config->max_position)
        result = fail(error, "prompt %zu has %lld tokens, the model takes at most %d; shorten it", number + 1,
                      (long long)count, config->max_position);
    if (result == 0 && engine_add_sequence(e, ids, count, &sampling, options->max_tokens, NULL) != ENGINE_OK)
        result = fail(error, "prompt %zu: %s", number + 1, engine_error(e));
    free(ids);
    return result;
}

static int check_layers(const analyze_options *options, const engine_config *config, error_text *error) {
    for (size_t i = 0; i < options->layer_count; i++)
        if (options->layers[i] >= config->layers)
            return fail(error, "layer %d does not exist: model %s has the layers 0 to %d", options->layers[i],
                        config->model_name, config->layers - 1);
    return 0;
}

static void describe(page_source *source, const engine *e, const analyze_options *options, size_t prompts) {
    const engine_config *config = engine_get_config(e);
    engine_stats stats;
    engine_get_stats(e, &stats);
    source->sequences = engine_sequence_count(e);
    for (int64_t i = 0; i < source->sequences; i++)
        source->tokens += engine_cached_length(e, i);
    source->rope_known = true;
    source->predicted_bytes = predict_cache_bytes(options, config->layers, config->kv_heads, config->head_dim,
                                                  kv_dtype_bytes(options->kv_dtype), source->tokens);
    json_t *model = json_object();
    json_object_set_new(model, "name", json_string(config->model_name));
    json_object_set_new(model, "architecture", json_string(config->architecture));
    json_object_set_new(model, "parameters", json_integer(config->parameters));
    json_object_set_new(model, "layers", json_integer(config->layers));
    json_object_set_new(model, "query_heads", json_integer(config->query_heads));
    json_object_set_new(model, "kv_heads", json_integer(config->kv_heads));
    json_object_set_new(model, "head_dim", json_integer(config->head_dim));
    json_object_set_new(model, "rope_theta", json_real(config->rope_theta));
    json_t *generation = json_object();
    json_object_set_new(generation, "prompts", json_integer((json_int_t)prompts));
    json_object_set_new(generation, "max_tokens", json_integer(options->max_tokens));
    json_object_set_new(generation, "temperature", json_real(options->temperature));
    json_object_set_new(generation, "top_p", json_real(options->top_p));
    json_object_set_new(generation, "seed", json_integer((json_int_t)options->seed));
    json_object_set_new(generation, "prefill_tokens", json_integer(stats.prefill_tokens));
    json_object_set_new(generation, "decode_tokens", json_integer(stats.decode_tokens));
    json_object_set_new(generation, "share_prefixes", json_boolean(options->share_prefixes));
    json_object_set_new(source->input, "source", json_string("engine"));
    json_object_set_new(source->input, "model", model);
    json_object_set_new(source->input, "generation", generation);
    json_object_set_new(source->input, "page_tokens", json_integer(config->page_tokens));
    json_object_set_new(source->input, "element_type", json_string(options->kv_dtype));
}

static int run_engine(page_source *source, kvsim_ctx *ctx, const analyze_options *options, const prompt_list *prompts,
                      error_text *error) {
    engine *e = source->generator;
    if (check_layers(options, engine_get_config(e), error) != 0)
        return -1;
    for (size_t i = 0; i < prompts->count; i++)
        if (add_prompt(e, prompts->texts[i], i, options, error) != 0 ||
            families_add(&source->families, prompts->texts[i], error) != 0)
            return -1;
    progress *display = progress_start("generating", "tokens", options->quiet);
    int status = engine_run(e, show_tokens, display);
    progress_end(display, status == ENGINE_OK);
    if (status == ENGINE_E_FULL)
        return fail(error, "%s; lower --max-tokens or give fewer prompts", engine_error(e));
    if (status != ENGINE_OK)
        return fail(error, "%s", engine_error(e));
    if (options->dump != NULL && engine_dump(e, ctx, options->dump, (const char *const *)prompts->texts) != ENGINE_OK)
        return fail(error, "%s", engine_error(e));
    if (engine_add_selected_pages(e, ctx, options->kind, options->layers, options->layer_count) != ENGINE_OK)
        return fail(error, "%s", engine_error(e));
    describe(source, e, options, prompts->count);
    if (asprintf(&source->title, "%s, %zu prompts", engine_get_config(e)->model_name, prompts->count) < 0) {
        source->title = NULL;
        return fail(error, "out of memory");
    }
    return 0;
}

int source_open_engine(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    char *model = options->model == NULL ? find_shipped("models/tiny") : strdup(options->model);
    char *prompts_file =
        options->prompts_file == NULL ? find_shipped("models/prompts/default.txt") : strdup(options->prompts_file);
    prompt_list prompts = {NULL, 0};
    int result = model == NULL || prompts_file == NULL ? fail(error, "out of memory") : 0;
    if (result == 0)
        result = prompts_read(&prompts, prompts_file, error);
    if (result == 0) {
        engine_options settings;
        engine_options_init(&settings);
        settings.model = model;
        settings.page_tokens = options->page_tokens != 0 ? options->page_tokens : DEFAULT_PAGE_TOKENS;
        settings.kv_dtype = kv_dtype_code(options->kv_dtype);
        settings.threads = (int32_t)options->threads;
        settings.share_prefixes = options->share_prefixes;
        if (engine_create(&settings, &source->generator) != ENGINE_OK)
            result = fail(error, "%s", engine_error(source->generator));
        else
            result = run_engine(source, ctx, options, &prompts, error);
    }
    prompts_release(&prompts);
    free(prompts_file);
    free(model);
    return result;
}

void source_close_engine(page_source *source) {
    engine_destroy(source->generator);
}

#else

int source_open_engine(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    (void)source;
    (void)ctx;
    (void)options;
    return fail(error, "this build has no engine (it needs OpenBLAS), so it cannot run a model; analyse files with "
                       "--pages, or build again with libopenblas-dev installed");
}

void source_close_engine(page_source *source) {
    (void)source;
}

#endif
