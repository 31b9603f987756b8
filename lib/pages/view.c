#include "view.h"

#include <math.h>
#include <string.h>

#include "rope.h"

/* Statistics are summed over a fixed number of runs of pages, so that they do not depend on the thread count. */
enum { MAX_RUNS = 64, RUN_ELEMENTS = 1 << 22, SCRATCH_ALIGNMENT = 64 };

size_t kvsim__scratch_size(const kvsim__group *group) {
    const size_t bytes =
        (size_t)group->head_dim * (sizeof(double) + sizeof(float)) + (size_t)group->pairs * 2 * sizeof(double);
    /* Scratches lie one behind the other, also those of odd head sizes. */
    return (bytes + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
}

kvsim__scratch kvsim__scratch_at(const kvsim__group *group, void *memory) {
    kvsim__scratch scratch;
    scratch.row = memory;
    scratch.cosine = scratch.row + group->head_dim;
    scratch.sine = scratch.cosine + group->pairs;
    scratch.stored = (float *)(scratch.sine + group->pairs);
    return scratch;
}

static void set_angles(const kvsim__group *group, double position, kvsim__scratch *scratch) {
    for (int32_t i = 0; i < group->pairs; i++) {
        const double angle = position * group->frequencies[i];
        scratch->cosine[i] = cos(angle);
        scratch->sine[i] = sin(angle);
    }
}

void kvsim__view_begin(const kvsim__group *group, uint32_t page, kvsim__scratch *scratch) {
    scratch->moved = false;
    if (group->rotate) {
        set_angles(group, (double)group->store->pages[page].position, scratch);
    }
}

void kvsim__view_begin_moved(const kvsim__group *group, uint32_t page, int64_t position, kvsim__scratch *scratch) {
    kvsim__view_begin(group, page, scratch);
    if (!group->rotate && group->pairs > 0) {
        scratch->moved = true;
        set_angles(group, (double)(position - group->store->pages[page].position), scratch);
    }
}

static double scale_of(const kvsim__page *page, const kvsim__format *format, int32_t slot, int32_t head) {
    switch (format->scale_mode) {
    case KVSIM_SCALE_TENSOR:
        return (double)format->scales[0];
    case KVSIM_SCALE_HEAD:
        return (double)format->scales[head];
    case KVSIM_SCALE_TOKEN_HEAD:
        return (double)page->token_scales[(size_t)slot * (size_t)format->heads + (size_t)head];
    default:
        return 1.0;
    }
}

/* Turn the rotated channels of a row back by the angle of its position (RoPE, arXiv 2104.09864). */
static void derotate(const kvsim__group *group, int32_t slot, const kvsim__scratch *scratch) {
    const double *slot_cosine = group->slot_cosine + (size_t)slot * (size_t)group->pairs;
    const double *slot_sine = group->slot_sine + (size_t)slot * (size_t)group->pairs;
    double *row = scratch->row;
    for (int32_t i = 0; i < group->pairs; i++) {
        const double cosine = scratch->cosine[i] * slot_cosine[i] - scratch->sine[i] * slot_sine[i];
        const double sine = scratch->sine[i] * slot_cosine[i] + scratch->cosine[i] * slot_sine[i];
        double *first = &row[group->interleaved ? 2 * i : i];
        double *second = &row[group->interleaved ? 2 * i + 1 : i + group->pairs];
        const double x = *first, y = *second;
        *first = x * cosine + y * sine;
        *second = y * cosine - x * sine;
    }
}

/* Turn the rotated channels of a row on by the angles in the scratch. */
static void turn_on(const kvsim__group *group, const kvsim__scratch *scratch) {
    double *row = scratch->row;
    for (int32_t i = 0; i < group->pairs; i++) {
        double *first = &row[group->interleaved ? 2 * i : i];
        double *second = &row[group->interleaved ? 2 * i + 1 : i + group->pairs];
        const double x = *first, y = *second;
        *first = x * scratch->cosine[i] - y * scratch->sine[i];
        *second = y * scratch->cosine[i] + x * scratch->sine[i];
    }
}

const double *kvsim__view_row(const kvsim__group *group, uint32_t page_number, int32_t slot, int32_t head,
                              kvsim__scratch *scratch) {
    const kvsim__page *page = &group->store->pages[page_number];
    const kvsim__format *format = &group->store->formats[page->format];
    const int32_t stored_head = head + group->first_head;
    const size_t channels = (size_t)group->head_dim;
    kvsim__convert_row(format->dtype, page->data + slot * format->token_stride + stored_head * format->head_stride,
                       format->channel_stride, channels, scratch->stored);
    const double scale = scale_of(page, format, slot, stored_head);
    for (size_t d = 0; d < channels; d++) {
        scratch->row[d] = (double)scratch->stored[d] * scale;
    }
    if (group->rotate) {
        derotate(group, slot, scratch);
    } else if (scratch->moved) {
        turn_on(group, scratch);
    }
    if (group->mean != NULL) {
        const double *mean = group->mean + (size_t)head * channels;
        for (size_t d = 0; d < channels; d++) {
            scratch->row[d] -= mean[d];
        }
    }
    return scratch->row;
}

bool kvsim__page_is_finite(const kvsim__store *store, uint32_t page_number, float *row) {
    const kvsim__page *page = &store->pages[page_number];
    const kvsim__format *format = &store->formats[page->format];
    for (int32_t t = 0; t < page->fill; t++) {
        for (int32_t h = 0; h < format->heads; h++) {
            kvsim__convert_row(format->dtype, page->data + t * format->token_stride + h * format->head_stride,
                               format->channel_stride, (size_t)format->head_dim, row);
            for (int32_t d = 0; d < format->head_dim; d++) {
                if (!isfinite(row[d])) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* One pass over the pages of a group: either the sums for the mean, or magnitudes and squares. */
typedef struct pass {
    const kvsim__group *group;
    bool sums_for_mean;
    uint32_t runs;
    unsigned char *scratch; /* [runs, scratch_stride] */
    size_t scratch_stride;
    double *sums;    /* [runs, heads, head_dim] or NULL */
    double *absmax;  /* [runs, heads] */
    double *squares; /* [runs, heads] */
    double *norms;   /* [runs] largest squared norm of a page */
} pass;

static void measure_page(const pass *job, uint32_t run, size_t slot, kvsim__scratch *scratch) {
    const kvsim__group *group = job->group;
    const uint32_t page = group->pages[slot];
    const size_t heads = (size_t)group->heads;
    const size_t channels = (size_t)group->head_dim;
    double page_max = 0.0, page_squares = 0.0;
    kvsim__view_begin(group, page, scratch);
    for (int32_t t = 0; t < group->tokens; t++) {
        for (int32_t h = 0; h < group->heads; h++) {
            const double *row = kvsim__view_row(group, page, t, h, scratch);
            if (job->sums_for_mean) {
                double *sums = job->sums + (run * heads + (size_t)h) * channels;
                for (size_t d = 0; d < channels; d++) {
                    sums[d] += row[d];
                }
                continue;
            }
            double row_max = 0.0, squares = 0.0;
            for (size_t d = 0; d < channels; d++) {
                const double magnitude = fabs(row[d]);
                row_max = magnitude > row_max ? magnitude : row_max;
                squares += row[d] * row[d];
            }
            double *absmax = &job->absmax[run * heads + (size_t)h];
            *absmax = row_max > *absmax ? row_max : *absmax;
            page_max = row_max > page_max ? row_max : page_max;
            job->squares[run * heads + (size_t)h] += squares;
            page_squares += squares;
        }
    }
    if (!job->sums_for_mean) {
        int exponent = 0;
        (void)frexp(page_max, &exponent);
        group->exponents[slot] = (int16_t)exponent;
        job->norms[run] = page_squares > job->norms[run] ? page_squares : job->norms[run];
    }
}

static void measure_run(void *opaque, uint32_t run) {
    const pass *job = opaque;
    const kvsim__group *group = job->group;
    kvsim__scratch scratch = kvsim__scratch_at(group, job->scratch + run * job->scratch_stride);
    const size_t first = group->slots * run / job->runs;
    const size_t end = group->slots * (run + 1) / job->runs;
    for (size_t slot = first; slot < end; slot++) {
        if (group->pages[slot] != KVSIM__NONE) {
            measure_page(job, run, slot, &scratch);
        }
    }
}

static void compute_mean(pass *job, double *mean) {
    const kvsim__group *group = job->group;
    const size_t channels = (size_t)group->heads * (size_t)group->head_dim;
    const double rows = (double)group->count * (double)group->tokens;
    job->sums_for_mean = true;
    kvsim__parallel_for(group->base, job->runs, measure_run, job);
    for (size_t i = 0; i < channels; i++) {
        double sum = 0.0;
        for (size_t run = 0; run < job->runs; run++) {
            sum += job->sums[run * channels + i];
        }
        mean[i] = group->count > 0 ? sum / rows : 0.0;
    }
    job->sums_for_mean = false;
}

static void compute_magnitudes(pass *job, kvsim__group *group) {
    const size_t heads = (size_t)group->heads;
    const double values = (double)group->count * (double)group->tokens * (double)group->head_dim;
    kvsim__parallel_for(group->base, job->runs, measure_run, job);
    double largest = 0.0;
    for (size_t run = 0; run < job->runs; run++) {
        largest = job->norms[run] > largest ? job->norms[run] : largest;
    }
    group->largest_norm = sqrt(largest);
    for (size_t slot = 0; slot < group->slots; slot++) {
        const bool larger = slot == 0 || group->exponents[slot] > group->largest_exponent;
        group->largest_exponent = larger ? group->exponents[slot] : group->largest_exponent;
    }
    for (size_t h = 0; h < heads; h++) {
        double absmax = 0.0, squares = 0.0;
        for (size_t run = 0; run < job->runs; run++) {
            absmax = job->absmax[run * heads + h] > absmax ? job->absmax[run * heads + h] : absmax;
            squares += job->squares[run * heads + h];
        }
        group->absmax[h] = absmax;
        group->mean_square[h] = group->count > 0 ? squares / values : 0.0;
    }
}

static kvsim_status measure(kvsim__group *group, bool centre) {
    kvsim__base *base = group->base;
    const size_t heads = (size_t)group->heads;
    const size_t channels = heads * (size_t)group->head_dim;
    pass job = {.group = group};
    job.runs = RUN_ELEMENTS / channels < 1          ? 1
               : RUN_ELEMENTS / channels > MAX_RUNS ? MAX_RUNS
                                                    : (uint32_t)(RUN_ELEMENTS / channels);
    job.scratch_stride = kvsim__scratch_size(group);
    job.scratch = kvsim__allocate(base, job.runs, job.scratch_stride);
    job.sums = centre ? kvsim__allocate_zeroed(base, job.runs * channels, sizeof(double)) : NULL;
    /* Magnitudes, squares and norms lie one after the other. */
    const size_t small = job.runs * (2 * heads + 1);
    job.absmax = kvsim__allocate_zeroed(base, small, sizeof(double));
    double *mean = centre ? kvsim__allocate(base, channels, sizeof(double)) : NULL;
    kvsim_status status = KVSIM_OK;
    if (job.scratch == NULL || job.absmax == NULL || (centre && (job.sums == NULL || mean == NULL))) {
        status = kvsim__fail_memory(base, job.runs * (job.scratch_stride + channels * sizeof(double)),
                                    "the statistics of a group");
        kvsim__release(base, mean, channels, sizeof(double));
    } else {
        job.squares = job.absmax + job.runs * heads;
        job.norms = job.squares + job.runs * heads;
        if (centre) {
            compute_mean(&job, mean);
            group->mean = mean;
        }
        compute_magnitudes(&job, group);
    }
    kvsim__release(base, job.scratch, job.runs, job.scratch_stride);
    kvsim__release(base, job.sums, job.runs * channels, sizeof(double));
    kvsim__release(base, job.absmax, small, sizeof(double));
    return status;
}

static kvsim_status open_angles(kvsim__group *group, const kvsim_rope *rope) {
    kvsim__base *base = group->base;
    const int32_t rotary = rope->rotary_dims > 0 ? rope->rotary_dims : group->head_dim;
    if (rotary > group->head_dim || rotary % 2 != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "RoPE over %d channels does not fit keys of %d: set rotary_dims of kvsim_set_rope", rotary,
                           group->head_dim);
    }
    group->interleaved = rope->style == KVSIM_ROPE_INTERLEAVED;
    group->pairs = rotary / 2;
    const size_t angles = (size_t)group->tokens * (size_t)group->pairs;
    group->frequencies = kvsim__allocate(base, (size_t)group->pairs, sizeof(double));
    group->slot_cosine = kvsim__allocate(base, angles, sizeof(double));
    group->slot_sine = kvsim__allocate(base, angles, sizeof(double));
    if (group->frequencies == NULL || group->slot_cosine == NULL || group->slot_sine == NULL) {
        return kvsim__fail_memory(base, angles * sizeof(double), "the angles of a group");
    }
    kvsim__rope_frequencies(rope, rotary, group->frequencies);
    for (int32_t i = 0; i < group->pairs; i++) {
        for (int32_t t = 0; t < group->tokens; t++) {
            const size_t at = (size_t)t * (size_t)group->pairs + (size_t)i;
            group->slot_cosine[at] = cos(t * group->frequencies[i]);
            group->slot_sine[at] = sin(t * group->frequencies[i]);
        }
    }
    return KVSIM_OK;
}

kvsim_status kvsim__group_prepare(kvsim__group *group, uint32_t view, int32_t kind, const kvsim_rope *rope,
                                  bool *centre) {
    kvsim__base *base = group->base;
    const bool derotated = view == KVSIM_VIEW_DEROTATED || view == KVSIM_VIEW_DEROTATED_CENTERED;
    const bool rotated = kind == KVSIM_KIND_KEY && rope->style != KVSIM_ROPE_NONE;
    *centre = view == KVSIM_VIEW_CENTERED || view == KVSIM_VIEW_DEROTATED_CENTERED;
    group->view = view;
    group->rotate = rotated && derotated;
    group->absmax = kvsim__allocate_zeroed(base, (size_t)group->heads, sizeof(double));
    group->mean_square = kvsim__allocate_zeroed(base, (size_t)group->heads, sizeof(double));
    group->exponents = kvsim__allocate_zeroed(base, group->slots, sizeof(int16_t));
    if (group->absmax == NULL || group->mean_square == NULL || group->exponents == NULL) {
        return kvsim__fail_memory(base, group->slots * sizeof(int16_t), "the statistics of a group");
    }
    return rotated ? open_angles(group, rope) : KVSIM_OK;
}

kvsim_status kvsim__group_open(kvsim__group *group, uint32_t view, int32_t kind, const kvsim_rope *rope) {
    bool centre;
    const kvsim_status status = kvsim__group_prepare(group, view, kind, rope, &centre);
    return status == KVSIM_OK ? measure(group, centre) : status;
}

void kvsim__group_close(kvsim__group *group) {
    kvsim__base *base = group->base;
    const size_t heads = (size_t)group->heads;
    const size_t angles = (size_t)group->tokens * (size_t)group->pairs;
    kvsim__release(base, group->absmax, heads, sizeof(double));
    kvsim__release(base, group->mean_square, heads, sizeof(double));
    kvsim__release(base, group->exponents, group->slots, sizeof(int16_t));
    kvsim__release(base, group->mean, heads * (size_t)group->head_dim, sizeof(double));
    kvsim__release(base, group->frequencies, (size_t)group->pairs, sizeof(double));
    kvsim__release(base, group->slot_cosine, angles, sizeof(double));
    kvsim__release(base, group->slot_sine, angles, sizeof(double));
    group->absmax = group->mean_square = group->mean = NULL;
    group->exponents = NULL;
    group->frequencies = group->slot_cosine = group->slot_sine = NULL;
}
