/** Adding pages whose tensors are in the memory of a device. */
#ifndef KVSIM_PAGES_ADD_DEVICE_H
#define KVSIM_PAGES_ADD_DEVICE_H

#include "store.h"

/**
 * Check where a tensor lies: open the context's device if it says that it is on one.
 * @param size bytes of an element
 * @param on_device set
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_UNSUPPORTED, KVSIM_E_BACKEND
 */
kvsim_status kvsim__check_place(kvsim__accelerator *accelerator, const kvsim_tensor *tensor, size_t size,
                                const char *what, bool *on_device);

/** What is read from now on comes after what the caller has queued on its stream. */
kvsim_status kvsim__wait_for_stream(kvsim__accelerator *accelerator, void *stream);

/**
 * Copy pages together on the device, row-major without gaps, and wait until that is done.
 * @param pages [count] element (0, 0, 0) of each, on the device, all laid out as `format`
 * @param to [count] pages, on the device
 */
kvsim_status kvsim__gather_device_pages(kvsim__accelerator *accelerator, const kvsim__format *format,
                                        const unsigned char *const *pages, size_t count, unsigned char *to);

/** Copy an array of floats [blocks, tokens, heads] with strides in bytes from the device to the host. */
kvsim_status kvsim__fetch_floats(kvsim__accelerator *accelerator, const unsigned char *from, const int64_t shape[3],
                                 const int64_t strides[3], float *to);

#endif
