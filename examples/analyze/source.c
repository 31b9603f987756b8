#include "source.h"

#include "rotation.h"

#include <stdlib.h>
#include <string.h>

/** Short name of an element type. */
static const char *dtype_name(uint8_t code, uint8_t bits) {
    switch (code) {
    case KVSIM_DTYPE_FLOAT:
        return bits == 16 ? "f16" : bits == 32 ? "f32" : "f64";
    case KVSIM_DTYPE_BFLOAT:
        return "bf16";
    case KVSIM_DTYPE_F8_E4M3FN:
        return "f8_e4m3fn";
    case KVSIM_DTYPE_F8_E5M2:
        return "f8_e5m2";
    case KVSIM_DTYPE_INT:
        return "i8";
    default:
        return "opaque";
    }
}

static const char *schema_name(int32_t schema) {
    switch (schema) {
    case KVSIM_SCHEMA_DUMP:
        return "kvsim.dump.v1";
    case KVSIM_SCHEMA_PAGED:
        return "kvsim.paged.v1";
    case KVSIM_SCHEMA_NPY:
        return "npy";
    default:
        return "none";
    }
}

double predict_cache_bytes(const analyze_options *options, int32_t layers, int32_t kv_heads, int32_t head_dim,
                           int32_t element_bytes, int64_t tokens) {
    double kinds = options->kind == KVSIM_KIND_BOTH ? 2.0 : 1.0;
    double selected = layers;
    if (options->layers != NULL) {
        selected = 0;
        for (size_t i = 0; i < options->layer_count; i++)
            selected += options->layers[i] < layers;
    }
    return kinds * selected * kv_heads * head_dim * element_bytes * (double)tokens;
}

static json_t *describe_file(const char *path, const kvsim_snapshot_info *info) {
    json_t *facts = json_object();
    json_object_set_new(facts, "path", json_string(path));
    json_object_set_new(facts, "bytes", json_integer((json_int_t)info->file_bytes));
    json_object_set_new(facts, "schema", json_string(schema_name(info->schema)));
    json_object_set_new(facts, "model", json_string(info->model != NULL ? info->model : ""));
    json_object_set_new(facts, "layers", json_integer(info->layers));
    json_object_set_new(facts, "kv_heads", json_integer(info->kv_heads));
    json_object_set_new(facts, "head_dim", json_integer(info->head_dim));
    json_object_set_new(facts, "page_tokens", json_integer(info->page_tokens));
    json_object_set_new(facts, "element_type", json_string(dtype_name(info->dtype_code, info->dtype_bits)));
    json_object_set_new(facts, "sequences", json_integer(info->sequences));
    json_object_set_new(facts, "tokens", json_integer(info->tokens));
    return facts;
}

/** Set the error to the library's text, with the path in front if it is not part of it. */
static int fail_with_path(error_text *error, const kvsim_ctx *ctx, const char *path) {
    const char *text = kvsim_ctx_error(ctx);
    return strstr(text, path) != NULL ? fail(error, "%s", text) : fail(error, "%s: %s", path, text);
}

static bool same_rope(const kvsim_rope *a, const kvsim_rope *b) {
    return a->style == b->style && a->theta == b->theta && a->rotary_dims == b->rotary_dims &&
           a->scaling == b->scaling && a->factor == b->factor && a->original_max_position == b->original_max_position &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow;
}

/** Families of a file's sequences, from the prompts in its metadata where there are any. */
static int add_file_families(page_source *source, const kvsim_snapshot *snapshot, int64_t sequences,
                             error_text *error) {
    const char *text = kvsim_snapshot_metadata(snapshot, "prompts");
    json_t *prompts = text != NULL ? json_loads(text, 0, NULL) : NULL;
    int result = 0;
    for (int64_t i = 0; i < sequences && result == 0; i++)
        result = families_add(&source->families, json_string_value(json_array_get(prompts, (size_t)i)), error);
    json_decref(prompts);
    return result;
}

static int add_file(page_source *source, kvsim_ctx *ctx, const analyze_options *options, const char *path,
                    kvsim_rope *rope, error_text *error) {
    kvsim_snapshot *snapshot;
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    kvsim_snapshot_pages pages = KVSIM_SNAPSHOT_PAGES_INIT;
    if (kvsim_snapshot_open(ctx, path, &snapshot) != KVSIM_OK)
        return fail_with_path(error, ctx, path);
    source->opened[source->opened_count++] = snapshot;
    if (kvsim_snapshot_get_info(ctx, snapshot, &info) != KVSIM_OK)
        return fail_with_path(error, ctx, path);
    pages.kind = info.schema == KVSIM_SCHEMA_NPY && options->kind == KVSIM_KIND_BOTH ? 0 : options->kind;
    pages.page_tokens = options->page_tokens;
    pages.layers = options->layers;
    pages.layer_count = options->layer_count;
    pages.first_sequence = source->sequences;
    if (kvsim_snapshot_add_pages(ctx, snapshot, &pages) != KVSIM_OK)
        return fail_with_path(error, ctx, path);
    if (add_file_families(source, snapshot, info.sequences, error) != 0)
        return -1;
    bool first = source->opened_count == 1;
    bool known = info.rope_applied && info.rope.style != KVSIM_ROPE_NONE;
    source->rope_known = known && (first || (source->rope_known && same_rope(rope, &info.rope)));
    *rope = info.rope;
    source->sequences += info.sequences;
    source->tokens += info.tokens;
    if (info.schema == KVSIM_SCHEMA_DUMP || info.schema == KVSIM_SCHEMA_PAGED)
        source->predicted_bytes +=
            predict_cache_bytes(options, info.layers, info.kv_heads, info.head_dim, info.dtype_bits / 8, info.tokens);
    json_array_append_new(json_object_get(source->input, "files"), describe_file(path, &info));
    return 0;
}

static int open_files(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    source->opened = calloc(options->page_file_count, sizeof *source->opened);
    if (source->opened == NULL)
        return fail(error, "out of memory");
    json_object_set_new(source->input, "source", json_string("files"));
    json_object_set_new(source->input, "files", json_array());
    for (size_t i = 0; i < options->page_file_count && !interrupted(); i++)
        if (add_file(source, ctx, options, options->pages[i], &rope, error) != 0)
            return -1;
    if (rotation_tell(source, ctx, options, error) != 0)
        return -1;
    const char *slash = strrchr(options->pages[0], '/');
    const char *name = slash != NULL && slash[1] != 0 ? slash + 1 : options->pages[0];
    int printed = options->page_file_count == 1
                      ? asprintf(&source->title, "%s", name)
                      : asprintf(&source->title, "%s and %zu more", name, options->page_file_count - 1);
    if (printed < 0) {
        source->title = NULL;
        return fail(error, "out of memory");
    }
    return interrupted() ? -1 : 0;
}

int source_open(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    memset(source, 0, sizeof *source);
    source->input = json_object();
    int result = options->pages != NULL ? open_files(source, ctx, options, error)
                                        : source_open_engine(source, ctx, options, error);
    if (result == 0) {
        json_object_set_new(source->input, "sequences", json_integer(source->sequences));
        json_object_set_new(source->input, "families", json_integer((json_int_t)source->families.distinct));
        json_object_set_new(source->input, "tokens", json_integer(source->tokens));
        json_object_set_new(source->input, "rope_known", json_boolean(source->rope_known));
        json_object_set_new(source->input, "predicted_cache_bytes",
                            source->predicted_bytes > 0 ? json_integer((json_int_t)source->predicted_bytes)
                                                        : json_null());
    }
    return result;
}

void source_close(page_source *source) {
    for (size_t i = 0; i < source->opened_count; i++)
        kvsim_snapshot_close(source->opened[i]);
    free(source->opened);
    families_release(&source->families);
    source_close_engine(source);
    free(source->title);
    json_decref(source->input);
}
