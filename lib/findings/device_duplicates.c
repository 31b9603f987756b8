/* Exact duplicates of pages on a device: it hashes the pages and compares those of equal hashes byte by byte. */
#include <string.h>

#include "duplicates.h"

/* A search while it runs. Rounds are repeated for pages whose hash is that of a page with other bytes. */
typedef struct search {
    const kvsim__resident *resident;
    kvsim__base *base;
    kvsim__device_group group;
    size_t slots;
    uint64_t (*hashes)[2]; /* [slots] */
    uint32_t *pending;     /* slots whose class is not known yet, in order */
    size_t pending_count;
    uint32_t *entries; /* hash table of slot + 1 of the pages that begin a class in this round, or 0 */
    size_t capacity;
    uint32_t (*pairs)[2]; /* [slots] a page, and the one with the same hash that came before */
    uint8_t *equal;       /* [slots] */
    kvsim__device_memory memory;
    void *hashes_there, *pairs_there, *equal_there;
} search;

static kvsim_status search_open(search *at) {
    at->capacity = 64;
    while (at->capacity < at->slots * 2) {
        at->capacity *= 2;
    }
    at->hashes = kvsim__allocate(at->base, at->slots, sizeof *at->hashes);
    at->pending = kvsim__allocate(at->base, at->slots, sizeof *at->pending);
    at->entries = kvsim__allocate(at->base, at->capacity, sizeof *at->entries);
    at->pairs = kvsim__allocate(at->base, at->slots, sizeof *at->pairs);
    at->equal = kvsim__allocate(at->base, at->slots, 1);
    if (at->hashes == NULL || at->pending == NULL || at->entries == NULL || at->pairs == NULL || at->equal == NULL) {
        return kvsim__fail_memory(at->base, at->slots * sizeof *at->hashes, "hashes of pages");
    }
    kvsim_status status =
        kvsim__device_take(&at->memory, at->slots * sizeof *at->hashes, "hashes of pages", &at->hashes_there);
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&at->memory, at->slots * sizeof *at->pairs, "hashes of pages", &at->pairs_there);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&at->memory, at->slots, "hashes of pages", &at->equal_there);
    }
    return status;
}

static void search_close(search *at) {
    kvsim__release(at->base, at->hashes, at->slots, sizeof *at->hashes);
    kvsim__release(at->base, at->pending, at->slots, sizeof *at->pending);
    kvsim__release(at->base, at->entries, at->capacity, sizeof *at->entries);
    kvsim__release(at->base, at->pairs, at->slots, sizeof *at->pairs);
    kvsim__release(at->base, at->equal, at->slots, 1);
    kvsim__device_give_all(&at->memory);
}

static kvsim_status hash_pages(search *at) {
    kvsim__accelerator *accelerator = at->resident->accelerator;
    const kvsim_status status = kvsim__device_check(
        accelerator, accelerator->table->hash(accelerator->device, &at->group, at->hashes_there), "hashing pages");
    return status == KVSIM_OK
               ? kvsim__device_download(accelerator, at->hashes, at->hashes_there, at->slots * sizeof *at->hashes)
               : status;
}

/* The slot that began a class of the same hash in this round; a slot without one begins it. */
static uint32_t find_candidate(search *at, uint32_t slot) {
    size_t entry = (size_t)at->hashes[slot][0] & (at->capacity - 1);
    for (; at->entries[entry] != 0; entry = (entry + 1) & (at->capacity - 1)) {
        const uint32_t other = at->entries[entry] - 1;
        if (at->hashes[other][0] == at->hashes[slot][0] && at->hashes[other][1] == at->hashes[slot][1]) {
            return other;
        }
    }
    at->entries[entry] = slot + 1;
    return slot;
}

static kvsim_status compare_pages(search *at, size_t count) {
    kvsim__accelerator *accelerator = at->resident->accelerator;
    kvsim_status status = kvsim__device_upload(accelerator, at->pairs_there, at->pairs, count * sizeof *at->pairs);
    if (status == KVSIM_OK && count > 0) {
        status = kvsim__device_check(accelerator,
                                     accelerator->table->equal(accelerator->device, &at->group,
                                                               (const uint32_t(*)[2])at->pairs_there, (uint32_t)count,
                                                               at->equal_there),
                                     "comparing bytes of pages");
    }
    return status == KVSIM_OK ? kvsim__device_download(accelerator, at->equal, at->equal_there, count) : status;
}

/* Give the pending slots their classes; those whose bytes are not those of the candidate stay. */
static kvsim_status run_round(search *at, uint32_t *first) {
    size_t count = 0, left = 0;
    memset(at->entries, 0, at->capacity * sizeof *at->entries);
    for (size_t i = 0; i < at->pending_count; i++) {
        const uint32_t slot = at->pending[i], candidate = find_candidate(at, slot);
        first[slot] = candidate;
        if (candidate != slot) {
            at->pairs[count][0] = slot;
            at->pairs[count++][1] = candidate;
        }
    }
    const kvsim_status status = compare_pages(at, count);
    for (size_t i = 0; i < count && status == KVSIM_OK; i++) {
        if (at->equal[i] == 0) {
            at->pending[left++] = at->pairs[i][0];
        }
    }
    at->pending_count = left;
    return status;
}

kvsim_status kvsim__find_equal_on_device(const kvsim__resident *resident, int32_t first_head, int32_t heads,
                                         uint32_t *first) {
    search at = {.resident = resident,
                 .base = resident->accelerator->base,
                 .group = resident->group,
                 .slots = resident->group.slots,
                 .memory = {.accelerator = resident->accelerator}};
    at.group.first_head = first_head;
    at.group.heads = heads;
    kvsim_status status = search_open(&at);
    if (status == KVSIM_OK) {
        status = hash_pages(&at);
    }
    for (size_t slot = 0; slot < at.slots && status == KVSIM_OK; slot++) {
        first[slot] = KVSIM__NONE;
        if (resident->pages[slot] != KVSIM__NONE) {
            at.pending[at.pending_count++] = (uint32_t)slot;
        }
    }
    while (status == KVSIM_OK && at.pending_count > 0) {
        status = run_round(&at, first);
    }
    search_close(&at);
    return status;
}
