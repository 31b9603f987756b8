#include "tile.h"

#include "top.h"

#include <math.h>
#include <string.h>

/* Below this share of |x|^2 + |y|^2 a squared distance is summed from differences: the Gram would cancel. */
#define DIRECT_SHARE 0x1p-8

enum { TILE = KVSIM__TILE };

/* The tile's share of what is gathered for one kind, before it is merged. */
typedef struct gathered {
    kvsim__tile_sums sums;
    uint64_t pairs, relative_infinite, codes_differ, signs_differ, union_elements;
    double cosine_min, cosine_max;
    double smallest_error;
    uint32_t histograms[KVSIM__HISTOGRAMS][KVSIM_HISTOGRAM_BINS];
    uint32_t threshold_pairs[KVSIM_MAX_LEVELS];
    uint64_t threshold_bits[TILE];
    double best_cosine[TILE];
    uint32_t best_slot[TILE];
} gathered;

/* One kind of one tile while it is worked on. */
typedef struct working {
    const kvsim__tile_job *job;
    const kvsim__group *group;
    int kind;
    size_t row, row_count, column, column_count; /* inside the panels */
    bool diagonal;
    uint64_t looked_at;          /* pairs, whether the filter lets them pass or not */
    double cosines[TILE * TILE]; /* -2 where a pair does not count */
    double *errors;              /* [TILE, TILE] INFINITY where a pair does not count */
    gathered out;
    void *scratch; /* of two rows, for re-scoring; taken when first needed */
} working;

static uint32_t bin_of(double value, double low, double high) {
    if (high <= low) {
        return 0; /* all pages are zero */
    }
    const double at = (value - low) / (high - low) * KVSIM_HISTOGRAM_BINS;
    return at < 0.0 ? 0 : at >= KVSIM_HISTOGRAM_BINS ? KVSIM_HISTOGRAM_BINS - 1 : (uint32_t)at;
}

static bool is_pair(const working *at, size_t later, size_t earlier) {
    return later > earlier && at->group->pages[later] != KVSIM__NONE && at->group->pages[earlier] != KVSIM__NONE;
}

static bool passes_filter(const working *at, size_t later, size_t earlier) {
    const int64_t *sequences = at->job->pairing->sequences;
    return sequences == NULL || sequences[later] != sequences[earlier];
}

/* Is the cosine too near to a threshold, or the error too near to a budget, for the packed arithmetic to decide? */
static bool undecided(const kvsim__plan *plan, double cosine, double error, double norm_ratio, bool direct) {
    for (uint32_t i = 0; i < plan->threshold_count; i++) {
        if (fabs(cosine - plan->thresholds[i]) <= KVSIM__COSINE_BOUND) {
            return true;
        }
    }
    if (error > plan->budgets[plan->budget_count - 1] + 0.01) {
        return false;
    }
    /* From differences, e is off by the rounding of both packed pages; from the Gram, e^2 by twice the cosine's bound
       (and the norms' part in it, which is far smaller). */
    const double rounding = 0x1p-23 * (1.0 + norm_ratio);
    for (uint32_t i = 0; i < plan->budget_count; i++) {
        const double budget = plan->budgets[i];
        if (direct ? fabs(error - budget) <= rounding
                   : fabs(error * error - budget * budget) <= 2.5 * KVSIM__COSINE_BOUND * norm_ratio) {
            return true;
        }
    }
    return false;
}

static bool rescore(working *at, size_t later, size_t earlier, kvsim__exact *exact) {
    kvsim__base *base = at->job->pairing->base;
    const size_t bytes = kvsim__scratch_size(at->group);
    if (at->scratch == NULL) {
        at->scratch = kvsim__allocate(base, 2, bytes);
        if (at->scratch == NULL) {
            atomic_store(&at->job->pairing->progress->out_of_memory, true);
            atomic_store(&at->job->pairing->progress->stop, true);
            return false;
        }
    }
    kvsim__scratch a = kvsim__scratch_at(at->group, at->scratch);
    kvsim__scratch b = kvsim__scratch_at(at->group, (unsigned char *)at->scratch + bytes);
    *exact = kvsim__rescore(at->group, later, earlier, &a, &b);
    return true;
}

static void gather_cosine(working *at, size_t i, size_t earlier, double cosine) {
    const kvsim__plan *plan = at->job->pairing->plan;
    gathered *out = &at->out;
    out->sums.cosine += cosine;
    out->cosine_min = cosine < out->cosine_min ? cosine : out->cosine_min;
    out->cosine_max = cosine > out->cosine_max ? cosine : out->cosine_max;
    out->histograms[KVSIM__HISTOGRAM_COSINE][bin_of(cosine, -1.0, 1.0)]++;
    for (uint32_t t = 0; t < plan->threshold_count && cosine >= plan->thresholds[t]; t++) {
        out->threshold_pairs[t]++;
        out->threshold_bits[i] |= (uint64_t)1 << t;
    }
    if (cosine > out->best_cosine[i] || (cosine == out->best_cosine[i] && earlier < out->best_slot[i])) {
        out->best_cosine[i] = cosine;
        out->best_slot[i] = (uint32_t)earlier;
    }
}

static void gather_distance(working *at, double distance, double error) {
    gathered *out = &at->out;
    out->sums.l2 += distance;
    out->histograms[KVSIM__HISTOGRAM_L2][bin_of(distance, 0.0, 2.0 * at->group->largest_norm)]++;
    out->histograms[KVSIM__HISTOGRAM_RELATIVE][bin_of(error, 0.0, 2.0)]++;
    if (isinf(error)) {
        out->relative_infinite++;
    } else {
        out->sums.relative += error;
    }
}

static void gather_codes(working *at, size_t i, size_t j) {
    const kvsim__kernels *kernels = at->job->kernels;
    const kvsim__packed *rows = &at->job->rows->kinds[at->kind], *columns = &at->job->columns->kinds[at->kind];
    const size_t n = at->group->elements;
    gathered *out = &at->out;
    if (rows->codes != NULL) {
        const uint64_t codes =
            kernels->codes_differ(rows->codes + i * rows->code_stride, columns->codes + j * columns->code_stride, n);
        const uint64_t signs =
            kernels->bits_differ(rows->signs + i * rows->words, columns->signs + j * columns->words, rows->words);
        out->codes_differ += codes;
        out->signs_differ += signs;
        out->histograms[KVSIM__HISTOGRAM_HAMMING][bin_of((double)codes, 0.0, (double)n)]++;
        out->histograms[KVSIM__HISTOGRAM_SIGN][bin_of((double)signs, 0.0, (double)n)]++;
    }
    if (rows->actives != NULL) {
        const uint64_t common =
            kernels->bits_common(rows->actives + i * rows->words, columns->actives + j * columns->words, rows->words);
        const uint64_t all = (uint64_t)rows->active_count[i] + columns->active_count[j] - common;
        const double jaccard = all > 0 ? (double)common / (double)all : 1.0;
        out->sums.jaccard += jaccard;
        out->union_elements += all;
        out->histograms[KVSIM__HISTOGRAM_JACCARD][bin_of(jaccard, 0.0, 1.0)]++;
    }
}

/* All figures of the pair of row i and column j of the panels, whose packed dot product is known. */
static void gather_pair(working *at, size_t i, size_t j, double packed_dot) {
    const kvsim__tile_job *job = at->job;
    const kvsim__packed *rows = &job->rows->kinds[at->kind], *columns = &job->columns->kinds[at->kind];
    const double x = rows->norm[i], y = columns->norm[j];
    const double squares = x * x + y * y;
    double dot = packed_dot * rows->scale[i] * columns->scale[j];
    double squared_distance = squares - 2.0 * dot;
    const bool direct = squared_distance < DIRECT_SHARE * squares;
    if (direct) {
        const float *left = kvsim__strip(job->pairing, job->rows, at->kind, i) + i % KVSIM__STRIP;
        const float *right = kvsim__strip(job->pairing, job->columns, at->kind, j) + j % KVSIM__STRIP;
        squared_distance =
            job->kernels->squared_difference(left, rows->scale[i], right, columns->scale[j], at->group->elements);
        dot = 0.5 * (squares - squared_distance);
    }
    double cosine = squares == 0.0 ? 1.0 : x == 0.0 || y == 0.0 ? 0.0 : dot / (x * y);
    cosine = cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
    double distance = sqrt(squared_distance > 0.0 ? squared_distance : 0.0);
    double error = x > 0.0 ? distance / x : distance == 0.0 ? 0.0 : INFINITY;
    const size_t later = job->rows->first + i, earlier = job->columns->first + j;
    kvsim__exact exact;
    if (x > 0.0 && y > 0.0 && undecided(job->pairing->plan, cosine, error, y / x, direct) &&
        rescore(at, later, earlier, &exact)) {
        cosine = exact.cosine;
        distance = sqrt(exact.squared_distance);
        error = distance / sqrt(exact.later_squares);
    }
    const size_t cell = (i - at->row) * TILE + (j - at->column);
    at->cosines[cell] = cosine;
    at->errors[cell] = error;
    at->out.pairs++;
    at->out.smallest_error = error < at->out.smallest_error ? error : at->out.smallest_error;
    gather_cosine(at, i - at->row, earlier, cosine);
    gather_distance(at, distance, error);
    gather_codes(at, i, j);
}

static void compute_kind(working *at) {
    const kvsim__tile_job *job = at->job;
    const size_t n = at->group->elements;
    double gram[KVSIM__STRIP * KVSIM__STRIP];
    memset(&at->out, 0, sizeof at->out);
    at->out.cosine_min = at->out.smallest_error = INFINITY;
    at->out.cosine_max = -INFINITY;
    for (size_t i = 0; i < TILE; i++) {
        at->out.best_cosine[i] = -INFINITY;
        at->out.best_slot[i] = KVSIM__NONE;
    }
    for (size_t cell = 0; cell < TILE * TILE; cell++) {
        at->cosines[cell] = -2.0;
        at->errors[cell] = INFINITY;
    }
    for (size_t i = at->row; i < at->row + at->row_count; i += KVSIM__STRIP) {
        for (size_t j = at->column; j < at->column + at->column_count; j += KVSIM__STRIP) {
            if (at->diagonal && j > i) {
                break;
            }
            job->kernels->gram(kvsim__strip(job->pairing, job->rows, at->kind, i),
                               kvsim__strip(job->pairing, job->columns, at->kind, j), n, gram, KVSIM__STRIP);
            for (size_t a = i; a < i + KVSIM__STRIP && a < at->row + at->row_count; a++) {
                for (size_t b = j; b < j + KVSIM__STRIP && b < at->column + at->column_count; b++) {
                    const size_t later = job->rows->first + a, earlier = job->columns->first + b;
                    if (is_pair(at, later, earlier)) {
                        at->looked_at++;
                        if (passes_filter(at, later, earlier)) {
                            gather_pair(at, a, b, gram[(a - i) * KVSIM__STRIP + (b - j)]);
                        }
                    }
                }
            }
        }
    }
    kvsim__release(job->pairing->base, at->scratch, 2, kvsim__scratch_size(at->group));
    at->scratch = NULL;
}

static void merge_top(const working *at, kvsim__figures *figures) {
    const uint32_t capacity = at->job->pairing->plan->top_k;
    for (size_t i = 0; i < at->row_count; i++) {
        for (size_t j = 0; j < at->column_count; j++) {
            const double cosine = at->cosines[i * TILE + j];
            if (cosine >= -1.0) {
                kvsim__top_offer(figures->top, &figures->top_count, capacity,
                                 (kvsim__scored_pair){.cosine = cosine,
                                                      .relative_error = at->errors[i * TILE + j],
                                                      .later = (uint32_t)(at->job->rows->first + at->row + i),
                                                      .earlier = (uint32_t)(at->job->columns->first + at->column + j)});
            }
        }
    }
}

/* Add what a tile gathered to the figures of its group. The lock is held. */
static void merge(const working *at, kvsim__figures *figures) {
    const kvsim__plan *plan = at->job->pairing->plan;
    const gathered *out = &at->out;
    figures->pairs += out->pairs;
    figures->relative_infinite += out->relative_infinite;
    figures->codes_differ += out->codes_differ;
    figures->signs_differ += out->signs_differ;
    figures->union_elements += out->union_elements;
    figures->cosine_min = out->cosine_min < figures->cosine_min ? out->cosine_min : figures->cosine_min;
    figures->cosine_max = out->cosine_max > figures->cosine_max ? out->cosine_max : figures->cosine_max;
    for (int h = 0; h < KVSIM__HISTOGRAMS; h++) {
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            figures->histograms[h][bin] += out->histograms[h][bin];
        }
    }
    for (uint32_t t = 0; t < plan->threshold_count; t++) {
        figures->threshold_pairs[t] += out->threshold_pairs[t];
    }
    for (size_t i = 0; i < at->row_count; i++) {
        const size_t slot = at->job->rows->first + at->row + i;
        figures->threshold_bits[slot] |= out->threshold_bits[i];
        if (figures->best_cosine != NULL &&
            (out->best_cosine[i] > figures->best_cosine[slot] ||
             (out->best_cosine[i] == figures->best_cosine[slot] && out->best_slot[i] < figures->best_slot[slot]))) {
            figures->best_cosine[slot] = out->best_cosine[i];
            figures->best_slot[slot] = out->best_slot[i];
        }
    }
    if (plan->top_k > 0 && (figures->top_count < plan->top_k || out->cosine_max >= figures->top[0].cosine)) {
        merge_top(at, figures);
    }
}

/* Keep the errors inside the rows panel for the end of the diagonal. Tiles write to cells of their own. */
static void keep_errors(const working *at, double *triangle) {
    for (size_t i = 0; i < at->row_count; i++) {
        const size_t row = at->row + i;
        for (size_t j = 0; j < at->column_count && at->column + j < row; j++) {
            triangle[row * (row - 1) / 2 + at->column + j] = at->errors[i * TILE + j];
        }
    }
}

void kvsim__tile_run(void *opaque, uint32_t index) {
    kvsim__tile_job *job = opaque;
    kvsim__pairing *pairing = job->pairing;
    const size_t row = (size_t)(index / job->tile_columns) * TILE, column = (size_t)(index % job->tile_columns) * TILE;
    const bool diagonal = job->rows == job->columns;
    if ((diagonal && column > row) || atomic_load_explicit(&pairing->progress->stop, memory_order_relaxed)) {
        return;
    }
    double error_cells[KVSIM__KINDS][TILE * TILE];
    double smallest_error = INFINITY;
    uint64_t pairs = 0;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (!pairing->present[kind]) {
            for (size_t cell = 0; cell < TILE * TILE; cell++) {
                error_cells[kind][cell] = INFINITY;
            }
            continue;
        }
        working at;
        at.job = job;
        at.group = &pairing->groups[kind];
        at.kind = kind;
        at.row = row;
        at.column = column;
        at.row_count = job->rows->count - row < TILE ? job->rows->count - row : TILE;
        at.column_count = job->columns->count - column < TILE ? job->columns->count - column : TILE;
        at.diagonal = diagonal;
        at.errors = error_cells[kind];
        at.scratch = NULL;
        at.looked_at = 0;
        compute_kind(&at);
        job->sums[(size_t)index * KVSIM__KINDS + (size_t)kind] = at.out.sums;
        smallest_error = at.out.smallest_error < smallest_error ? at.out.smallest_error : smallest_error;
        pairs += at.looked_at;
        if (diagonal) {
            keep_errors(&at, job->errors[kind]);
        }
        (void)pthread_mutex_lock(job->lock);
        merge(&at, &pairing->figures[kind]);
        (void)pthread_mutex_unlock(job->lock);
    }
    const kvsim__plan *plan = pairing->plan;
    (void)pthread_mutex_lock(job->lock);
    if (!diagonal && smallest_error <= plan->budgets[plan->budget_count - 1]) {
        const double *const errors[KVSIM__KINDS] = {error_cells[KVSIM__KEY], error_cells[KVSIM__VALUE]};
        pairing->sink.tile(pairing->sink.user, job->rows->first + row,
                           job->rows->count - row < TILE ? job->rows->count - row : TILE, job->columns->first + column,
                           job->columns->count - column < TILE ? job->columns->count - column : TILE, errors, TILE);
    }
    pairing->progress->done += pairs;
    kvsim__progress_report(pairing->progress, plan, false);
    (void)pthread_mutex_unlock(job->lock);
}
