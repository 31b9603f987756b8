/** Angles of rotary position embedding. */
#ifndef KVSIM_PAGES_ROPE_H
#define KVSIM_PAGES_ROPE_H

#include "../base/base.h"

/** How the keys of a context were rotated. @return [borrowed] */
const kvsim_rope *kvsim__ctx_rope(const kvsim_ctx *ctx);

/** Put the defaults in place and check. @return KVSIM_OK, KVSIM_E_INVALID (error text set) */
kvsim_status kvsim__rope_check(kvsim__base *base, kvsim_rope *rope);

/**
 * Radians a position of each channel pair, with the scaling.
 * @param rotary channels that are rotated, even
 * @param frequencies [rotary / 2] filled
 */
void kvsim__rope_frequencies(const kvsim_rope *rope, int32_t rotary, double *frequencies);

#endif
