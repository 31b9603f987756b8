/* Packing: what the kernels that compare read. */
#include "view.cuh"

/* Facts of a row once its page has been read. */
static __device__ __forceinline__ void put_facts(const kvsim__device_packing &packing,
                                                 const kvsim__device_panel &panel, uint32_t row, uint32_t slot,
                                                 double scale, double rounding) {
    kvsim__row_facts facts;
    const double norm = packing.norms[slot];
    const double share = packing.largest_norm > 0.0 ? norm / packing.largest_norm : 0.0;
    facts.slot = packing.slots[slot];
    facts.norm = (float)share;
    facts.unit = norm > 0.0 ? (float)(scale / norm) : 0.0f;
    facts.inverse = share >= (double)KVSIM__LEAST_NORM ? (float)(1.0 / share) : 0.0f;
    facts.doubt = norm > 0.0 ? (float)(rounding / norm * 1.001) : 0.0f;
    panel.facts[row] = facts;
}

static __device__ __forceinline__ void clear_bytes(void *memory, uint64_t bytes) {
    for (uint64_t i = threadIdx.x * 16ull; i < bytes; i += PAGE_THREADS * 16ull) {
        *(uint4 *)((unsigned char *)memory + i) = make_uint4(0, 0, 0, 0);
    }
}

/* A row without a page. */
static __device__ __forceinline__ void pack_nothing(const kvsim__device_panel &panel, uint32_t row) {
    if (panel.operand != NULL) {
        clear_bytes((unsigned char *)panel.operand + row * panel.row_bytes, panel.row_bytes);
    }
    if (panel.signs != NULL) {
        clear_bytes(panel.signs + row * panel.bit_bytes, panel.bit_bytes);
    }
    if (panel.actives != NULL) {
        clear_bytes(panel.actives + row * panel.bit_bytes, panel.bit_bytes);
    }
    if (panel.codes != NULL) {
        clear_bytes(panel.codes + row * panel.code_bytes, panel.code_bytes);
    }
    if (threadIdx.x == 0) {
        kvsim__row_facts none;
        none.unit = none.norm = none.inverse = none.doubt = 0.0f;
        none.slot.class_id = UINT32_MAX;
        none.slot.sequence = none.slot.family = 0;
        none.slot.stratum = none.slot.listed = 0;
        panel.facts[row] = none;
        if (panel.signs != NULL) {
            panel.sign_count[row] = 0;
        }
        if (panel.actives != NULL) {
            panel.active_count[row] = 0;
        }
    }
}

static __device__ __forceinline__ int8_t code_of(double value, double absmax, double limit) {
    const double scale = absmax / limit;
    return scale > 0.0 ? (int8_t)rint(fmin(fmax(value / scale, -limit), limit)) : (int8_t)0;
}

/* Stored elements go over as they are. */
static __device__ __forceinline__ void copy_element(const page_view &view, uint32_t index, void *to) {
    const kvsim__device_format *format = view.format;
    const uint32_t channels = (uint32_t)view.group->head_dim, heads = (uint32_t)view.group->heads;
    const uint32_t row = index / channels, channel = index % channels;
    const unsigned char *at = (const unsigned char *)view.page->data + row / heads * format->token_stride +
                              (row % heads + (uint32_t)view.group->first_head) * format->head_stride +
                              channel * format->channel_stride;
    if (format->dtype == KVSIM__F16 || format->dtype == KVSIM__BF16) {
        ((uint16_t *)to)[index] = *(const uint16_t *)at;
    } else {
        ((uint8_t *)to)[index] = *at;
    }
}

/* Any page in any view: a block for each row of the panel. Elements past the end are zero. */
static __global__ void __launch_bounds__(PAGE_THREADS)
    pack_kernel(const __grid_constant__ kvsim__device_group group, const __grid_constant__ kvsim__device_packing packing,
                const __grid_constant__ kvsim__device_panel panel) {
    extern __shared__ double angles[];
    __shared__ double room[PAGE_THREADS / 32];
    const uint32_t row = blockIdx.x, slot = panel.first + row;
    const uint32_t elements = (uint32_t)(group.tokens * group.heads * group.head_dim);
    if (row >= panel.count || group.pages[slot].data == NULL || packing.slots[slot].class_id == UINT32_MAX) {
        pack_nothing(panel, row);
        return;
    }
    find_angles(group, slot, angles);
    __syncthreads();
    const page_view view = view_page(group, slot, angles);
    unsigned char *operand = (unsigned char *)panel.operand + row * panel.row_bytes;
    const bool split = packing.operand == KVSIM__OPERAND_SPLIT;
    const uint32_t element_size = packing.operand == KVSIM__OPERAND_BF16 || packing.operand == KVSIM__OPERAND_F16 ? 2
                                  : split                                                                        ? 2
                                                                                                                 : 1;
    const uint32_t part = (uint32_t)(panel.row_bytes / (split ? 2 : 1) / element_size); /* elements of a part */
    int exponent = 0;
    if (split) {
        (void)frexp(packing.largest[slot], &exponent);
    }
    const double shrink = ldexp(1.0, -exponent);
    double rounding = 0.0;
    uint32_t negative = 0, active = 0;
    uint32_t longest = panel.operand != NULL ? part : 0;
    longest = max(longest, (uint32_t)panel.bit_bytes * 8);
    longest = max(longest, (uint32_t)panel.code_bytes);
    /* Whole rounds of all threads, since warps put bits together. */
    for (uint32_t i = threadIdx.x; i < (longest + PAGE_THREADS - 1) / PAGE_THREADS * PAGE_THREADS; i += PAGE_THREADS) {
        const bool there = i < elements;
        const double value = there ? view_element(view, i) : 0.0;
        const uint32_t head = there ? i / (uint32_t)group.head_dim % (uint32_t)group.heads : 0;
        if (panel.operand != NULL && i < part) {
            if (split) {
                const double small = value * shrink;
                const __half high = __double2half(small);
                const double rest = small - (double)__half2float(high);
                const __half low = __double2half(rest * 2048.0);
                const double left = rest - (double)__half2float(low) * 0x1p-11;
                rounding += left * left;
                ((__half *)operand)[i] = high;
                ((__half *)operand)[part + i] = low;
            } else if (there) {
                copy_element(view, i, operand);
            } else if (element_size == 2) {
                ((uint16_t *)operand)[i] = 0;
            } else {
                operand[i] = 0;
            }
        }
        if (panel.signs != NULL) {
            const uint32_t bits = __ballot_sync(0xffffffffu, value < 0.0);
            negative += value < 0.0;
            if (threadIdx.x % 32 == 0 && i / 8 < panel.bit_bytes) {
                ((uint32_t *)(panel.signs + row * panel.bit_bytes))[i / 32] = bits;
            }
        }
        if (panel.actives != NULL) {
            const bool is_active = there && fabs(value) > packing.tau[head];
            const uint32_t bits = __ballot_sync(0xffffffffu, is_active);
            active += is_active;
            if (threadIdx.x % 32 == 0 && i / 8 < panel.bit_bytes) {
                ((uint32_t *)(panel.actives + row * panel.bit_bytes))[i / 32] = bits;
            }
        }
        if (panel.codes != NULL && i < panel.code_bytes) {
            int8_t code = 0;
            if (there && packing.stored_codes != 0) {
                copy_element(view, i, panel.codes + row * panel.code_bytes);
                code = panel.codes[row * panel.code_bytes + i];
            } else if (there) {
                code = code_of(value, packing.absmax[head], packing.code_limit);
            }
            panel.codes[row * panel.code_bytes + i] = code;
        }
    }
    /* The products of the low parts with each other are left out: at most 2^-22 of |x| |y|, half of it for each. */
    const double lost = sqrt(block_sum(rounding, room)) * ldexp(1.0, exponent) +
                        (split ? 0x1p-23 * packing.norms[slot] : 0.0);
    const uint32_t negatives = (uint32_t)block_sum((double)negative, room);
    const uint32_t actives = (uint32_t)block_sum((double)active, room);
    if (threadIdx.x == 0) {
        put_facts(packing, panel, row, slot, split ? ldexp(1.0, exponent) : stored_scale(view), lost);
        if (panel.signs != NULL) {
            panel.sign_count[row] = negatives;
        }
        if (panel.actives != NULL) {
            panel.active_count[row] = actives;
        }
    }
}

/* An unsigned number of so many bits. */
template <int BITS> struct bits_of;
template <> struct bits_of<8> {
    typedef uint8_t type;
};
template <> struct bits_of<16> {
    typedef uint16_t type;
};

/* Pages as they are, whose heads are whole 16-byte words: a word of elements at a time. */
template <int SIZE>
static __global__ void __launch_bounds__(PAGE_THREADS)
    pack_words_kernel(const __grid_constant__ kvsim__device_group group,
                      const __grid_constant__ kvsim__device_packing packing,
                      const __grid_constant__ kvsim__device_panel panel) {
    enum { EACH = 16 / SIZE }; /* elements of a word */
    typedef typename bits_of<EACH>::type some_bits;
    __shared__ double room[PAGE_THREADS / 32];
    const uint32_t row = blockIdx.x, slot = panel.first + row;
    if (row >= panel.count || group.pages[slot].data == NULL || packing.slots[slot].class_id == UINT32_MAX) {
        pack_nothing(panel, row);
        return;
    }
    const page_view view = view_page(group, slot, NULL);
    const kvsim__device_format *format = view.format;
    const double scale = stored_scale(view);
    const uint32_t heads = (uint32_t)group.heads, words = (uint32_t)group.head_dim / EACH;
    const uint32_t all_words = (uint32_t)group.tokens * heads * words;
    uint32_t longest = panel.operand != NULL ? (uint32_t)(panel.row_bytes / 16) : 0;
    longest = max(longest, (uint32_t)(panel.bit_bytes * 8 / EACH));
    longest = max(longest, (uint32_t)(panel.code_bytes / EACH));
    uint32_t negative = 0, active = 0;
    for (uint32_t i = threadIdx.x; i < longest; i += PAGE_THREADS) {
        uint4 stored = make_uint4(0, 0, 0, 0);
        uint32_t head = 0;
        if (i < all_words) {
            const uint32_t line = i / words, token = line / heads;
            head = line - token * heads;
            stored = __ldg((const uint4 *)((const unsigned char *)view.page->data + token * format->token_stride +
                                           (head + (uint32_t)group.first_head) * format->head_stride) +
                           (i - line * words));
        }
        if (panel.operand != NULL && i < panel.row_bytes / 16) {
            ((uint4 *)((unsigned char *)panel.operand + row * panel.row_bytes))[i] = stored;
        }
        if (panel.signs == NULL && panel.actives == NULL && panel.codes == NULL) {
            continue;
        }
        float values[EACH];
        unpack_words<SIZE>(format->dtype, stored, values);
        if (panel.signs != NULL && i < panel.bit_bytes * 8 / EACH) {
            uint32_t bits = 0;
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                bits |= (uint32_t)(values[k] < 0.0f) << k;
            }
            negative += __popc(bits);
            ((some_bits *)(panel.signs + row * panel.bit_bytes))[i] = (some_bits)bits;
        }
        if (panel.actives != NULL && i < panel.bit_bytes * 8 / EACH) {
            const double tau = packing.tau[head];
            const float whole = __double2float_rd(tau); /* no float lies between the two */
            uint32_t bits = 0;
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const bool above = scale == 1.0 ? fabsf(values[k]) > whole : fabs((double)values[k] * scale) > tau;
                bits |= (uint32_t)(i < all_words && above) << k;
            }
            active += __popc(bits);
            ((some_bits *)(panel.actives + row * panel.bit_bytes))[i] = (some_bits)bits;
        }
        if (panel.codes != NULL && i < panel.code_bytes / EACH) {
            int8_t *to = panel.codes + row * panel.code_bytes + (size_t)i * EACH;
            if (packing.stored_codes != 0) {
                *(uint4 *)to = stored; /* i8 pages, sixteen of them */
                continue;
            }
            const double absmax = packing.absmax[head];
            const float factor = absmax > 0.0 ? (float)(packing.code_limit / absmax * scale) : 0.0f;
            const float limit = (float)packing.code_limit;
            uint32_t codes[EACH / 4] = {};
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const int code = __float2int_rn(fminf(fmaxf(values[k] * factor, -limit), limit));
                codes[k / 4] |= (uint32_t)(code & 255) << (k % 4 * 8);
            }
#pragma unroll
            for (int k = 0; k < EACH / 4; k++) {
                ((uint32_t *)to)[k] = codes[k];
            }
        }
    }
    uint32_t negatives = 0, actives = 0;
    if (panel.signs != NULL || panel.actives != NULL) {
        negatives = (uint32_t)block_sum((double)negative, room);
        actives = (uint32_t)block_sum((double)active, room);
    }
    if (threadIdx.x == 0) {
        put_facts(packing, panel, row, slot, scale, 0.0);
        if (panel.signs != NULL) {
            panel.sign_count[row] = negatives;
        }
        if (panel.actives != NULL) {
            panel.active_count[row] = actives;
        }
    }
}

int32_t pages_pack(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_packing *packing,
                   const kvsim__device_panel *panel) {
    const bool plain = panel->operand == NULL || packing->operand != KVSIM__OPERAND_SPLIT;
    if (plain && group->plain_bytes == 2) {
        pack_words_kernel<2><<<panel->capacity, PAGE_THREADS, 0, device->stream>>>(*group, *packing, *panel);
    } else if (plain && group->plain_bytes == 1) {
        pack_words_kernel<1><<<panel->capacity, PAGE_THREADS, 0, device->stream>>>(*group, *packing, *panel);
    } else {
        pack_kernel<<<panel->capacity, PAGE_THREADS, angle_bytes(group, 1), device->stream>>>(*group, *packing,
                                                                                              *panel);
    }
    return device_launched(device, "packing pages");
}
