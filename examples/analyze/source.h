/**
 * Where the pages of an analysis come from: files, or the embedded engine.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_SOURCE_H
#define KVSIM_EXAMPLES_ANALYZE_SOURCE_H

#include "common/message.h"
#include "families.h"
#include "options.h"

#include <jansson.h>
#include <kvsim/kvsim.h>
#include <kvsim/snapshot.h>

/** Pages in a context and what is known of them. */
typedef struct page_source {
    json_t *input;          /**< the member `input` of the report */
    char *title;            /**< a few words for pictures and the summary */
    double predicted_bytes; /**< of the cache, from the config and the lengths; 0 = not known */
    int64_t sequences;
    int64_t tokens;
    family_list families;     /**< prompt family of each sequence */
    bool rope_known;          /**< de-rotated views can be asked for */
    double load_seconds;      /**< to read files, or to load the model and generate */
    kvsim_snapshot **opened;  /**< files that pages are borrowed from */
    size_t opened_count;      /**< length of `opened` */
    struct engine *generator; /**< engine that pages are borrowed from */
} page_source;

/**
 * Open the files of --pages, or run the engine, and add the pages to `ctx`. The pages are borrowed: clear the
 * context before source_close, and destroy it after.
 * @return 0, or -1 with `error` set (or after a signal, see `interrupted`). The source must be closed in any case
 */
int source_open(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error);

/** As source_open, for the engine. */
int source_open_engine(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error);

/** Give back everything of the source. */
void source_close(page_source *source);

/** Destroy the engine of a source, if there is one. */
void source_close_engine(page_source *source);

/** Bytes of a cache: 2 x layers x KV heads x head size x element size x tokens, over what the options select. */
double predict_cache_bytes(const analyze_options *options, int32_t layers, int32_t kv_heads, int32_t head_dim,
                           int32_t element_bytes, int64_t tokens);

#endif
