#include "tile.h"

#include <math.h>
#include <string.h>

/* Below this share of |x|^2 + |y|^2 a squared distance is summed from differences: the Gram would cancel. */
#define DIRECT_SHARE 0x1p-8

/* Errors above the largest budget by more than this are never in doubt. */
#define CLEARLY_ABOVE 0.01

enum { TILE = KVSIM__TILE };

/* One kind of one tile while it is worked on. */
typedef struct working {
    const kvsim__tile_job *job;
    const kvsim__group *group;
    int kind;
    size_t row, column; /* of the tile inside the panels */
    bool diagonal;
    bool bounds;                   /* all errors are asked for, not the plain one alone */
    uint64_t looked_at;            /* pairs, whether the filter lets them pass or not */
    double smallest_error;         /* of any measure */
    double *errors[KVSIM__ERRORS]; /* [TILE, TILE] */
    kvsim__gathered out;
    void *scratch; /* of two rows, for re-scoring; taken when first needed */
} working;

/* A pair's figures as they stand. */
typedef struct pair_figures {
    double cosine, distance, error;
} pair_figures;

static bool is_pair(const working *at, size_t later, size_t earlier) {
    return later > earlier && at->group->pages[later] != KVSIM__NONE && at->group->pages[earlier] != KVSIM__NONE;
}

static bool passes_filter(const working *at, size_t later, size_t earlier) {
    const kvsim__pairing *pairing = at->job->pairing;
    return !pairing->plan->different_sequences || pairing->places.sequence[later] != pairing->places.sequence[earlier];
}

/* Is the cosine too near to a threshold, or an error too near to a budget, for the packed arithmetic to decide? */
static bool undecided(const working *at, const pair_figures *pair, double norm_ratio, bool direct) {
    const kvsim__plan *plan = at->job->pairing->plan;
    const double largest = plan->budgets[plan->budget_count - 1] + CLEARLY_ABOVE;
    const double scaled_square = 1.0 - pair->cosine * pair->cosine;
    for (uint32_t i = 0; i < plan->threshold_count; i++) {
        if (fabs(pair->cosine - plan->thresholds[i]) <= KVSIM__COSINE_BOUND) {
            return true;
        }
    }
    if (pair->error > largest && !(at->bounds && scaled_square <= largest * largest)) {
        return false;
    }
    /* From differences, e is off by the rounding of both packed pages; from the Gram, e^2 by twice the cosine's bound
       (and the norms' part in it, which is far smaller). So is 1 - c^2. */
    const double rounding = 0x1p-23 * (1.0 + norm_ratio);
    const double square_bound = 2.5 * KVSIM__COSINE_BOUND;
    for (uint32_t i = 0; i < plan->budget_count; i++) {
        const double budget = plan->budgets[i];
        if ((direct ? fabs(pair->error - budget) <= rounding
                    : fabs(pair->error * pair->error - budget * budget) <= square_bound * norm_ratio) ||
            (at->bounds && fabs(scaled_square - budget * budget) <= square_bound)) {
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

static void gather_distance(working *at, const pair_figures *pair) {
    kvsim__gathered *out = &at->out;
    out->sums.l2 += pair->distance;
    kvsim__gather_bin(out, KVSIM__HISTOGRAM_L2, pair->distance, 0.0, 2.0 * at->group->largest_norm);
    kvsim__gather_bin(out, KVSIM__HISTOGRAM_RELATIVE, pair->error, 0.0, 2.0);
    if (isinf(pair->error)) {
        out->relative_infinite++;
    } else {
        out->sums.relative += pair->error;
    }
}

static void gather_codes(working *at, size_t i, size_t j) {
    const kvsim__kernels *kernels = at->job->kernels;
    const kvsim__packed *rows = &at->job->rows->kinds[at->kind], *columns = &at->job->columns->kinds[at->kind];
    const size_t n = at->group->elements;
    kvsim__gathered *out = &at->out;
    if (rows->codes != NULL) {
        const uint64_t codes =
            kernels->codes_differ(rows->codes + i * rows->code_stride, columns->codes + j * columns->code_stride, n);
        const uint64_t signs =
            kernels->bits_differ(rows->signs + i * rows->words, columns->signs + j * columns->words, rows->words);
        out->codes_differ += codes;
        out->signs_differ += signs;
        kvsim__gather_bin(out, KVSIM__HISTOGRAM_HAMMING, (double)codes, 0.0, (double)n);
        kvsim__gather_bin(out, KVSIM__HISTOGRAM_SIGN, (double)signs, 0.0, (double)n);
    }
    if (rows->actives != NULL) {
        const uint64_t common =
            kernels->bits_common(rows->actives + i * rows->words, columns->actives + j * columns->words, rows->words);
        const uint64_t all = (uint64_t)rows->active_count[i] + columns->active_count[j] - common;
        const double jaccard = all > 0 ? (double)common / (double)all : 1.0;
        out->sums.jaccard += jaccard;
        out->union_elements += all;
        kvsim__gather_bin(out, KVSIM__HISTOGRAM_JACCARD, jaccard, 0.0, 1.0);
    }
}

/* Cosine, distance and relative error of row i and column j of the panels, whose packed dot product is known. */
static pair_figures measure_pair(working *at, size_t i, size_t j, double packed_dot) {
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
    pair_figures pair;
    pair.cosine = squares == 0.0 ? 1.0 : x == 0.0 || y == 0.0 ? 0.0 : dot / (x * y);
    pair.cosine = pair.cosine > 1.0 ? 1.0 : pair.cosine < -1.0 ? -1.0 : pair.cosine;
    pair.distance = sqrt(squared_distance > 0.0 ? squared_distance : 0.0);
    pair.error = x > 0.0 ? pair.distance / x : pair.distance == 0.0 ? 0.0 : INFINITY;
    kvsim__exact exact;
    if (x > 0.0 && y > 0.0 && undecided(at, &pair, y / x, direct) &&
        rescore(at, job->rows->first + i, job->columns->first + j, &exact)) {
        pair.cosine = exact.cosine;
        pair.distance = sqrt(exact.squared_distance);
        pair.error = pair.distance / sqrt(exact.later_squares);
    }
    return pair;
}

static void gather_pair(working *at, size_t i, size_t j, double packed_dot) {
    const pair_figures pair = measure_pair(at, i, j, packed_dot);
    const size_t cell = (i - at->row) * TILE + (j - at->column);
    at->errors[KVSIM__ERROR_PLAIN][cell] = pair.error;
    double smallest = pair.error;
    if (at->bounds) {
        const double x = at->job->rows->kinds[at->kind].norm[i], y = at->job->columns->kinds[at->kind].norm[j];
        const double scaled = x > 0.0 ? sqrt(1.0 - pair.cosine * pair.cosine) : pair.error;
        const double packing = x + y > 0.0 ? pair.distance / (x + y) : 0.0;
        at->errors[KVSIM__ERROR_SCALED][cell] = scaled;
        at->errors[KVSIM__ERROR_PACKING][cell] = packing;
        smallest = scaled < smallest ? scaled : smallest;
        smallest = packing < smallest ? packing : smallest;
    }
    at->smallest_error = smallest < at->smallest_error ? smallest : at->smallest_error;
    kvsim__gather_cosine(&at->out, i - at->row, j - at->column, pair.cosine);
    gather_distance(at, &pair);
    gather_codes(at, i, j);
}

/* A pair that the filter drops: a page outside its sequence could still stand for both, so the lower bound sees it. */
static void gather_filtered(working *at, size_t i, size_t j, double packed_dot) {
    const double x = at->job->rows->kinds[at->kind].norm[i], y = at->job->columns->kinds[at->kind].norm[j];
    const double packing = x + y > 0.0 ? measure_pair(at, i, j, packed_dot).distance / (x + y) : 0.0;
    at->errors[KVSIM__ERROR_PACKING][(i - at->row) * TILE + (j - at->column)] = packing;
    at->smallest_error = packing < at->smallest_error ? packing : at->smallest_error;
}

static void compute_kind(working *at) {
    const kvsim__tile_job *job = at->job;
    const kvsim__tile_place *place = &at->out.place;
    double gram[KVSIM__STRIP * KVSIM__STRIP];
    for (size_t i = at->row; i < at->row + place->rows; i += KVSIM__STRIP) {
        for (size_t j = at->column; j < at->column + place->columns; j += KVSIM__STRIP) {
            if (at->diagonal && j > i) {
                break;
            }
            job->kernels->gram(kvsim__strip(job->pairing, job->rows, at->kind, i),
                               kvsim__strip(job->pairing, job->columns, at->kind, j), at->group->elements, gram,
                               KVSIM__STRIP);
            for (size_t a = i; a < i + KVSIM__STRIP && a < at->row + place->rows; a++) {
                for (size_t b = j; b < j + KVSIM__STRIP && b < at->column + place->columns; b++) {
                    const size_t later = job->rows->first + a, earlier = job->columns->first + b;
                    if (is_pair(at, later, earlier)) {
                        at->looked_at++;
                        if (passes_filter(at, later, earlier)) {
                            gather_pair(at, a, b, gram[(a - i) * KVSIM__STRIP + (b - j)]);
                        } else if (at->bounds) {
                            gather_filtered(at, a, b, gram[(a - i) * KVSIM__STRIP + (b - j)]);
                        }
                    }
                }
            }
        }
    }
    kvsim__release(job->pairing->base, at->scratch, 2, kvsim__scratch_size(at->group));
    at->scratch = NULL;
}

/* Keep the errors inside the rows panel for the end of the diagonal. Tiles write to cells of their own. */
static void keep_errors(const kvsim__tile_place *place, size_t row, size_t column, const double *cells,
                        double *triangle) {
    for (size_t i = 0; i < place->rows; i++) {
        for (size_t j = 0; j < place->columns && column + j < row + i; j++) {
            triangle[(row + i) * (row + i - 1) / 2 + column + j] = cells[i * TILE + j];
        }
    }
}

void kvsim__tile_run(void *opaque, uint32_t index) {
    kvsim__tile_job *job = opaque;
    kvsim__pairing *pairing = job->pairing;
    const kvsim__plan *plan = pairing->plan;
    const size_t row = (size_t)(index / job->tile_columns) * TILE, column = (size_t)(index % job->tile_columns) * TILE;
    const bool diagonal = job->rows == job->columns;
    if ((diagonal && column > row) || atomic_load_explicit(&pairing->progress->stop, memory_order_relaxed)) {
        return;
    }
    const kvsim__tile_place place = {
        .later = job->rows->first + row,
        .rows = job->rows->count - row < TILE ? job->rows->count - row : TILE,
        .earlier = job->columns->first + column,
        .columns = job->columns->count - column < TILE ? job->columns->count - column : TILE,
    };
    const bool bounds = (plan->flags & KVSIM_COMPUTE_BOUNDS) != 0;
    const int measures = bounds ? KVSIM__ERRORS : 1;
    double cells[KVSIM__ERRORS][KVSIM__KINDS][TILE * TILE];
    kvsim__error_cells errors = {{{NULL}}};
    double smallest_error = INFINITY;
    uint64_t pairs = 0;
    for (int measure = 0; measure < measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            for (size_t cell = 0; cell < TILE * TILE; cell++) {
                cells[measure][kind][cell] = INFINITY;
            }
            errors.cells[measure][kind] = cells[measure][kind];
        }
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (!pairing->present[kind]) {
            continue;
        }
        working at;
        at.job = job;
        at.group = &pairing->groups[kind];
        at.kind = kind;
        at.row = row;
        at.column = column;
        at.diagonal = diagonal;
        at.bounds = bounds;
        at.looked_at = 0;
        at.smallest_error = INFINITY;
        at.scratch = NULL;
        for (int measure = 0; measure < measures; measure++) {
            at.errors[measure] = cells[measure][kind];
        }
        kvsim__gather_begin(&at.out, pairing, place);
        compute_kind(&at);
        job->sums[(size_t)index * KVSIM__KINDS + (size_t)kind] = at.out.sums;
        smallest_error = at.smallest_error < smallest_error ? at.smallest_error : smallest_error;
        pairs += at.looked_at;
        for (int measure = 0; measure < measures && diagonal; measure++) {
            keep_errors(&place, row, column, cells[measure][kind], job->errors[measure][kind]);
        }
        (void)pthread_mutex_lock(job->lock);
        kvsim__gather_merge(&at.out, cells[KVSIM__ERROR_PLAIN][kind], &pairing->figures[kind]);
        (void)pthread_mutex_unlock(job->lock);
    }
    (void)pthread_mutex_lock(job->lock);
    if (!diagonal && smallest_error <= plan->budgets[plan->budget_count - 1] + KVSIM__ERROR_SLACK) {
        pairing->sink.tile(pairing->sink.user, place.later, place.rows, place.earlier, place.columns, &errors, TILE);
    }
    pairing->progress->done += pairs;
    kvsim__progress_report(pairing->progress, plan, false);
    (void)pthread_mutex_unlock(job->lock);
}
