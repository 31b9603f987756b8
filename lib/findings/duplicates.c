#include "duplicates.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* A hash table of slots: entries hold slot + 1, or 0. */
typedef struct table {
    uint32_t *entries;
    size_t capacity;
} table;

typedef struct hashing {
    const kvsim__contents *contents;
    XXH128_hash_t *hashes;
} hashing;

/* Slots that are hashed by one task. */
enum { RUN = 64 };

/* One row's bytes: directly if they lie together, else element by element. */
static void hash_row(XXH3_state_t *state, const kvsim__format *format, const unsigned char *row) {
    const size_t size = kvsim__dtype_size(format->dtype);
    if (format->channel_stride == (int64_t)size) {
        (void)XXH3_128bits_update(state, row, (size_t)format->head_dim * size);
        return;
    }
    for (int32_t d = 0; d < format->head_dim; d++) {
        (void)XXH3_128bits_update(state, row + d * format->channel_stride, size);
    }
}

static XXH128_hash_t hash_page(const kvsim__contents *contents, uint32_t number) {
    const kvsim__page *page = &contents->store->pages[number];
    const kvsim__format *format = &contents->store->formats[page->format];
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    for (int32_t t = 0; t < format->tokens; t++) {
        for (int32_t h = contents->first_head; h < contents->first_head + contents->heads; h++) {
            hash_row(&state, format, page->data + t * format->token_stride + h * format->head_stride);
            if (page->token_scales != NULL) {
                (void)XXH3_128bits_update(&state, &page->token_scales[(size_t)t * (size_t)format->heads + (size_t)h],
                                          sizeof(float));
            }
        }
    }
    return XXH3_128bits_digest(&state);
}

static void hash_run(void *opaque, uint32_t run) {
    const hashing *job = opaque;
    const size_t end = (size_t)(run + 1) * RUN;
    for (size_t slot = (size_t)run * RUN; slot < end && slot < job->contents->slots; slot++) {
        if (job->contents->pages[slot] != KVSIM__NONE) {
            job->hashes[slot] = hash_page(job->contents, job->contents->pages[slot]);
        }
    }
}

static bool same_row(const kvsim__format *a, const unsigned char *x, const kvsim__format *b, const unsigned char *y) {
    const size_t size = kvsim__dtype_size(a->dtype);
    if (a->channel_stride == (int64_t)size && b->channel_stride == (int64_t)size) {
        return memcmp(x, y, (size_t)a->head_dim * size) == 0;
    }
    for (int32_t d = 0; d < a->head_dim; d++) {
        if (memcmp(x + d * a->channel_stride, y + d * b->channel_stride, size) != 0) {
            return false;
        }
    }
    return true;
}

static bool same_page(const kvsim__contents *contents, uint32_t first, uint32_t second) {
    const kvsim__page *x = &contents->store->pages[first], *y = &contents->store->pages[second];
    const kvsim__format *a = &contents->store->formats[x->format], *b = &contents->store->formats[y->format];
    for (int32_t t = 0; t < a->tokens; t++) {
        for (int32_t h = contents->first_head; h < contents->first_head + contents->heads; h++) {
            const size_t scale = (size_t)t * (size_t)a->heads + (size_t)h;
            if (!same_row(a, x->data + t * a->token_stride + h * a->head_stride, b,
                          y->data + t * b->token_stride + h * b->head_stride) ||
                (x->token_scales != NULL &&
                 memcmp(&x->token_scales[scale], &y->token_scales[scale], sizeof(float)) != 0)) {
                return false;
            }
        }
    }
    return true;
}

static kvsim_status table_open(kvsim__base *base, size_t slots, table *out) {
    out->capacity = 64;
    while (out->capacity < slots * 2) {
        out->capacity *= 2;
    }
    out->entries = kvsim__allocate_zeroed(base, out->capacity, sizeof *out->entries);
    return out->entries != NULL ? KVSIM_OK
                                : kvsim__fail_memory(base, out->capacity * sizeof *out->entries, "a hash table");
}

static void table_close(kvsim__base *base, table *out) {
    kvsim__release(base, out->entries, out->capacity, sizeof *out->entries);
}

kvsim_status kvsim__find_equal_pages(const kvsim__contents *contents, uint32_t *first) {
    kvsim__base *base = contents->base;
    const size_t slots = contents->slots;
    hashing job = {.contents = contents, .hashes = kvsim__allocate(base, slots, sizeof(XXH128_hash_t))};
    table seen = {0};
    kvsim_status status = job.hashes != NULL
                              ? table_open(base, slots, &seen)
                              : kvsim__fail_memory(base, slots * sizeof(XXH128_hash_t), "hashes of pages");
    if (status == KVSIM_OK) {
        kvsim__parallel_for(base, (uint32_t)((slots + RUN - 1) / RUN), hash_run, &job);
        for (size_t slot = 0; slot < slots; slot++) {
            first[slot] = KVSIM__NONE;
            if (contents->pages[slot] == KVSIM__NONE) {
                continue;
            }
            size_t at = (size_t)job.hashes[slot].low64 & (seen.capacity - 1);
            while (seen.entries[at] != 0) {
                const uint32_t other = seen.entries[at] - 1;
                /* Equal hashes make a candidate; the bytes decide. */
                if (XXH128_isEqual(job.hashes[other], job.hashes[slot]) &&
                    same_page(contents, contents->pages[other], contents->pages[slot])) {
                    first[slot] = other;
                    break;
                }
                at = (at + 1) & (seen.capacity - 1);
            }
            if (first[slot] == KVSIM__NONE) {
                seen.entries[at] = (uint32_t)slot + 1;
                first[slot] = (uint32_t)slot;
            }
        }
    }
    table_close(base, &seen);
    kvsim__release(base, job.hashes, slots, sizeof(XXH128_hash_t));
    return status;
}

kvsim_status kvsim__find_equal_blocks(kvsim__base *base, size_t slots, const uint32_t *keys, const uint32_t *values,
                                      uint32_t *first) {
    table seen = {0};
    kvsim_status status = table_open(base, slots, &seen);
    for (size_t slot = 0; slot < slots && status == KVSIM_OK; slot++) {
        first[slot] = KVSIM__NONE;
        if (keys[slot] == KVSIM__NONE || values[slot] == KVSIM__NONE) {
            continue;
        }
        const uint64_t both = (uint64_t)keys[slot] << 32 | values[slot];
        size_t at = (size_t)XXH3_64bits(&both, sizeof both) & (seen.capacity - 1);
        while (seen.entries[at] != 0) {
            const uint32_t other = seen.entries[at] - 1;
            if (keys[other] == keys[slot] && values[other] == values[slot]) {
                first[slot] = other;
                break;
            }
            at = (at + 1) & (seen.capacity - 1);
        }
        if (first[slot] == KVSIM__NONE) {
            seen.entries[at] = (uint32_t)slot + 1;
            first[slot] = (uint32_t)slot;
        }
    }
    table_close(base, &seen);
    return status;
}

kvsim_status kvsim__count_duplicates(kvsim__base *base, size_t slots, const uint32_t *first, const uint32_t *sequences,
                                     uint64_t *count) {
    /* For each class a slot of a second sequence, if one has been seen: with the class's first slot it answers
       whether any earlier page belongs to another sequence. */
    uint32_t *second = NULL;
    *count = 0;
    if (sequences != NULL) {
        second = kvsim__allocate(base, slots, sizeof *second);
        if (second == NULL) {
            return kvsim__fail_memory(base, slots * sizeof *second, "duplicates");
        }
        for (size_t slot = 0; slot < slots; slot++) {
            second[slot] = KVSIM__NONE;
        }
    }
    for (size_t slot = 0; slot < slots; slot++) {
        bool duplicate = first[slot] != KVSIM__NONE && first[slot] != slot;
        if (duplicate && sequences != NULL) {
            const uint32_t head = first[slot];
            const bool other_than_first = sequences[head] != sequences[slot];
            duplicate = other_than_first || second[head] != KVSIM__NONE;
            if (other_than_first && second[head] == KVSIM__NONE) {
                second[head] = (uint32_t)slot;
            }
        }
        *count += duplicate;
    }
    kvsim__release(base, second, slots, sizeof *second);
    return KVSIM_OK;
}
