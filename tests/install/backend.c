/* Asks for a device, compares three pages on it, and says what came of it. */
#include <kvsim/kvsim.h>

#include <stdio.h>

int main(void) {
    static const float elements[3][4] = {{1, 2, 3, 4}, {1, 2, 3, 4}, {4, -3, 2, -1}};
    static const int64_t shape[4] = {3, 1, 1, 4};
    char reason[512] = "";
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.backend = KVSIM_BACKEND_CUDA;
    options.error_buffer = reason;
    options.error_buffer_size = sizeof reason;
    kvsim_ctx *ctx = NULL;
    kvsim_status status = kvsim_ctx_create(&options, &ctx);
    if (status != KVSIM_OK) {
        printf("no context: %s: %s\n", kvsim_status_string(status), reason);
        return status == KVSIM_E_BACKEND ? 2 : 1;
    }
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.data = elements;
    tensor.dtype_code = KVSIM_DTYPE_FLOAT;
    tensor.dtype_bits = 32;
    tensor.shape = shape;
    tensor.ndim = 4;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.tensor = &tensor;
    kvsim_result *result = NULL;
    status = kvsim_add_pages(ctx, &pages);
    if (status == KVSIM_OK) {
        status = kvsim_compute(ctx, NULL, &result);
    }
    kvsim_column column = KVSIM_COLUMN_INIT;
    if (status == KVSIM_OK) {
        status = kvsim_result_column(result, "groups", "exact_duplicates", &column);
    }
    if (status == KVSIM_OK) {
        printf("duplicates: %llu\n", ((const unsigned long long *)column.data)[0]);
    } else {
        printf("failed: %s: %s\n", kvsim_status_string(status), kvsim_ctx_error(ctx));
    }
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    return status == KVSIM_OK ? 0 : 1;
}
