/**
 * The pages of a context: what they are, where they lie, who refers to them. Contents are not looked at here.
 */
#ifndef KVSIM_PAGES_STORE_H
#define KVSIM_PAGES_STORE_H

#include "../backend/accelerator.h"
#include "format.h"

/** No page, no identity. */
#define KVSIM__NONE UINT32_MAX

/** A physical block at one time: what its pages of all layers and kinds have in common. */
typedef struct kvsim__identity {
    uint64_t source;
    uint64_t generation;
    int64_t block;
} kvsim__identity;

typedef struct kvsim__page {
    const unsigned char *data; /**< element (0, 0, 0) */
    const float *token_scales; /**< [N, H] for KVSIM_SCALE_TOKEN_HEAD, owned by the store; else NULL */
    int64_t sequence;          /**< of the first reference */
    int64_t position;          /**< absolute position of slot 0 */
    uint32_t identity;
    uint32_t format;
    uint32_t references; /**< logical pages that are this page */
    int32_t fill;        /**< valid slots, 1..N */
    uint16_t layer;
    uint8_t kind; /**< KVSIM_KIND_KEY or _VALUE */
} kvsim__page;

/** Memory that the store owns: a copy of pages, or scales. */
typedef struct kvsim__chunk {
    void *memory;
    size_t bytes;
} kvsim__chunk;

/** Hash index: slots hold an item number + 1, or 0. Capacity is a power of two, at most half full. */
typedef struct kvsim__index {
    uint32_t *slots;
    size_t capacity;
    size_t count;
} kvsim__index;

typedef struct kvsim__store {
    kvsim__page *pages; /**< in arrival order */
    size_t page_count, page_capacity;
    kvsim__identity *identities; /**< in arrival order: order of first reference */
    size_t identity_count, identity_capacity;
    kvsim__format *formats;
    size_t format_count, format_capacity;
    kvsim__chunk *chunks;
    size_t chunk_count, chunk_capacity;
    kvsim__index identity_index;        /**< by source, block, generation */
    kvsim__index page_index;            /**< by identity, layer, kind */
    kvsim__device_memory device_memory; /**< copies of pages on the device */
    size_t device_pages;                /**< pages that are on the device */
    uint64_t next_source;               /**< for calls that name none; counts down from the top of the range */
} kvsim__store;

void kvsim__store_init(kvsim__store *store);

/** Forget all pages and give the memory back. */
void kvsim__store_clear(kvsim__base *base, kvsim__store *store);

/** Number of the identity, or KVSIM__NONE. */
uint32_t kvsim__store_find_identity(const kvsim__store *store, const kvsim__identity *identity);

/** Number of the page, or KVSIM__NONE. */
uint32_t kvsim__store_find_page(const kvsim__store *store, uint32_t identity, int32_t layer, int32_t kind);

/** Make room, so that the two calls below cannot fail for that many more items. */
kvsim_status kvsim__store_reserve(kvsim__base *base, kvsim__store *store, size_t identities, size_t pages);

/** Number of the identity, which is made if it is new. Room must have been reserved. */
uint32_t kvsim__store_put_identity(kvsim__store *store, const kvsim__identity *identity);

/** Add a page that is not there yet; returns its number. Room must have been reserved. */
uint32_t kvsim__store_put_page(kvsim__store *store, const kvsim__page *page);

/** True if pages of the two formats may be compared: all is equal but the strides. */
bool kvsim__same_class(const kvsim__format *a, const kvsim__format *b);

/**
 * Number of the format in `out`: an equal one that is there already, or a new one, whose `scales` are copied.
 * `class_id` is set here.
 */
kvsim_status kvsim__store_put_format(kvsim__base *base, kvsim__store *store, const kvsim__format *format,
                                     uint32_t *out);

/** Memory that lives as long as the pages. */
kvsim_status kvsim__store_allocate(kvsim__base *base, kvsim__store *store, size_t bytes, const char *what, void **out);

/** Add the pages of a descriptor that has been read; see kvsim_add_pages. Adds all or nothing. */
kvsim_status kvsim__store_add(kvsim__base *base, kvsim__store *store, kvsim__accelerator *accelerator,
                              const kvsim_pages *pages);

/** Format of a page. */
static inline const kvsim__format *kvsim__page_format(const kvsim__store *store, uint32_t page) {
    return &store->formats[store->pages[page].format];
}

/** True if every slot is valid. */
static inline bool kvsim__page_is_full(const kvsim__store *store, uint32_t page) {
    return store->pages[page].fill == kvsim__page_format(store, page)->page_tokens;
}

#endif
