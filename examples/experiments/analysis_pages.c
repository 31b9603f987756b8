#include "analysis_pages.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int page_context_open(page_context *context, const analysis_settings *settings, error_text *error) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    *context = (page_context){.settings = settings, .info = KVSIM_SNAPSHOT_INFO_INIT};
    options.backend = KVSIM_BACKEND_CPU;
    options.threads = settings->threads;
    options.error_buffer = error->text;
    options.error_buffer_size = sizeof error->text;
    kvsim_status status = kvsim_ctx_create(&options, &context->ctx);
    if (status != KVSIM_OK && error->text[0] == 0)
        return fail(error, "%s", kvsim_status_string(status));
    return status == KVSIM_OK ? 0 : -1;
}

static bool rotation_known(const kvsim_snapshot_info *info) {
    return info->rope_applied != 0 && info->rope.style != KVSIM_ROPE_NONE;
}

/** Channels of a head that are rotated; 0 stands for all of them. */
static int32_t rotated_channels(const kvsim_snapshot_info *info) {
    return info->rope.rotary_dims != 0 ? info->rope.rotary_dims : info->head_dim;
}

static bool same_rotation(const kvsim_snapshot_info *first, const kvsim_snapshot_info *second) {
    const kvsim_rope *a = &first->rope, *b = &second->rope;
    return a->style == b->style && a->theta == b->theta && rotated_channels(first) == rotated_channels(second) &&
           a->scaling == b->scaling && a->factor == b->factor && a->original_max_position == b->original_max_position &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow;
}

static void choose_views(page_context *context, bool known) {
    context->best_view = known ? KVSIM_VIEW_DEROTATED_CENTERED : KVSIM_VIEW_CENTERED;
    context->views =
        KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED | (known ? KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED : 0);
}

static int open_dump(page_context *context, const char *path, kvsim_snapshot_info *info, error_text *error) {
    kvsim_snapshot **snapshot = &context->snapshots[context->count];
    if (kvsim_snapshot_open(context->ctx, path, snapshot) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(context->ctx));
    context->count++;
    if (kvsim_snapshot_get_info(context->ctx, *snapshot, info) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(context->ctx));
    return info->schema == KVSIM_SCHEMA_DUMP ? 0 : fail(error, "%s is no kvsim.dump.v1", path);
}

int page_context_add(page_context *context, const char *path, int64_t page_tokens, error_text *error) {
    kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
    if (open_dump(context, path, &context->info, error) != 0)
        return -1;
    context->page_tokens = options.page_tokens = (int32_t)page_tokens;
    if (kvsim_snapshot_add_pages(context->ctx, context->snapshots[0], &options) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(context->ctx));
    choose_views(context, rotation_known(&context->info));
    return 0;
}

/* ---- two dumps ---- */

/** The list of a sequence's pages, [count]. */
typedef struct page_list {
    int64_t *positions, *sequences;
    uint64_t *generations;
    int32_t *fills;
    int64_t count, tokens;
} page_list;

static void close_list(page_list *list) {
    free(list->positions);
    free(list->sequences);
    free(list->generations);
    free(list->fills);
}

static int make_list(page_list *list, int64_t tokens, int32_t page_tokens, int side, int64_t sequence) {
    size_t count = (size_t)((tokens + page_tokens - 1) / page_tokens);
    *list = (page_list){.count = (int64_t)count, .tokens = tokens};
    list->positions = calloc(count + 1, sizeof *list->positions);
    list->sequences = calloc(count + 1, sizeof *list->sequences);
    list->generations = calloc(count + 1, sizeof *list->generations);
    list->fills = calloc(count + 1, sizeof *list->fills);
    if (list->positions == NULL || list->sequences == NULL || list->generations == NULL || list->fills == NULL)
        return -1;
    for (size_t i = 0; i < count; i++) {
        int64_t left = tokens - (int64_t)i * page_tokens;
        list->positions[i] = (int64_t)i * page_tokens;
        list->sequences[i] = side;
        list->generations[i] = (uint64_t)sequence;
        list->fills[i] = (int32_t)(left < page_tokens ? left : page_tokens);
    }
    return 0;
}

static int find_rows(const page_context *context, int side, int64_t sequence, int32_t layer, const char *kind,
                     kvsim_tensor *tensor, error_text *error) {
    char name[96];
    snprintf(name, sizeof name, "seq.%" PRId64 ".layer.%" PRId32 ".%s", sequence, layer, kind);
    *tensor = (kvsim_tensor)KVSIM_TENSOR_INIT;
    if (kvsim_snapshot_find(context->snapshots[side], name, tensor) != KVSIM_OK)
        return fail(error, "a dump has no tensor %s", name);
    return 0;
}

static int add_sequence(page_context *context, int side, int64_t sequence, const kvsim_snapshot_info *info,
                        error_text *error) {
    kvsim_tensor keys, values;
    page_list list = {0};
    if (find_rows(context, side, sequence, 0, "key", &keys, error) != 0)
        return -1;
    int status = make_list(&list, keys.shape[0], context->page_tokens, side, sequence);
    if (status != 0)
        fail(error, "out of memory");
    /* The last page may reach past the tensor: its slots past the fill are never read. */
    int64_t shape[] = {list.count, context->page_tokens, info->kv_heads, info->head_dim};
    for (int32_t layer = 0; layer < info->layers && status == 0; layer++) {
        if (find_rows(context, side, sequence, layer, "key", &keys, error) != 0 ||
            find_rows(context, side, sequence, layer, "value", &values, error) != 0) {
            status = -1;
            break;
        }
        keys.ndim = values.ndim = 4;
        keys.shape = values.shape = shape;
        kvsim_pages pages = KVSIM_PAGES_INIT;
        pages.flags = KVSIM_PAGES_BORROW;
        pages.layer = layer;
        pages.kind = KVSIM_KIND_BOTH;
        pages.source = (uint64_t)sequence * 2 + (uint64_t)side + 1;
        pages.tensor = &keys;
        pages.value_tensor = &values;
        pages.page_count = list.count;
        pages.fills = list.fills;
        pages.sequences = list.sequences;
        pages.positions = list.positions;
        pages.generations = list.generations;
        if (list.count > 0 && kvsim_add_pages(context->ctx, &pages) != KVSIM_OK)
            status = fail(error, "%s", kvsim_ctx_error(context->ctx));
    }
    close_list(&list);
    return status;
}

/** Why two dumps cannot be compared; NULL if they can. */
static const char *mismatch(const kvsim_snapshot_info *a, const kvsim_snapshot_info *b) {
    if (a->layers != b->layers || a->kv_heads != b->kv_heads || a->head_dim != b->head_dim)
        return "their caches have another shape: the models differ";
    if (a->dtype_code != b->dtype_code || a->dtype_bits != b->dtype_bits)
        return "their caches are of another element type";
    if (rotation_known(a) != rotation_known(b) || (rotation_known(a) && !same_rotation(a, b)))
        return "their keys are rotated differently";
    return NULL;
}

int page_context_add_two(page_context *context, const char *const paths[2], int64_t page_tokens, error_text *reason,
                         error_text *error) {
    kvsim_snapshot_info info[2] = {KVSIM_SNAPSHOT_INFO_INIT, KVSIM_SNAPSHOT_INFO_INIT};
    for (int side = 0; side < 2; side++)
        if (open_dump(context, paths[side], &info[side], error) != 0)
            return -1;
    const char *why = mismatch(&info[0], &info[1]);
    if (why != NULL) {
        fail(reason, "%s", why);
        return 1;
    }
    context->info = info[0];
    context->page_tokens = (int32_t)page_tokens;
    for (int side = 0; side < 2; side++)
        for (int64_t sequence = 0; sequence < info[side].sequences; sequence++)
            if (add_sequence(context, side, sequence, &info[side], error) != 0)
                return -1;
    bool known = rotation_known(&info[0]);
    if (known && kvsim_set_rope(context->ctx, &info[0].rope) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(context->ctx));
    choose_views(context, known);
    return 0;
}

static int tell_progress(void *user, uint64_t done, uint64_t total) {
    const page_context *context = user;
    double share = total > 0 ? (double)done / (double)total : 1.0;
    double all = context->progress_from + share * (context->progress_to - context->progress_from);
    if (context->settings->progress != NULL)
        context->settings->progress(context->settings->progress_user, (int64_t)(all * ANALYSIS_STEPS), ANALYSIS_STEPS);
    return interrupted();
}

int page_context_compute(page_context *context, const kvsim_compute_options *options, double from, double to,
                         kvsim_result **result, error_text *error) {
    kvsim_compute_options told = *options;
    context->progress_from = from;
    context->progress_to = to;
    told.progress = tell_progress;
    told.progress_user = context;
    if (kvsim_compute(context->ctx, &told, result) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(context->ctx));
    return 0;
}

void page_context_close(page_context *context) {
    /* The pages are borrowed from the files, and the files' memory from the context. */
    if (context->ctx != NULL)
        kvsim_ctx_clear(context->ctx);
    for (int i = 0; i < context->count; i++)
        kvsim_snapshot_close(context->snapshots[i]);
    kvsim_ctx_destroy(context->ctx);
}
