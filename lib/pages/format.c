#include "format.h"

#include <math.h>
#include <string.h>

bool kvsim__dtype_from_tensor(const kvsim_tensor *tensor, kvsim__dtype *out) {
    static const struct {
        uint8_t code, bits;
        kvsim__dtype dtype;
    } known[] = {
        {KVSIM_DTYPE_FLOAT, 32, KVSIM__F32},      {KVSIM_DTYPE_FLOAT, 16, KVSIM__F16},
        {KVSIM_DTYPE_BFLOAT, 16, KVSIM__BF16},    {KVSIM_DTYPE_F8_E4M3FN, 8, KVSIM__F8_E4M3FN},
        {KVSIM_DTYPE_F8_E5M2, 8, KVSIM__F8_E5M2}, {KVSIM_DTYPE_INT, 8, KVSIM__I8},
        {KVSIM_DTYPE_OPAQUE, 8, KVSIM__OPAQUE},
    };
    if (tensor->dtype_lanes > 1) {
        return false;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].code == tensor->dtype_code && known[i].bits == tensor->dtype_bits) {
            *out = known[i].dtype;
            return true;
        }
    }
    return false;
}

const char *kvsim__dtype_name(kvsim__dtype dtype) {
    static const char *const names[] = {"f32", "f16", "bf16", "f8_e4m3fn", "f8_e5m2", "i8", "opaque"};
    return names[dtype];
}

size_t kvsim__dtype_size(kvsim__dtype dtype) {
    static const size_t sizes[] = {4, 2, 2, 1, 1, 1, 1};
    return sizes[dtype];
}

size_t kvsim__format_page_bytes(const kvsim__format *format) {
    size_t bytes = kvsim__format_elements(format) * kvsim__dtype_size(format->dtype);
    if (format->scale_mode == KVSIM_SCALE_TOKEN_HEAD) {
        bytes += (size_t)format->tokens * (size_t)format->heads * sizeof(float);
    }
    return bytes;
}

static inline float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16 to binary32; exact. */
static inline float float_from_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1f) {
        return float_from_bits(sign | 0x7f800000u | mantissa << 13);
    }
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* OCP E4M3 (arXiv 2209.05433): bias 7, no infinity, one NaN pattern for each sign. */
static inline float float_from_e4m3fn(uint8_t byte) {
    const uint32_t exponent = (byte >> 3) & 0xfu;
    const uint32_t mantissa = byte & 0x7u;
    float magnitude;
    if (exponent == 0xf && mantissa == 0x7) {
        magnitude = NAN;
    } else if (exponent == 0) {
        magnitude = (float)mantissa * 0x1p-9f;
    } else {
        magnitude = float_from_bits((exponent + 120) << 23 | mantissa << 20);
    }
    return (byte & 0x80u) != 0 ? -magnitude : magnitude;
}

void kvsim__convert_row(kvsim__dtype dtype, const unsigned char *from, int64_t stride, size_t count, float *out) {
    switch (dtype) {
    case KVSIM__F32:
        if (stride == (int64_t)sizeof(float)) {
            memcpy(out, from, count * sizeof(float));
            return;
        }
        for (size_t i = 0; i < count; i++, from += stride) {
            memcpy(&out[i], from, sizeof(float));
        }
        return;
    case KVSIM__F16:
        for (size_t i = 0; i < count; i++, from += stride) {
            uint16_t half;
            memcpy(&half, from, sizeof half);
            out[i] = float_from_f16(half);
        }
        return;
    case KVSIM__BF16:
        for (size_t i = 0; i < count; i++, from += stride) {
            uint16_t half;
            memcpy(&half, from, sizeof half);
            out[i] = float_from_bits((uint32_t)half << 16);
        }
        return;
    case KVSIM__F8_E4M3FN:
        for (size_t i = 0; i < count; i++, from += stride) {
            out[i] = float_from_e4m3fn(*from);
        }
        return;
    case KVSIM__F8_E5M2:
        /* E5M2 is binary16 without its low byte. */
        for (size_t i = 0; i < count; i++, from += stride) {
            out[i] = float_from_f16((uint16_t)(*from << 8));
        }
        return;
    case KVSIM__I8:
        for (size_t i = 0; i < count; i++, from += stride) {
            out[i] = (float)(int8_t)*from;
        }
        return;
    case KVSIM__OPAQUE:
        break;
    }
}
