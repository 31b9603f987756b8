/**
 * What kvsim_snapshot_check_rope finds, and what rounding explains of it.
 */
#ifndef KVSIM_EXAMPLES_COMMON_ROPE_RESIDUAL_H
#define KVSIM_EXAMPLES_COMMON_ROPE_RESIDUAL_H

#include <stdint.h>

/** Largest residual of the check that rounding explains, for keys of an element type (KVSIM_DTYPE_*). */
double rope_residual_limit(uint8_t dtype_code);

#endif
