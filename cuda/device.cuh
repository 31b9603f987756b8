/**
 * A device of the CUDA backend: its stream, its memory, its last error; and what the kernels have in common.
 */
#ifndef KVSIM_CUDA_DEVICE_CUH
#define KVSIM_CUDA_DEVICE_CUH

#include <cuda.h>
#include <cuda_runtime.h>

#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "../lib/backend/backend.h"
}

/** Bytes of the text of an error. */
enum { ERROR_SIZE = 512 };

/** Memory that was given out. */
struct allocation {
    void *memory;
    size_t bytes;
    struct allocation *next;
};

struct kvsim__device {
    int ordinal;
    int lost; /**< status that every call returns from now on, or 0 */
    cudaStream_t stream;
    cudaEvent_t reached;
    cudaDeviceProp properties;
    uint32_t duty_percent;
    uint64_t memory_bytes, memory_used;
    struct allocation *allocations;
    void *staging; /**< pinned; two halves that take turns */
    cudaEvent_t staged[2];
    int turn;
    uint32_t *tiles; /**< on the device: the tiles of the compare at hand */
    size_t tile_capacity;
    uint32_t *host_tiles; /**< pinned */
    struct blas *blas;    /**< cuBLASLt, once it was asked for; NULL: not there */
    int blas_tried;
    void *block; /**< on the device: products of a block, for the path that writes them */
    size_t block_bytes;
    CUresult (*encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                       const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    int fused_ready; /**< the fused kernels may take their shared memory */
    char error[ERROR_SIZE];
};

/** Set the text and return `status`. */
int32_t device_fail(kvsim__device *device, int32_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** KVSIM_OK, or the status of a CUDA error; `what` was tried. */
int32_t device_check(kvsim__device *device, cudaError_t error, const char *what);

/** Check the launch that was just made. */
int32_t device_launched(kvsim__device *device, const char *kernel);

/** The device's own scratch for products, of at least `bytes`. */
int32_t device_block(kvsim__device *device, size_t bytes, void **out);

/** @name Operations of the table, by the file that holds them
 * @{ */
int32_t pages_classify(kvsim__device *, const kvsim__device_group *, const int32_t *, uint8_t *);
int32_t pages_hash(kvsim__device *, const kvsim__device_group *, uint64_t *);
int32_t pages_equal(kvsim__device *, const kvsim__device_group *, const uint32_t (*)[2], uint32_t, uint8_t *);
int32_t pages_measure(kvsim__device *, const kvsim__device_group *, const kvsim__device_measures *);
int32_t pages_gather(kvsim__device *, const kvsim__device_group *, void *);
int32_t pages_pack(kvsim__device *, const kvsim__device_group *, const kvsim__device_packing *,
                   const kvsim__device_panel *);
int32_t pairs_compare(kvsim__device *, const kvsim__device_compare *);
int32_t pairs_resolve(kvsim__device *, const kvsim__device_group *, double, const kvsim__device_compare *, uint32_t);
int32_t pairs_rescore(kvsim__device *, const kvsim__device_group *, double, kvsim__device_pair *, uint32_t);
int32_t bits_compare(kvsim__device *, const kvsim__device_bit_compare *);
/** @} */

/** @name Ways to compare
 * @{ */
/** cuBLASLt can be had. */
int blas_available(kvsim__device *device);
int32_t blas_compare(kvsim__device *, const kvsim__device_compare *);
/** The fused kernels can run here. */
int fused_available(kvsim__device *device);
int32_t fused_compare(kvsim__device *, const kvsim__device_compare *);
int32_t fused_compare_bits(kvsim__device *, const kvsim__device_bit_compare *);
int32_t simple_compare(kvsim__device *, const kvsim__device_compare *);
/** Take the pairs of a block of products [row_end - row, stride], written by a way that has no epilogue of its own. */
int32_t take_products(kvsim__device *, const kvsim__device_compare *, const void *products, uint32_t row,
                      uint32_t row_end, uint32_t column, uint32_t column_end, uint32_t stride, cudaStream_t stream);
void blas_close(kvsim__device *device);
/** @} */

#endif
