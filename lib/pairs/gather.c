#include "gather.h"

#include <math.h>
#include <string.h>

#include "top.h"

enum { TILE = KVSIM__TILE };

void kvsim__gather_begin(kvsim__gathered *out, const kvsim__pairing *pairing, kvsim__tile_place place) {
    memset(out, 0, sizeof *out);
    out->pairing = pairing;
    out->place = place;
    out->cosine_min = INFINITY;
    out->cosine_max = -INFINITY;
    for (size_t i = 0; i < TILE; i++) {
        out->best_cosine[i] = -INFINITY;
        out->best_slot[i] = KVSIM__NONE;
    }
    for (size_t cell = 0; cell < TILE * TILE; cell++) {
        out->cosines[cell] = -2.0;
    }
}

void kvsim__gather_bin(kvsim__gathered *out, int histogram, double value, double low, double high) {
    uint32_t bin = 0;
    if (high > low) { /* else all pages are zero */
        const double at = (value - low) / (high - low) * KVSIM_HISTOGRAM_BINS;
        bin = at < 0.0 ? 0 : at >= KVSIM_HISTOGRAM_BINS ? KVSIM_HISTOGRAM_BINS - 1 : (uint32_t)at;
    }
    out->histograms[histogram][bin]++;
}

void kvsim__gather_cosine(kvsim__gathered *out, size_t i, size_t j, double cosine) {
    const kvsim__plan *plan = out->pairing->plan;
    const uint32_t earlier = (uint32_t)(out->place.earlier + j);
    out->pairs++;
    out->cosines[i * TILE + j] = cosine;
    out->sums.cosine += cosine;
    out->cosine_min = cosine < out->cosine_min ? cosine : out->cosine_min;
    out->cosine_max = cosine > out->cosine_max ? cosine : out->cosine_max;
    kvsim__gather_bin(out, KVSIM__HISTOGRAM_COSINE, cosine, -1.0, 1.0);
    for (uint32_t t = 0; t < plan->threshold_count && cosine >= plan->thresholds[t]; t++) {
        out->threshold_pairs[t]++;
        out->threshold_bits[i] |= (uint64_t)1 << t;
    }
    if (cosine > out->best_cosine[i] || (cosine == out->best_cosine[i] && earlier < out->best_slot[i])) {
        out->best_cosine[i] = cosine;
        out->best_slot[i] = earlier;
    }
}

static void merge_top(const kvsim__gathered *from, const double *errors, kvsim__figures *figures) {
    for (size_t i = 0; i < from->place.rows; i++) {
        for (size_t j = 0; j < from->place.columns; j++) {
            const double cosine = from->cosines[i * TILE + j];
            if (cosine >= -1.0) {
                kvsim__top_offer(figures->top, &figures->top_count, from->pairing->plan->top_k,
                                 (kvsim__scored_pair){.cosine = cosine,
                                                      .relative_error = errors[i * TILE + j],
                                                      .later = (uint32_t)(from->place.later + i),
                                                      .earlier = (uint32_t)(from->place.earlier + j)});
            }
        }
    }
}

static uint32_t levels_reached(const kvsim__plan *plan, double cosine) {
    uint32_t count = 0;
    while (count < plan->threshold_count && cosine >= plan->thresholds[count]) {
        count++;
    }
    return count;
}

static void note_sequence(kvsim__sequence_figures *figures, const kvsim__plan *plan, uint32_t sequence, int64_t units,
                          uint32_t levels) {
    figures->pairs[sequence]++;
    figures->cosine_units[sequence] += units;
    for (uint32_t t = 0; t < levels; t++) {
        figures->threshold_pairs[(size_t)sequence * plan->threshold_count + t]++;
    }
}

static int relation_of(const kvsim__places *places, size_t later, size_t earlier) {
    return places->sequence[later] == places->sequence[earlier] ? KVSIM__WITHIN_SEQUENCE
           : places->family[later] == places->family[earlier]   ? KVSIM__WITHIN_FAMILY
                                                                : KVSIM__BETWEEN_FAMILIES;
}

/* Figures that need to know which sequences a pair joins. */
static void merge_places(const kvsim__gathered *from, kvsim__figures *figures) {
    const kvsim__plan *plan = from->pairing->plan;
    const kvsim__places *places = &from->pairing->places;
    for (size_t i = 0; i < from->place.rows; i++) {
        const size_t later = from->place.later + i;
        for (size_t j = 0; j < from->place.columns; j++) {
            const double cosine = from->cosines[i * TILE + j];
            if (cosine < -1.0) {
                continue;
            }
            const size_t earlier = from->place.earlier + j;
            const int64_t units = (int64_t)(cosine * KVSIM__COSINE_UNITS);
            const uint32_t levels = levels_reached(plan, cosine);
            const uint32_t own = places->sequence[later], other = places->sequence[earlier];
            if (figures->by_sequence.pairs != NULL) {
                note_sequence(&figures->by_sequence, plan, own, units, levels);
                if (other != own) {
                    note_sequence(&figures->by_sequence, plan, other, units, levels);
                }
                uint32_t *only = figures->by_sequence.only_match + later * plan->threshold_count;
                for (uint32_t t = 0; t < levels; t++) {
                    only[t] = only[t] == KVSIM__NONE || only[t] == other ? other : KVSIM__MANY;
                }
            }
            if (figures->strata != NULL) {
                const int relation = relation_of(places, later, earlier);
                kvsim__stratum_figures *stratum = &figures->strata[places->stratum[later]][relation];
                stratum->pairs++;
                stratum->cosine_units += units;
                for (uint32_t t = 0; t < levels; t++) {
                    stratum->threshold_pairs[t]++;
                    figures->relation_bits[later * KVSIM__RELATIONS + (size_t)relation] |= (uint64_t)1 << t;
                }
            }
        }
    }
}

void kvsim__gather_merge(const kvsim__gathered *from, const double *errors, kvsim__figures *figures) {
    const kvsim__plan *plan = from->pairing->plan;
    figures->pairs += from->pairs;
    figures->relative_infinite += from->relative_infinite;
    figures->codes_differ += from->codes_differ;
    figures->signs_differ += from->signs_differ;
    figures->union_elements += from->union_elements;
    figures->cosine_min = from->cosine_min < figures->cosine_min ? from->cosine_min : figures->cosine_min;
    figures->cosine_max = from->cosine_max > figures->cosine_max ? from->cosine_max : figures->cosine_max;
    for (int h = 0; h < KVSIM__HISTOGRAMS; h++) {
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            figures->histograms[h][bin] += from->histograms[h][bin];
        }
    }
    for (uint32_t t = 0; t < plan->threshold_count; t++) {
        figures->threshold_pairs[t] += from->threshold_pairs[t];
    }
    for (size_t i = 0; i < from->place.rows; i++) {
        const size_t slot = from->place.later + i;
        figures->threshold_bits[slot] |= from->threshold_bits[i];
        if (figures->best_cosine != NULL &&
            (from->best_cosine[i] > figures->best_cosine[slot] ||
             (from->best_cosine[i] == figures->best_cosine[slot] && from->best_slot[i] < figures->best_slot[slot]))) {
            figures->best_cosine[slot] = from->best_cosine[i];
            figures->best_slot[slot] = from->best_slot[i];
        }
    }
    if (plan->top_k > 0 && (figures->top_count < plan->top_k || from->cosine_max >= figures->top[0].cosine)) {
        merge_top(from, errors, figures);
    }
    if (figures->by_sequence.pairs != NULL || figures->strata != NULL) {
        merge_places(from, figures);
    }
}
