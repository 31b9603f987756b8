/**
 * What lossless coding would save on pages that stay: the order-0 entropy of each byte plane (a bound for any coder
 * that looks at bytes one by one), and what zstd reaches on byte planes in frames of their own. What goes below the
 * order-0 bound is repetition, not coding.
 */
#ifndef KVSIM_FINDINGS_LOSSLESS_H
#define KVSIM_FINDINGS_LOSSLESS_H

#include "../pages/store.h"

/** Byte planes of the widest element. */
#define KVSIM__MAX_PLANES 4

typedef struct kvsim__lossless {
    uint64_t pages, bytes;
    double order0_bytes;
    uint64_t compressed_bytes; /**< 0 if this build has no zstd */
    int32_t level;             /**< of zstd */
} kvsim__lossless;

/**
 * Measure the pages whose `kept` is not 0.
 * @param pages [slots] page numbers of one group
 * @param kept [slots]
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__measure_lossless(kvsim__base *base, const kvsim__store *store, const uint32_t *pages,
                                     const uint8_t *kept, size_t slots, kvsim__lossless *out);

/** Largest compressed size of `size` bytes; 0 if this build has no compressor. */
size_t kvsim__compress_bound(size_t size);

/** Bytes of `size` bytes compressed into a frame of their own, or 0 on failure. zstd takes its own memory. */
size_t kvsim__compress(const void *from, size_t size, void *to, size_t room);

/** Level of the compressor. */
#define KVSIM__COMPRESS_LEVEL 1

#endif
