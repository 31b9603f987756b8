/**
 * All pairs of the pages of one layer, keys and values side by side, streamed in tiles.
 *
 * Slots (identities in arrival order) are cut into panels. A panel is packed once for each panel it is compared with:
 * elements scaled to at most 1 in fp32, codes, sign bits, active bits. A pair of panels is cut into tiles of 32 x 32
 * slots, which the threads share out. Sums are kept for each tile and added in a fixed order; everything else that is
 * gathered is a count, an extremum with a total order, or a bit, so the result does not depend on the threads.
 */
#ifndef KVSIM_PAIRS_PAIRS_H
#define KVSIM_PAIRS_PAIRS_H

#include <pthread.h>
#include <stdatomic.h>

#include "../kernels/kernels.h"
#include "../pages/view.h"

/** Index of the two kinds wherever keys and values are worked on side by side. */
enum { KVSIM__KEY, KVSIM__VALUE, KVSIM__KINDS };

/** Histograms of a group, each of KVSIM_HISTOGRAM_BINS bins. */
enum {
    KVSIM__HISTOGRAM_COSINE,   /**< over [-1, 1] */
    KVSIM__HISTOGRAM_L2,       /**< over [0, 2 * largest norm] */
    KVSIM__HISTOGRAM_RELATIVE, /**< over [0, 2], the last bin open */
    KVSIM__HISTOGRAM_HAMMING,  /**< over [0, 1] */
    KVSIM__HISTOGRAM_SIGN,     /**< over [0, 1] */
    KVSIM__HISTOGRAM_JACCARD,  /**< over [0, 1] */
    KVSIM__HISTOGRAMS
};

/** Options of a compute, checked and with defaults in place; the arrays belong to the reader of the options. */
typedef struct kvsim__plan {
    uint32_t metrics, views, flags;
    bool different_sequences;
    uint32_t top_k;
    uint32_t hamming_bits;
    uint32_t threshold_count, budget_count;
    double thresholds[KVSIM_MAX_LEVELS];
    double budgets[KVSIM_MAX_LEVELS];
    bool jaccard_absolute;
    double jaccard_tau;
    uint64_t seed;
    const int64_t *families; /* of the caller, valid during the compute */
    uint64_t family_count;
    uint32_t null_repetitions, resamples, ulps;
    int (*progress)(void *user, uint64_t pairs_done, uint64_t pairs_total);
    void *progress_user;
} kvsim__plan;

/** Progress of a compute over all its groups and views. */
typedef struct kvsim__progress {
    uint64_t done, total;
    int64_t last_call; /**< monotonic nanoseconds */
    atomic_bool stop;  /**< cancelled, or out of memory */
    atomic_bool out_of_memory;
} kvsim__progress;

/** A pair of slots and its cosine; `later` > `earlier`. */
typedef struct kvsim__scored_pair {
    double cosine;
    double relative_error; /**< infinite where only the later page is zero */
    uint32_t later, earlier;
} kvsim__scored_pair;

/**
 * Measures of how far a page is from one that could stand for it. Each has the value INFINITY for pairs that do not
 * count.
 */
enum {
    KVSIM__ERROR_PLAIN,   /**< e = |x - y| / |x|, x the later page */
    KVSIM__ERROR_SCALED,  /**< e* = sqrt(1 - c^2): with the best scale on y */
    KVSIM__ERROR_PACKING, /**< |x - y| / (|x| + |y|): above b, no one page is within b of both x and y */
    KVSIM__ERRORS
};

/** Errors up to the largest budget plus this reach the sink: room for those that take a margin. */
#define KVSIM__ERROR_SLACK 1e-4

/** Errors of each measure and kind, as arrays of one shape; those of measures that were not asked for are NULL. */
typedef struct kvsim__error_cells {
    const double *cells[KVSIM__ERRORS][KVSIM__KINDS];
} kvsim__error_cells;

/** Where in its sequence a page lies. */
enum { KVSIM__STRATUM_FIRST, KVSIM__STRATUM_LAST, KVSIM__STRATUM_MIDDLE, KVSIM__STRATA };

/** What two pages' sequences have in common. */
enum { KVSIM__WITHIN_SEQUENCE, KVSIM__WITHIN_FAMILY, KVSIM__BETWEEN_FAMILIES, KVSIM__RELATIONS };

/** Cosines are added up in units of 2^-28 where many sums must not depend on the order of addition. */
#define KVSIM__COSINE_UNITS 0x1p28

/** Pairs of one stratum of later pages and one relation. */
typedef struct kvsim__stratum_figures {
    uint64_t pairs;
    int64_t cosine_units;
    uint64_t threshold_pairs[KVSIM_MAX_LEVELS];
} kvsim__stratum_figures;

/** For intervals: what each sequence takes part in, and which pages hang on one sequence alone. */
typedef struct kvsim__sequence_figures {
    uint64_t *pairs;           /**< [sequences] pairs with a page of it */
    int64_t *cosine_units;     /**< [sequences] sum of their cosines */
    uint64_t *threshold_pairs; /**< [sequences, thresholds] */
    uint32_t *only_match;      /**< [slots, thresholds] the one sequence that holds earlier pages at or above the
                                    threshold; KVSIM__NONE: none does, KVSIM__MANY: several do */
} kvsim__sequence_figures;

#define KVSIM__MANY (UINT32_MAX - 1)

/** What is gathered over the pairs of one group. */
typedef struct kvsim__figures {
    uint64_t pairs;
    double cosine_sum, cosine_min, cosine_max;
    double l2_sum;
    double relative_sum; /**< over finite ones */
    uint64_t relative_infinite;
    uint64_t codes_differ, signs_differ; /**< elements, over all pairs */
    double jaccard_sum;
    uint64_t union_elements; /**< over all pairs */
    uint64_t histograms[KVSIM__HISTOGRAMS][KVSIM_HISTOGRAM_BINS];
    uint64_t threshold_pairs[KVSIM_MAX_LEVELS]; /**< pairs with cosine >= threshold */
    uint64_t *threshold_bits;                   /**< [slots] bit t: an earlier page with cosine >= threshold t */
    double *best_cosine;                        /**< [slots] best among earlier pages; NULL if not asked for */
    uint32_t *best_slot;                        /**< [slots] the first with it, or KVSIM__NONE */
    kvsim__scored_pair *top;                    /**< [top_k] best first once finished */
    size_t top_count;
    kvsim__sequence_figures by_sequence;                /**< NULL pointers if no interval is asked for */
    kvsim__stratum_figures (*strata)[KVSIM__RELATIONS]; /**< [KVSIM__STRATA], or NULL if not asked for */
    uint64_t *relation_bits; /**< [slots, KVSIM__RELATIONS] as threshold_bits, by relation; or NULL */
} kvsim__figures;

/** Takes the errors of pairs as they come; for dedup groups. */
typedef struct kvsim__error_sink {
    void *user;
    /** A panel of later slots [first, first + count) begins. False if there is no memory for it. */
    bool (*begin)(void *user, size_t first, size_t count);
    /**
     * Errors of slots [later, later + rows) with the earlier [earlier, earlier + columns), all of an earlier panel:
     * cells[row * stride + column]. Calls do not overlap; their order is not defined. Tiles in which no error is
     * within the largest budget, plus KVSIM__ERROR_SLACK, are left out.
     */
    void (*tile)(void *user, size_t later, size_t rows, size_t earlier, size_t columns,
                 const kvsim__error_cells *errors, size_t stride);
    /**
     * Errors inside the panel [first, first + count), after all its tiles: cells[i * (i - 1) / 2 + j] of slots
     * first + i and first + j, j < i.
     */
    void (*panel)(void *user, size_t first, size_t count, const kvsim__error_cells *errors);
} kvsim__error_sink;

/** Which sequence, family and place each slot has. */
typedef struct kvsim__places {
    const uint32_t *sequence; /**< [slots] numbered from 0 in order of first appearance */
    const uint32_t *family;   /**< [slots] likewise */
    const uint8_t *stratum;   /**< [slots] KVSIM__STRATUM_* */
    uint32_t sequence_count;
} kvsim__places;

/** One layer's (or one head's) pages to compare, in one view. */
typedef struct kvsim__pairing {
    kvsim__base *base;
    const kvsim__plan *plan;
    kvsim__progress *progress;
    size_t slots;
    bool present[KVSIM__KINDS];
    kvsim__group groups[KVSIM__KINDS]; /**< opened in the view */
    kvsim__places places;
    kvsim__error_sink sink;
    kvsim__figures figures[KVSIM__KINDS]; /**< the outcome */
} kvsim__pairing;

/** Make room for the figures. @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__figures_open(const kvsim__pairing *pairing, kvsim__figures *figures);

/** Give the room back; figures of zeros are allowed. */
void kvsim__figures_close(const kvsim__pairing *pairing, kvsim__figures *figures);

/** Compare. @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_CANCELLED */
kvsim_status kvsim__pairs_run(kvsim__pairing *pairing);

/** Tell the caller's progress callback, if it is time or `force`; may set `stop`. Call by one thread at a time. */
void kvsim__progress_report(kvsim__progress *progress, const kvsim__plan *plan, bool force);

/** Set the text and return KVSIM_E_CANCELLED. */
kvsim_status kvsim__fail_cancelled(kvsim__base *base);

#endif
