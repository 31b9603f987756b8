#include "top.h"

/* Larger cosine first, then earlier slots. */
static bool ranks_before(const kvsim__scored_pair *a, const kvsim__scored_pair *b) {
    if (a->cosine != b->cosine) {
        return a->cosine > b->cosine;
    }
    return a->later != b->later ? a->later < b->later : a->earlier < b->earlier;
}

/* Put `pair` at the root of a heap whose root is free, and let it sink to its place. */
static void sink(kvsim__scored_pair *top, size_t count, kvsim__scored_pair pair) {
    size_t at = 0;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && ranks_before(&top[child], &top[child + 1])) {
            child++;
        }
        if (!ranks_before(&pair, &top[child])) {
            break;
        }
        top[at] = top[child];
        at = child;
    }
    top[at] = pair;
}

void kvsim__top_offer(kvsim__scored_pair *top, size_t *count, size_t capacity, kvsim__scored_pair pair) {
    if (*count == capacity) {
        if (capacity > 0 && ranks_before(&pair, &top[0])) {
            sink(top, capacity, pair);
        }
        return;
    }
    size_t at = (*count)++;
    while (at > 0 && ranks_before(&top[(at - 1) / 2], &pair)) {
        top[at] = top[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    top[at] = pair;
}

void kvsim__top_sort(kvsim__scored_pair *top, size_t count) {
    for (; count > 1; count--) {
        const kvsim__scored_pair last = top[count - 1];
        top[count - 1] = top[0];
        sink(top, count - 1, last);
    }
}
