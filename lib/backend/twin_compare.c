/* How the twin compares pages: pairs of packed rows, and pairs in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../pages/format.h"
#include "twin_parts.h"

/* One call of compare or resolve; arrays as the twin sees them. */
typedef struct comparing {
    kvsim__device *device;
    const kvsim__device_compare *job;
    const kvsim__pair_rules *rules;
    const kvsim__row_facts *row_facts, *column_facts;
    kvsim__device_figures *figures;
    kvsim__twin_span threshold_bits, best, sequence_pairs, sequence_units, sequence_threshold_pairs, only_least,
        only_most, relation_bits;
} comparing;

/* A pair, and what has been found of it. */
typedef struct pair {
    const kvsim__row_facts *later, *earlier;
    uint32_t later_slot, earlier_slot;
    double cosine, distance; /* as listed */
    kvsim__pair_figures figures;
    uint32_t levels; /* thresholds that are reached: the first so many */
    bool filtered;
} pair;

static int32_t open_comparing(kvsim__device *device, const kvsim__device_compare *job, comparing *at) {
    *at = (comparing){.device = device, .job = job};
    at->rules = (const void *)kvsim__twin_span_at(device, job->rules, sizeof *job->rules, "rules").at;
    at->row_facts = (const void *)kvsim__twin_span_at(device, job->rows.facts,
                                                      job->rows.capacity * sizeof *job->rows.facts, "facts of rows")
                        .at;
    at->column_facts =
        (const void *)kvsim__twin_span_at(device, job->columns.facts,
                                          job->columns.capacity * sizeof *job->columns.facts, "facts of columns")
            .at;
    at->figures = (void *)kvsim__twin_optional(device, job->figures, sizeof *job->figures, "figures").at;
    at->threshold_bits = kvsim__twin_optional(device, job->threshold_bits, 0, "threshold_bits");
    at->best = kvsim__twin_optional(device, job->best, 0, "best");
    at->sequence_pairs = kvsim__twin_optional(device, job->sequence_pairs, 0, "sequence_pairs");
    at->sequence_units = kvsim__twin_optional(device, job->sequence_units, 0, "sequence_units");
    at->sequence_threshold_pairs =
        kvsim__twin_optional(device, job->sequence_threshold_pairs, 0, "sequence_threshold_pairs");
    at->only_least = kvsim__twin_optional(device, job->only_least, 0, "only_least");
    at->only_most = kvsim__twin_optional(device, job->only_most, 0, "only_most");
    at->relation_bits = kvsim__twin_optional(device, job->relation_bits, 0, "relation_bits");
    if (kvsim__twin_is_misused(device)) {
        return KVSIM_E_BACKEND;
    }
    if (memcmp(at->rules, &job->host_rules, sizeof *at->rules) != 0) {
        return kvsim__twin_misused(device, "the rules of the host and of the device differ");
    }
    if ((job->flags & KVSIM__COMPARE_GATHER) != 0 && at->figures == NULL) {
        return kvsim__twin_misused(device, "figures are to be gathered, and there are none");
    }
    return KVSIM_OK;
}

/* Item `index` of an array, or NULL: the array is not wanted, or ends before. */
static void *item(const comparing *at, const kvsim__twin_span *span, size_t index, size_t size) {
    if (span->at == NULL) {
        return NULL;
    }
    if (index >= span->bytes / size) {
        (void)kvsim__twin_misused(at->device, "compare: past the end of an array");
        return NULL;
    }
    return span->at + index * size;
}

static void add(const comparing *at, const kvsim__twin_span *span, size_t index, uint64_t what) {
    uint64_t *to = item(at, span, index, sizeof *to);
    if (to != NULL) {
        *to += what;
    }
}

static void set_bits(const comparing *at, const kvsim__twin_span *span, size_t index, uint64_t bits) {
    uint64_t *to = item(at, span, index, sizeof *to);
    if (to != NULL) {
        *to |= bits;
    }
}

static void offer(const comparing *at, const kvsim__device_list *list, const pair *of) {
    uint32_t *count = (void *)kvsim__twin_span_at(at->device, list->count, sizeof *count, "count of a list").at;
    unsigned char *items =
        kvsim__twin_span_at(at->device, list->items, list->capacity * sizeof *list->items, "items of a list").at;
    if (count == NULL || items == NULL) {
        return;
    }
    if (*count < list->capacity) {
        const kvsim__device_pair listed = {of->cosine, of->distance, of->later_slot, of->earlier_slot};
        memcpy(items + *count * sizeof listed, &listed, sizeof listed);
    }
    ++*count;
}

static uint32_t relation_of(const pair *of) {
    return of->later->slot.sequence == of->earlier->slot.sequence ? 0
           : of->later->slot.family == of->earlier->slot.family   ? 1
                                                                  : 2;
}

static void count_sequences(const comparing *at, const pair *of, int64_t units) {
    const size_t thresholds = at->rules->threshold_count;
    const uint32_t own = of->later->slot.sequence, other = of->earlier->slot.sequence;
    for (int side = 0; side < (own == other ? 1 : 2); side++) {
        const size_t sequence = side == 0 ? own : other;
        add(at, &at->sequence_pairs, sequence, 1);
        add(at, &at->sequence_units, sequence, (uint64_t)units);
        for (uint32_t t = 0; t < of->levels; t++) {
            add(at, &at->sequence_threshold_pairs, sequence * thresholds + t, 1);
        }
    }
    for (uint32_t t = 0; t < of->levels; t++) {
        uint32_t *least = item(at, &at->only_least, of->later_slot * thresholds + t, sizeof *least);
        uint32_t *most = item(at, &at->only_most, of->later_slot * thresholds + t, sizeof *most);
        if (least != NULL && most != NULL) {
            *least = other < *least ? other : *least;
            *most = other + 1 > *most ? other + 1 : *most;
        }
    }
}

static void count_stratum(const comparing *at, const pair *of, int64_t units, uint64_t bits) {
    const uint32_t relation = relation_of(of);
    const size_t cell = (size_t)of->later->slot.stratum * KVSIM__RELATION_CELLS + relation;
    if (cell >= KVSIM__STRATA_CELLS) {
        (void)kvsim__twin_misused(at->device, "compare: a stratum that does not exist");
        return;
    }
    at->figures->strata_pairs[cell]++;
    at->figures->strata_units[cell] += units;
    for (uint32_t t = 0; t < of->levels; t++) {
        at->figures->strata_threshold_pairs[cell][t]++;
    }
    set_bits(at, &at->relation_bits, (size_t)of->later_slot * KVSIM__RELATION_CELLS + relation, bits);
}

/* Count a pair that the filter lets pass. */
static void gather(const comparing *at, const pair *of) {
    kvsim__device_figures *figures = at->figures;
    const kvsim__pair_figures *pair_of = &of->figures;
    const int64_t units = (int64_t)(pair_of->cosine * KVSIM__DEVICE_COSINE_UNITS);
    const uint32_t key = kvsim__float_key(pair_of->cosine);
    const uint64_t bits = of->levels >= 64 ? UINT64_MAX : ((uint64_t)1 << of->levels) - 1;
    figures->pairs++;
    figures->cosine_units += units;
    figures->distance_units += (uint64_t)(pair_of->distance * KVSIM__DISTANCE_UNITS);
    figures->cosine_min = key < figures->cosine_min ? key : figures->cosine_min;
    figures->cosine_max = key > figures->cosine_max ? key : figures->cosine_max;
    figures->histograms[0][kvsim__bin_of((pair_of->cosine + 1.0f) * 0.5f)]++;
    figures->histograms[1][kvsim__bin_of(pair_of->distance * 0.5f)]++;
    figures->histograms[2][kvsim__bin_of(pair_of->error * 0.5f)]++;
    if (isinf(pair_of->error)) {
        figures->relative_infinite++;
    } else {
        uint64_t relative;
        const uint32_t limb = kvsim__limb_of(pair_of->error, &relative);
        figures->relative_units[limb] += relative;
    }
    for (uint32_t t = 0; t < of->levels; t++) {
        figures->threshold_pairs[t]++;
    }
    set_bits(at, &at->threshold_bits, of->later_slot, bits);
    uint64_t *best = item(at, &at->best, of->later_slot, sizeof *best);
    if (best != NULL) {
        const uint64_t offered = kvsim__best_key(pair_of->cosine, of->earlier_slot);
        *best = offered > *best ? offered : *best;
    }
    count_sequences(at, of, units);
    count_stratum(at, of, units, bits);
}

/* A pair whose figures are final. */
static void take(const comparing *at, const pair *of) {
    const uint32_t flags = at->job->flags;
    if (!of->filtered && (flags & KVSIM__COMPARE_GATHER) != 0) {
        gather(at, of);
    }
    if ((flags & KVSIM__COMPARE_NEAR) != 0 && (of->earlier->slot.listed != 0 || at->rules->filtered_listing != 0) &&
        kvsim__is_near(at->rules, of->later->norm, of->earlier->norm, of->figures.cosine, of->figures.distance,
                       of->figures.error, of->filtered)) {
        offer(at, &at->job->near, of);
    }
    if (!of->filtered && (flags & KVSIM__COMPARE_TOP) != 0 && of->figures.cosine >= at->job->top_cutoff) {
        offer(at, &at->job->top, of);
    }
}

static bool is_pair(const kvsim__row_facts *later, const kvsim__row_facts *earlier) {
    return later->slot.class_id != UINT32_MAX && earlier->slot.class_id != UINT32_MAX;
}

/* A number in [-1, 1) for two classes of equal pages, always the same: equal products are wrong alike. */
static double noise_of(uint32_t later, uint32_t earlier) {
    uint64_t z = ((uint64_t)later << 32 | earlier) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ (z >> 31)) * 0x1p-63;
}

static void compare_pair(const comparing *at, uint32_t row, uint32_t column, double dot) {
    pair of = {.later = &at->row_facts[row],
               .earlier = &at->column_facts[column],
               .later_slot = at->job->rows.first + row,
               .earlier_slot = at->job->columns.first + column};
    if (!is_pair(of.later, of.earlier)) {
        return;
    }
    of.filtered = at->rules->filter != 0 && of.later->slot.sequence == of.earlier->slot.sequence;
    if (of.filtered && at->rules->bounds == 0) {
        return;
    }
    const double unit = (double)of.later->unit * (double)of.earlier->unit;
    const double noise =
        kvsim_twin()->noise * noise_of(of.later->slot.class_id, of.earlier->slot.class_id) * (double)at->rules->bound;
    of.figures = kvsim__decide(at->rules, of.later, of.earlier, (float)(unit > 0.0 ? dot + noise / unit : dot));
    of.cosine = (double)of.figures.cosine;
    of.distance = (double)of.figures.distance;
    if (of.figures.doubtful != 0) {
        if ((at->job->flags & KVSIM__COMPARE_DOUBT) != 0) {
            offer(at, &at->job->doubtful, &of);
        }
        return;
    }
    while (of.levels < at->rules->threshold_count && of.figures.cosine >= at->rules->thresholds[of.levels]) {
        of.levels++;
    }
    take(at, &of);
}

/* Rows of a panel as numbers, [capacity, n]; NULL: KVSIM_E_NOMEM or a misuse. */
static double *unpack(const comparing *at, const kvsim__device_panel *panel) {
    static const int32_t types[] = {-1,        KVSIM__BF16, KVSIM__F16, KVSIM__F8_E4M3FN, KVSIM__F8_E5M2,
                                    KVSIM__I8, KVSIM__F16};
    const size_t n = at->job->elements;
    const bool split = at->job->operand == KVSIM__OPERAND_SPLIT;
    const unsigned char *rows =
        kvsim__twin_span_at(at->device, panel->operand, panel->capacity * panel->row_bytes, "packed rows").at;
    if (rows == NULL || at->job->operand < KVSIM__OPERAND_BF16 || at->job->operand > KVSIM__OPERAND_SPLIT) {
        (void)kvsim__twin_misused(at->device, "compare: no packed rows, or of an unknown kind");
        return NULL;
    }
    const int32_t type = types[at->job->operand];
    const size_t size = kvsim__twin_element_size(type);
    double *out = kvsim__twin_scratch(at->device, panel->capacity * n, sizeof *out);
    for (size_t row = 0; row < panel->count && out != NULL; row++) {
        const unsigned char *from = rows + row * panel->row_bytes;
        for (size_t i = 0; i < n; i++) {
            const double low = split ? kvsim__twin_element(type, from + panel->row_bytes / 2 + i * size) : 0.0;
            out[row * n + i] = kvsim__twin_element(type, from + i * size) + low * 0x1p-11;
        }
    }
    return out;
}

static void compare_rows(const comparing *at, const double *rows, const double *columns) {
    const kvsim__device_compare *job = at->job;
    const size_t n = job->elements;
    const bool same = job->rows.first == job->columns.first;
    const bool backwards = kvsim_twin()->backwards != 0;
    const uint32_t end = job->row_end < job->rows.count ? job->row_end : job->rows.count;
    for (uint32_t i = job->row_begin; i < end; i++) {
        const uint32_t row = backwards ? end - 1 - (i - job->row_begin) : i;
        const uint32_t count = same ? row : job->columns.count;
        for (uint32_t j = 0; j < count; j++) {
            const uint32_t column = backwards ? count - 1 - j : j;
            double dot = 0.0;
            for (size_t k = 0; k < n; k++) {
                dot += rows[row * n + k] * columns[column * n + k];
            }
            compare_pair(at, row, column, dot);
        }
    }
}

int32_t kvsim__twin_compare(kvsim__device *device, const kvsim__device_compare *job) {
    comparing at;
    int32_t status = open_comparing(device, job, &at);
    if (status != KVSIM_OK) {
        return status;
    }
    if (job->row_begin % 256 != 0 || (job->row_end % 256 != 0 && job->row_end != job->rows.count) ||
        job->row_end > job->rows.capacity || job->rows.first < job->columns.first ||
        (job->rows.first != job->columns.first && job->rows.first < job->columns.first + job->columns.count)) {
        return kvsim__twin_misused(device, "compare: rows or panels out of order");
    }
    double *rows = unpack(&at, &job->rows), *columns = rows != NULL ? unpack(&at, &job->columns) : NULL;
    if (rows != NULL && columns != NULL) {
        compare_rows(&at, rows, columns);
    } else {
        status = KVSIM_E_NOMEM;
    }
    free(rows);
    free(columns);
    return kvsim__twin_is_misused(device) ? KVSIM_E_BACKEND : status;
}

/* ---- pairs in double ---- */

/* Two pages of a group side by side. */
typedef struct reading {
    kvsim__twin_view view;
    double *values[2];
} reading;

typedef struct exact {
    double cosine, distance, later_norm;
} exact;

static int32_t reading_open(kvsim__device *device, const kvsim__device_group *group, reading *at) {
    at->values[0] = at->values[1] = NULL;
    int32_t status = kvsim__twin_view_open(device, group, &at->view);
    for (int i = 0; i < 2 && status == KVSIM_OK; i++) {
        at->values[i] = kvsim__twin_scratch(device, at->view.elements, sizeof(double));
        status = at->values[i] != NULL ? KVSIM_OK : KVSIM_E_NOMEM;
    }
    return status;
}

static void reading_close(reading *at) {
    free(at->values[0]);
    free(at->values[1]);
}

static bool compute_exactly(const reading *at, uint32_t later, uint32_t earlier, exact *out) {
    const kvsim__device_group *group = at->view.group;
    const uint32_t slots[2] = {later, earlier};
    double dot = 0.0, squares[2] = {0.0, 0.0}, squared_distance = 0.0;
    for (int i = 0; i < 2; i++) {
        if (slots[i] >= group->slots || at->view.pages[slots[i]].data == NULL) {
            (void)kvsim__twin_misused(at->view.device, "a pair without a page");
            return false;
        }
        if (!kvsim__twin_read(&at->view, slots[i], group->tokens, NULL, NULL, at->values[i])) {
            return false;
        }
    }
    for (size_t k = 0; k < at->view.elements; k++) {
        const double x = at->values[0][k], y = at->values[1][k];
        dot += x * y;
        squares[0] += x * x;
        squares[1] += y * y;
        squared_distance += (x - y) * (x - y);
    }
    *out = (exact){.distance = sqrt(squared_distance), .later_norm = sqrt(squares[0])};
    if (squared_distance == 0.0) {
        out->cosine = 1.0;
    } else if (squares[0] > 0.0 && squares[1] > 0.0) {
        out->cosine = fmin(fmax(dot / (sqrt(squares[0]) * sqrt(squares[1])), -1.0), 1.0);
    }
    return true;
}

/* Facts of a slot's row in a panel. */
static const kvsim__row_facts *facts_of(const comparing *at, const kvsim__device_panel *panel,
                                        const kvsim__row_facts *facts, uint32_t slot) {
    if (slot < panel->first || slot - panel->first >= panel->count) {
        (void)kvsim__twin_misused(at->device, "resolve: a pair that is not in the panels");
        return NULL;
    }
    return &facts[slot - panel->first];
}

static void resolve_pair(const comparing *at, const exact *found, double largest_norm, kvsim__device_pair *listed) {
    pair of = {.later = facts_of(at, &at->job->rows, at->row_facts, listed->later),
               .earlier = facts_of(at, &at->job->columns, at->column_facts, listed->earlier),
               .later_slot = listed->later,
               .earlier_slot = listed->earlier};
    if (of.later == NULL || of.earlier == NULL) {
        return;
    }
    of.filtered = at->rules->filter != 0 && of.later->slot.sequence == of.earlier->slot.sequence;
    of.cosine = listed->cosine = found->cosine;
    of.distance = listed->distance = largest_norm > 0.0 ? found->distance / largest_norm : 0.0;
    const double error = found->later_norm > 0.0 ? found->distance / found->later_norm
                         : found->distance > 0.0 ? (double)INFINITY
                                                 : 0.0;
    of.figures = (kvsim__pair_figures){(float)of.cosine, (float)of.distance, (float)error, 0};
    while (of.levels < at->rules->threshold_count && of.cosine >= at->rules->exact_thresholds[of.levels]) {
        of.levels++;
    }
    take(at, &of);
}

int32_t kvsim__twin_resolve(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                            const kvsim__device_compare *job, uint32_t count) {
    comparing at;
    int32_t status = open_comparing(device, job, &at);
    if (status != KVSIM_OK || count == 0) {
        return status;
    }
    kvsim__device_pair *pairs =
        (void *)kvsim__twin_span_at(device, job->doubtful.items, count * sizeof *pairs, "pairs in doubt").at;
    if (pairs == NULL || count > job->doubtful.capacity) {
        return kvsim__twin_misused(device, "resolve: more pairs than the list holds");
    }
    reading pages;
    status = reading_open(device, group, &pages);
    for (uint32_t i = 0; i < count && status == KVSIM_OK; i++) {
        exact found;
        if (compute_exactly(&pages, pairs[i].later, pairs[i].earlier, &found)) {
            resolve_pair(&at, &found, largest_norm, &pairs[i]);
        }
        status = kvsim__twin_is_misused(device) ? KVSIM_E_BACKEND : KVSIM_OK;
    }
    reading_close(&pages);
    return status;
}

int32_t kvsim__twin_rescore(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                            kvsim__device_pair *pairs, uint32_t count) {
    reading pages;
    int32_t status = reading_open(device, group, &pages);
    kvsim__device_pair *listed =
        status == KVSIM_OK && count > 0
            ? (void *)kvsim__twin_span_at(device, pairs, count * sizeof *pairs, "pairs to score").at
            : NULL;
    for (uint32_t i = 0; i < count && listed != NULL; i++) {
        exact found;
        if (!compute_exactly(&pages, listed[i].later, listed[i].earlier, &found)) {
            break;
        }
        listed[i].cosine = found.cosine;
        listed[i].distance = largest_norm > 0.0 ? found.distance / largest_norm : 0.0;
    }
    reading_close(&pages);
    return status != KVSIM_OK ? status : kvsim__twin_is_misused(device) ? KVSIM_E_BACKEND : KVSIM_OK;
}
