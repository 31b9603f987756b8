/* Comparing: which way, the ways that write products to memory first, and pairs that are computed in double. */
#include "gather.cuh"
#include "view.cuh"

enum {
    EPILOGUE_THREADS = 256,
    EPILOGUE_ROWS = 64,     /* of pairs, for each thread one column; at most 255 (see window_count) */
    SIMPLE_TILE = 64,
    SIMPLE_STEP = 16,
    SIMPLE_SIDE = 16,       /* threads on a side of a block */
    RESOLVERS_PER_PROCESSOR = 8
};

int32_t pairs_compare(kvsim__device *device, const kvsim__device_compare *job) {
    const uint32_t end = job->row_end < job->rows.count ? job->row_end : job->rows.count;
    if (end <= job->row_begin || job->columns.count == 0) {
        return KVSIM_OK;
    }
    switch (job->path) {
    case KVSIM__GRAM_FUSED:
        return fused_available(device) ? fused_compare(device, job)
                                       : device_fail(device, KVSIM_E_UNSUPPORTED, "CUDA device %d (%s) has no sm_90a",
                                                     device->ordinal, device->properties.name);
    case KVSIM__GRAM_BLAS:
        return blas_available(device) ? blas_compare(device, job)
                                      : device_fail(device, KVSIM_E_UNSUPPORTED, "cuBLASLt cannot be loaded");
    case KVSIM__GRAM_SIMPLE:
        return simple_compare(device, job);
    default:
        return fused_available(device)  ? fused_compare(device, job)
               : blas_available(device) ? blas_compare(device, job)
                                        : simple_compare(device, job);
    }
}

/* ---- products that were written to memory ---- */

/*
 * Take the pairs of a block of products: a thread has one column and walks down EPILOGUE_ROWS rows.
 * products: [rows, columns] of panel rows [row, ...) and panel columns [column, ...)
 */
template <class PRODUCT>
static __global__ void __launch_bounds__(EPILOGUE_THREADS)
    epilogue_kernel(const __grid_constant__ kvsim__device_compare compare, const PRODUCT *products, uint32_t row,
                    uint32_t rows_end, uint32_t column, uint32_t column_end, uint32_t stride) {
    __shared__ tally block;
    const uint32_t own_column = column + blockIdx.x * EPILOGUE_THREADS + threadIdx.x;
    const uint32_t first = row + blockIdx.y * EPILOGUE_ROWS;
    const uint32_t last = min(first + EPILOGUE_ROWS, rows_end);
    tally_begin(&block, (int)threadIdx.x, EPILOGUE_THREADS);
    __syncthreads();
    walker own;
    walker_begin(&own);
    kvsim__row_facts y;
    y.slot.class_id = UINT32_MAX;
    if (own_column < column_end) {
        y = compare.columns.facts[own_column];
    }
    const uint32_t earlier = compare.columns.first + own_column;
    for (uint32_t i = first; i < last; i++) {
        row_begin(&own);
        if (y.slot.class_id != UINT32_MAX) {
            const float dot = (float)products[(size_t)(i - row) * stride + (own_column - column)];
            take_pair(&compare, &own, &block, &compare.rows.facts[i], &y, compare.rows.first + i, earlier, dot);
        }
        __syncwarp();
        row_end(&compare, &own, compare.rows.first + i, 32);
    }
    walker_end(&own, &block);
    __syncthreads();
    if ((compare.flags & KVSIM__COMPARE_GATHER) != 0) {
        tally_end(&block, compare.figures, (int)threadIdx.x, EPILOGUE_THREADS);
    }
}

int32_t take_products(kvsim__device *device, const kvsim__device_compare *job, const void *products, uint32_t row,
                      uint32_t row_end, uint32_t column, uint32_t column_end, uint32_t stride, cudaStream_t stream) {
    const dim3 grid((column_end - column + EPILOGUE_THREADS - 1) / EPILOGUE_THREADS,
                    (row_end - row + EPILOGUE_ROWS - 1) / EPILOGUE_ROWS);
    if (job->operand == KVSIM__OPERAND_I8 && job->path != KVSIM__GRAM_SIMPLE) {
        epilogue_kernel<int><<<grid, EPILOGUE_THREADS, 0, stream>>>(*job, (const int *)products, row, row_end, column,
                                                                    column_end, stride);
    } else {
        epilogue_kernel<float><<<grid, EPILOGUE_THREADS, 0, stream>>>(*job, (const float *)products, row, row_end,
                                                                      column, column_end, stride);
    }
    return device_launched(device, "taking pairs");
}

/* ---- the simple way: any device, any operand ---- */

static __device__ __forceinline__ float operand_element(int32_t operand, const unsigned char *row, uint64_t row_bytes,
                                                        uint32_t k) {
    switch (operand) {
    case KVSIM__OPERAND_BF16:
        return stored_element(KVSIM__BF16, row + (size_t)k * 2);
    case KVSIM__OPERAND_F16:
        return stored_element(KVSIM__F16, row + (size_t)k * 2);
    case KVSIM__OPERAND_E4M3:
        return stored_element(KVSIM__F8_E4M3FN, row + k);
    case KVSIM__OPERAND_E5M2:
        return stored_element(KVSIM__F8_E5M2, row + k);
    case KVSIM__OPERAND_I8:
        return stored_element(KVSIM__I8, row + k);
    default: /* high and low part: 22 bits, exact in fp32 but for the last */
        return stored_element(KVSIM__F16, row + (size_t)k * 2) +
               0x1p-11f * stored_element(KVSIM__F16, row + row_bytes / 2 + (size_t)k * 2);
    }
}

/* Products of 64 x 64 pages; sums of SIMPLE_STEP terms in fp32, then in double. */
static __global__ void __launch_bounds__(SIMPLE_SIDE *SIMPLE_SIDE)
    simple_kernel(const __grid_constant__ kvsim__device_compare compare, float *products, uint32_t row,
                  uint32_t column, uint32_t stride) {
    __shared__ float rows[SIMPLE_STEP][SIMPLE_TILE + 1], columns[SIMPLE_STEP][SIMPLE_TILE + 1];
    const uint32_t x = threadIdx.x % SIMPLE_SIDE, y = threadIdx.x / SIMPLE_SIDE;
    const uint32_t first_row = blockIdx.y * SIMPLE_TILE, first_column = blockIdx.x * SIMPLE_TILE;
    double sums[4][4] = {};
    for (uint32_t k = 0; k < compare.elements; k += SIMPLE_STEP) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < SIMPLE_TILE * SIMPLE_STEP; i += SIMPLE_SIDE * SIMPLE_SIDE) {
            const uint32_t of = i / SIMPLE_STEP, at = k + i % SIMPLE_STEP;
            const uint32_t own_row = row + first_row + of, own_column = column + first_column + of;
            rows[i % SIMPLE_STEP][of] =
                at < compare.elements && own_row < compare.rows.capacity
                    ? operand_element(compare.operand,
                                      (const unsigned char *)compare.rows.operand + own_row * compare.rows.row_bytes,
                                      compare.rows.row_bytes, at)
                    : 0.0f;
            columns[i % SIMPLE_STEP][of] =
                at < compare.elements && own_column < compare.columns.capacity
                    ? operand_element(compare.operand,
                                      (const unsigned char *)compare.columns.operand +
                                          own_column * compare.columns.row_bytes,
                                      compare.columns.row_bytes, at)
                    : 0.0f;
        }
        __syncthreads();
        float part[4][4] = {};
        for (int step = 0; step < SIMPLE_STEP; step++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    part[i][j] = fmaf(rows[step][y + i * SIMPLE_SIDE], columns[step][x + j * SIMPLE_SIDE], part[i][j]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                sums[i][j] += (double)part[i][j];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            products[(size_t)(first_row + y + (uint32_t)i * SIMPLE_SIDE) * stride + first_column + x +
                     (uint32_t)j * SIMPLE_SIDE] = (float)sums[i][j];
        }
    }
}

int32_t simple_compare(kvsim__device *device, const kvsim__device_compare *job) {
    enum { BLOCK = 4096 };
    const bool triangle = job->rows.first == job->columns.first;
    const uint32_t end = job->row_end < job->rows.count ? job->row_end : job->rows.count;
    void *products;
    kvsim__device_compare own = *job;
    own.path = KVSIM__GRAM_SIMPLE;
    int32_t status = device_block(device, (size_t)BLOCK * BLOCK * sizeof(float), &products);
    for (uint32_t row = job->row_begin; row < end && status == KVSIM_OK; row += BLOCK) {
        const uint32_t rows = min(end - row, (uint32_t)BLOCK);
        const uint32_t columns_end = triangle ? min(job->columns.count, row + rows) : job->columns.count;
        for (uint32_t column = 0; column < columns_end && status == KVSIM_OK; column += BLOCK) {
            const uint32_t columns = min(columns_end - column, (uint32_t)BLOCK);
            const dim3 grid((columns + SIMPLE_TILE - 1) / SIMPLE_TILE, (rows + SIMPLE_TILE - 1) / SIMPLE_TILE);
            simple_kernel<<<grid, SIMPLE_SIDE * SIMPLE_SIDE, 0, device->stream>>>(own, (float *)products, row, column,
                                                                                 BLOCK);
            status = device_launched(device, "plain products");
            if (status == KVSIM_OK) {
                status = take_products(device, &own, products, row, row + rows, column, column + columns, BLOCK,
                                       device->stream);
            }
        }
    }
    return status;
}

/* ---- pairs in double ---- */

/* Cosine and distance of two pages from their stored bytes, by all threads of a block, as kvsim__rescore does it. */
static __device__ __forceinline__ void exact_pair(const kvsim__device_group &group, uint32_t later, uint32_t earlier,
                                                  double largest_norm, double *angles, double *room, double *cosine,
                                                  double *distance, double *error) {
    double *other_angles = angles + 2 * group.pairs;
    __syncthreads();
    find_angles(group, later, angles);
    find_angles(group, earlier, other_angles);
    __syncthreads();
    const page_view x = view_page(group, later, angles), y = view_page(group, earlier, other_angles);
    const uint32_t elements = (uint32_t)(group.tokens * group.heads * group.head_dim);
    double dot = 0.0, x_squares = 0.0, y_squares = 0.0, squares = 0.0;
    for (uint32_t i = threadIdx.x; i < elements; i += PAGE_THREADS) {
        const double a = view_element(x, i), b = view_element(y, i);
        dot += a * b;
        x_squares += a * a;
        y_squares += b * b;
        squares += (a - b) * (a - b);
    }
    dot = block_sum(dot, room);
    x_squares = block_sum(x_squares, room);
    y_squares = block_sum(y_squares, room);
    squares = block_sum(squares, room);
    *cosine = squares == 0.0                           ? 1.0
              : x_squares > 0.0 && y_squares > 0.0 ? fmin(fmax(dot / (sqrt(x_squares) * sqrt(y_squares)), -1.0), 1.0)
                                                       : 0.0;
    *distance = largest_norm > 0.0 ? sqrt(squares) / largest_norm : 0.0;
    *error = squares == 0.0 ? 0.0 : x_squares > 0.0 ? sqrt(squares) / sqrt(x_squares) : (double)INFINITY;
}

static __global__ void __launch_bounds__(PAGE_THREADS)
    rescore_kernel(const __grid_constant__ kvsim__device_group group, double largest_norm, kvsim__device_pair *pairs,
                   uint32_t count) {
    extern __shared__ double angles[];
    __shared__ double room[PAGE_THREADS / 32];
    for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
        double cosine, distance, error;
        exact_pair(group, pairs[at].later, pairs[at].earlier, largest_norm, angles, room, &cosine, &distance, &error);
        if (threadIdx.x == 0) {
            pairs[at].cosine = cosine;
            pairs[at].distance = distance;
        }
    }
}

static uint32_t resolver_blocks(const kvsim__device *device, uint32_t count) {
    const uint32_t most = (uint32_t)device->properties.multiProcessorCount * RESOLVERS_PER_PROCESSOR;
    return count < most ? count : most;
}

int32_t pairs_rescore(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                      kvsim__device_pair *pairs, uint32_t count) {
    if (count > 0) {
        rescore_kernel<<<resolver_blocks(device, count), PAGE_THREADS, angle_bytes(group, 2), device->stream>>>(
            *group, largest_norm, pairs, count);
    }
    return device_launched(device, "computing pairs in double");
}

/* Facts of a slot, from whichever panel holds it. */
static __device__ __forceinline__ const kvsim__row_facts *facts_of(const kvsim__device_compare &job, uint32_t slot,
                                                                   bool of_rows) {
    return of_rows ? &job.rows.facts[slot - job.rows.first] : &job.columns.facts[slot - job.columns.first];
}

static __global__ void __launch_bounds__(PAGE_THREADS)
    resolve_kernel(const __grid_constant__ kvsim__device_group group, double largest_norm,
                   const __grid_constant__ kvsim__device_compare job, uint32_t count) {
    extern __shared__ double angles[];
    __shared__ double room[PAGE_THREADS / 32];
    __shared__ tally block;
    tally_begin(&block, (int)threadIdx.x, PAGE_THREADS);
    for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
        kvsim__device_pair *pair = &job.doubtful.items[at];
        double cosine, distance, error;
        exact_pair(group, pair->later, pair->earlier, largest_norm, angles, room, &cosine, &distance, &error);
        if (threadIdx.x < 32) {
            walker own;
            walker_begin(&own);
            row_begin(&own);
            if (threadIdx.x == 0) {
                const kvsim__row_facts *x = facts_of(job, pair->later, true), *y = facts_of(job, pair->earlier, false);
                const bool filtered = job.host_rules.filter != 0 && x->slot.sequence == y->slot.sequence;
                pair->cosine = cosine;
                pair->distance = distance;
                list_pair(&job, x, y, pair->later, pair->earlier, cosine, distance, (float)error, filtered);
                if (!filtered && (job.flags & KVSIM__COMPARE_GATHER) != 0) {
                    count_pair(&job, &own, &block, &x->slot, &y->slot, pair->later, pair->earlier, (float)cosine,
                               (float)distance, (float)error, levels_of(&job.host_rules, cosine, true));
                    row_end(&job, &own, pair->later, 1);
                }
            }
            __syncwarp();
            walker_end(&own, &block); /* of one pair: the order of the list is not that of another run */
        }
    }
    __syncthreads();
    if ((job.flags & KVSIM__COMPARE_GATHER) != 0) {
        tally_end(&block, job.figures, (int)threadIdx.x, PAGE_THREADS);
    }
}

int32_t pairs_resolve(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                      const kvsim__device_compare *job, uint32_t count) {
    if (count > 0) {
        resolve_kernel<<<resolver_blocks(device, count), PAGE_THREADS, angle_bytes(group, 2), device->stream>>>(
            *group, largest_norm, *job, count);
    }
    return device_launched(device, "resolving pairs");
}
