#include "on_device.h"

#include <string.h>

#include "../findings/duplicates.h"

/* Pages that are looked at together. */
enum { STATE_PAGES = 65536 };

/* Flags whose findings need the bytes of pages on the host. */
#define HOST_FLAGS (KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_LEDGER | KVSIM_COMPUTE_DISTANCES)

/* ---- states ---- */

typedef struct classifying {
    kvsim__work *at;
    uint32_t *pages; /* [STATE_PAGES] of one class */
    int32_t *fills;
    uint8_t *finite;
} classifying;

static kvsim_status classify_resident(const classifying *job, const kvsim__resident *resident) {
    kvsim__accelerator *accelerator = resident->accelerator;
    const uint32_t count = resident->group.slots;
    kvsim__device_memory memory = {.accelerator = accelerator};
    void *fills, *finite = NULL;
    for (uint32_t i = 0; i < count; i++) {
        job->fills[i] = resident->group.tokens;
    }
    kvsim_status status =
        kvsim__device_take_copy(&memory, job->fills, count * sizeof *job->fills, "the states of pages", &fills);
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&memory, count, "the states of pages", &finite);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_check(accelerator,
                                     accelerator->table->classify(accelerator->device, &resident->group, fills, finite),
                                     "looking for infinities");
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, job->finite, finite, count);
    }
    kvsim__device_give_all(&memory);
    return status;
}

static kvsim_status classify_pages(const classifying *job, size_t count) {
    kvsim__resident resident;
    if (count == 0) {
        return KVSIM_OK;
    }
    kvsim_status status = kvsim__resident_open(job->at->device, &job->at->ctx->store, job->pages, count, &resident);
    if (status == KVSIM_OK) {
        status = classify_resident(job, &resident);
    }
    for (size_t i = 0; i < count && status == KVSIM_OK; i++) {
        if (job->finite[i] == 0) {
            job->at->states[job->pages[i]] = KVSIM__STATE_NON_FINITE;
        }
    }
    kvsim__resident_close(&resident);
    return status;
}

/* All pages of one class. */
static kvsim_status classify_class(const classifying *job, uint32_t class_id) {
    const kvsim__store *store = &job->at->ctx->store;
    kvsim_status status = KVSIM_OK;
    size_t count = 0;
    for (size_t i = 0; i < store->page_count && status == KVSIM_OK; i++) {
        const kvsim__format *format = kvsim__page_format(store, (uint32_t)i);
        if (format->on_device && format->class_id == class_id && job->at->states[i] == KVSIM__STATE_COMPARED) {
            job->pages[count++] = (uint32_t)i;
        }
        if (count == STATE_PAGES) {
            status = classify_pages(job, count);
            count = 0;
        }
    }
    return status == KVSIM_OK ? classify_pages(job, count) : status;
}

kvsim_status kvsim__classify_on_device(kvsim__work *at) {
    const kvsim__store *store = &at->ctx->store;
    if (at->device == NULL || at->ctx->store.device_pages == 0) {
        return KVSIM_OK;
    }
    const size_t room = store->page_count < STATE_PAGES ? store->page_count : STATE_PAGES;
    classifying job = {.at = at,
                       .pages = kvsim__allocate(at->base, room, sizeof(uint32_t)),
                       .fills = kvsim__allocate(at->base, room, sizeof(int32_t)),
                       .finite = kvsim__allocate(at->base, room, 1)};
    kvsim_status status = job.pages != NULL && job.fills != NULL && job.finite != NULL
                              ? KVSIM_OK
                              : kvsim__fail_memory(at->base, room * sizeof(uint32_t), "the states of pages");
    for (size_t f = 0; f < store->format_count && status == KVSIM_OK; f++) {
        if (store->formats[f].class_id == f) { /* a class has the number of its first format */
            status = classify_class(&job, (uint32_t)f);
        }
    }
    kvsim__release(at->base, job.pages, room, sizeof(uint32_t));
    kvsim__release(at->base, job.fills, room, sizeof(int32_t));
    kvsim__release(at->base, job.finite, room, 1);
    return status;
}

/* ---- pages ---- */

kvsim_status kvsim__open_mirror(kvsim__work *at) {
    if (at->device == NULL || at->ctx->store.device_pages == 0 || (at->plan->flags & HOST_FLAGS) == 0) {
        return KVSIM_OK;
    }
    const kvsim_status status = kvsim__mirror_open(at->base, &at->ctx->store, &at->mirror);
    if (status == KVSIM_OK) {
        at->store = &at->mirror.store;
    }
    return status;
}

static bool has_pages(const kvsim__unit *unit, int kind) {
    for (size_t slot = 0; slot < unit->slots; slot++) {
        if (unit->pages[kind][slot] != KVSIM__NONE) {
            return true;
        }
    }
    return false;
}

kvsim_status kvsim__unit_to_device(kvsim__work *at, kvsim__unit *unit) {
    const kvsim__store *store = &at->ctx->store;
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK && at->device != NULL; kind++) {
        const uint32_t *pages = unit->pages[kind];
        const bool far_pages = kvsim__any_on_device(store, pages, unit->slots);
        if (!has_pages(unit, kind) || (kvsim__is_opaque(at, unit->kinds[kind]) && !far_pages)) {
            continue;
        }
        status = kvsim__resident_open(at->device, store, pages, unit->slots, &unit->resident[kind]);
        if (status == KVSIM_OK && far_pages && at->mirror.base != NULL) {
            status = kvsim__mirror_load(&at->mirror, &unit->resident[kind], &unit->mirrored[kind]);
        }
    }
    return status;
}

void kvsim__unit_leave_device(kvsim__work *at, kvsim__unit *unit) {
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__mirror_unload(&at->mirror, unit->pages[kind], &unit->mirrored[kind]);
        kvsim__resident_close(&unit->resident[kind]);
    }
}

/* ---- comparing ---- */

/* Finaliser of MurmurHash3 (public domain, A. Appleby). */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
    return x ^ (x >> 33);
}

/*
 * Classes of pages that are equal in a view which turns pages back by their positions: of equal bytes, and at one
 * position. In other views those of equal bytes.
 */
static kvsim_status find_classes(kvsim__work *at, const kvsim__unit *unit, int kind, bool rotate, uint32_t *classes) {
    const uint32_t *first = unit->first[kind];
    const kvsim__page *pages = at->ctx->store.pages;
    if (!rotate) {
        memcpy(classes, first, unit->slots * sizeof *classes);
        return KVSIM_OK;
    }
    size_t capacity = 64;
    while (capacity < unit->slots * 2) {
        capacity *= 2;
    }
    uint32_t *entries = kvsim__allocate_zeroed(at->base, capacity, sizeof *entries);
    if (entries == NULL) {
        return kvsim__fail_memory(at->base, capacity * sizeof *entries, "pages that are equal");
    }
    for (size_t slot = 0; slot < unit->slots; slot++) {
        classes[slot] = KVSIM__NONE;
        if (first[slot] == KVSIM__NONE) {
            continue;
        }
        const int64_t position = pages[unit->pages[kind][slot]].position;
        size_t entry = (size_t)mix(mix((uint64_t)position) ^ first[slot]) & (capacity - 1);
        for (; entries[entry] != 0 && classes[slot] == KVSIM__NONE; entry = (entry + 1) & (capacity - 1)) {
            const uint32_t other = entries[entry] - 1;
            if (first[other] == first[slot] && pages[unit->pages[kind][other]].position == position) {
                classes[slot] = other;
            }
        }
        if (classes[slot] == KVSIM__NONE) {
            entries[entry] = (uint32_t)slot + 1;
            classes[slot] = (uint32_t)slot;
        }
    }
    kvsim__release(at->base, entries, capacity, sizeof *entries);
    return KVSIM_OK;
}

/* What kernels know of the slots of each kind. */
typedef struct slot_arrays {
    uint32_t *classes[KVSIM__LANES];
    kvsim__slot_facts *facts[KVSIM__KINDS];
} slot_arrays;

static void fill_facts(const kvsim__unit *unit, int kind, slot_arrays *arrays) {
    for (size_t slot = 0; slot < unit->slots; slot++) {
        const uint32_t own = arrays->classes[kind][slot], block = arrays->classes[KVSIM__LANE_BLOCK][slot];
        arrays->facts[kind][slot] = (kvsim__slot_facts){
            .class_id = own,
            .sequence = unit->sequence[slot],
            .family = unit->family[slot],
            .stratum = unit->stratum[slot],
            /* A page (or block) with an equal one before it represents nothing, unless pairs are filtered. */
            .listed = own == slot || block == slot,
        };
    }
}

static kvsim_status find_facts(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                               kvsim__device_view *const views[KVSIM__KINDS], slot_arrays *arrays) {
    kvsim_status status = KVSIM_OK;
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        arrays->classes[lane] = kvsim__allocate(at->base, unit->slots, sizeof(uint32_t));
        if (arrays->classes[lane] == NULL) {
            return kvsim__fail_memory(at->base, unit->slots * sizeof(uint32_t), "pages that are equal");
        }
    }
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        status = find_classes(at, unit, kind, pairing->groups[kind].rotate, arrays->classes[kind]);
    }
    if (status == KVSIM_OK) {
        status = kvsim__find_equal_blocks(at->base, unit->slots, arrays->classes[KVSIM__KEY],
                                          arrays->classes[KVSIM__VALUE], arrays->classes[KVSIM__LANE_BLOCK]);
    }
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (views[kind] == NULL) {
            continue;
        }
        arrays->facts[kind] = kvsim__allocate(at->base, unit->slots, sizeof(kvsim__slot_facts));
        if (arrays->facts[kind] == NULL) {
            return kvsim__fail_memory(at->base, unit->slots * sizeof(kvsim__slot_facts), "pages that are equal");
        }
        fill_facts(unit, kind, arrays);
    }
    return status;
}

kvsim_status kvsim__compare_on_device(kvsim__work *at, const kvsim__unit *unit, kvsim__pairing *pairing,
                                      kvsim__device_view *const views[KVSIM__KINDS]) {
    slot_arrays arrays = {{NULL}, {NULL}};
    kvsim__device_pairing job = {.pairing = pairing};
    kvsim_status status = find_facts(at, unit, pairing, views, &arrays);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        job.views[kind] = views[kind];
        job.facts[kind] = arrays.facts[kind];
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_pairs_run(&job);
    }
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        kvsim__release(at->base, arrays.classes[lane], unit->slots, sizeof(uint32_t));
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__release(at->base, arrays.facts[kind], unit->slots, sizeof(kvsim__slot_facts));
    }
    return status;
}
