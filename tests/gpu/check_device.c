/*
 * Every operation of the CUDA backend against double precision on the host, on fresh random pages. Not forked: a CUDA
 * context does not survive that. Exit status 77 without a device.
 */
#include "device_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const kvsim__backend *kvsim_backend_query(uint32_t version);

static int passed, failed;

static void expect(bool good, const char *name, const char *what, double got, double wanted) {
    if (!good) {
        printf("  FAILED %s: %s: %.10g, expected %.10g\n", name, what, got, wanted);
        failed++;
    } else {
        passed++;
    }
}

/* Figures of all pairs, in double. */
typedef struct pair_truth {
    double *cosine, *distance; /* [pairs] i (i - 1) / 2 + j; distance / largest norm */
    double *norm;
    uint64_t pairs, reached[3];
    double cosine_sum, distance_sum, error_sum;
} pair_truth;

static void find_truth(const fixture *at, pair_truth *out) {
    const uint32_t slots = at->of.slots, n = at->elements;
    memset(out, 0, sizeof *out);
    out->cosine = malloc((size_t)slots * slots / 2 * sizeof(double));
    out->distance = malloc((size_t)slots * slots / 2 * sizeof(double));
    out->norm = malloc(slots * sizeof(double));
    for (uint32_t i = 0; i < slots; i++) {
        const double *x = at->values + (size_t)i * n;
        double squares = 0.0;
        for (uint32_t k = 0; k < n; k++) {
            squares += x[k] * x[k];
        }
        out->norm[i] = sqrt(squares);
    }
    for (uint32_t i = 0; i < slots; i++) {
        for (uint32_t j = 0; j < i; j++) {
            const double *x = at->values + (size_t)i * n, *y = at->values + (size_t)j * n;
            double dot = 0.0, difference = 0.0;
            for (uint32_t k = 0; k < n; k++) {
                dot += x[k] * y[k];
            }
            const double square = out->norm[i] * out->norm[i] + out->norm[j] * out->norm[j] - 2.0 * dot;
            if (square < 0.01 * out->norm[i] * out->norm[i]) {
                for (uint32_t k = 0; k < n; k++) {
                    difference += (x[k] - y[k]) * (x[k] - y[k]);
                }
            } else {
                difference = square;
            }
            const size_t cell = (size_t)i * (i - 1) / 2 + j;
            out->cosine[cell] = difference == 0.0 ? 1.0 : dot / (out->norm[i] * out->norm[j]);
            out->distance[cell] = sqrt(difference) / at->largest_norm;
            if (at->of.filter && i / 7 == j / 7) {
                continue;
            }
            out->pairs++;
            out->cosine_sum += out->cosine[cell];
            out->distance_sum += out->distance[cell];
            out->error_sum += sqrt(difference) / out->norm[i];
            for (int t = 0; t < 3; t++) {
                out->reached[t] += out->cosine[cell] >= at->compare.host_rules.exact_thresholds[t];
            }
        }
    }
}

static void check_pairs(const fixture *at, const char *name, const pair_truth *truth, const kvsim__device_pair *near,
                        uint32_t count, double bound) {
    double worst_cosine = 0.0, bias = 0.0, worst_distance = 0.0;
    for (uint32_t i = 0; i < count; i++) {
        const size_t cell = (size_t)near[i].later * (near[i].later - 1) / 2 + near[i].earlier;
        const double off = near[i].cosine - truth->cosine[cell];
        worst_cosine = fabs(off) > worst_cosine ? fabs(off) : worst_cosine;
        bias += off;
        const double apart = fabs(near[i].distance - truth->distance[cell]) * truth->distance[cell];
        worst_distance = apart > worst_distance ? apart : worst_distance;
    }
    printf("  %-46s %8u listed, cosine off by at most %.2e, mean %+.2e\n", name, count, worst_cosine,
           count > 0 ? bias / count : 0.0);
    expect(worst_cosine <= bound, name, "largest error of a cosine", worst_cosine, bound);
    expect(worst_distance <= 2.0 * bound, name, "largest error of d times d", worst_distance, 2.0 * bound);
    (void)at;
}

static void check_figures(fixture *at, const char *name, const pair_truth *truth, double bound) {
    kvsim__device_figures got;
    uint32_t doubtful = 0, listed = 0;
    fixture_need(at, at->table->download(at->device, &doubtful, at->compare.doubtful.count, sizeof doubtful), "count");
    if (doubtful > at->compare.doubtful.capacity) {
        expect(false, name, "pairs in doubt", doubtful, at->compare.doubtful.capacity);
        return;
    }
    fixture_need(at, at->table->resolve(at->device, &at->group, at->largest_norm, &at->compare, doubtful), "resolve");
    fixture_need(at, at->table->download(at->device, &got, at->compare.figures, sizeof got), "figures");
    fixture_need(at, at->table->download(at->device, &listed, at->compare.near.count, sizeof listed), "count");
    uint64_t total = 0;
    for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
        total += got.histograms[0][bin];
    }
    expect(got.pairs == truth->pairs, name, "pairs", (double)got.pairs, (double)truth->pairs);
    expect(total == truth->pairs, name, "pairs in the histogram", (double)total, (double)truth->pairs);
    for (int t = 0; t < 3; t++) {
        expect(got.threshold_pairs[t] == truth->reached[t], name, "pairs at a threshold",
               (double)got.threshold_pairs[t], (double)truth->reached[t]);
    }
    const double pairs = (double)truth->pairs;
    const double mean = (double)got.cosine_units / 0x1p28 / pairs;
    expect(fabs(mean - truth->cosine_sum / pairs) <= bound, name, "mean cosine", mean, truth->cosine_sum / pairs);
    const double distance = (double)got.distance_units / 0x1p30 / pairs;
    expect(fabs(distance - truth->distance_sum / pairs) <= 1e-4, name, "mean distance", distance,
           truth->distance_sum / pairs);
    const double error = (double)got.relative_units[0] / 0x1p20 / pairs;
    expect(fabs(error - truth->error_sum / pairs) <= 1e-4, name, "mean relative error", error,
           truth->error_sum / pairs);
    if (at->of.all_near && listed <= at->compare.near.capacity) {
        kvsim__device_pair *near = malloc((listed + 1) * sizeof *near);
        fixture_need(at, at->table->download(at->device, near, at->compare.near.items, listed * sizeof *near), "near");
        check_pairs(at, name, truth, near, listed, bound);
        free(near);
    }
}

static void check_best(fixture *at, const char *name, const pair_truth *truth, double bound) {
    uint64_t *best = malloc(at->of.slots * sizeof *best);
    double worst = 0.0;
    fixture_need(at, at->table->download(at->device, best, at->compare.best, at->of.slots * sizeof *best), "best");
    for (uint32_t i = at->of.filter ? 7 : 1; i < at->of.slots; i++) {
        double wanted = -2.0;
        for (uint32_t j = 0; j < i; j++) {
            const double cosine = truth->cosine[(size_t)i * (i - 1) / 2 + j];
            wanted = !(at->of.filter && i / 7 == j / 7) && cosine > wanted ? cosine : wanted;
        }
        const double off = fabs((double)kvsim__key_float((uint32_t)(best[i] >> 32)) - wanted);
        worst = off > worst ? off : worst;
    }
    expect(worst <= bound, name, "best match", worst, bound);
    free(best);
}

/* Bits and codes against the pages themselves. */
static void check_bits(fixture *at, const char *name, uint32_t path) {
    const uint32_t slots = at->of.slots, n = at->elements;
    double *most = calloc((size_t)at->of.heads, sizeof *most), *tau = calloc((size_t)at->of.heads, sizeof *tau);
    fixture_need(at, at->table->download(at->device, most, at->packing.absmax, (size_t)at->of.heads * sizeof *most),
                 "");
    fixture_need(at, at->table->download(at->device, tau, at->packing.tau, (size_t)at->of.heads * sizeof *tau), "");
    unsigned char *kinds[3];
    for (int what = 0; what < 3; what++) {
        kinds[what] = malloc((size_t)slots * n);
    }
    for (size_t i = 0; i < (size_t)slots * n; i++) {
        const uint32_t head = (uint32_t)(i % n) / (uint32_t)at->of.head_dim % (uint32_t)at->of.heads;
        const double value = at->values[i];
        kinds[0][i] = value < 0.0;
        kinds[1][i] = fabs(value) > tau[head];
        kinds[2][i] = (unsigned char)(signed char)rint(value / (most[head] / 127.0));
    }
    for (uint32_t what = 0; what < 3; what++) {
        uint64_t differ = 0, either = 0, pairs = 0, binned = 0;
        double jaccard = 0.0;
        for (uint32_t i = 0; i < slots; i++) {
            for (uint32_t j = 0; j < i; j++) {
                const unsigned char *x = kinds[what] + (size_t)i * n, *y = kinds[what] + (size_t)j * n;
                uint32_t apart = 0, both = 0, any = 0;
                if (at->of.filter && i / 7 == j / 7) {
                    continue;
                }
                for (uint32_t k = 0; k < n; k++) {
                    apart += x[k] != y[k];
                    both += x[k] & y[k];
                    any += x[k] | y[k];
                }
                pairs++;
                differ += apart;
                either += any;
                jaccard += any > 0 ? (double)both / any : 1.0;
            }
        }
        kvsim__device_bit_figures got;
        fixture_clear(at);
        at->bits.what = what;
        at->bits.path = path;
        fixture_need(at, at->table->compare_bits(at->device, &at->bits), "compare_bits");
        fixture_need(at, at->table->download(at->device, &got, at->bits.figures, sizeof got), "figures");
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            binned += got.histogram[bin];
        }
        expect(binned == pairs, name, "pairs of bits", (double)binned, (double)pairs);
        if (what == KVSIM__BITS_ACTIVE) {
            expect(got.union_elements == either, name, "union", (double)got.union_elements, (double)either);
            expect(fabs((double)got.jaccard_units / 0x1p30 - jaccard) <= 1e-6 * (double)pairs, name, "Jaccard",
                   (double)got.jaccard_units / 0x1p30, jaccard);
        } else {
            const double allowed = what == KVSIM__BITS_CODES ? 1e-4 * (double)pairs * n : 0.0;
            expect(fabs((double)got.differ - (double)differ) <= allowed, name, what == 0 ? "signs" : "codes",
                   (double)got.differ, (double)differ);
        }
    }
    for (int what = 0; what < 3; what++) {
        free(kinds[what]);
    }
    free(most);
    free(tau);
}

static void check_case(const kvsim__backend *table, kvsim__device *device, const char *name, const fixture_case *of,
                       double bound) {
    static const struct {
        uint32_t path;
        const char *name;
        double looser;
    } paths[] = {
        {KVSIM__GRAM_SIMPLE, "simple", 0.0}, {KVSIM__GRAM_BLAS, "cuBLASLt", 1.6e-5}, {KVSIM__GRAM_FUSED, "fused", 0.0}};
    fixture at;
    pair_truth truth;
    fixture_open(&at, table, device, of, true);
    find_truth(&at, &truth);
    fixture_pack(&at);
    for (size_t p = 0; p < sizeof paths / sizeof paths[0]; p++) {
        char full[128];
        (void)snprintf(full, sizeof full, "%s, %s", name, paths[p].name);
        fixture_clear(&at);
        at.compare.path = paths[p].path;
        const int32_t status = table->compare(device, &at.compare);
        if (status == KVSIM_E_UNSUPPORTED) {
            printf("  %s: %s\n", full, table->error(device));
            continue;
        }
        fixture_need(&at, status, full);
        check_figures(&at, full, &truth, bound + paths[p].looser);
        check_best(&at, full, &truth, bound + paths[p].looser);
    }
    if (of->slots <= 400) {
        check_bits(&at, name, KVSIM__GRAM_BEST);
        check_bits(&at, name, KVSIM__GRAM_SIMPLE);
    }
    free(truth.cosine);
    free(truth.distance);
    free(truth.norm);
    fixture_close(&at);
}

/* All kinds of pages, or few and small ones. */
static void check_cases(const kvsim__backend *table, kvsim__device *device, bool few, uint64_t seed) {
    const fixture_case base = {.slots = few ? 60 : 333,
                               .tokens = few ? 4 : 16,
                               .heads = 2,
                               .head_dim = 64,
                               .dtype = KVSIM__BF16,
                               .operand = KVSIM__OPERAND_BF16,
                               .likeness = 0.7,
                               .duplicates = 20,
                               .seed = seed,
                               .all_near = true,
                               .list_capacity = 1 << 20};
    const int32_t heads = few ? 2 : 8, head_dim = few ? 64 : 128;
    fixture_case of = base;
    check_case(table, device, "bf16", &of, 2e-6);
    of.padded = true;
    of.filter = 1;
    of.seed++;
    check_case(table, device, "bf16, padded, other sequences", &of, 2e-6);
    of = base;
    of.slots = few ? 60 : 450;
    of.heads = heads;
    of.head_dim = head_dim;
    of.likeness = 0.98;
    of.seed += 2;
    check_case(table, device, "bf16, long, alike", &of, 2e-6);
    of.likeness = 0.0;
    check_case(table, device, "bf16, long, unlike", &of, 2e-6);
    of = base;
    of.dtype = KVSIM__F16;
    of.operand = KVSIM__OPERAND_F16;
    of.likeness = 0.97;
    check_case(table, device, "f16", &of, 2e-6);
    of.operand = KVSIM__OPERAND_SPLIT;
    of.rotate = true;
    check_case(table, device, "f16, de-rotated", &of, 2e-6);
    of.centre = true;
    check_case(table, device, "f16, de-rotated, centred", &of, 2e-6);
    of = base;
    of.dtype = KVSIM__F32;
    of.operand = KVSIM__OPERAND_SPLIT;
    of.heads = heads;
    of.head_dim = head_dim;
    check_case(table, device, "f32, long", &of, 2e-6);
    of.dtype = KVSIM__F8_E4M3FN;
    of.operand = KVSIM__OPERAND_E4M3;
    check_case(table, device, "e4m3, long", &of, 2e-4);
    of.dtype = KVSIM__F8_E5M2;
    of.operand = KVSIM__OPERAND_E5M2;
    check_case(table, device, "e5m2, long", &of, 2e-4);
    of.dtype = KVSIM__I8;
    of.operand = KVSIM__OPERAND_I8;
    check_case(table, device, "i8, long", &of, 2e-6);
    of = base;
    of.slots = 2;
    of.duplicates = 0;
    of.tokens = 1;
    of.heads = 1;
    of.head_dim = 8;
    check_case(table, device, "two pages of 8 elements", &of, 2e-6);
    of.slots = 257;
    of.head_dim = 40;
    of.heads = 3;
    of.tokens = 5;
    of.bounds = 1;
    check_case(table, device, "257 pages of 600 elements, bounds", &of, 2e-6);
}

/* With an argument only few and small cases run, for tools that slow a program down. */
int main(int argc, char **argv) {
    char reason[256];
    const kvsim__backend *table = kvsim_backend_query(KVSIM__BACKEND_VERSION);
    const kvsim__device_options options = {0};
    kvsim__device *device;
    if (table->open(&options, &device, reason, sizeof reason) != KVSIM_OK) {
        printf("no device: %s\ncheck_device: 0 passed, 0 failed, 1 skipped\n", reason);
        return 77;
    }
    kvsim__device_facts facts;
    table->describe(device, &facts);
    const uint64_t seed = (uint64_t)time(NULL);
    printf("%s, sm_%u, seed %llu\n", facts.name, facts.architecture, (unsigned long long)seed);
    (void)argv;
    check_cases(table, device, argc > 1, seed);
    table->close(device);
    printf("check_device: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed == 0 && passed >= (argc > 1 ? 100 : 500) ? 0 : 1;
}
