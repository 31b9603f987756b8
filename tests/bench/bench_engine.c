/*
 * How fast the example engine is: medians of several runs of prefill and of decoding.
 *
 *   bench_engine MODEL [THREADS [BATCH [PROMPT [NEW [RUNS]]]]]
 *
 * Every run has BATCH sequences (default 8) of PROMPT random tokens (256), of which no two share a prefix, and NEW
 * (256) generated ones.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

#define LARGEST_RUNS 101

static int compare(const void *a, const void *b) {
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double *values, long count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static long argument(int argc, char **argv, int index, long fallback, long largest) {
    long value = index < argc ? strtol(argv[index], NULL, 10) : fallback;
    if (value < 1 || value > largest) {
        fprintf(stderr, "bench_engine: argument %d must be from 1 to %ld\n", index, largest);
        exit(EXIT_FAILURE);
    }
    return value;
}

/* One run on its own engine: tokens a second of prefill and of decoding. */
static int run(const engine_options *options, long batch, long prompt, long new_tokens, double *prefill,
               double *decode) {
    engine *e;
    int status = engine_create(options, &e);
    int32_t *ids = calloc((size_t)prompt, sizeof *ids);
    uint32_t state = 1;
    const engine_sampling sampling = {.ignore_eos = true};
    for (long s = 0; s < batch && status == ENGINE_OK && ids; s++) {
        for (long i = 0; i < prompt; i++) {
            state = state * 1664525u + 1013904223u;
            ids[i] = (int32_t)((state >> 8) % (uint32_t)engine_get_config(e)->vocabulary);
        }
        status = engine_add_sequence(e, ids, prompt, &sampling, new_tokens, NULL);
    }
    if (status == ENGINE_OK) {
        status = engine_run(e, NULL, NULL);
    }
    if (status != ENGINE_OK) {
        fprintf(stderr, "bench_engine: %s\n", engine_error(e));
    } else {
        engine_stats stats;
        engine_get_stats(e, &stats);
        *prefill = (double)stats.prefill_tokens / stats.prefill_seconds;
        *decode = (double)stats.decode_tokens / stats.decode_seconds;
    }
    free(ids);
    engine_destroy(e);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: bench_engine MODEL [THREADS [BATCH [PROMPT [NEW [RUNS]]]]]\n");
        return EXIT_FAILURE;
    }
    engine_options options;
    engine_options_init(&options);
    options.model = argv[1];
    options.threads = (int32_t)argument(argc, argv, 2, 2, 1024);
    long batch = argument(argc, argv, 3, 8, 4096);
    long prompt = argument(argc, argv, 4, 256, 1 << 20);
    long new_tokens = argument(argc, argv, 5, 256, 1 << 20);
    long runs = argument(argc, argv, 6, 5, LARGEST_RUNS);
    double prefill[LARGEST_RUNS];
    double decode[LARGEST_RUNS];
    for (long r = 0; r < runs; r++) {
        if (run(&options, batch, prompt, new_tokens, &prefill[r], &decode[r]) != ENGINE_OK) {
            return EXIT_FAILURE;
        }
    }
    printf("%ld sequences of %ld + %ld tokens, %d threads, medians of %ld runs: prefill %.0f tokens/s, decode %.0f "
           "tokens/s\n",
           batch, prompt, new_tokens, options.threads, runs, median(prefill, runs), median(decode, runs));
    return EXIT_SUCCESS;
}
