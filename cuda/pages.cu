/* What is asked of pages before they are compared: finite, equal, how large; and copies of them. */
#include "view.cuh"

#include <cstring>

enum { WARPS = PAGE_THREADS / 32 };

static __global__ void __launch_bounds__(PAGE_THREADS)
    classify_kernel(const __grid_constant__ kvsim__device_group group, const int32_t *fills, uint8_t *finite) {
    const uint32_t slot = blockIdx.x;
    if (group.pages[slot].data == NULL) {
        if (threadIdx.x == 0) {
            finite[slot] = 0;
        }
        return;
    }
    const page_view view = view_page(group, slot, NULL);
    const kvsim__device_format *format = view.format;
    const uint32_t row = (uint32_t)(group.heads * group.head_dim);
    int all = 1;
    for (uint32_t i = threadIdx.x; i < (uint32_t)fills[slot] * row; i += PAGE_THREADS) {
        const uint32_t token = i / row, head = i % row / (uint32_t)group.head_dim, channel = i % (uint32_t)group.head_dim;
        const float stored = stored_element(
            format->dtype, (const unsigned char *)view.page->data + token * format->token_stride +
                               (head + (uint32_t)group.first_head) * format->head_stride + channel * format->channel_stride);
        all &= isfinite(stored) ? 1 : 0;
    }
    all = __syncthreads_and(all);
    if (threadIdx.x == 0) {
        finite[slot] = (uint8_t)all;
    }
}

int32_t pages_classify(kvsim__device *device, const kvsim__device_group *group, const int32_t *fills,
                       uint8_t *finite) {
    if (group->slots > 0) {
        classify_kernel<<<group->slots, PAGE_THREADS, 0, device->stream>>>(*group, fills, finite);
    }
    return device_launched(device, "classifying pages");
}

static __device__ __forceinline__ uint32_t element_bytes(int32_t dtype) {
    return dtype == KVSIM__F32 ? 4 : dtype == KVSIM__F16 || dtype == KVSIM__BF16 ? 2 : 1;
}

/* The bits of a stored element. */
static __device__ __forceinline__ uint32_t stored_bits(const kvsim__device_group &group, const page_view &view,
                                                       uint32_t index) {
    const kvsim__device_format *format = view.format;
    const uint32_t channels = (uint32_t)group.head_dim;
    const uint32_t row = index / channels, channel = index % channels;
    const uint32_t token = row / (uint32_t)group.heads, head = row % (uint32_t)group.heads;
    const unsigned char *at = (const unsigned char *)view.page->data + token * format->token_stride +
                              (head + (uint32_t)group.first_head) * format->head_stride +
                              channel * format->channel_stride;
    const uint32_t bytes = element_bytes(format->dtype);
    return bytes == 4 ? *(const uint32_t *)at : bytes == 2 ? *(const uint16_t *)at : *at;
}

/* The scale of a row as bits; 0 where a page has none of its own. */
static __device__ __forceinline__ uint32_t scale_bits(const kvsim__device_group &group, const page_view &view,
                                                      uint32_t row) {
    const uint32_t token = row / (uint32_t)group.heads, head = row % (uint32_t)group.heads + (uint32_t)group.first_head;
    return view.page->token_scales == NULL
               ? 0
               : __float_as_uint(view.page->token_scales[(size_t)token * (size_t)view.format->heads + head]);
}

/* Mixing of 64 bits in which every bit of the result depends on all of the input (the finaliser of SplitMix64). */
static __device__ __forceinline__ uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ value >> 27) * 0x94d049bb133111ebull;
    return value ^ value >> 31;
}

/* Elements are mixed with their places and added up, so the sum depends on neither layout nor threads. */
static __global__ void __launch_bounds__(PAGE_THREADS)
    hash_kernel(const __grid_constant__ kvsim__device_group group, uint64_t *hashes) {
    __shared__ unsigned long long sums[2];
    const uint32_t slot = blockIdx.x;
    const uint32_t rows = (uint32_t)(group.tokens * group.heads), elements = rows * (uint32_t)group.head_dim;
    if (threadIdx.x < 2) {
        sums[threadIdx.x] = 0;
    }
    __syncthreads();
    if (group.pages[slot].data != NULL) {
        const page_view view = view_page(group, slot, NULL);
        uint64_t low = 0, high = 0;
        for (uint32_t i = threadIdx.x; i < elements; i += PAGE_THREADS) {
            const uint64_t at = (uint64_t)i << 32 | stored_bits(group, view, i);
            low += mix(at + 0x9e3779b97f4a7c15ull);
            high += mix(at ^ 0xd1b54a32d192ed03ull);
        }
        for (uint32_t row = threadIdx.x; row < rows && view.page->token_scales != NULL; row += PAGE_THREADS) {
            const uint64_t at = (uint64_t)(elements + row) << 32 | scale_bits(group, view, row);
            low += mix(at + 0x9e3779b97f4a7c15ull);
            high += mix(at ^ 0xd1b54a32d192ed03ull);
        }
        atomicAdd(&sums[0], (unsigned long long)low);
        atomicAdd(&sums[1], (unsigned long long)high);
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        hashes[2 * (size_t)slot + threadIdx.x] = sums[threadIdx.x];
    }
}

int32_t pages_hash(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes) {
    if (group->slots > 0) {
        hash_kernel<<<group->slots, PAGE_THREADS, 0, device->stream>>>(*group, hashes);
    }
    return device_launched(device, "hashing pages");
}

static __global__ void __launch_bounds__(PAGE_THREADS)
    equal_kernel(const __grid_constant__ kvsim__device_group group, const uint32_t (*pairs)[2], uint8_t *equal) {
    const uint32_t rows = (uint32_t)(group.tokens * group.heads), elements = rows * (uint32_t)group.head_dim;
    const page_view a = view_page(group, pairs[blockIdx.x][0], NULL), b = view_page(group, pairs[blockIdx.x][1], NULL);
    int same = 1;
    for (uint32_t i = threadIdx.x; i < elements; i += PAGE_THREADS) {
        same &= stored_bits(group, a, i) == stored_bits(group, b, i);
    }
    for (uint32_t row = threadIdx.x; row < rows; row += PAGE_THREADS) {
        same &= scale_bits(group, a, row) == scale_bits(group, b, row);
    }
    same = __syncthreads_and(same);
    if (threadIdx.x == 0) {
        equal[blockIdx.x] = (uint8_t)same;
    }
}

int32_t pages_equal(kvsim__device *device, const kvsim__device_group *group, const uint32_t (*pairs)[2],
                    uint32_t count, uint8_t *equal) {
    if (count > 0) {
        equal_kernel<<<count, PAGE_THREADS, 0, device->stream>>>(*group, pairs, equal);
    }
    return device_launched(device, "comparing the bytes of pages");
}

/* One block for each page: its stored elements one after the other. */
static __global__ void __launch_bounds__(PAGE_THREADS)
    gather_kernel(const __grid_constant__ kvsim__device_group group, unsigned char *to) {
    const uint32_t slot = blockIdx.x;
    if (group.pages[slot].data == NULL) {
        return;
    }
    const uint32_t elements = (uint32_t)(group.tokens * group.heads * group.head_dim);
    const page_view view = view_page(group, slot, NULL);
    const uint32_t bytes = element_bytes(view.format->dtype);
    unsigned char *own = to + (size_t)slot * elements * bytes;
    for (uint32_t i = threadIdx.x; i < elements; i += PAGE_THREADS) {
        const uint32_t bits = stored_bits(group, view, i);
        if (bytes == 4) {
            ((uint32_t *)own)[i] = bits;
        } else if (bytes == 2) {
            ((uint16_t *)own)[i] = (uint16_t)bits;
        } else {
            own[i] = (unsigned char)bits;
        }
    }
}

int32_t pages_gather(kvsim__device *device, const kvsim__device_group *group, void *to) {
    if (group->slots > 0) {
        gather_kernel<<<group->slots, PAGE_THREADS, 0, device->stream>>>(*group, (unsigned char *)to);
    }
    return device_launched(device, "gathering pages");
}

/* ---- sums and magnitudes ---- */

/* Sums of the rows of a run of pages: a block for each run and part of the channels. */
static __global__ void __launch_bounds__(PAGE_THREADS)
    sums_kernel(const __grid_constant__ kvsim__device_group group, const __grid_constant__ kvsim__device_measures out) {
    extern __shared__ double angles[];
    const uint32_t run = blockIdx.y, row = (uint32_t)(group.heads * group.head_dim);
    const uint32_t channel = blockIdx.x * PAGE_THREADS + threadIdx.x;
    const uint32_t first = (uint32_t)((uint64_t)group.slots * run / out.runs);
    const uint32_t end = (uint32_t)((uint64_t)group.slots * (run + 1) / out.runs);
    double sum = 0.0;
    for (uint32_t slot = first; slot < end; slot++) {
        if (group.pages[slot].data == NULL) {
            continue;
        }
        if (group.rotate != 0) {
            __syncthreads();
            find_angles(group, slot, angles);
            __syncthreads();
        }
        const page_view view = view_page(group, slot, angles);
        for (uint32_t token = 0; token < (uint32_t)group.tokens && channel < row; token++) {
            sum += view_element(view, token * row + channel);
        }
    }
    if (channel < row) {
        out.sums[(size_t)run * row + channel] = sum;
    }
}

/* Largest magnitude and sum of squares of each head of a page: a block for each page, a warp for each head in turn. */
static __global__ void __launch_bounds__(PAGE_THREADS)
    magnitudes_kernel(const __grid_constant__ kvsim__device_group group,
                      const __grid_constant__ kvsim__device_measures out, double2 *by_head) {
    extern __shared__ double angles[];
    __shared__ double squares_of[WARPS], most_of[WARPS];
    const uint32_t slot = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t heads = (uint32_t)group.heads, channels = (uint32_t)group.head_dim;
    const bool there = group.pages[slot].data != NULL;
    double page_squares = 0.0, page_most = 0.0;
    if (there) {
        find_angles(group, slot, angles);
        __syncthreads();
    }
    for (uint32_t head = warp; head < heads; head += WARPS) {
        double squares = 0.0, most = 0.0;
        if (there) {
            const page_view view = view_page(group, slot, angles);
            for (uint32_t i = lane; i < (uint32_t)group.tokens * channels; i += 32) {
                const uint32_t token = i / channels, channel = i % channels;
                const double value = view_element(view, (token * heads + head) * channels + channel);
                squares += value * value;
                most = fmax(most, fabs(value));
            }
        }
        for (int other = 16; other > 0; other /= 2) {
            squares += __shfl_xor_sync(0xffffffffu, squares, other);
            most = fmax(most, __shfl_xor_sync(0xffffffffu, most, other));
        }
        if (lane == 0) {
            by_head[(size_t)slot * heads + head] = make_double2(most, squares);
        }
        page_squares += squares;
        page_most = fmax(page_most, most);
    }
    if (lane == 0) {
        squares_of[warp] = page_squares;
        most_of[warp] = page_most;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < WARPS; w++) {
            page_squares += squares_of[w];
            page_most = fmax(page_most, most_of[w]);
        }
        out.norms[slot] = sqrt(page_squares);
        out.largest[slot] = page_most;
    }
}

/* The same for pages as they are, whose heads are whole 16-byte words: sums of a word's squares in fp32. */
template <int SIZE>
static __global__ void __launch_bounds__(PAGE_THREADS)
    magnitudes_of_words_kernel(const __grid_constant__ kvsim__device_group group,
                               const __grid_constant__ kvsim__device_measures out, double2 *by_head) {
    __shared__ double squares_of[WARPS], most_of[WARPS];
    const uint32_t slot = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t heads = (uint32_t)group.heads, words = (uint32_t)group.head_dim * SIZE / 16;
    const bool there = group.pages[slot].data != NULL;
    double page_squares = 0.0, page_most = 0.0;
    for (uint32_t head = warp; head < heads; head += WARPS) {
        double squares = 0.0;
        float most = 0.0f;
        double scale = 1.0;
        if (there) {
            const page_view view = view_page(group, slot, NULL);
            const kvsim__device_format *format = view.format;
            const unsigned char *from =
                (const unsigned char *)view.page->data + (head + (uint32_t)group.first_head) * format->head_stride;
            scale = stored_scale(view);
            for (uint32_t i = lane; i < (uint32_t)group.tokens * words; i += 32) {
                const uint32_t token = i / words, word = i % words;
                float values[16 / SIZE];
                unpack_words<SIZE>(format->dtype, __ldg((const uint4 *)(from + token * format->token_stride) + word),
                                   values);
                float sum = 0.0f;
#pragma unroll
                for (int k = 0; k < 16 / SIZE; k++) {
                    sum = fmaf(values[k], values[k], sum);
                    most = fmaxf(most, fabsf(values[k]));
                }
                squares += (double)sum;
            }
        }
        for (int other = 16; other > 0; other /= 2) {
            squares += __shfl_xor_sync(0xffffffffu, squares, other);
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
        }
        const double head_most = (double)most * scale, head_squares = squares * scale * scale;
        if (lane == 0) {
            by_head[(size_t)slot * heads + head] = make_double2(head_most, head_squares);
        }
        page_squares += head_squares;
        page_most = fmax(page_most, head_most);
    }
    if (lane == 0) {
        squares_of[warp] = page_squares;
        most_of[warp] = page_most;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = squares_of[0], most = most_of[0];
        for (int w = 1; w < WARPS; w++) {
            all += squares_of[w];
            most = fmax(most, most_of[w]);
        }
        out.norms[slot] = sqrt(all);
        out.largest[slot] = most;
    }
}

/* Add the heads of the pages of each run up, in order. */
static __global__ void runs_kernel(uint32_t slots, uint32_t heads, const __grid_constant__ kvsim__device_measures out,
                                   const double2 *by_head) {
    const uint32_t run = blockIdx.x, lane = threadIdx.x;
    const uint32_t first = (uint32_t)((uint64_t)slots * run / out.runs);
    const uint32_t end = (uint32_t)((uint64_t)slots * (run + 1) / out.runs);
    for (uint32_t head = 0; head < heads; head++) {
        double most = 0.0, squares = 0.0;
        for (uint32_t slot = first + lane; slot < end; slot += 32) {
            const double2 page = by_head[(size_t)slot * heads + head];
            most = fmax(most, page.x);
            squares += page.y;
        }
        for (int other = 16; other > 0; other /= 2) {
            squares += __shfl_xor_sync(0xffffffffu, squares, other);
            most = fmax(most, __shfl_xor_sync(0xffffffffu, most, other));
        }
        if (lane == 0) {
            out.absmax[(size_t)run * heads + head] = most;
            out.squares[(size_t)run * heads + head] = squares;
        }
    }
}

int32_t pages_measure(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_measures *out) {
    if (group->slots == 0) {
        return KVSIM_OK;
    }
    const uint32_t row = (uint32_t)(group->heads * group->head_dim);
    if (out->sums != NULL) {
        const dim3 grid((row + PAGE_THREADS - 1) / PAGE_THREADS, out->runs);
        sums_kernel<<<grid, PAGE_THREADS, angle_bytes(group, 1), device->stream>>>(*group, *out);
        return device_launched(device, "summing pages");
    }
    void *by_head;
    int32_t status = device_block(device, (size_t)group->slots * (size_t)group->heads * sizeof(double2), &by_head);
    if (status != KVSIM_OK) {
        return status;
    }
    if (group->plain_bytes == 2) {
        magnitudes_of_words_kernel<2>
            <<<group->slots, PAGE_THREADS, 0, device->stream>>>(*group, *out, (double2 *)by_head);
    } else if (group->plain_bytes == 1) {
        magnitudes_of_words_kernel<1>
            <<<group->slots, PAGE_THREADS, 0, device->stream>>>(*group, *out, (double2 *)by_head);
    } else {
        magnitudes_kernel<<<group->slots, PAGE_THREADS, angle_bytes(group, 1), device->stream>>>(*group, *out,
                                                                                                 (double2 *)by_head);
    }
    status = device_launched(device, "measuring pages");
    if (status == KVSIM_OK) {
        runs_kernel<<<out->runs, 32, 0, device->stream>>>(group->slots, (uint32_t)group->heads, *out,
                                                          (const double2 *)by_head);
        status = device_launched(device, "measuring pages");
    }
    return status;
}
