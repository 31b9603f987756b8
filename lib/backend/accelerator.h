/**
 * The device that a context computes on, if it has one: chosen by the options, opened when it is first needed. Calls of
 * the backend's table go through here: failures become statuses with a text, and memory is given back together.
 */
#ifndef KVSIM_BACKEND_ACCELERATOR_H
#define KVSIM_BACKEND_ACCELERATOR_H

#include "../base/base.h"
#include "backend.h"

/** The device of a context; zeros are one that is never used. */
typedef struct kvsim__accelerator {
    kvsim__base *base;
    const kvsim__backend *table; /**< NULL: not looked for yet, or there is none */
    kvsim__device *device;       /**< NULL: not open */
    kvsim__device_options options;
    int32_t wanted;         /**< KVSIM_BACKEND_* */
    bool given_up;          /**< it failed, and the CPU goes on: it is not tried again */
    bool failed;            /**< a call has failed since the flag was cleared */
    uint32_t list_capacity; /**< pairs on a list to begin with; 0 = as many as serve well */
    uint32_t panel_rows;    /**< most rows of a panel; 0 = as many as serve well */
    uint32_t launch_rows;   /**< rows that are compared at a time; 0 = as many as serve well */
    char name[128];         /**< of the device */
} kvsim__accelerator;

/** Set up from options that were checked. Nothing is opened. */
void kvsim__accelerator_init(kvsim__accelerator *accelerator, kvsim__base *base, const kvsim_options *options);

/** Open the device unless it is open. @return KVSIM_OK, KVSIM_E_BACKEND with the reason, KVSIM_E_UNSUPPORTED if the
 * context computes on the CPU only */
kvsim_status kvsim__accelerator_open(kvsim__accelerator *accelerator);

/** Close the device; its memory is given back. */
void kvsim__accelerator_close(kvsim__accelerator *accelerator);

/**
 * Choose where to compute.
 * @param needed pages are on the device, so the CPU cannot do it alone
 * @param out the accelerator, or NULL for the CPU
 * @return KVSIM_OK, KVSIM_E_BACKEND
 */
kvsim_status kvsim__accelerator_choose(kvsim__accelerator *accelerator, bool needed, kvsim__accelerator **out);

/**
 * A compute on the device has ended with a failure, whose text is that of the context.
 * @return true if the CPU may go on, and does so in all that follows
 */
bool kvsim__accelerator_give_up(kvsim__accelerator *accelerator, bool needed);

/** Turn what a function of the table returned into a status; `what` was being done. */
kvsim_status kvsim__device_check(kvsim__accelerator *accelerator, int32_t returned, const char *what);

/** Memory of a device that is given back together. */
typedef struct kvsim__device_memory {
    kvsim__accelerator *accelerator;
    void **blocks;
    size_t count, capacity;
    uint64_t bytes;
} kvsim__device_memory;

/** `bytes` of device memory that belong to `memory`; 0 bytes give some. */
kvsim_status kvsim__device_take(kvsim__device_memory *memory, uint64_t bytes, const char *what, void **out);

/** As kvsim__device_take, filled with a byte. */
kvsim_status kvsim__device_take_filled(kvsim__device_memory *memory, int byte, uint64_t bytes, const char *what,
                                       void **out);

/** As kvsim__device_take, with a copy of what is at `from`; NULL gives NULL. */
kvsim_status kvsim__device_take_copy(kvsim__device_memory *memory, const void *from, uint64_t bytes, const char *what,
                                     void **out);

/** Give one block back. */
void kvsim__device_give(kvsim__device_memory *memory, void *block);

/** Give all back; zeros are allowed. */
void kvsim__device_give_all(kvsim__device_memory *memory);

/** Copy to the device. */
kvsim_status kvsim__device_upload(kvsim__accelerator *accelerator, void *to, const void *from, uint64_t bytes);

/** Copy from the device. */
kvsim_status kvsim__device_download(kvsim__accelerator *accelerator, void *to, const void *from, uint64_t bytes);

/** Bytes that the device's budget has left. */
uint64_t kvsim__device_room(const kvsim__accelerator *accelerator);

#endif
