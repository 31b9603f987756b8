/**
 * For what only the host can do: a store like another one in which pages that are on a device have, for a time, a copy
 * in host memory. Everything but where pages lie is the same, page numbers included.
 */
#ifndef KVSIM_PAGES_MIRROR_H
#define KVSIM_PAGES_MIRROR_H

#include "resident.h"

/** Zeros are none. */
typedef struct kvsim__mirror {
    kvsim__base *base;
    const kvsim__store *original;
    kvsim__store store; /**< pages and formats of its own, the rest is borrowed */
} kvsim__mirror;

/** The copies of one group. */
typedef struct kvsim__mirrored {
    unsigned char *memory;
    size_t slots, page_bytes;
} kvsim__mirrored;

/** @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__mirror_open(kvsim__base *base, const kvsim__store *original, kvsim__mirror *mirror);

void kvsim__mirror_close(kvsim__mirror *mirror);

/** Copy the pages of a group that are on the device. @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_BACKEND */
kvsim_status kvsim__mirror_load(kvsim__mirror *mirror, const kvsim__resident *resident, kvsim__mirrored *out);

/** Forget the copies; zeros are allowed. */
void kvsim__mirror_unload(kvsim__mirror *mirror, const uint32_t *pages, kvsim__mirrored *copies);

#endif
