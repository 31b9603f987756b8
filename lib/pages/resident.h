/**
 * Pages as the kernels of a device see them: descriptors, formats and scales are uploaded, and so are the elements of
 * pages that lie in host memory; those that are on the device are read where they lie.
 */
#ifndef KVSIM_PAGES_RESIDENT_H
#define KVSIM_PAGES_RESIDENT_H

#include "store.h"

/** Pages of one class of formats on a device; zeros are none. */
typedef struct kvsim__resident {
    kvsim__accelerator *accelerator;
    const kvsim__store *store;
    const uint32_t *pages;     /**< [slots], KVSIM__NONE where there is none; borrowed */
    kvsim__device_group group; /**< all heads, in the raw view */
    kvsim__device_memory memory;
    size_t page_bytes;  /**< of elements */
    uint64_t own_bytes; /**< of all elements, wherever they came from */
    bool any_on_device; /**< some pages were on the device already */
} kvsim__resident;

/**
 * Bring pages to the device.
 * @param pages [slots] of one class, at least one of them not KVSIM__NONE; must live as long as `out`
 * @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_BACKEND
 */
kvsim_status kvsim__resident_open(kvsim__accelerator *accelerator, const kvsim__store *store, const uint32_t *pages,
                                  size_t slots, kvsim__resident *out);

/** Give back what was uploaded. */
void kvsim__resident_close(kvsim__resident *resident);

/** True if any of the pages is on the device. */
bool kvsim__any_on_device(const kvsim__store *store, const uint32_t *pages, size_t slots);

/** Format of a page on the device as the kernels know it; its scales are left out. */
kvsim__device_format kvsim__device_format_of(const kvsim__format *format);

/**
 * Copy the elements of slots [first, first + count) to the host, row-major without gaps; slots without a page are left
 * alone. The copy goes through device memory of a bounded size.
 * @param to [count, page_bytes]
 */
kvsim_status kvsim__resident_fetch(const kvsim__resident *resident, size_t first, size_t count, unsigned char *to);

#endif
