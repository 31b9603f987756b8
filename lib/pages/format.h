/**
 * How a page's elements are stored: element type, shape, strides, scale. Pages of one format are dequantised alike;
 * pages whose formats are of one class (all but the strides equal) may be compared.
 */
#ifndef KVSIM_PAGES_FORMAT_H
#define KVSIM_PAGES_FORMAT_H

#include "../base/base.h"

/** Element types, as an index that fits a byte. */
typedef enum kvsim__dtype {
    KVSIM__F32,
    KVSIM__F16,
    KVSIM__BF16,
    KVSIM__F8_E4M3FN,
    KVSIM__F8_E5M2,
    KVSIM__I8,
    KVSIM__OPAQUE
} kvsim__dtype;

typedef struct kvsim__format {
    kvsim__dtype dtype;
    uint32_t class_id;      /**< equal for formats whose pages may be compared */
    int32_t tokens;         /**< N, slots of a page */
    int32_t heads;          /**< H */
    int32_t head_dim;       /**< D; bytes of a page for KVSIM__OPAQUE, with N = H = 1 in what follows */
    int32_t page_tokens;    /**< N, or for KVSIM__OPAQUE the tokens of a page that the caller named */
    int32_t scale_mode;     /**< KVSIM_SCALE_* */
    int64_t token_stride;   /**< bytes from a slot to the next */
    int64_t head_stride;    /**< bytes from a head to the next */
    int64_t channel_stride; /**< bytes from a channel to the next */
    float *scales;          /**< [1] or [H] for KVSIM_SCALE_TENSOR or _HEAD, owned by the store; else NULL */
    bool on_device;         /**< pages lie on the context's device: the host must not follow their addresses */
} kvsim__format;

/** Element type of a tensor's dtype fields; false if pages cannot have it. */
bool kvsim__dtype_from_tensor(const kvsim_tensor *tensor, kvsim__dtype *out);

/** "bf16" and the like. */
const char *kvsim__dtype_name(kvsim__dtype dtype);

/** Bytes of an element. */
size_t kvsim__dtype_size(kvsim__dtype dtype);

/** Bytes of a page as stored, scales of KVSIM_SCALE_TOKEN_HEAD included. */
size_t kvsim__format_page_bytes(const kvsim__format *format);

/** Elements of a row, of a page. */
static inline size_t kvsim__format_elements(const kvsim__format *format) {
    return (size_t)format->tokens * (size_t)format->heads * (size_t)format->head_dim;
}

/**
 * Convert `count` elements that lie `stride` bytes apart to float. Exact for every type; unaligned sources are allowed.
 */
void kvsim__convert_row(kvsim__dtype dtype, const unsigned char *from, int64_t stride, size_t count, float *out);

#endif
