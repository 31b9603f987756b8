/*
 * Every call of the backend table fails in turn: once, from then on, with the loss of the device, and late; and every
 * allocation of the host during a compute on a device. Nothing is lost, the status is right, a context works on or says
 * that its device is lost, `auto` goes on with the CPU where pages lie on the host. The device is the twin.
 */
#include "backend/twin.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A sanitizer makes a sweep take ten times as long: there every seventh call fails in turn. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IS_SLOW 1
#endif
#endif
#if defined(IS_SLOW) || defined(__SANITIZE_ADDRESS__)
enum { STEP = 7 };
#else
enum { STEP = 1 };
#endif

static int passed, failed;
static bool sound = true;

static void check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void check(bool good, const char *format, ...) {
    if (good) {
        return;
    }
    sound = false;
    va_list arguments;
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)printf("\n");
}

static void end_test(void) {
    passed += sound;
    failed += !sound;
    sound = true;
}

/* ---- the host's memory ---- */

/* The library runs on one thread here. */
typedef struct counted {
    long long outstanding, calls, fail_at;
    bool and_all_after;
} counted;

static void *allocate(void *user, size_t size, size_t alignment) {
    counted *to = user;
    to->calls++;
    if (to->fail_at != 0 && (to->calls == to->fail_at || (to->and_all_after && to->calls > to->fail_at))) {
        return NULL;
    }
    void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    to->outstanding += memory != NULL ? (long long)size : 0;
    return memory;
}

static void release(void *user, void *memory, size_t size) {
    ((counted *)user)->outstanding -= (long long)size;
    free(memory);
}

/* ---- a report in memory ---- */

enum { REPORT_BYTES = 1 << 20 };

typedef struct report {
    char text[REPORT_BYTES];
    size_t length;
} report;

static report expected, found;

static int append(void *user, const void *data, size_t size) {
    report *to = user;
    if (size > sizeof to->text - to->length) {
        return 1;
    }
    memcpy(to->text + to->length, data, size);
    to->length += size;
    return 0;
}

static bool same_report(void) {
    return found.length == expected.length && memcmp(found.text, expected.text, found.length) == 0;
}

/* ---- what is run ---- */

enum { B = 16, N = 2, H = 2, D = 4, ELEMENTS = B * N * H * D };

/* How pages are handed in, and what is asked of them. */
typedef struct scenario {
    const char *name;
    int32_t backend;
    bool on_device, borrowed, halves; /* halves: bf16 in place of i8 with scales of slots */
    uint32_t views, flags;
} scenario;

#define FINDINGS                                                                                                       \
    (KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA |              \
     KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER)

static const scenario scenarios[] = {
    {"cuda, pages on the host", KVSIM_BACKEND_CUDA, false, false, true, KVSIM_VIEW_RAW, KVSIM_COMPUTE_ASSIGNMENTS},
    {"cuda, pages on the host, all findings", KVSIM_BACKEND_CUDA, false, true, true, KVSIM_VIEW_DEROTATED_CENTERED,
     FINDINGS},
    {"cuda, borrowed pages on the device", KVSIM_BACKEND_CUDA, true, true, true, KVSIM_VIEW_DEROTATED,
     KVSIM_COMPUTE_ASSIGNMENTS},
    {"cuda, copied pages on the device, all findings", KVSIM_BACKEND_CUDA, true, false, false, KVSIM_VIEW_CENTERED,
     FINDINGS},
    {"auto, borrowed pages on the device", KVSIM_BACKEND_AUTO, true, true, false, KVSIM_VIEW_RAW,
     KVSIM_COMPUTE_PER_HEAD},
    {"auto, pages on the host", KVSIM_BACKEND_AUTO, false, true, true, KVSIM_VIEW_DEROTATED, KVSIM_COMPUTE_ASSIGNMENTS},
    {"auto, pages on the host, all findings", KVSIM_BACKEND_AUTO, false, false, false, KVSIM_VIEW_CENTERED, FINDINGS},
};

static uint16_t halves[2][ELEMENTS];
static int8_t bytes[2][ELEMENTS];
static float scales[B * N * H];
static void *far_elements[2], *far_bytes[2], *far_scales;
static int64_t sequences[B];
static const int64_t shape[4] = {B, N, H, D}, scale_shape[3] = {B, N, H};

static void *move(const void *from, size_t size) {
    void *memory = kvsim_twin_engine_allocate(0, size);
    if (memory == NULL || kvsim_twin_copy(memory, from, size) != 0) {
        (void)fprintf(stderr, "no memory for the pages\n");
        exit(EXIT_FAILURE);
    }
    return memory;
}

static void fill_pages(void) {
    uint32_t state = 1;
    for (size_t i = 0; i < 2 * ELEMENTS; i++) {
        const size_t page = i / (N * H * D) % B;
        state = state * 1664525u + 1013904223u;
        /* Some pages equal, some near, some negative: every part of a compute has work. */
        const uint16_t half = (uint16_t)(0x3f00u | (state >> 25) | (state >> 9 & 1) << 15);
        uint16_t *to = (uint16_t *)halves + i;
        *to = page % 4 == 1 ? to[-N * H * D] : page % 4 == 3 ? to[-N * H * D] ^ (uint16_t)(i % 5 == 0) : half;
        ((int8_t *)bytes)[i] = page % 4 == 1 ? ((int8_t *)bytes)[i - N * H * D] : (int8_t)(state >> 24);
    }
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        scales[i] = 0.5f;
    }
    for (int64_t i = 0; i < B; i++) {
        sequences[i] = i % 5;
    }
    for (int kind = 0; kind < 2; kind++) {
        far_elements[kind] = move(halves[kind], sizeof halves[kind]);
        far_bytes[kind] = move(bytes[kind], sizeof bytes[kind]);
    }
    far_scales = move(scales, sizeof scales);
}

static kvsim_tensor tensor_of(const scenario *of, int kind) {
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.data = of->halves ? (of->on_device ? far_elements[kind] : halves[kind])
                             : (of->on_device ? far_bytes[kind] : bytes[kind]);
    tensor.dtype_code = of->halves ? KVSIM_DTYPE_BFLOAT : KVSIM_DTYPE_INT;
    tensor.dtype_bits = of->halves ? 16 : 8;
    tensor.device_type = of->on_device ? KVSIM_DEVICE_CUDA : KVSIM_DEVICE_CPU;
    tensor.shape = shape;
    tensor.ndim = 4;
    return tensor;
}

static kvsim_status add(kvsim_ctx *ctx, const scenario *of) {
    const kvsim_tensor keys = tensor_of(of, 0), values = tensor_of(of, 1);
    kvsim_tensor scale = KVSIM_TENSOR_INIT;
    scale.data = of->on_device ? far_scales : scales;
    scale.dtype_code = KVSIM_DTYPE_FLOAT;
    scale.dtype_bits = 32;
    scale.device_type = keys.device_type;
    scale.shape = scale_shape;
    scale.ndim = 3;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_BOTH;
    pages.tensor = &keys;
    pages.value_tensor = &values;
    pages.scale = of->halves ? NULL : &scale;
    pages.scale_mode = of->halves ? KVSIM_SCALE_NONE : KVSIM_SCALE_TOKEN_HEAD;
    pages.flags = of->borrowed ? KVSIM_PAGES_BORROW : 0;
    pages.page_count = B;
    pages.sequences = sequences;
    return kvsim_add_pages(ctx, &pages);
}

static kvsim_status compute(kvsim_ctx *ctx, const scenario *of, report *out) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = of->views;
    options.flags = of->flags;
    options.null_repetitions = 1;
    options.resamples = 2;
    kvsim_result *result = NULL;
    kvsim_status status = kvsim_compute(ctx, &options, &result);
    check((result != NULL) == (status == KVSIM_OK), "%s: a result without success, or the other way round", of->name);
    if (status == KVSIM_OK) {
        kvsim_report_options report_options = KVSIM_REPORT_OPTIONS_INIT;
        report_options.write = append;
        report_options.write_user = out;
        out->length = 0;
        status = kvsim_report(ctx, result, &report_options);
    }
    kvsim_result_destroy(result);
    return status;
}

static kvsim_status create(counted *counts, int32_t backend, kvsim_ctx **out) {
    const kvsim_allocator allocator = {allocate, release, counts};
    const kvsim_rope rope = {.struct_size = sizeof rope, .style = KVSIM_ROPE_HALF};
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.threads = 1;
    options.backend = backend;
    options.allocator = &allocator;
    *out = NULL;
    const kvsim_status status = kvsim_ctx_create(&options, out);
    return status == KVSIM_OK ? kvsim_set_rope(*out, &rope) : status;
}

/* ---- sweeps ---- */

/* How calls fail. */
static const struct failure {
    const char *name;
    int32_t status;
    uint32_t mode;
} failures[] = {
    {"out of memory once", KVSIM_E_NOMEM, KVSIM__TWIN_ONCE},
    {"out of memory from then on", KVSIM_E_NOMEM, KVSIM__TWIN_ALWAYS},
    {"an error once", KVSIM_E_BACKEND, KVSIM__TWIN_ONCE},
    {"the device is lost", KVSIM_E_BACKEND, KVSIM__TWIN_LOST},
    {"the device is lost unnoticed", KVSIM_E_BACKEND, KVSIM__TWIN_LATE},
};

static void let_fail(uint64_t fail_at, const struct failure *how) {
    kvsim__twin *twin = kvsim_twin();
    twin->calls = 0;
    twin->fail_at = fail_at;
    twin->fail_status = how != NULL ? how->status : KVSIM_OK;
    twin->fail_mode = how != NULL ? how->mode : KVSIM__TWIN_ONCE;
}

static void check_end(const char *name, uint64_t fail_at, const counted *counts) {
    const kvsim__twin *twin = kvsim_twin();
    check(twin->opened == 0 && twin->blocks == 0 && twin->bytes == 0,
          "%s, %llu: %llu devices are open, %llu blocks lost", name, (unsigned long long)fail_at,
          (unsigned long long)twin->opened, (unsigned long long)twin->blocks);
    check(twin->misuses == 0, "%s, %llu: misuse: %s", name, (unsigned long long)fail_at, twin->misuse);
    check(counts->outstanding == 0, "%s, %llu: %lld bytes of the host are lost", name, (unsigned long long)fail_at,
          counts->outstanding);
}

/* What must be true after a failure that nothing hides: status, text, and that the context works on or owns up. */
static void check_failure(kvsim_ctx *ctx, const scenario *of, const struct failure *how, uint64_t fail_at,
                          kvsim_status status, bool added) {
    const bool lost = how->mode == KVSIM__TWIN_LOST || how->mode == KVSIM__TWIN_LATE;
    /* What happens to nobody's harm needs no report; opening a device knows one kind of failure only. */
    check(status == how->status || (status == KVSIM_E_BACKEND && how->status == KVSIM_E_NOMEM) ||
              (status == KVSIM_OK && same_report()),
          "%s, %s, call %llu: status %d (%s)", of->name, how->name, (unsigned long long)fail_at, status,
          kvsim_ctx_error(ctx));
    check(status == KVSIM_OK || (kvsim_ctx_error(ctx)[0] != '\0' && strchr(kvsim_ctx_error(ctx), '\n') == NULL),
          "%s, %s, call %llu: no text", of->name, how->name, (unsigned long long)fail_at);
    let_fail(0, NULL);
    kvsim_status later = added ? KVSIM_OK : add(ctx, of);
    later = later == KVSIM_OK ? compute(ctx, of, &found) : later;
    check((later == KVSIM_OK && same_report()) ||
              (lost && later == KVSIM_E_BACKEND && strstr(kvsim_ctx_error(ctx), "lost") != NULL),
          "%s, %s, after call %llu: status %d (%s)", of->name, how->name, (unsigned long long)fail_at, later,
          kvsim_ctx_error(ctx));
}

/* Run with the N-th call failing. False when there was no N-th call. */
static bool run_failing(const scenario *of, const struct failure *how, uint64_t fail_at) {
    counted counts = {0};
    kvsim_ctx *ctx = NULL;
    const bool hidden = of->backend == KVSIM_BACKEND_AUTO && !of->on_device;
    let_fail(fail_at, how);
    kvsim_status status = create(&counts, of->backend, &ctx);
    const bool created = status == KVSIM_OK;
    status = created ? add(ctx, of) : status;
    const bool added = status == KVSIM_OK;
    status = added ? compute(ctx, of, &found) : status;
    const bool reached = kvsim_twin()->calls >= fail_at;
    if (hidden || !reached) {
        /* The CPU's figures may differ from the device's in the last digits: only success is asked of a fallback. */
        check(status == KVSIM_OK && (reached || same_report()), "%s, %s, call %llu: status %d (%s)", of->name,
              how->name, (unsigned long long)fail_at, status, created ? kvsim_ctx_error(ctx) : "no context");
        check(kvsim_twin()->blocks == 0 || (of->on_device && !of->borrowed),
              "%s: the device holds memory between computes", of->name);
    } else if (created) {
        check_failure(ctx, of, how, fail_at, status, added);
    } else {
        check(status == KVSIM_E_BACKEND || status == how->status, "%s, %s, call %llu: status %d", of->name, how->name,
              (unsigned long long)fail_at, status);
    }
    let_fail(0, NULL);
    kvsim_ctx_destroy(ctx);
    check_end(of->name, fail_at, &counts);
    end_test();
    return reached;
}

/* Run with the N-th allocation of the host failing. False when there was no N-th allocation. */
static bool run_out_of_memory(const scenario *of, long long fail_at, bool and_all_after) {
    counted counts = {.fail_at = fail_at, .and_all_after = and_all_after};
    kvsim_ctx *ctx = NULL;
    let_fail(0, NULL);
    kvsim_status status = create(&counts, of->backend, &ctx);
    const bool created = status == KVSIM_OK;
    status = created ? add(ctx, of) : status;
    const bool added = status == KVSIM_OK;
    status = added ? compute(ctx, of, &found) : status;
    const bool reached = counts.calls >= fail_at;
    check(status == (reached ? KVSIM_E_NOMEM : KVSIM_OK), "%s, allocation %lld%s: status %d (%s)", of->name, fail_at,
          and_all_after ? " and after" : "", status, created ? kvsim_ctx_error(ctx) : "no context");
    counts.fail_at = 0;
    if (created) {
        status = added ? KVSIM_OK : add(ctx, of);
        status = status == KVSIM_OK ? compute(ctx, of, &found) : status;
        check(status == KVSIM_OK && same_report(), "%s, after allocation %lld: status %d (%s)", of->name, fail_at,
              status, kvsim_ctx_error(ctx));
    }
    kvsim_ctx_destroy(ctx);
    check_end(of->name, (uint64_t)fail_at, &counts);
    end_test();
    return reached;
}

static void sweep(const scenario *of) {
    counted counts = {0};
    kvsim_ctx *ctx = NULL;
    let_fail(0, NULL);
    kvsim_status status = create(&counts, of->backend, &ctx);
    status = status == KVSIM_OK ? add(ctx, of) : status;
    status = status == KVSIM_OK ? compute(ctx, of, &expected) : status;
    check(status == KVSIM_OK, "%s: status %d (%s)", of->name, status, ctx != NULL ? kvsim_ctx_error(ctx) : "");
    kvsim_ctx_destroy(ctx);
    check_end(of->name, 0, &counts);
    end_test();
    const unsigned long long calls = kvsim_twin()->calls;
    for (size_t f = 0; f < sizeof failures / sizeof failures[0] && status == KVSIM_OK; f++) {
        for (uint64_t fail_at = 1; run_failing(of, &failures[f], fail_at) && fail_at < 100000;) {
            fail_at += STEP;
        }
    }
    long long allocations = 0;
    for (int after = 0; after < 2 && status == KVSIM_OK; after++) {
        allocations = 1;
        while (run_out_of_memory(of, allocations, after == 1) && allocations < 100000) {
            allocations += STEP;
        }
    }
    printf("%s: %llu calls of the table, about %lld allocations\n", of->name, calls, allocations - 1);
}

int main(void) {
    /* Thousands of computes: the system need not hand out the same memory anew for each. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    fill_pages();
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        sweep(&scenarios[i]);
    }
    for (int kind = 0; kind < 2; kind++) {
        kvsim_twin_engine_release(far_elements[kind]);
        kvsim_twin_engine_release(far_bytes[kind]);
    }
    kvsim_twin_engine_release(far_scales);
    printf("test_device_faults: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed == 0 && passed > 1000 ? EXIT_SUCCESS : EXIT_FAILURE;
}
