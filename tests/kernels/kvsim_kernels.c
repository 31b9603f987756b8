/*
 * Every entry of the kernel table against double-precision references: odd lengths, all alignments that are allowed,
 * memory that ends where the data ends, contents that cancel, vanish or are all alike. With --bench, how fast each is.
 * One program for both, as in dav1d's checkasm.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { STRIP = KVSIM__STRIP, PAGE = 4096, RUNS = 9 };

static int passed, failed;

static void check(bool good, const char *kernel, const char *contents, size_t n, double is, double expected) {
    if (good) {
        passed++;
    } else {
        failed++;
        printf("%s of %zu (%s): %.17g, not %.17g\n", kernel, n, contents, is, expected);
    }
}

/* SplitMix64 (S. Vigna, public domain). */
static uint64_t draw(void) {
    static uint64_t state = 1;
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_between(double low, double high) {
    return low + (high - low) * ((double)(draw() >> 11) * 0x1p-53);
}

/* Memory with a page that must not be touched on either side; the data lies at one side of it. */
typedef struct guarded {
    unsigned char *mapping;
    size_t mapping_bytes;
    void *data;
} guarded;

static guarded guard(size_t bytes, bool at_end) {
    const size_t inside = (bytes + PAGE - 1) / PAGE * PAGE + (bytes == 0 ? PAGE : 0);
    guarded out = {.mapping_bytes = inside + (size_t)2 * PAGE};
    out.mapping = mmap(NULL, out.mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (out.mapping == MAP_FAILED || mprotect(out.mapping, PAGE, PROT_NONE) != 0 ||
        mprotect(out.mapping + PAGE + inside, PAGE, PROT_NONE) != 0) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    out.data = out.mapping + PAGE + (at_end ? inside - bytes : 0);
    return out;
}

static void unguard(guarded memory) {
    (void)munmap(memory.mapping, memory.mapping_bytes);
}

/* ---- contents ---- */

static const char *const contents_names[] = {"random",         "all 1",      "1 and -1",  "cancelling",
                                             "tiny and large", "subnormals", "one large", "just below 1"};

enum { CONTENTS = sizeof contents_names / sizeof contents_names[0] };

/* Packed elements are at most 1 in magnitude. */
static float element(int contents, size_t k, size_t page) {
    switch (contents) {
    case 0:
        return (float)draw_between(-1.0, 1.0);
    case 1:
        return 1.0f;
    case 2:
        return (draw() & 1) != 0 ? 1.0f : -1.0f;
    case 3: /* terms of alternating sign that nearly sum to nothing */
        return (float)((k % 2 == 0 ? 1.0 : page % 2 == 0 ? -1.0 : 1.0) * draw_between(0.999, 1.0));
    case 4:
        return (float)(k % 3 == 0 ? draw_between(0.5, 1.0) : draw_between(-1e-7, 1e-7));
    case 5:
        return (float)draw_between(-1e-40, 1e-40);
    case 6:
        return k == page ? -1.0f : (float)draw_between(-1e-3, 1e-3);
    default:
        return 0x1.fffffep-1f * ((draw() & 3) != 0 ? 1.0f : -1.0f);
    }
}

static const size_t lengths[] = {0,   1,   2,   3,   7,   8,   9,    15,   16,   17,   23,   24,   25,   31,
                                 32,  33,  47,  48,  49,  63,  64,   65,   95,   96,   97,   127,  128,  129,
                                 191, 255, 256, 257, 511, 513, 1023, 1024, 1025, 2049, 4080, 4096, 4097, 16384};

enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

static float *fill_strip(float *strip, size_t n, int contents) {
    for (size_t i = 0; i < n * STRIP; i++) {
        strip[i] = element(contents, i / STRIP, i % STRIP);
    }
    return strip;
}

/* ---- floats ---- */

/* The bound that kernels.h states, and room for products below the smallest normal number. */
static double gram_bound(double magnitudes, size_t n) {
    return KVSIM__FP32_TERMS * 0x1p-24 * magnitudes + (double)n * 0x1p-149;
}

static double worst_share;

static void check_gram(const kvsim__kernels *kernels, size_t n, int contents, bool at_end, size_t stride) {
    const guarded left = guard(n * STRIP * sizeof(float), at_end), right = guard(n * STRIP * sizeof(float), at_end);
    const guarded out = guard(((STRIP - 1) * stride + STRIP) * sizeof(double), at_end);
    const float *a = fill_strip(left.data, n, contents), *b = fill_strip(right.data, n, contents);
    double *c = out.data;
    for (size_t i = 0; i < (STRIP - 1) * stride + STRIP; i++) {
        c[i] = -12345.0;
    }
    kernels->gram(a, b, n, c, stride);
    double worst = 0.0, worst_is = 0.0, worst_expected = 0.0;
    bool good = true;
    for (size_t i = 0; i < STRIP; i++) {
        for (size_t j = 0; j < stride && i * stride + j < (STRIP - 1) * stride + STRIP; j++) {
            if (j >= STRIP) {
                good = good && c[i * stride + j] == -12345.0; /* between the rows nothing is written */
                continue;
            }
            double sum = 0.0, magnitudes = 0.0;
            for (size_t k = 0; k < n; k++) {
                const double product = (double)a[k * STRIP + i] * (double)b[k * STRIP + j];
                sum += product;
                magnitudes += fabs(product);
            }
            const double bound = gram_bound(magnitudes, n), error = fabs(c[i * stride + j] - sum);
            good = good && error <= bound;
            if (n > 0 && error / bound > worst) {
                worst = error / bound;
                worst_is = c[i * stride + j];
                worst_expected = sum;
            }
        }
    }
    worst_share = worst > worst_share ? worst : worst_share;
    check(good, "gram", contents_names[contents], n, worst_is, worst_expected);
    unguard(left);
    unguard(right);
    unguard(out);
}

static void check_squared_difference(const kvsim__kernels *kernels, size_t n, int contents, size_t lane) {
    const guarded left = guard(n * STRIP * sizeof(float), true), right = guard(n * STRIP * sizeof(float), true);
    const float *a = fill_strip(left.data, n, contents), *b = fill_strip(right.data, n, contents);
    static const double scales[][2] = {{1.0, 1.0}, {0x1p100, 0x1p100}, {0x1p-140, 0x1p-139}, {4.0, 0.5}};
    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++) {
        long double sum = 0.0L;
        for (size_t k = 0; k < n; k++) {
            const long double difference = (long double)a[k * STRIP + lane] * scales[s][0] -
                                           (long double)b[k * STRIP + STRIP - 1 - lane] * scales[s][1];
            sum += difference * difference;
        }
        const double is = kernels->squared_difference(a + lane, scales[s][0], b + STRIP - 1 - lane, scales[s][1], n);
        /* One rounding for each of n additions at most, and three for a term. */
        check(fabs(is - (double)sum) <= ((double)n + 3.0) * 0x1p-53 * (double)sum, "squared_difference",
              contents_names[contents], n, is, (double)sum);
    }
    unguard(left);
    unguard(right);
}

/* ---- codes and bits ---- */

static const char *const pattern_names[] = {"random", "all equal", "all different", "last differs", "sparse"};

enum { PATTERNS = sizeof pattern_names / sizeof pattern_names[0] };

static void fill_bytes(unsigned char *a, unsigned char *b, size_t bytes, int pattern) {
    for (size_t i = 0; i < bytes; i++) {
        a[i] = (unsigned char)draw();
        b[i] = pattern == 0   ? (unsigned char)draw()
               : pattern == 2 ? (unsigned char)~a[i]
               : pattern == 4 ? (unsigned char)(a[i] ^ (draw() % 97 == 0 ? 0x80 : 0))
                              : a[i];
    }
    if (pattern == 3 && bytes > 0) {
        b[bytes - 1] ^= 0x40;
    }
}

static unsigned bits_of(unsigned char byte) {
    unsigned count = 0;
    for (; byte != 0; byte &= (unsigned char)(byte - 1)) {
        count++;
    }
    return count;
}

static void check_codes(const kvsim__kernels *kernels, size_t n, int pattern, size_t shift) {
    const guarded left = guard(n + shift, false), right = guard(n, true);
    unsigned char *a = (unsigned char *)left.data + shift, *b = right.data;
    fill_bytes(a, b, n, pattern);
    uint64_t expected = 0;
    for (size_t i = 0; i < n; i++) {
        expected += a[i] != b[i];
    }
    const uint64_t is = kernels->codes_differ((const int8_t *)a, (const int8_t *)b, n);
    check(is == expected, "codes_differ", pattern_names[pattern], n, (double)is, (double)expected);
    unguard(left);
    unguard(right);
}

static void check_bits(const kvsim__kernels *kernels, size_t n, int pattern, bool at_end) {
    const guarded left = guard(n * sizeof(uint64_t), at_end), right = guard(n * sizeof(uint64_t), !at_end);
    fill_bytes(left.data, right.data, n * sizeof(uint64_t), pattern);
    const unsigned char *a = left.data, *b = right.data;
    uint64_t differ = 0, common = 0;
    for (size_t i = 0; i < n * sizeof(uint64_t); i++) {
        differ += bits_of((unsigned char)(a[i] ^ b[i]));
        common += bits_of((unsigned char)(a[i] & b[i]));
    }
    const uint64_t is_different = kernels->bits_differ(left.data, right.data, n);
    const uint64_t is_common = kernels->bits_common(left.data, right.data, n);
    check(is_different == differ, "bits_differ", pattern_names[pattern], n, (double)is_different, (double)differ);
    check(is_common == common, "bits_common", pattern_names[pattern], n, (double)is_common, (double)common);
    unguard(left);
    unguard(right);
}

static void check_all(const kvsim__kernels *kernels) {
    for (size_t l = 0; l < LENGTHS; l++) {
        const size_t n = lengths[l];
        for (int contents = 0; contents < CONTENTS; contents++) {
            check_gram(kernels, n, contents, true, STRIP);
            check_gram(kernels, n, contents, false, STRIP + 3);
            check_squared_difference(kernels, n, contents, l % STRIP);
        }
        for (int pattern = 0; pattern < PATTERNS; pattern++) {
            check_codes(kernels, n, pattern, l % 64);
            check_bits(kernels, n / 8, pattern, l % 2 == 0);
        }
    }
    /* Every alignment of codes; more codes than a counter of a byte counts. */
    for (size_t shift = 0; shift < 64; shift++) {
        check_codes(kernels, 100 + shift, 0, shift);
        check_codes(kernels, 70000 + shift, 2, shift);
    }
}

/* ---- speed ---- */

static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int rising(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* Keeps results alive. */
static volatile double sink;

static void run_kernel(const kvsim__kernels *kernels, int which, const float *a, const float *b, size_t n) {
    double c[STRIP * STRIP];
    switch (which) {
    case 0:
        kernels->gram(a, b, n, c, STRIP);
        sink = c[63];
        break;
    case 1:
        sink = kernels->squared_difference(a, 1.0, b, 1.0, n);
        break;
    case 2:
        sink = (double)kernels->codes_differ((const int8_t *)a, (const int8_t *)b, n);
        break;
    case 3:
        sink =
            (double)kernels->bits_differ((const uint64_t *)(const void *)a, (const uint64_t *)(const void *)b, n / 64);
        break;
    default:
        sink =
            (double)kernels->bits_common((const uint64_t *)(const void *)a, (const uint64_t *)(const void *)b, n / 64);
        break;
    }
}

static void bench(const kvsim__kernels *kernels) {
    static const struct {
        const char *name, *unit;
        double work; /* for each element */
    } kinds[] = {{"gram", "GFLOP/s", 2.0 * STRIP * STRIP},
                 {"squared_difference", "GFLOP/s", 3.0},
                 {"codes_differ", "Gcodes/s", 1.0},
                 {"bits_differ", "Gbit/s", 1.0},
                 {"bits_common", "Gbit/s", 1.0}};
    static const size_t sizes[] = {512, 4096, 16384};
    printf("%-20s %8s %12s %12s %12s %s\n", "kernel", "elements", "median", "least", "most", "unit");
    for (int which = 0; which < 5; which++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            const size_t n = sizes[s];
            float *a = aligned_alloc(64, n * STRIP * sizeof(float)), *b = aligned_alloc(64, n * STRIP * sizeof(float));
            if (a == NULL || b == NULL) {
                perror("aligned_alloc");
                exit(EXIT_FAILURE);
            }
            (void)fill_strip(a, n, 0);
            (void)fill_strip(b, n, 0);
            double rates[RUNS];
            size_t calls = 1;
            for (int run = -1; run < RUNS; run++) {
                const double start = now();
                for (size_t i = 0; i < calls; i++) {
                    run_kernel(kernels, which, a, b, n);
                }
                const double seconds = now() - start;
                if (run < 0 && seconds < 0.02) { /* warm up until a run takes long enough to be timed */
                    calls *= 2;
                    run = -2;
                } else if (run >= 0) {
                    rates[run] = kinds[which].work * (double)n * (double)calls / seconds * 1e-9;
                }
            }
            qsort(rates, RUNS, sizeof rates[0], rising);
            printf("%-20s %8zu %12.2f %12.2f %12.2f %s\n", kinds[which].name, n, rates[RUNS / 2], rates[0],
                   rates[RUNS - 1], kinds[which].unit);
            free(a);
            free(b);
        }
    }
}

int main(int argc, char **argv) {
    const kvsim__kernels *kernels = kvsim__kernel_table();
    printf("table: %s\n", kernels->name);
    if (argc == 2 && strcmp(argv[1], "--bench") == 0) {
        bench(kernels);
        return EXIT_SUCCESS;
    }
    if (argc != 1) {
        fprintf(stderr, "usage: %s [--bench]\n", argv[0]);
        return 2;
    }
    check_all(kernels);
    printf("largest error of gram: %.3f of its bound\n", worst_share);
    printf("kernels: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed == 0 && passed > 1000 ? EXIT_SUCCESS : EXIT_FAILURE;
}
