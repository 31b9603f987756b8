/*
 * The tiles that the CUDA kernels work on, without a device: together they hold each pair exactly once, for any number
 * of pages, and no tile is without a pair.
 */
#include "../../cuda/schedule.h"
#include "core_tools.h"
#include "kvsim_check.h"

enum { MOST_TILES = 64 * 86 };

/* How often each tile of a panel of at most 16,384 rows is listed. */
typedef struct listing {
    uint32_t tiles[MOST_TILES];
    size_t count;
    uint8_t times[64][86];
} listing;

static void list(uint32_t row_begin, uint32_t row_end, uint32_t columns, bool triangle, listing *out) {
    memset(out, 0, sizeof *out);
    const size_t expected = kvsim__list_tiles(row_begin, row_end, columns, triangle, NULL);
    require(expected <= MOST_TILES, "%zu tiles", expected);
    out->count = kvsim__list_tiles(row_begin, row_end, columns, triangle, out->tiles);
    require(out->count == expected, "%zu tiles are listed, %zu were counted", out->count, expected);
    for (size_t i = 0; i < out->count; i++) {
        const uint32_t row = out->tiles[i] >> 16, column = out->tiles[i] & 0xffffu;
        require(row < 64 && column < 86, "tile %u, %u", row, column);
        out->times[row][column]++;
    }
}

/* Every pair of the rows with the columns (before the row, in a triangle) is in one tile, and every tile holds one. */
static void check(uint32_t row_begin, uint32_t row_end, uint32_t columns, bool triangle) {
    static listing listed;
    list(row_begin, row_end, columns, triangle, &listed);
    for (uint32_t row = row_begin; row < row_end; row++) {
        const uint32_t end = triangle && row < columns ? row : columns;
        /* Neighbours of one tile are alike: one column of each tile, and the last one. */
        for (uint32_t column = 0; column < end; column += KVSIM__TILE_COLUMNS) {
            const uint32_t last = column + KVSIM__TILE_COLUMNS <= end ? column + KVSIM__TILE_COLUMNS - 1 : end - 1;
            const uint8_t times = listed.times[row / KVSIM__TILE_ROWS][column / KVSIM__TILE_COLUMNS];
            require(last / KVSIM__TILE_COLUMNS == column / KVSIM__TILE_COLUMNS && times == 1,
                    "rows %u to %u, %u columns: pair %u, %u is there %u times", row_begin, row_end, columns, row,
                    column, times);
        }
    }
    for (size_t i = 0; i < listed.count; i++) {
        const uint32_t first = (listed.tiles[i] >> 16) * KVSIM__TILE_ROWS;
        const uint32_t stop = first + KVSIM__TILE_ROWS < row_end ? first + KVSIM__TILE_ROWS : row_end;
        const uint32_t column = (listed.tiles[i] & 0xffffu) * KVSIM__TILE_COLUMNS;
        const uint32_t end = triangle && stop - 1 < columns ? stop - 1 : columns;
        require(first >= row_begin && first < row_end, "tile row %u is out of the range", first);
        /* The last tile row of a range may list what only rows past its end would need, but not past the panel. */
        require(column < end || (triangle && column < first + KVSIM__TILE_ROWS - 1 && column < columns),
                "rows %u to %u, %u columns: a tile at %u, %u without a pair", row_begin, row_end, columns, first,
                column);
    }
}

START_TEST(triangles_of_any_size) {
    for (uint32_t count = 1; count <= 2000; count++) {
        check(0, count, count, true);
    }
    static const uint32_t large[] = {4095, 4096, 4097, 16127, 16128, 16383, 16384};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        check(0, large[i], large[i], true);
    }
}
END_TEST

START_TEST(rectangles_of_any_size) {
    uint64_t seed = 1;
    for (int i = 0; i < 3000; i++) {
        check(0, 1 + (uint32_t)draw_below(&seed, 1500), 1 + (uint32_t)draw_below(&seed, 1500), false);
    }
    check(0, 16384, 16384, false);
    check(0, 1, 16384, false);
    check(0, 16384, 1, false);
}
END_TEST

/* Ranges of rows, one after the other, list what the whole panel does. */
START_TEST(ranges_of_rows) {
    static listing whole, part;
    uint64_t seed = 2;
    for (int i = 0; i < 1000; i++) {
        const bool triangle = draw_below(&seed, 2) != 0;
        const uint32_t rows = 1 + (uint32_t)draw_below(&seed, 6000);
        const uint32_t columns = triangle ? rows : 1 + (uint32_t)draw_below(&seed, 6000);
        list(0, rows, columns, triangle, &whole);
        for (uint32_t begin = 0; begin < rows;) {
            const uint32_t step = KVSIM__TILE_ROWS * (1 + (uint32_t)draw_below(&seed, 10));
            const uint32_t end = begin + step < rows ? begin + step : rows;
            list(begin, end, columns, triangle, &part);
            check(begin, end, columns, triangle);
            for (size_t tile = 0; tile < part.count; tile++) {
                whole.times[part.tiles[tile] >> 16][part.tiles[tile] & 0xffffu]--;
            }
            begin = end;
        }
        for (size_t tile = 0; tile < whole.count; tile++) {
            require(whole.times[whole.tiles[tile] >> 16][whole.tiles[tile] & 0xffffu] == 0, "%u rows", rows);
        }
    }
}
END_TEST

/* Panels over all pages, as a compute takes them: every pair of pages once. */
START_TEST(panels_hold_every_pair_once) {
    static listing listed;
    static uint8_t times[1300][1300];
    uint64_t seed = 3;
    for (int round = 0; round < 12; round++) {
        const uint32_t count = 1 + (uint32_t)draw_below(&seed, 1300);
        const uint32_t panel = 256 * (1 + (uint32_t)draw_below(&seed, 4));
        memset(times, 0, sizeof times);
        for (uint32_t first = 0; first < count; first += panel) {
            const uint32_t rows = count - first < panel ? count - first : panel;
            for (uint32_t earlier = 0; earlier <= first; earlier += panel) {
                const bool same = earlier == first;
                const uint32_t columns = same ? rows : panel;
                list(0, rows, columns, same, &listed);
                for (size_t i = 0; i < listed.count; i++) {
                    const uint32_t row = (listed.tiles[i] >> 16) * KVSIM__TILE_ROWS;
                    const uint32_t column = (listed.tiles[i] & 0xffffu) * KVSIM__TILE_COLUMNS;
                    for (uint32_t x = row; x < row + KVSIM__TILE_ROWS && x < rows; x++) {
                        for (uint32_t y = column; y < column + KVSIM__TILE_COLUMNS && y < columns; y++) {
                            times[first + x][earlier + y]++;
                        }
                    }
                }
            }
        }
        for (uint32_t later = 0; later < count; later++) {
            for (uint32_t earlier = 0; earlier < later; earlier++) {
                require(times[later][earlier] == 1, "%u pages in panels of %u: pair %u, %u is there %u times", count,
                        panel, later, earlier, times[later][earlier]);
            }
        }
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("schedule");
    TCase *tiles = kvsim_check_case(suite, "tiles");
    tcase_add_test(tiles, triangles_of_any_size);
    tcase_add_test(tiles, rectangles_of_any_size);
    tcase_add_test(tiles, ranges_of_rows);
    tcase_add_test(tiles, panels_hold_every_pair_once);
    return kvsim_check_main(suite, "test_schedule", 4);
}
