/*
 * Do 95 % intervals contain the truth in 95 % of cases? By simulation: many sets of sequences whose pages share a
 * common mean and an effect of their own sequence. The truth is the mean over many other sets of the same kind. Too
 * slow for the tests that run by default; run it by name.
 *
 * usage: coverage [SEQUENCES [SETS [OTHER_SETS [SEED [THRESHOLD]]]]]     (24, 1,000, 8,000, 1 and 0.4)
 *
 * The last line is `coverage: N passed, N failed, N skipped`, one for each statistic; it passes between 93 and 97 %.
 */
#include <kvsim/kvsim.h>

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 24, FEWEST = 6, MOST = 19, MOST_SEQUENCES = 512, STATISTICS = 3 };

static double threshold = 0.4;

/* One set as it is handed to the library. */
static float elements[MOST_SEQUENCES * MOST * D];
static int64_t ids[MOST_SEQUENCES * MOST], sequences[MOST_SEQUENCES * MOST], positions[MOST_SEQUENCES * MOST];

static void require(bool good, const char *what) {
    if (!good) {
        (void)fprintf(stderr, "coverage: %s\n", what);
        exit(EXIT_FAILURE);
    }
}

/* SplitMix64 (S. Vigna, public domain). */
static uint64_t draw(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_normal(uint64_t *state) {
    const double u = ((double)(draw(state) >> 11) + 0.5) * 0x1p-53, v = (double)(draw(state) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* Draw a set; its number of pages. */
static int64_t draw_set(uint64_t *state, int64_t count) {
    int64_t page = 0;
    for (int64_t s = 0; s < count; s++) {
        double effect[D];
        /* Some sequences keep to their subject, some wander. */
        const double strength = 0.4 + 0.8 * (double)(draw(state) >> 11) * 0x1p-53;
        for (int d = 0; d < D; d++) {
            effect[d] = strength * draw_normal(state);
        }
        const int64_t pages = FEWEST + (int64_t)(draw(state) % (MOST - FEWEST + 1));
        for (int64_t i = 0; i < pages; i++, page++) {
            ids[page] = page;
            sequences[page] = s;
            positions[page] = i;
            for (int d = 0; d < D; d++) {
                elements[page * D + d] = (float)((d == 0 ? 3.0 : 0.0) + effect[d] + draw_normal(state));
            }
        }
    }
    return page;
}

static double read_real(const kvsim_result *result, const char *table, const char *name, int64_t row) {
    kvsim_column column = KVSIM_COLUMN_INIT;
    require(kvsim_result_column(result, table, name, &column) == KVSIM_OK && row < column.rows, name);
    return ((const double *)column.data)[row];
}

/* Mean cosine, pair share and page share of one set; with `low` not NULL their intervals too. */
static void measure(kvsim_ctx *ctx, uint64_t *state, int64_t count, double figures[STATISTICS], double low[STATISTICS],
                    double high[STATISTICS]) {
    const int64_t pages_drawn = draw_set(state, count);
    const int64_t shape[4] = {pages_drawn, 1, 1, D};
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.dtype_code = KVSIM_DTYPE_FLOAT;
    tensor.dtype_bits = 32;
    tensor.ndim = 4;
    tensor.data = elements;
    tensor.shape = shape;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.flags = KVSIM_PAGES_BORROW;
    pages.kind = KVSIM_KIND_VALUE;
    pages.tensor = &tensor;
    pages.page_count = pages_drawn;
    pages.block_ids = ids;
    pages.sequences = sequences;
    pages.positions = positions;
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.metrics = KVSIM_METRIC_COSINE;
    options.pairs = KVSIM_PAIRS_DIFFERENT_SEQUENCES;
    options.top_k = KVSIM_TOP_NONE;
    options.thresholds = &threshold;
    options.threshold_count = 1;
    options.flags = low != NULL ? KVSIM_COMPUTE_CHANCE : 0;
    options.null_repetitions = 1;
    options.seed = *state | 1;
    kvsim_result *result = NULL;
    kvsim_ctx_clear(ctx);
    require(kvsim_add_pages(ctx, &pages) == KVSIM_OK && kvsim_compute(ctx, &options, &result) == KVSIM_OK,
            kvsim_ctx_error(ctx));
    figures[0] = read_real(result, "groups", "cosine_mean", 0);
    figures[1] = read_real(result, "thresholds", "pair_share", 0);
    figures[2] = read_real(result, "thresholds", "page_share", 0);
    for (int i = 0; i < STATISTICS && low != NULL; i++) {
        low[i] = read_real(result, "statistics", "low", i); /* rows in this order */
        high[i] = read_real(result, "statistics", "high", i);
    }
    kvsim_result_destroy(result);
}

static uint64_t number(int argc, char **argv, int index, uint64_t otherwise) {
    return argc > index ? strtoull(argv[index], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    static const char *const names[STATISTICS] = {"mean cosine", "pair share", "page share"};
    const int64_t count = (int64_t)number(argc, argv, 1, 24);
    const uint64_t sets = number(argc, argv, 2, 1000), others = number(argc, argv, 3, 8000);
    uint64_t state = number(argc, argv, 4, 1) << 32;
    threshold = argc > 5 ? strtod(argv[5], NULL) : threshold;
    require(count >= 5 && count <= MOST_SEQUENCES && sets > 0 && others > 0, "5 to 512 sequences, and some sets");
    kvsim_ctx *ctx = NULL;
    require(kvsim_ctx_create(NULL, &ctx) == KVSIM_OK, "no context");
    double truth[STATISTICS] = {0}, figures[STATISTICS], low[STATISTICS], high[STATISTICS];
    for (uint64_t set = 0; set < others; set++) {
        measure(ctx, &state, count, figures, NULL, NULL);
        for (int i = 0; i < STATISTICS; i++) {
            truth[i] += figures[i] / (double)others;
        }
    }
    uint64_t inside[STATISTICS] = {0}, below[STATISTICS] = {0};
    double width[STATISTICS] = {0};
    for (uint64_t set = 0; set < sets; set++) {
        measure(ctx, &state, count, figures, low, high);
        for (int i = 0; i < STATISTICS; i++) {
            inside[i] += low[i] <= truth[i] && truth[i] <= high[i];
            below[i] += high[i] < truth[i];
            width[i] += (high[i] - low[i]) / (double)sets;
        }
    }
    int passed = 0;
    for (int i = 0; i < STATISTICS; i++) {
        const double share = (double)inside[i] / (double)sets;
        printf("%lld sequences, %llu sets: %s: truth %.4f, mean width %.4f, inside %.3f, below %.3f, above %.3f\n",
               (long long)count, (unsigned long long)sets, names[i], truth[i], width[i], share,
               (double)below[i] / (double)sets, 1.0 - share - (double)below[i] / (double)sets);
        passed += share >= 0.93 && share <= 0.97;
    }
    kvsim_ctx_destroy(ctx);
    printf("coverage: %d passed, %d failed, 0 skipped\n", passed, STATISTICS - passed);
    return passed == STATISTICS ? EXIT_SUCCESS : EXIT_FAILURE;
}
