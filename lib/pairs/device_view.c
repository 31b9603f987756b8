#include "device_view.h"

#include <math.h>
#include <string.h>

/* Runs of a device's pass over the pages: as many as keep it busy, as long as their sums stay small. */
enum { MAX_RUNS = 1024, RUN_ELEMENTS = 1 << 20 };

/* Largest norms, in units of the stored elements, between which exact operands neither overflow nor lose products that
   matter: norms down to KVSIM__LEAST_NORM of the largest are trusted. */
#define SMALLEST_EXACT 0x1p-14
#define LARGEST_EXACT  0x1p60

int32_t kvsim__choose_operand(const kvsim__group *group, const kvsim__format *format) {
    static const int32_t exact[] = {[KVSIM__F32] = KVSIM__OPERAND_SPLIT,    [KVSIM__F16] = KVSIM__OPERAND_F16,
                                    [KVSIM__BF16] = KVSIM__OPERAND_BF16,    [KVSIM__F8_E4M3FN] = KVSIM__OPERAND_E4M3,
                                    [KVSIM__F8_E5M2] = KVSIM__OPERAND_E5M2, [KVSIM__I8] = KVSIM__OPERAND_I8,
                                    [KVSIM__OPAQUE] = KVSIM__OPERAND_SPLIT};
    if (group->rotate || group->mean != NULL || format->scale_mode > KVSIM_SCALE_TENSOR) {
        return KVSIM__OPERAND_SPLIT;
    }
    const double scale = format->scale_mode == KVSIM_SCALE_TENSOR ? (double)format->scales[0] : 1.0;
    const double norm = group->largest_norm / scale;
    return norm == 0.0 || (norm >= SMALLEST_EXACT && norm <= LARGEST_EXACT) ? exact[format->dtype]
                                                                            : KVSIM__OPERAND_SPLIT;
}

double kvsim__operand_bound(int32_t operand) {
    switch (operand) {
    case KVSIM__OPERAND_I8:
        return 3e-7;
    case KVSIM__OPERAND_E4M3:
    case KVSIM__OPERAND_E5M2:
        return 2e-4;
    default:
        return KVSIM__COSINE_BOUND;
    }
}

static kvsim_status upload_angles(const kvsim__group *group, kvsim__device_view *view) {
    void *frequencies = NULL, *cosines = NULL, *sines = NULL;
    if (!group->rotate) {
        return KVSIM_OK;
    }
    const uint64_t pairs = (uint64_t)group->pairs * sizeof(double);
    kvsim_status status = kvsim__device_take_copy(&view->memory, group->frequencies, pairs, "angles", &frequencies);
    if (status == KVSIM_OK) {
        status = kvsim__device_take_copy(&view->memory, group->slot_cosine, pairs * (uint64_t)group->tokens, "angles",
                                         &cosines);
    }
    if (status == KVSIM_OK) {
        status =
            kvsim__device_take_copy(&view->memory, group->slot_sine, pairs * (uint64_t)group->tokens, "angles", &sines);
    }
    view->group.rotate = 1;
    view->group.interleaved = group->interleaved;
    view->group.pairs = group->pairs;
    view->group.frequencies = frequencies;
    view->group.slot_cosine = cosines;
    view->group.slot_sine = sines;
    return status;
}

/* Run `measure` and fetch `count` doubles from each of up to two of its arrays. */
static kvsim_status measure(kvsim__device_view *view, const kvsim__device_measures *out) {
    return kvsim__device_check(view->accelerator,
                               view->accelerator->table->measure(view->accelerator->device, &view->group, out),
                               "measuring pages");
}

static uint32_t choose_runs(const kvsim__group *group) {
    const size_t channels = (size_t)group->heads * (size_t)group->head_dim;
    size_t runs = RUN_ELEMENTS / channels;
    runs = runs > MAX_RUNS ? MAX_RUNS : runs;
    runs = runs > group->slots ? group->slots : runs;
    return runs < 1 ? 1 : (uint32_t)runs;
}

/* Add up the runs of the sums for the mean. */
static void finish_mean(const kvsim__group *group, const double *sums, uint32_t runs, double *mean) {
    const size_t channels = (size_t)group->heads * (size_t)group->head_dim;
    const double rows = (double)group->count * (double)group->tokens;
    for (size_t i = 0; i < channels; i++) {
        double sum = 0.0;
        for (size_t run = 0; run < runs; run++) {
            sum += sums[run * channels + i];
        }
        mean[i] = group->count > 0 ? sum / rows : 0.0;
    }
}

static kvsim_status measure_mean(kvsim__group *group, kvsim__device_view *view) {
    kvsim__base *base = group->base;
    const size_t channels = (size_t)group->heads * (size_t)group->head_dim;
    kvsim__device_measures measures = {.runs = choose_runs(group)};
    const size_t count = measures.runs * channels;
    void *sums = NULL, *mean_there = NULL;
    double *host = kvsim__allocate(base, count, sizeof *host);
    double *mean = kvsim__allocate(base, channels, sizeof *mean);
    kvsim_status status = host != NULL && mean != NULL
                              ? kvsim__device_take(&view->memory, count * sizeof *host, "the mean of a group", &sums)
                              : kvsim__fail_memory(base, count * sizeof *host, "the mean of a group");
    if (status == KVSIM_OK) {
        measures.sums = sums;
        status = measure(view, &measures);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(view->accelerator, host, sums, count * sizeof *host);
    }
    kvsim__device_give(&view->memory, sums);
    if (status == KVSIM_OK) {
        finish_mean(group, host, measures.runs, mean);
        status =
            kvsim__device_take_copy(&view->memory, mean, channels * sizeof *mean, "the mean of a group", &mean_there);
    }
    kvsim__release(base, host, count, sizeof *host);
    if (status != KVSIM_OK) {
        kvsim__release(base, mean, channels, sizeof *mean);
        return status;
    }
    group->mean = mean;
    view->group.mean = mean_there;
    return KVSIM_OK;
}

/* Largest magnitudes and mean squares of heads; `runs` rows of each lie one after the other. */
static void finish_heads(kvsim__group *group, const double *absmax, const double *squares, uint32_t runs) {
    const size_t heads = (size_t)group->heads;
    const double values = (double)group->count * (double)group->tokens * (double)group->head_dim;
    for (size_t h = 0; h < heads; h++) {
        double largest = 0.0, sum = 0.0;
        for (size_t run = 0; run < runs; run++) {
            largest = absmax[run * heads + h] > largest ? absmax[run * heads + h] : largest;
            sum += squares[run * heads + h];
        }
        group->absmax[h] = largest;
        group->mean_square[h] = group->count > 0 ? sum / values : 0.0;
    }
}

static void finish_pages(kvsim__group *group, const double *norms, const double *largest) {
    group->largest_norm = 0.0;
    for (size_t slot = 0; slot < group->slots; slot++) {
        int exponent = 0;
        if (group->pages[slot] != KVSIM__NONE) {
            (void)frexp(largest[slot], &exponent);
            group->largest_norm = norms[slot] > group->largest_norm ? norms[slot] : group->largest_norm;
        }
        group->exponents[slot] = (int16_t)exponent;
        const bool larger = slot == 0 || exponent > group->largest_exponent;
        group->largest_exponent = larger ? (int16_t)exponent : group->largest_exponent;
    }
}

/* The pass for all but the mean; `host` has room for what comes back. */
static kvsim_status measure_magnitudes(kvsim__group *group, kvsim__device_view *view, double *host, uint32_t runs) {
    const size_t cells = runs * (size_t)group->heads, slots = group->slots;
    void *per_head = NULL, *norms = NULL, *largest = NULL;
    const char *what = "the statistics of a group";
    kvsim_status status = kvsim__device_take(&view->memory, 2 * cells * sizeof(double), what, &per_head);
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&view->memory, slots * sizeof(double), what, &norms);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&view->memory, slots * sizeof(double), what, &largest);
    }
    if (status == KVSIM_OK) {
        const kvsim__device_measures measures = {.runs = runs,
                                                 .absmax = per_head,
                                                 .squares = (double *)per_head + cells,
                                                 .norms = norms,
                                                 .largest = largest};
        status = measure(view, &measures);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(view->accelerator, host, per_head, 2 * cells * sizeof(double));
    }
    if (status == KVSIM_OK) {
        finish_heads(group, host, host + cells, runs);
        status = kvsim__device_download(view->accelerator, view->norms, norms, slots * sizeof(double));
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(view->accelerator, host, largest, slots * sizeof(double));
    }
    kvsim__device_give(&view->memory, per_head);
    if (status == KVSIM_OK) {
        finish_pages(group, view->norms, host);
        view->norms_there = norms;
        view->largest = largest;
    }
    return status;
}

static kvsim_status upload_levels(const kvsim__plan *plan, const kvsim__group *group, kvsim__device_view *view) {
    const size_t heads = (size_t)group->heads;
    void *absmax = NULL, *tau = NULL;
    double *levels = kvsim__allocate(group->base, heads, sizeof *levels);
    if (levels == NULL) {
        return kvsim__fail_memory(group->base, heads * sizeof *levels, "the statistics of a group");
    }
    for (size_t h = 0; h < heads; h++) {
        levels[h] = plan->jaccard_absolute ? plan->jaccard_tau : plan->jaccard_tau * sqrt(group->mean_square[h]);
    }
    kvsim_status status =
        kvsim__device_take_copy(&view->memory, levels, heads * sizeof *levels, "the statistics of a group", &tau);
    if (status == KVSIM_OK) {
        status = kvsim__device_take_copy(&view->memory, group->absmax, heads * sizeof *levels,
                                         "the statistics of a group", &absmax);
    }
    kvsim__release(group->base, levels, heads, sizeof *levels);
    view->tau = tau;
    view->absmax = absmax;
    return status;
}

static const kvsim__format *any_format(const kvsim__resident *resident) {
    size_t slot = 0;
    while (resident->pages[slot] == KVSIM__NONE) {
        slot++;
    }
    return kvsim__page_format(resident->store, resident->pages[slot]);
}

kvsim_status kvsim__device_view_open(const kvsim__resident *resident, const kvsim__plan *plan, kvsim__group *group,
                                     bool centre, kvsim__device_view *out) {
    kvsim__base *base = group->base;
    const uint32_t runs = choose_runs(group);
    const size_t cells = 2 * runs * (size_t)group->heads;
    const size_t room = cells > group->slots ? cells : group->slots;
    *out = (kvsim__device_view){.accelerator = resident->accelerator,
                                .memory = {.accelerator = resident->accelerator},
                                .group = resident->group,
                                .page_bytes = resident->own_bytes};
    out->group.first_head = group->first_head;
    out->group.heads = group->heads;
    out->norms = kvsim__allocate(base, group->slots, sizeof *out->norms);
    double *host = kvsim__allocate(base, room, sizeof *host);
    kvsim_status status = out->norms != NULL && host != NULL
                              ? upload_angles(group, out)
                              : kvsim__fail_memory(base, room * sizeof *host, "the statistics of a group");
    if (status == KVSIM_OK && centre) {
        status = measure_mean(group, out);
    }
    if (status == KVSIM_OK) {
        status = measure_magnitudes(group, out, host, runs);
    }
    if (status == KVSIM_OK) {
        status = upload_levels(plan, group, out);
    }
    kvsim__release(base, host, room, sizeof *host);
    if (status == KVSIM_OK) {
        const kvsim__format *format = any_format(resident);
        const bool raw = !group->rotate && group->mean == NULL;
        out->operand = kvsim__choose_operand(group, format);
        out->stored_codes = raw && plan->hamming_bits == 8 && format->dtype == KVSIM__I8 &&
                            format->scale_mode != KVSIM_SCALE_TOKEN_HEAD;
        out->group.plain_bytes = raw ? out->group.plain_bytes : 0;
    }
    return status;
}

void kvsim__device_view_close(kvsim__base *base, kvsim__device_view *view) {
    kvsim__release(base, view->norms, view->group.slots, sizeof *view->norms);
    kvsim__device_give_all(&view->memory);
    memset(view, 0, sizeof *view);
}
