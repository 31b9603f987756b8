/**
 * What the tests of the core share: contexts, columns, numbers drawn from a seed, memory between guard pages.
 */
#ifndef KVSIM_TESTS_CORE_TOOLS_H
#define KVSIM_TESTS_CORE_TOOLS_H

#include <kvsim/kvsim.h>

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ck_status(ctx, expression, expected)                                                                           \
    do {                                                                                                               \
        const kvsim_status ck_status_is = (expression);                                                                \
        ck_assert_msg(ck_status_is == (expected), "%s is %d, not %d: %s", #expression, ck_status_is, (expected),       \
                      kvsim_ctx_error(ctx));                                                                           \
    } while (0)

/** As ck_assert_msg, for checks made by the million: Check writes a record of each assertion, passed or not. */
#define require(condition, ...)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
        }                                                                                                              \
    } while (0)

/** SplitMix64 (S. Vigna, public domain). */
static inline uint64_t draw(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/** A whole number in [0, below). */
static inline size_t draw_below(uint64_t *state, size_t below) {
    return (size_t)(draw(state) % below);
}

/** About normal, from twelve uniform numbers. */
static inline float draw_normal(uint64_t *state) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++) {
        sum += (double)(draw(state) >> 11) * 0x1p-53;
    }
    return (float)sum;
}

/** What get_memory gives out hangs in a chain, so that a leak detector does not take it for lost. */
typedef struct test_memory {
    struct test_memory *next, **from;
} test_memory;

/** Cleared memory for a test; it stays until the test's process ends unless it is dropped. */
static inline void *get_memory(size_t bytes) {
    static test_memory *all;
    test_memory *memory = calloc(1, sizeof *memory + bytes);
    require(memory != NULL, "out of memory");
    *memory = (test_memory){all, &all};
    if (all != NULL) {
        all->from = &memory->next;
    }
    all = memory;
    return memory + 1;
}

static inline void drop_memory(void *memory) {
    test_memory *dropped = (test_memory *)memory - 1;
    *dropped->from = dropped->next;
    if (dropped->next != NULL) {
        dropped->next->from = dropped->from;
    }
    free(dropped);
}

/** `bytes` that end (or begin) at a page of memory that must not be touched. */
static inline unsigned char *get_guarded(size_t bytes, bool at_end) {
    const size_t page = 4096, inside = (bytes + page - 1) / page * page;
    unsigned char *memory = mmap(NULL, inside + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(memory != MAP_FAILED);
    ck_assert_int_eq(mprotect(memory, page, PROT_NONE), 0);
    ck_assert_int_eq(mprotect(memory + page + inside, page, PROT_NONE), 0);
    return memory + page + (at_end ? inside - bytes : 0);
}

/** A context that computes on the CPU, whatever else there is. */
static inline kvsim_ctx *make_context(uint32_t threads) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = KVSIM_BACKEND_CPU;
    options.threads = threads;
    kvsim_ctx *ctx = NULL;
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_OK);
    return ctx;
}

/** A row-major tensor of `data`; `shape` must outlive it. */
static inline kvsim_tensor make_tensor(const void *data, uint8_t code, uint8_t bits, const int64_t *shape, int ndim) {
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.dtype_code = code;
    tensor.dtype_bits = bits;
    tensor.data = data;
    tensor.shape = shape;
    tensor.ndim = ndim;
    return tensor;
}

static inline kvsim_column get_column(const kvsim_result *result, const char *table, const char *name) {
    kvsim_column column = KVSIM_COLUMN_INIT;
    require(kvsim_result_column(result, table, name, &column) == KVSIM_OK, "no column %s of %s", name, table);
    return column;
}

static inline int64_t row_count(const kvsim_result *result, const char *table) {
    for (uint32_t i = 0; i < kvsim_result_column_count(result); i++) {
        kvsim_column column = KVSIM_COLUMN_INIT;
        require(kvsim_result_column_at(result, i, &column) == KVSIM_OK, "no column %u", i);
        if (strcmp(column.table, table) == 0) {
            return column.rows;
        }
    }
    ck_abort_msg("no table %s", table);
    return -1;
}

/** A whole number from a column of any integer type. */
static inline int64_t get_integer(const kvsim_result *result, const char *table, const char *name, int64_t row) {
    const kvsim_column column = get_column(result, table, name);
    require(row >= 0 && row < column.rows, "row %lld of %s.%s", (long long)row, table, name);
    require(column.dtype_code != KVSIM_DTYPE_FLOAT, "%s is no integer", name);
    return column.dtype_bits == 32 ? ((const int32_t *)column.data)[row] : ((const int64_t *)column.data)[row];
}

static inline double get_real(const kvsim_result *result, const char *table, const char *name, int64_t row) {
    const kvsim_column column = get_column(result, table, name);
    require(row >= 0 && row < column.rows, "row %lld of %s.%s", (long long)row, table, name);
    require(column.dtype_code == KVSIM_DTYPE_FLOAT && column.dtype_bits == 64, "%s is no double", name);
    return ((const double *)column.data)[row];
}

/** Row of `groups` (or `blocks`, with kind 0); -1 if there is none. */
static inline int64_t find_row(const kvsim_result *result, const char *table, uint32_t view, int layer, int kind,
                               int head) {
    for (int64_t row = 0; row < row_count(result, table); row++) {
        if (get_integer(result, table, "view", row) == view && get_integer(result, table, "layer", row) == layer &&
            (kind == 0 || get_integer(result, table, "kind", row) == kind) &&
            get_integer(result, table, "head", row) == head) {
            return row;
        }
    }
    return -1;
}

/** Row number `index` among those of `table` that belong to row `owner` of groups or blocks. */
static inline int64_t owned_row(const kvsim_result *result, const char *table, int64_t owner, int64_t index) {
    const kvsim_column owners = get_column(result, table, "group");
    for (int64_t row = 0; row < owners.rows; row++) {
        if (((const int64_t *)owners.data)[row] == owner && index-- == 0) {
            return row;
        }
    }
    return -1;
}

#endif
