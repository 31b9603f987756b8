/** The best k pairs: a heap whose root is the worst of those that are kept. */
#ifndef KVSIM_PAIRS_TOP_H
#define KVSIM_PAIRS_TOP_H

#include "pairs.h"

/** Keep `pair` if it is among the best `capacity` so far. The order is total, so the offers' order does not matter. */
void kvsim__top_offer(kvsim__scored_pair *top, size_t *count, size_t capacity, kvsim__scored_pair pair);

/** Turn the heap into a list, best first. */
void kvsim__top_sort(kvsim__scored_pair *top, size_t count);

#endif
