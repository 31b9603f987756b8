/** Packed pages: what the kernels read. */
#ifndef KVSIM_PAIRS_PACK_H
#define KVSIM_PAIRS_PACK_H

#include "pairs.h"

/** The packed pages of one kind of a panel. Absent pages are zero and are never looked at. */
typedef struct kvsim__packed {
    float *strips;          /**< strips of KVSIM__STRIP pages; element k of page i is strips[i/8][k][i%8] */
    int8_t *codes;          /**< [slots, code_stride] or NULL */
    uint64_t *signs;        /**< [slots, words] bit = element below zero, or NULL */
    uint64_t *actives;      /**< [slots, words] bit = element in the active set, or NULL */
    uint32_t *active_count; /**< [slots] or NULL */
    double *norm;           /**< [slots] Euclidean norm */
    double *scale;          /**< [slots] packed element * scale = element; a power of two */
    size_t words;           /**< 64-bit words of a bit set */
    size_t code_stride;
} kvsim__packed;

/**
 * Which contents a panel holds: the pages themselves, or shuffled ones. A shuffled page has at each slot what the page
 * of another rank has there, by a permutation of the ranks for each slot; keys and values move together.
 * Keys are turned to the position they come to, where it is known how: a token that moves is rotated anew.
 */
typedef struct kvsim__contents_map {
    const uint32_t *slots; /**< [ranks] slots that have a page of every kind present, in order */
    size_t ranks;
    const uint32_t *chosen; /**< [count] the ranks to pack */
    const uint64_t *keys;   /**< [count] key of each one's shuffling */
    /**
     * [count] or NULL. Not NULL: a page's contents are drawn again with this key, slot by slot, from what the shuffling
     * gives to the page itself and to later ones. It then meets the earlier pages as in any shuffling, none of whose
     * tokens it holds, and differs from draw to draw.
     */
    const uint64_t *redraws;
} kvsim__contents_map;

/** Packed slots: consecutive ones, or those of a contents map. */
typedef struct kvsim__panel {
    size_t capacity; /**< slots that fit, a multiple of KVSIM__STRIP */
    size_t first, count;
    const kvsim__contents_map *map; /**< NULL: the slots [first, first + count) themselves */
    kvsim__packed kinds[KVSIM__KINDS];
    unsigned char *scratch; /**< one for each strip */
    size_t scratch_stride;
    void *memory;
    size_t memory_bytes;
} kvsim__panel;

/** Bytes that a panel of that capacity takes. */
size_t kvsim__panel_bytes(const kvsim__pairing *pairing, size_t capacity);

/** @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__panel_open(const kvsim__pairing *pairing, size_t capacity, kvsim__panel *panel);

void kvsim__panel_close(const kvsim__pairing *pairing, kvsim__panel *panel);

/** Pack the slots [first, first + count) on all threads. */
void kvsim__panel_fill(const kvsim__pairing *pairing, kvsim__panel *panel, size_t first, size_t count);

/** Pack what a map chooses: its first `count` entries. */
void kvsim__panel_fill_shuffled(const kvsim__pairing *pairing, kvsim__panel *panel, const kvsim__contents_map *map,
                                size_t count);

/** Strip that holds slot `i` of a panel. */
static inline float *kvsim__strip(const kvsim__pairing *pairing, const kvsim__panel *panel, int kind, size_t i) {
    return panel->kinds[kind].strips + i / KVSIM__STRIP * KVSIM__STRIP * pairing->groups[kind].elements;
}

#endif
