/*
 * The part of the twin's interface that tests of whole computes use, for a real device: memory of an engine beside the
 * library. Linked with the CUDA backend in place of the twin, the same tests run on a GPU. Without one the program ends
 * with status 77 before its first test.
 */
#include "../../lib/backend/twin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((constructor)) static void need_device(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("%s: 0 passed, 0 failed, 1 skipped\n", KVSIM_TEST_NAME);
        fflush(stdout);
        _Exit(77);
    }
    setenv("CK_FORK", "no", 1); /* a CUDA context does not survive a fork */
}

/* The tests want to see that the backend is called; a real one does not count its calls. */
kvsim__twin *kvsim_twin(void) {
    static kvsim__twin state;
    state.calls++;
    return &state;
}

void *kvsim_twin_engine_allocate(int32_t ordinal, size_t bytes) {
    void *memory = NULL;
    (void)ordinal;
    return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : NULL;
}

void kvsim_twin_engine_release(void *memory) {
    (void)cudaFree(memory);
}

int kvsim_twin_copy(void *to, const void *from, size_t bytes) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess ? 0 : -1;
}
