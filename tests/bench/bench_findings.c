/*
 * What the findings cost: all views, all metrics, chance levels, bounds of a curve of 26 budgets, strata, ledger and
 * lossless coding, as multiples of one raw cosine pass over the same pages; and the memory above the pages.
 *
 * usage: bench_findings [BLOCKS [SEQUENCES [THREADS]]]
 *
 * Pages are bf16, key and value of 16 x 8 x 128 elements, with a common mean in the keys.
 */
#include <kvsim/kvsim.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 16, HEADS = 8, CHANNELS = 128, PAGE = TOKENS * HEADS * CHANNELS, BUDGETS = 26 };

static atomic_size_t taken, most_taken;

static void *allocate(void *user, size_t size, size_t alignment) {
    (void)user;
    const size_t now = atomic_fetch_add(&taken, size) + size;
    size_t most = atomic_load(&most_taken);
    while (now > most && !atomic_compare_exchange_weak(&most_taken, &most, now)) {
    }
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void release(void *user, void *memory, size_t size) {
    (void)user;
    atomic_fetch_sub(&taken, size);
    free(memory);
}

/* Processor time of all threads: what others do on the machine counts only as far as it takes cache and clock. */
static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void check(kvsim_ctx *ctx, kvsim_status status) {
    if (status != KVSIM_OK) {
        fprintf(stderr, "bench_findings: %s\n", kvsim_ctx_error(ctx));
        exit(EXIT_FAILURE);
    }
}

/* About normal, deviation 0.58. */
static double draw(uint64_t *state) {
    double sum = -2.0;
    for (int k = 0; k < 4; k++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) * 0x1p-24;
    }
    return sum;
}

static uint16_t *make_pages(int64_t blocks) {
    const size_t count = (size_t)blocks * 2 * PAGE;
    uint16_t *pages = malloc(count * sizeof *pages);
    float mean[HEADS * CHANNELS];
    uint64_t state = 1;
    for (size_t i = 0; i < HEADS * CHANNELS; i++) {
        mean[i] = (float)(1.5 * draw(&state));
    }
    for (size_t i = 0; i < count && pages != NULL; i++) {
        const float value = (float)draw(&state) + (i / PAGE % 2 == 0 ? mean[i % (HEADS * CHANNELS)] : 0.0f);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        pages[i] = (uint16_t)(bits >> 16);
    }
    return pages;
}

static void measure(kvsim_ctx *ctx, const char *name, const kvsim_compute_options *options, double *unit) {
    kvsim_result *result;
    const size_t before = atomic_load(&taken);
    atomic_store(&most_taken, before);
    const double start = now();
    check(ctx, kvsim_compute(ctx, options, &result));
    const double seconds = now() - start;
    *unit = *unit > 0.0 ? *unit : seconds;
    printf("%-28s %9.2f s %7.2f x %8.1f MiB\n", name, seconds, seconds / *unit,
           (double)(atomic_load(&most_taken) - before) / 1048576.0);
    (void)fflush(stdout);
    kvsim_result_destroy(result);
}

int main(int argc, char **argv) {
    const int64_t blocks = argc > 1 ? atoll(argv[1]) : 512, sequences = argc > 2 ? atoll(argv[2]) : 16;
    uint16_t *data = blocks > 0 && sequences > 0 ? make_pages(blocks) : NULL;
    int64_t *sequence = malloc((size_t)blocks * sizeof *sequence),
            *position = malloc((size_t)blocks * sizeof *position);
    if (data == NULL || sequence == NULL || position == NULL) {
        fprintf(stderr, "bench_findings: usage: bench_findings [BLOCKS [SEQUENCES [THREADS]]], or no memory\n");
        return EXIT_FAILURE;
    }
    for (int64_t i = 0; i < blocks; i++) {
        sequence[i] = i * sequences / blocks;
        position[i] = i > 0 && sequence[i] == sequence[i - 1] ? position[i - 1] + TOKENS : 0;
    }
    const kvsim_allocator allocator = {allocate, release, NULL};
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.allocator = &allocator;
    options.threads = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    kvsim_ctx *ctx;
    if (kvsim_ctx_create(&options, &ctx) != KVSIM_OK) {
        return EXIT_FAILURE;
    }
    const int64_t shape[] = {blocks, 2, TOKENS, HEADS, CHANNELS};
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.data = data, tensor.ndim = 5, tensor.shape = shape;
    tensor.dtype_code = KVSIM_DTYPE_BFLOAT, tensor.dtype_bits = 16;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.flags = KVSIM_PAGES_BORROW, pages.kind = KVSIM_KIND_BOTH, pages.layout = KVSIM_LAYOUT_B2NHD;
    pages.tensor = &tensor, pages.sequences = sequence, pages.positions = position;
    check(ctx, kvsim_add_pages(ctx, &pages));
    kvsim_rope rope = KVSIM_ROPE_INIT;
    rope.style = KVSIM_ROPE_HALF;
    check(ctx, kvsim_set_rope(ctx, &rope));

    double budgets[BUDGETS], unit = 0.0;
    for (int i = 0; i < BUDGETS; i++) {
        budgets[i] = 0.02 * i;
    }
    printf("%lld blocks of 2 x %d bf16 elements (%.1f MiB), processor time\n", (long long)blocks, PAGE,
           (double)blocks * 2 * PAGE * 2 / 1048576.0);
    kvsim_compute_options compute = KVSIM_COMPUTE_OPTIONS_INIT;
    compute.metrics = KVSIM_METRIC_COSINE;
    compute.top_k = KVSIM_TOP_NONE;
    measure(ctx, "raw cosine", &compute, &unit);
    compute = (kvsim_compute_options)KVSIM_COMPUTE_OPTIONS_INIT;
    measure(ctx, "raw, all metrics", &compute, &unit);
    compute.views = KVSIM_VIEW_RAW | KVSIM_VIEW_CENTERED | KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED;
    measure(ctx, "four views, all metrics", &compute, &unit);
    compute.flags = KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER;
    compute.budgets = budgets, compute.budget_count = BUDGETS;
    measure(ctx, "and all findings", &compute, &unit);
    kvsim_ctx_destroy(ctx);
    free(data);
    free(sequence);
    free(position);
    return EXIT_SUCCESS;
}
