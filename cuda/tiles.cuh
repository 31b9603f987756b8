/**
 * All pairs of rows of two panels on the tensor cores of sm_90a: what the fused kernels have in common.
 *
 * One persistent kernel computes products and does with each pair what is to be done, from registers; nothing of N x N
 * is written. A cluster of two blocks works on a tile of 256 later by 192 earlier pages: each block has its own 128
 * later ones, and each fetches half of the earlier ones for both (multicast). In a block one warp fetches stages of 128
 * bytes of each row with the bulk tensor copy engine, up to STAGES ahead, another fetches facts of pages; two groups of
 * four warps multiply 64 rows each and take the pairs.
 *
 * Tensor cores of this generation cut off what does not fit when they add to fp32 sums, so sums lose a little with each
 * instruction, always towards zero. After every PROMOTE stages the sums go on in other registers, with rounding, and
 * begin at zero: the loss is then bounded by the instructions of one such stretch.
 */
#ifndef KVSIM_CUDA_TILES_CUH
#define KVSIM_CUDA_TILES_CUH

#include "device.cuh"
#include "hopper.cuh"
#include "schedule.h"

enum {
    STAGES = 4,
    GROUPS = 2, /* of warps that multiply */
    GROUP_THREADS = 128,
    THREADS = (GROUPS + 1) * GROUP_THREADS,
    CLUSTER = 2,
    BARRIER_BYTES = 8,
    STEP_BYTES = 128, /* of a row in a stage: one swizzled line */
    BLOCK_ROWS = 128, /* later pages of a block */
    COLUMNS = KVSIM__TILE_COLUMNS,
    HALF_COLUMNS = COLUMNS / CLUSTER,
    ROW_BYTES = BLOCK_ROWS * STEP_BYTES,
    COLUMN_BYTES = COLUMNS * STEP_BYTES,
    STAGE_BYTES = ROW_BYTES + COLUMN_BYTES,
    SUMS = 96,
    PIECES = 48, /* elements of one row in a thread */
    INTERVAL = 8, /* stages between two looks at how far the other clusters are */
    MOST_PATIENCE = 400,
    MULTIPLIERS = GROUPS * GROUP_THREADS,
    WARPS = MULTIPLIERS / 32
};

/* What is multiplied, and how. PASSES: parts of a row that are multiplied with parts of another. */
template <int OPERAND> struct kind_of;
template <> struct kind_of<KVSIM__OPERAND_BF16> {
    typedef float sum;
    enum { PROMOTE = 8, PASSES = 1 };
    static __device__ __forceinline__ void multiply(float (&d)[SUMS], uint64_t a, uint64_t b, int keep) {
        product_bf16(d, a, b, keep);
    }
};
template <> struct kind_of<KVSIM__OPERAND_F16> {
    typedef float sum;
    enum { PROMOTE = 2, PASSES = 1 };
    static __device__ __forceinline__ void multiply(float (&d)[SUMS], uint64_t a, uint64_t b, int keep) {
        product_f16(d, a, b, keep);
    }
};
template <> struct kind_of<KVSIM__OPERAND_SPLIT> {
    typedef float sum;
    enum { PROMOTE = 2, PASSES = 3 };
    static __device__ __forceinline__ void multiply(float (&d)[SUMS], uint64_t a, uint64_t b, int keep) {
        product_f16(d, a, b, keep);
    }
};
template <> struct kind_of<KVSIM__OPERAND_E4M3> {
    typedef float sum;
    enum { PROMOTE = 1, PASSES = 1 };
    static __device__ __forceinline__ void multiply(float (&d)[SUMS / 2], uint64_t a, uint64_t b, int keep) {
        product_e4m3(d, a, b, keep);
    }
};
template <> struct kind_of<KVSIM__OPERAND_E5M2> {
    typedef float sum;
    enum { PROMOTE = 1, PASSES = 1 };
    static __device__ __forceinline__ void multiply(float (&d)[SUMS / 2], uint64_t a, uint64_t b, int keep) {
        product_e5m2(d, a, b, keep);
    }
};
template <> struct kind_of<KVSIM__OPERAND_I8> {
    typedef int sum;
    enum { PROMOTE = 0, PASSES = 1 };
    static __device__ __forceinline__ void multiply(int (&d)[SUMS], uint64_t a, uint64_t b, int keep) {
        product_i8(d, a, b, keep);
    }
};
/* Bits: not an operand of packed elements. */
enum { OPERAND_BITS = 0 };
template <> struct kind_of<OPERAND_BITS> {
    typedef int sum;
    enum { PROMOTE = 0, PASSES = 1 };
    static __device__ __forceinline__ void multiply(int (&d)[SUMS], uint64_t a, uint64_t b, int keep) {
        product_b1(d, a, b, keep);
    }
};

/* What a launch works on. */
struct fused_job {
    CUtensorMap rows, columns;
    const uint32_t *tiles;
    uint32_t tile_count;
    uint32_t steps;     /* stages of one pass */
    uint32_t *progress; /* intervals of INTERVAL stages that all clusters have fetched; zero at the start */
};

/* Shared memory behind the stages. Facts of the tile at hand and of the next one take turns. */
template <class WORK> struct tile_shared {
    uint64_t full[STAGES], empty[STAGES], facts_full[2], facts_empty[2];
    typename WORK::facts facts[2];
    typename WORK::counters counters;
};

/* First row of a block in a tile, and first column. */
static __device__ __forceinline__ uint32_t tile_row(uint32_t tile) {
    return (tile >> 16) * KVSIM__TILE_ROWS + cluster_rank() * BLOCK_ROWS;
}
static __device__ __forceinline__ uint32_t tile_column(uint32_t tile) {
    return (tile & 0xffffu) * COLUMNS;
}

/* Which part of a row a pass takes, in stages: the passes over low parts come first. */
template <int PASSES> static __device__ __forceinline__ uint32_t first_step(int pass, bool of_rows, uint32_t steps) {
    return PASSES == 1 ? 0 : pass == 0 ? (of_rows ? 0 : steps) : pass == 1 ? (of_rows ? steps : 0) : 0;
}

/*
 * Clusters that work on neighbouring tiles read the same rows. They stay in the L2 cache only while all clusters are at
 * about the same elements of them, so a cluster that is more than an interval ahead of the others waits for them. It does
 * not wait for long: the others may not be running, where the host's own work takes their place.
 */
static __device__ __forceinline__ void keep_together(const fused_job &job, uint32_t intervals) {
    const uint32_t target = (intervals - 1) * (gridDim.x / CLUSTER);
    atomicAdd(job.progress, 1u);
    for (int patience = 0; patience < MOST_PATIENCE; patience++) {
        if (*(volatile const uint32_t *)job.progress >= target) {
            return;
        }
        __nanosleep(50);
    }
}

template <int PASSES>
static __device__ __forceinline__ void fetch(const fused_job &job, uint32_t stages, uint32_t full,
                                             uint32_t empty) {
    const uint32_t rank = cluster_rank();
    uint32_t stage = 0, phase = 0, fetched = 0;
    for (uint32_t at = blockIdx.x / CLUSTER; at < job.tile_count; at += gridDim.x / CLUSTER) {
        const uint32_t tile = job.tiles[at];
        const int row = (int)tile_row(tile);
        const int column = (int)(tile_column(tile) + rank * HALF_COLUMNS);
        for (int pass = 0; pass < PASSES; pass++) {
            const uint32_t row_step = first_step<PASSES>(pass, true, job.steps);
            const uint32_t column_step = first_step<PASSES>(pass, false, job.steps);
            for (uint32_t step = 0; step < job.steps; step++) {
                const uint32_t to = stages + stage * STAGE_BYTES;
                const uint32_t arrived = full + stage * BARRIER_BYTES;
                barrier_wait(empty + stage * BARRIER_BYTES, phase ^ 1);
                barrier_expect(arrived, STAGE_BYTES);
                copy_box(to, &job.rows, (int)((row_step + step) * STEP_BYTES), row, arrived);
                copy_box_to_all(to + ROW_BYTES + rank * HALF_COLUMNS * STEP_BYTES, &job.columns,
                                (int)((column_step + step) * STEP_BYTES), column, arrived, 3);
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
                if (++fetched % INTERVAL == 0 && rank == 0) {
                    keep_together(job, fetched / INTERVAL);
                }
            }
        }
    }
    const uint32_t clusters = gridDim.x / CLUSTER;
    if (rank == 0 && job.tile_count % clusters != 0 && blockIdx.x / CLUSTER >= job.tile_count % clusters) {
        atomicAdd(job.progress, PASSES * job.steps / INTERVAL + 1); /* one tile less than others: they need not wait */
    }
}

/* Both blocks of the cluster may fetch into a stage again once all groups of both have read it. */
static __device__ __forceinline__ void give_back(uint32_t empty) {
    if (threadIdx.x % GROUP_THREADS < CLUSTER) {
        barrier_arrive_at(empty, threadIdx.x % GROUP_THREADS);
    }
}

/* The compiler must not touch the sums between here and there: they are written while it does other things. */
template <class SUM, int COUNT> static __device__ __forceinline__ void hold_sums(SUM (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if constexpr (sizeof(SUM) == sizeof(float) && (SUM)0.5 != (SUM)0) {
            asm volatile("" : "+f"(sums[i])::"memory");
        } else {
            asm volatile("" : "+r"(sums[i])::"memory");
        }
    }
}

/* Where in the ring of stages a group is. */
struct ring_place {
    uint32_t stage, phase;
};

/* What a group needs to know of shared memory: addresses of barriers, descriptors of its rows and of the columns. */
struct ring {
    uint32_t full, empty;
    uint64_t rows, columns;
};

static __device__ __forceinline__ ring make_ring(uint32_t stages, uint32_t full, uint32_t empty, int group) {
    ring made;
    made.full = full;
    made.empty = empty;
    made.rows = matrix_descriptor(stages + (uint32_t)group * 64u * STEP_BYTES);
    made.columns = matrix_descriptor(stages + ROW_BYTES);
    return made;
}

/* Multiply `count` stages one after the other; the sums begin at zero and are there at the end. */
template <int OPERAND>
static __device__ __forceinline__ void multiply_stretch(uint32_t count, const ring &ring, ring_place &at,
                                                        typename kind_of<OPERAND>::sum (&sums)[SUMS]) {
    uint32_t before = at.stage;
#pragma unroll 1
    for (uint32_t step = 0; step < count; step++) {
        barrier_wait(ring.full + at.stage * BARRIER_BYTES, at.phase);
        const uint64_t a = ring.rows + at.stage * (STAGE_BYTES >> 4);
        const uint64_t b = ring.columns + at.stage * (STAGE_BYTES >> 4);
        hold_sums(sums);
        products_begin();
#pragma unroll
        for (int k = 0; k < STEP_BYTES / 32; k++) {
            kind_of<OPERAND>::multiply(sums, a + 2 * k, b + 2 * k, step > 0 || k > 0);
        }
        products_commit();
        products_wait<1>();
        hold_sums(sums);
        if (step > 0) {
            give_back(ring.empty + before * BARRIER_BYTES);
        }
        before = at.stage;
        if (++at.stage == STAGES) {
            at.stage = 0;
            at.phase ^= 1;
        }
    }
    products_wait<0>();
    hold_sums(sums);
    give_back(ring.empty + before * BARRIER_BYTES);
}

/*
 * One stage, half of the columns after the other, added to `total`: for elements of 8 bits, whose sums in the tensor
 * cores have so few bits that they must begin anew with every stage.
 */
template <int OPERAND>
static __device__ __forceinline__ void multiply_stage(const ring &ring, ring_place &at, float (&total)[SUMS]) {
    float sums[SUMS / 2];
    barrier_wait(ring.full + at.stage * BARRIER_BYTES, at.phase);
    const uint64_t a = ring.rows + at.stage * (STAGE_BYTES >> 4);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint64_t b = ring.columns + at.stage * (STAGE_BYTES >> 4) + half * (HALF_COLUMNS * STEP_BYTES >> 4);
        hold_sums(sums);
        products_begin();
#pragma unroll
        for (int k = 0; k < STEP_BYTES / 32; k++) {
            kind_of<OPERAND>::multiply(sums, a + 2 * k, b + 2 * k, k > 0);
        }
        products_commit();
        products_wait<0>();
        hold_sums(sums);
        if (half == 1) {
            give_back(ring.empty + at.stage * BARRIER_BYTES);
        }
#pragma unroll
        for (int i = 0; i < SUMS / 2; i++) {
            total[half * (SUMS / 2) + i] += sums[i];
        }
    }
    if (++at.stage == STAGES) {
        at.stage = 0;
        at.phase ^= 1;
    }
}

/* Multiply the 64 rows of a group with all columns of a tile: the sums are in `total`. */
template <int OPERAND>
static __device__ __forceinline__ void multiply_tile(uint32_t steps, const ring &ring, ring_place &at,
                                                     typename kind_of<OPERAND>::sum (&total)[SUMS]) {
    typedef kind_of<OPERAND> kind;
    if constexpr (kind::PROMOTE == 0) {
        multiply_stretch<OPERAND>(steps, ring, at, total);
    } else if constexpr (kind::PROMOTE == 1) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            total[i] = 0;
        }
#pragma unroll 1
        for (uint32_t step = 0; step < steps; step++) {
            multiply_stage<OPERAND>(ring, at, total);
        }
    } else {
        typename kind::sum sums[SUMS];
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            total[i] = 0;
        }
#pragma unroll 1
        for (int pass = 0; pass < kind::PASSES; pass++) {
#pragma unroll 1
            for (uint32_t step = 0; step < steps; step += kind::PROMOTE) {
                multiply_stretch<OPERAND>(min(steps - step, (uint32_t)kind::PROMOTE), ring, at, sums);
#pragma unroll
                for (int i = 0; i < SUMS; i++) {
                    total[i] += sums[i];
                }
            }
            if (kind::PASSES > 1 && pass == 1) { /* the low parts are of 2^11 times what the high parts leave */
#pragma unroll
                for (int i = 0; i < SUMS; i++) {
                    total[i] *= 0x1p-11f;
                }
            }
        }
    }
}

/*
 * A thread's sums are looked at a piece at a time: code for all of them at once would not fit the instruction cache.
 * Piece p holds sums 16 p to 16 p + 15: of 8 columns of each of two rows, which are 8 apart.
 */
enum { PIECE = 16, PIECE_COLUMNS = PIECE / 2, PIECE_COUNT = SUMS / PIECE };

template <int P, class SUM>
static __device__ __forceinline__ void copy_piece(const SUM (&total)[SUMS], SUM (&piece)[PIECE]) {
#pragma unroll
    for (int k = 0; k < PIECE; k++) {
        piece[k] = total[P * PIECE + k];
    }
}

template <class SUM>
static __device__ __forceinline__ void take_piece(int p, const SUM (&total)[SUMS], SUM (&piece)[PIECE]) {
    switch (p) {
    case 0:
        copy_piece<0>(total, piece);
        break;
    case 1:
        copy_piece<1>(total, piece);
        break;
    case 2:
        copy_piece<2>(total, piece);
        break;
    case 3:
        copy_piece<3>(total, piece);
        break;
    case 4:
        copy_piece<4>(total, piece);
        break;
    default:
        copy_piece<5>(total, piece);
        break;
    }
}

/* Row (0 or 1) and element (0 .. PIECE_COLUMNS - 1) of sum k of a piece. */
static __device__ __forceinline__ constexpr int row_of(int k) {
    return k / 2 % 2;
}
static __device__ __forceinline__ constexpr int element_of(int k) {
    return k / 4 * 2 + k % 2;
}

/* Column of a tile that element e of a row belongs to, e counted over all pieces. */
static __device__ __forceinline__ int column_of(int e, int lane) {
    return e / 2 * 8 + lane % 4 * 2 + e % 2;
}

/* ---- counting in registers ---- */

/* Counts of eight neighbouring bins, a byte each: at most 255 pairs between two flushes. The same bins in all threads
 * of a warp. */
struct bin_bytes {
    uint32_t low, high;
    int base;
};

/* Count bin base + by / 8; `by` is below 64, a multiple of 8. */
static __device__ __forceinline__ void count_bin(bin_bytes &counts, uint32_t by, bool takes) {
    uint32_t low, high; /* a shift by 32 or more leaves nothing */
    asm("shl.b32 %0, 1, %1;" : "=r"(low) : "r"(by));
    asm("shl.b32 %0, 1, %1;" : "=r"(high) : "r"(by - 32u));
    counts.low += takes ? low : 0u;
    counts.high += takes ? high : 0u;
}

/* Add the counts of a warp to a histogram in shared memory. */
static __device__ __forceinline__ void flush_bins(const bin_bytes &counts, uint32_t *histogram) {
    const uint32_t mask = 0x00ff00ffu, lane = threadIdx.x % 32;
    const uint32_t even_low = __reduce_add_sync(0xffffffffu, counts.low & mask);
    const uint32_t odd_low = __reduce_add_sync(0xffffffffu, counts.low >> 8 & mask);
    const uint32_t even_high = __reduce_add_sync(0xffffffffu, counts.high & mask);
    const uint32_t odd_high = __reduce_add_sync(0xffffffffu, counts.high >> 8 & mask);
    const uint32_t low = lane % 2 == 0 ? even_low : odd_low, high = lane % 2 == 0 ? even_high : odd_high;
    const uint32_t count = ((lane < 4 ? low : high) >> (lane / 2 % 2 * 16)) & 0xffffu;
    if (lane < 8 && count > 0) {
        atomicAdd(&histogram[min(counts.base + (int)lane, KVSIM_HISTOGRAM_BINS - 1)], count);
    }
}

/* ---- the kernel ---- */

/*
 * WORK says what is multiplied (`operand`), what a compare is (`job`), what is kept of rows and columns (`facts`, which
 * one warp fetches), what is counted (`counters`) and what becomes of a tile's sums (`take`).
 */
template <class WORK>
static __global__ void __launch_bounds__(THREADS, 1)
    tile_kernel(const __grid_constant__ fused_job job, const __grid_constant__ typename WORK::job compare) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    typedef kind_of<WORK::operand> kind;
    extern __shared__ __align__(1024) unsigned char stages[];
    tile_shared<WORK> *shared = (tile_shared<WORK> *)(stages + STAGES * STAGE_BYTES);
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0); /* known to be the same in a whole warp */
    const int group = warp / (GROUP_THREADS / 32);
    const ring ring =
        make_ring(shared_address(stages), shared_address(shared->full), shared_address(shared->empty), group);
    const uint32_t facts_full = shared_address(shared->facts_full), facts_empty = shared_address(shared->facts_empty);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(ring.full + s * BARRIER_BYTES, 1);
            barrier_init(ring.empty + s * BARRIER_BYTES, GROUPS * CLUSTER);
        }
        for (int s = 0; s < 2; s++) {
            barrier_init(facts_full + s * BARRIER_BYTES, 1);
            barrier_init(facts_empty + s * BARRIER_BYTES, WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    WORK::begin(&shared->counters, compare);
    __syncthreads();
    cluster_sync();
    const uint32_t first = blockIdx.x / CLUSTER, stride = gridDim.x / CLUSTER;
    if (group == GROUPS) {
        registers_shrink<40>();
        if (threadIdx.x == MULTIPLIERS) {
            fetch<kind::PASSES>(job, shared_address(stages), ring.full, ring.empty);
        } else if (warp == WARPS + 1) {
            uint32_t number = 0;
            for (uint32_t at = first; at < job.tile_count; at += stride, number++) {
                const uint32_t half = number % 2, tile = job.tiles[at];
                barrier_wait(facts_empty + half * BARRIER_BYTES, (number / 2 + 1) % 2);
                WORK::fetch(compare, tile_row(tile), tile_column(tile), &shared->facts[half]);
                __syncwarp();
                if (threadIdx.x % 32 == 0) {
                    barrier_arrive(facts_full + half * BARRIER_BYTES);
                }
            }
        }
    } else {
        registers_grow<232>();
        typename kind::sum total[SUMS];
        const typename WORK::limits limits = WORK::find_limits(compare);
        ring_place place = {0, 0};
        uint32_t number = 0;
        for (uint32_t at = first; at < job.tile_count; at += stride, number++) {
            const uint32_t half = number % 2, tile = job.tiles[at];
            multiply_tile<WORK::operand>(job.steps, ring, place, total);
            barrier_wait(facts_full + half * BARRIER_BYTES, number / 2 % 2);
            WORK::take(compare, limits, &shared->counters, &shared->facts[half], total, tile_row(tile),
                       (uint32_t)(warp * 16) + threadIdx.x % 32 / 4, tile_column(tile));
            __syncwarp();
            if (threadIdx.x % 32 == 0) {
                barrier_arrive(facts_empty + half * BARRIER_BYTES);
            }
        }
        warps_sync(1, MULTIPLIERS);
        WORK::end(&shared->counters, compare);
    }
    cluster_sync(); /* no block goes away while the other may still write to it */
#endif
}

/* ---- the host's side ---- */

/* Rows of bytes, in boxes of `rows` by one swizzled line; what is past the end reads as zero. */
static int32_t describe_rows(kvsim__device *device, const void *memory, uint64_t row_bytes, uint64_t row_count,
                             uint32_t box_rows, CUtensorMap *map) {
    const cuuint64_t sizes[2] = {row_bytes, row_count};
    const cuuint64_t strides[1] = {row_bytes};
    const cuuint32_t box[2] = {STEP_BYTES, box_rows};
    const cuuint32_t steps[2] = {1, 1};
    const CUresult result =
        device->encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)memory, sizes, strides, box, steps,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? KVSIM_OK
                                  : device_fail(device, KVSIM_E_INTERNAL, "CUDA device %d: no tensor map (error %d)",
                                                device->ordinal, (int)result);
}

static int32_t list_tiles(kvsim__device *device, uint32_t row_begin, uint32_t row_end, uint32_t columns,
                          uint32_t triangle, fused_job *job) {
    const size_t count = kvsim__list_tiles(row_begin, row_end, columns, triangle, NULL);
    int32_t status = KVSIM_OK;
    /* The list of the launch before may still be on its way. */
    status = device_check(device, cudaStreamSynchronize(device->stream), "waiting for its work");
    if (status == KVSIM_OK && count > device->tile_capacity) {
        (void)cudaFree(device->tiles);
        (void)cudaFreeHost(device->host_tiles);
        device->tiles = device->host_tiles = NULL;
        device->tile_capacity = 0;
        /* The clusters' progress lies behind the tiles. */
        status = device_check(device, cudaMalloc(&device->tiles, (count + 1) * sizeof(uint32_t)), "a list of tiles");
        if (status == KVSIM_OK) {
            status = device_check(device, cudaMallocHost(&device->host_tiles, count * sizeof(uint32_t)),
                                  "a list of tiles");
        }
        device->tile_capacity = status == KVSIM_OK ? count : 0;
    }
    if (status == KVSIM_OK) {
        (void)kvsim__list_tiles(row_begin, row_end, columns, triangle, device->host_tiles);
        status = device_check(device,
                              cudaMemcpyAsync(device->tiles, device->host_tiles, count * sizeof(uint32_t),
                                              cudaMemcpyHostToDevice, device->stream),
                              "a list of tiles");
    }
    if (status == KVSIM_OK) {
        status = device_check(device,
                              cudaMemsetAsync(device->tiles + device->tile_capacity, 0, sizeof(uint32_t),
                                              device->stream),
                              "clearing memory");
    }
    job->tiles = device->tiles;
    job->progress = device->tiles + device->tile_capacity;
    job->tile_count = (uint32_t)count;
    return status;
}

/* Compare all tiles of rows [row_begin, row_end). */
template <class WORK>
static int32_t launch_tiles(kvsim__device *device, const fused_job *job, const typename WORK::job *compare) {
    const size_t bytes = (size_t)STAGES * STAGE_BYTES + sizeof(tile_shared<WORK>);
    int32_t status = device_check(
        device,
        cudaFuncSetAttribute(tile_kernel<WORK>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
        "shared memory of a kernel");
    if (status != KVSIM_OK || job->tile_count == 0) {
        return status;
    }
    const uint32_t most = (uint32_t)device->properties.multiProcessorCount / CLUSTER;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = CLUSTER;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((job->tile_count < most ? job->tile_count : most) * CLUSTER);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = device->stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return device_check(device, cudaLaunchKernelEx(&config, tile_kernel<WORK>, *job, *compare), "the fused kernel");
}

#endif
