/* Reading a kvsim_pages descriptor: everything is checked and room is made before the first page is added. */
#include "add_device.h"

#include <math.h>
#include <string.h>

enum { MAX_LAYER = 65535, MAX_AXES = 8 };

/* Elements of a page; keeps every count of elements and codes well inside 32 bits. */
#define MAX_PAGE_ELEMENTS ((uint64_t)1 << 26)

/* Which axis of a layout is what; -1 = none. `halves` is the last axis holding key and value side by side. */
typedef struct axes {
    int ndim, block, pair, token, head, channel;
    bool halves;
    const char *name;
} axes;

static const axes layout_axes[] = {
    [KVSIM_LAYOUT_BNHD] = {4, 0, -1, 1, 2, 3, false, "[B, N, H, D]"},
    [KVSIM_LAYOUT_BHND] = {4, 0, -1, 2, 1, 3, false, "[B, H, N, D]"},
    [KVSIM_LAYOUT_BHN2D] = {4, 0, -1, 2, 1, 3, true, "[B, H, N, 2*D]"},
    [KVSIM_LAYOUT_BNH2D] = {4, 0, -1, 1, 2, 3, true, "[B, N, H, 2*D]"},
    [KVSIM_LAYOUT_2BNHD] = {5, 1, 0, 2, 3, 4, false, "[2, B, N, H, D]"},
    [KVSIM_LAYOUT_B2NHD] = {5, 0, 1, 2, 3, 4, false, "[B, 2, N, H, D]"},
    [KVSIM_LAYOUT_OPAQUE] = {2, 0, -1, -1, -1, 1, false, "[B, bytes]"},
};

/* One kind's pages inside a tensor. */
typedef struct part {
    int32_t kind;
    kvsim__format format;        /* as the tensor is strided */
    kvsim__format copied_format; /* as a copy is: without gaps */
    const unsigned char *data;   /* element (0, 0, 0) of block 0 */
    int64_t blocks;
    int64_t block_stride; /* bytes */
    const unsigned char *token_scales;
    int64_t token_scale_strides[3]; /* bytes: block, slot, head */
    float *fetched_scales;          /* scales of slots that were on a device, on the host, or NULL */
    size_t fetched_count;
    uint32_t format_number;
    unsigned char *copies; /* where copies of this part go, or NULL; on the device if the tensor is there */
    float *scale_copies;
} part;

/* One entry of the block table or of the list. */
typedef struct reference {
    int64_t block, sequence, position, where;
    int32_t fill;
} reference;

typedef struct cursor {
    const kvsim_pages *pages;
    int64_t blocks;
    int32_t tokens;
    int64_t row, column, item;
} cursor;

static kvsim_status read_tensor(kvsim__base *base, const kvsim_tensor *from, const char *what, kvsim_tensor *out) {
    if (from == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s is NULL", what);
    }
    kvsim_status status = kvsim__read_struct(out, sizeof *out, from, sizeof *out);
    if (status != KVSIM_OK) {
        return kvsim__fail(base, status, "%s: struct_size %u is not that of a kvsim_tensor this library knows", what,
                           from->struct_size);
    }
    if (out->reserved != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: reserved is %u; it must be 0", what, out->reserved);
    }
    if (out->device_type != 0 && out->device_type != KVSIM_DEVICE_CPU && out->device_type != KVSIM_DEVICE_CUDA) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s is on device type %d; pages are in host memory (device type 1) or on a CUDA device "
                           "(device type 2)",
                           what, out->device_type);
    }
    if (out->ndim < 0 || out->ndim > MAX_AXES || (out->ndim > 0 && out->shape == NULL)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: ndim %d outside 0..%d, or no shape", what, out->ndim, MAX_AXES);
    }
    for (int i = 0; i < out->ndim; i++) {
        if (out->shape[i] < 0) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s: axis %d has the negative length %lld", what, i,
                               (long long)out->shape[i]);
        }
    }
    return KVSIM_OK;
}

/* Bytes from one entry of each axis to the next; false if the extent of the tensor does not fit 63 bits. */
static bool byte_strides(const kvsim_tensor *tensor, size_t element_size, int64_t strides[MAX_AXES]) {
    int64_t row_major = (int64_t)element_size;
    uint64_t extent = tensor->byte_offset;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        const int64_t length = tensor->shape[i];
        if (tensor->strides != NULL) {
            if (__builtin_mul_overflow(tensor->strides[i], (int64_t)element_size, &strides[i])) {
                return false;
            }
        } else {
            strides[i] = row_major;
            if (__builtin_mul_overflow(row_major, length > 0 ? length : 1, &row_major)) {
                return false;
            }
        }
        const uint64_t magnitude = strides[i] < 0 ? 0 - (uint64_t)strides[i] : (uint64_t)strides[i];
        uint64_t reach = 0;
        if (length > 0 && (!kvsim__multiply(magnitude, (uint64_t)length - 1, &reach) ||
                           __builtin_add_overflow(extent, reach, &extent) || extent > INT64_MAX)) {
            return false;
        }
    }
    return true;
}

/* Bring slot scales that are on a device to the host. */
static kvsim_status fetch_token_scales(kvsim__accelerator *accelerator, const kvsim_pages *pages, part *out) {
    const kvsim__format *format = &out->format;
    const int64_t shape[3] = {out->blocks, format->tokens, format->heads};
    uint64_t count = 0;
    if (!kvsim__multiply((uint64_t)out->blocks, (uint64_t)format->tokens * (uint64_t)format->heads, &count)) {
        return kvsim__fail_memory(accelerator->base, SIZE_MAX, "scales");
    }
    out->fetched_scales = kvsim__allocate(accelerator->base, (size_t)count, sizeof *out->fetched_scales);
    out->fetched_count = (size_t)count;
    if (out->fetched_scales == NULL) {
        return kvsim__fail_memory(accelerator->base, (size_t)count * sizeof *out->fetched_scales, "scales");
    }
    kvsim_status status = kvsim__wait_for_stream(accelerator, pages->stream);
    if (status == KVSIM_OK) {
        status =
            kvsim__fetch_floats(accelerator, out->token_scales, shape, out->token_scale_strides, out->fetched_scales);
    }
    out->token_scales = (const unsigned char *)out->fetched_scales;
    out->token_scale_strides[2] = (int64_t)sizeof(float);
    out->token_scale_strides[1] = out->token_scale_strides[2] * format->heads;
    out->token_scale_strides[0] = out->token_scale_strides[1] * format->tokens;
    return status;
}

/* Copy one scale, or those of heads, and check them; `scales` is [count]. */
static kvsim_status copy_scales(kvsim__accelerator *accelerator, const kvsim_pages *pages, const unsigned char *data,
                                bool on_device, int64_t count, int64_t stride, const char *what, float *scales) {
    kvsim__base *base = accelerator->base;
    if (on_device) {
        const int64_t shape[3] = {1, 1, count}, strides[3] = {0, 0, stride};
        kvsim_status status = kvsim__wait_for_stream(accelerator, pages->stream);
        if (status == KVSIM_OK) {
            status = kvsim__fetch_floats(accelerator, data, shape, strides, scales);
        }
        if (status != KVSIM_OK) {
            return status;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        if (!on_device) {
            memcpy(&scales[i], data + i * stride, sizeof *scales);
        }
        if (!isfinite(scales[i]) || scales[i] <= 0.0f) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s: scale %lld is not a finite number above 0", what,
                               (long long)i);
        }
    }
    return KVSIM_OK;
}

static kvsim_status read_scale(kvsim__accelerator *accelerator, const kvsim_pages *pages, const kvsim_tensor *from,
                               const char *what, part *out) {
    kvsim__base *base = accelerator->base;
    kvsim__format *format = &out->format;
    const int32_t mode = pages->scale_mode;
    format->scale_mode = mode;
    if (mode == KVSIM_SCALE_NONE) {
        if (format->dtype == KVSIM__I8) {
            return kvsim__fail(base, KVSIM_E_INVALID, "i8 pages need a scale: set scale_mode and scale");
        }
        return from == NULL
                   ? KVSIM_OK
                   : kvsim__fail(base, KVSIM_E_INVALID, "%s is given, but scale_mode is KVSIM_SCALE_NONE", what);
    }
    if (format->dtype != KVSIM__I8 && format->dtype != KVSIM__F8_E4M3FN && format->dtype != KVSIM__F8_E5M2) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s pages have no scale; scale_mode must be KVSIM_SCALE_NONE",
                           kvsim__dtype_name(format->dtype));
    }
    kvsim_tensor tensor;
    kvsim_status status = read_tensor(base, from, what, &tensor);
    if (status != KVSIM_OK) {
        return status;
    }
    kvsim__dtype dtype;
    int64_t strides[MAX_AXES];
    if (!kvsim__dtype_from_tensor(&tensor, &dtype) || dtype != KVSIM__F32) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s must be f32", what);
    }
    if (tensor.data == NULL || !byte_strides(&tensor, sizeof(float), strides)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s has no data, or strides that overflow", what);
    }
    bool on_device;
    status = kvsim__check_place(accelerator, &tensor, sizeof(float), what, &on_device);
    if (status != KVSIM_OK) {
        return status;
    }
    const int64_t *shape = tensor.shape;
    const unsigned char *data = (const unsigned char *)tensor.data + tensor.byte_offset;
    if (mode == KVSIM_SCALE_TOKEN_HEAD) {
        if (tensor.ndim != 3 || shape[0] != out->blocks || shape[1] != format->tokens || shape[2] != format->heads) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s must have the shape [B, N, H] = [%lld, %d, %d]", what,
                               (long long)out->blocks, format->tokens, format->heads);
        }
        out->token_scales = data;
        memcpy(out->token_scale_strides, strides, sizeof out->token_scale_strides);
        return on_device && out->blocks > 0 ? fetch_token_scales(accelerator, pages, out) : KVSIM_OK;
    }
    int64_t count = 1;
    if (mode == KVSIM_SCALE_HEAD) {
        count = format->heads;
        if (tensor.ndim != 1 || shape[0] != count) {
            return kvsim__fail(base, KVSIM_E_INVALID, "%s must have the shape [H] = [%d]", what, format->heads);
        }
    } else if (tensor.ndim > 1 || (tensor.ndim == 1 && shape[0] != 1)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s must have the shape [] or [1]", what);
    }
    float *scales = kvsim__allocate(base, (size_t)count, sizeof *scales);
    if (scales == NULL) {
        return kvsim__fail_memory(base, (size_t)count * sizeof *scales, "scales");
    }
    status = copy_scales(accelerator, pages, data, on_device, count, tensor.ndim == 1 ? strides[0] : 0, what, scales);
    if (status != KVSIM_OK) {
        kvsim__release(base, scales, (size_t)count, sizeof *scales);
        return status;
    }
    format->scales = scales; /* until the store has taken its copy; see free_scales */
    return KVSIM_OK;
}

static void free_scales(kvsim__base *base, part *parts, int count) {
    for (int i = 0; i < count; i++) {
        const kvsim__format *format = &parts[i].format;
        kvsim__release(base, format->scales, format->scale_mode == KVSIM_SCALE_HEAD ? (size_t)format->heads : 1,
                       sizeof(float));
        kvsim__release(base, parts[i].fetched_scales, parts[i].fetched_count, sizeof(float));
    }
}

static kvsim_status read_part(kvsim__accelerator *accelerator, const kvsim_pages *pages, const axes *layout,
                              int32_t kind, const kvsim_tensor *from, const kvsim_tensor *scale, part *out) {
    kvsim__base *base = accelerator->base;
    const bool packed = layout->pair >= 0 || layout->halves;
    const char *what =
        !packed && kind == KVSIM_KIND_VALUE && pages->kind == KVSIM_KIND_BOTH ? "value_tensor" : "tensor";
    const char *scale_name = scale != NULL && scale == pages->value_scale ? "value_scale" : "scale";
    kvsim_tensor tensor;
    kvsim_status status = read_tensor(base, from, what, &tensor);
    if (status != KVSIM_OK) {
        return status;
    }
    kvsim__format *format = &out->format;
    if (!kvsim__dtype_from_tensor(&tensor, &format->dtype) ||
        (format->dtype == KVSIM__OPAQUE) != (pages->layout == KVSIM_LAYOUT_OPAQUE)) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s: dtype code %u with %u bits and layout %d; pages are f32, f16, bf16, f8_e4m3fn, f8_e5m2 "
                           "or i8, or opaque bytes in KVSIM_LAYOUT_OPAQUE",
                           what, tensor.dtype_code, tensor.dtype_bits, pages->layout);
    }
    if (tensor.ndim != layout->ndim) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s has %d axes; layout %s has %d", what, tensor.ndim, layout->name,
                           layout->ndim);
    }
    if (layout->pair >= 0 && tensor.shape[layout->pair] != 2) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: axis %d of layout %s has length %lld, not 2", what, layout->pair,
                           layout->name, (long long)tensor.shape[layout->pair]);
    }
    const bool opaque = format->dtype == KVSIM__OPAQUE;
    const int64_t tokens = opaque ? 1 : tensor.shape[layout->token];
    const int64_t heads = opaque ? 1 : tensor.shape[layout->head];
    int64_t channels = tensor.shape[layout->channel];
    if (layout->halves && channels % 2 != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: the last axis of layout %s has the odd length %lld", what,
                           layout->name, (long long)channels);
    }
    channels = layout->halves ? channels / 2 : channels;
    uint64_t elements = 0;
    if (tokens < 1 || heads < 1 || channels < 1 || !kvsim__multiply((uint64_t)tokens, (uint64_t)heads, &elements) ||
        !kvsim__multiply(elements, (uint64_t)channels, &elements) || elements > MAX_PAGE_ELEMENTS) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: a page of %lld x %lld x %lld elements; 1 to %llu are possible",
                           what, (long long)tokens, (long long)heads, (long long)channels,
                           (unsigned long long)MAX_PAGE_ELEMENTS);
    }
    const size_t size = kvsim__dtype_size(format->dtype);
    int64_t strides[MAX_AXES];
    if (!byte_strides(&tensor, size, strides)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: shape times strides overflows", what);
    }
    if (tensor.data == NULL && tensor.shape[layout->block] > 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: data is NULL", what);
    }
    status = kvsim__check_place(accelerator, &tensor, size, what, &format->on_device);
    if (status != KVSIM_OK) {
        return status;
    }
    out->kind = kind;
    out->blocks = tensor.shape[layout->block];
    out->block_stride = strides[layout->block];
    format->tokens = (int32_t)tokens;
    format->heads = (int32_t)heads;
    format->head_dim = (int32_t)channels;
    format->page_tokens = !opaque ? (int32_t)tokens : pages->page_tokens > 0 ? pages->page_tokens : 1;
    format->channel_stride = strides[layout->channel];
    format->head_stride = opaque ? 0 : strides[layout->head];
    format->token_stride = opaque ? 0 : strides[layout->token];
    out->data = tensor.data != NULL ? (const unsigned char *)tensor.data + tensor.byte_offset : NULL;
    if (kind == KVSIM_KIND_VALUE && packed && out->data != NULL) {
        out->data += layout->halves ? channels * strides[layout->channel] : strides[layout->pair];
    }
    status = read_scale(accelerator, pages, scale, scale_name, out);
    out->copied_format = *format;
    out->copied_format.channel_stride = (int64_t)size;
    out->copied_format.head_stride = channels * (int64_t)size;
    out->copied_format.token_stride = heads * channels * (int64_t)size;
    return status;
}

static kvsim_status read_parts(kvsim__accelerator *accelerator, const kvsim_pages *pages, part parts[2], int *count) {
    kvsim__base *base = accelerator->base;
    if (pages->layer < 0 || pages->layer > MAX_LAYER) {
        return kvsim__fail(base, KVSIM_E_INVALID, "layer %d is outside 0..%d", pages->layer, MAX_LAYER);
    }
    if (pages->kind < KVSIM_KIND_KEY || pages->kind > KVSIM_KIND_BOTH) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kind %d is none of KVSIM_KIND_*", pages->kind);
    }
    const int32_t number = pages->layout == 0 ? KVSIM_LAYOUT_BNHD : pages->layout;
    if (number < KVSIM_LAYOUT_BNHD || number > KVSIM_LAYOUT_OPAQUE) {
        return kvsim__fail(base, KVSIM_E_INVALID, "layout %d is none of KVSIM_LAYOUT_*", pages->layout);
    }
    if (pages->scale_mode < KVSIM_SCALE_NONE || pages->scale_mode > KVSIM_SCALE_TOKEN_HEAD) {
        return kvsim__fail(base, KVSIM_E_INVALID, "scale_mode %d is none of KVSIM_SCALE_*", pages->scale_mode);
    }
    if ((pages->flags & ~KVSIM_PAGES_BORROW) != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "flags 0x%x: only KVSIM_PAGES_BORROW is known", pages->flags);
    }
    if (pages->reserved != 0 || pages->page_tokens < 0 || (pages->page_tokens != 0 && number != KVSIM_LAYOUT_OPAQUE)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "page_tokens %d is for KVSIM_LAYOUT_OPAQUE only and not negative; reserved %d must be 0",
                           pages->page_tokens, pages->reserved);
    }
    if (pages->value_scale != NULL && pages->kind != KVSIM_KIND_BOTH) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "value_scale goes with kind KVSIM_KIND_BOTH; for values alone set scale");
    }
    const axes *layout = &layout_axes[number];
    const bool packed = layout->pair >= 0 || layout->halves;
    if (packed && (pages->kind != KVSIM_KIND_BOTH || pages->value_tensor != NULL)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "layout %s packs keys and values: kind must be KVSIM_KIND_BOTH, value_tensor NULL",
                           layout->name);
    }
    if (!packed && (pages->kind == KVSIM_KIND_BOTH) != (pages->value_tensor != NULL)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "layout %s: value_tensor goes with kind KVSIM_KIND_BOTH, and only with it", layout->name);
    }
    *count = pages->kind == KVSIM_KIND_BOTH ? 2 : 1;
    for (int i = 0; i < *count; i++) {
        const bool value = i == 1;
        const kvsim_tensor *tensor = value && !packed ? pages->value_tensor : pages->tensor;
        const kvsim_tensor *scale = value && pages->value_scale != NULL ? pages->value_scale : pages->scale;
        const int32_t kind = *count == 2 ? (value ? KVSIM_KIND_VALUE : KVSIM_KIND_KEY) : pages->kind;
        kvsim_status status = read_part(accelerator, pages, layout, kind, tensor, scale, &parts[i]);
        if (status != KVSIM_OK) {
            return status;
        }
    }
    if (*count == 2 &&
        (parts[0].blocks != parts[1].blocks || parts[0].format.page_tokens != parts[1].format.page_tokens)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "tensor has %lld blocks of %d tokens, value_tensor %lld of %d",
                           (long long)parts[0].blocks, parts[0].format.page_tokens, (long long)parts[1].blocks,
                           parts[1].format.page_tokens);
    }
    return KVSIM_OK;
}

static kvsim_status check_selection(kvsim__base *base, const kvsim_pages *pages) {
    if (pages->block_table != NULL) {
        if (pages->page_count != 0 || pages->block_ids != NULL || pages->fills != NULL) {
            return kvsim__fail(base, KVSIM_E_INVALID, "give either a block_table or a list of pages, not both");
        }
        if (pages->table_rows < 0 || pages->table_columns < 0 || pages->seq_lens == NULL ||
            (pages->table_stride != 0 && pages->table_stride < pages->table_columns)) {
            return kvsim__fail(base, KVSIM_E_INVALID,
                               "block_table: table_rows and table_columns must not be negative, table_stride not below "
                               "table_columns, and seq_lens not NULL");
        }
    } else if (pages->page_count < 0 ||
               (pages->page_count == 0 && (pages->block_ids != NULL || pages->fills != NULL))) {
        return kvsim__fail(base, KVSIM_E_INVALID, "page_count %lld with a list of block_ids or fills",
                           (long long)pages->page_count);
    }
    return KVSIM_OK;
}

/* The next reference; false at the end, or with *status set on a bad one. */
static bool next_reference(kvsim__base *base, cursor *at, reference *out, kvsim_status *status) {
    const kvsim_pages *pages = at->pages;
    if (pages->block_table == NULL) {
        const int64_t count = pages->page_count > 0 ? pages->page_count : at->blocks;
        if (at->item >= count) {
            return false;
        }
        const int64_t i = at->item++;
        *out = (reference){.block = pages->block_ids != NULL ? pages->block_ids[i] : i,
                           .fill = pages->fills != NULL ? pages->fills[i] : at->tokens,
                           .sequence = pages->sequences != NULL ? pages->sequences[i] : 0,
                           .position = pages->positions != NULL ? pages->positions[i] : 0,
                           .where = i};
        if (out->block < 0 || out->block >= at->blocks) {
            *status = kvsim__fail(base, KVSIM_E_INVALID, "page %lld names block %lld of %lld", (long long)i,
                                  (long long)out->block, (long long)at->blocks);
            return false;
        }
        if (out->fill < 1 || out->fill > at->tokens) {
            *status = kvsim__fail(base, KVSIM_E_INVALID, "page %lld: fill %d is outside 1..%d", (long long)i, out->fill,
                                  at->tokens);
            return false;
        }
    } else {
        const int64_t stride = pages->table_stride != 0 ? pages->table_stride : pages->table_columns;
        for (;; at->column++) {
            if (at->row >= pages->table_rows) {
                return false;
            }
            const int64_t length = pages->seq_lens[at->row];
            const int64_t start = at->column * at->tokens;
            if (length < 0 || (length + at->tokens - 1) / at->tokens > pages->table_columns) {
                *status =
                    kvsim__fail(base, KVSIM_E_INVALID, "row %lld: %lld tokens do not fit %lld blocks of %d",
                                (long long)at->row, (long long)length, (long long)pages->table_columns, at->tokens);
                return false;
            }
            if (start >= length) {
                at->row++;
                at->column = -1;
                continue;
            }
            const int64_t block = pages->block_table[at->row * stride + at->column];
            if (block == -1) {
                continue; /* a sliding window has let go of it */
            }
            if (block < 0 || block >= at->blocks) {
                *status =
                    kvsim__fail(base, KVSIM_E_INVALID, "row %lld, column %lld names block %lld of %lld",
                                (long long)at->row, (long long)at->column, (long long)block, (long long)at->blocks);
                return false;
            }
            *out = (reference){.block = block,
                               .fill = (int32_t)(length - start < at->tokens ? length - start : at->tokens),
                               .sequence = pages->sequences != NULL ? pages->sequences[at->row] : at->row,
                               .position = (pages->positions != NULL ? pages->positions[at->row] : 0),
                               .where = at->row};
            if (out->position >= 0 && __builtin_add_overflow(out->position, start, &out->position)) {
                out->position = -1;
            }
            at->column++;
            break;
        }
    }
    if (out->position < 0 || out->position > INT64_MAX - at->tokens) {
        *status = kvsim__fail(base, KVSIM_E_INVALID, "entry %lld: its position is negative or overflows",
                              (long long)out->where);
        return false;
    }
    return true;
}

static kvsim__identity identity_of(const kvsim_pages *pages, uint64_t source, int64_t block) {
    return (kvsim__identity){source, pages->generations != NULL ? pages->generations[block] : 0, block};
}

static kvsim_status check_token_scales(kvsim__base *base, const part *from, const reference *at) {
    for (int64_t t = 0; t < at->fill && t < from->format.tokens; t++) {
        for (int64_t h = 0; h < from->format.heads; h++) {
            float scale;
            memcpy(&scale,
                   from->token_scales + at->block * from->token_scale_strides[0] + t * from->token_scale_strides[1] +
                       h * from->token_scale_strides[2],
                   sizeof scale);
            if (!isfinite(scale) || scale <= 0.0f) {
                return kvsim__fail(base, KVSIM_E_INVALID,
                                   "scale of block %lld, slot %lld, head %lld is not a finite number above 0",
                                   (long long)at->block, (long long)t, (long long)h);
            }
        }
    }
    return KVSIM_OK;
}

/* What a call adds: identities, and pages of each part. */
typedef struct additions {
    size_t identities;
    size_t pages[2];
} additions;

/* A page that is named again must be what it was. */
static kvsim_status check_known_page(kvsim__base *base, const kvsim__store *store, uint32_t page, const part *from,
                                     const reference *at) {
    if (store->pages[page].fill != at->fill) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "block %lld has fill %d here and %d in an earlier call; contents that grew need a new "
                           "generation",
                           (long long)at->block, at->fill, store->pages[page].fill);
    }
    if (!kvsim__same_class(kvsim__page_format(store, page), &from->format)) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "block %lld had another element type, shape or scale in an earlier call; another pool of "
                           "blocks needs another source, new contents a new generation",
                           (long long)at->block);
    }
    return KVSIM_OK;
}

static kvsim_status check_first_reference(kvsim__base *base, const kvsim__store *store, const kvsim_pages *pages,
                                          uint64_t source, const part *parts, int part_count, const reference *at,
                                          additions *out) {
    const kvsim__identity identity = identity_of(pages, source, at->block);
    const uint32_t known = kvsim__store_find_identity(store, &identity);
    kvsim_status status = KVSIM_OK;
    out->identities += known == KVSIM__NONE;
    for (int i = 0; i < part_count && status == KVSIM_OK; i++) {
        const uint32_t page =
            known == KVSIM__NONE ? KVSIM__NONE : kvsim__store_find_page(store, known, pages->layer, parts[i].kind);
        out->pages[i] += page == KVSIM__NONE;
        if (page != KVSIM__NONE) {
            status = check_known_page(base, store, page, &parts[i], at);
        }
        if (status == KVSIM_OK && parts[i].token_scales != NULL) {
            status = check_token_scales(base, &parts[i], at);
        }
    }
    return status;
}

/* Look at every reference without changing anything: are they sound, and what is new? */
static kvsim_status check_references(kvsim__base *base, const kvsim__store *store, const kvsim_pages *pages,
                                     uint64_t source, const part *parts, int part_count, int32_t *fills,
                                     additions *out) {
    cursor at = {.pages = pages, .blocks = parts[0].blocks, .tokens = parts[0].format.page_tokens};
    reference found;
    kvsim_status status = KVSIM_OK;
    while (status == KVSIM_OK && next_reference(base, &at, &found, &status)) {
        const int32_t fill = fills[found.block];
        if (fill == 0) {
            fills[found.block] = found.fill;
            status = check_first_reference(base, store, pages, source, parts, part_count, &found, out);
        } else if (fill != found.fill) {
            status = kvsim__fail(base, KVSIM_E_INVALID, "block %lld has fill %d and fill %d in one call",
                                 (long long)found.block, fill, found.fill);
        }
    }
    return status;
}

static void copy_page(const part *from, const reference *at, unsigned char *to) {
    const kvsim__format *format = &from->format;
    const size_t size = kvsim__dtype_size(format->dtype);
    const unsigned char *page = from->data + at->block * from->block_stride;
    const int32_t tokens = format->dtype == KVSIM__OPAQUE || at->fill > format->tokens ? format->tokens : at->fill;
    for (int32_t t = 0; t < tokens; t++) {
        for (int32_t h = 0; h < format->heads; h++) {
            const unsigned char *row = page + t * format->token_stride + h * format->head_stride;
            if (format->channel_stride == (int64_t)size) {
                memcpy(to, row, (size_t)format->head_dim * size);
            } else {
                for (int32_t d = 0; d < format->head_dim; d++) {
                    memcpy(to + (size_t)d * size, row + d * format->channel_stride, size);
                }
            }
            to += (size_t)format->head_dim * size;
        }
    }
}

static void put_page(kvsim__store *store, const kvsim_pages *pages, uint32_t identity, part *from,
                     const reference *at) {
    const uint32_t known = kvsim__store_find_page(store, identity, pages->layer, from->kind);
    if (known != KVSIM__NONE) {
        store->pages[known].references++;
        return;
    }
    kvsim__page page = {.data = from->data + at->block * from->block_stride,
                        .sequence = at->sequence,
                        .position = at->position,
                        .identity = identity,
                        .format = from->format_number,
                        .references = 1,
                        .fill = at->fill,
                        .layer = (uint16_t)pages->layer,
                        .kind = (uint8_t)from->kind};
    if (from->copies != NULL) {
        page.data = from->copies;
        if (!from->format.on_device) {
            copy_page(from, at, from->copies);
        }
        from->copies += kvsim__format_elements(&from->format) * kvsim__dtype_size(from->format.dtype);
    }
    if (from->token_scales != NULL) {
        page.token_scales = from->scale_copies;
        for (int64_t t = 0; t < from->format.tokens; t++) {
            for (int64_t h = 0; h < from->format.heads; h++) {
                if (t < at->fill) {
                    memcpy(from->scale_copies,
                           from->token_scales + at->block * from->token_scale_strides[0] +
                               t * from->token_scale_strides[1] + h * from->token_scale_strides[2],
                           sizeof(float));
                } else {
                    *from->scale_copies = 1.0f;
                }
                from->scale_copies++;
            }
        }
    }
    (void)kvsim__store_put_page(store, &page);
}

/* Memory for copies of `count` pages of a part, and its format in the store. */
static kvsim_status prepare_part(kvsim__base *base, kvsim__store *store, bool borrow, size_t count, part *out) {
    const size_t elements = kvsim__format_elements(&out->format);
    const size_t slots = (size_t)out->format.tokens * (size_t)out->format.heads;
    kvsim_status status =
        kvsim__store_put_format(base, store, borrow ? &out->format : &out->copied_format, &out->format_number);
    uint64_t bytes = 0;
    if (status == KVSIM_OK && !borrow) {
        if (!kvsim__multiply(elements * kvsim__dtype_size(out->format.dtype), count, &bytes)) {
            return kvsim__fail_memory(base, SIZE_MAX, "copies of pages");
        }
        status = out->format.on_device
                     ? kvsim__device_take(&store->device_memory, bytes, "copies of pages", (void **)&out->copies)
                     : kvsim__store_allocate(base, store, (size_t)bytes, "copies of pages", (void **)&out->copies);
    }
    if (status == KVSIM_OK && out->token_scales != NULL) {
        if (!kvsim__multiply(slots * sizeof(float), count, &bytes)) {
            return kvsim__fail_memory(base, SIZE_MAX, "scales");
        }
        status = kvsim__store_allocate(base, store, (size_t)bytes, "scales", (void **)&out->scale_copies);
    }
    return status;
}

/* Copy the new pages of a part on the device. `fills` is as check_references leaves it. */
static kvsim_status copy_on_device(kvsim__accelerator *accelerator, const kvsim__store *store, const kvsim_pages *pages,
                                   uint64_t source, const part *from, size_t count, const int32_t *fills) {
    kvsim__base *base = accelerator->base;
    const size_t blocks = (size_t)from->blocks;
    cursor at = {.pages = pages, .blocks = from->blocks, .tokens = from->format.page_tokens};
    reference found;
    kvsim_status status = KVSIM_OK;
    const unsigned char **list = kvsim__allocate(base, count, sizeof *list);
    int32_t *left = kvsim__allocate(base, blocks, sizeof *left);
    size_t listed = 0;
    if (list == NULL || left == NULL) {
        status = kvsim__fail_memory(base, blocks * sizeof *left, "copies of pages");
    } else {
        memcpy(left, fills, blocks * sizeof *left);
    }
    while (status == KVSIM_OK && next_reference(base, &at, &found, &status)) {
        const kvsim__identity identity = identity_of(pages, source, found.block);
        const uint32_t known = kvsim__store_find_identity(store, &identity);
        if (left[found.block] != 0 &&
            (known == KVSIM__NONE || kvsim__store_find_page(store, known, pages->layer, from->kind) == KVSIM__NONE)) {
            list[listed++] = from->data + found.block * from->block_stride;
        }
        left[found.block] = 0;
    }
    if (status == KVSIM_OK) {
        status = kvsim__gather_device_pages(accelerator, &from->format, list, listed, from->copies);
    }
    kvsim__release(base, list, count, sizeof *list);
    kvsim__release(base, left, blocks, sizeof *left);
    return status;
}

/* How much a store held before a call. */
typedef struct store_size {
    size_t chunks, formats, device_blocks;
} store_size;

static void take_back(kvsim__base *base, kvsim__store *store, const store_size *before) {
    while (store->chunk_count > before->chunks) {
        const kvsim__chunk *chunk = &store->chunks[--store->chunk_count];
        kvsim__release(base, chunk->memory, chunk->bytes, 1);
    }
    while (store->device_memory.count > before->device_blocks) {
        kvsim__device_give(&store->device_memory, store->device_memory.blocks[store->device_memory.count - 1]);
    }
    store->format_count = before->formats;
}

/* Room in the store for what a call adds, and copies of what is on a device. */
static kvsim_status prepare_parts(kvsim__accelerator *accelerator, kvsim__store *store, const kvsim_pages *pages,
                                  uint64_t source, part *parts, int part_count, const additions *added,
                                  const int32_t *fills) {
    const bool borrow = (pages->flags & KVSIM_PAGES_BORROW) != 0;
    kvsim_status status =
        kvsim__store_reserve(accelerator->base, store, added->identities, added->pages[0] + added->pages[1]);
    for (int i = 0; i < part_count && status == KVSIM_OK; i++) {
        if (added->pages[i] == 0) {
            continue;
        }
        status = prepare_part(accelerator->base, store, borrow, added->pages[i], &parts[i]);
        if (status == KVSIM_OK && parts[i].format.on_device) {
            status = kvsim__wait_for_stream(accelerator, pages->stream);
        }
        if (status == KVSIM_OK && parts[i].format.on_device && !borrow) {
            status = copy_on_device(accelerator, store, pages, source, &parts[i], added->pages[i], fills);
        }
    }
    return status;
}

static kvsim_status add_parts(kvsim__accelerator *accelerator, kvsim__store *store, const kvsim_pages *pages,
                              part *parts, int part_count) {
    kvsim__base *base = accelerator->base;
    store->device_memory.accelerator = accelerator;
    const uint64_t source = pages->source != 0 ? pages->source : store->next_source;
    const size_t blocks = (size_t)parts[0].blocks;
    int32_t *fills = kvsim__allocate_zeroed(base, blocks, sizeof *fills);
    if (fills == NULL) {
        return kvsim__fail_memory(base, blocks * sizeof *fills, "the fills of blocks");
    }
    additions added = {0};
    kvsim_status status = check_references(base, store, pages, source, parts, part_count, fills, &added);
    const store_size before = {store->chunk_count, store->format_count, store->device_memory.count};
    if (status == KVSIM_OK) {
        status = prepare_parts(accelerator, store, pages, source, parts, part_count, &added, fills);
    }
    kvsim__release(base, fills, blocks, sizeof *fills);
    if (status != KVSIM_OK) {
        take_back(base, store, &before);
        return status;
    }
    cursor at = {.pages = pages, .blocks = parts[0].blocks, .tokens = parts[0].format.page_tokens};
    reference found;
    while (next_reference(base, &at, &found, &status)) {
        const kvsim__identity identity = identity_of(pages, source, found.block);
        const uint32_t number = kvsim__store_put_identity(store, &identity);
        for (int i = 0; i < part_count; i++) {
            put_page(store, pages, number, &parts[i], &found);
        }
    }
    store->next_source -= pages->source == 0;
    return KVSIM_OK;
}

kvsim_status kvsim__store_add(kvsim__base *base, kvsim__store *store, kvsim__accelerator *accelerator,
                              const kvsim_pages *pages) {
    part parts[2];
    memset(parts, 0, sizeof parts);
    int part_count = 0;
    kvsim_status status = check_selection(base, pages);
    if (status == KVSIM_OK) {
        status = read_parts(accelerator, pages, parts, &part_count);
    }
    if (status == KVSIM_OK) {
        status = add_parts(accelerator, store, pages, parts, part_count);
    }
    free_scales(base, parts, 2);
    return status;
}
