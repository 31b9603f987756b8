/**
 * Which tiles of pairs a compare works on, and in which order: the same for the kernels and for the test that counts
 * every pair once.
 *
 * A tile is KVSIM__TILE_ROWS later slots by KVSIM__TILE_COLUMNS earlier ones; two neighbouring processors share it.
 * Tiles are taken in stripes of KVSIM__STRIPE tile rows, column by column, so that the tiles that are worked on at one
 * time have few different rows and columns and these stay in the L2 cache.
 */
#ifndef KVSIM_CUDA_SCHEDULE_H
#define KVSIM_CUDA_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#define KVSIM__TILE_ROWS    256u
#define KVSIM__TILE_COLUMNS 192u
#define KVSIM__STRIPE       8u

/** Columns of tiles that hold pairs in tile row `row`, whose first row is row * KVSIM__TILE_ROWS. */
static inline uint32_t kvsim__tile_columns(uint32_t row, uint32_t columns, uint32_t triangle) {
    const uint32_t last = (row + 1) * KVSIM__TILE_ROWS - 1; /* a triangle's row i has the columns before i */
    const uint32_t used = triangle != 0 && last < columns ? last : columns;
    return (used + KVSIM__TILE_COLUMNS - 1) / KVSIM__TILE_COLUMNS;
}

/**
 * List the tiles of rows [row_begin, row_end) of a panel, row_begin a multiple of KVSIM__TILE_ROWS.
 * @param tiles receives row << 16 | column, in tiles; NULL: only count
 * @return number of tiles
 */
static inline size_t kvsim__list_tiles(uint32_t row_begin, uint32_t row_end, uint32_t columns, uint32_t triangle,
                                       uint32_t *tiles) {
    const uint32_t end = (row_end + KVSIM__TILE_ROWS - 1) / KVSIM__TILE_ROWS;
    size_t count = 0;
    for (uint32_t stripe = row_begin / KVSIM__TILE_ROWS; stripe < end; stripe += KVSIM__STRIPE) {
        const uint32_t stop = stripe + KVSIM__STRIPE < end ? stripe + KVSIM__STRIPE : end;
        const uint32_t widest = kvsim__tile_columns(stop - 1, columns, triangle);
        for (uint32_t column = 0; column < widest; column++) {
            for (uint32_t row = stripe; row < stop; row++) {
                if (column < kvsim__tile_columns(row, columns, triangle)) {
                    if (tiles != NULL) {
                        tiles[count] = row << 16 | column;
                    }
                    count++;
                }
            }
        }
    }
    return count;
}

#endif
