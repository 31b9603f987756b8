/**
 * Columns of a result of libkvsim, read by row.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_COLUMNS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_COLUMNS_H

#include <kvsim/kvsim.h>

#include <stdint.h>
#include <string.h>

/** A column of a table; one of no rows if there is no such column. */
static inline kvsim_column column_of(const kvsim_result *result, const char *table, const char *name) {
    kvsim_column column = KVSIM_COLUMN_INIT;
    (void)kvsim_result_column(result, table, name, &column);
    return column;
}

/** Integer of a row, of an i32, i64 or u64 column. */
static inline int64_t column_integer(const kvsim_column *column, int64_t row) {
    int64_t wide;
    int32_t narrow;
    if (column->dtype_bits == 64) {
        memcpy(&wide, (const char *)column->data + row * 8, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const char *)column->data + row * 4, sizeof narrow);
    return narrow;
}

/** Number of a row of an f64 column. */
static inline double column_real(const kvsim_column *column, int64_t row) {
    double value;
    memcpy(&value, (const char *)column->data + row * 8, sizeof value);
    return value;
}

#endif
