/**
 * @file kvsim.h
 * @brief libkvsim: how much of an LLM's paged KV-cache is redundant, measured on its real pages.
 *
 * This header is the library's manual. Four verbs make a report:
 *
 * @code{.c}
 *   kvsim_ctx *ctx;
 *   kvsim_ctx_create(NULL, &ctx);                  // 1. a context
 *   kvsim_add_pages(ctx, &pages);                  // 2. pages, where they lie
 *   kvsim_compute(ctx, NULL, &result);             // 3. compare all pairs
 *   kvsim_report(ctx, result, &report_options);    // 4. JSON; or read the columns of the result
 * @endcode
 *
 * **Words.** A *page* is `N` consecutive token slots of one kind (key or value) in one layer, of logical
 * shape `[N, H, D]` (slots, KV heads on this rank, head size), compared as a vector of `n = N*H*D`
 * elements. An engine's *block* is one key page and one value page of each layer. A *group* holds the pages
 * that are compared with each other: same layer, kind, shape, element type and stored scale. *Earlier*
 * means: referenced earlier in the order in which pages were added. docs/metrics.md has every formula.
 *
 * **Structs that the caller fills** begin with `struct_size`. Initialise them with the `_INIT` macro or the
 * `_init` function; zero means the documented default for every other field. A struct from a newer header
 * is accepted when its unknown tail is zero, a struct smaller than that of the first release is refused.
 *
 * **Statuses** are 0 (`KVSIM_OK`) or negative. New values may appear: treat an unknown one as failure.
 * The text of the last failure is kept in the context (`kvsim_ctx_error`), never in a thread-local.
 *
 * **Ownership** is said with these words. [borrowed]: valid until the owner named is destroyed; do not free.
 * [owned]: the caller destroys it. Pointers that a call takes need to live only during the call unless the
 * text says otherwise.
 */
#ifndef KVSIM_KVSIM_H
#define KVSIM_KVSIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <kvsim/version.h>

#if defined(_WIN32)
#define KVSIM_API
#else
/** Marks what the shared library exports. */
#define KVSIM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------
 * Status
 * ---------------------------------------------------------------------------------------------- */

/** Result of a call: `KVSIM_OK` or one of the negative constants. */
typedef int32_t kvsim_status;

/** @name Statuses
 * Numbers are pinned; the gaps are room for finer ones.
 * @{ */
/** Success. */
#define KVSIM_OK ((kvsim_status)0)
/** An argument is outside what its text allows; nothing was changed. */
#define KVSIM_E_INVALID ((kvsim_status)-10)
/** The allocator returned NULL; nothing was changed. */
#define KVSIM_E_NOMEM ((kvsim_status)-20)
/** Valid, but this build, backend or data cannot do it; the error text says what can. */
#define KVSIM_E_UNSUPPORTED ((kvsim_status)-30)
/** A progress callback asked to stop. The context is usable, there is no result. */
#define KVSIM_E_CANCELLED ((kvsim_status)-40)
/** A file or sink could not be read or written; the error text has the system's reason. */
#define KVSIM_E_IO ((kvsim_status)-50)
/** A file is not what it claims to be; the error text says what is wrong and where. */
#define KVSIM_E_FORMAT ((kvsim_status)-60)
/** A tensor, column or metadata key of that name does not exist. */
#define KVSIM_E_NOT_FOUND ((kvsim_status)-70)
/** The compute backend that was asked for cannot run here; the error text has the reason. */
#define KVSIM_E_BACKEND ((kvsim_status)-80)
/** A defect of kvsim. */
#define KVSIM_E_INTERNAL ((kvsim_status)-100)
/** @} */

/**
 * Short English name of a status, "out of memory" for example.
 * @param status any number
 * @return [borrowed] static text, never NULL
 */
KVSIM_API const char *kvsim_status_string(kvsim_status status);

/**
 * Release of the library that is running.
 * @return [borrowed] static text, "0.1.0" for example
 */
KVSIM_API const char *kvsim_version_string(void);

/* ------------------------------------------------------------------------------------------------
 * Context
 * ---------------------------------------------------------------------------------------------- */

/** A set of pages and what is needed to compare them. Opaque. */
typedef struct kvsim_ctx kvsim_ctx;

/** @name Log levels
 * @{ */
#define KVSIM_LOG_ERROR   1 /**< a call failed */
#define KVSIM_LOG_WARNING 2 /**< a result is not what one might expect */
#define KVSIM_LOG_INFO    3 /**< what was chosen, backend and threads for example */
#define KVSIM_LOG_DEBUG   4 /**< for whoever works on the library */
/** @} */

/** @name Backends
 * @{ */
/** A CUDA device if one can be had when it is first needed, else the CPU, with a log line. A device that fails hands
 * over to the CPU for good, unless pages are in its memory. */
#define KVSIM_BACKEND_AUTO 0
#define KVSIM_BACKEND_CPU  1 /**< the CPU; tensors on a device are refused */
#define KVSIM_BACKEND_CUDA 2 /**< a CUDA device, or KVSIM_E_BACKEND with the reason */
/** @} */

/**
 * Where the library takes its memory from. Both functions are called from any thread that computes.
 */
typedef struct kvsim_allocator {
    /** `size` bytes, aligned to `alignment` (a power of two, at most 4,096), or NULL. */
    void *(*allocate)(void *user, size_t size, size_t alignment);
    /** Give back what `allocate` returned for the same `size`. Never called with NULL. */
    void (*release)(void *user, void *memory, size_t size);
    /** Handed to both. */
    void *user;
} kvsim_allocator;

/** Options of `kvsim_ctx_create`. Zero means the default for every field. */
typedef struct kvsim_options {
    uint32_t struct_size; /**< sizeof(kvsim_options) */
    int32_t backend;      /**< KVSIM_BACKEND_*, default auto */
    /** Threads that compute, the calling one included; 0 = one for each core this process may use. */
    uint32_t threads;
    /** Most verbose level that reaches `log`; 0 = KVSIM_LOG_WARNING. */
    int32_t log_level;
    /** [borrowed] Allocator, copied by the call. NULL: aligned_alloc and free. */
    const kvsim_allocator *allocator;
    /** Receives whole lines without a newline, from any thread of the library, never two at a time.
     * NULL: nothing is logged. Must not call the library. */
    void (*log)(void *user, int32_t level, const char *message);
    void *log_user; /**< handed to `log` */
    /**
     * The host's own threads: call `body(argument, i)` once for each i in [0, count), in any order and on
     * any threads, and return when all are done. NULL: the library starts `threads - 1` threads of its own
     * for the time of a compute and joins them before it returns.
     */
    void (*parallel_for)(void *user, uint32_t count, void (*body)(void *argument, uint32_t index), void *argument);
    void *parallel_user; /**< handed to `parallel_for` */
    /** Buffer that receives the reason when `kvsim_ctx_create` fails (there is no context to ask). NULL: none. */
    char *error_buffer;
    uint64_t error_buffer_size; /**< bytes of `error_buffer`, terminating NUL included */
    int32_t device_ordinal;     /**< number of the CUDA device; tensors of another are refused */
    /** Share of the time in which kernels may run on the device, in per cent, 1..100; 0 = 100. */
    uint32_t device_duty_percent;
    /** Most bytes of the device's memory that are taken at a time, borrowed tensors apart; 0 = half of what is free
     * when the device is opened. */
    uint64_t device_memory_bytes;
} kvsim_options;

/** All defaults. */
#define KVSIM_OPTIONS_INIT                                                                                             \
    { sizeof(kvsim_options), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0 }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param options the struct to fill
 */
KVSIM_API void kvsim_options_init(kvsim_options *options);

/**
 * Create a context.
 *
 * **Threads:** one context must not be used by two threads at the same time; different contexts are
 * independent. The library keeps no mutable global state but the kernel table and the backend of devices, each of which
 * is found once. It installs no signal handler, never calls exit or abort and never changes the floating-point mode.
 *
 * @param options NULL for the defaults
 * @param out [owned] the context, for `kvsim_ctx_destroy`; NULL on failure
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_NOMEM, KVSIM_E_BACKEND
 */
KVSIM_API kvsim_status kvsim_ctx_create(const kvsim_options *options, kvsim_ctx **out);

/**
 * Destroy a context with its pages. Results made from it must be destroyed before.
 * @param ctx NULL is allowed
 */
KVSIM_API void kvsim_ctx_destroy(kvsim_ctx *ctx);

/**
 * Text of the last failure of a call on this context, one line, UTF-8.
 * @param ctx the context that failed
 * @return [borrowed] until the next call on `ctx`
 */
KVSIM_API const char *kvsim_ctx_error(const kvsim_ctx *ctx);

/**
 * Forget all pages; options stay. Borrowed tensors may be freed afterwards.
 * @param ctx the context to empty
 */
KVSIM_API void kvsim_ctx_clear(kvsim_ctx *ctx);

/* ------------------------------------------------------------------------------------------------
 * Tensors
 * ---------------------------------------------------------------------------------------------- */

/** @name Element type codes
 * The numeric codes of DLPack 1.1 (`DLDataTypeCode`); `bits` tells f16 from f32.
 * @{ */
#define KVSIM_DTYPE_INT       0  /**< 8 bits (with a scale); 32 or 64 in columns of a result */
#define KVSIM_DTYPE_UINT      1  /**< only in columns of a result */
#define KVSIM_DTYPE_FLOAT     2  /**< IEEE 754, 16 or 32 bits; 64 only in columns of a result and as a scale */
#define KVSIM_DTYPE_OPAQUE    3  /**< bytes with an unknown inner layout, bits = 8 */
#define KVSIM_DTYPE_BFLOAT    4  /**< bfloat16, bits = 16 */
#define KVSIM_DTYPE_F8_E4M3FN 10 /**< OCP 8-bit float, 4 exponent bits, no infinity, bits = 8 (arXiv 2209.05433) */
#define KVSIM_DTYPE_F8_E5M2   12 /**< OCP 8-bit float, 5 exponent bits, bits = 8 (arXiv 2209.05433) */
/** @} */

/** @name Device codes
 * The numeric codes of DLPack 1.1 (`DLDeviceType`).
 * @{ */
#define KVSIM_DEVICE_CPU  1 /**< host memory; 0 in a descriptor means this too */
#define KVSIM_DEVICE_CUDA 2 /**< memory of a CUDA device */
/** @} */

/** A strided array in memory, with the meanings of DLPack's `DLTensor` (github.com/dmlc/dlpack). */
typedef struct kvsim_tensor {
    uint32_t struct_size; /**< sizeof(kvsim_tensor) */
    int32_t device_type;  /**< KVSIM_DEVICE_* */
    int32_t device_id;    /**< 0 on the CPU */
    int32_t ndim;         /**< number of axes, 0..8 */
    uint8_t dtype_code;   /**< KVSIM_DTYPE_* */
    uint8_t dtype_bits;   /**< bits of an element */
    uint16_t dtype_lanes; /**< 1; 0 means 1 */
    uint32_t reserved;    /**< 0 */
    uint64_t byte_offset; /**< of element 0 from `data` */
    const void *data;     /**< any alignment in host memory; aligned to elements on a device */
    const int64_t *shape; /**< [ndim] */
    /** [ndim], counted in elements, may be negative; NULL = row-major without gaps. */
    const int64_t *strides;
} kvsim_tensor;

/** All zero but the size. */
#define KVSIM_TENSOR_INIT                                                                                              \
    { sizeof(kvsim_tensor), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param tensor the struct to fill
 */
KVSIM_API void kvsim_tensor_init(kvsim_tensor *tensor);

/* ------------------------------------------------------------------------------------------------
 * Pages
 * ---------------------------------------------------------------------------------------------- */

/** @name Kinds
 * @{ */
#define KVSIM_KIND_KEY   1 /**< keys, as stored (after RoPE where the engine stores them so) */
#define KVSIM_KIND_VALUE 2 /**< values */
#define KVSIM_KIND_BOTH  3 /**< keys and values in one call */
/** @} */

/**
 * @name Layouts
 * Order of the axes of the tensor: B physical blocks, N token slots, H KV heads, D head size. Strides say how
 * they lie in memory, so a permuted view serves for any other order. In `2D` the first half of the last axis is
 * the key, in `2B` and `B2` index 0 is.
 * @{ */
#define KVSIM_LAYOUT_BNHD   1 /**< [B, N, H, D]; the default (0) */
#define KVSIM_LAYOUT_BHND   2 /**< [B, H, N, D] */
#define KVSIM_LAYOUT_BHN2D  3 /**< [B, H, N, 2*D], keys and values packed (vLLM >= 0.29) */
#define KVSIM_LAYOUT_BNH2D  4 /**< [B, N, H, 2*D], packed */
#define KVSIM_LAYOUT_2BNHD  5 /**< [2, B, N, H, D], packed (FlashAttention in vLLM <= 0.27) */
#define KVSIM_LAYOUT_B2NHD  6 /**< [B, 2, N, H, D], packed (FlashInfer) */
#define KVSIM_LAYOUT_OPAQUE 7 /**< [B, bytes] of KVSIM_DTYPE_OPAQUE: exact duplicates only */
/** @} */

/** @name Scale modes
 * A stored element s stands for s * scale.
 * @{ */
#define KVSIM_SCALE_NONE       0 /**< 1 */
#define KVSIM_SCALE_TENSOR     1 /**< one scale: shape [] or [1] */
#define KVSIM_SCALE_HEAD       2 /**< one for each head: [H] */
#define KVSIM_SCALE_TOKEN_HEAD 3 /**< one for each slot and head: [B, N, H]; part of a page's stored bytes */
/** @} */

/** @name Flags of kvsim_pages
 * @{ */
/** Do not copy: the tensors stay alive and unchanged until `kvsim_ctx_clear` or `kvsim_ctx_destroy`. */
#define KVSIM_PAGES_BORROW 1u
/** @} */

/**
 * Pages to add: a tensor of physical blocks, and which of its blocks are pages of which sequence.
 *
 * *Which blocks:* either a block table (`block_table` not NULL: row r lists the physical blocks of a sequence
 * of `seq_lens[r]` tokens in order; entries past its end are not read), or a plain list
 * (`page_count` entries of `block_ids`, `fills`, `sequences`, `positions`), or, with neither, all B blocks.
 *
 * *Identity:* a page is (source, physical block, generation) in its layer and kind. One named twice is ONE page
 * with two references; it keeps the sequence and position of the first. With `source` 0 every call is a source
 * of its own. Key and value pages of equal identity and layer form a block: hand both in by one call, or by two
 * calls with the same non-zero source.
 *
 * *Fill:* slots past a page's fill are never read.
 */
typedef struct kvsim_pages {
    uint32_t struct_size; /**< sizeof(kvsim_pages) */
    uint32_t flags;       /**< KVSIM_PAGES_* */
    int32_t layer;        /**< 0..65,535 */
    int32_t kind;         /**< KVSIM_KIND_* */
    int32_t layout;       /**< KVSIM_LAYOUT_*; 0 = BNHD. A packed layout needs kind BOTH */
    int32_t scale_mode;   /**< KVSIM_SCALE_*; i8 needs a scale, f8 may have one, other types none */
    uint64_t source;      /**< pool that the physical blocks belong to; 0 = this call's own */

    const kvsim_tensor *tensor;       /**< the pages; for kind BOTH and an unpacked layout, the keys */
    const kvsim_tensor *value_tensor; /**< the values, for kind BOTH and an unpacked layout only */
    const kvsim_tensor *scale;        /**< f32 scales of `tensor`, finite and > 0; copied */
    const kvsim_tensor *value_scale;  /**< of the values, for kind BOTH; NULL = `scale` serves for both */

    const int32_t *block_table; /**< [table_rows, table_columns]; -1 = no block. NULL: no table */
    int64_t table_rows;         /**< rows = sequences */
    int64_t table_columns;      /**< columns */
    int64_t table_stride;       /**< elements from a row to the next; 0 = table_columns */
    const int32_t *seq_lens;    /**< [table_rows] valid tokens of each sequence */

    int64_t page_count;       /**< length of the plain list */
    const int64_t *block_ids; /**< [page_count] index on axis B; NULL = 0, 1, 2, ... */
    const int32_t *fills;     /**< [page_count] valid slots, 1..N; NULL = all full */

    /** Request that the page belongs to: [table_rows], or [page_count], or [B]. NULL: row number, or 0. */
    const int64_t *sequences;
    /** Absolute position of slot 0: [table_rows] of a row's first block (NULL: 0), or [page_count] or [B]
     * of each page (NULL: 0). Non-negative. */
    const int64_t *positions;
    /** [B] generation of each physical block; NULL = all 0. */
    const uint64_t *generations;
    /** Tokens of a page, for KVSIM_LAYOUT_OPAQUE only (0 = 1). */
    int32_t page_tokens;
    int32_t reserved; /**< 0 */
    /** Handle of the CUDA stream that tensors on a device were written on: what is queued there is waited for, on
     * the device. NULL: the legacy default stream. */
    void *stream;
} kvsim_pages;

/** All defaults. */
#define KVSIM_PAGES_INIT                                                                                               \
    {                                                                                                                  \
        sizeof(kvsim_pages), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, NULL, 0, NULL, NULL, NULL, NULL, \
            NULL, 0, 0, NULL                                                                                           \
    }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param pages the struct to fill
 */
KVSIM_API void kvsim_pages_init(kvsim_pages *pages);

/**
 * Add pages to the context, by copy or (KVSIM_PAGES_BORROW) where they lie.
 *
 * Tensors may be in host memory or in that of the context's CUDA device (then their elements are aligned to their size;
 * copies stay on the device). Pages of both kinds may form one group.
 *
 * Contents are looked at by `kvsim_compute`, not here, except that a copy is taken. A call that fails adds nothing.
 *
 * @param ctx the context to add to
 * @param pages read during the call; with KVSIM_PAGES_BORROW its tensors must live on
 * @return KVSIM_OK; KVSIM_E_INVALID (shapes that do not fit the layout, a block outside the tensor, a fill
 *         outside 1..N, the same page with another fill, a size that overflows); KVSIM_E_NOMEM;
 *         KVSIM_E_UNSUPPORTED (element type, device type, a CUDA tensor in a context of the CPU); KVSIM_E_BACKEND (a
 *         CUDA tensor, and no device can be had, or it has failed)
 */
KVSIM_API kvsim_status kvsim_add_pages(kvsim_ctx *ctx, const kvsim_pages *pages);

/**
 * Distinct physical pages added so far (a key page and a value page are two).
 * @param ctx the context
 * @return number of pages
 */
KVSIM_API uint64_t kvsim_page_count(const kvsim_ctx *ctx);

/** @name Rotary styles
 * Which channels of a head form the rotated pairs (RoPE, arXiv 2104.09864).
 * @{ */
#define KVSIM_ROPE_NONE        0 /**< unknown or no rotation: de-rotated views are refused */
#define KVSIM_ROPE_HALF        1 /**< channel i with i + rotary/2 (GPT-NeoX, Hugging Face Llama) */
#define KVSIM_ROPE_INTERLEAVED 2 /**< channel 2i with 2i + 1 (GPT-J, original Llama) */
/** @} */

/** @name Rotary scalings
 * How a model stretches its rotation to longer contexts; the formulas are those of Hugging Face transformers.
 * @{ */
#define KVSIM_ROPE_SCALING_NONE   0 /**< not at all */
#define KVSIM_ROPE_SCALING_LINEAR 1 /**< all angles divided by `factor` (arXiv 2306.15595) */
#define KVSIM_ROPE_SCALING_NTK    2 /**< theta times factor^(r / (r - 2)), r rotated channels; fixed, not dynamic */
#define KVSIM_ROPE_SCALING_YARN   3 /**< by frequency between `beta_fast` and `beta_slow` (arXiv 2309.00071) */
#define KVSIM_ROPE_SCALING_LLAMA3 4 /**< by wavelength between the frequency factors (arXiv 2407.21783) */
/** @} */

/**
 * How the stored keys were rotated. Channel pair i at absolute position p has been turned by
 * `p * theta^(-2i / rotary_dims)`, changed by the scaling. A constant factor that some models (YaRN) put on rotated
 * keys is left in place: no figure but `mean_square` and `mean_l2` depends on it.
 */
typedef struct kvsim_rope {
    uint32_t struct_size;         /**< sizeof(kvsim_rope) */
    int32_t style;                /**< KVSIM_ROPE_* */
    double theta;                 /**< base, > 0; 0 = 10,000 */
    int32_t rotary_dims;          /**< leading channels of a head that are rotated, even; 0 = all of them */
    int32_t scaling;              /**< KVSIM_ROPE_SCALING_* */
    double factor;                /**< of the scaling, >= 1; 0 = 1 */
    double original_max_position; /**< context the model was trained on; yarn and llama3 need it, > 0 */
    double low_freq_factor;       /**< llama3; 0 = 1 */
    double high_freq_factor;      /**< llama3, above the low one; 0 = 4 */
    double beta_fast;             /**< yarn; 0 = 32 */
    double beta_slow;             /**< yarn; 0 = 1 */
} kvsim_rope;

/** No rotation known. */
#define KVSIM_ROPE_INIT                                                                                                \
    { sizeof(kvsim_rope), 0, 0.0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param rope the struct to fill
 */
KVSIM_API void kvsim_rope_init(kvsim_rope *rope);

/**
 * Say how the keys of this context were rotated, for the de-rotated views. Applies to all layers.
 * @param ctx the context
 * @param rope read during the call
 * @return KVSIM_OK, KVSIM_E_INVALID
 */
KVSIM_API kvsim_status kvsim_set_rope(kvsim_ctx *ctx, const kvsim_rope *rope);

/* ------------------------------------------------------------------------------------------------
 * Compute
 * ---------------------------------------------------------------------------------------------- */

/** @name Metrics (bits of `metrics`)
 * @{ */
#define KVSIM_METRIC_COSINE  1u /**< x.y / (|x||y|) */
#define KVSIM_METRIC_L2      2u /**< |x - y| and the relative error |x - y| / |x|, x the later page */
#define KVSIM_METRIC_HAMMING 4u /**< share of differing codes: quantised codes, and sign bits */
#define KVSIM_METRIC_JACCARD 8u /**< |A and B| / |A or B| of the active sets {i : |x_i| > tau} */
/** @} */

/** @name Views (bits of `views`)
 * What is done to a page before it is compared; docs/metrics.md says why.
 * @{ */
#define KVSIM_VIEW_RAW                1u /**< as in memory; always computed */
#define KVSIM_VIEW_CENTERED           2u /**< minus the group's mean vector per (head, channel) */
#define KVSIM_VIEW_DEROTATED          4u /**< keys: RoPE undone; values as raw */
#define KVSIM_VIEW_DEROTATED_CENTERED 8u /**< both, in that order */
/** @} */

/** @name Pair filters
 * @{ */
#define KVSIM_PAIRS_ALL                 1 /**< all pairs of a group; the default (0) */
#define KVSIM_PAIRS_DIFFERENT_SEQUENCES 2 /**< pairs inside one sequence dropped from every figure */
/** @} */

/** @name Flags of kvsim_compute_options
 * @{ */
#define KVSIM_COMPUTE_PER_HEAD    1u  /**< besides, each KV head's pages (`N x D`) as groups of their own */
#define KVSIM_COMPUTE_BEST_MATCH  2u  /**< fill the table `matches`: each page's best earlier page */
#define KVSIM_COMPUTE_ASSIGNMENTS 4u  /**< fill the table `assignments`: which page a removed page would share */
#define KVSIM_COMPUTE_CHANCE      8u  /**< fill `statistics`: observed, chance level, excess, interval */
#define KVSIM_COMPUTE_STRATA      16u /**< fill `strata`: first and last pages, within and between sequences */
#define KVSIM_COMPUTE_BOUNDS      32u /**< fill the columns `scaled_...` and `lower_bound` of the dedup tables */
#define KVSIM_COMPUTE_LEDGER      64u /**< fill `ledger` and `lossless`: where every byte belongs */
/** Fill `page_thresholds` and `duplicates`: what was found for each page. Needs KVSIM_COMPUTE_CHANCE and _STRATA. */
#define KVSIM_COMPUTE_PAGES     128u
#define KVSIM_COMPUTE_DISTANCES 256u /**< fill `distances`: pairs inside one sequence by how far apart they lie */
/** @} */

/** `top_k` that means: no top pairs. */
#define KVSIM_TOP_NONE UINT32_MAX

/** Largest number of thresholds and of budgets. */
#define KVSIM_MAX_LEVELS 64

/** Bins of every histogram. */
#define KVSIM_HISTOGRAM_BINS 200

/** Options of `kvsim_compute`. Zero means the default for every field. */
typedef struct kvsim_compute_options {
    uint32_t struct_size;  /**< sizeof(kvsim_compute_options) */
    uint32_t metrics;      /**< KVSIM_METRIC_*; 0 = all four. Cosine and L2 are always computed (one Gram) */
    uint32_t views;        /**< KVSIM_VIEW_*; 0 = raw. Raw is always added */
    uint32_t flags;        /**< KVSIM_COMPUTE_* */
    int32_t pairs;         /**< KVSIM_PAIRS_* */
    uint32_t top_k;        /**< most similar pairs kept of each group; 0 = 16, KVSIM_TOP_NONE = none; at most 65,536 */
    uint32_t hamming_bits; /**< bits of a code: 8 or 4; 0 = 8. Sign bits (1) are always reported beside */
    uint32_t threshold_count; /**< length of `thresholds`; at most KVSIM_MAX_LEVELS */
    const double *thresholds; /**< cosine thresholds in [-1, 1], rising; NULL = 0.9, 0.95, 0.99 */
    const double *budgets;    /**< relative-error budgets in [0, 1], rising; NULL = 0.1, 0.2, 0.3 */
    uint32_t budget_count;    /**< length of `budgets`; at most KVSIM_MAX_LEVELS */
    /** 0: tau = jaccard_tau x RMS of the group per head; 1: tau = jaccard_tau itself. */
    uint32_t jaccard_absolute;
    double jaccard_tau; /**< see above, >= 0; 0 with jaccard_absolute 0 means 1.0 */
    /**
     * Called now and then (about ten times a second) with the pairs done so far, of how many; by one thread at a
     * time, not always the same. A non-zero return cancels: `kvsim_compute` returns KVSIM_E_CANCELLED.
     */
    int (*progress)(void *user, uint64_t pairs_done, uint64_t pairs_total);
    void *progress_user; /**< handed to `progress` */
    uint64_t seed;       /**< of everything that is drawn; 0 = 1 */
    /** [family_count] prompt family of sequence number i; a sequence outside is a family of its own. NULL = none */
    const int64_t *families;
    uint64_t family_count;     /**< length of `families` */
    uint32_t null_repetitions; /**< shufflings behind a chance level; 0 = 20; at most 1,000 */
    uint32_t resamples;        /**< bootstrap samples behind an interval; 0 = 1,000; at most 100,000 */
    uint32_t ulps;             /**< the ledger's "equal within k units in the last place"; 0 = 1 */
    uint32_t reserved;         /**< 0 */
} kvsim_compute_options;

/** All defaults. */
#define KVSIM_COMPUTE_OPTIONS_INIT                                                                                     \
    { sizeof(kvsim_compute_options), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0.0, NULL, NULL, 0, NULL, 0, 0, 0, 0, 0 }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param options the struct to fill
 */
KVSIM_API void kvsim_compute_options_init(kvsim_compute_options *options);

/** What a compute found. Opaque, immutable; any number of threads may read it. */
typedef struct kvsim_result kvsim_result;

/**
 * Compare all pairs of every group, in every view asked for.
 *
 * Work is streamed in tiles, the N x N matrix never exists: beyond the pages and the result it takes at most
 * 64 MiB + 64 bytes a page (more only where two pages with their packed forms exceed that). The result is the same,
 * bit for bit, whatever the number of threads.
 *
 * On a device, pages of one layer are in its memory at a time (those that the host has are copied there), and packed
 * forms and lists take 30 % of their bytes or 1 GiB, whichever is more, within `device_memory_bytes`. On the host it
 * takes what the pairs near enough for a budget take, in bands; the flags ASSIGNMENTS, CHANCE, LEDGER and DISTANCES
 * besides copies of one layer's pages, if these are on the device. Results of a device are the same each time, and
 * those of the CPU within the bounds below (2.5e-4 for f8 in the raw view); counts at thresholds and budgets are equal.
 *
 * **Numerics.** Products of elements are accumulated in fp32 over at most 32 terms, then in double; error of a
 * cosine: at most 2e-6 absolute for n <= 65,536. Pairs within that bound of a threshold, or of a budget, are computed
 * again in double from the stored bytes, so counts are exact. Distances with
 * d^2 < 2^-8 (|x|^2 + |y|^2) are sums of squared differences, not taken from the Gram.
 *
 * @param ctx the context that holds the pages
 * @param options NULL for the defaults
 * @param out [owned] the result, for `kvsim_result_destroy`, which must come before `kvsim_ctx_destroy`; NULL on
 * failure
 * @return KVSIM_OK (also when there is no pair to compare), KVSIM_E_INVALID, KVSIM_E_NOMEM (also of the device's
 * memory), KVSIM_E_CANCELLED, KVSIM_E_UNSUPPORTED (de-rotated view without RoPE facts), KVSIM_E_BACKEND (a device has
 *         failed, and the CPU may not go on)
 */
KVSIM_API kvsim_status kvsim_compute(kvsim_ctx *ctx, const kvsim_compute_options *options, kvsim_result **out);

/**
 * Destroy a result; its columns become invalid.
 * @param result NULL is allowed
 */
KVSIM_API void kvsim_result_destroy(kvsim_result *result);

/* ------------------------------------------------------------------------------------------------
 * Results
 * ---------------------------------------------------------------------------------------------- */

/**
 * One column of a table of the result. docs/columns.md lists the tables and their columns:
 * `summary` (one row), `groups`, `thresholds`, `dedup`, `blocks`, `block_dedup`, `top_pairs`, `matches`,
 * `assignments`, `pages`, `statistics`, `strata`, `ledger`, `lossless`, `page_thresholds`, `duplicates`, `distances`.
 */
typedef struct kvsim_column {
    uint32_t struct_size; /**< sizeof(kvsim_column), set by the caller */
    uint8_t dtype_code;   /**< KVSIM_DTYPE_INT, _UINT or _FLOAT */
    uint8_t dtype_bits;   /**< 32 or 64 */
    uint16_t reserved;    /**< 0 */
    int64_t rows;         /**< rows of the table */
    int64_t width;        /**< elements of one row: 1, or KVSIM_HISTOGRAM_BINS */
    const void *data;     /**< [borrowed] from the result: rows * width elements, row-major */
    const char *table;    /**< [borrowed] from the result */
    const char *name;     /**< [borrowed] from the result */
    const char *unit;     /**< [borrowed] from the result: "pages", "bytes", "1", ... */
} kvsim_column;

/** All zero but the size. */
#define KVSIM_COLUMN_INIT                                                                                              \
    { sizeof(kvsim_column), 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL }

/**
 * Find a column by the names of its table and itself.
 * @param result the result to look in
 * @param table name of the table, "groups" for example
 * @param name name of the column, "pages" for example
 * @param out filled; its `struct_size` is set by the caller
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_NOT_FOUND
 */
KVSIM_API kvsim_status kvsim_result_column(const kvsim_result *result, const char *table, const char *name,
                                           kvsim_column *out);

/**
 * Number of columns over all tables.
 * @param result the result to look in
 * @return number of columns
 */
KVSIM_API uint32_t kvsim_result_column_count(const kvsim_result *result);

/**
 * Column number `index` of `kvsim_result_column_count`, tables one after the other.
 * @param result the result to look in
 * @param index 0 .. count - 1
 * @param out filled; its `struct_size` is set by the caller
 * @return KVSIM_OK, KVSIM_E_INVALID
 */
KVSIM_API kvsim_status kvsim_result_column_at(const kvsim_result *result, uint32_t index, kvsim_column *out);

/** Where `kvsim_report` writes to. Exactly one of `write`, `file` and `path` is set. */
typedef struct kvsim_report_options {
    uint32_t struct_size; /**< sizeof(kvsim_report_options) */
    uint32_t indent;      /**< spaces an inner level is indented by; 0 = all on one line */
    /** Receives the report in pieces; returns 0, or anything else to stop with KVSIM_E_IO. */
    int (*write)(void *user, const void *data, size_t size);
    void *write_user; /**< handed to `write` */
    FILE *file;       /**< stream to append to; it is flushed, not closed */
    /** File to make. It appears whole or not at all: a temporary file beside it is written, synced and renamed. */
    const char *path;
} kvsim_report_options;

/** All defaults. */
#define KVSIM_REPORT_OPTIONS_INIT                                                                                      \
    { sizeof(kvsim_report_options), 0, NULL, NULL, NULL, NULL }

/**
 * Fill a struct with its defaults; for languages that cannot use the macro.
 * @param options the struct to fill
 */
KVSIM_API void kvsim_report_options_init(kvsim_report_options *options);

/**
 * Write the result as JSON (schema `kvsim.report.v1`, docs/report-schema.json), UTF-8, ending in a newline.
 * Numbers are written so that they read back as the same double; non-finite ones are `null`, and counted.
 *
 * @param ctx the context that the result was made from; receives the error text
 * @param result the result to write
 * @param options where to; not NULL
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_IO, KVSIM_E_NOMEM
 */
KVSIM_API kvsim_status kvsim_report(kvsim_ctx *ctx, const kvsim_result *result, const kvsim_report_options *options);

#ifdef __cplusplus
}
#endif

#endif
