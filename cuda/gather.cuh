/**
 * What becomes of a pair once its packed dot product is there: the end of every way to compare.
 *
 * A block of threads has one `tally` in shared memory; each thread walks along rows of pairs with a `walker`, which
 * keeps in registers what would otherwise be written for every pair. Everything that leaves the block is a whole
 * number, an extremum or a bit, so the figures do not depend on the order of threads.
 */
#ifndef KVSIM_CUDA_GATHER_CUH
#define KVSIM_CUDA_GATHER_CUH

#include "device.cuh"

/** Counters of a block of at most eight warps that count. */
struct tally {
    uint32_t histograms[3][KVSIM_HISTOGRAM_BINS];
    uint32_t levels[KVSIM_MAX_LEVELS + 1]; /**< pairs that reach so many thresholds */
    unsigned long long infinite, relative_units[KVSIM__LIMBS]; /**< what is too large for a walker's sums */
    struct {
        unsigned long long pairs, cosine_units, distance_units, relative_units;
        uint32_t least, most; /**< float keys */
    } warps[8];
};

/** Bins of a histogram that a thread counts in registers: eight in a row, a byte each. */
struct window {
    uint32_t low, high;
    int base;
};

/** A thread's share. */
struct walker {
    window windows[3];
    float cosine_sum, distance_sum, relative_sum;
    float least, most;
    uint32_t pairs;
    uint32_t row_level; /**< most thresholds that a pair of this row reaches */
    uint64_t row_best;
    /* The run of earlier slots of one sequence at hand. */
    uint32_t run_sequence, run_family, run_pairs, run_levels;
    long long run_units;
};

static __device__ __forceinline__ void tally_begin(tally *block, int thread, int threads) {
    for (int i = thread; i < 3 * KVSIM_HISTOGRAM_BINS; i += threads) {
        (&block->histograms[0][0])[i] = 0;
    }
    for (int i = thread; i < KVSIM_MAX_LEVELS + 1; i += threads) {
        block->levels[i] = 0;
    }
    if (thread == 0) {
        block->infinite = 0;
        for (int limb = 0; limb < KVSIM__LIMBS; limb++) {
            block->relative_units[limb] = 0;
        }
    }
    if (thread < 8) {
        block->warps[thread].pairs = block->warps[thread].cosine_units = 0;
        block->warps[thread].distance_units = block->warps[thread].relative_units = 0;
        block->warps[thread].least = UINT32_MAX;
        block->warps[thread].most = 0;
    }
}

/* Add a block's counters to the figures; the block's threads are past a barrier. */
static __device__ __forceinline__ void tally_end(const tally *block, kvsim__device_figures *figures, int thread,
                                                 int threads) {
    for (int i = thread; i < 3 * KVSIM_HISTOGRAM_BINS; i += threads) {
        const uint32_t count = (&block->histograms[0][0])[i];
        if (count > 0) {
            atomicAdd((unsigned long long *)&figures->histograms[0][0] + i, (unsigned long long)count);
        }
    }
    for (int t = thread; t < KVSIM_MAX_LEVELS; t += threads) {
        unsigned long long reached = 0;
        for (int level = t + 1; level <= KVSIM_MAX_LEVELS; level++) {
            reached += block->levels[level];
        }
        if (reached > 0) {
            atomicAdd((unsigned long long *)&figures->threshold_pairs[t], reached);
        }
    }
    if (thread < 8 && block->warps[thread].pairs > 0) {
        atomicAdd((unsigned long long *)&figures->pairs, block->warps[thread].pairs);
        atomicAdd((unsigned long long *)&figures->cosine_units, block->warps[thread].cosine_units);
        atomicAdd((unsigned long long *)&figures->distance_units, block->warps[thread].distance_units);
        atomicAdd((unsigned long long *)&figures->relative_units[0], block->warps[thread].relative_units);
        atomicMin(&figures->cosine_min, block->warps[thread].least);
        atomicMax(&figures->cosine_max, block->warps[thread].most);
    }
    if (thread == 0) {
        atomicAdd((unsigned long long *)&figures->relative_infinite, block->infinite);
        for (int limb = 0; limb < KVSIM__LIMBS; limb++) {
            atomicAdd((unsigned long long *)&figures->relative_units[limb], block->relative_units[limb]);
        }
    }
}

static __device__ __forceinline__ void walker_begin(walker *own) {
    for (int h = 0; h < 3; h++) {
        own->windows[h].low = own->windows[h].high = 0;
        own->windows[h].base = -1;
    }
    own->cosine_sum = own->distance_sum = own->relative_sum = 0.0f;
    own->least = 2.0f;
    own->most = -2.0f;
    own->pairs = 0;
}

static __device__ __forceinline__ void window_flush(window *counts, uint32_t *histogram) {
    for (int k = 0; k < 8; k++) {
        const uint32_t count = ((k < 4 ? counts->low : counts->high) >> (k % 4 * 8)) & 255u;
        if (count > 0) {
            atomicAdd(&histogram[min(counts->base + k, KVSIM_HISTOGRAM_BINS - 1)], count);
        }
    }
    counts->low = counts->high = 0;
}

/* At most 255 pairs are counted between two flushes. The window is put around the first one. */
static __device__ __forceinline__ void window_count(window *counts, uint32_t *histogram, uint32_t bin) {
    if (counts->base < 0) {
        counts->base = bin >= 3 ? (int)bin - 3 : 0;
    }
    const uint32_t at = bin - (uint32_t)counts->base;
    if (at < 8u) {
        const uint32_t one = 1u << (at % 4u * 8u);
        counts->low += at < 4u ? one : 0u;
        counts->high += at < 4u ? 0u : one;
    } else {
        atomicAdd(&histogram[bin], 1u);
    }
}

/* Add the walker's sums to the block; at the end of each tile, so that a sum has few terms. */
static __device__ __forceinline__ void walker_end(walker *own, tally *block) {
    for (int h = 0; h < 3; h++) {
        if (own->windows[h].base >= 0) {
            window_flush(&own->windows[h], block->histograms[h]);
        }
    }
    long long cosine = __double2ll_rn((double)own->cosine_sum * (double)KVSIM__DEVICE_COSINE_UNITS);
    long long distance = __double2ll_rn((double)own->distance_sum * (double)KVSIM__DISTANCE_UNITS);
    long long relative = __double2ll_rn((double)own->relative_sum * 1048576.0);
    uint32_t pairs = own->pairs;
    float least = own->least, most = own->most;
    for (int lane = 16; lane > 0; lane /= 2) {
        cosine += __shfl_xor_sync(0xffffffffu, cosine, lane);
        distance += __shfl_xor_sync(0xffffffffu, distance, lane);
        relative += __shfl_xor_sync(0xffffffffu, relative, lane);
        pairs += __shfl_xor_sync(0xffffffffu, pairs, lane);
        least = fminf(least, __shfl_xor_sync(0xffffffffu, least, lane));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lane));
    }
    if (threadIdx.x % 32 == 0 && pairs > 0) {
        auto &warp = block->warps[threadIdx.x / 32];
        warp.pairs += pairs;
        warp.cosine_units += (unsigned long long)cosine;
        warp.distance_units += (unsigned long long)distance;
        warp.relative_units += (unsigned long long)relative;
        warp.least = min(warp.least, kvsim__float_key(least));
        warp.most = max(warp.most, kvsim__float_key(most));
    }
}

static __device__ __forceinline__ void list_put(const kvsim__device_list *list, uint32_t later, uint32_t earlier,
                                                double cosine, double distance) {
    const uint32_t at = atomicAdd(list->count, 1u);
    if (at < list->capacity) {
        list->items[at].cosine = cosine;
        list->items[at].distance = distance;
        list->items[at].later = later;
        list->items[at].earlier = earlier;
    }
}

static __device__ __forceinline__ uint32_t levels_of(const kvsim__pair_rules *rules, double cosine, bool exact) {
    uint32_t level = 0;
    while (level < rules->threshold_count &&
           (exact ? cosine >= rules->exact_thresholds[level] : (float)cosine >= rules->thresholds[level])) {
        level++;
    }
    return level;
}

static __device__ __forceinline__ void note_sequence(const kvsim__device_compare *job, uint32_t sequence,
                                                     unsigned long long pairs, long long units) {
    atomicAdd((unsigned long long *)&job->sequence_pairs[sequence], pairs);
    atomicAdd((unsigned long long *)&job->sequence_units[sequence], (unsigned long long)units);
}

/* Figures that need to know which sequences a pair joins; `level` thresholds are reached. */
static __device__ __noinline__ void take_places(const kvsim__device_compare *job, const kvsim__slot_facts *later,
                                                const kvsim__slot_facts *earlier, uint32_t slot, float cosine,
                                                uint32_t level) {
    const uint32_t thresholds = job->host_rules.threshold_count;
    const long long units = __float2ll_rz(cosine * KVSIM__DEVICE_COSINE_UNITS);
    const uint32_t own = later->sequence, other = earlier->sequence;
    if (job->sequence_pairs != NULL) {
        note_sequence(job, own, 1, units);
        if (other != own) {
            note_sequence(job, other, 1, units);
        }
        for (uint32_t t = 0; t < level; t++) {
            atomicAdd((unsigned long long *)&job->sequence_threshold_pairs[(size_t)own * thresholds + t], 1ull);
            if (other != own) {
                atomicAdd((unsigned long long *)&job->sequence_threshold_pairs[(size_t)other * thresholds + t], 1ull);
            }
            atomicMin(&job->only_least[(size_t)slot * thresholds + t], other);
            atomicMax(&job->only_most[(size_t)slot * thresholds + t], other + 1);
        }
    }
    if (job->relation_bits != NULL) {
        const uint32_t relation = own == other ? 0u : later->family == earlier->family ? 1u : 2u;
        const uint32_t cell = later->stratum * KVSIM__RELATION_CELLS + relation;
        atomicAdd((unsigned long long *)&job->figures->strata_pairs[cell], 1ull);
        atomicAdd((unsigned long long *)&job->figures->strata_units[cell], (unsigned long long)units);
        for (uint32_t t = 0; t < level; t++) {
            atomicAdd((unsigned long long *)&job->figures->strata_threshold_pairs[cell][t], 1ull);
        }
        if (level > 0) {
            const unsigned long long bits = level < 64 ? (1ull << level) - 1 : ~0ull;
            atomicOr((unsigned long long *)&job->relation_bits[(size_t)slot * KVSIM__RELATION_CELLS + relation], bits);
        }
    }
}

/* Lists that a pair with final figures may belong to. */
static __device__ __forceinline__ void list_pair(const kvsim__device_compare *job, const kvsim__row_facts *x,
                                                 const kvsim__row_facts *y, uint32_t later, uint32_t earlier,
                                                 double cosine, double distance, float error, bool filtered) {
    const kvsim__pair_rules *rules = &job->host_rules;
    if ((job->flags & KVSIM__COMPARE_NEAR) != 0 && (y->slot.listed != 0 || rules->filtered_listing != 0) &&
        kvsim__is_near(rules, x->norm, y->norm, (float)cosine, (float)distance, error, filtered)) {
        list_put(&job->near, later, earlier, cosine, distance);
    }
    if ((job->flags & KVSIM__COMPARE_TOP) != 0 && !filtered && cosine >= (double)job->top_cutoff) {
        list_put(&job->top, later, earlier, cosine, distance);
    }
}

/* Count a pair with final figures. The walker keeps what concerns the row; `level` is returned through it. */
static __device__ __forceinline__ void count_pair(const kvsim__device_compare *job, walker *own, tally *block,
                                                  const kvsim__slot_facts *x, const kvsim__slot_facts *y,
                                                  uint32_t later, uint32_t earlier, float cosine, float distance,
                                                  float error, uint32_t level) {
    own->pairs++;
    own->cosine_sum += cosine;
    own->distance_sum += distance;
    own->least = fminf(own->least, cosine);
    own->most = fmaxf(own->most, cosine);
    window_count(&own->windows[0], block->histograms[0], kvsim__bin_of(0.5f * cosine + 0.5f));
    window_count(&own->windows[1], block->histograms[1], kvsim__bin_of(0.5f * distance));
    window_count(&own->windows[2], block->histograms[2], kvsim__bin_of(0.5f * error));
    if (error < 16384.0f) {
        own->relative_sum += error;
    } else if (isinf(error)) {
        atomicAdd(&block->infinite, 1ull);
    } else {
        uint64_t units;
        const uint32_t limb = kvsim__limb_of(error, &units);
        atomicAdd(&block->relative_units[limb], (unsigned long long)units);
    }
    if (level > 0) {
        atomicAdd(&block->levels[level], 1u);
        own->row_level = level > own->row_level ? level : own->row_level;
    }
    const uint64_t key = kvsim__best_key(cosine, earlier);
    own->row_best = key > own->row_best ? key : own->row_best;
    if (job->sequence_pairs != NULL || job->relation_bits != NULL) {
        take_places(job, x, y, later, cosine, level);
    }
}

static __device__ __forceinline__ void row_begin(walker *own) {
    own->row_level = 0;
    own->row_best = 0;
}

/* Add what a row has found to the slots' arrays; `lanes` neighbouring threads walk along the same row. */
static __device__ __forceinline__ void row_end(const kvsim__device_compare *job, walker *own, uint32_t later,
                                               int lanes) {
    uint32_t level = own->row_level;
    unsigned long long best = own->row_best;
    for (int lane = lanes / 2; lane > 0; lane /= 2) {
        const uint32_t other_level = __shfl_xor_sync(0xffffffffu, level, lane);
        const unsigned long long other_best = __shfl_xor_sync(0xffffffffu, best, lane);
        level = other_level > level ? other_level : level;
        best = other_best > best ? other_best : best;
    }
    if (threadIdx.x % lanes == 0) {
        if (level > 0) {
            atomicOr((unsigned long long *)&job->threshold_bits[later], level < 64 ? (1ull << level) - 1 : ~0ull);
        }
        if (job->best != NULL && best > 0) {
            atomicMax((unsigned long long *)&job->best[later], best);
        }
    }
}

/* One pair of a tile, whatever it is: absent, filtered, doubtful, plain. */
static __device__ __forceinline__ void take_pair(const kvsim__device_compare *job, walker *own, tally *block,
                                                 const kvsim__row_facts *x, const kvsim__row_facts *y, uint32_t later,
                                                 uint32_t earlier, float dot) {
    const kvsim__pair_rules *rules = &job->host_rules;
    if (later <= earlier || x->slot.class_id == UINT32_MAX || y->slot.class_id == UINT32_MAX) {
        return;
    }
    const bool filtered = rules->filter != 0 && x->slot.sequence == y->slot.sequence;
    if (filtered && rules->bounds == 0) {
        return;
    }
    const kvsim__pair_figures pair = kvsim__decide(rules, x, y, dot);
    if (pair.doubtful) {
        if ((job->flags & KVSIM__COMPARE_DOUBT) != 0) {
            list_put(&job->doubtful, later, earlier, 0.0, 0.0);
        }
        return;
    }
    list_pair(job, x, y, later, earlier, (double)pair.cosine, (double)pair.distance, pair.error, filtered);
    if (!filtered && (job->flags & KVSIM__COMPARE_GATHER) != 0) {
        count_pair(job, own, block, &x->slot, &y->slot, later, earlier, pair.cosine, pair.distance, pair.error,
                   levels_of(rules, (double)pair.cosine, false));
    }
}

#endif
