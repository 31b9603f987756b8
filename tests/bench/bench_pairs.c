/*
 * How much processor time kvsim_compute takes: N pages of n elements, cosine only and all metrics, medians over runs;
 * beside it, in the same run and in turn, what a program without kvsim would do: OpenBLAS ssyrk, and a loop over the
 * matrix.
 *
 * usage: bench_pairs [PAGES [ELEMENTS [RUNS [THREADS]]]]
 */
#include <kvsim/kvsim.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef KVSIM_BENCH_OPENBLAS
#include <cblas.h>
extern void openblas_set_num_threads(int count);
extern char *openblas_get_corename(void);
#endif

enum { CHANNELS = 64, MAX_RUNS = 99 };

typedef struct bench {
    size_t pages, elements;
    uint32_t threads;
    float *data;
    float *gram; /* of the peer */
    double mean; /* of the last run, so that they can be compared */
} bench;

/* Processor time of all threads: what others do on the machine counts only as far as it takes cache and clock. */
static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "bench_pairs: %s\n", what);
    exit(EXIT_FAILURE);
}

static void fill(bench *job) {
    uint64_t state = 1;
    for (size_t i = 0; i < job->pages * job->elements; i++) {
        double sum = -2.0;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(state >> 40) * 0x1p-24;
        }
        job->data[i] = (float)sum;
    }
}

static double run_kvsim(bench *job, uint32_t metrics) {
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.threads = job->threads;
    options.backend = KVSIM_BACKEND_CPU;
    kvsim_ctx *ctx = NULL;
    const int64_t shape[4] = {(int64_t)job->pages, (int64_t)(job->elements / CHANNELS), 1, CHANNELS};
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.dtype_code = KVSIM_DTYPE_FLOAT;
    tensor.dtype_bits = 32;
    tensor.ndim = 4;
    tensor.shape = shape;
    tensor.data = job->data;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.tensor = &tensor;
    pages.flags = KVSIM_PAGES_BORROW;
    if (kvsim_ctx_create(&options, &ctx) != KVSIM_OK || kvsim_add_pages(ctx, &pages) != KVSIM_OK) {
        fail(kvsim_ctx_error(ctx));
    }
    kvsim_compute_options compute = KVSIM_COMPUTE_OPTIONS_INIT;
    compute.metrics = metrics;
    kvsim_result *result = NULL;
    const double start = now();
    if (kvsim_compute(ctx, &compute, &result) != KVSIM_OK) {
        fail(kvsim_ctx_error(ctx));
    }
    const double seconds = now() - start;
    kvsim_column column = KVSIM_COLUMN_INIT;
    if (kvsim_result_column(result, "groups", "cosine_mean", &column) != KVSIM_OK || column.rows != 1) {
        fail("no mean cosine");
    }
    job->mean = *(const double *)column.data;
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    return seconds;
}

#ifdef KVSIM_BENCH_OPENBLAS
/* The whole Gram matrix, then one pass over it: mean, page share at three thresholds, relative error. */
static double run_openblas(bench *job) {
    static const double thresholds[3] = {0.9, 0.95, 0.99};
    const size_t count = job->pages;
    const double start = now();
    openblas_set_num_threads((int)job->threads);
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)count, (int)job->elements, 1.0f, job->data,
                (int)job->elements, 0.0f, job->gram, (int)count);
    double sum = 0.0, errors = 0.0;
    size_t pairs_above[3] = {0};
    for (size_t i = 1; i < count; i++) {
        const float *row = job->gram + i * count;
        const double square = (double)row[i], norm = sqrt(square);
        for (size_t j = 0; j < i; j++) {
            const double other = (double)job->gram[j * count + j];
            const double cosine = (double)row[j] / (norm * sqrt(other));
            sum += cosine;
            errors += sqrt(fmax(0.0, square + other - 2.0 * (double)row[j])) / norm;
            for (int t = 0; t < 3; t++) {
                pairs_above[t] += cosine >= thresholds[t];
            }
        }
    }
    job->mean = sum / ((double)count * (double)(count - 1) / 2.0) + 0.0 * (errors + (double)pairs_above[0]);
    return now() - start;
}
#endif

static int rising(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

static void print_row(const bench *job, const char *name, double *seconds, int runs) {
    const double pairs = (double)job->pages * (double)(job->pages - 1) / 2.0;
    const double operations = pairs * 2.0 * (double)job->elements;
    qsort(seconds, (size_t)runs, sizeof seconds[0], rising);
    const double median = seconds[runs / 2];
    printf("%-24s %9.3f (%.3f .. %.3f) %12.3g %10.2f\n", name, median, seconds[0], seconds[runs - 1], pairs / median,
           operations / median * 1e-9);
}

static size_t read_number(int argc, char **argv, int index, size_t absent, size_t least, size_t most) {
    if (argc <= index) {
        return absent;
    }
    char *end;
    const unsigned long long value = strtoull(argv[index], &end, 10);
    if (*end != '\0' || value < least || value > most) {
        fprintf(stderr, "usage: bench_pairs [PAGES [ELEMENTS [RUNS [THREADS]]]], elements a multiple of %d\n",
                CHANNELS);
        exit(2);
    }
    return (size_t)value;
}

int main(int argc, char **argv) {
    bench job = {.pages = read_number(argc, argv, 1, 2000, 2, 100000),
                 .elements = read_number(argc, argv, 2, 16384, CHANNELS, 1 << 24)};
    const int runs = (int)read_number(argc, argv, 3, 5, 1, MAX_RUNS);
    job.threads = (uint32_t)read_number(argc, argv, 4, 1, 1, 256);
    job.elements -= job.elements % CHANNELS;
    job.data = malloc(job.pages * job.elements * sizeof(float));
    job.gram = malloc(job.pages * job.pages * sizeof(float));
    if (job.data == NULL || job.gram == NULL) {
        fail("out of memory");
    }
    fill(&job);
    printf("%zu pages of %zu f32 elements, %u thread(s), %d runs in turn; kvsim %s\n", job.pages, job.elements,
           job.threads, runs, kvsim_version_string());
    double cosine[MAX_RUNS], all[MAX_RUNS], mean = 0.0;
    for (int run = 0; run < runs; run++) {
        cosine[run] = run_kvsim(&job, KVSIM_METRIC_COSINE);
        mean = job.mean;
        all[run] = run_kvsim(&job, 0);
#ifdef KVSIM_BENCH_OPENBLAS
        static double peer[MAX_RUNS];
        peer[run] = run_openblas(&job);
        if (fabs(job.mean - mean) > 1e-5) {
            fail("OpenBLAS and kvsim disagree");
        }
        if (run == runs - 1) {
            printf("%-24s %9s (%s .. %s) %12s %10s\n", "", "CPU s", "least", "most", "pairs/CPU s", "GFLOP/s/core");
            char name[64];
            (void)snprintf(name, sizeof name, "OpenBLAS (%s) + loop", openblas_get_corename());
            print_row(&job, name, peer, runs);
        }
#endif
    }
    print_row(&job, "kvsim, cosine", cosine, runs);
    print_row(&job, "kvsim, all metrics", all, runs);
    printf("mean cosine %.9g\n", mean);
    free(job.gram);
    free(job.data);
    return EXIT_SUCCESS;
}
