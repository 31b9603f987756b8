/**
 * How a device decides about a pair of pages from its packed dot product: the same text for the device's kernels and
 * for the twin on the host. Everything is fp32; what fp32 cannot decide is put aside and computed in double.
 */
#ifndef KVSIM_BACKEND_PAIR_RULES_H
#define KVSIM_BACKEND_PAIR_RULES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <kvsim/kvsim.h>

#if defined(__CUDACC__)
#define KVSIM__SHARED static __host__ __device__ __forceinline__
#else
#define KVSIM__SHARED static inline
#endif

/** Cosines are added up in units of 2^-28, distances (in shares of the largest norm) in units of 2^-30, Jaccard
 * indices in units of 2^-30: sums of whole numbers do not depend on their order. A compare has at most 2^32 pairs. */
#define KVSIM__DEVICE_COSINE_UNITS 268435456.0f
#define KVSIM__DISTANCE_UNITS      1073741824.0f
#define KVSIM__JACCARD_UNITS       1073741824.0f

/** Strata (first, last, middle page) and relations (one sequence, one family, other families). */
#define KVSIM__RELATION_CELLS 3
#define KVSIM__STRATA_CELLS   9

/** Relative errors have no bound: those below 2^14 are added up in units of 2^-20, in limb 0; those in
 * [2^(14 + 20 (k - 1)), 2^(14 + 20 k)) in units of 2^(20 k - 20), in limb k. */
#define KVSIM__LIMBS     7
#define KVSIM__LIMB_BITS 20

/** Norms below this share of the largest one are not trusted to fp32: pairs of such pages are put aside. */
#define KVSIM__LEAST_NORM 0x1p-40f

/** What fp32 may round away in the figures of a pair whose cosine, norms and distances are at most about 1, beside the
 * error of the dot product; of squares of errors near a budget, twice that. */
#define KVSIM__ROUNDING 0x1p-22f

/** Squared distances below this share of |x|^2 + |y|^2 are computed from differences: the Gram would cancel. */
#define KVSIM__DEVICE_DIRECT_SHARE 0x1p-8f

/** What a slot is, of all views and kinds. Filled by the host. */
typedef struct kvsim__slot_facts {
    uint32_t class_id; /**< first slot with the same bytes; UINT32_MAX: no page here */
    uint32_t sequence, family;
    uint16_t stratum;
    uint16_t listed; /**< 1: pairs with this slot as the earlier one are listed as near. 0: an equal one is before it */
} kvsim__slot_facts;

/** What `pack` knows of a row. */
typedef struct kvsim__row_facts {
    float unit;    /**< packed dot product * unit * unit = cosine; 0 for zero pages and rows without one */
    float norm;    /**< Euclidean norm / largest norm of the group */
    float inverse; /**< 1 / norm; 0 where the norm is below KVSIM__LEAST_NORM: pairs are put aside */
    float doubt;   /**< at least |what packing rounded away| / |page| */
    kvsim__slot_facts slot;
} kvsim__row_facts;

/** What is asked of pairs: a plan in numbers of fp32. */
typedef struct kvsim__pair_rules {
    float bound;       /**< of the error of a cosine from packed pages, the doubts apart */
    float near_limit;  /**< errors up to this reach the sink */
    float clear_limit; /**< errors above this are in doubt of no budget */
    uint32_t threshold_count, budget_count;
    uint32_t filter;           /**< 1: pairs of one sequence count for nothing but the packing error */
    uint32_t bounds;           /**< 1: all errors are asked for, not the plain one alone */
    uint32_t filtered_listing; /**< 1: slots with `listed` 0 are listed too */
    float thresholds[KVSIM_MAX_LEVELS];
    float budgets[KVSIM_MAX_LEVELS];
    double exact_thresholds[KVSIM_MAX_LEVELS]; /**< as asked for: what pairs computed in double are compared with */
} kvsim__pair_rules;

/** A pair's figures. */
typedef struct kvsim__pair_figures {
    float cosine;
    float distance; /**< / largest norm */
    float error;    /**< |x - y| / |x|, x the later page */
    int doubtful;   /**< 1: to be computed in double */
} kvsim__pair_figures;

/** Cosine, distance and error of a pair from its packed dot product. */
KVSIM__SHARED kvsim__pair_figures kvsim__decide(const kvsim__pair_rules *rules, const kvsim__row_facts *later,
                                                const kvsim__row_facts *earlier, float dot) {
    kvsim__pair_figures pair;
    if (later->slot.class_id == earlier->slot.class_id) { /* equal bytes */
        pair.cosine = 1.0f;
        pair.distance = 0.0f;
        pair.error = 0.0f;
        pair.doubtful = 0;
        return pair;
    }
    const float bound = rules->bound + KVSIM__ROUNDING + later->doubt + earlier->doubt;
    const float x = later->norm, y = earlier->norm;
    const float gap = x - y;
    float cosine = dot * later->unit * earlier->unit;
    const int overflowed = !(fabsf(cosine) <= 1.5f); /* or not a number */
    cosine = fminf(fmaxf(cosine, -1.0f), 1.0f);
    const float square = gap * gap + 2.0f * x * y * (1.0f - cosine);
    pair.cosine = cosine;
    pair.distance = sqrtf(square);
    pair.error = pair.distance * later->inverse;
    int doubtful = overflowed || square < KVSIM__DEVICE_DIRECT_SHARE * (x * x + y * y) || later->inverse == 0.0f ||
                   earlier->inverse == 0.0f;
    for (uint32_t i = 0; i < rules->threshold_count; i++) {
        doubtful |= fabsf(cosine - rules->thresholds[i]) <= bound;
    }
    const float scaled_square = 1.0f - cosine * cosine;
    if (pair.error <= rules->clear_limit ||
        (rules->bounds && scaled_square <= rules->clear_limit * rules->clear_limit)) {
        const float square_bound = 2.5f * bound;
        const float ratio = y * later->inverse;
        for (uint32_t i = 0; i < rules->budget_count; i++) {
            const float budget = rules->budgets[i];
            doubtful |=
                fabsf(pair.error * pair.error - budget * budget) <= square_bound * ratio + 2.0f * KVSIM__ROUNDING;
            doubtful |= rules->bounds && fabsf(scaled_square - budget * budget) <= square_bound;
        }
    }
    pair.doubtful = doubtful;
    return pair;
}

/** Is the pair near enough, by any error asked for, to be listed for the sink? */
KVSIM__SHARED int kvsim__is_near(const kvsim__pair_rules *rules, float x, float y, float cosine, float distance,
                                 float error, int filtered) {
    const float limit = rules->near_limit;
    return (!filtered && error <= limit) || (rules->bounds && distance <= limit * (x + y)) ||
           (!filtered && rules->bounds && 1.0f - cosine * cosine <= limit * limit);
}

/** Bin of a value in [0, 1) shares of a histogram's range; values outside go to the ends. */
KVSIM__SHARED uint32_t kvsim__bin_of(float share) {
    const float at = share * (float)KVSIM_HISTOGRAM_BINS;
    return at < 0.0f ? 0u : at >= (float)KVSIM_HISTOGRAM_BINS ? (uint32_t)(KVSIM_HISTOGRAM_BINS - 1) : (uint32_t)at;
}

/** A key whose order as an unsigned number is that of the floats. */
KVSIM__SHARED uint32_t kvsim__float_key(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/** The float of a key. */
KVSIM__SHARED float kvsim__key_float(uint32_t key) {
    const uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/** Larger for the larger cosine, then for the earlier slot. 0: no pair. */
KVSIM__SHARED uint64_t kvsim__best_key(float cosine, uint32_t earlier) {
    return (uint64_t)kvsim__float_key(cosine) << 32 | (uint32_t)~earlier;
}

/** Limb and units of a finite relative error. */
KVSIM__SHARED uint32_t kvsim__limb_of(float error, uint64_t *units) {
    uint32_t limb = 0;
    float scaled = error;
    while (scaled >= 0x1p14f && limb + 1 < KVSIM__LIMBS) {
        scaled *= 0x1p-20f;
        limb++;
    }
    *units = (uint64_t)(scaled * 0x1p20f);
    return limb;
}

#endif
