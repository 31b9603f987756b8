/**
 * Elements of pages in a view, in double: dequantised, de-rotated, centred, as kvsim__view_row of pages/view.h does it.
 */
#ifndef KVSIM_CUDA_VIEW_CUH
#define KVSIM_CUDA_VIEW_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "device.cuh"

extern "C" {
#include "../lib/pages/format.h"
}

/** Threads of a block that works on one page, and the room it takes: cosines and sines of the page's rotation. */
enum { PAGE_THREADS = 256 };

/** Bytes of shared memory for the angles of `pages` pages. */
static inline size_t angle_bytes(const kvsim__device_group *group, int pages) {
    return group->rotate != 0 ? (size_t)pages * (size_t)group->pairs * 2 * sizeof(double) : 0;
}

/** A stored element as it is, without its scale. */
static __device__ __forceinline__ float stored_element(int32_t dtype, const unsigned char *at) {
    switch (dtype) {
    case KVSIM__F32:
        return *(const float *)at;
    case KVSIM__F16:
        return __half2float(*(const __half *)at);
    case KVSIM__BF16:
        return __bfloat162float(*(const __nv_bfloat16 *)at);
    case KVSIM__F8_E4M3FN:
        return __half2float(__half(__nv_cvt_fp8_to_halfraw(*at, __NV_E4M3)));
    case KVSIM__F8_E5M2:
        return __half2float(__half(__nv_cvt_fp8_to_halfraw(*at, __NV_E5M2)));
    default:
        return (float)*(const signed char *)at;
    }
}

/** The cosines and sines of a page's position, by all threads of a block; a barrier must follow. */
static __device__ __forceinline__ void find_angles(const kvsim__device_group &group, uint32_t slot, double *angles) {
    if (group.rotate != 0) {
        const double position = (double)group.pages[slot].position;
        for (int i = (int)threadIdx.x; i < group.pairs; i += (int)blockDim.x) {
            sincos(position * group.frequencies[i], &angles[group.pairs + i], &angles[i]);
        }
    }
}

/** A page that is there, with what its elements need. */
struct page_view {
    const kvsim__device_group *group;
    const kvsim__device_page *page;
    const kvsim__device_format *format;
    const double *angles;
};

static __device__ __forceinline__ page_view view_page(const kvsim__device_group &group, uint32_t slot,
                                                      const double *angles) {
    page_view view;
    view.group = &group;
    view.page = &group.pages[slot];
    view.format = &group.formats[view.page->format];
    view.angles = angles;
    return view;
}

static __device__ __forceinline__ double scaled_element(const page_view &view, int token, int head, int channel) {
    const kvsim__device_format *format = view.format;
    const int stored_head = head + view.group->first_head;
    const unsigned char *at = (const unsigned char *)view.page->data + token * format->token_stride +
                              stored_head * format->head_stride + channel * format->channel_stride;
    const double stored = (double)stored_element(format->dtype, at);
    switch (format->scale_mode) {
    case KVSIM_SCALE_TENSOR:
        return stored * (double)format->scales[0];
    case KVSIM_SCALE_HEAD:
        return stored * (double)format->scales[stored_head];
    case KVSIM_SCALE_TOKEN_HEAD:
        return stored * (double)view.page->token_scales[(size_t)token * (size_t)format->heads + (size_t)stored_head];
    default:
        return stored;
    }
}

/** Element `index` of a page, token-major, in the group's view. */
static __device__ __forceinline__ double view_element(const page_view &view, uint32_t index) {
    const kvsim__device_group *group = view.group;
    const uint32_t channels = (uint32_t)group->head_dim;
    const uint32_t row = index / channels;
    const int channel = (int)(index - row * channels);
    const int token = (int)(row / (uint32_t)group->heads), head = (int)(row - (uint32_t)token * (uint32_t)group->heads);
    double value = scaled_element(view, token, head, channel);
    const int pairs = group->pairs;
    if (group->rotate != 0 && channel < 2 * pairs) {
        const int i = group->interleaved != 0 ? channel / 2 : channel < pairs ? channel : channel - pairs;
        const bool first = group->interleaved != 0 ? channel % 2 == 0 : channel < pairs;
        const int other = group->interleaved != 0 ? (first ? channel + 1 : channel - 1)
                          : first                ? channel + pairs
                                                 : channel - pairs;
        const double partner = scaled_element(view, token, head, other);
        const double slot_cosine = group->slot_cosine[(size_t)token * (size_t)pairs + (size_t)i];
        const double slot_sine = group->slot_sine[(size_t)token * (size_t)pairs + (size_t)i];
        const double cosine = view.angles[i] * slot_cosine - view.angles[pairs + i] * slot_sine;
        const double sine = view.angles[pairs + i] * slot_cosine + view.angles[i] * slot_sine;
        value = first ? value * cosine + partner * sine : value * cosine - partner * sine;
    }
    if (group->mean != NULL) {
        value -= group->mean[(size_t)head * channels + (size_t)channel];
    }
    return value;
}

/** The elements of one 16-byte word: eight of 16 bits or sixteen of 8. */
template <int SIZE>
static __device__ __forceinline__ void unpack_words(int32_t dtype, uint4 from, float (&to)[16 / SIZE]) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (SIZE == 1) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint16_t two = (uint16_t)(words[k] >> (16 * half));
                float2 both;
                if (dtype == KVSIM__I8) {
                    both = make_float2((float)(signed char)(two & 255), (float)(signed char)(two >> 8));
                } else {
                    const __half2_raw halves =
                        __nv_cvt_fp8x2_to_halfraw2(two, dtype == KVSIM__F8_E4M3FN ? __NV_E4M3 : __NV_E5M2);
                    both = __half22float2(__half2(halves));
                }
                to[4 * k + 2 * half] = both.x;
                to[4 * k + 2 * half + 1] = both.y;
            }
        } else if (dtype == KVSIM__BF16) {
            to[2 * k] = __uint_as_float(words[k] << 16);
            to[2 * k + 1] = __uint_as_float(words[k] & 0xffff0000u);
        } else {
            const float2 both = __half22float2(*(const __half2 *)&words[k]);
            to[2 * k] = both.x;
            to[2 * k + 1] = both.y;
        }
    }
}

/** The scale that all elements of a page have, where there is one for all. */
static __device__ __forceinline__ double stored_scale(const page_view &view) {
    return view.format->scale_mode == KVSIM_SCALE_TENSOR ? (double)view.format->scales[0] : 1.0;
}

/** Sum over the threads of a block of PAGE_THREADS; all threads get it. `room` holds PAGE_THREADS / 32 doubles. */
static __device__ __forceinline__ double block_sum(double value, double *room) {
    for (int lane = 16; lane > 0; lane /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, lane);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = value;
    }
    __syncthreads();
    double sum = 0.0;
    for (int warp = 0; warp < PAGE_THREADS / 32; warp++) {
        sum += room[warp];
    }
    return sum;
}

static __device__ __forceinline__ double block_max(double value, double *room) {
    for (int lane = 16; lane > 0; lane /= 2) {
        value = fmax(value, __shfl_xor_sync(0xffffffffu, value, lane));
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = value;
    }
    __syncthreads();
    double most = room[0];
    for (int warp = 1; warp < PAGE_THREADS / 32; warp++) {
        most = fmax(most, room[warp]);
    }
    return most;
}

#endif
