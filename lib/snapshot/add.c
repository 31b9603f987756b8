/* Handing the pages of a snapshot to a context, where they lie. */
#include "snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* One call of kvsim_snapshot_add_pages. */
typedef struct addition {
    kvsim_ctx *ctx;
    kvsim__base *base;
    const kvsim_snapshot *snapshot;
    const char *shown;
    kvsim__facts facts;
    kvsim_snapshot_pages options;
} addition;

static bool wants_layer(const addition *add, int32_t layer) {
    if (add->options.layers == NULL) {
        return true;
    }
    uint64_t low = 0;
    uint64_t high = add->options.layer_count;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (add->options.layers[middle] == layer) {
            return true;
        }
        if (add->options.layers[middle] < layer) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

/*
 * The number by which pages of one pool know each other: where the pool lies. Mappings that are open at the same time
 * never share an address, and a snapshot stays open as long as its pages, so no two pools of one context get the
 * same number, and no counter is kept. It is only ever compared for equality.
 */
static uint64_t source_of(const kvsim__entry *entry) {
    return (uint64_t)(uintptr_t)entry->data;
}

static kvsim_tensor tensor_of(const kvsim__entry *entry) {
    return (kvsim_tensor){.struct_size = sizeof(kvsim_tensor),
                          .device_type = KVSIM_DEVICE_CPU,
                          .ndim = entry->ndim,
                          .dtype_code = entry->dtype_code,
                          .dtype_bits = entry->dtype_bits,
                          .dtype_lanes = 1,
                          .data = entry->data,
                          .shape = entry->shape};
}

/* Hand pages in; a failure is told with the file and the layer. */
static kvsim_status hand_in(const addition *add, const kvsim_pages *pages) {
    const kvsim_status status = kvsim_add_pages(add->ctx, pages);
    if (status == KVSIM_OK) {
        return KVSIM_OK;
    }
    char reason[KVSIM__ERROR_SIZE];
    memcpy(reason, add->base->error, sizeof reason);
    return kvsim__fail(add->base, status, "%s: layer %" PRId32 ": %s", add->shown, pages->layer, reason);
}

/* ---- kvsim.dump.v1 ---- */

/* The list of the pages of one sequence; the same for all its layers. */
typedef struct page_list {
    int64_t *positions;
    int64_t *sequences;
    int32_t *fills;
    size_t capacity;
} page_list;

static kvsim_status make_list(kvsim__base *base, size_t capacity, page_list *list) {
    *list = (page_list){.capacity = capacity};
    list->positions = kvsim__allocate(base, capacity, sizeof *list->positions);
    list->sequences = kvsim__allocate(base, capacity, sizeof *list->sequences);
    list->fills = kvsim__allocate(base, capacity, sizeof *list->fills);
    if (list->positions == NULL || list->sequences == NULL || list->fills == NULL) {
        return kvsim__fail_memory(base,
                                  capacity * (sizeof *list->positions + sizeof *list->sequences + sizeof *list->fills),
                                  "a list of pages");
    }
    return KVSIM_OK;
}

static void free_list(kvsim__base *base, page_list *list) {
    kvsim__release(base, list->positions, list->capacity, sizeof *list->positions);
    kvsim__release(base, list->sequences, list->capacity, sizeof *list->sequences);
    kvsim__release(base, list->fills, list->capacity, sizeof *list->fills);
}

/* List the pages of a sequence of `length` tokens, the last of which may be partial; returns their number. */
static int64_t number_pages(page_list *list, int64_t length, int64_t page_tokens, int64_t sequence) {
    int64_t count = 0;
    for (int64_t position = 0; position < length; position += page_tokens) {
        const int64_t left = length - position;
        list->positions[count] = position;
        list->sequences[count] = sequence;
        list->fills[count] = (int32_t)(left < page_tokens ? left : page_tokens);
        count++;
    }
    return count;
}

static kvsim_status add_sequence(const addition *add, page_list *list, int64_t sequence) {
    char name[KVSIM__SCHEMA_NAME_SIZE];
    const int32_t kind = add->options.kind;
    kvsim__name_tokens(name, sequence);
    const int64_t length = kvsim__find_entry(add->snapshot, name)->shape[0];
    const int64_t count = number_pages(list, length, add->facts.page_tokens, add->options.first_sequence + sequence);
    /* The last block may reach past the tensor: its slots past the fill are never read. */
    const int64_t shape[] = {count, add->facts.page_tokens, add->facts.kv_heads, add->facts.head_dim};
    kvsim__name_rows(name, sequence, 0, false);
    const uint64_t source = source_of(kvsim__find_entry(add->snapshot, name));
    if (count == 0) {
        return KVSIM_OK;
    }
    for (int32_t layer = 0; layer < add->facts.layers; layer++) {
        if (!wants_layer(add, layer)) {
            continue;
        }
        kvsim_tensor tensors[2];
        for (int values = 0; values < 2; values++) {
            kvsim__name_rows(name, sequence, layer, values != 0);
            tensors[values] = tensor_of(kvsim__find_entry(add->snapshot, name));
            tensors[values].ndim = 4;
            tensors[values].shape = shape;
        }
        kvsim_pages pages = KVSIM_PAGES_INIT;
        pages.flags = KVSIM_PAGES_BORROW;
        pages.layer = layer;
        pages.kind = kind;
        pages.layout = KVSIM_LAYOUT_BNHD;
        pages.source = source;
        pages.tensor = &tensors[kind == KVSIM_KIND_VALUE ? 1 : 0];
        pages.value_tensor = kind == KVSIM_KIND_BOTH ? &tensors[1] : NULL;
        pages.page_count = count;
        pages.fills = list->fills;
        pages.sequences = list->sequences;
        pages.positions = list->positions;
        const kvsim_status status = hand_in(add, &pages);
        if (status != KVSIM_OK) {
            return status;
        }
    }
    return KVSIM_OK;
}

static kvsim_status add_dump(const addition *add) {
    const int64_t most = add->facts.longest / add->facts.page_tokens + 1;
    page_list list;
    kvsim_status status = make_list(add->base, (size_t)most, &list);
    for (int64_t sequence = 0; status == KVSIM_OK && sequence < add->facts.sequences; sequence++) {
        status = add_sequence(add, &list, sequence);
    }
    free_list(add->base, &list);
    return status;
}

/* ---- kvsim.paged.v1 ---- */

/* The block tables, copied to memory of their own: in the file they may lie at any address. */
typedef struct block_tables {
    int32_t *blocks;
    int32_t *lengths;
    int64_t *sequences;
    int64_t rows;
    int64_t columns;
} block_tables;

static kvsim_status make_tables(const addition *add, block_tables *tables) {
    const kvsim__entry *blocks = kvsim__find_entry(add->snapshot, "block_tables");
    const kvsim__entry *lengths = kvsim__find_entry(add->snapshot, "seq_lens");
    *tables = (block_tables){.rows = blocks->shape[0], .columns = blocks->shape[1]};
    const size_t rows = (size_t)tables->rows;
    const size_t entries = rows * (size_t)tables->columns;
    tables->blocks = kvsim__allocate(add->base, entries, sizeof *tables->blocks);
    tables->lengths = kvsim__allocate(add->base, rows, sizeof *tables->lengths);
    tables->sequences = kvsim__allocate(add->base, rows, sizeof *tables->sequences);
    if (tables->blocks == NULL || tables->lengths == NULL || tables->sequences == NULL) {
        return kvsim__fail_memory(add->base, entries * sizeof *tables->blocks, "block tables");
    }
    memcpy(tables->blocks, blocks->data, entries * sizeof *tables->blocks);
    memcpy(tables->lengths, lengths->data, rows * sizeof *tables->lengths);
    for (size_t row = 0; row < rows; row++) {
        tables->sequences[row] = add->options.first_sequence + (int64_t)row;
    }
    return KVSIM_OK;
}

static void free_tables(const addition *add, block_tables *tables) {
    const size_t rows = (size_t)tables->rows;
    kvsim__release(add->base, tables->blocks, rows * (size_t)tables->columns, sizeof *tables->blocks);
    kvsim__release(add->base, tables->lengths, rows, sizeof *tables->lengths);
    kvsim__release(add->base, tables->sequences, rows, sizeof *tables->sequences);
}

/* A tensor of a layer, and where its shape and strides are kept. */
typedef struct view {
    kvsim_tensor tensor;
    int64_t shape[4];
    int64_t strides[4];
} view;

/*
 * Only the keys or only the values of a packed tensor, as a strided view of the layout without the packing; returns
 * that layout.
 */
static int32_t unpack(const addition *add, const kvsim__entry *entry, bool values, view *out) {
    const int64_t blocks = add->facts.blocks;
    const int64_t tokens = add->facts.page_tokens;
    const int64_t heads = add->facts.kv_heads;
    const int64_t dim = add->facts.head_dim;
    const bool heads_first = add->facts.layout == KVSIM_LAYOUT_BHN2D;
    const bool halves = heads_first || add->facts.layout == KVSIM_LAYOUT_BNH2D;
    const int64_t inner[] = {blocks, heads_first ? heads : tokens, heads_first ? tokens : heads, dim};
    const int64_t width = halves ? 2 * dim : dim;
    const int64_t half = inner[1] * inner[2] * dim;
    const bool pair_first = add->facts.layout == KVSIM_LAYOUT_2BNHD;
    memcpy(out->shape, inner, sizeof inner);
    out->strides[3] = 1;
    out->strides[2] = width;
    out->strides[1] = width * inner[2];
    out->strides[0] = pair_first ? half : 2 * half;
    out->tensor = tensor_of(entry);
    out->tensor.ndim = 4;
    out->tensor.shape = out->shape;
    out->tensor.strides = out->strides;
    if (values) {
        const int64_t elements = halves ? dim : pair_first ? blocks * half : half;
        out->tensor.byte_offset = (uint64_t)elements * (add->facts.dtype_bits / 8u);
    }
    return heads_first ? KVSIM_LAYOUT_BHND : KVSIM_LAYOUT_BNHD;
}

/* Tensors and layout of one layer. */
static void name_layer(const addition *add, int32_t layer, view views[2], kvsim_pages *pages) {
    char name[KVSIM__SCHEMA_NAME_SIZE];
    const int32_t kind = add->options.kind;
    pages->layout = add->facts.layout;
    pages->tensor = &views[kind == KVSIM_KIND_VALUE ? 1 : 0].tensor;
    if (pages->layout == KVSIM_LAYOUT_BNHD || pages->layout == KVSIM_LAYOUT_BHND) {
        kvsim__name_cache(name, layer, "key_cache");
        views[0].tensor = tensor_of(kvsim__find_entry(add->snapshot, name));
        kvsim__name_cache(name, layer, "value_cache");
        views[1].tensor = tensor_of(kvsim__find_entry(add->snapshot, name));
        pages->value_tensor = kind == KVSIM_KIND_BOTH ? &views[1].tensor : NULL;
        return;
    }
    kvsim__name_cache(name, layer, "kv_cache");
    const kvsim__entry *entry = kvsim__find_entry(add->snapshot, name);
    if (kind == KVSIM_KIND_BOTH) {
        views[0].tensor = tensor_of(entry);
        return;
    }
    pages->layout = unpack(add, entry, kind == KVSIM_KIND_VALUE, &views[kind == KVSIM_KIND_VALUE ? 1 : 0]);
}

static kvsim_status add_paged(const addition *add) {
    char name[KVSIM__SCHEMA_NAME_SIZE];
    const bool apart = add->facts.layout == KVSIM_LAYOUT_BNHD || add->facts.layout == KVSIM_LAYOUT_BHND;
    kvsim__name_cache(name, 0, apart ? "key_cache" : "kv_cache");
    const uint64_t source = source_of(kvsim__find_entry(add->snapshot, name));
    block_tables tables;
    kvsim_status status = make_tables(add, &tables);
    const bool empty = add->facts.tokens == 0;
    for (int32_t layer = 0; status == KVSIM_OK && !empty && layer < add->facts.layers; layer++) {
        if (!wants_layer(add, layer)) {
            continue;
        }
        view views[2];
        kvsim_pages pages = KVSIM_PAGES_INIT;
        name_layer(add, layer, views, &pages);
        pages.flags = KVSIM_PAGES_BORROW;
        pages.layer = layer;
        pages.kind = add->options.kind;
        pages.source = source;
        pages.block_table = tables.blocks;
        pages.table_rows = tables.rows;
        pages.table_columns = tables.columns;
        pages.seq_lens = tables.lengths;
        pages.sequences = tables.sequences;
        status = hand_in(add, &pages);
    }
    free_tables(add, &tables);
    return status;
}

/* ---- npy ---- */

static kvsim_status add_array(const addition *add) {
    const kvsim__entry *entry = &add->snapshot->entries[0];
    const kvsim_tensor tensor = tensor_of(entry);
    const int64_t count = add->facts.blocks;
    if (count == 0) {
        return KVSIM_OK;
    }
    page_list list;
    kvsim_status status = make_list(add->base, (size_t)count, &list);
    if (status == KVSIM_OK) {
        (void)number_pages(&list, add->facts.tokens, add->facts.page_tokens, add->options.first_sequence);
        kvsim_pages pages = KVSIM_PAGES_INIT;
        pages.flags = KVSIM_PAGES_BORROW;
        pages.layer = add->options.layer;
        pages.kind = add->options.kind;
        pages.layout = KVSIM_LAYOUT_BNHD;
        pages.source = source_of(entry);
        pages.tensor = &tensor;
        pages.page_count = count;
        pages.sequences = list.sequences;
        pages.positions = list.positions;
        status = hand_in(add, &pages);
    }
    free_list(add->base, &list);
    return status;
}

/* ---- The call ---- */

static kvsim_status check_layers(const addition *add) {
    const int32_t *layers = add->options.layers;
    const uint64_t count = add->options.layer_count;
    if ((layers == NULL) != (count == 0)) {
        return kvsim__fail(add->base, KVSIM_E_INVALID,
                           layers == NULL ? "layers is NULL, but layer_count is %" PRIu64
                                          : "layers is set, but layer_count is %" PRIu64 "; NULL means all layers",
                           count);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (layers[i] < 0 || layers[i] >= add->facts.layers) {
            return kvsim__fail(add->base, KVSIM_E_INVALID,
                               "layer %" PRId32 " does not exist: %s has the layers 0..%" PRId32, layers[i], add->shown,
                               add->facts.layers - 1);
        }
        if (i > 0 && layers[i] <= layers[i - 1]) {
            return kvsim__fail(add->base, KVSIM_E_INVALID, "layers do not rise: %" PRId32 " comes after %" PRId32,
                               layers[i], layers[i - 1]);
        }
    }
    return KVSIM_OK;
}

static kvsim_status check_page_tokens(addition *add) {
    const int32_t wanted = add->options.page_tokens;
    if (wanted < 0 || wanted > KVSIM__PAGE_TOKENS_LIMIT) {
        return kvsim__fail(add->base, KVSIM_E_INVALID, "page_tokens is %" PRId32 ", outside 0..%d", wanted,
                           KVSIM__PAGE_TOKENS_LIMIT);
    }
    if (wanted == 0 || wanted == add->facts.page_tokens) {
        return KVSIM_OK;
    }
    if (add->facts.schema != KVSIM_SCHEMA_DUMP) {
        return kvsim__fail(add->base, KVSIM_E_UNSUPPORTED,
                           "%s: its pages have %" PRId32 " tokens; only a dump can be cut into pages of %" PRId32,
                           add->shown, add->facts.page_tokens, wanted);
    }
    add->facts.page_tokens = wanted;
    return KVSIM_OK;
}

/* Check the options against the file and put the defaults in. */
static kvsim_status check_options(addition *add) {
    kvsim_snapshot_pages *options = &add->options;
    const bool npy = add->facts.schema == KVSIM_SCHEMA_NPY;
    if (options->kind < 0 || options->kind > KVSIM_KIND_BOTH) {
        return kvsim__fail(add->base, KVSIM_E_INVALID, "kind is %" PRId32 ", not a KVSIM_KIND_*", options->kind);
    }
    if (npy && options->kind == KVSIM_KIND_BOTH) {
        return kvsim__fail(add->base, KVSIM_E_INVALID,
                           "%s: an npy file holds pages of one kind; set kind to key or value", add->shown);
    }
    if (options->layer < 0 || options->layer >= KVSIM__LAYERS_LIMIT || (!npy && options->layer != 0)) {
        return kvsim__fail(add->base, KVSIM_E_INVALID,
                           "layer is %" PRId32 "; it is the layer of an npy file, 0..%d, and 0 for any other",
                           options->layer, KVSIM__LAYERS_LIMIT - 1);
    }
    if (npy && options->layers != NULL) {
        return kvsim__fail(add->base, KVSIM_E_INVALID, "%s: an npy file has one layer; set layer, not layers",
                           add->shown);
    }
    if (options->first_sequence < 0 || options->first_sequence > INT64_MAX - add->facts.sequences) {
        return kvsim__fail(add->base, KVSIM_E_INVALID, "first_sequence is %" PRId64 ", outside 0..%" PRId64,
                           options->first_sequence, INT64_MAX - add->facts.sequences);
    }
    if (options->kind == 0) {
        options->kind = npy ? KVSIM_KIND_KEY : KVSIM_KIND_BOTH;
    }
    const kvsim_status status = check_layers(add);
    return status == KVSIM_OK ? check_page_tokens(add) : status;
}

static kvsim_status add_all(addition *add) {
    switch (add->facts.schema) {
    case KVSIM_SCHEMA_DUMP:
        return add_dump(add);
    case KVSIM_SCHEMA_PAGED:
        return add_paged(add);
    default:
        return add_array(add);
    }
}

kvsim_status kvsim_snapshot_add_pages(kvsim_ctx *ctx, const kvsim_snapshot *snapshot,
                                      const kvsim_snapshot_pages *options) {
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = kvsim__ctx_base(ctx);
    if (snapshot == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_snapshot_add_pages: snapshot is NULL");
    }
    addition add = {.ctx = ctx, .base = base, .snapshot = snapshot, .shown = snapshot->files[0].shown};
    kvsim_status status = kvsim__read_struct(&add.options, sizeof add.options, options, sizeof add.options);
    if (status != KVSIM_OK) {
        return kvsim__fail(base, status,
                           "kvsim_snapshot_pages: struct_size %" PRIu32 " is not one this library knows, or fields it "
                           "does not know are set; begin with KVSIM_SNAPSHOT_PAGES_INIT",
                           options->struct_size);
    }
    status = kvsim__read_facts(base, snapshot, &add.facts);
    if (status != KVSIM_OK) {
        return status;
    }
    if (add.facts.schema == KVSIM_SCHEMA_NONE) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s: no pages in it: its metadata 'format' names no schema of kvsim", add.shown);
    }
    status = check_options(&add);
    if (status == KVSIM_OK) {
        status = add_all(&add);
    }
    if (status == KVSIM_OK && add.facts.rope.style != KVSIM_ROPE_NONE) {
        status = kvsim_set_rope(ctx, &add.facts.rope);
    }
    return status;
}
