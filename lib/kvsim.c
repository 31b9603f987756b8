/* The public entry points: check arguments, call one room, translate the status. */
#include <kvsim/kvsim.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "compute/context.h"
#include "pages/rope.h"

const char *kvsim_status_string(kvsim_status status) {
    switch (status) {
    case KVSIM_OK:
        return "ok";
    case KVSIM_E_INVALID:
        return "invalid argument";
    case KVSIM_E_NOMEM:
        return "out of memory";
    case KVSIM_E_UNSUPPORTED:
        return "unsupported";
    case KVSIM_E_CANCELLED:
        return "cancelled";
    case KVSIM_E_IO:
        return "input or output failed";
    case KVSIM_E_FORMAT:
        return "malformed file";
    case KVSIM_E_NOT_FOUND:
        return "not found";
    case KVSIM_E_BACKEND:
        return "backend not available";
    case KVSIM_E_INTERNAL:
        return "defect of kvsim";
    default:
        return "unknown status";
    }
}

const char *kvsim_version_string(void) {
    return KVSIM_VERSION_STRING;
}

/* For FFI: a struct of zeros but for its size. */
#define DEFINE_INIT(type)                                                                                              \
    void type##_init(type *out) {                                                                                      \
        memset(out, 0, sizeof *out);                                                                                   \
        out->struct_size = sizeof *out;                                                                                \
    }

DEFINE_INIT(kvsim_options)
DEFINE_INIT(kvsim_tensor)
DEFINE_INIT(kvsim_pages)
DEFINE_INIT(kvsim_rope)
DEFINE_INIT(kvsim_compute_options)
DEFINE_INIT(kvsim_report_options)

kvsim__base *kvsim__ctx_base(kvsim_ctx *ctx) {
    return &ctx->base;
}

const kvsim_rope *kvsim__ctx_rope(const kvsim_ctx *ctx) {
    return &ctx->rope;
}

static kvsim_status check_options(kvsim__base *base, const kvsim_options *options) {
    if (options->backend < KVSIM_BACKEND_AUTO || options->backend > KVSIM_BACKEND_CUDA) {
        return kvsim__fail(base, KVSIM_E_INVALID, "backend %d is none of KVSIM_BACKEND_*", options->backend);
    }
    if (options->device_ordinal < 0 || options->device_duty_percent > 100) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "device_ordinal %d must not be negative, device_duty_percent %u not above 100",
                           options->device_ordinal, options->device_duty_percent);
    }
    if (options->log_level < 0 || options->log_level > KVSIM_LOG_DEBUG) {
        return kvsim__fail(base, KVSIM_E_INVALID, "log_level %d is none of KVSIM_LOG_*", options->log_level);
    }
    if (options->allocator != NULL && (options->allocator->allocate == NULL || options->allocator->release == NULL)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "an allocator needs both allocate and release");
    }
    return KVSIM_OK;
}

kvsim_status kvsim_ctx_create(const kvsim_options *from, kvsim_ctx **out) {
    kvsim_options options;
    kvsim__base base;
    if (out == NULL) {
        return KVSIM_E_INVALID;
    }
    *out = NULL;
    kvsim__base_init(&base, NULL);
    kvsim_status status = kvsim__read_struct(&options, sizeof options, from, sizeof options);
    if (status != KVSIM_OK) {
        return status;
    }
    status = check_options(&base, &options);
    if (status == KVSIM_OK) {
        kvsim__base_init(&base, &options);
        kvsim_ctx *ctx = kvsim__allocate_zeroed(&base, 1, sizeof *ctx);
        if (ctx == NULL) {
            status = kvsim__fail_memory(&base, sizeof *ctx, "a context");
        } else {
            ctx->base = base;
            kvsim__store_init(&ctx->store);
            kvsim__accelerator_init(&ctx->accelerator, &ctx->base, &options);
            status = options.backend == KVSIM_BACKEND_CUDA ? kvsim__accelerator_open(&ctx->accelerator) : KVSIM_OK;
            if (status == KVSIM_OK) {
                *out = ctx;
            } else {
                memcpy(base.error, ctx->base.error, sizeof base.error);
                kvsim_ctx_destroy(ctx);
            }
        }
    }
    if (status != KVSIM_OK && options.error_buffer != NULL && options.error_buffer_size > 0) {
        (void)snprintf(options.error_buffer, (size_t)options.error_buffer_size, "%s", base.error);
    }
    return status;
}

void kvsim_ctx_destroy(kvsim_ctx *ctx) {
    if (ctx != NULL) {
        kvsim__base base = ctx->base;
        kvsim__store_clear(&base, &ctx->store);
        kvsim__accelerator_close(&ctx->accelerator);
        kvsim__release(&base, ctx, 1, sizeof *ctx);
    }
}

const char *kvsim_ctx_error(const kvsim_ctx *ctx) {
    return ctx != NULL ? ctx->base.error : "no context";
}

void kvsim_ctx_clear(kvsim_ctx *ctx) {
    if (ctx != NULL) {
        kvsim__store_clear(&ctx->base, &ctx->store);
    }
}

kvsim_status kvsim_add_pages(kvsim_ctx *ctx, const kvsim_pages *from) {
    kvsim_pages pages;
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    if (from == NULL) {
        return kvsim__fail(&ctx->base, KVSIM_E_INVALID, "pages is NULL");
    }
    kvsim_status status = kvsim__read_struct(&pages, sizeof pages, from, sizeof pages);
    if (status != KVSIM_OK) {
        return kvsim__fail(&ctx->base, status, "struct_size %u is not that of a kvsim_pages this library knows",
                           from->struct_size);
    }
    return kvsim__store_add(&ctx->base, &ctx->store, &ctx->accelerator, &pages);
}

uint64_t kvsim_page_count(const kvsim_ctx *ctx) {
    return ctx != NULL ? ctx->store.page_count : 0;
}

kvsim_status kvsim_set_rope(kvsim_ctx *ctx, const kvsim_rope *from) {
    kvsim_rope rope;
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim_status status = kvsim__read_struct(&rope, sizeof rope, from, sizeof rope);
    if (status != KVSIM_OK) {
        return kvsim__fail(&ctx->base, status, "struct_size %u is not that of a kvsim_rope this library knows",
                           from->struct_size);
    }
    status = kvsim__rope_check(&ctx->base, &rope);
    if (status == KVSIM_OK) {
        ctx->rope = rope;
    }
    return status;
}

kvsim_status kvsim_compute(kvsim_ctx *ctx, const kvsim_compute_options *options, kvsim_result **out) {
    kvsim__plan plan;
    if (out != NULL) {
        *out = NULL;
    }
    if (ctx == NULL || out == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim_status status = kvsim__read_plan(&ctx->base, options, &plan);
    return status == KVSIM_OK ? kvsim__compute(ctx, &plan, out) : status;
}

/* Copy a column out as the caller's header knows it: the smaller of the two sizes. */
static void give_column(const kvsim_column *column, kvsim_column *out) {
    const uint32_t theirs = out->struct_size;
    memcpy(out, column, theirs < sizeof *column ? theirs : sizeof *column);
    out->struct_size = theirs;
}

kvsim_status kvsim_result_column_at(const kvsim_result *result, uint32_t index, kvsim_column *out) {
    kvsim_column column;
    if (result == NULL || out == NULL || out->struct_size < sizeof *out ||
        !kvsim__result_column(result, index, &column)) {
        return KVSIM_E_INVALID;
    }
    give_column(&column, out);
    return KVSIM_OK;
}

kvsim_status kvsim_result_column(const kvsim_result *result, const char *table, const char *name, kvsim_column *out) {
    if (result == NULL || table == NULL || name == NULL || out == NULL || out->struct_size < sizeof *out) {
        return KVSIM_E_INVALID;
    }
    kvsim_column column;
    for (uint32_t i = 0; kvsim__result_column(result, i, &column); i++) {
        if (strcmp(column.table, table) == 0 && strcmp(column.name, name) == 0) {
            give_column(&column, out);
            return KVSIM_OK;
        }
    }
    return KVSIM_E_NOT_FOUND;
}

uint32_t kvsim_result_column_count(const kvsim_result *result) {
    return result != NULL ? kvsim__result_column_count() : 0;
}

static int write_to_stream(void *user, const void *data, size_t size) {
    return fwrite(data, 1, size, user) == size ? 0 : -1;
}

/* A file with the context whose error text it sets. */
typedef struct file_sink {
    kvsim__base *base;
    kvsim__file file;
} file_sink;

static int write_to_file(void *user, const void *data, size_t size) {
    file_sink *sink = user;
    return kvsim__file_write(sink->base, &sink->file, data, size) == KVSIM_OK ? 0 : -1;
}

static kvsim_status report_to_path(kvsim__base *base, const kvsim_result *result, uint32_t indent, const char *path) {
    file_sink sink = {.base = base};
    kvsim_status status = kvsim__file_begin(base, path, &sink.file);
    if (status != KVSIM_OK) {
        return status;
    }
    return kvsim__write_json(result, indent, write_to_file, &sink) ? kvsim__file_commit(base, &sink.file) : KVSIM_E_IO;
}

kvsim_status kvsim_report(kvsim_ctx *ctx, const kvsim_result *result, const kvsim_report_options *from) {
    kvsim_report_options options;
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = &ctx->base;
    if (result == NULL || from == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "a report needs a result and options that say where it goes");
    }
    kvsim_status status = kvsim__read_struct(&options, sizeof options, from, sizeof options);
    if (status != KVSIM_OK) {
        return kvsim__fail(base, status, "struct_size %u is not that of a kvsim_report_options this library knows",
                           from->struct_size);
    }
    if ((options.write != NULL) + (options.file != NULL) + (options.path != NULL) != 1 || options.indent > 16) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "set exactly one of write, file and path, and an indent of at most 16 spaces");
    }
    if (options.path != NULL) {
        return report_to_path(base, result, options.indent, options.path);
    }
    if (options.write != NULL) {
        return kvsim__write_json(result, options.indent, options.write, options.write_user)
                   ? KVSIM_OK
                   : kvsim__fail(base, KVSIM_E_IO, "the write callback refused the report");
    }
    errno = 0;
    if (!kvsim__write_json(result, options.indent, write_to_stream, options.file) || fflush(options.file) != 0) {
        return kvsim__fail_system(base, errno, "the stream", "write");
    }
    return KVSIM_OK;
}
