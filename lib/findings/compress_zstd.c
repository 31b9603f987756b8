#include <zstd.h>

#include "lossless.h"

size_t kvsim__compress_bound(size_t size) {
    return ZSTD_compressBound(size);
}

size_t kvsim__compress(const void *from, size_t size, void *to, size_t room) {
    const size_t written = ZSTD_compress(to, room, from, size, KVSIM__COMPRESS_LEVEL);
    return ZSTD_isError(written) ? 0 : written;
}
