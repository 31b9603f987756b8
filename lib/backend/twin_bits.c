/* How the twin compares sign bits, active sets and codes. */
#include "twin_parts.h"

/* One call of compare_bits; arrays as the twin sees them. */
typedef struct comparing {
    const kvsim__device_bit_compare *job;
    const kvsim__row_facts *row_facts, *column_facts;
    const uint8_t *rows, *columns;
    size_t row_bytes;
    kvsim__device_bit_figures *figures;
} comparing;

static bool bit_of(const uint8_t *bits, size_t i) {
    return (bits[i / 8] >> i % 8 & 1) != 0;
}

static void compare_rows(const comparing *at, uint32_t row, uint32_t column) {
    const uint8_t *x = at->rows + row * at->row_bytes, *y = at->columns + column * at->row_bytes;
    const uint32_t n = at->job->elements;
    uint64_t differ = 0, common = 0, either = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (at->job->what == KVSIM__BITS_CODES) {
            differ += x[i] != y[i];
        } else {
            differ += bit_of(x, i) != bit_of(y, i);
            common += bit_of(x, i) && bit_of(y, i);
            either += bit_of(x, i) || bit_of(y, i);
        }
    }
    kvsim__device_bit_figures *figures = at->figures;
    if (at->job->what != KVSIM__BITS_ACTIVE) {
        figures->differ += differ;
        const uint64_t bin = differ * KVSIM_HISTOGRAM_BINS / n;
        figures->histogram[bin < KVSIM_HISTOGRAM_BINS ? bin : KVSIM_HISTOGRAM_BINS - 1]++;
        return;
    }
    const float jaccard = either > 0 ? (float)common / (float)either : 1.0f;
    figures->union_elements += either;
    figures->jaccard_units += (uint64_t)(jaccard * KVSIM__JACCARD_UNITS);
    figures->histogram[kvsim__bin_of(jaccard)]++;
}

/* The bits or codes of a panel. */
static const uint8_t *open_rows(kvsim__device *device, const kvsim__device_bit_compare *job,
                                const kvsim__device_panel *panel) {
    const void *const arrays[] = {panel->signs, panel->actives, panel->codes};
    const size_t bytes = job->what == KVSIM__BITS_CODES ? panel->code_bytes : panel->bit_bytes;
    return kvsim__twin_span_at(device, arrays[job->what], panel->capacity * bytes, "bits of rows").at;
}

static const kvsim__row_facts *open_facts(kvsim__device *device, const kvsim__device_panel *panel) {
    return (const void *)kvsim__twin_span_at(device, panel->facts, panel->capacity * sizeof *panel->facts,
                                             "facts of rows")
        .at;
}

int32_t kvsim__twin_compare_bits(kvsim__device *device, const kvsim__device_bit_compare *job) {
    comparing at = {.job = job};
    if (job->what > KVSIM__BITS_CODES || job->elements == 0 || job->rows.bit_bytes != job->columns.bit_bytes ||
        job->rows.code_bytes != job->columns.code_bytes || job->rows.first < job->columns.first ||
        (job->rows.first != job->columns.first && job->rows.first < job->columns.first + job->columns.count)) {
        return kvsim__twin_misused(device, "compare_bits: panels that do not fit");
    }
    at.row_bytes = job->what == KVSIM__BITS_CODES ? job->rows.code_bytes : job->rows.bit_bytes;
    at.row_facts = open_facts(device, &job->rows);
    at.column_facts = open_facts(device, &job->columns);
    at.rows = open_rows(device, job, &job->rows);
    at.columns = open_rows(device, job, &job->columns);
    at.figures = (void *)kvsim__twin_span_at(device, job->figures, sizeof *job->figures, "figures of bits").at;
    if (kvsim__twin_is_misused(device)) {
        return KVSIM_E_BACKEND;
    }
    const bool same = job->rows.first == job->columns.first;
    for (uint32_t row = 0; row < job->rows.count; row++) {
        for (uint32_t column = 0; column < (same ? row : job->columns.count); column++) {
            const kvsim__slot_facts *later = &at.row_facts[row].slot, *earlier = &at.column_facts[column].slot;
            if (later->class_id != UINT32_MAX && earlier->class_id != UINT32_MAX &&
                !(job->filter != 0 && later->sequence == earlier->sequence)) {
                compare_rows(&at, row, column);
            }
        }
    }
    return KVSIM_OK;
}
