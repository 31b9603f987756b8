/** A group in a view on a device: its statistics, and what packing needs of it. */
#ifndef KVSIM_PAIRS_DEVICE_VIEW_H
#define KVSIM_PAIRS_DEVICE_VIEW_H

#include "../pages/resident.h"
#include "pairs.h"

/** A group in a view on a device; zeros are none. */
typedef struct kvsim__device_view {
    kvsim__accelerator *accelerator;
    kvsim__device_memory memory;
    kvsim__device_group group;
    int32_t operand;      /**< KVSIM__OPERAND_* that its pages are packed into */
    uint64_t page_bytes;  /**< of all its pages, as stored */
    bool stored_codes;    /**< i8 pages whose own codes are compared */
    double *norms;        /**< [slots] on the host */
    double *norms_there;  /**< [slots] on the device */
    double *largest;      /**< [slots] on the device: largest magnitude of each page */
    double *absmax, *tau; /**< [heads] on the device */
} kvsim__device_view;

/**
 * Compute the statistics of a group on the device: what kvsim__group_open computes on the host is filled in.
 * @param centre the view subtracts the mean
 * @return KVSIM_OK, KVSIM_E_NOMEM, KVSIM_E_BACKEND
 */
kvsim_status kvsim__device_view_open(const kvsim__resident *resident, const kvsim__plan *plan, kvsim__group *group,
                                     bool centre, kvsim__device_view *out);

void kvsim__device_view_close(kvsim__base *base, kvsim__device_view *view);

/**
 * Operand that serves a group best: the stored elements themselves where they are what is compared, and where no
 * product of them leaves the range of fp32.
 */
int32_t kvsim__choose_operand(const kvsim__group *group, const kvsim__format *format);

/**
 * Bound of the error of a cosine from packed pages, apart from what packing itself rounds away. Elements are exact in
 * all operands. bf16, f16 and split: products are exact in fp32, tensor cores add them up in fp32 with truncation,
 * and sums of at most a few hundred terms go on in fp32: within the CPU's bound. i8: whole numbers, exact up to the
 * rounding of the sum to fp32 and of the figures made from it. f8: sums may be kept to 13 bits below the largest term
 * for up to 32 terms.
 */
double kvsim__operand_bound(int32_t operand);

#endif
