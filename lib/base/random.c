#include "random.h"

/* 128 bits, which gcc and clang have on every 64-bit target. */
__extension__ typedef unsigned __int128 wide;

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t kvsim__random_next(kvsim__random *random) {
    random->state += 0x9e3779b97f4a7c15u;
    return mix(random->state);
}

uint64_t kvsim__random_below(kvsim__random *random, uint64_t bound) {
    /* Draws that would make some values likelier than others are thrown away. */
    const uint64_t unfair = (0 - bound) % bound;
    for (;;) {
        const wide product = (wide)kvsim__random_next(random) * bound;
        if ((uint64_t)product >= unfair) {
            return (uint64_t)(product >> 64);
        }
    }
}

uint64_t kvsim__random_seed(uint64_t seed, uint64_t purpose) {
    return mix(mix(seed + 0x9e3779b97f4a7c15u) ^ mix(purpose + 0xd1b54a32d192ed03u));
}

uint64_t kvsim__permute(uint64_t index, uint64_t count, uint64_t key) {
    enum { ROUNDS = 4 };
    unsigned half = 1;
    while (half < 32 && (uint64_t)1 << (2 * half) < count) {
        half++;
    }
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            const uint64_t next = left ^ (mix(right + kvsim__random_seed(key, round)) & mask);
            left = right;
            right = next;
        }
        index = left << half | right;
    } while (index >= count);
    return index;
}
