/** Pages drawn from a seed: some new, some near an earlier one, some equal to it, some scaled, turned or zero. */
#ifndef KVSIM_TESTS_PAGE_SET_H
#define KVSIM_TESTS_PAGE_SET_H

#include "core_tools.h"
#include "reference.h"

enum { SEQUENCES = 5 };

/** Pages as handed to kvsim_add_pages, and the same for the reference. */
typedef struct page_set {
    reference_pages reference;
    float *elements[2]; /**< f32, what was stored */
    int64_t shape[4];
    int64_t *ids;
    int32_t *fills;
    kvsim_tensor tensors[2];
    kvsim_pages pages;
} page_set;

static inline void fill_page(uint64_t *seed, float *elements, size_t page, size_t n) {
    static const float noise[] = {0.0f, 1e-5f, 0.03f, 0.1f, 0.2f, 0.35f, 1.0f};
    float *to = elements + page * n;
    const float *from = page > 0 ? elements + draw_below(seed, page) * n : NULL;
    const size_t choice = draw_below(seed, 10);
    for (size_t i = 0; i < n; i++) {
        const float fresh = draw_normal(seed) * (i % 7 == 3 ? 4.0f : 1.0f) + (i % 5 == 0 ? 1.5f : 0.0f);
        to[i] = from == NULL || choice > 7 ? fresh
                : choice < 7               ? from[i] + noise[choice] * draw_normal(seed)
                                           : from[i] * 2.5f;
    }
    if (draw_below(seed, 40) == 0) {
        memset(to, 0, n * sizeof *to);
    }
    if (draw_below(seed, 40) == 0) {
        to[draw_below(seed, n)] = -0.0f;
    }
}

/** `kinds` is a KVSIM_KIND_*. All pages are full and finite. */
static inline page_set *make_page_set(uint64_t seed, int kinds, size_t count, size_t tokens, size_t heads,
                                      size_t channels) {
    page_set *set = get_memory(sizeof *set);
    const size_t n = tokens * heads * channels;
    set->reference = (reference_pages){.count = count,
                                       .tokens = tokens,
                                       .heads = heads,
                                       .channels = channels,
                                       .stored_size = sizeof(float),
                                       .sequences = get_memory(count * sizeof(int64_t)),
                                       .positions = get_memory(count * sizeof(int64_t))};
    const int64_t shape[4] = {(int64_t)count, (int64_t)tokens, (int64_t)heads, (int64_t)channels};
    memcpy(set->shape, shape, sizeof shape);
    set->ids = get_memory(count * sizeof *set->ids);
    set->fills = get_memory(count * sizeof *set->fills);
    for (size_t p = 0; p < count; p++) {
        set->ids[p] = (int64_t)p;
        set->fills[p] = (int32_t)tokens;
        set->reference.sequences[p] = (int64_t)draw_below(&seed, SEQUENCES);
        set->reference.positions[p] = (int64_t)draw_below(&seed, 3000);
    }
    for (int kind = 0; kind < 2; kind++) {
        if ((kinds & 1 << kind) == 0) {
            continue;
        }
        set->elements[kind] = get_memory(count * n * sizeof(float));
        set->reference.elements[kind] = get_memory(count * n * sizeof(double));
        set->reference.stored[kind] = (unsigned char *)set->elements[kind];
        set->reference.takes_part[kind] = get_memory(count * sizeof(bool));
        for (size_t p = 0; p < count; p++) {
            fill_page(&seed, set->elements[kind], p, n);
            set->reference.takes_part[kind][p] = true;
        }
        set->tensors[kind] = make_tensor(set->elements[kind], KVSIM_DTYPE_FLOAT, 32, set->shape, 4);
    }
    set->pages = (kvsim_pages)KVSIM_PAGES_INIT;
    set->pages.kind = kinds;
    set->pages.tensor = &set->tensors[kinds == KVSIM_KIND_VALUE ? 1 : 0];
    set->pages.value_tensor = kinds == KVSIM_KIND_BOTH ? &set->tensors[1] : NULL;
    set->pages.page_count = (int64_t)count;
    set->pages.block_ids = set->ids;
    set->pages.fills = set->fills;
    set->pages.sequences = set->reference.sequences;
    set->pages.positions = set->reference.positions;
    return set;
}

/** Bring the reference up to date with f32 elements that a test has changed. */
static inline void refresh_page_set(page_set *set) {
    const size_t n = set->reference.tokens * set->reference.heads * set->reference.channels;
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; set->elements[kind] != NULL && i < set->reference.count * n; i++) {
            set->reference.elements[kind][i] = (double)set->elements[kind][i];
            if (!isfinite(set->elements[kind][i])) {
                set->reference.takes_part[kind][i / n] = false;
            }
        }
        for (size_t p = 0; set->elements[kind] != NULL && p < set->reference.count; p++) {
            if (set->fills[p] != (int32_t)set->reference.tokens) {
                set->reference.takes_part[kind][p] = false;
            }
        }
    }
}

static inline void add_page_set(kvsim_ctx *ctx, page_set *set) {
    if (set->reference.count > 0) {
        ck_status(ctx, kvsim_add_pages(ctx, &set->pages), KVSIM_OK);
    }
}

#endif
