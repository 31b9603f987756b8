/**
 * Pages that both the library's own code and a device of the backend table compare: the same pages, opened as a group
 * of the library in a view, and laid out on a device. For tests of the twin, and of anything else with that table.
 */
#ifndef KVSIM_TESTS_DEVICE_TOOLS_H
#define KVSIM_TESTS_DEVICE_TOOLS_H

#include "backend/backend.h"
#include "compute/internal.h"
#include "core_tools.h"
#include "findings/duplicates.h"
#include "pairs/pack.h"
#include "pairs/tile.h"

/** What pages to make. */
typedef struct device_recipe {
    uint64_t seed;
    uint32_t slots;
    int32_t tokens, heads, head_dim;
    kvsim__dtype dtype;
    int32_t scale_mode;
    uint32_t view;
    int32_t gaps;     /**< elements between rows, so that pages do not lie in one piece */
    bool with_absent; /**< some slots have no page */
    double magnitude; /**< about that of elements; 0 = 1 */
    uint32_t flags;   /**< KVSIM_COMPUTE_* */
    bool different_sequences;
    uint32_t hamming_bits; /**< 0 = 8 */
    int32_t only_head;     /**< 0 = all heads, else the group of the head before this number */
} device_recipe;

/** The pages, and what is known of them on both sides. */
typedef struct device_set {
    device_recipe recipe;
    kvsim_ctx *ctx;
    kvsim__base *base;
    unsigned char *elements; /**< as stored, gaps included */
    size_t element_bytes;
    float *scales;
    kvsim__plan plan;
    kvsim__progress progress;
    kvsim__pairing pairing; /**< keys only */
    kvsim__group *cpu;
    uint32_t *pages, *sequences, *families;
    uint32_t *first;   /**< first slot of equal bytes */
    uint32_t *classes; /**< first slot that is equal in the view */
    uint8_t *stratum;
    size_t stored; /**< elements of a page as it lies */
    size_t n;      /**< of those the group looks at */

    const kvsim__backend *table;
    kvsim__device *device;
    kvsim__device_group group;
    unsigned char *far_elements;
    kvsim__slot_facts *facts; /**< on the host */
    double *norms, *largest;  /**< on the host, from `measure` */
    double largest_norm;
    kvsim__device_packing packing;
} device_set;

#define ck_device(set, expression)                                                                                     \
    do {                                                                                                               \
        const int32_t ck_device_is = (expression);                                                                     \
        ck_assert_msg(ck_device_is == KVSIM_OK, "%s is %d: %s", #expression, ck_device_is,                             \
                      (set)->table->error((set)->device));                                                             \
    } while (0)

/* ---- elements of any type ---- */

static inline float decode_bits(kvsim__dtype dtype, uint32_t bits) {
    const uint16_t half = (uint16_t)bits;
    const uint8_t byte = (uint8_t)bits;
    float value;
    const bool wide = dtype == KVSIM__F16 || dtype == KVSIM__BF16;
    kvsim__convert_row(dtype, wide ? (const unsigned char *)&half : &byte, 0, 1, &value);
    return value;
}

/** Write the element of a type that is nearest to a value, or the largest. Codes of positive numbers rise with them. */
static inline void encode_element(kvsim__dtype dtype, float value, unsigned char *to) {
    static const uint32_t largest[] = {0, 0x7bff, 0x7f7f, 0x7e, 0x7b};
    if (dtype == KVSIM__F32) {
        memcpy(to, &value, sizeof value);
        return;
    }
    if (dtype == KVSIM__I8) {
        const double code = fmin(fmax(rint((double)value * 25.0), -128.0), 127.0);
        *(int8_t *)to = (int8_t)code;
        return;
    }
    uint32_t low = 0, high = largest[dtype];
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (decode_bits(dtype, middle) <= fabsf(value)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const float below = decode_bits(dtype, low), above = decode_bits(dtype, high);
    uint32_t bits = fabsf(value) - below <= above - fabsf(value) ? low : high;
    bits |= signbit(value) != 0 ? (dtype == KVSIM__F16 || dtype == KVSIM__BF16 ? 0x8000u : 0x80u) : 0;
    const uint16_t half = (uint16_t)bits;
    const uint8_t byte = (uint8_t)bits;
    memcpy(to, dtype == KVSIM__F16 || dtype == KVSIM__BF16 ? (const void *)&half : &byte, kvsim__dtype_size(dtype));
}

/* ---- the library's side ---- */

/** New pages, copies, near copies of an earlier one, opposite ones, zero ones. */
static inline void fill_device_page(device_set *set, uint64_t *seed, float *all, uint32_t slot) {
    static const float noise[] = {0.0f, 0.002f, 0.02f, 0.1f, 0.2f, 0.31f, 0.5f, 1.0f};
    float *to = all + slot * set->stored;
    const float *from = slot > 0 ? all + draw_below(seed, slot) * set->stored : NULL;
    const float scale = set->recipe.magnitude > 0.0 ? (float)set->recipe.magnitude : 1.0f;
    const size_t choice = draw_below(seed, 14);
    const bool is_zero = draw_below(seed, 50) == 0;
    for (size_t i = 0; i < set->stored; i++) {
        const float fresh = (draw_normal(seed) * (i % 7 == 3 ? 3.0f : 1.0f) + (i % 5 == 0 ? 0.5f : 0.0f)) * scale;
        to[i] = is_zero                      ? 0.0f
                : from == NULL || choice > 9 ? fresh
                : choice == 8                ? -from[i]
                : choice == 9                ? 0.5f * from[i]
                                             : from[i] + noise[choice] * draw_normal(seed) * scale;
    }
}

static inline void fill_device_pages(device_set *set) {
    const device_recipe *recipe = &set->recipe;
    const size_t size = kvsim__dtype_size(recipe->dtype), channels = (size_t)recipe->head_dim;
    const size_t row = channels + (size_t)recipe->gaps;
    uint64_t seed = recipe->seed;
    float *values = get_memory(recipe->slots * set->stored * sizeof *values);
    set->element_bytes = recipe->slots * (set->stored / channels) * row * size;
    set->elements = get_memory(set->element_bytes);
    memset(set->elements, 0xff, set->element_bytes); /* not a number, where there are any */
    for (uint32_t slot = 0; slot < recipe->slots; slot++) {
        fill_device_page(set, &seed, values, slot);
        for (size_t i = 0; i < set->stored; i++) {
            const size_t at = (slot * set->stored + i) / channels * row + i % channels;
            encode_element(recipe->dtype, values[slot * set->stored + i], set->elements + at * size);
        }
    }
    drop_memory(values);
}

static inline void add_device_pages(device_set *set) {
    static const struct {
        uint8_t code, bits;
    } types[] = {{KVSIM_DTYPE_FLOAT, 32},    {KVSIM_DTYPE_FLOAT, 16},  {KVSIM_DTYPE_BFLOAT, 16},
                 {KVSIM_DTYPE_F8_E4M3FN, 8}, {KVSIM_DTYPE_F8_E5M2, 8}, {KVSIM_DTYPE_INT, 8}};
    const device_recipe *recipe = &set->recipe;
    const int64_t row = recipe->head_dim + recipe->gaps;
    const int64_t shape[4] = {recipe->slots, recipe->tokens, recipe->heads, recipe->head_dim};
    const int64_t strides[4] = {recipe->tokens * recipe->heads * row, recipe->heads * row, row, 1};
    kvsim_tensor tensor = make_tensor(set->elements, types[recipe->dtype].code, types[recipe->dtype].bits, shape, 4);
    tensor.strides = strides;
    const size_t scale_count = (size_t)recipe->slots * (size_t)recipe->tokens * (size_t)recipe->heads;
    const int64_t scale_shapes[4][3] = {{0}, {1}, {recipe->heads}, {recipe->slots, recipe->tokens, recipe->heads}};
    set->scales = get_memory(scale_count * sizeof(float));
    uint64_t seed = recipe->seed + 17;
    const size_t page_scales = (size_t)recipe->tokens * (size_t)recipe->heads;
    for (size_t i = 0; i < scale_count; i++) { /* alike in most pages */
        set->scales[i] = 0.05f * (float)(1 + (i % page_scales + (i / page_scales % 5 == 3)) % 3);
    }
    const kvsim_tensor scale = make_tensor(set->scales, KVSIM_DTYPE_FLOAT, 32, scale_shapes[recipe->scale_mode],
                                           recipe->scale_mode == KVSIM_SCALE_TOKEN_HEAD ? 3 : 1);
    int64_t *numbers = get_memory(3 * recipe->slots * sizeof *numbers);
    for (uint32_t slot = 0; slot < recipe->slots; slot++) {
        numbers[slot] = slot;
        numbers[recipe->slots + slot] = set->sequences[slot];
        numbers[2 * recipe->slots + slot] = 700 * (int64_t)draw_below(&seed, 6);
    }
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.flags = KVSIM_PAGES_BORROW;
    pages.tensor = &tensor;
    pages.scale = recipe->scale_mode != KVSIM_SCALE_NONE ? &scale : NULL;
    pages.scale_mode = recipe->scale_mode;
    pages.page_count = recipe->slots;
    pages.block_ids = numbers;
    pages.sequences = numbers + recipe->slots;
    pages.positions = numbers + 2 * recipe->slots;
    ck_status(set->ctx, kvsim_add_pages(set->ctx, &pages), KVSIM_OK);
}

static inline void open_cpu_group(device_set *set) {
    const device_recipe *recipe = &set->recipe;
    kvsim__group *group = set->cpu = &set->pairing.groups[KVSIM__KEY];
    const kvsim_rope rope = {.struct_size = sizeof rope, .style = KVSIM_ROPE_HALF};
    ck_status(set->ctx, kvsim_set_rope(set->ctx, &rope), KVSIM_OK);
    *group = (kvsim__group){.base = set->base,
                            .store = &set->ctx->store,
                            .pages = set->pages,
                            .slots = recipe->slots,
                            .tokens = recipe->tokens,
                            .heads = recipe->only_head > 0 ? 1 : recipe->heads,
                            .head_dim = recipe->head_dim,
                            .first_head = recipe->only_head > 0 ? recipe->only_head - 1 : 0,
                            .elements = set->n};
    for (uint32_t slot = 0; slot < recipe->slots; slot++) {
        set->pages[slot] = recipe->with_absent && slot % 11 == 4 ? KVSIM__NONE : slot;
        group->count += set->pages[slot] != KVSIM__NONE;
    }
    ck_status(set->ctx, kvsim__group_open(group, recipe->view, KVSIM_KIND_KEY, &set->ctx->rope), KVSIM_OK);
    kvsim__contents contents = {set->base,     &set->ctx->store,  set->pages,
                                recipe->slots, group->first_head, group->heads};
    ck_status(set->ctx, kvsim__find_equal_pages(&contents, set->first), KVSIM_OK);
    set->pairing.base = set->base;
    set->pairing.plan = &set->plan;
    set->pairing.progress = &set->progress;
    set->pairing.slots = recipe->slots;
    set->pairing.present[KVSIM__KEY] = true;
    set->pairing.places = (kvsim__places){set->sequences, set->families, set->stratum, 5};
}

/** Classes of pages that are equal in the view: of equal bytes, and where RoPE is undone also of equal position. */
static inline void number_classes(device_set *set) {
    const kvsim__page *pages = set->ctx->store.pages;
    for (uint32_t slot = 0; slot < set->recipe.slots; slot++) {
        uint32_t other = set->first[slot];
        while (other < slot && (set->first[other] != set->first[slot] ||
                                (set->cpu->rotate && pages[other].position != pages[slot].position))) {
            other++;
        }
        set->classes[slot] = other;
        set->facts[slot] = (kvsim__slot_facts){other, set->sequences[slot], set->families[slot], set->stratum[slot],
                                               (uint16_t)(other == slot)};
    }
}

/* ---- the device's side ---- */

static inline void *device_room(device_set *set, size_t bytes, int byte) {
    void *memory;
    ck_device(set, set->table->allocate(set->device, bytes, &memory));
    ck_device(set, set->table->fill(set->device, memory, byte, bytes));
    return memory;
}

static inline void *device_copy(device_set *set, const void *from, size_t bytes) {
    void *memory;
    if (from == NULL || bytes == 0) {
        return NULL;
    }
    ck_device(set, set->table->allocate(set->device, bytes, &memory));
    ck_device(set, set->table->upload(set->device, memory, from, bytes));
    return memory;
}

static inline void *host_copy(device_set *set, const void *from, size_t bytes) {
    void *memory = get_memory(bytes);
    ck_device(set, set->table->download(set->device, memory, from, bytes));
    return memory;
}

static inline void upload_group(device_set *set) {
    const device_recipe *recipe = &set->recipe;
    const kvsim__store *store = &set->ctx->store;
    const kvsim__group *cpu = set->cpu;
    set->far_elements = device_copy(set, set->elements, set->element_bytes);
    kvsim__device_format *formats = get_memory(store->format_count * sizeof *formats);
    for (size_t f = 0; f < store->format_count; f++) {
        const kvsim__format *from = &store->formats[f];
        const size_t scales = from->scale_mode == KVSIM_SCALE_TENSOR ? 1 : (size_t)from->heads;
        formats[f] = (kvsim__device_format){
            from->token_stride,
            from->head_stride,
            from->channel_stride,
            (int32_t)from->dtype,
            from->scale_mode,
            from->heads,
            0,
            from->scales != NULL ? device_copy(set, from->scales, scales * sizeof(float)) : NULL};
    }
    const size_t row_scales = (size_t)recipe->tokens * (size_t)recipe->heads * sizeof(float);
    kvsim__device_page *pages = get_memory(recipe->slots * sizeof *pages);
    for (uint32_t slot = 0; slot < recipe->slots; slot++) {
        if (set->pages[slot] != KVSIM__NONE) {
            const kvsim__page *from = &store->pages[set->pages[slot]];
            pages[slot].data = set->far_elements + (from->data - set->elements);
            pages[slot].token_scales = device_copy(set, from->token_scales, row_scales);
            pages[slot].position = from->position;
            pages[slot].format = from->format;
        }
    }
    const size_t angles = (size_t)cpu->tokens * (size_t)cpu->pairs * sizeof(double);
    set->group = (kvsim__device_group){
        .pages = device_copy(set, pages, recipe->slots * sizeof *pages),
        .formats = device_copy(set, formats, store->format_count * sizeof *formats),
        .slots = recipe->slots,
        .tokens = cpu->tokens,
        .heads = cpu->heads,
        .head_dim = cpu->head_dim,
        .first_head = cpu->first_head,
        .rotate = cpu->rotate,
        .interleaved = cpu->interleaved,
        .pairs = cpu->pairs,
        .frequencies = device_copy(set, cpu->frequencies, (size_t)cpu->pairs * sizeof(double)),
        .slot_cosine = device_copy(set, cpu->slot_cosine, angles),
        .slot_sine = device_copy(set, cpu->slot_sine, angles),
        .mean = device_copy(set, cpu->mean, (size_t)(cpu->heads * cpu->head_dim) * sizeof(double))};
}

/** Operand that holds the pages of a set. */
static inline int32_t operand_of(const device_set *set) {
    static const int32_t exact[] = {KVSIM__OPERAND_SPLIT, KVSIM__OPERAND_F16,  KVSIM__OPERAND_BF16,
                                    KVSIM__OPERAND_E4M3,  KVSIM__OPERAND_E5M2, KVSIM__OPERAND_I8};
    const bool raw = !set->cpu->rotate && set->cpu->mean == NULL;
    return raw && set->recipe.scale_mode <= KVSIM_SCALE_TENSOR ? exact[set->recipe.dtype] : KVSIM__OPERAND_SPLIT;
}

static inline void measure_set(device_set *set) {
    const uint32_t runs = 3;
    const size_t slots = set->recipe.slots, heads = (size_t)set->cpu->heads;
    kvsim__device_measures measures = {.runs = runs};
    measures.absmax = device_room(set, runs * heads * sizeof(double), 0xee);
    measures.squares = device_room(set, runs * heads * sizeof(double), 0xee);
    measures.norms = device_room(set, slots * sizeof(double), 0xee);
    measures.largest = device_room(set, slots * sizeof(double), 0xee);
    ck_device(set, set->table->measure(set->device, &set->group, &measures));
    set->norms = host_copy(set, measures.norms, slots * sizeof(double));
    set->largest = host_copy(set, measures.largest, slots * sizeof(double));
    for (size_t slot = 0; slot < slots; slot++) {
        set->largest_norm = set->norms[slot] > set->largest_norm ? set->norms[slot] : set->largest_norm;
    }
    double *tau = get_memory(heads * sizeof *tau);
    for (size_t h = 0; h < heads; h++) {
        tau[h] = sqrt(set->cpu->mean_square[h]);
    }
    set->packing = (kvsim__device_packing){
        .operand = operand_of(set),
        .stored_codes = set->plan.hamming_bits == 8 && set->recipe.dtype == KVSIM__I8 &&
                        set->recipe.scale_mode != KVSIM_SCALE_TOKEN_HEAD && !set->cpu->rotate && set->cpu->mean == NULL,
        .code_limit = set->plan.hamming_bits == 4 ? 7.0 : 127.0,
        .largest_norm = set->largest_norm,
        .absmax = device_copy(set, set->cpu->absmax, heads * sizeof(double)),
        .tau = device_copy(set, tau, heads * sizeof(double)),
        .norms = measures.norms,
        .largest = measures.largest,
        .slots = device_copy(set, set->facts, slots * sizeof *set->facts)};
}

/** Make the pages, open them as a group of the library, and lay them out on a device. */
static inline device_set *open_device_set(const kvsim__backend *table, const device_recipe *recipe) {
    device_set *set = get_memory(sizeof *set);
    set->recipe = *recipe;
    set->table = table;
    set->stored = (size_t)recipe->tokens * (size_t)recipe->heads * (size_t)recipe->head_dim;
    set->n = recipe->only_head > 0 ? set->stored / (size_t)recipe->heads : set->stored;
    set->pages = get_memory(recipe->slots * sizeof(uint32_t));
    set->first = get_memory(recipe->slots * sizeof(uint32_t));
    set->classes = get_memory(recipe->slots * sizeof(uint32_t));
    set->sequences = get_memory(recipe->slots * sizeof(uint32_t));
    set->families = get_memory(recipe->slots * sizeof(uint32_t));
    set->stratum = get_memory(recipe->slots);
    set->facts = get_memory(recipe->slots * sizeof *set->facts);
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = KVSIM_BACKEND_CPU;
    options.threads = 1;
    ck_assert_int_eq(kvsim_ctx_create(&options, &set->ctx), KVSIM_OK);
    set->base = kvsim__ctx_base(set->ctx);
    kvsim_compute_options compute = KVSIM_COMPUTE_OPTIONS_INIT;
    static const double thresholds[] = {-0.25, 0.5, 0.9, 0.95, 0.99};
    compute.thresholds = thresholds;
    compute.threshold_count = 5;
    compute.flags = recipe->flags;
    compute.hamming_bits = recipe->hamming_bits;
    compute.pairs = recipe->different_sequences ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    ck_status(set->ctx, kvsim__read_plan(set->base, &compute, &set->plan), KVSIM_OK);
    uint64_t seed = recipe->seed + 99;
    for (uint32_t slot = 0; slot < recipe->slots; slot++) {
        set->sequences[slot] = (uint32_t)draw_below(&seed, 5);
        set->families[slot] = set->sequences[slot] / 2;
        set->stratum[slot] = (uint8_t)draw_below(&seed, 3);
    }
    fill_device_pages(set);
    add_device_pages(set);
    open_cpu_group(set);
    number_classes(set);
    char reason[256] = "";
    const kvsim__device_options device_options = {0, 100, 0};
    ck_assert_msg(table->open(&device_options, &set->device, reason, sizeof reason) == KVSIM_OK, "%s", reason);
    upload_group(set);
    measure_set(set);
    return set;
}

static inline void close_device_set(device_set *set) {
    set->table->close(set->device);
    kvsim__figures_close(&set->pairing, &set->pairing.figures[KVSIM__KEY]);
    kvsim__group_close(set->cpu);
    kvsim_ctx_destroy(set->ctx);
}

/** A panel with room for everything, packed. */
static inline kvsim__device_panel pack_panel(device_set *set, uint32_t first, uint32_t count) {
    const uint64_t wide = set->packing.operand <= KVSIM__OPERAND_F16     ? 2
                          : set->packing.operand == KVSIM__OPERAND_SPLIT ? 4
                                                                         : 1;
    kvsim__device_panel panel = {.first = first, .count = count};
    panel.capacity = (count + 255) / 256 * 256;
    /* Both parts of a split row are whole lines. */
    const uint64_t parts = wide == 4 ? 2 : 1;
    panel.row_bytes = (set->n * wide / parts + 127) / 128 * 128 * parts;
    panel.bit_bytes = ((set->n + 7) / 8 + 127) / 128 * 128;
    panel.code_bytes = (set->n + 127) / 128 * 128;
    panel.operand = device_room(set, panel.capacity * panel.row_bytes, 0xee);
    panel.signs = device_room(set, panel.capacity * panel.bit_bytes, 0xee);
    panel.actives = device_room(set, panel.capacity * panel.bit_bytes, 0xee);
    panel.codes = device_room(set, panel.capacity * panel.code_bytes, 0xee);
    panel.facts = device_room(set, panel.capacity * sizeof *panel.facts, 0xee);
    panel.sign_count = device_room(set, panel.capacity * sizeof(uint32_t), 0xee);
    panel.active_count = device_room(set, panel.capacity * sizeof(uint32_t), 0xee);
    ck_device(set, set->table->pack(set->device, &set->group, &set->packing, &panel));
    return panel;
}

/** The rules that a plan makes. */
static inline kvsim__pair_rules rules_of(const device_set *set) {
    kvsim__pair_rules rules;
    memset(&rules, 0, sizeof rules);
    const double largest = set->plan.budgets[set->plan.budget_count - 1];
    rules.bound = (float)KVSIM__COSINE_BOUND;
    rules.near_limit = (float)(largest + KVSIM__ERROR_SLACK);
    rules.clear_limit = (float)(largest + 0.01);
    rules.threshold_count = set->plan.threshold_count;
    rules.budget_count = set->plan.budget_count;
    rules.filter = set->plan.different_sequences;
    rules.bounds = (set->plan.flags & KVSIM_COMPUTE_BOUNDS) != 0;
    rules.filtered_listing = rules.filter;
    for (uint32_t i = 0; i < rules.threshold_count; i++) {
        rules.thresholds[i] = (float)set->plan.thresholds[i];
        rules.exact_thresholds[i] = set->plan.thresholds[i];
    }
    for (uint32_t i = 0; i < rules.budget_count; i++) {
        rules.budgets[i] = (float)set->plan.budgets[i];
    }
    return rules;
}

#endif
