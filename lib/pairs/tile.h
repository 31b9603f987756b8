/** A tile of pairs: Gram, metrics of each pair, and what is gathered from them. */
#ifndef KVSIM_PAIRS_TILE_H
#define KVSIM_PAIRS_TILE_H

#include "gather.h"
#include "pack.h"

/** What tiles of one pair of panels share. */
typedef struct kvsim__tile_job {
    kvsim__pairing *pairing;
    const kvsim__kernels *kernels;
    const kvsim__panel *rows;    /**< the later slots */
    const kvsim__panel *columns; /**< the earlier slots; the same panel on the diagonal */
    uint32_t tile_rows, tile_columns;
    kvsim__tile_sums *sums;                      /**< [tiles, KVSIM__KINDS] */
    double *errors[KVSIM__ERRORS][KVSIM__KINDS]; /**< triangles of the rows panel's own pairs, for the diagonal */
    pthread_mutex_t *lock;                       /**< for everything gathered */
} kvsim__tile_job;

/** Work on tile `index` (row-major) of a kvsim__tile_job. */
void kvsim__tile_run(void *opaque, uint32_t index);

/** Exact figures of a pair. */
typedef struct kvsim__exact {
    double cosine, squared_distance, later_squares;
} kvsim__exact;

/** Compute a pair in double from the stored bytes, in the group's view. */
kvsim__exact kvsim__rescore(const kvsim__group *group, size_t later, size_t earlier, kvsim__scratch *a,
                            kvsim__scratch *b);

#endif
