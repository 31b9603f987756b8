/* Bits and codes of all pairs on the arithmetic units: any device; codes on every device. */
#include "device.cuh"
#include "schedule.h"

enum { TILE = 64, SIDE = 16, EACH = TILE / SIDE, STEP = 64, PITCH = STEP + 16, THREADS = SIDE * SIDE };

/* Add to `count` how many bytes of two words differ (codes), or bits that both have (bits). */
template <int WHAT> static __device__ __forceinline__ uint32_t add_word(uint32_t count, uint32_t a, uint32_t b) {
    if (WHAT == KVSIM__BITS_CODES) {
        /* The top bit of a byte is set if the byte is not zero: from the carry of its low bits, or its own. */
        const uint32_t differ = a ^ b;
        const uint32_t top = (((differ & 0x7f7f7f7fu) + 0x7f7f7f7fu) | differ) & 0x80808080u;
        return __dp4a(top, 0x01010101u, count); /* 128 for each byte */
    }
    return count + (uint32_t)__popc(a & b);
}

template <int WHAT>
static __global__ void __launch_bounds__(THREADS)
    bits_kernel(const __grid_constant__ kvsim__device_bit_compare job, uint32_t triangle) {
    __shared__ __align__(16) unsigned char rows[TILE][PITCH], columns[TILE][PITCH];
    __shared__ uint32_t histogram[KVSIM_HISTOGRAM_BINS];
    __shared__ unsigned long long totals[3];
    const uint32_t first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    if (triangle != 0 && first_column >= first_row + TILE) {
        return;
    }
    const uint32_t x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const unsigned char *row_from = WHAT == KVSIM__BITS_CODES  ? (const unsigned char *)job.rows.codes
                                    : WHAT == KVSIM__BITS_SIGN ? job.rows.signs
                                                               : job.rows.actives;
    const unsigned char *column_from = WHAT == KVSIM__BITS_CODES  ? (const unsigned char *)job.columns.codes
                                       : WHAT == KVSIM__BITS_SIGN ? job.columns.signs
                                                                  : job.columns.actives;
    const uint64_t bytes = WHAT == KVSIM__BITS_CODES ? job.rows.code_bytes : job.rows.bit_bytes;
    for (uint32_t i = threadIdx.x; i < KVSIM_HISTOGRAM_BINS; i += THREADS) {
        histogram[i] = 0;
    }
    if (threadIdx.x < 3) {
        totals[threadIdx.x] = 0;
    }
    uint32_t counts[EACH][EACH] = {};
    for (uint64_t at = 0; at < bytes; at += STEP) {
        __syncthreads();
        {
            const uint32_t line = threadIdx.x / (STEP / 16), part = threadIdx.x % (STEP / 16) * 16;
            uint4 a = make_uint4(0, 0, 0, 0), b = a;
            if (first_row + line < job.rows.capacity) {
                a = __ldg((const uint4 *)(row_from + (size_t)(first_row + line) * bytes + at + part));
            }
            if (first_column + line < job.columns.capacity) {
                b = __ldg((const uint4 *)(column_from + (size_t)(first_column + line) * bytes + at + part));
            }
            *(uint4 *)&rows[line][part] = a;
            *(uint4 *)&columns[line][part] = b;
        }
        __syncthreads();
#pragma unroll
        for (int part = 0; part < STEP; part += 16) {
            uint4 a[EACH], b[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                a[i] = *(const uint4 *)&rows[y + (uint32_t)i * SIDE][part];
                b[i] = *(const uint4 *)&columns[x + (uint32_t)i * SIDE][part];
            }
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    uint32_t count = counts[i][j];
                    count = add_word<WHAT>(count, a[i].x, b[j].x);
                    count = add_word<WHAT>(count, a[i].y, b[j].y);
                    count = add_word<WHAT>(count, a[i].z, b[j].z);
                    counts[i][j] = add_word<WHAT>(count, a[i].w, b[j].w);
                }
            }
        }
    }
    unsigned long long differ = 0, all = 0, units = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const uint32_t row = first_row + y + (uint32_t)i * SIDE;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint32_t column = first_column + x + (uint32_t)j * SIDE;
            if (row >= job.rows.count || column >= job.columns.count ||
                job.rows.first + row <= job.columns.first + column) {
                continue;
            }
            const kvsim__slot_facts &later = job.rows.facts[row].slot, &earlier = job.columns.facts[column].slot;
            if (later.class_id == UINT32_MAX || earlier.class_id == UINT32_MAX ||
                (job.filter != 0 && later.sequence == earlier.sequence)) {
                continue;
            }
            uint32_t bin;
            if (WHAT == KVSIM__BITS_ACTIVE) {
                const uint32_t either = job.rows.active_count[row] + job.columns.active_count[column] - counts[i][j];
                const float index = either > 0 ? (float)counts[i][j] / (float)either : 1.0f;
                bin = kvsim__bin_of(index);
                all += either;
                units += (unsigned long long)__double2ll_rn((double)index * (double)KVSIM__JACCARD_UNITS);
            } else {
                const uint32_t distance = WHAT == KVSIM__BITS_CODES
                                              ? counts[i][j] / 128
                                              : job.rows.sign_count[row] + job.columns.sign_count[column] -
                                                    2 * counts[i][j];
                bin = min((uint32_t)((uint64_t)distance * KVSIM_HISTOGRAM_BINS / job.elements),
                          (uint32_t)KVSIM_HISTOGRAM_BINS - 1);
                differ += distance;
            }
            atomicAdd(&histogram[bin], 1u);
        }
    }
    atomicAdd(&totals[0], differ);
    atomicAdd(&totals[1], all);
    atomicAdd(&totals[2], units);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < KVSIM_HISTOGRAM_BINS; i += THREADS) {
        if (histogram[i] > 0) {
            atomicAdd((unsigned long long *)&job.figures->histogram[i], (unsigned long long)histogram[i]);
        }
    }
    if (threadIdx.x == 0) {
        atomicAdd((unsigned long long *)&job.figures->differ, totals[0]);
        atomicAdd((unsigned long long *)&job.figures->union_elements, totals[1]);
        atomicAdd((unsigned long long *)&job.figures->jaccard_units, totals[2]);
    }
}

int32_t bits_compare(kvsim__device *device, const kvsim__device_bit_compare *job) {
    const bool products = job->what != KVSIM__BITS_CODES && job->path != KVSIM__GRAM_SIMPLE &&
                          job->elements > KVSIM_HISTOGRAM_BINS && fused_available(device);
    if (job->rows.count == 0 || job->columns.count == 0) {
        return KVSIM_OK;
    }
    if (products) {
        return fused_compare_bits(device, job);
    }
    const dim3 grid((job->columns.count + TILE - 1) / TILE, (job->rows.count + TILE - 1) / TILE);
    const uint32_t triangle = job->rows.first == job->columns.first;
    switch (job->what) {
    case KVSIM__BITS_SIGN:
        bits_kernel<KVSIM__BITS_SIGN><<<grid, THREADS, 0, device->stream>>>(*job, triangle);
        break;
    case KVSIM__BITS_ACTIVE:
        bits_kernel<KVSIM__BITS_ACTIVE><<<grid, THREADS, 0, device->stream>>>(*job, triangle);
        break;
    default:
        bits_kernel<KVSIM__BITS_CODES><<<grid, THREADS, 0, device->stream>>>(*job, triangle);
        break;
    }
    return device_launched(device, "comparing bits");
}
