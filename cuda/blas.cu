/*
 * The way through cuBLASLt: products of a block of pairs into memory, then the epilogue kernel. cuBLASLt is the host
 * machine's own, loaded when it is first needed; it is neither linked nor shipped.
 *
 * Its kernels keep one fp32 sum over all of the elements they are given, and the tensor cores cut off what does not
 * fit: products are asked for in stretches of CHUNK elements that are added up in memory, and what a stretch may lose
 * is added to the bound.
 */
#include "device.cuh"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

enum {
    BLOCK_ROWS = 4096,
    BLOCK_COLUMNS = 4096,
    CHUNK = 2048,            /* elements of a stretch */
    WORKSPACE = 32 << 20,
    KINDS = 7                /* operands */
};

/* A cut at 2^-24 of the sum for every 16 elements of a stretch; see docs/performance.md for what was measured. */
#define CHUNK_BOUND (CHUNK / 16 * 0x1p-23f)

struct blas {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    void *blocks[2];
    cudaStream_t after;
    cudaEvent_t written[2], taken[2];
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmul) matmul;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
};

template <class FUNCTION> static bool find_function(void *library, const char *name, FUNCTION *out) {
    void *address = dlsym(library, name);
    memcpy(out, &address, sizeof address);
    return address != NULL;
}

static bool find_functions(struct blas *blas) {
    void *from = blas->library;
    return find_function(from, "cublasLtCreate", &blas->create) &&
           find_function(from, "cublasLtDestroy", &blas->destroy) &&
           find_function(from, "cublasLtMatmul", &blas->matmul) &&
           find_function(from, "cublasLtMatmulDescCreate", &blas->desc_create) &&
           find_function(from, "cublasLtMatmulDescDestroy", &blas->desc_destroy) &&
           find_function(from, "cublasLtMatmulDescSetAttribute", &blas->desc_set) &&
           find_function(from, "cublasLtMatrixLayoutCreate", &blas->layout_create) &&
           find_function(from, "cublasLtMatrixLayoutDestroy", &blas->layout_destroy) &&
           find_function(from, "cublasLtMatmulPreferenceCreate", &blas->preference_create) &&
           find_function(from, "cublasLtMatmulPreferenceDestroy", &blas->preference_destroy) &&
           find_function(from, "cublasLtMatmulPreferenceSetAttribute", &blas->preference_set) &&
           find_function(from, "cublasLtMatmulAlgoGetHeuristic", &blas->heuristic);
}

static bool make_blocks(struct blas *blas) {
    int least = 0, greatest = 0;
    bool made = cudaDeviceGetStreamPriorityRange(&least, &greatest) == cudaSuccess &&
                cudaMalloc(&blas->workspace, WORKSPACE) == cudaSuccess &&
                cudaStreamCreateWithPriority(&blas->after, cudaStreamNonBlocking, least) == cudaSuccess;
    for (int i = 0; i < 2 && made; i++) {
        made = cudaMalloc(&blas->blocks[i], (size_t)BLOCK_ROWS * BLOCK_COLUMNS * sizeof(float)) == cudaSuccess &&
               cudaEventCreateWithFlags(&blas->written[i], cudaEventDisableTiming) == cudaSuccess &&
               cudaEventCreateWithFlags(&blas->taken[i], cudaEventDisableTiming) == cudaSuccess;
    }
    return made;
}

static void blas_free(struct blas *blas) {
    for (int i = 0; i < 2; i++) {
        (void)cudaFree(blas->blocks[i]);
        if (blas->written[i] != NULL) {
            (void)cudaEventDestroy(blas->written[i]);
        }
        if (blas->taken[i] != NULL) {
            (void)cudaEventDestroy(blas->taken[i]);
        }
    }
    if (blas->after != NULL) {
        (void)cudaStreamDestroy(blas->after);
    }
    (void)cudaFree(blas->workspace);
    if (blas->handle != NULL) {
        (void)blas->destroy(blas->handle);
    }
    (void)cudaGetLastError();
    free(blas); /* the library stays loaded: others of the process may use it */
}

void blas_close(kvsim__device *device) {
    if (device->blas != NULL) {
        blas_free(device->blas);
        device->blas = NULL;
    }
}

int blas_available(kvsim__device *device) {
    if (device->blas_tried) {
        return device->blas != NULL;
    }
    device->blas_tried = 1;
    struct blas *blas = (struct blas *)calloc(1, sizeof *blas);
    if (blas == NULL) {
        return 0;
    }
    const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    for (size_t i = 0; i < sizeof names / sizeof names[0] && blas->library == NULL; i++) {
        blas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (blas->library == NULL || !find_functions(blas) || blas->create(&blas->handle) != CUBLAS_STATUS_SUCCESS ||
        !make_blocks(blas)) {
        blas_free(blas);
        return 0;
    }
    device->blas = blas;
    return 1;
}

/* One call of cublasLtMatmul, with the best algorithm that its heuristic knows. */
struct product {
    cudaDataType_t element, result;
    cublasComputeType_t compute;
    const void *rows, *columns;
    uint64_t row_count, column_count, elements;
    int64_t row_stride, column_stride; /* elements */
    double alpha, beta;
    void *to;
};

static int32_t multiply(kvsim__device *device, const struct product *job) {
    struct blas *blas = device->blas;
    cublasLtMatmulDesc_t desc = NULL;
    cublasLtMatrixLayout_t a = NULL, b = NULL, c = NULL;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const bool whole = job->result == CUDA_R_32I;
    const cudaDataType_t scale = whole ? CUDA_R_32I : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = WORKSPACE;
    const float alpha = (float)job->alpha, beta = (float)job->beta;
    const int32_t whole_alpha = (int32_t)job->alpha, whole_beta = (int32_t)job->beta;
    /* cuBLAS counts down columns: its result is the transpose, [columns, rows]. */
    bool good = blas->desc_create(&desc, job->compute, scale) == CUBLAS_STATUS_SUCCESS &&
                blas->desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) ==
                    CUBLAS_STATUS_SUCCESS &&
                blas->layout_create(&a, job->element, job->elements, job->column_count, job->column_stride) ==
                    CUBLAS_STATUS_SUCCESS &&
                blas->layout_create(&b, job->element, job->elements, job->row_count, job->row_stride) ==
                    CUBLAS_STATUS_SUCCESS &&
                blas->layout_create(&c, job->result, job->column_count, job->row_count, BLOCK_COLUMNS) ==
                    CUBLAS_STATUS_SUCCESS &&
                blas->preference_create(&preference) == CUBLAS_STATUS_SUCCESS &&
                blas->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                     sizeof workspace) == CUBLAS_STATUS_SUCCESS &&
                blas->heuristic(blas->handle, desc, a, b, c, c, preference, 1, &found, &count) ==
                    CUBLAS_STATUS_SUCCESS &&
                count > 0;
    good = good && blas->matmul(blas->handle, desc, whole ? (const void *)&whole_alpha : &alpha, job->columns, a,
                                job->rows, b, whole ? (const void *)&whole_beta : &beta, job->to, c, job->to, c,
                                &found.algo, blas->workspace, WORKSPACE, device->stream) == CUBLAS_STATUS_SUCCESS;
    if (preference != NULL) {
        (void)blas->preference_destroy(preference);
    }
    if (c != NULL) {
        (void)blas->layout_destroy(c);
    }
    if (b != NULL) {
        (void)blas->layout_destroy(b);
    }
    if (a != NULL) {
        (void)blas->layout_destroy(a);
    }
    if (desc != NULL) {
        (void)blas->desc_destroy(desc);
    }
    return good ? KVSIM_OK
                : device_fail(device, KVSIM_E_UNSUPPORTED, "CUDA device %d: cuBLASLt refuses this product",
                              device->ordinal);
}

static bool describe_product(int32_t operand, struct product *job) {
    job->result = CUDA_R_32F;
    job->compute = CUBLAS_COMPUTE_32F;
    switch (operand) {
    case KVSIM__OPERAND_BF16:
        job->element = CUDA_R_16BF;
        return true;
    case KVSIM__OPERAND_F16:
    case KVSIM__OPERAND_SPLIT:
        job->element = CUDA_R_16F;
        return true;
    case KVSIM__OPERAND_E4M3:
        job->element = CUDA_R_8F_E4M3;
        return true;
    case KVSIM__OPERAND_I8:
        job->element = CUDA_R_8I;
        job->result = CUDA_R_32I;
        job->compute = CUBLAS_COMPUTE_32I;
        return true;
    default: /* it does not multiply e5m2 with e5m2 */
        return false;
    }
}

/* The products of one part of the rows with one part of the columns; `begins`: what is in memory is not added to. */
static int32_t multiply_parts(kvsim__device *device, struct product job, bool chunked, bool begins, double alpha) {
    const uint64_t size = job.element == CUDA_R_16BF || job.element == CUDA_R_16F ? 2 : 1;
    const uint64_t all = job.elements, chunk = chunked ? (uint64_t)CHUNK : all;
    const unsigned char *rows = (const unsigned char *)job.rows, *columns = (const unsigned char *)job.columns;
    int32_t status = KVSIM_OK;
    for (uint64_t at = 0; at < all && status == KVSIM_OK; at += chunk) {
        job.elements = all - at < chunk ? all - at : chunk;
        job.rows = rows + at * size;
        job.columns = columns + at * size;
        job.alpha = alpha;
        job.beta = begins && at == 0 ? 0.0 : 1.0;
        status = multiply(device, &job);
    }
    return status;
}

static int32_t multiply_block(kvsim__device *device, const kvsim__device_compare *compare, uint32_t row, uint32_t rows,
                              uint32_t column, uint32_t columns, void *to) {
    struct product job;
    memset(&job, 0, sizeof job);
    (void)describe_product(compare->operand, &job);
    const bool split = compare->operand == KVSIM__OPERAND_SPLIT;
    const uint64_t size = job.element == CUDA_R_16BF || job.element == CUDA_R_16F ? 2 : 1;
    const uint64_t part = compare->rows.row_bytes / (split ? 2 : 1);
    const unsigned char *a = (const unsigned char *)compare->rows.operand + row * compare->rows.row_bytes;
    const unsigned char *b = (const unsigned char *)compare->columns.operand + column * compare->columns.row_bytes;
    job.row_count = (rows + 15) / 16 * 16; /* rows past the end are zero, and the panels' capacity is a multiple */
    job.column_count = (columns + 15) / 16 * 16;
    job.elements = part / size;
    job.row_stride = (int64_t)(compare->rows.row_bytes / size);
    job.column_stride = (int64_t)(compare->columns.row_bytes / size);
    job.rows = a;
    job.columns = b;
    job.to = to;
    const bool chunked = job.result == CUDA_R_32F;
    if (!split) {
        return multiply_parts(device, job, chunked, true, 1.0);
    }
    struct product low = job;
    low.columns = b + part;
    int32_t status = multiply_parts(device, low, chunked, true, 0x1p-11);
    low.rows = a + part;
    low.columns = b;
    if (status == KVSIM_OK) {
        status = multiply_parts(device, low, chunked, false, 0x1p-11);
    }
    return status == KVSIM_OK ? multiply_parts(device, job, chunked, false, 1.0) : status;
}

int32_t blas_compare(kvsim__device *device, const kvsim__device_compare *compare) {
    struct product probe;
    struct blas *blas = device->blas;
    kvsim__device_compare own = *compare;
    own.path = KVSIM__GRAM_BLAS;
    if (!describe_product(own.operand, &probe)) {
        return simple_compare(device, compare);
    }
    if (own.operand != KVSIM__OPERAND_I8) {
        own.host_rules.bound += CHUNK_BOUND;
    }
    const bool triangle = own.rows.first == own.columns.first;
    const uint32_t end = own.row_end < own.rows.count ? own.row_end : own.rows.count;
    int32_t status = KVSIM_OK;
    uint32_t turn = 0;
    for (uint32_t row = own.row_begin; row < end && status == KVSIM_OK; row += BLOCK_ROWS) {
        const uint32_t rows = end - row < BLOCK_ROWS ? end - row : (uint32_t)BLOCK_ROWS;
        const uint32_t columns_end = triangle && row + rows < own.columns.count ? row + rows : own.columns.count;
        for (uint32_t column = 0; column < columns_end && status == KVSIM_OK; column += BLOCK_COLUMNS, turn++) {
            const uint32_t columns =
                columns_end - column < BLOCK_COLUMNS ? columns_end - column : (uint32_t)BLOCK_COLUMNS;
            const uint32_t half = turn % 2;
            if (turn >= 2) {
                status = device_check(device, cudaStreamWaitEvent(device->stream, blas->taken[half], 0), "an event");
            }
            if (status == KVSIM_OK) {
                status = multiply_block(device, &own, row, rows, column, columns, blas->blocks[half]);
            }
            if (status == KVSIM_OK) {
                (void)cudaEventRecord(blas->written[half], device->stream);
                (void)cudaStreamWaitEvent(blas->after, blas->written[half], 0);
                status = take_products(device, &own, blas->blocks[half], row, row + rows, column, column + columns,
                                       BLOCK_COLUMNS, blas->after);
                (void)cudaEventRecord(blas->taken[half], blas->after);
            }
        }
    }
    for (uint32_t half = 0; half < 2 && half < turn; half++) {
        const int32_t waited =
            device_check(device, cudaStreamWaitEvent(device->stream, blas->taken[half], 0), "an event");
        status = status == KVSIM_OK ? waited : status;
    }
    return status;
}
