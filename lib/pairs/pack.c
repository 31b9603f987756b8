#include "pack.h"

#include <math.h>
#include <string.h>

#include "../base/random.h"

enum { CACHE_LINE = 64 };

/* Take `bytes` from a running offset, aligned to a cache line; with memory NULL only the offset moves. */
static void *take(unsigned char *memory, size_t *offset, size_t bytes) {
    void *at = memory != NULL ? memory + *offset : NULL;
    *offset += (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return at;
}

/* Lay a panel out in memory, or (memory NULL) measure it. */
static size_t lay_out(const kvsim__pairing *pairing, size_t capacity, unsigned char *memory, kvsim__panel *panel) {
    size_t offset = 0;
    size_t scratch = 0;
    memset(panel, 0, sizeof *panel);
    panel->capacity = capacity;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (!pairing->present[kind]) {
            continue;
        }
        const kvsim__group *group = &pairing->groups[kind];
        kvsim__packed *packed = &panel->kinds[kind];
        const bool hamming = (pairing->plan->metrics & KVSIM_METRIC_HAMMING) != 0;
        const bool jaccard = (pairing->plan->metrics & KVSIM_METRIC_JACCARD) != 0;
        packed->words = (group->elements + 63) / 64;
        packed->code_stride = (group->elements + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
        packed->strips = take(memory, &offset, capacity * group->elements * sizeof(float));
        packed->norm = take(memory, &offset, capacity * sizeof(double));
        packed->scale = take(memory, &offset, capacity * sizeof(double));
        if (hamming) {
            packed->codes = take(memory, &offset, capacity * packed->code_stride);
            packed->signs = take(memory, &offset, capacity * packed->words * sizeof(uint64_t));
        }
        if (jaccard) {
            packed->actives = take(memory, &offset, capacity * packed->words * sizeof(uint64_t));
            packed->active_count = take(memory, &offset, capacity * sizeof(uint32_t));
        }
        const size_t needed = kvsim__scratch_size(group);
        scratch = needed > scratch ? needed : scratch;
    }
    panel->scratch_stride = (scratch + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    panel->scratch = take(memory, &offset, capacity / KVSIM__STRIP * panel->scratch_stride);
    return offset;
}

size_t kvsim__panel_bytes(const kvsim__pairing *pairing, size_t capacity) {
    kvsim__panel measured;
    return lay_out(pairing, capacity, NULL, &measured);
}

kvsim_status kvsim__panel_open(const kvsim__pairing *pairing, size_t capacity, kvsim__panel *panel) {
    const size_t bytes = kvsim__panel_bytes(pairing, capacity);
    memset(panel, 0, sizeof *panel);
    void *memory = kvsim__allocate(pairing->base, bytes, 1);
    if (memory == NULL) {
        return kvsim__fail_memory(pairing->base, bytes, "packed pages");
    }
    (void)lay_out(pairing, capacity, memory, panel);
    panel->memory = memory;
    panel->memory_bytes = bytes;
    return KVSIM_OK;
}

void kvsim__panel_close(const kvsim__pairing *pairing, kvsim__panel *panel) {
    kvsim__release(pairing->base, panel->memory, panel->memory_bytes, 1);
    memset(panel, 0, sizeof *panel);
}

/* Round half to even: adding 1.5 * 2^52 leaves no bits for a fraction (the host's rounding mode is the default). */
static inline int8_t code_of(double value, double scale, double limit) {
    const double magic = 0x1.8p52;
    double quotient = value / scale;
    quotient = quotient > limit ? limit : quotient < -limit ? -limit : quotient;
    return (int8_t)((quotient + magic) - magic);
}

/* What packing a page needs to know of its group. */
typedef struct page_job {
    const kvsim__pairing *pairing;
    kvsim__panel *panel;
    int kind;
    bool stored_codes; /* i8 pages in the raw view: their own codes are compared */
    double code_limit;
} page_job;

static void pack_row(const page_job *job, size_t i, size_t start, int32_t head, const double *row,
                     const float *stored) {
    const kvsim__plan *plan = job->pairing->plan;
    const kvsim__group *group = &job->pairing->groups[job->kind];
    kvsim__packed *packed = &job->panel->kinds[job->kind];
    const double inverse = 1.0 / packed->scale[i];
    float *strip = kvsim__strip(job->pairing, job->panel, job->kind, i) + start * KVSIM__STRIP + i % KVSIM__STRIP;
    const size_t channels = (size_t)group->head_dim;
    for (size_t d = 0; d < channels; d++) {
        strip[d * KVSIM__STRIP] = (float)(row[d] * inverse);
    }
    if (packed->codes != NULL) {
        int8_t *codes = packed->codes + i * packed->code_stride + start;
        uint64_t *signs = packed->signs + i * packed->words;
        const double code_scale = group->absmax[head] / job->code_limit;
        for (size_t d = 0; d < channels; d++) {
            codes[d] = job->stored_codes  ? (int8_t)stored[d]
                       : code_scale > 0.0 ? code_of(row[d], code_scale, job->code_limit)
                                          : 0;
            signs[(start + d) / 64] |= (uint64_t)(row[d] < 0.0) << (start + d) % 64;
        }
    }
    if (packed->actives != NULL) {
        uint64_t *actives = packed->actives + i * packed->words;
        const double tau =
            plan->jaccard_absolute ? plan->jaccard_tau : plan->jaccard_tau * sqrt(group->mean_square[head]);
        for (size_t d = 0; d < channels; d++) {
            const bool active = fabs(row[d]) > tau;
            actives[(start + d) / 64] |= (uint64_t)active << (start + d) % 64;
            packed->active_count[i] += active;
        }
    }
}

static void pack_page(const page_job *job, size_t i, kvsim__scratch *scratch) {
    const kvsim__group *group = &job->pairing->groups[job->kind];
    kvsim__packed *packed = &job->panel->kinds[job->kind];
    const kvsim__contents_map *map = job->panel->map;
    const size_t slot = i >= job->panel->count ? job->pairing->slots
                        : map != NULL          ? map->slots[map->chosen[i]]
                                               : job->panel->first + i;
    const uint32_t page = slot < job->pairing->slots ? group->pages[slot] : KVSIM__NONE;
    packed->norm[i] = 0.0;
    packed->scale[i] = 1.0;
    if (packed->codes != NULL) {
        memset(packed->signs + i * packed->words, 0, packed->words * sizeof(uint64_t));
    }
    if (packed->actives != NULL) {
        memset(packed->actives + i * packed->words, 0, packed->words * sizeof(uint64_t));
        packed->active_count[i] = 0;
    }
    if (page == KVSIM__NONE) {
        float *strip = kvsim__strip(job->pairing, job->panel, job->kind, i) + i % KVSIM__STRIP;
        for (size_t k = 0; k < group->elements; k++) {
            strip[k * KVSIM__STRIP] = 0.0f;
        }
        return;
    }
    packed->scale[i] = ldexp(1.0, map != NULL ? group->largest_exponent : group->exponents[slot]);
    double squares = 0.0;
    size_t start = 0;
    uint32_t source = page;
    kvsim__random draws = {map != NULL && map->redraws != NULL ? kvsim__random_seed(map->redraws[i], map->chosen[i])
                                                               : 0};
    kvsim__view_begin(group, source, scratch);
    for (int32_t t = 0; t < group->tokens; t++) {
        if (map != NULL) {
            const uint64_t later = map->redraws != NULL ? kvsim__random_below(&draws, map->ranks - map->chosen[i]) : 0;
            const uint64_t rank = kvsim__permute(map->chosen[i] + later, map->ranks, map->keys[i] + (uint64_t)t);
            source = group->pages[map->slots[rank]];
            kvsim__view_begin_moved(group, source, group->store->pages[page].position, scratch);
        }
        for (int32_t h = 0; h < group->heads; h++, start += (size_t)group->head_dim) {
            const double *row = kvsim__view_row(group, source, t, h, scratch);
            for (int32_t d = 0; d < group->head_dim; d++) {
                squares += row[d] * row[d];
            }
            pack_row(job, i, start, h, row, scratch->stored);
        }
    }
    packed->norm[i] = sqrt(squares);
}

typedef struct fill_job {
    const kvsim__pairing *pairing;
    kvsim__panel *panel;
} fill_job;

static void fill_strip(void *opaque, uint32_t strip) {
    const fill_job *job = opaque;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (!job->pairing->present[kind]) {
            continue;
        }
        const kvsim__group *group = &job->pairing->groups[kind];
        kvsim__scratch scratch = kvsim__scratch_at(group, job->panel->scratch + strip * job->panel->scratch_stride);
        page_job pages = {.pairing = job->pairing, .panel = job->panel, .kind = kind};
        pages.code_limit = job->pairing->plan->hamming_bits == 4 ? 7.0 : 127.0;
        if (group->count > 0 && !group->rotate && group->mean == NULL) {
            size_t any = 0;
            while (group->pages[any] == KVSIM__NONE) {
                any++;
            }
            const kvsim__format *format = kvsim__page_format(group->store, group->pages[any]);
            pages.stored_codes = job->pairing->plan->hamming_bits == 8 && format->dtype == KVSIM__I8 &&
                                 format->scale_mode != KVSIM_SCALE_TOKEN_HEAD;
        }
        for (size_t i = 0; i < KVSIM__STRIP; i++) {
            pack_page(&pages, (size_t)strip * KVSIM__STRIP + i, &scratch);
        }
    }
}

void kvsim__panel_fill(const kvsim__pairing *pairing, kvsim__panel *panel, size_t first, size_t count) {
    fill_job job = {pairing, panel};
    panel->first = first;
    panel->count = count;
    panel->map = NULL;
    kvsim__parallel_for(pairing->base, (uint32_t)((count + KVSIM__STRIP - 1) / KVSIM__STRIP), fill_strip, &job);
}

void kvsim__panel_fill_shuffled(const kvsim__pairing *pairing, kvsim__panel *panel, const kvsim__contents_map *map,
                                size_t count) {
    fill_job job = {pairing, panel};
    panel->first = 0;
    panel->count = count;
    panel->map = map;
    kvsim__parallel_for(pairing->base, (uint32_t)((count + KVSIM__STRIP - 1) / KVSIM__STRIP), fill_strip, &job);
}
