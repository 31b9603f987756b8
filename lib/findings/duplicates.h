/** Exact duplicates: pages of identical stored bytes, found by XXH3-128 and confirmed byte by byte. */
#ifndef KVSIM_FINDINGS_DUPLICATES_H
#define KVSIM_FINDINGS_DUPLICATES_H

#include "../pages/resident.h"

/** Pages to look at: all heads of them, or one. */
typedef struct kvsim__contents {
    kvsim__base *base;
    const kvsim__store *store;
    const uint32_t *pages; /**< [slots], KVSIM__NONE where there is none */
    size_t slots;
    int32_t first_head, heads;
} kvsim__contents;

/**
 * For each slot the first slot with the same stored bytes, itself if there is none (KVSIM__NONE for absent pages).
 * The bytes of per-token-and-head scales belong to the page.
 * @param first [slots] filled
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__find_equal_pages(const kvsim__contents *contents, uint32_t *first);

/**
 * The same for pages that are on a device, which hashes and compares them.
 * @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_BACKEND
 */
kvsim_status kvsim__find_equal_on_device(const kvsim__resident *resident, int32_t first_head, int32_t heads,
                                         uint32_t *first);

/**
 * For each slot the first slot whose key page and value page are both the same.
 * @param keys,values [slots] from kvsim__find_equal_pages
 * @param first [slots] filled; KVSIM__NONE where either page is absent
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__find_equal_blocks(kvsim__base *base, size_t slots, const uint32_t *keys, const uint32_t *values,
                                      uint32_t *first);

/**
 * Count the slots that have an earlier slot of the same class, of another sequence if `sequences` is not NULL.
 * @param first [slots] as filled above
 * @param sequences [slots] or NULL
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__count_duplicates(kvsim__base *base, size_t slots, const uint32_t *first, const uint32_t *sequences,
                                     uint64_t *count);

#endif
