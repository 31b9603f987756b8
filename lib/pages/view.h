/**
 * Groups and views: the pages that are compared with each other, and the transformation they are compared in
 * (docs/metrics.md). A view is applied row by row while pages are packed; no second copy of all pages is made.
 */
#ifndef KVSIM_PAGES_VIEW_H
#define KVSIM_PAGES_VIEW_H

#include "store.h"

/** Room for one thread to read rows of a group: a row is the channels of one slot and head. */
typedef struct kvsim__scratch {
    float *stored;  /**< [D] */
    double *row;    /**< [D] */
    double *cosine; /**< [rotary / 2] of the angle that rows are turned by: see view_begin and view_begin_moved */
    double *sine;   /**< [rotary / 2] */
    bool moved;     /**< rows come to another position than their own */
} kvsim__scratch;

/** The pages of one layer, kind and class of formats, all heads or one of them, in one view. */
typedef struct kvsim__group {
    kvsim__base *base;
    const kvsim__store *store;
    const uint32_t *pages; /**< [slots] page numbers in arrival order, KVSIM__NONE where this kind has none; borrowed */
    size_t slots;
    size_t count;                    /**< pages that take part */
    int32_t tokens, heads, head_dim; /**< N, heads of this group (1 of a per-head group), D */
    int32_t first_head;
    size_t elements; /**< n = tokens * heads * head_dim */

    uint32_t view;       /**< KVSIM_VIEW_* */
    bool rotate;         /**< undo RoPE */
    bool interleaved;    /**< rotary style */
    int32_t pairs;       /**< rotary / 2 */
    double *frequencies; /**< [pairs] radians a position */
    double *slot_cosine; /**< [tokens, pairs] of the angle between slot 0 and slot t; for views that rotate */
    double *slot_sine;   /**< [tokens, pairs] */

    double *mean;             /**< [heads, head_dim], or NULL where the view does not centre */
    double *absmax;           /**< [heads] largest magnitude in the view */
    double *mean_square;      /**< [heads] mean of the squares in the view */
    int16_t *exponents;       /**< [slots] each page's absmax in the view is in (2^(e-1), 2^e]; 0 for zero pages */
    double largest_norm;      /**< of a page in the view */
    int16_t largest_exponent; /**< of a page */
} kvsim__group;

/**
 * Set up a group whose pages, counts and shape the caller has filled in, and compute its statistics in the view.
 * `rope` with style KVSIM_ROPE_NONE: nothing is rotated.
 * @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__group_open(kvsim__group *group, uint32_t view, int32_t kind, const kvsim_rope *rope);

/**
 * The part of kvsim__group_open before the statistics: room for them, and angles.
 * @param centre whether the view subtracts the mean
 */
kvsim_status kvsim__group_prepare(kvsim__group *group, uint32_t view, int32_t kind, const kvsim_rope *rope,
                                  bool *centre);

/** Give back what `kvsim__group_open` took; a group of zeros is allowed. */
void kvsim__group_close(kvsim__group *group);

/** Bytes of one thread's scratch for a group, a multiple of 64. */
size_t kvsim__scratch_size(const kvsim__group *group);

/** Lay a scratch out in `memory` of that size, aligned to 8. */
kvsim__scratch kvsim__scratch_at(const kvsim__group *group, void *memory);

/** Prepare to read rows of a page. */
void kvsim__view_begin(const kvsim__group *group, uint32_t page, kvsim__scratch *scratch);

/**
 * Prepare to read rows of a page as if it began at another position: in views that do not undo RoPE, rows are turned on
 * to where they come to lie. Where the rotation is not known they stay as they are.
 */
void kvsim__view_begin_moved(const kvsim__group *group, uint32_t page, int64_t position, kvsim__scratch *scratch);

/**
 * Row (slot, head) of a page in the group's view, in double: dequantised, de-rotated, centred.
 * `head` counts from the group's first. Afterwards `scratch->stored` holds the stored elements before their scale.
 * @return scratch->row, [D]
 */
const double *kvsim__view_row(const kvsim__group *group, uint32_t page, int32_t slot, int32_t head,
                              kvsim__scratch *scratch);

/** True if every element of the valid slots of a page is finite. */
bool kvsim__page_is_finite(const kvsim__store *store, uint32_t page, float *row);

#endif
