/**
 * What a device backend does for the library: memory, copies, and the kernels of a compute, as a versioned table of
 * functions. The CUDA plug-in fills one; the twin (twin.c) fills one that does the same on the host, so that all that
 * is built on the table can be tested without a device.
 *
 * Only plain data crosses the table. Pointers named `device` or said to be on the device are the device's own
 * addresses: the host never follows them. Every function returns 0 or a negative KVSIM_E_* and then `error` has one
 * line; after a failure that the device cannot recover from every later call fails the same way (`lost`).
 * Work is queued in order on one stream of the device's own; `download` and `wait` wait for it, nothing else does.
 * One device, one thread at a time.
 */
#ifndef KVSIM_BACKEND_BACKEND_H
#define KVSIM_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "pair_rules.h"

/** Version of everything in this file and in pair_rules.h. A plug-in of another version is refused. */
#define KVSIM__BACKEND_VERSION 1u

/** Symbol that a plug-in exports: `const kvsim__backend *kvsim_backend_query(uint32_t version)`, NULL if it does not
 * know that version. */
#define KVSIM__BACKEND_QUERY "kvsim_backend_query"

/** A device that was opened. Opaque, of the backend. */
typedef struct kvsim__device kvsim__device;

/** Options of `open`. */
typedef struct kvsim__device_options {
    int32_t ordinal;       /**< number of the device */
    uint32_t duty_percent; /**< share of the time in which kernels run, 1..100; the rest is left to the host */
    uint64_t memory_bytes; /**< most bytes that `allocate` gives out at a time; 0 = half of what is free */
} kvsim__device_options;

/** Facts of an open device. */
typedef struct kvsim__device_facts {
    char name[128];        /**< "NVIDIA H200" */
    uint64_t memory_bytes; /**< budget */
    uint64_t memory_used;  /**< of it, given out now */
    uint32_t processors;   /**< multiprocessors */
    uint32_t architecture; /**< 90 for sm_90 */
    uint32_t gram_path;    /**< KVSIM__GRAM_* that `compare` takes for bf16 */
    uint32_t lost;         /**< 1: every call fails from now on */
} kvsim__device_facts;

/** @name Ways to compute products
 * @{ */
#define KVSIM__GRAM_BEST   0u /**< the faster one, by device and size */
#define KVSIM__GRAM_BLAS   1u /**< cuBLASLt into a block of memory, then an epilogue kernel */
#define KVSIM__GRAM_FUSED  2u /**< one kernel: products and epilogue; sm_90a */
#define KVSIM__GRAM_SIMPLE 3u /**< plain kernel, any device: slow, for devices without the others and for tests */
/** @} */

/* ------------------------------------------------------------------------------------------------
 * Pages
 * ---------------------------------------------------------------------------------------------- */

/** How the elements of a page lie; strides in bytes. */
typedef struct kvsim__device_format {
    int64_t token_stride, head_stride, channel_stride;
    int32_t dtype;      /**< KVSIM__F32 ... of pages/format.h, not opaque */
    int32_t scale_mode; /**< KVSIM_SCALE_* */
    int32_t heads;      /**< heads of the stored page */
    int32_t reserved;
    const float *scales; /**< on the device: [1] or [heads]; NULL where there are none */
} kvsim__device_format;

/** A page. `data` NULL: the slot has none. */
typedef struct kvsim__device_page {
    const void *data;          /**< on the device: element (0, 0, 0) */
    const float *token_scales; /**< on the device: [tokens, heads], or NULL */
    int64_t position;          /**< absolute position of slot 0 */
    uint32_t format;
    uint32_t reserved;
} kvsim__device_page;

/** The pages of a group in one view; see kvsim__group of pages/view.h. All pointers are on the device. */
typedef struct kvsim__device_group {
    const kvsim__device_page *pages; /**< [slots] */
    const kvsim__device_format *formats;
    uint32_t slots;
    int32_t tokens, heads, head_dim, first_head;
    int32_t rotate, interleaved, pairs;
    /** 2 or 1: pages of 16 bits without scales, or of 8 bits with one scale for all or none, as they are, each head of
     * each token in whole aligned 16-byte words: a hint for faster kernels. 0: anything else. */
    int32_t plain_bytes;
    const double *frequencies;             /**< [pairs] */
    const double *slot_cosine, *slot_sine; /**< [tokens, pairs] */
    const double *mean;                    /**< [heads, head_dim] or NULL */
} kvsim__device_group;

/** Sums over some pages of a group; on the device. Each run of pages has its own row, added up by the host. */
typedef struct kvsim__device_measures {
    uint32_t runs;   /**< slots [slots * run / runs, slots * (run + 1) / runs) */
    double *sums;    /**< [runs, heads, head_dim] sums of the rows, for the mean; NULL: the rest is wanted instead */
    double *absmax;  /**< [runs, heads] largest magnitude */
    double *squares; /**< [runs, heads] sum of squares */
    double *norms;   /**< [slots] Euclidean norm of each page; 0 where there is none */
    double *largest; /**< [slots] largest magnitude of each page */
} kvsim__device_measures;

/* ------------------------------------------------------------------------------------------------
 * Packed pages
 * ---------------------------------------------------------------------------------------------- */

/** @name Operands: what packed elements are
 * Rows are K-major; a row has `row_bytes`, a multiple of 128, and what lies past its elements is zero.
 * @{ */
#define KVSIM__OPERAND_BF16 1 /**< stored bf16, raw view: exact */
#define KVSIM__OPERAND_F16  2 /**< stored f16, raw view: exact */
#define KVSIM__OPERAND_E4M3 3 /**< stored f8_e4m3fn, raw view, one scale for all: exact */
#define KVSIM__OPERAND_E5M2 4 /**< stored f8_e5m2, likewise */
#define KVSIM__OPERAND_I8   5 /**< stored i8, likewise */
#define KVSIM__OPERAND_SPLIT                                                                                           \
    6 /**< anything else, scaled by a power of two to at most 1: f16 high parts, then f16 low                          \
           parts (of 2^11 times the rest), each of row_bytes / 2 */
/** @} */

/** What packing a panel produces. All arrays are on the device and have `capacity` rows; a multiple of 256. */
typedef struct kvsim__device_panel {
    uint32_t capacity;
    uint32_t first, count; /**< slots; rows from `count` on are zero and absent */
    void *operand;         /**< [capacity, row_bytes] or NULL: not packed */
    uint64_t row_bytes;
    uint8_t *signs;          /**< [capacity, bit_bytes] bit = element below zero, or NULL */
    uint8_t *actives;        /**< [capacity, bit_bytes] bit = element in the active set, or NULL */
    uint64_t bit_bytes;      /**< a multiple of 128 */
    int8_t *codes;           /**< [capacity, code_bytes] or NULL */
    uint64_t code_bytes;     /**< a multiple of 128; what lies past the elements is zero */
    kvsim__row_facts *facts; /**< [capacity] */
    uint32_t *sign_count;    /**< [capacity] set bits of `signs` */
    uint32_t *active_count;  /**< [capacity] set bits of `actives` */
} kvsim__device_panel;

/** How to pack. */
typedef struct kvsim__device_packing {
    int32_t operand;                /**< KVSIM__OPERAND_* */
    int32_t stored_codes;           /**< i8 pages whose own codes are compared */
    double code_limit;              /**< 127 or 7 */
    double largest_norm;            /**< of the group; > 0 unless all pages are zero */
    const double *absmax;           /**< on the device: [heads] for the codes */
    const double *tau;              /**< on the device: [heads] for the active sets */
    const double *norms;            /**< on the device: [slots] from `measure` */
    const double *largest;          /**< on the device: [slots] from `measure` */
    const kvsim__slot_facts *slots; /**< on the device: [slots] */
} kvsim__device_packing;

/* ------------------------------------------------------------------------------------------------
 * Comparing
 * ---------------------------------------------------------------------------------------------- */

/** What the pairs of a compare give, of one kind. On the device; cleared and read by the host. */
typedef struct kvsim__device_figures {
    uint64_t pairs;
    uint64_t relative_infinite;
    int64_t cosine_units;                         /**< sum of cosines * KVSIM__COSINE_UNITS */
    uint64_t distance_units;                      /**< sum of distances / largest norm * KVSIM__DISTANCE_UNITS */
    uint64_t relative_units[KVSIM__LIMBS];        /**< sum of relative errors; see kvsim__limb_of */
    uint32_t cosine_min, cosine_max;              /**< as kvsim__float_key; min begins at UINT32_MAX, max at 0 */
    uint64_t histograms[3][KVSIM_HISTOGRAM_BINS]; /**< cosine, L2, relative error */
    uint64_t threshold_pairs[KVSIM_MAX_LEVELS];
    uint64_t strata_pairs[KVSIM__STRATA_CELLS]; /**< [stratum * KVSIM__RELATION_CELLS + relation] */
    int64_t strata_units[KVSIM__STRATA_CELLS];
    uint64_t strata_threshold_pairs[KVSIM__STRATA_CELLS][KVSIM_MAX_LEVELS];
} kvsim__device_figures;

/** A pair on a list. */
typedef struct kvsim__device_pair {
    double cosine;
    double distance; /**< / largest norm */
    uint32_t later, earlier;
} kvsim__device_pair;

/** A list that is filled by many threads; on the device. */
typedef struct kvsim__device_list {
    kvsim__device_pair *items;
    uint32_t *count; /**< pairs that were offered: more than `capacity` means that some are missing */
    uint32_t capacity;
    uint32_t reserved;
} kvsim__device_list;

/** @name What a compare does
 * A pair in doubt is neither counted nor listed but on `doubtful`, and there only with KVSIM__COMPARE_DOUBT: it is up
 * to `resolve`. A pair of one sequence that the filter drops is looked at only where `bounds` are asked for, and then
 * it is listed as near (or in doubt) at most.
 * @{ */
#define KVSIM__COMPARE_GATHER 1u /**< count plain pairs into the figures */
#define KVSIM__COMPARE_DOUBT  2u /**< put pairs aside whose packed figures cannot decide: list `doubtful` */
#define KVSIM__COMPARE_NEAR   4u /**< list pairs near enough for a budget: list `near` */
#define KVSIM__COMPARE_TOP    8u /**< list pairs at or above `top_cutoff`: list `top` */
/** @} */

/** All pairs of rows and columns of two panels, the later slot in `rows`. */
typedef struct kvsim__device_compare {
    kvsim__device_panel rows, columns; /**< the same panel: its lower triangle; else all columns come before all rows */
    uint32_t row_begin, row_end;       /**< rows of the panel that take part, multiples of 256 or the end */
    uint32_t flags;                    /**< KVSIM__COMPARE_* */
    int32_t operand;
    uint32_t elements; /**< n */
    uint32_t path;     /**< KVSIM__GRAM_* */
    float top_cutoff;
    uint32_t reserved;
    const kvsim__pair_rules *rules; /**< on the device */
    kvsim__pair_rules host_rules;   /**< the same, for the host's side of a backend */
    /* On the device, of all slots of the group; NULL where not wanted. */
    kvsim__device_figures *figures;
    uint64_t *threshold_bits;           /**< [slots] */
    uint64_t *best;                     /**< [slots] kvsim__best_key; begins at 0 */
    uint64_t *sequence_pairs;           /**< [sequences] */
    int64_t *sequence_units;            /**< [sequences] */
    uint64_t *sequence_threshold_pairs; /**< [sequences, thresholds] */
    uint32_t *only_least, *only_most;   /**< [slots, thresholds] least and most number of a sequence that holds earlier
                                             pages at or above the threshold; begin at UINT32_MAX and at 0; most is + 1 */
    uint64_t *relation_bits;            /**< [slots, KVSIM__RELATION_CELLS] */
    kvsim__device_list doubtful, near, top;
} kvsim__device_compare;

/** What the bits or codes of all pairs of two panels give. On the device. */
typedef struct kvsim__device_bit_figures {
    uint64_t differ;         /**< elements that differ, over all pairs (signs, codes) */
    uint64_t union_elements; /**< over all pairs (active sets) */
    uint64_t jaccard_units;  /**< sum of J * KVSIM__JACCARD_UNITS */
    uint64_t reserved;
    uint64_t histogram[KVSIM_HISTOGRAM_BINS];
} kvsim__device_bit_figures;

/** @name What is compared
 * @{ */
#define KVSIM__BITS_SIGN   0u
#define KVSIM__BITS_ACTIVE 1u
#define KVSIM__BITS_CODES  2u
/** @} */

/** Bits or codes of all pairs of two panels, as kvsim__device_compare. */
typedef struct kvsim__device_bit_compare {
    kvsim__device_panel rows, columns;
    uint32_t what;     /**< KVSIM__BITS_* */
    uint32_t elements; /**< n */
    uint32_t filter;   /**< 1: pairs of one sequence are left out */
    uint32_t path;     /**< KVSIM__GRAM_* */
    kvsim__device_bit_figures *figures;
} kvsim__device_bit_compare;

/* ------------------------------------------------------------------------------------------------
 * The table
 * ---------------------------------------------------------------------------------------------- */

typedef struct kvsim__backend {
    uint32_t version;     /**< KVSIM__BACKEND_VERSION */
    uint32_t struct_size; /**< sizeof(kvsim__backend) */
    const char *name;     /**< "cuda" */

    /** Open a device; on failure `reason` has one line that says why it cannot run here. */
    int32_t (*open)(const kvsim__device_options *options, kvsim__device **out, char *reason, size_t reason_size);
    void (*close)(kvsim__device *device); /**< gives all its memory back too */
    void (*describe)(kvsim__device *device, kvsim__device_facts *out);
    const char *(*error)(kvsim__device *device); /**< [borrowed] text of the last failure */

    int32_t (*allocate)(kvsim__device *device, size_t bytes, void **out); /**< aligned to 1,024; not cleared */
    void (*release)(kvsim__device *device, void *memory);                 /**< after what is queued; NULL is allowed */
    /** Copy to the device; `from` may be changed when the call returns. */
    int32_t (*upload)(kvsim__device *device, void *to, const void *from, size_t bytes);
    /** Copy from the device, after everything that is queued; waits. */
    int32_t (*download)(kvsim__device *device, void *to, const void *from, size_t bytes);
    int32_t (*fill)(kvsim__device *device, void *to, int byte, size_t bytes);
    int32_t (*wait)(kvsim__device *device);
    /** What is queued from now on runs after what the host has queued on its stream (NULL: the legacy default one). */
    int32_t (*wait_for)(kvsim__device *device, void *stream);
    /** Number of the device that `memory` is on, or -1 if it is not memory of a device. */
    int32_t (*device_of)(kvsim__device *device, const void *memory);

    /** finite[slot] = 1 if all elements of the first `fills[slot]` token slots are finite, else 0. `finite`, `fills` on
     * the device. */
    int32_t (*classify)(kvsim__device *device, const kvsim__device_group *group, const int32_t *fills, uint8_t *finite);
    /** 128-bit hash of each page's stored bytes (and token scales), of the group's heads. On the device: [slots, 2]. */
    int32_t (*hash)(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes);
    /** equal[i] = 1 if the stored bytes (and token scales) of slots pairs[i][0] and pairs[i][1] are. On the device. */
    int32_t (*equal)(kvsim__device *device, const kvsim__device_group *group, const uint32_t (*pairs)[2],
                     uint32_t count, uint8_t *equal);
    int32_t (*measure)(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_measures *out);
    /** Copy `count` pages, whose elements lie as formats say, to `to` row-major without gaps ([tokens, heads, head_dim]
     * stored elements each). */
    int32_t (*gather)(kvsim__device *device, const kvsim__device_group *group, void *to);
    /** Pack slots [panel->first, + count). */
    int32_t (*pack)(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_packing *packing,
                    const kvsim__device_panel *panel);
    int32_t (*compare)(kvsim__device *device, const kvsim__device_compare *job);
    /** Compute the first `count` pairs on job->doubtful in double from the stored bytes, write cosine and distance
     * there, and count them as `compare` counts plain pairs, with job->flags. */
    int32_t (*resolve)(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                       const kvsim__device_compare *job, uint32_t count);
    /** Compute pairs on a list in double: cosine and distance are written there. */
    int32_t (*rescore)(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                       kvsim__device_pair *pairs, uint32_t count);
    int32_t (*compare_bits)(kvsim__device *device, const kvsim__device_bit_compare *job);
} kvsim__backend;

#endif
