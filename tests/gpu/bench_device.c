#define _POSIX_C_SOURCE 200809L
/*
 * Times of the CUDA backend's operations on pages that do not fit the cache: medians of several runs.
 * bench_device [pages] [bf16|f8|i8|f16] : 16 x 8 x 128 elements a page.
 */
#include "device_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const kvsim__backend *kvsim_backend_query(uint32_t version);

enum { REPEATS = 7 };

static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, double *seconds, double work, const char *unit) {
    qsort(seconds, REPEATS, sizeof *seconds, ascending);
    printf("%-34s %9.3f ms [%.3f .. %.3f]  %9.1f %s\n", what, 1e3 * seconds[REPEATS / 2], 1e3 * seconds[0],
           1e3 * seconds[REPEATS - 1], work / seconds[REPEATS / 2] * 1e-12, unit);
    fflush(stdout);
}

static void time_compare(fixture *at, const char *what, uint32_t path, double work) {
    double seconds[REPEATS];
    at->compare.path = path;
    for (int i = -1; i < REPEATS; i++) {
        fixture_clear(at);
        fixture_need(at, at->table->wait(at->device), "wait");
        const double start = now();
        const int32_t status = at->table->compare(at->device, &at->compare);
        if (status == KVSIM_E_UNSUPPORTED) {
            printf("%-34s %s\n", what, at->table->error(at->device));
            return;
        }
        fixture_need(at, status, what);
        fixture_need(at, at->table->wait(at->device), what);
        seconds[i < 0 ? 0 : i] = now() - start;
    }
    report(what, seconds, work, "TFLOP/s useful");
}

int main(int argc, char **argv) {
    char reason[256];
    const kvsim__backend *table = kvsim_backend_query(KVSIM__BACKEND_VERSION);
    const kvsim__device_options options = {0};
    kvsim__device *device;
    if (table->open(&options, &device, reason, sizeof reason) != KVSIM_OK) {
        printf("no device: %s\n", reason);
        return 77;
    }
    const char *type = argc > 2 ? argv[2] : "bf16";
    fixture_case of = {.slots = argc > 1 ? (uint32_t)atoi(argv[1]) : 32768,
                       .tokens = 16,
                       .heads = 8,
                       .head_dim = 128,
                       .dtype = KVSIM__BF16,
                       .operand = KVSIM__OPERAND_BF16,
                       .seed = (uint64_t)time(NULL),
                       .list_capacity = 1 << 22};
    if (strcmp(type, "f8") == 0) {
        of.dtype = KVSIM__F8_E4M3FN;
        of.operand = KVSIM__OPERAND_E4M3;
    } else if (strcmp(type, "i8") == 0) {
        of.dtype = KVSIM__I8;
        of.operand = KVSIM__OPERAND_I8;
    } else if (strcmp(type, "f16") == 0) {
        of.dtype = KVSIM__F16;
        of.operand = KVSIM__OPERAND_F16;
    } else if (strcmp(type, "alike") == 0) {
        of.likeness = 0.97;
    }
    fixture at;
    fixture_open(&at, table, device, &of, false);
    const double n = at.elements, pages = of.slots, pairs = pages * (pages - 1) / 2;
    double seconds[REPEATS];
    printf("%u pages of %u elements, %s\n", of.slots, at.elements, type);
    fixture_pack(&at);
    at.packing.operand = of.operand;
    kvsim__device_panel whole = at.panel;
    at.panel.signs = at.panel.actives = NULL;
    at.panel.codes = NULL;
    for (int i = 0; i < REPEATS; i++) {
        const double start = now();
        fixture_pack(&at);
        fixture_need(&at, table->wait(device), "wait");
        seconds[i] = now() - start;
    }
    report("pack, products only", seconds, 2.0 * pages * (double)at.panel.row_bytes, "TB/s read and written");
    at.panel = whole;
    for (int i = 0; i < REPEATS; i++) {
        const double start = now();
        fixture_pack(&at);
        fixture_need(&at, table->wait(device), "wait");
        seconds[i] = now() - start;
    }
    report("pack, all", seconds,
           pages * (2.0 * (double)at.panel.row_bytes + 2.0 * (double)at.panel.bit_bytes + (double)at.panel.code_bytes),
           "TB/s read and written");
    time_compare(&at, "compare, fused", KVSIM__GRAM_FUSED, 2.0 * pairs * n);
    time_compare(&at, "compare, cuBLASLt", KVSIM__GRAM_BLAS, 2.0 * pairs * n);
    for (uint32_t what = 0; what < (of.slots > 40000 ? 2u : 3u); what++) {
        static const char *const names[] = {"signs", "active sets", "codes"};
        at.bits.what = what;
        for (int i = -1; i < REPEATS; i++) {
            const double start = now();
            fixture_need(&at, table->compare_bits(device, &at.bits), "bits");
            fixture_need(&at, table->wait(device), "wait");
            seconds[i < 0 ? 0 : i] = now() - start;
        }
        report(names[what], seconds, 2.0 * pairs * n, "T elements/s x 2");
    }
    fixture_close(&at);
    table->close(device);
    return 0;
}
