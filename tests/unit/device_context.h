/** Contexts that compute on the twin of a device, and tensors in its memory. */
#ifndef KVSIM_TESTS_DEVICE_CONTEXT_H
#define KVSIM_TESTS_DEVICE_CONTEXT_H

#include "backend/twin.h"
#include "compute/on_device.h"
#include "core_tools.h"

#include <stdio.h>

enum { LINES = 32, REASON_BYTES = 512 };

/** What a context has logged. */
typedef struct lines {
    char text[LINES][300];
    int32_t levels[LINES];
    int count;
} lines;

static inline void keep_line(void *user, int32_t level, const char *message) {
    lines *log = user;
    ck_assert_int_lt(log->count, LINES);
    (void)snprintf(log->text[log->count], sizeof log->text[0], "%s", message);
    log->levels[log->count++] = level;
}

/** Why a context could not be made. */
static inline char *reason_text(void) {
    static char text[REASON_BYTES];
    return text;
}

static inline kvsim_options options_of(int32_t backend, lines *log) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = backend;
    options.threads = 2;
    options.error_buffer = reason_text();
    options.error_buffer_size = REASON_BYTES;
    options.log = log != NULL ? keep_line : NULL;
    options.log_user = log;
    options.log_level = KVSIM_LOG_INFO;
    return options;
}

static inline kvsim_ctx *open_context(int32_t backend, lines *log) {
    const kvsim_options options = options_of(backend, log);
    kvsim_ctx *ctx = NULL;
    ck_assert_msg(kvsim_ctx_create(&options, &ctx) == KVSIM_OK, "%s", reason_text());
    return ctx;
}

static inline void check_and_destroy(kvsim_ctx *ctx) {
    kvsim_ctx_destroy(ctx);
    ck_assert_msg(kvsim_twin()->misuses == 0, "%s", kvsim_twin()->misuse);
    ck_assert_uint_eq(kvsim_twin()->opened, 0);
    ck_assert_uint_eq(kvsim_twin()->left_at_close, 0);
}

static inline void *to_device(const void *from, size_t bytes) {
    void *memory = kvsim_twin_engine_allocate(0, bytes);
    ck_assert_ptr_nonnull(memory);
    ck_assert_int_eq(kvsim_twin_copy(memory, from, bytes), 0);
    return memory;
}

/** A tensor with the same elements, which are on the device. */
static inline kvsim_tensor far_tensor(const kvsim_tensor *from, const void *memory_begin, void *far_begin) {
    kvsim_tensor tensor = *from;
    tensor.device_type = KVSIM_DEVICE_CUDA;
    tensor.data =
        (unsigned char *)far_begin + ((const unsigned char *)from->data - (const unsigned char *)memory_begin);
    return tensor;
}

#endif
