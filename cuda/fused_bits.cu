/* The fused way to compare bits: sign bits by |x| + |y| - 2 |x and y|, active sets by |x and y| / |x or y|. */
#include "tiles.cuh"

/* Counters of a block. */
struct bit_counters {
    uint32_t histogram[KVSIM_HISTOGRAM_BINS];
    unsigned long long differ[WARPS], either[WARPS], jaccard[WARPS];
};

/* What is known of a row or column. */
struct bit_fact {
    uint32_t set; /* bits */
    uint32_t sequence;
    uint32_t there; /* 1 if there is a page */
    uint32_t unused;
};

struct bit_facts {
    bit_fact rows[BLOCK_ROWS], columns[COLUMNS];
    uint32_t whole; /* 1: there is a page in every row and column */
};

template <int WHAT>
static __device__ __forceinline__ bit_fact bit_fact_at(const kvsim__device_panel &panel, uint32_t row) {
    bit_fact fact = {0, 0, 0, 0};
    if (row < panel.count) {
        const kvsim__slot_facts slot = panel.facts[row].slot;
        fact.set = WHAT == KVSIM__BITS_SIGN ? panel.sign_count[row] : panel.active_count[row];
        fact.sequence = slot.sequence;
        fact.there = slot.class_id != UINT32_MAX;
    }
    return fact;
}

/*
 * distance * KVSIM_HISTOGRAM_BINS / elements, rounded down, for distances up to `elements`, by a multiplication with the
 * quotient of 2^(32 + shift), rounded up: exact while elements^2 <= 2^(32 + shift) (Granlund and Montgomery, 1994).
 */
struct bin_divisor {
    uint32_t factor, shift;
};

static bin_divisor divisor_of(uint32_t elements) {
    bin_divisor divisor = {0, 0};
    while ((uint64_t)KVSIM_HISTOGRAM_BINS << (divisor.shift + 1) < elements) {
        divisor.shift++;
    }
    divisor.factor =
        (uint32_t)((((uint64_t)KVSIM_HISTOGRAM_BINS << (32 + divisor.shift)) + elements - 1) / elements);
    return divisor;
}

static __device__ __forceinline__ uint32_t bin_of_bits(uint32_t distance, bin_divisor divisor) {
    return min(__umulhi(distance, divisor.factor) >> divisor.shift, (uint32_t)KVSIM_HISTOGRAM_BINS - 1);
}

/* A compare of bits with what its kernel needs besides. */
struct bit_job {
    kvsim__device_bit_compare compare;
    bin_divisor divisor;
};

/* What is done with tiles of counts of bits that both pages have set. */
template <int WHAT> struct bit_work {
    enum { operand = OPERAND_BITS };
    typedef bit_job job;
    typedef bit_facts facts;
    typedef bit_counters counters;
    struct limits {};
    static __device__ __forceinline__ void begin(bit_counters *block, const job &) {
        for (int i = (int)threadIdx.x; i < KVSIM_HISTOGRAM_BINS; i += THREADS) {
            block->histogram[i] = 0;
        }
        if (threadIdx.x < WARPS) {
            block->differ[threadIdx.x] = block->either[threadIdx.x] = block->jaccard[threadIdx.x] = 0;
        }
    }
    static __device__ __forceinline__ limits find_limits(const job &) {
        return {};
    }
    static __device__ __forceinline__ void fetch(const job &job, uint32_t row, uint32_t column, facts *to) {
        uint32_t whole = 1;
        for (uint32_t i = threadIdx.x % 32; i < BLOCK_ROWS; i += 32) {
            to->rows[i] = bit_fact_at<WHAT>(job.compare.rows, row + i);
            whole &= to->rows[i].there;
        }
        for (uint32_t i = threadIdx.x % 32; i < COLUMNS; i += 32) {
            to->columns[i] = bit_fact_at<WHAT>(job.compare.columns, column + i);
            whole &= to->columns[i].there;
        }
        whole = __all_sync(0xffffffffu, (int)whole);
        to->whole = whole;
    }
    /* ALL: every pair counts; there is no need to look at each. */
    template <bool ALL>
    static __device__ __forceinline__ void take_all(const job &job, bit_counters *block, const facts *facts,
                                                    const int (&total)[SUMS], uint32_t row, uint32_t in_block,
                                                    uint32_t column) {
        const kvsim__device_bit_compare &compare = job.compare;
        const int lane = (int)threadIdx.x % 32;
        const bit_fact rows[2] = {facts->rows[in_block], facts->rows[in_block + 8]};
        const uint32_t later = compare.rows.first + row + in_block, first_earlier = compare.columns.first + column;
        bin_bytes bins = {0, 0, -1};
        uint32_t differ = 0, either_of_all = 0; /* of 96 pairs of at most 2^24 elements */
        float jaccard = 0.0f;
#pragma unroll 1
        for (int p = 0; p < PIECE_COUNT; p++) {
            int piece[PIECE];
            take_piece(p, total, piece);
#pragma unroll
            for (int k = 0; k < PIECE; k++) {
                const bit_fact &x = rows[row_of(k)];
                const int j = column_of(p * PIECE_COLUMNS + element_of(k), lane);
                const bit_fact &y = facts->columns[j];
                const bool counts_for =
                    ALL || ((x.there & y.there) != 0 &&
                            later + (uint32_t)(row_of(k) * 8) > first_earlier + (uint32_t)j &&
                            (compare.filter == 0 || x.sequence != y.sequence));
                const uint32_t common = (uint32_t)piece[k], sum = x.set + y.set;
                uint32_t bin;
                if (WHAT == KVSIM__BITS_SIGN) {
                    const uint32_t distance = sum - 2 * common;
                    bin = bin_of_bits(distance, job.divisor);
                    differ += counts_for ? distance : 0;
                } else {
                    const uint32_t either = sum - common;
                    const float index = either > 0 ? __fdividef((float)common, (float)either) : 1.0f;
                    bin = min((uint32_t)(index * (float)KVSIM_HISTOGRAM_BINS), (uint32_t)KVSIM_HISTOGRAM_BINS - 1);
                    either_of_all += counts_for ? either : 0;
                    jaccard += counts_for ? index : 0.0f;
                }
                if (p == 0 && k == 0) { /* the bins of a whole warp are around those of its first thread */
                    bins.base = max((int)__shfl_sync(0xffffffffu, bin, 0) - 3, 0);
                }
                const uint32_t at = bin - (uint32_t)bins.base;
                count_bin(bins, at * 8u, counts_for && at < 8u);
                if (counts_for && at >= 8u) {
                    atomicAdd(&block->histogram[bin], 1u);
                }
            }
        }
        flush_bins(bins, block->histogram);
        put_sums(block, differ, either_of_all, jaccard);
    }
    /* Add the sums of a warp. */
    static __device__ __forceinline__ void put_sums(bit_counters *block, uint32_t differ, uint32_t either,
                                                    float jaccard) {
        unsigned long long all_differ = differ, all_either = either;
        unsigned long long units = (unsigned long long)__double2ll_rn((double)jaccard * (double)KVSIM__JACCARD_UNITS);
        for (int other = 16; other > 0; other /= 2) {
            all_differ += __shfl_xor_sync(0xffffffffu, all_differ, other);
            all_either += __shfl_xor_sync(0xffffffffu, all_either, other);
            units += __shfl_xor_sync(0xffffffffu, units, other);
        }
        if (threadIdx.x % 32 == 0) {
            const int warp = (int)threadIdx.x / 32;
            block->differ[warp] += all_differ;
            block->either[warp] += all_either;
            block->jaccard[warp] += units;
        }
    }
    static __device__ __forceinline__ void take(const job &job, const limits &, bit_counters *block,
                                                const facts *facts, const int (&total)[SUMS], uint32_t row,
                                                uint32_t in_block, uint32_t column) {
        const bool all = facts->whole != 0 && job.compare.filter == 0 &&
                         job.compare.columns.first + column + COLUMNS <= job.compare.rows.first + row;
        if (all) {
            take_all<true>(job, block, facts, total, row, in_block, column);
        } else {
            take_all<false>(job, block, facts, total, row, in_block, column);
        }
    }
    static __device__ __forceinline__ void end(const bit_counters *block, const job &job) {
        kvsim__device_bit_figures *figures = job.compare.figures;
        for (int i = (int)threadIdx.x; i < KVSIM_HISTOGRAM_BINS; i += MULTIPLIERS) {
            if (block->histogram[i] > 0) {
                atomicAdd((unsigned long long *)&figures->histogram[i],
                          (unsigned long long)block->histogram[i]);
            }
        }
        if (threadIdx.x < WARPS) {
            atomicAdd((unsigned long long *)&figures->differ, block->differ[threadIdx.x]);
            atomicAdd((unsigned long long *)&figures->union_elements, block->either[threadIdx.x]);
            atomicAdd((unsigned long long *)&figures->jaccard_units, block->jaccard[threadIdx.x]);
        }
    }
};

int32_t fused_compare_bits(kvsim__device *device, const kvsim__device_bit_compare *compare) {
    fused_job job;
    const bit_job work = {*compare, divisor_of(compare->elements)};
    const bool signs = compare->what == KVSIM__BITS_SIGN;
    const uint32_t triangle = compare->rows.first == compare->columns.first;
    job.steps = (uint32_t)(compare->rows.bit_bytes / STEP_BYTES);
    int32_t status = describe_rows(device, signs ? compare->rows.signs : compare->rows.actives,
                                   compare->rows.bit_bytes, compare->rows.capacity, BLOCK_ROWS, &job.rows);
    if (status == KVSIM_OK) {
        status = describe_rows(device, signs ? compare->columns.signs : compare->columns.actives,
                               compare->columns.bit_bytes, compare->columns.capacity, HALF_COLUMNS, &job.columns);
    }
    if (status == KVSIM_OK) {
        status = list_tiles(device, 0, compare->rows.count, compare->columns.count, triangle, &job);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    return signs ? launch_tiles<bit_work<KVSIM__BITS_SIGN>>(device, &job, &work)
                 : launch_tiles<bit_work<KVSIM__BITS_ACTIVE>>(device, &job, &work);
}
