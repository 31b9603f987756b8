/**
 * A set of pages on a device, driven through the backend table alone: what the GPU's check and its benchmark share.
 */
#ifndef KVSIM_TESTS_GPU_DEVICE_FIXTURE_H
#define KVSIM_TESTS_GPU_DEVICE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../lib/backend/backend.h"
#include "../../lib/pages/format.h"

/** Shape and contents of the pages of a case. */
typedef struct fixture_case {
    uint32_t slots;
    int32_t tokens, heads, head_dim;
    int32_t dtype;       /**< KVSIM__F32 ... */
    int32_t operand;     /**< KVSIM__OPERAND_* */
    bool rotate, centre; /**< view */
    bool padded;         /**< tokens lie further apart than they must */
    double likeness;     /**< share of a common vector in every page, 0..1 */
    uint32_t duplicates; /**< of the last slots, so many are copies of earlier ones */
    uint32_t filter, bounds;
    uint64_t seed;
    bool all_near; /**< every pair is near: the list then holds all cosines */
    uint32_t list_capacity;
} fixture_case;

/** Everything of a case on the device, and what the host keeps of it. */
typedef struct fixture {
    const kvsim__backend *table;
    kvsim__device *device;
    fixture_case of;
    uint32_t elements;
    kvsim__device_group group;
    kvsim__device_packing packing;
    kvsim__device_panel panel;
    kvsim__device_compare compare;
    kvsim__device_bit_compare bits;
    double largest_norm;
    double *values;     /**< [slots, elements] in the view, made by the host; NULL where the case is a benchmark's */
    uint32_t *class_of; /**< [slots] first slot with the same contents */
    void *owned[64];    /**< memory of the device */
    size_t owned_count;
} fixture;

/** Fail the program with a line if `status` is not 0. */
void fixture_need(const fixture *at, int32_t status, const char *what);

/** Make pages, upload them, measure and describe everything that a compare needs. `reference`: keep `values`. */
void fixture_open(fixture *at, const kvsim__backend *table, kvsim__device *device, const fixture_case *of,
                  bool reference);

/** Pack all slots into the panel. */
void fixture_pack(fixture *at);

/** Clear all that a compare adds to. */
void fixture_clear(fixture *at);

/** Give everything back. */
void fixture_close(fixture *at);

/** The next of a stream of numbers that look random (SplitMix64). */
uint64_t fixture_random(uint64_t *state);

#endif
