/*
 * Rows of `distances`: pairs of pages of one sequence by how far apart they lie. Only those pairs are compared, with
 * the kernels and the bounds of the comparison of all pairs.
 */
#include <math.h>

#include "../pairs/tile.h"
#include "internal.h"

enum {
    PANEL_SLOTS = 256,      /* at most; fewer where pages are large */
    PANEL_BYTES = 16 << 20, /* of a panel */
    /* Buckets of a sequence for each of its pages. Pages that follow each other need one each; where many are missing,
       pairs that lie farther apart than this many times their number are left out. */
    SPREAD = 4
};

/* Pairs of one sequence at one distance. */
typedef struct bucket {
    uint64_t pairs, above;
    int64_t cosine_units;
} bucket;

typedef struct distances {
    kvsim__work *at;
    const kvsim__unit *unit;
    const kvsim__pairing *pairing;
    int kind;
    int64_t page_tokens;
    size_t *first;   /* [sequences + 1] of each sequence's buckets */
    bucket *buckets; /* [first[sequences]] pairs that are d pages apart, d = 0, 1, ... */
    void *scratch;   /* of two rows, for pairs too near to the threshold */
    size_t scratch_bytes;
} distances;

static int64_t position_of(const distances *of, size_t slot) {
    return of->at->store->pages[of->unit->pages[of->kind][slot]].position;
}

static bool takes_part(const distances *of, size_t slot) {
    return slot < of->unit->slots && of->unit->pages[of->kind][slot] != KVSIM__NONE;
}

/* Cosine from the packed pages; from the stored bytes where it is too near to the threshold to decide. */
static double cosine_of(const distances *of, size_t later, size_t earlier, double product, double squares) {
    double cosine = squares > 0.0 ? product / squares : 0.0;
    if (squares == 0.0 || fabs(cosine - of->at->plan->thresholds[0]) <= KVSIM__COSINE_BOUND) {
        const kvsim__group *group = &of->pairing->groups[of->kind];
        kvsim__scratch a = kvsim__scratch_at(group, of->scratch);
        kvsim__scratch b = kvsim__scratch_at(group, (unsigned char *)of->scratch + of->scratch_bytes);
        cosine = kvsim__rescore(group, later, earlier, &a, &b).cosine;
    }
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

static void add_pair(distances *of, const kvsim__panel *rows, size_t i, const kvsim__panel *columns, size_t j,
                     double packed_dot) {
    const size_t later = rows->first + i, earlier = columns->first + j;
    const kvsim__packed *x = &rows->kinds[of->kind], *y = &columns->kinds[of->kind];
    const uint32_t sequence = of->unit->sequence[later];
    const int64_t difference = position_of(of, later) - position_of(of, earlier);
    const uint64_t apart = (uint64_t)(difference < 0 ? -difference : difference) / (uint64_t)of->page_tokens;
    if (apart >= of->first[sequence + 1] - of->first[sequence]) {
        return;
    }
    const double cosine =
        cosine_of(of, later, earlier, packed_dot * x->scale[i] * y->scale[j], x->norm[i] * y->norm[j]);
    bucket *to = &of->buckets[of->first[sequence] + apart];
    to->pairs++;
    to->above += cosine >= of->at->plan->thresholds[0];
    to->cosine_units += (int64_t)(cosine * KVSIM__COSINE_UNITS);
}

/* Slots of two strips, `later` on or after `earlier`: their pairs inside one sequence. */
static void compare_strips(distances *of, const kvsim__panel *rows, size_t row, const kvsim__panel *columns,
                           size_t column) {
    bool any = false;
    bool counts[KVSIM__STRIP][KVSIM__STRIP];
    for (size_t i = 0; i < KVSIM__STRIP; i++) {
        for (size_t j = 0; j < KVSIM__STRIP; j++) {
            const size_t later = rows->first + row + i, earlier = columns->first + column + j;
            counts[i][j] = later > earlier && row + i < rows->count && column + j < columns->count &&
                           takes_part(of, later) && takes_part(of, earlier) &&
                           of->unit->sequence[later] == of->unit->sequence[earlier];
            any = any || counts[i][j];
        }
    }
    if (!any) {
        return;
    }
    double products[KVSIM__STRIP * KVSIM__STRIP];
    kvsim__kernel_table()->gram(kvsim__strip(of->pairing, rows, of->kind, row),
                                kvsim__strip(of->pairing, columns, of->kind, column),
                                of->pairing->groups[of->kind].elements, products, KVSIM__STRIP);
    for (size_t i = 0; i < KVSIM__STRIP; i++) {
        for (size_t j = 0; j < KVSIM__STRIP; j++) {
            if (counts[i][j]) {
                add_pair(of, rows, row + i, columns, column + j, products[i * KVSIM__STRIP + j]);
            }
        }
    }
}

static bool share_a_sequence(const kvsim__unit *unit, size_t a, size_t b, size_t count) {
    uint32_t low[2] = {UINT32_MAX, UINT32_MAX}, high[2] = {0, 0};
    const size_t begins[2] = {a, b};
    for (int side = 0; side < 2; side++) {
        for (size_t slot = begins[side]; slot < begins[side] + count && slot < unit->slots; slot++) {
            const uint32_t own = unit->sequence[slot];
            low[side] = own < low[side] ? own : low[side];
            high[side] = own > high[side] ? own : high[side];
        }
    }
    return low[0] <= high[1] && low[1] <= high[0];
}

static kvsim_status compare(distances *of, size_t capacity, kvsim__panel panels[2]) {
    kvsim__progress *progress = &of->at->progress;
    const size_t slots = of->unit->slots;
    for (size_t later = 0; later < slots; later += capacity) {
        kvsim__panel_fill(of->pairing, &panels[0], later, later + capacity < slots ? capacity : slots - later);
        for (size_t earlier = 0; earlier <= later; earlier += capacity) {
            if (!share_a_sequence(of->unit, later, earlier, capacity)) {
                continue;
            }
            const kvsim__panel *columns = &panels[0];
            if (earlier < later) {
                kvsim__panel_fill(of->pairing, &panels[1], earlier, capacity);
                columns = &panels[1];
            }
            for (size_t row = 0; row < panels[0].count; row += KVSIM__STRIP) {
                for (size_t column = 0; column < columns->count; column += KVSIM__STRIP) {
                    compare_strips(of, &panels[0], row, columns, column);
                }
            }
            kvsim__progress_report(progress, of->at->plan, false);
            if (atomic_load(&progress->stop)) {
                return kvsim__fail_cancelled(of->at->base);
            }
        }
    }
    return KVSIM_OK;
}

static kvsim_status put_rows(const distances *of, const int64_t *numbers, int64_t group) {
    for (size_t sequence = 0; sequence < of->unit->sequence_count; sequence++) {
        const size_t first = of->first[sequence], count = of->first[sequence + 1] - first;
        for (size_t apart = 0; apart < count; apart++) {
            const bucket *from = &of->buckets[first + apart];
            if (from->pairs == 0) {
                continue;
            }
            kvsim__distance_row *row = kvsim__result_append(of->at->result, KVSIM__TABLE_DISTANCES);
            if (row == NULL) {
                return KVSIM_E_NOMEM;
            }
            *row = (kvsim__distance_row){.group = group,
                                         .sequence = numbers[sequence],
                                         .distance = (int64_t)apart * of->page_tokens,
                                         .pairs = from->pairs,
                                         .cosine_mean =
                                             (double)from->cosine_units / KVSIM__COSINE_UNITS / (double)from->pairs,
                                         .pairs_above = from->above};
        }
    }
    return KVSIM_OK;
}

/* Where each sequence's buckets begin: as many as its pages span, but no more than SPREAD for each page. */
static void lay_out(distances *of, int64_t *lowest, int64_t *highest, size_t *pages) {
    const size_t sequences = of->unit->sequence_count;
    for (size_t slot = 0; slot < of->unit->slots; slot++) {
        if (takes_part(of, slot)) {
            const uint32_t s = of->unit->sequence[slot];
            const int64_t position = position_of(of, slot);
            lowest[s] = pages[s] == 0 || position < lowest[s] ? position : lowest[s];
            highest[s] = pages[s] == 0 || position > highest[s] ? position : highest[s];
            pages[s]++;
        }
    }
    for (size_t s = 0; s < sequences; s++) {
        const uint64_t span = pages[s] > 0 ? (uint64_t)(highest[s] - lowest[s]) / (uint64_t)of->page_tokens + 1 : 0;
        const size_t most = SPREAD * pages[s];
        of->first[s + 1] = of->first[s] + (span < most ? (size_t)span : most);
    }
}

static kvsim_status find_distances(distances *of, int64_t group) {
    kvsim__base *base = of->at->base;
    const size_t sequences = of->unit->sequence_count;
    int64_t *ends = kvsim__allocate_zeroed(base, 2 * sequences, sizeof *ends);
    size_t *pages = kvsim__allocate_zeroed(base, sequences, sizeof *pages);
    of->first = kvsim__allocate_zeroed(base, sequences + 1, sizeof *of->first);
    of->scratch_bytes = kvsim__scratch_size(&of->pairing->groups[of->kind]);
    of->scratch = kvsim__allocate(base, 2, of->scratch_bytes);
    kvsim_status status = KVSIM_OK;
    const bool complete = ends != NULL && pages != NULL && of->first != NULL && of->scratch != NULL;
    if (complete) {
        lay_out(of, ends, ends + sequences, pages);
        of->buckets = kvsim__allocate_zeroed(base, of->first[sequences], sizeof *of->buckets);
    }
    if (!complete || of->buckets == NULL) {
        status = kvsim__fail_memory(base, sequences * sizeof *ends, "pairs by distance");
    }
    const size_t strip = kvsim__panel_bytes(of->pairing, KVSIM__STRIP);
    size_t capacity = (size_t)PANEL_BYTES / strip * KVSIM__STRIP;
    capacity = capacity > PANEL_SLOTS ? PANEL_SLOTS : capacity < KVSIM__STRIP ? KVSIM__STRIP : capacity;
    kvsim__panel panels[2] = {{0}};
    for (int i = 0; i < 2 && status == KVSIM_OK; i++) {
        status = kvsim__panel_open(of->pairing, capacity, &panels[i]);
    }
    if (status == KVSIM_OK) {
        status = compare(of, capacity, panels);
    }
    if (status == KVSIM_OK) {
        kvsim__list_sequences(of->at, of->unit, ends);
        status = put_rows(of, ends, group);
    }
    for (int i = 0; i < 2; i++) {
        kvsim__panel_close(of->pairing, &panels[i]);
    }
    kvsim__release(base, of->buckets, complete ? of->first[sequences] : 0, sizeof *of->buckets);
    kvsim__release(base, of->scratch, 2, of->scratch_bytes);
    kvsim__release(base, of->first, sequences + 1, sizeof *of->first);
    kvsim__release(base, pages, sequences, sizeof *pages);
    kvsim__release(base, ends, 2 * sequences, sizeof *ends);
    return status;
}

kvsim_status kvsim__put_distances(kvsim__work *at, const kvsim__unit *unit, int kind, const kvsim__pairing *pairing,
                                  int64_t group) {
    distances of = {.at = at,
                    .unit = unit,
                    .pairing = pairing,
                    .kind = kind,
                    .page_tokens = kvsim__page_format(at->store, unit->kinds[kind]->any_page)->page_tokens};
    return unit->slots > 1 ? find_distances(&of, group) : KVSIM_OK;
}
