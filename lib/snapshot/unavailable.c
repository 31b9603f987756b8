/* The face of lib/snapshot in a build without jansson (KVSIM_JSON=OFF): the library shows the same names in every
 * build, and these say what is missing. */
#include <kvsim/snapshot.h>

#include "base/base.h"

static kvsim_status refuse(kvsim_ctx *ctx) {
    return ctx == NULL ? KVSIM_E_INVALID
                       : kvsim__fail(kvsim__ctx_base(ctx), KVSIM_E_UNSUPPORTED,
                                     "this build of libkvsim reads and writes no files: build it with KVSIM_JSON=ON, "
                                     "which needs jansson");
}

kvsim_status kvsim_snapshot_open(kvsim_ctx *ctx, const char *path, kvsim_snapshot **out) {
    (void)path;
    if (out != NULL) {
        *out = NULL;
    }
    return refuse(ctx);
}

kvsim_status kvsim_dump_write(kvsim_ctx *ctx, const char *path, const kvsim_dump *dump) {
    (void)path;
    (void)dump;
    return refuse(ctx);
}

kvsim_status kvsim_rope_read_config(kvsim_ctx *ctx, const char *path, kvsim_rope *out) {
    (void)path;
    (void)out;
    return refuse(ctx);
}

kvsim_status kvsim_snapshot_check_rope(kvsim_ctx *ctx, const kvsim_snapshot *snapshot, double *residual,
                                       int64_t *pairs) {
    (void)snapshot;
    (void)residual;
    (void)pairs;
    return refuse(ctx);
}

kvsim_status kvsim_snapshot_get_info(kvsim_ctx *ctx, const kvsim_snapshot *snapshot, kvsim_snapshot_info *info) {
    (void)snapshot;
    (void)info;
    return refuse(ctx);
}

kvsim_status kvsim_snapshot_add_pages(kvsim_ctx *ctx, const kvsim_snapshot *snapshot,
                                      const kvsim_snapshot_pages *options) {
    (void)snapshot;
    (void)options;
    return refuse(ctx);
}

/* No snapshot can be open, so what follows is only ever given NULL. */

void kvsim_snapshot_close(kvsim_snapshot *snapshot) {
    (void)snapshot;
}

uint64_t kvsim_snapshot_tensor_count(const kvsim_snapshot *snapshot) {
    (void)snapshot;
    return 0;
}

kvsim_status kvsim_snapshot_tensor_at(const kvsim_snapshot *snapshot, uint64_t index, const char **name,
                                      kvsim_tensor *tensor) {
    (void)snapshot;
    (void)index;
    (void)name;
    (void)tensor;
    return KVSIM_E_INVALID;
}

kvsim_status kvsim_snapshot_find(const kvsim_snapshot *snapshot, const char *name, kvsim_tensor *tensor) {
    (void)snapshot;
    (void)name;
    (void)tensor;
    return KVSIM_E_INVALID;
}

const char *kvsim_snapshot_metadata(const kvsim_snapshot *snapshot, const char *key) {
    (void)snapshot;
    (void)key;
    return NULL;
}
