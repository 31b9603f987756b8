/**
 * Ground floor of the library: memory, errors, log, sized structs, threads. Knows nothing of pages.
 */
#ifndef KVSIM_BASE_BASE_H
#define KVSIM_BASE_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvsim/kvsim.h>

#if defined(__GNUC__)
#define KVSIM__PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define KVSIM__PRINTF(format_index, first)
#endif

/** Bytes of the error text of a context, terminating NUL included. */
#define KVSIM__ERROR_SIZE 512

/** What every room needs of a context: its memory, its error text, its log, its threads. */
typedef struct kvsim__base {
    kvsim_allocator allocator;
    void (*log)(void *user, int32_t level, const char *message);
    void *log_user;
    int32_t log_level;
    uint32_t threads;
    void (*parallel_for)(void *user, uint32_t count, void (*body)(void *argument, uint32_t index), void *argument);
    void *parallel_user;
    char error[KVSIM__ERROR_SIZE];
} kvsim__base;

/** The base of a context. */
kvsim__base *kvsim__ctx_base(kvsim_ctx *ctx);

/** Set the base up from options that have been read; NULL = defaults. */
void kvsim__base_init(kvsim__base *base, const kvsim_options *options);

/** `count` items of `size` bytes, aligned to 64, not cleared; NULL when out of memory or on overflow. `count` 0 gives
 * one item. */
void *kvsim__allocate(kvsim__base *base, size_t count, size_t size);

/** As kvsim__allocate, cleared to zero. */
void *kvsim__allocate_zeroed(kvsim__base *base, size_t count, size_t size);

/** Give back what was allocated with the same `count` and `size`; NULL is allowed. */
void kvsim__release(kvsim__base *base, void *memory, size_t count, size_t size);

/**
 * Grow an array so that it holds at least `needed` items: capacity is doubled, items are kept.
 * @return KVSIM_OK or KVSIM_E_NOMEM (error text set, array unchanged)
 */
kvsim_status kvsim__grow(kvsim__base *base, void **array, size_t *capacity, size_t needed, size_t size);

/** Set the error text and return `status`. */
kvsim_status kvsim__fail(kvsim__base *base, kvsim_status status, const char *format, ...) KVSIM__PRINTF(3, 4);

/** Set the text "out of memory (N bytes for WHAT)" and return KVSIM_E_NOMEM. */
kvsim_status kvsim__fail_memory(kvsim__base *base, size_t bytes, const char *what);

/** Log one line if the context's level asks for it. */
void kvsim__log(kvsim__base *base, int32_t level, const char *format, ...) KVSIM__PRINTF(3, 4);

/**
 * Read a sized struct of the caller into `out` (our own size `ours`, zeroed first).
 * Smaller than `first_release`: KVSIM_E_INVALID. Smaller than ours: the missing tail is zero.
 * Larger: only if the unknown tail is zero, else KVSIM_E_UNSUPPORTED. `from` NULL reads as all defaults.
 * (The rule of Linux's copy_struct_from_user.)
 */
kvsim_status kvsim__read_struct(void *out, size_t ours, const void *from, size_t first_release);

/** a * b in `out`; false on overflow. */
bool kvsim__multiply(uint64_t a, uint64_t b, uint64_t *out);

/** Threads this process may run at once: its CPU affinity, at least 1. */
uint32_t kvsim__core_count(void);

/**
 * Run `body(argument, i)` for i in [0, count) on the context's threads and wait for all of them.
 * Which thread runs which i is not defined; the calling thread takes part. If no thread can be started the calling
 * one does all the work.
 */
void kvsim__parallel_for(kvsim__base *base, uint32_t count, void (*body)(void *argument, uint32_t index),
                         void *argument);

#endif
