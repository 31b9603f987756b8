/** What the files of the twin share. */
#ifndef KVSIM_BACKEND_TWIN_PARTS_H
#define KVSIM_BACKEND_TWIN_PARTS_H

#include <stdbool.h>

#include "twin.h"

/** Memory of a device as the twin itself may use it. */
typedef struct kvsim__twin_span {
    unsigned char *at;
    size_t bytes; /**< up to the end of its block */
} kvsim__twin_span;

/** What is at a device address; `at` NULL, and a misuse is counted, if fewer than `bytes` are there. */
kvsim__twin_span kvsim__twin_span_at(kvsim__device *device, const void *address, size_t bytes, const char *what);

/** As above for an address that may be NULL: then `at` is NULL, and nothing is wrong. */
kvsim__twin_span kvsim__twin_optional(kvsim__device *device, const void *address, size_t bytes, const char *what);

/** Count a misuse, whose text is for the developer. @return KVSIM_E_BACKEND */
int32_t kvsim__twin_misused(kvsim__device *device, const char *what);

/** Has this call of the table met a misuse so far? */
bool kvsim__twin_is_misused(const kvsim__device *device);

/** Memory of the host for the time of a call, or NULL (the device's error text is set). Given back with free. */
void *kvsim__twin_scratch(kvsim__device *device, size_t count, size_t size);

/** A group whose pages can be read. */
typedef struct kvsim__twin_view {
    kvsim__device *device;
    const kvsim__device_group *group;
    const kvsim__device_page *pages;
    kvsim__twin_span formats;
    const double *frequencies, *slot_cosine, *slot_sine, *mean;
    size_t elements; /**< n */
} kvsim__twin_view;

/** @return KVSIM_OK, KVSIM_E_BACKEND */
int32_t kvsim__twin_view_open(kvsim__device *device, const kvsim__device_group *group, kvsim__twin_view *view);

/** Bytes of an element of a type; 0 if there is no such type. */
size_t kvsim__twin_element_size(int32_t dtype);

/** Value of a stored element. */
double kvsim__twin_element(int32_t dtype, const unsigned char *at);

/** Value of a binary floating-point number of few bits; without infinities, all ones are the only NaN. */
double kvsim__twin_small_float(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinities);

/** Format of a slot's page, or NULL (a misuse is counted). */
const kvsim__device_format *kvsim__twin_format_of(const kvsim__twin_view *view, uint32_t slot);

/**
 * Read the first `tokens` token slots of a page: stored bytes, stored values, values in the view; each may be NULL.
 * @return false on a misuse
 */
bool kvsim__twin_read(const kvsim__twin_view *view, uint32_t slot, int32_t tokens, unsigned char *bytes, double *stored,
                      double *values);

/** @name The kernels
 * As the functions of the table with these names.
 * @{ */
int32_t kvsim__twin_classify(kvsim__device *device, const kvsim__device_group *group, const int32_t *fills,
                             uint8_t *finite);
int32_t kvsim__twin_hash(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes);
int32_t kvsim__twin_equal(kvsim__device *device, const kvsim__device_group *group, const uint32_t (*pairs)[2],
                          uint32_t count, uint8_t *equal);
int32_t kvsim__twin_measure(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_measures *out);
int32_t kvsim__twin_gather(kvsim__device *device, const kvsim__device_group *group, void *to);
int32_t kvsim__twin_pack(kvsim__device *device, const kvsim__device_group *group, const kvsim__device_packing *packing,
                         const kvsim__device_panel *panel);
int32_t kvsim__twin_compare(kvsim__device *device, const kvsim__device_compare *job);
int32_t kvsim__twin_resolve(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                            const kvsim__device_compare *job, uint32_t count);
int32_t kvsim__twin_rescore(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                            kvsim__device_pair *pairs, uint32_t count);
int32_t kvsim__twin_compare_bits(kvsim__device *device, const kvsim__device_bit_compare *job);
/** @} */

#endif
