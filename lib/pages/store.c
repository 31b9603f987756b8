#include "store.h"

#include <string.h>

void kvsim__store_init(kvsim__store *store) {
    memset(store, 0, sizeof *store);
    store->next_source = UINT64_MAX;
}

void kvsim__store_clear(kvsim__base *base, kvsim__store *store) {
    for (size_t i = 0; i < store->chunk_count; i++) {
        kvsim__release(base, store->chunks[i].memory, store->chunks[i].bytes, 1);
    }
    kvsim__device_give_all(&store->device_memory);
    kvsim__release(base, store->chunks, store->chunk_capacity, sizeof *store->chunks);
    kvsim__release(base, store->pages, store->page_capacity, sizeof *store->pages);
    kvsim__release(base, store->identities, store->identity_capacity, sizeof *store->identities);
    kvsim__release(base, store->formats, store->format_capacity, sizeof *store->formats);
    kvsim__release(base, store->identity_index.slots, store->identity_index.capacity, sizeof(uint32_t));
    kvsim__release(base, store->page_index.slots, store->page_index.capacity, sizeof(uint32_t));
    kvsim__store_init(store);
}

/* Finaliser of MurmurHash3 (public domain, A. Appleby): every input bit reaches every output bit. */
static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    x ^= x >> 33;
    return x;
}

static uint64_t hash_identity(const kvsim__identity *identity) {
    return mix(mix(mix(identity->source) ^ (uint64_t)identity->block) ^ identity->generation);
}

static uint64_t hash_page(uint32_t identity, uint32_t layer, uint32_t kind) {
    return mix((uint64_t)identity << 32 | layer << 2 | kind);
}

static uint64_t hash_item(const kvsim__store *store, const kvsim__index *index, uint32_t item) {
    if (index == &store->identity_index) {
        return hash_identity(&store->identities[item]);
    }
    const kvsim__page *page = &store->pages[item];
    return hash_page(page->identity, page->layer, page->kind);
}

static void index_insert(kvsim__index *index, uint64_t hash, uint32_t item) {
    size_t slot = (size_t)hash & (index->capacity - 1);
    while (index->slots[slot] != 0) {
        slot = (slot + 1) & (index->capacity - 1);
    }
    index->slots[slot] = item + 1;
}

static kvsim_status index_reserve(kvsim__base *base, const kvsim__store *store, kvsim__index *index, size_t more) {
    const size_t needed = (index->count + more) * 2;
    if (needed <= index->capacity) {
        return KVSIM_OK;
    }
    kvsim__index grown = {.capacity = 64, .count = index->count};
    while (grown.capacity < needed) {
        grown.capacity *= 2;
    }
    grown.slots = kvsim__allocate_zeroed(base, grown.capacity, sizeof(uint32_t));
    if (grown.slots == NULL) {
        return kvsim__fail_memory(base, grown.capacity * sizeof(uint32_t), "the index of pages");
    }
    for (size_t i = 0; i < index->count; i++) {
        index_insert(&grown, hash_item(store, index, (uint32_t)i), (uint32_t)i);
    }
    kvsim__release(base, index->slots, index->capacity, sizeof(uint32_t));
    *index = grown;
    return KVSIM_OK;
}

uint32_t kvsim__store_find_identity(const kvsim__store *store, const kvsim__identity *identity) {
    const kvsim__index *index = &store->identity_index;
    if (index->capacity == 0) {
        return KVSIM__NONE;
    }
    for (size_t slot = (size_t)hash_identity(identity) & (index->capacity - 1); index->slots[slot] != 0;
         slot = (slot + 1) & (index->capacity - 1)) {
        const kvsim__identity *other = &store->identities[index->slots[slot] - 1];
        if (other->source == identity->source && other->block == identity->block &&
            other->generation == identity->generation) {
            return index->slots[slot] - 1;
        }
    }
    return KVSIM__NONE;
}

uint32_t kvsim__store_find_page(const kvsim__store *store, uint32_t identity, int32_t layer, int32_t kind) {
    const kvsim__index *index = &store->page_index;
    if (index->capacity == 0) {
        return KVSIM__NONE;
    }
    for (size_t slot = (size_t)hash_page(identity, (uint32_t)layer, (uint32_t)kind) & (index->capacity - 1);
         index->slots[slot] != 0; slot = (slot + 1) & (index->capacity - 1)) {
        const kvsim__page *page = &store->pages[index->slots[slot] - 1];
        if (page->identity == identity && page->layer == layer && page->kind == kind) {
            return index->slots[slot] - 1;
        }
    }
    return KVSIM__NONE;
}

kvsim_status kvsim__store_reserve(kvsim__base *base, kvsim__store *store, size_t identities, size_t pages) {
    if (store->page_count + pages >= KVSIM__NONE || store->identity_count + identities >= KVSIM__NONE) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "more than %u pages in one context", KVSIM__NONE - 1);
    }
    kvsim_status status = kvsim__grow(base, (void **)&store->identities, &store->identity_capacity,
                                      store->identity_count + identities, sizeof *store->identities);
    if (status == KVSIM_OK) {
        status = kvsim__grow(base, (void **)&store->pages, &store->page_capacity, store->page_count + pages,
                             sizeof *store->pages);
    }
    if (status == KVSIM_OK) {
        status = index_reserve(base, store, &store->identity_index, identities);
    }
    if (status == KVSIM_OK) {
        status = index_reserve(base, store, &store->page_index, pages);
    }
    return status;
}

uint32_t kvsim__store_put_identity(kvsim__store *store, const kvsim__identity *identity) {
    const uint32_t found = kvsim__store_find_identity(store, identity);
    if (found != KVSIM__NONE) {
        return found;
    }
    const uint32_t item = (uint32_t)store->identity_count++;
    store->identities[item] = *identity;
    index_insert(&store->identity_index, hash_identity(identity), item);
    store->identity_index.count++;
    return item;
}

uint32_t kvsim__store_put_page(kvsim__store *store, const kvsim__page *page) {
    const uint32_t item = (uint32_t)store->page_count++;
    store->pages[item] = *page;
    store->device_pages += store->formats[page->format].on_device;
    index_insert(&store->page_index, hash_page(page->identity, page->layer, page->kind), item);
    store->page_index.count++;
    return item;
}

static size_t scale_count(const kvsim__format *format) {
    return format->scale_mode == KVSIM_SCALE_TENSOR ? 1
           : format->scale_mode == KVSIM_SCALE_HEAD ? (size_t)format->heads
                                                    : 0;
}

bool kvsim__same_class(const kvsim__format *a, const kvsim__format *b) {
    return a->dtype == b->dtype && a->tokens == b->tokens && a->heads == b->heads && a->head_dim == b->head_dim &&
           a->page_tokens == b->page_tokens && a->scale_mode == b->scale_mode &&
           (scale_count(a) == 0 || memcmp(a->scales, b->scales, scale_count(a) * sizeof(float)) == 0);
}

kvsim_status kvsim__store_put_format(kvsim__base *base, kvsim__store *store, const kvsim__format *format,
                                     uint32_t *out) {
    uint32_t class_id = KVSIM__NONE;
    float *scales = NULL;
    for (size_t i = 0; i < store->format_count; i++) {
        const kvsim__format *other = &store->formats[i];
        if (kvsim__same_class(other, format)) {
            class_id = other->class_id;
            scales = other->scales;
            if (other->token_stride == format->token_stride && other->head_stride == format->head_stride &&
                other->channel_stride == format->channel_stride && other->on_device == format->on_device) {
                *out = (uint32_t)i;
                return KVSIM_OK;
            }
        }
    }
    kvsim_status status = kvsim__grow(base, (void **)&store->formats, &store->format_capacity, store->format_count + 1,
                                      sizeof *store->formats);
    if (status != KVSIM_OK) {
        return status;
    }
    if (class_id == KVSIM__NONE) {
        class_id = (uint32_t)store->format_count;
        const size_t bytes = scale_count(format) * sizeof(float);
        if (bytes > 0) {
            status = kvsim__store_allocate(base, store, bytes, "scales", (void **)&scales);
            if (status != KVSIM_OK) {
                return status;
            }
            memcpy(scales, format->scales, bytes);
        }
    }
    *out = (uint32_t)store->format_count++;
    store->formats[*out] = *format;
    store->formats[*out].class_id = class_id;
    store->formats[*out].scales = scales;
    return KVSIM_OK;
}

kvsim_status kvsim__store_allocate(kvsim__base *base, kvsim__store *store, size_t bytes, const char *what, void **out) {
    kvsim_status status = kvsim__grow(base, (void **)&store->chunks, &store->chunk_capacity, store->chunk_count + 1,
                                      sizeof *store->chunks);
    if (status != KVSIM_OK) {
        return status;
    }
    *out = kvsim__allocate(base, bytes, 1);
    if (*out == NULL) {
        return kvsim__fail_memory(base, bytes, what);
    }
    store->chunks[store->chunk_count++] = (kvsim__chunk){*out, bytes};
    return KVSIM_OK;
}
