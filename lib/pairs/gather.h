/**
 * What a tile gathers from its pairs, and how that is merged into the figures of its group. Counts, extrema with a
 * total order, bits and sums of whole units may be merged in any order; sums of doubles are handed on, tile by tile.
 */
#ifndef KVSIM_PAIRS_GATHER_H
#define KVSIM_PAIRS_GATHER_H

#include "pairs.h"

/** Slots on a side of a tile: its Gram and errors stay in the nearest caches. */
#define KVSIM__TILE 32

/** Sums of one tile and kind that depend on the order of addition; added up in a fixed order afterwards. */
typedef struct kvsim__tile_sums {
    double cosine, l2, relative, jaccard;
} kvsim__tile_sums;

/** Slots of a tile. */
typedef struct kvsim__tile_place {
    size_t later, rows;      /**< slots [later, later + rows) */
    size_t earlier, columns; /**< slots [earlier, earlier + columns) */
} kvsim__tile_place;

/** One tile's share of the figures of one group. */
typedef struct kvsim__gathered {
    const kvsim__pairing *pairing;
    kvsim__tile_place place;
    kvsim__tile_sums sums;
    uint64_t pairs, relative_infinite, codes_differ, signs_differ, union_elements;
    double cosine_min, cosine_max;
    uint32_t histograms[KVSIM__HISTOGRAMS][KVSIM_HISTOGRAM_BINS];
    uint32_t threshold_pairs[KVSIM_MAX_LEVELS];
    uint64_t threshold_bits[KVSIM__TILE];
    double best_cosine[KVSIM__TILE];
    uint32_t best_slot[KVSIM__TILE];
    double cosines[KVSIM__TILE * KVSIM__TILE]; /**< [rows, columns], -2 where a pair does not count */
} kvsim__gathered;

void kvsim__gather_begin(kvsim__gathered *out, const kvsim__pairing *pairing, kvsim__tile_place place);

/** The pair of row i and column j of the tile has this cosine. */
void kvsim__gather_cosine(kvsim__gathered *out, size_t i, size_t j, double cosine);

/** Count a value in one of the histograms. */
void kvsim__gather_bin(kvsim__gathered *out, int histogram, double value, double low, double high);

/**
 * Add a tile's share to the figures of its group. The lock of the figures is held.
 * @param errors [rows, columns] relative errors, for the best pairs
 */
void kvsim__gather_merge(const kvsim__gathered *from, const double *errors, kvsim__figures *figures);

#endif
