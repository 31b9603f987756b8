/** Near pairs of both kinds, as a device lists them in any order, sorted and handed to the error sink. */
#ifndef KVSIM_PAIRS_DEVICE_NEAR_H
#define KVSIM_PAIRS_DEVICE_NEAR_H

#include "../backend/backend.h"
#include "pairs.h"

/** Later slots that the sink is given at a time. */
#define KVSIM__SINK_ROWS 512

/** Near pairs of one kind; `pairs` of zeros is empty. */
typedef struct kvsim__near_list {
    kvsim__device_pair *pairs;
    size_t count, capacity;
    const double *norms; /**< [slots] of the kind's pages */
} kvsim__near_list;

/** Near pairs on their way to the sink. */
typedef struct kvsim__near {
    const kvsim__pairing *pairing;
    kvsim__near_list kinds[KVSIM__KINDS];
    kvsim__device_pair *scratch; /* for sorting */
    size_t scratch_capacity;
    int measures;                                   /* 1, or KVSIM__ERRORS with bounds */
    double *triangles[KVSIM__ERRORS][KVSIM__KINDS]; /* errors inside the rows at hand, as the sink wants them */
} kvsim__near;

/** @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__near_open(const kvsim__pairing *pairing, kvsim__near *near);

void kvsim__near_close(kvsim__near *near);

/** Make room for `more` pairs behind those of a kind. @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__near_reserve(kvsim__near *near, int kind, size_t more);

/**
 * Hand all pairs to the sink, whose later slots are [first, first + count) and whose earlier ones are any before them,
 * and forget them. @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__near_deliver(kvsim__near *near, size_t first, size_t count);

#endif
