#include "device_figures.h"

#include <math.h>
#include <string.h>

_Static_assert((int)KVSIM__RELATION_CELLS == (int)KVSIM__RELATIONS, "relations of pairs");
_Static_assert((int)KVSIM__STRATA_CELLS == (int)KVSIM__STRATA * (int)KVSIM__RELATIONS, "strata of pairs");

/* The largest sum of a pair is a relative error's, below 2^34 units: so many pairs cannot overflow 64 bits. */
#define MOST_PENDING ((uint64_t)1 << 29)

static void add(kvsim__wide_sum *sum, uint64_t units) {
    sum->high += (int64_t)(units >> 32);
    sum->low += units & UINT32_MAX;
}

static void add_signed(kvsim__wide_sum *sum, int64_t units) {
    const int64_t low = units & (int64_t)UINT32_MAX;
    sum->high += (units - low) / ((int64_t)1 << 32);
    sum->low += (uint64_t)low;
}

/* The sum in units of 1 / `scale`. */
static double value_of(const kvsim__wide_sum *sum, double scale) {
    return ((double)sum->high * 0x1p32 + (double)sum->low) / scale;
}

/* An array of the figures on the device. */
typedef struct device_array {
    void **memory;
    uint64_t bytes;
    int fill;
    bool wanted;
} device_array;

enum { DEVICE_ARRAYS = 12 };

static void list_arrays(const kvsim__pairing *pairing, kvsim__device_gathered *gathered,
                        device_array out[DEVICE_ARRAYS]) {
    const kvsim__plan *plan = pairing->plan;
    const uint64_t slots = pairing->slots, sequences = pairing->places.sequence_count;
    const uint64_t levels = plan->threshold_count;
    const bool best = (plan->flags & KVSIM_COMPUTE_BEST_MATCH) != 0;
    const bool chance = (plan->flags & KVSIM_COMPUTE_CHANCE) != 0;
    const bool strata = (plan->flags & KVSIM_COMPUTE_STRATA) != 0;
    const bool hamming = (plan->metrics & KVSIM_METRIC_HAMMING) != 0;
    const bool jaccard = (plan->metrics & KVSIM_METRIC_JACCARD) != 0;
    const uint64_t bits = sizeof(kvsim__device_bit_figures);
    const device_array arrays[DEVICE_ARRAYS] = {
        {(void **)&gathered->figures, sizeof *gathered->figures, 0, true},
        {(void **)&gathered->threshold_bits, slots * sizeof(uint64_t), 0, true},
        {(void **)&gathered->best, slots * sizeof(uint64_t), 0, best},
        {(void **)&gathered->sequence_pairs, sequences * sizeof(uint64_t), 0, chance},
        {(void **)&gathered->sequence_units, sequences * sizeof(int64_t), 0, chance},
        {(void **)&gathered->sequence_threshold_pairs, sequences * levels * sizeof(uint64_t), 0, chance},
        {(void **)&gathered->only_least, slots * levels * sizeof(uint32_t), 0xff, chance},
        {(void **)&gathered->only_most, slots * levels * sizeof(uint32_t), 0, chance},
        {(void **)&gathered->relation_bits, slots * KVSIM__RELATIONS * sizeof(uint64_t), 0, strata},
        {(void **)&gathered->bits[KVSIM__BITS_SIGN], bits, 0, hamming},
        {(void **)&gathered->bits[KVSIM__BITS_CODES], bits, 0, hamming},
        {(void **)&gathered->bits[KVSIM__BITS_ACTIVE], bits, 0, jaccard},
    };
    memcpy(out, arrays, sizeof arrays);
}

/* The smallest cosine begins at the largest key. */
static kvsim_status clear_figures(kvsim__device_gathered *gathered) {
    kvsim__accelerator *accelerator = gathered->accelerator;
    unsigned char *figures = (unsigned char *)gathered->figures;
    kvsim_status status = kvsim__device_check(
        accelerator, accelerator->table->fill(accelerator->device, figures, 0, sizeof *gathered->figures),
        "clearing figures");
    if (status == KVSIM_OK) {
        status = kvsim__device_check(accelerator,
                                     accelerator->table->fill(accelerator->device,
                                                              figures + offsetof(kvsim__device_figures, cosine_min),
                                                              0xff, sizeof gathered->figures->cosine_min),
                                     "clearing figures");
    }
    gathered->pending = 0;
    return status;
}

kvsim_status kvsim__gathered_open(kvsim__accelerator *accelerator, const kvsim__pairing *pairing,
                                  kvsim__device_gathered *out) {
    device_array arrays[DEVICE_ARRAYS];
    memset(out, 0, sizeof *out);
    out->accelerator = accelerator;
    out->memory.accelerator = accelerator;
    out->cosine_min = UINT32_MAX;
    list_arrays(pairing, out, arrays);
    kvsim_status status = KVSIM_OK;
    for (int i = 0; i < DEVICE_ARRAYS && status == KVSIM_OK; i++) {
        if (arrays[i].wanted) {
            status = kvsim__device_take_filled(&out->memory, arrays[i].fill, arrays[i].bytes, "the figures of a group",
                                               arrays[i].memory);
        }
    }
    return status == KVSIM_OK ? clear_figures(out) : status;
}

void kvsim__gathered_close(kvsim__device_gathered *gathered) {
    kvsim__device_give_all(&gathered->memory);
    memset(gathered, 0, sizeof *gathered);
}

void kvsim__gathered_attach(const kvsim__device_gathered *gathered, kvsim__device_compare *job) {
    job->figures = gathered->figures;
    job->threshold_bits = gathered->threshold_bits;
    job->best = gathered->best;
    job->sequence_pairs = gathered->sequence_pairs;
    job->sequence_units = gathered->sequence_units;
    job->sequence_threshold_pairs = gathered->sequence_threshold_pairs;
    job->only_least = gathered->only_least;
    job->only_most = gathered->only_most;
    job->relation_bits = gathered->relation_bits;
}

static void add_strata(const kvsim__device_figures *from, kvsim__figures *figures) {
    for (int cell = 0; cell < KVSIM__STRATA_CELLS && figures->strata != NULL; cell++) {
        kvsim__stratum_figures *to = &figures->strata[cell / KVSIM__RELATIONS][cell % KVSIM__RELATIONS];
        to->pairs += from->strata_pairs[cell];
        to->cosine_units += from->strata_units[cell];
        for (int t = 0; t < KVSIM_MAX_LEVELS; t++) {
            to->threshold_pairs[t] += from->strata_threshold_pairs[cell][t];
        }
    }
}

static void add_figures(kvsim__device_gathered *gathered, const kvsim__device_figures *from, kvsim__figures *figures) {
    static const int histograms[] = {KVSIM__HISTOGRAM_COSINE, KVSIM__HISTOGRAM_L2, KVSIM__HISTOGRAM_RELATIVE};
    figures->pairs += from->pairs;
    figures->relative_infinite += from->relative_infinite;
    add_signed(&gathered->cosine, from->cosine_units);
    add(&gathered->distance, from->distance_units);
    for (int limb = 0; limb < KVSIM__LIMBS; limb++) {
        add(&gathered->relative[limb], from->relative_units[limb]);
    }
    gathered->cosine_min = from->cosine_min < gathered->cosine_min ? from->cosine_min : gathered->cosine_min;
    gathered->cosine_max = from->cosine_max > gathered->cosine_max ? from->cosine_max : gathered->cosine_max;
    for (int h = 0; h < 3; h++) {
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            figures->histograms[histograms[h]][bin] += from->histograms[h][bin];
        }
    }
    for (int t = 0; t < KVSIM_MAX_LEVELS; t++) {
        figures->threshold_pairs[t] += from->threshold_pairs[t];
    }
    add_strata(from, figures);
}

/* Take the sums from the device, which begin anew. */
static kvsim_status take_sums(kvsim__device_gathered *gathered, kvsim__figures *figures) {
    kvsim__device_figures taken;
    kvsim_status status =
        kvsim__device_download(gathered->accelerator, &taken, gathered->figures, sizeof *gathered->figures);
    if (status == KVSIM_OK) {
        add_figures(gathered, &taken, figures);
        status = clear_figures(gathered);
    }
    return status;
}

kvsim_status kvsim__gathered_expect(kvsim__device_gathered *gathered, kvsim__figures *figures, uint64_t pairs) {
    kvsim_status status = KVSIM_OK;
    if (gathered->pending > 0 && gathered->pending + pairs > MOST_PENDING) {
        status = take_sums(gathered, figures);
    }
    gathered->pending += pairs;
    return status;
}

static kvsim_status finish_sequences(kvsim__device_gathered *gathered, const kvsim__pairing *pairing,
                                     kvsim__sequence_figures *by) {
    kvsim__accelerator *accelerator = gathered->accelerator;
    const uint64_t sequences = pairing->places.sequence_count, levels = pairing->plan->threshold_count;
    const size_t cells = pairing->slots * (size_t)levels;
    if (by->pairs == NULL) {
        return KVSIM_OK;
    }
    uint32_t *most = kvsim__allocate(pairing->base, cells, sizeof *most);
    if (most == NULL) {
        return kvsim__fail_memory(pairing->base, cells * sizeof *most, "the figures of a group");
    }
    kvsim_status status =
        kvsim__device_download(accelerator, by->pairs, gathered->sequence_pairs, sequences * sizeof *by->pairs);
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, by->cosine_units, gathered->sequence_units,
                                        sequences * sizeof *by->cosine_units);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, by->threshold_pairs, gathered->sequence_threshold_pairs,
                                        sequences * levels * sizeof *by->threshold_pairs);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, by->only_match, gathered->only_least, cells * sizeof *most);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, most, gathered->only_most, cells * sizeof *most);
    }
    for (size_t i = 0; i < cells && status == KVSIM_OK; i++) {
        /* The least sequence is the one if it is the most too; most is + 1. */
        if (most[i] == 0) {
            by->only_match[i] = KVSIM__NONE;
        } else if (by->only_match[i] != most[i] - 1) {
            by->only_match[i] = KVSIM__MANY;
        }
    }
    kvsim__release(pairing->base, most, cells, sizeof *most);
    return status;
}

/* Slots of the best earlier pages; their cosines are those of the packed pages. */
static kvsim_status finish_best(kvsim__device_gathered *gathered, const kvsim__pairing *pairing,
                                kvsim__figures *figures) {
    if (figures->best_cosine == NULL) {
        return KVSIM_OK;
    }
    uint64_t *keys = kvsim__allocate(pairing->base, pairing->slots, sizeof *keys);
    if (keys == NULL) {
        return kvsim__fail_memory(pairing->base, pairing->slots * sizeof *keys, "the figures of a group");
    }
    const kvsim_status status =
        kvsim__device_download(gathered->accelerator, keys, gathered->best, pairing->slots * sizeof *keys);
    for (size_t slot = 0; slot < pairing->slots && status == KVSIM_OK; slot++) {
        if (keys[slot] != 0) {
            figures->best_slot[slot] = ~(uint32_t)keys[slot];
            figures->best_cosine[slot] = (double)kvsim__key_float((uint32_t)(keys[slot] >> 32));
        }
    }
    kvsim__release(pairing->base, keys, pairing->slots, sizeof *keys);
    return status;
}

kvsim_status kvsim__gathered_take_bits(kvsim__device_gathered *gathered, kvsim__figures *figures) {
    static const int histograms[KVSIM__BIT_KINDS] = {[KVSIM__BITS_SIGN] = KVSIM__HISTOGRAM_SIGN,
                                                     [KVSIM__BITS_ACTIVE] = KVSIM__HISTOGRAM_JACCARD,
                                                     [KVSIM__BITS_CODES] = KVSIM__HISTOGRAM_HAMMING};
    kvsim_status status = KVSIM_OK;
    for (uint32_t what = 0; what < KVSIM__BIT_KINDS && status == KVSIM_OK; what++) {
        kvsim__device_bit_figures taken = {0};
        if (gathered->bits[what] == NULL) {
            continue;
        }
        status = kvsim__device_download(gathered->accelerator, &taken, gathered->bits[what], sizeof taken);
        if (status == KVSIM_OK) {
            status = kvsim__device_check(gathered->accelerator,
                                         gathered->accelerator->table->fill(gathered->accelerator->device,
                                                                            gathered->bits[what], 0, sizeof taken),
                                         "clearing figures");
        }
        if (status != KVSIM_OK) {
            break;
        }
        figures->signs_differ += what == KVSIM__BITS_SIGN ? taken.differ : 0;
        figures->codes_differ += what == KVSIM__BITS_CODES ? taken.differ : 0;
        figures->union_elements += taken.union_elements;
        add(&gathered->jaccard, taken.jaccard_units);
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            figures->histograms[histograms[what]][bin] += taken.histogram[bin];
        }
    }
    return status;
}

kvsim_status kvsim__gathered_finish(kvsim__device_gathered *gathered, kvsim__pairing *pairing, int kind) {
    kvsim__accelerator *accelerator = gathered->accelerator;
    kvsim__figures *figures = &pairing->figures[kind];
    kvsim_status status = take_sums(gathered, figures);
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, figures->threshold_bits, gathered->threshold_bits,
                                        pairing->slots * sizeof *figures->threshold_bits);
    }
    if (status == KVSIM_OK && figures->relation_bits != NULL) {
        status = kvsim__device_download(accelerator, figures->relation_bits, gathered->relation_bits,
                                        pairing->slots * KVSIM__RELATIONS * sizeof *figures->relation_bits);
    }
    if (status == KVSIM_OK) {
        status = finish_sequences(gathered, pairing, &figures->by_sequence);
    }
    if (status == KVSIM_OK) {
        status = finish_best(gathered, pairing, figures);
    }
    figures->cosine_sum = value_of(&gathered->cosine, (double)KVSIM__DEVICE_COSINE_UNITS);
    figures->l2_sum = value_of(&gathered->distance, (double)KVSIM__DISTANCE_UNITS) * pairing->groups[kind].largest_norm;
    figures->jaccard_sum = value_of(&gathered->jaccard, (double)KVSIM__JACCARD_UNITS);
    for (int limb = KVSIM__LIMBS; limb-- > 0;) {
        figures->relative_sum += value_of(&gathered->relative[limb], ldexp(1.0, 20 - limb * KVSIM__LIMB_BITS));
    }
    if (figures->pairs > 0) {
        figures->cosine_min = (double)kvsim__key_float(gathered->cosine_min);
        figures->cosine_max = (double)kvsim__key_float(gathered->cosine_max);
    }
    return status;
}
