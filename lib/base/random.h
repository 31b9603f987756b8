/** Pseudo-random numbers that depend on nothing but their seed. */
#ifndef KVSIM_BASE_RANDOM_H
#define KVSIM_BASE_RANDOM_H

#include <stdint.h>

/** State of a stream: any value is a seed. */
typedef struct kvsim__random {
    uint64_t state;
} kvsim__random;

/** The next 64 bits (SplitMix64: Steele, Lea, Flood, OOPSLA 2014). */
uint64_t kvsim__random_next(kvsim__random *random);

/** A uniform integer in [0, bound), bound >= 1 (Lemire, arXiv 1805.10941). */
uint64_t kvsim__random_below(kvsim__random *random, uint64_t bound);

/** A seed for a stream of its own, from a seed and what the stream is for. */
uint64_t kvsim__random_seed(uint64_t seed, uint64_t purpose);

/**
 * Where a permutation of [0, count) that `key` chooses takes `index`: a Feistel network over the next power of four,
 * walked until it falls inside (Black, Rogaway, CT-RSA 2002). Needs no memory.
 */
uint64_t kvsim__permute(uint64_t index, uint64_t count, uint64_t key);

#endif
