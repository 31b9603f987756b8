/* Choosing the next token: greedily, or by temperature, top-k and top-p with the sequence's own random numbers. */
#include <math.h>
#include <stdlib.h>

#include "internal.h"

void sampler_init(sampler *s, const engine_sampling *options) {
    static const engine_sampling greedy = {0};
    s->options = options ? *options : greedy;
    s->state = s->options.seed;
}

/* SplitMix64 (Steele, Lea, Flood 2014): a number in [0, 1) with 53 random bits. */
static double uniform(sampler *s) {
    uint64_t z = s->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static int32_t most_likely(const float *logits, int32_t vocabulary) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocabulary; i++) {
        if (logits[i] > logits[best] || logits[best] != logits[best]) { /* what is no number loses */
            best = i;
        }
    }
    return best;
}

/* Most likely first, ties by id, so that the order is the same everywhere. */
static int compare_candidates(const void *a, const void *b) {
    const candidate *x = a;
    const candidate *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

int32_t sampler_next(sampler *s, const float *logits, int32_t vocabulary, candidate *candidates) {
    const engine_sampling *o = &s->options;
    int32_t best = most_likely(logits, vocabulary);
    if (!(o->temperature > 0.0)) {
        return best;
    }
    bool by_rank = (o->top_k > 0 && o->top_k < vocabulary) || (o->top_p > 0.0 && o->top_p < 1.0);
    for (int32_t i = 0; i < vocabulary; i++) {
        candidates[i].logit = logits[i] == logits[i] ? logits[i] : -INFINITY; /* not a number: never */
        candidates[i].id = i;
    }
    int32_t count = vocabulary;
    if (by_rank) {
        qsort(candidates, (size_t)vocabulary, sizeof *candidates, compare_candidates);
        if (o->top_k > 0 && o->top_k < vocabulary) {
            count = o->top_k;
        }
    }
    double largest = logits[best];
    double total = 0.0;
    for (int32_t i = 0; i < count; i++) {
        total += exp((candidates[i].logit - largest) / o->temperature);
    }
    if (o->top_p > 0.0 && o->top_p < 1.0) {
        double wanted = o->top_p * total;
        double sum = 0.0;
        int32_t kept = 0;
        while (kept < count && sum < wanted) {
            sum += exp((candidates[kept++].logit - largest) / o->temperature);
        }
        count = kept;
        total = sum;
    }
    double left = uniform(s) * total;
    for (int32_t i = 0; i < count; i++) {
        left -= exp((candidates[i].logit - largest) / o->temperature);
        if (left < 0.0) {
            return candidates[i].id;
        }
    }
    /* Rounding, or logits that are no numbers. */
    return candidates[count > 0 ? count - 1 : 0].id;
}
