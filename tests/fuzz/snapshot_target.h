/**
 * What the fuzz targets of snapshots do with a file: open it, read its facts, add its pages, touch every byte of
 * them.
 */
#ifndef KVSIM_TESTS_SNAPSHOT_TARGET_H
#define KVSIM_TESTS_SNAPSHOT_TARGET_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "compute/context.h"
#include "snapshot/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** Kept from one input to the next, as a program would. */
static kvsim_ctx *target_ctx;

/** Read what may be read of the pages: the channels of all heads in the slots up to the fill. */
static inline unsigned touch_pages(const kvsim__store *store) {
    unsigned sum = 0;
    for (size_t i = 0; i < store->page_count; i++) {
        const kvsim__page *page = &store->pages[i];
        const kvsim__format *format = &store->formats[page->format];
        for (int32_t slot = 0; slot < page->fill; slot++) {
            for (int32_t head = 0; head < format->heads; head++) {
                const unsigned char *first = page->data + slot * format->token_stride + head * format->head_stride;
                sum += first[0] + first[(format->head_dim - 1) * format->channel_stride];
            }
        }
    }
    return sum;
}

static inline void read_snapshot(const void *bytes, size_t size) {
    if (target_ctx == NULL && kvsim_ctx_create(NULL, &target_ctx) != KVSIM_OK) {
        abort();
    }
    kvsim_snapshot *snapshot = NULL;
    const kvsim_status opened = kvsim__snapshot_open_memory(kvsim__ctx_base(target_ctx), bytes, size, &snapshot);
    if (opened != KVSIM_OK) {
        if (snapshot != NULL || kvsim_ctx_error(target_ctx)[0] == '\0') {
            abort();
        }
        return;
    }
    for (uint64_t i = 0; i < kvsim_snapshot_tensor_count(snapshot); i++) {
        kvsim_tensor tensor = KVSIM_TENSOR_INIT;
        kvsim_tensor found = KVSIM_TENSOR_INIT;
        const char *name = NULL;
        if (kvsim_snapshot_tensor_at(snapshot, i, &name, &tensor) != KVSIM_OK ||
            kvsim_snapshot_find(snapshot, name, &found) != KVSIM_OK || found.shape != tensor.shape) {
            abort();
        }
    }
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    const kvsim_status status = kvsim_snapshot_get_info(target_ctx, snapshot, &info);
    for (int32_t kind = KVSIM_KIND_KEY; status == KVSIM_OK && kind <= KVSIM_KIND_BOTH; kind++) {
        kvsim_snapshot_pages options = KVSIM_SNAPSHOT_PAGES_INIT;
        options.kind = kind;
        options.page_tokens = info.schema == KVSIM_SCHEMA_DUMP && kind == KVSIM_KIND_VALUE ? 3 : 0;
        if (kvsim_snapshot_add_pages(target_ctx, snapshot, &options) == KVSIM_OK) {
            static volatile unsigned sink;
            sink = touch_pages(&target_ctx->store);
            (void)sink;
        }
        kvsim_ctx_clear(target_ctx);
    }
    kvsim_snapshot_close(snapshot);
}

#endif
