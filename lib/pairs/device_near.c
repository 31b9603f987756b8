#include "device_near.h"

#include <math.h>
#include <string.h>

enum { TRIANGLE = KVSIM__SINK_ROWS * (KVSIM__SINK_ROWS - 1) / 2, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* An error that differs from a budget by rounding in double alone is that budget: pages that are apart by exactly a
   budget are within it, in whatever order a device adds up. */
#define SAME 0x1p-48

kvsim_status kvsim__near_open(const kvsim__pairing *pairing, kvsim__near *near) {
    memset(near, 0, sizeof *near);
    near->pairing = pairing;
    near->measures = (pairing->plan->flags & KVSIM_COMPUTE_BOUNDS) != 0 ? KVSIM__ERRORS : 1;
    for (int measure = 0; measure < near->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            double *triangle = kvsim__allocate(pairing->base, TRIANGLE, sizeof *triangle);
            if (triangle == NULL) {
                return kvsim__fail_memory(pairing->base, TRIANGLE * sizeof *triangle, "the errors of a panel");
            }
            for (size_t cell = 0; cell < TRIANGLE; cell++) {
                triangle[cell] = INFINITY; /* but while the errors of some pairs are handed over */
            }
            near->triangles[measure][kind] = triangle;
        }
    }
    return KVSIM_OK;
}

void kvsim__near_close(kvsim__near *near) {
    if (near->pairing == NULL) {
        return;
    }
    kvsim__base *base = near->pairing->base;
    for (int measure = 0; measure < near->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            kvsim__release(base, near->triangles[measure][kind], TRIANGLE, sizeof(double));
        }
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__release(base, near->kinds[kind].pairs, near->kinds[kind].capacity, sizeof(kvsim__device_pair));
    }
    kvsim__release(base, near->scratch, near->scratch_capacity, sizeof *near->scratch);
    memset(near, 0, sizeof *near);
}

kvsim_status kvsim__near_reserve(kvsim__near *near, int kind, size_t more) {
    kvsim__near_list *list = &near->kinds[kind];
    return kvsim__grow(near->pairing->base, (void **)&list->pairs, &list->capacity, list->count + more,
                       sizeof *list->pairs);
}

static int bits_of(size_t largest) {
    int bits = 0;
    while (bits < 32 && largest >> bits != 0) {
        bits++;
    }
    return bits;
}

/* One pass of a radix sort, by DIGIT_BITS bits of a slot. */
static void sort_pass(const kvsim__device_pair *from, kvsim__device_pair *to, size_t count, bool by_later, size_t first,
                      int shift) {
    size_t begins[DIGITS] = {0};
    for (size_t i = 0; i < count; i++) {
        const size_t slot = by_later ? from[i].later - first : from[i].earlier;
        begins[slot >> shift & (DIGITS - 1)]++;
    }
    size_t next = 0;
    for (size_t digit = 0; digit < DIGITS; digit++) {
        const size_t own = begins[digit];
        begins[digit] = next;
        next += own;
    }
    for (size_t i = 0; i < count; i++) {
        const size_t slot = by_later ? from[i].later - first : from[i].earlier;
        to[begins[slot >> shift & (DIGITS - 1)]++] = from[i];
    }
}

/* Sort a kind's pairs by the later slot, then by the earlier one. */
static kvsim_status sort_pairs(kvsim__near *near, kvsim__near_list *list, size_t first, size_t count) {
    if (list->count < 2) {
        return KVSIM_OK;
    }
    const kvsim_status status = kvsim__grow(near->pairing->base, (void **)&near->scratch, &near->scratch_capacity,
                                            list->count, sizeof *near->scratch);
    if (status != KVSIM_OK) {
        return status;
    }
    kvsim__device_pair *from = list->pairs, *to = near->scratch;
    for (int field = 0; field < 2; field++) {
        const int bits = bits_of(field == 0 ? first + count : count);
        for (int shift = 0; shift < bits; shift += DIGIT_BITS) {
            sort_pass(from, to, list->count, field == 1, first, shift);
            kvsim__device_pair *other = from;
            from = to;
            to = other;
        }
    }
    if (from != list->pairs) {
        memcpy(list->pairs, from, list->count * sizeof *from);
    }
    return KVSIM_OK;
}

/* The plain error of a listed pair. */
static double plain_error(const kvsim__plan *plan, double x, double y, double distance) {
    if (x > 0.0 && y == 0.0) {
        return 1.0; /* whatever the rounding of the distance */
    }
    const double error = x > 0.0 ? distance / x : distance == 0.0 ? 0.0 : INFINITY;
    for (uint32_t b = 0; b < plan->budget_count; b++) {
        if (fabs(error - plan->budgets[b]) <= SAME * plan->budgets[b]) {
            return plan->budgets[b];
        }
    }
    return error;
}

/* The errors of a listed pair that are asked for. */
static void find_errors(const kvsim__near *near, int kind, const kvsim__device_pair *pair, double out[KVSIM__ERRORS]) {
    const kvsim__pairing *pairing = near->pairing;
    const kvsim__plan *plan = pairing->plan;
    const double *norms = near->kinds[kind].norms;
    const double x = norms[pair->later], y = norms[pair->earlier];
    const double distance = pair->distance * pairing->groups[kind].largest_norm;
    out[KVSIM__ERROR_PLAIN] = plain_error(plan, x, y, distance);
    if (near->measures > 1) {
        out[KVSIM__ERROR_SCALED] = x > 0.0 ? sqrt(1.0 - pair->cosine * pair->cosine) : out[KVSIM__ERROR_PLAIN];
        out[KVSIM__ERROR_PACKING] = x + y > 0.0 ? distance / (x + y) : 0.0;
    }
    if (plan->different_sequences && pairing->places.sequence[pair->later] == pairing->places.sequence[pair->earlier]) {
        out[KVSIM__ERROR_PLAIN] = out[KVSIM__ERROR_SCALED] = INFINITY;
    }
}

/* Errors of the pair that comes next in either list, or of the same pair in both. */
typedef struct next_pair {
    uint32_t later, earlier;
    double errors[KVSIM__KINDS][KVSIM__ERRORS];
} next_pair;

static bool comes_before(const kvsim__device_pair *a, uint32_t later, uint32_t earlier) {
    return a->later < later || (a->later == later && a->earlier < earlier);
}

/* Take the next pair with a later slot before `end`; `at` counts along the lists. */
static bool take_next(const kvsim__near *near, size_t at[KVSIM__KINDS], size_t end, next_pair *out) {
    const kvsim__device_pair *heads[KVSIM__KINDS] = {NULL, NULL};
    bool any = false;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const kvsim__near_list *list = &near->kinds[kind];
        if (at[kind] < list->count && list->pairs[at[kind]].later < end) {
            heads[kind] = &list->pairs[at[kind]];
            if (!any || comes_before(heads[kind], out->later, out->earlier)) {
                out->later = heads[kind]->later;
                out->earlier = heads[kind]->earlier;
            }
            any = true;
        }
    }
    for (int kind = 0; kind < KVSIM__KINDS && any; kind++) {
        if (heads[kind] != NULL && heads[kind]->later == out->later && heads[kind]->earlier == out->earlier) {
            find_errors(near, kind, heads[kind], out->errors[kind]);
            at[kind]++;
        } else {
            for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
                out->errors[kind][measure] = INFINITY;
            }
        }
    }
    return any;
}

/* Write the errors of a pair inside the rows at hand, or forget them again. */
static void set_triangle(kvsim__near *near, const next_pair *pair, size_t first, bool forget) {
    const size_t i = pair->later - first, j = pair->earlier - first, cell = i * (i - 1) / 2 + j;
    for (int measure = 0; measure < near->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            near->triangles[measure][kind][cell] = forget ? INFINITY : pair->errors[kind][measure];
        }
    }
}

static void hand_over(const kvsim__near *near, const next_pair *pair) {
    const kvsim__error_sink *sink = &near->pairing->sink;
    kvsim__error_cells cells = {{{NULL}}};
    for (int measure = 0; measure < near->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            cells.cells[measure][kind] = &pair->errors[kind][measure];
        }
    }
    sink->tile(sink->user, pair->later, 1, pair->earlier, 1, &cells, 1);
}

/* Rows [first, first + count), no more than KVSIM__SINK_ROWS: all pairs with earlier rows, then those among them. */
static bool deliver_rows(kvsim__near *near, size_t at[KVSIM__KINDS], size_t first, size_t count) {
    const kvsim__error_sink *sink = &near->pairing->sink;
    const size_t begin[KVSIM__KINDS] = {at[0], at[1]};
    next_pair pair = {0};
    if (!sink->begin(sink->user, first, count)) {
        return false;
    }
    while (take_next(near, at, first + count, &pair)) {
        if (pair.earlier < first) {
            hand_over(near, &pair);
        } else {
            set_triangle(near, &pair, first, false);
        }
    }
    kvsim__error_cells cells = {{{NULL}}};
    for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            cells.cells[measure][kind] = near->triangles[measure][kind];
        }
    }
    sink->panel(sink->user, first, count, &cells);
    size_t again[KVSIM__KINDS] = {begin[0], begin[1]};
    while (take_next(near, again, first + count, &pair)) {
        if (pair.earlier >= first) {
            set_triangle(near, &pair, first, true);
        }
    }
    return true;
}

kvsim_status kvsim__near_deliver(kvsim__near *near, size_t first, size_t count) {
    kvsim_status status = KVSIM_OK;
    size_t at[KVSIM__KINDS] = {0, 0};
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        status = sort_pairs(near, &near->kinds[kind], first, count);
    }
    for (size_t done = 0; done < count && status == KVSIM_OK; done += KVSIM__SINK_ROWS) {
        const size_t rows = count - done < KVSIM__SINK_ROWS ? count - done : KVSIM__SINK_ROWS;
        if (!deliver_rows(near, at, first + done, rows)) {
            status = kvsim__fail_memory(near->pairing->base, rows * sizeof(double), "comparing pairs");
        }
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        near->kinds[kind].count = 0;
    }
    return status;
}
