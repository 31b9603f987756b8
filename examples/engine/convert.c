/* Element types of the cache: float32, bfloat16 and IEEE half. */
#include <string.h>

#include "internal.h"

size_t kv_element_size(int32_t kv_dtype) {
    return kv_dtype == ENGINE_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1fu) {
        return float_of_bits(sign | 0x7f800000u | (fraction << 13));
    }
    if (exponent == 0) {
        /* Subnormal halves are multiples of 2^-24 and normal floats. */
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

static uint16_t half_of_float(float value) {
    uint32_t bits = bits_of_float(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u); /* not a number */
    }
    if (magnitude >= 0x477ff000u) {
        return (uint16_t)(sign | 0x7c00u); /* rounds to 65,536 or more: infinity */
    }
    if (magnitude < 0x38800000u) {
        /* Below 2^-14. Adding 0.5 leaves the multiple of 2^-24, rounded to nearest even, in the lowest bits. */
        float shifted = float_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (uint16_t)(bits_of_float(shifted) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | (uint16_t)((rounded >> 13) - (112u << 10)));
}

static uint16_t bfloat_of_float(float value) {
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u); /* not a number: keep it one */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void kv_widen(int32_t kv_dtype, const void *from, float *to, size_t count) {
    if (kv_dtype == ENGINE_KV_F32) {
        memcpy(to, from, count * sizeof(float));
        return;
    }
    const unsigned char *bytes = from;
    for (size_t i = 0; i < count; i++) {
        uint16_t stored;
        memcpy(&stored, bytes + i * sizeof stored, sizeof stored);
        to[i] = kv_dtype == ENGINE_KV_BF16 ? float_of_bits((uint32_t)stored << 16) : float_of_half(stored);
    }
}

void kv_narrow(int32_t kv_dtype, const float *from, void *to, size_t count) {
    if (kv_dtype == ENGINE_KV_F32) {
        memcpy(to, from, count * sizeof(float));
        return;
    }
    unsigned char *bytes = to;
    for (size_t i = 0; i < count; i++) {
        uint16_t stored = kv_dtype == ENGINE_KV_BF16 ? bfloat_of_float(from[i]) : half_of_float(from[i]);
        memcpy(bytes + i * sizeof stored, &stored, sizeof stored);
    }
}
