/**
 * Instructions of sm_90a that CUDA C++ has no words for (PTX ISA 8.0): barriers in shared memory that count bytes, the
 * bulk tensor copy, and the matrix product of a group of four warps.
 */
#ifndef KVSIM_CUDA_HOPPER_CUH
#define KVSIM_CUDA_HOPPER_CUH

#include <cuda.h>

#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrive at the barrier at the same place in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t rank) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}\n" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
                 "@done bra finished;\n"
                 "bra again;\n"
                 "finished:\n"
                 "}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Copy the box at (column, row) of a tensor map into shared memory; `barrier` counts its bytes. */
static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int column, int row,
                                                uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"((uint64_t)map), "r"(barrier), "r"(column), "r"(row)
                 : "memory");
}

/* The same, into every block of the cluster whose bit is set in `mask`, at the same place. */
static __device__ __forceinline__ void copy_box_to_all(uint32_t to, const CUtensorMap *map, int column, int row,
                                                       uint32_t barrier, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
                 "l"((uint64_t)map), "r"(barrier), "h"(mask), "r"(column), "r"(row)
                 : "memory");
}

static __device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

static __device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Barrier of some warps of a block. */
static __device__ __forceinline__ void warps_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Describes rows of 128 bytes in shared memory, swizzled over 128 bytes, 8 rows after one another. */
static __device__ __forceinline__ uint64_t matrix_descriptor(uint32_t rows) {
    const uint64_t stride = 1024 >> 4, swizzle_128 = 1;
    return (uint64_t)((rows & 0x3ffff) >> 4) | (uint64_t)1 << 16 | stride << 32 | swizzle_128 << 62;
}

static __device__ __forceinline__ void products_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

template <int REGISTERS> static __device__ __forceinline__ void registers_grow() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> static __device__ __forceinline__ void registers_shrink() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* Sums of 64 x 192 products are 96 registers of each thread. */
#define PLACES_8(a)                                                                                                    \
    "%" #a "0, %" #a "1, %" #a "2, %" #a "3, %" #a "4, %" #a "5, %" #a "6, %" #a "7, %" #a "8, %" #a "9, "
#define PLACES_96                                                                                                      \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " PLACES_8(1) PLACES_8(2) PLACES_8(3) PLACES_8(4) PLACES_8(5)            \
        PLACES_8(6) PLACES_8(7) PLACES_8(8) "%90, %91, %92, %93, %94, %95}, "
#define SUMS_4(kind, d, i)  kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3])
#define SUMS_16(kind, d, i) SUMS_4(kind, d, i), SUMS_4(kind, d, i + 4), SUMS_4(kind, d, i + 8), SUMS_4(kind, d, i + 12)
#define SUMS_96(kind, d)                                                                                               \
    SUMS_16(kind, d, 0), SUMS_16(kind, d, 16), SUMS_16(kind, d, 32), SUMS_16(kind, d, 48), SUMS_16(kind, d, 64),      \
        SUMS_16(kind, d, 80)

/* d = a * b (keep 0) or d + a * b (keep 1), over 32 bytes of each row. */
#define DEFINE_PRODUCT(name, element, kind, instruction, tail)                                                         \
    static __device__ __forceinline__ void name(element(&d)[96], uint64_t a, uint64_t b, int keep) {                  \
        asm volatile("{\n"                                                                                             \
                     ".reg .pred p;\n"                                                                                 \
                     "setp.ne.b32 p, %98, 0;\n"                                                                        \
                     "wgmma.mma_async.sync.aligned." instruction " " PLACES_96 "%96, %97, p" tail ";\n"                \
                     "}\n"                                                                                             \
                     : SUMS_96(kind, d)                                                                                \
                     : "l"(a), "l"(b), "r"(keep));                                                                     \
    }

DEFINE_PRODUCT(product_bf16, float, "+f", "m64n192k16.f32.bf16.bf16", ", 1, 1, 0, 0")
DEFINE_PRODUCT(product_f16, float, "+f", "m64n192k16.f32.f16.f16", ", 1, 1, 0, 0")
DEFINE_PRODUCT(product_i8, int, "+r", "m64n192k32.s32.s8.s8", "")
DEFINE_PRODUCT(product_b1, int, "+r", "m64n192k256.s32.b1.b1.and.popc", "")

/* The same for 64 x 96 products: 48 registers. */
#define PLACES_48                                                                                                      \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " PLACES_8(1) PLACES_8(2) PLACES_8(3)                                    \
        "%40, %41, %42, %43, %44, %45, %46, %47}, "
#define SUMS_48(kind, d) SUMS_16(kind, d, 0), SUMS_16(kind, d, 16), SUMS_16(kind, d, 32)

#define DEFINE_HALF_PRODUCT(name, instruction)                                                                         \
    static __device__ __forceinline__ void name(float(&d)[48], uint64_t a, uint64_t b, int keep) {                    \
        asm volatile("{\n"                                                                                             \
                     ".reg .pred p;\n"                                                                                 \
                     "setp.ne.b32 p, %50, 0;\n"                                                                        \
                     "wgmma.mma_async.sync.aligned." instruction " " PLACES_48 "%48, %49, p, 1, 1;\n"                  \
                     "}\n"                                                                                             \
                     : SUMS_48("+f", d)                                                                                \
                     : "l"(a), "l"(b), "r"(keep));                                                                     \
    }

DEFINE_HALF_PRODUCT(product_e4m3, "m64n96k32.f32.e4m3.e4m3")
DEFINE_HALF_PRODUCT(product_e5m2, "m64n96k32.f32.e5m2.e5m2")

#endif
