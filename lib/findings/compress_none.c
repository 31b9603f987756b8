/* For builds without zstd: the order-0 bound is reported alone. */
#include "lossless.h"

size_t kvsim__compress_bound(size_t size) {
    (void)size;
    return 0;
}

size_t kvsim__compress(const void *from, size_t size, void *to, size_t room) {
    (void)from;
    (void)size;
    (void)to;
    (void)room;
    return 0;
}
