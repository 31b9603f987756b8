/**
 * The twin of a device: fills the table of backend.h on the host, in plain C and as the text there says, so that what
 * is built on the table can be tested without a device. Not a part of the library: tests link it or load it.
 *
 * Addresses of its memory cannot be followed by the host, as those of a device cannot; whatever reaches past a block of
 * memory, or breaks a rule of the table, is counted as a misuse and fails. Any call of the table can be made to fail.
 */
#ifndef KVSIM_BACKEND_TWIN_H
#define KVSIM_BACKEND_TWIN_H

#include "backend.h"

/** @name How a call fails
 * @{ */
#define KVSIM__TWIN_ONCE   0u /**< that call only */
#define KVSIM__TWIN_ALWAYS 1u /**< and every one after it, also of devices that are opened later */
#define KVSIM__TWIN_LOST   2u /**< and with it the device is lost; a device that is opened later works */
#define KVSIM__TWIN_LATE                                                                                               \
    3u /**< unless it waits it seems to succeed, but nothing is done, and the device is lost from then on */
/** @} */

/** @name What kvsim_backend_query gives
 * @{ */
#define KVSIM__TWIN_TABLE         0u
#define KVSIM__TWIN_NO_TABLE      1u
#define KVSIM__TWIN_OTHER_VERSION 2u
#define KVSIM__TWIN_OTHER_SIZE    3u
#define KVSIM__TWIN_NO_FUNCTION   4u /**< a table that leaves one out */
/** @} */

/** What a test wants of the twin, and what it has seen. Read and change it only while no call is under way. */
typedef struct kvsim__twin {
    uint64_t fail_at;      /**< number of the call that fails, from 1 since `calls` was 0; 0 = none */
    int32_t fail_status;   /**< KVSIM_E_NOMEM or KVSIM_E_BACKEND */
    uint32_t fail_mode;    /**< KVSIM__TWIN_ONCE ... */
    uint32_t query;        /**< KVSIM__TWIN_TABLE ... */
    uint32_t devices;      /**< of this machine; 1 at first */
    uint64_t memory_bytes; /**< free on each, to begin with 1 GiB */
    uint32_t backwards;    /**< 1: pairs are looked at in the opposite order */
    uint32_t reserved;
    double noise; /**< packed cosines are wrong by up to this share of the rules' bound */

    uint64_t calls;         /**< of the table's functions that can fail */
    uint64_t opened;        /**< devices that are open */
    uint64_t blocks, bytes; /**< of device memory that is given out, the engine's apart */
    uint64_t peak_bytes;    /**< most at a time */
    uint64_t left_at_close; /**< blocks that `close` had to give back */
    uint64_t streams;       /**< calls of wait_for */
    void *last_stream;      /**< handed to the last one */
    uint64_t misuses;       /**< calls against the rules of the table */
    char misuse[160];       /**< what the first of them was */
} kvsim__twin;

/** The state of the twin; one for the process. */
__attribute__((visibility("default"))) kvsim__twin *kvsim_twin(void);

/** @name Memory of the engine beside the library
 * On device `ordinal`, not counted, for pages that are on a device.
 * @{ */
__attribute__((visibility("default"))) void *kvsim_twin_engine_allocate(int32_t ordinal, size_t bytes);
__attribute__((visibility("default"))) void kvsim_twin_engine_release(void *memory);
/** @} */

/** Copy between the host's memory and a device's, whichever each is. @return 0, or -1 past a block's end */
__attribute__((visibility("default"))) int kvsim_twin_copy(void *to, const void *from, size_t bytes);

/** The table; also what a linked-in backend and a plug-in are asked by. */
__attribute__((visibility("default"))) const kvsim__backend *kvsim_backend_query(uint32_t version);

#endif
