/* Which pages take part, and which are compared with each other. */
#include "on_device.h"

enum { STATE_RUNS = 64 };

typedef struct state_job {
    kvsim__work *at;
    float *rows;
    size_t row_length;
} state_job;

static void find_states(void *opaque, uint32_t run) {
    const state_job *job = opaque;
    const kvsim__store *store = job->at->store;
    float *row = job->rows + run * job->row_length;
    const size_t end = store->page_count * (run + 1) / STATE_RUNS;
    for (size_t i = store->page_count * run / STATE_RUNS; i < end; i++) {
        const uint32_t page = (uint32_t)i;
        const bool opaque_bytes = kvsim__page_format(store, page)->dtype == KVSIM__OPAQUE;
        const bool on_device = kvsim__page_format(store, page)->on_device; /* then the device looks, later */
        job->at->states[i] = !kvsim__page_is_full(store, page)                      ? KVSIM__STATE_PARTIAL
                             : opaque_bytes                                         ? KVSIM__STATE_OPAQUE
                             : on_device || kvsim__page_is_finite(store, page, row) ? KVSIM__STATE_COMPARED
                                                                                    : KVSIM__STATE_NON_FINITE;
    }
}

kvsim_status kvsim__classify_pages(kvsim__work *at) {
    state_job job = {.at = at, .row_length = 16};
    for (size_t i = 0; i < at->store->format_count; i++) {
        const size_t length = (size_t)at->store->formats[i].head_dim;
        job.row_length =
            at->store->formats[i].dtype != KVSIM__OPAQUE && length > job.row_length ? length : job.row_length;
    }
    at->states = kvsim__allocate(at->base, at->store->page_count, 1);
    job.rows = kvsim__allocate(at->base, STATE_RUNS * job.row_length, sizeof(float));
    kvsim_status status = KVSIM_OK;
    if (at->states == NULL || job.rows == NULL) {
        status = kvsim__fail_memory(at->base, at->store->page_count, "the states of pages");
    } else {
        kvsim__parallel_for(at->base, STATE_RUNS, find_states, &job);
    }
    kvsim__release(at->base, job.rows, STATE_RUNS * job.row_length, sizeof(float));
    return status == KVSIM_OK ? kvsim__classify_on_device(at) : status;
}

static void count_page(kvsim__work *at, kvsim__combination *group, uint32_t page) {
    const uint8_t state = at->states[page];
    group->references += at->store->pages[page].references;
    group->physical++;
    group->partial += state == KVSIM__STATE_PARTIAL;
    group->non_finite += state == KVSIM__STATE_NON_FINITE;
    group->opaque += state == KVSIM__STATE_OPAQUE;
    group->compared += state == KVSIM__STATE_COMPARED;
}

/* Order of groups in the result: by layer, then keys before values, then first come. */
static bool comes_before(const kvsim__combination *a, const kvsim__combination *b) {
    return a->layer != b->layer ? a->layer < b->layer
           : a->kind != b->kind ? a->kind < b->kind
                                : a->any_page < b->any_page;
}

kvsim_status kvsim__collect_groups(kvsim__work *at) {
    size_t last = 0;
    for (size_t i = 0; i < at->store->page_count; i++) {
        const kvsim__page *page = &at->store->pages[i];
        const uint32_t class_id = at->store->formats[page->format].class_id;
        size_t found = at->combination_count;
        for (size_t c = 0; c < at->combination_count; c++) {
            /* Neighbours are of one group more often than not: begin with the last one. */
            const size_t candidate = (last + c) % at->combination_count;
            const kvsim__combination *group = &at->combinations[candidate];
            if (group->layer == page->layer && group->kind == page->kind && group->class_id == class_id) {
                found = candidate;
                break;
            }
        }
        if (found == at->combination_count) {
            kvsim_status status = kvsim__grow(at->base, (void **)&at->combinations, &at->combination_capacity,
                                              found + 1, sizeof *at->combinations);
            if (status != KVSIM_OK) {
                return status;
            }
            at->combinations[at->combination_count++] = (kvsim__combination){
                .layer = page->layer, .kind = page->kind, .class_id = class_id, .any_page = (uint32_t)i};
        }
        count_page(at, &at->combinations[found], (uint32_t)i);
        last = found;
    }
    for (size_t i = 1; i < at->combination_count; i++) {
        const kvsim__combination moved = at->combinations[i];
        size_t to = i;
        for (; to > 0 && comes_before(&moved, &at->combinations[to - 1]); to--) {
            at->combinations[to] = at->combinations[to - 1];
        }
        at->combinations[to] = moved;
    }
    return KVSIM_OK;
}

bool kvsim__in_group(const kvsim__work *at, const kvsim__combination *group, uint32_t page) {
    return group != NULL && page != KVSIM__NONE &&
           at->store->formats[at->store->pages[page].format].class_id == group->class_id;
}

/* The value group that holds the partner of the first key page that has one. */
kvsim__combination *kvsim__find_partner(kvsim__work *at, const kvsim__combination *keys) {
    for (size_t i = keys->any_page; i < at->store->page_count; i++) {
        const kvsim__page *page = &at->store->pages[i];
        if (page->layer != keys->layer || page->kind != KVSIM_KIND_KEY || !kvsim__in_group(at, keys, (uint32_t)i)) {
            continue;
        }
        const uint32_t value = kvsim__store_find_page(at->store, page->identity, keys->layer, KVSIM_KIND_VALUE);
        for (size_t c = 0; c < at->combination_count && value != KVSIM__NONE; c++) {
            kvsim__combination *group = &at->combinations[c];
            if (group->layer == keys->layer && group->kind == KVSIM_KIND_VALUE && kvsim__in_group(at, group, value)) {
                return group->paired ? NULL : group;
            }
        }
    }
    return NULL;
}
