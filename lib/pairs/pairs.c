#define _POSIX_C_SOURCE 200809L
#include "pairs.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "tile.h"
#include "top.h"

/* Two panels, the errors of a diagonal and the tile sums stay below 64 MiB together. */
enum { PANELS_BYTES = 40 << 20, MAX_PANEL_SLOTS = 512, PROGRESS_INTERVAL = 100000000 };

/* Every array of the figures, with its length: one place for making and giving back. */
typedef struct figure_array {
    void **memory;
    size_t count, size;
    bool wanted;
} figure_array;

enum { FIGURE_ARRAYS = 10 };

static void list_arrays(const kvsim__pairing *pairing, kvsim__figures *figures, figure_array out[FIGURE_ARRAYS]) {
    const kvsim__plan *plan = pairing->plan;
    const size_t slots = pairing->slots, sequences = pairing->places.sequence_count;
    const bool best = (plan->flags & KVSIM_COMPUTE_BEST_MATCH) != 0;
    const bool chance = (plan->flags & KVSIM_COMPUTE_CHANCE) != 0;
    const bool strata = (plan->flags & KVSIM_COMPUTE_STRATA) != 0;
    kvsim__sequence_figures *by = &figures->by_sequence;
    const figure_array arrays[FIGURE_ARRAYS] = {
        {(void **)&figures->threshold_bits, slots, sizeof(uint64_t), true},
        {(void **)&figures->best_cosine, slots, sizeof(double), best},
        {(void **)&figures->best_slot, slots, sizeof(uint32_t), best},
        {(void **)&figures->top, plan->top_k, sizeof *figures->top, plan->top_k > 0},
        {(void **)&by->pairs, sequences, sizeof(uint64_t), chance},
        {(void **)&by->cosine_units, sequences, sizeof(int64_t), chance},
        {(void **)&by->threshold_pairs, sequences * plan->threshold_count, sizeof(uint64_t), chance},
        {(void **)&by->only_match, slots * plan->threshold_count, sizeof(uint32_t), chance},
        {(void **)&figures->strata, KVSIM__STRATA, sizeof *figures->strata, strata},
        {(void **)&figures->relation_bits, slots * KVSIM__RELATIONS, sizeof(uint64_t), strata},
    };
    memcpy(out, arrays, sizeof arrays);
}

kvsim_status kvsim__figures_open(const kvsim__pairing *pairing, kvsim__figures *figures) {
    figure_array arrays[FIGURE_ARRAYS];
    memset(figures, 0, sizeof *figures);
    figures->cosine_min = INFINITY;
    figures->cosine_max = -INFINITY;
    list_arrays(pairing, figures, arrays);
    for (int i = 0; i < FIGURE_ARRAYS; i++) {
        if (arrays[i].wanted) {
            *arrays[i].memory = kvsim__allocate_zeroed(pairing->base, arrays[i].count, arrays[i].size);
            if (*arrays[i].memory == NULL) {
                return kvsim__fail_memory(pairing->base, arrays[i].count * arrays[i].size, "the figures of a group");
            }
        }
    }
    for (size_t i = 0; i < pairing->slots && figures->best_cosine != NULL; i++) {
        figures->best_cosine[i] = -INFINITY;
        figures->best_slot[i] = KVSIM__NONE;
    }
    for (size_t i = 0; i < pairing->slots * pairing->plan->threshold_count && figures->by_sequence.pairs != NULL; i++) {
        figures->by_sequence.only_match[i] = KVSIM__NONE;
    }
    return KVSIM_OK;
}

void kvsim__figures_close(const kvsim__pairing *pairing, kvsim__figures *figures) {
    figure_array arrays[FIGURE_ARRAYS];
    list_arrays(pairing, figures, arrays);
    for (int i = 0; i < FIGURE_ARRAYS; i++) {
        kvsim__release(pairing->base, *arrays[i].memory, arrays[i].count, arrays[i].size);
        *arrays[i].memory = NULL;
    }
}

void kvsim__progress_report(kvsim__progress *progress, const kvsim__plan *plan, bool force) {
    if (plan->progress == NULL) {
        return;
    }
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    const int64_t now = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
    if (!force && now - progress->last_call < PROGRESS_INTERVAL) {
        return;
    }
    progress->last_call = now;
    if (plan->progress(plan->progress_user, progress->done, progress->total) != 0) {
        atomic_store(&progress->stop, true);
    }
}

kvsim_status kvsim__fail_cancelled(kvsim__base *base) {
    return kvsim__fail(base, KVSIM_E_CANCELLED, "cancelled by the progress callback");
}

/* What the pairs of panels of one run share. */
typedef struct schedule {
    kvsim__pairing *pairing;
    size_t capacity;
    kvsim__panel panels[2];
    kvsim__tile_sums *sums;
    size_t sum_count;
    double *errors[KVSIM__ERRORS][KVSIM__KINDS]; /* triangles */
    int measures;
    size_t error_count;
    pthread_mutex_t lock;
} schedule;

static size_t choose_capacity(const kvsim__pairing *pairing) {
    const size_t per_strip = kvsim__panel_bytes(pairing, KVSIM__STRIP);
    size_t capacity = PANELS_BYTES / 2 / per_strip * KVSIM__STRIP;
    const size_t all = (pairing->slots + KVSIM__STRIP - 1) / KVSIM__STRIP * KVSIM__STRIP;
    capacity = capacity > MAX_PANEL_SLOTS ? MAX_PANEL_SLOTS : capacity < KVSIM__STRIP ? KVSIM__STRIP : capacity;
    return capacity > all ? all : capacity;
}

static void compare_panels(schedule *work, const kvsim__panel *rows, const kvsim__panel *columns) {
    kvsim__pairing *pairing = work->pairing;
    kvsim__tile_job job = {
        .pairing = pairing,
        .kernels = kvsim__kernel_table(),
        .rows = rows,
        .columns = columns,
        .tile_rows = (uint32_t)((rows->count + KVSIM__TILE - 1) / KVSIM__TILE),
        .tile_columns = (uint32_t)((columns->count + KVSIM__TILE - 1) / KVSIM__TILE),
        .sums = work->sums,
        .lock = &work->lock,
    };
    const uint32_t tiles = job.tile_rows * job.tile_columns;
    memset(work->sums, 0, work->sum_count * sizeof *work->sums);
    memcpy(job.errors, work->errors, sizeof job.errors);
    kvsim__parallel_for(pairing->base, tiles, kvsim__tile_run, &job);
    for (size_t tile = 0; tile < tiles; tile++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            const kvsim__tile_sums *sums = &work->sums[tile * KVSIM__KINDS + (size_t)kind];
            pairing->figures[kind].cosine_sum += sums->cosine;
            pairing->figures[kind].l2_sum += sums->l2;
            pairing->figures[kind].relative_sum += sums->relative;
            pairing->figures[kind].jaccard_sum += sums->jaccard;
        }
    }
}

static void run_schedule(schedule *work) {
    kvsim__pairing *pairing = work->pairing;
    const atomic_bool *stop = &pairing->progress->stop;
    for (size_t first = 0; first < pairing->slots && !atomic_load(stop); first += work->capacity) {
        const size_t left = pairing->slots - first;
        kvsim__panel *rows = &work->panels[0];
        const size_t count = left < work->capacity ? left : work->capacity;
        if (!pairing->sink.begin(pairing->sink.user, first, count)) {
            atomic_store(&pairing->progress->out_of_memory, true);
            atomic_store(&pairing->progress->stop, true);
            return;
        }
        kvsim__panel_fill(pairing, rows, first, count);
        for (size_t earlier = 0; earlier < first && !atomic_load(stop); earlier += work->capacity) {
            kvsim__panel_fill(pairing, &work->panels[1], earlier, work->capacity);
            compare_panels(work, rows, &work->panels[1]);
        }
        compare_panels(work, rows, rows);
        if (!atomic_load(stop)) {
            kvsim__error_cells errors;
            for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
                for (int kind = 0; kind < KVSIM__KINDS; kind++) {
                    errors.cells[measure][kind] = work->errors[measure][kind];
                }
            }
            pairing->sink.panel(pairing->sink.user, first, rows->count, &errors);
        }
    }
}

static kvsim_status schedule_open(schedule *work) {
    kvsim__pairing *pairing = work->pairing;
    const size_t side = (work->capacity + KVSIM__TILE - 1) / KVSIM__TILE;
    work->sum_count = side * side * KVSIM__KINDS;
    work->error_count = work->capacity * (work->capacity - 1) / 2;
    work->measures = (pairing->plan->flags & KVSIM_COMPUTE_BOUNDS) != 0 ? KVSIM__ERRORS : 1;
    kvsim_status status = kvsim__panel_open(pairing, work->capacity, &work->panels[0]);
    if (status == KVSIM_OK && work->capacity < pairing->slots) {
        status = kvsim__panel_open(pairing, work->capacity, &work->panels[1]);
    }
    work->sums = kvsim__allocate(pairing->base, work->sum_count, sizeof *work->sums);
    bool complete = work->sums != NULL;
    for (int measure = 0; measure < work->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            double *triangle = kvsim__allocate(pairing->base, work->error_count, sizeof(double));
            for (size_t i = 0; i < work->error_count && triangle != NULL; i++) {
                triangle[i] = INFINITY; /* stays so for a kind that is absent */
            }
            work->errors[measure][kind] = triangle;
            complete = complete && triangle != NULL;
        }
    }
    return status != KVSIM_OK || complete
               ? status
               : kvsim__fail_memory(pairing->base, work->error_count * sizeof(double), "the errors of a panel");
}

static void schedule_close(schedule *work) {
    kvsim__pairing *pairing = work->pairing;
    kvsim__panel_close(pairing, &work->panels[0]);
    kvsim__panel_close(pairing, &work->panels[1]);
    kvsim__release(pairing->base, work->sums, work->sum_count, sizeof *work->sums);
    for (int measure = 0; measure < work->measures; measure++) {
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            kvsim__release(pairing->base, work->errors[measure][kind], work->error_count, sizeof(double));
        }
    }
}

kvsim_status kvsim__pairs_run(kvsim__pairing *pairing) {
    kvsim__base *base = pairing->base;
    if (pairing->slots == 0 || (!pairing->present[KVSIM__KEY] && !pairing->present[KVSIM__VALUE])) {
        return KVSIM_OK;
    }
    schedule work = {.pairing = pairing, .capacity = choose_capacity(pairing)};
    kvsim_status status = schedule_open(&work);
    if (status == KVSIM_OK && pthread_mutex_init(&work.lock, NULL) != 0) {
        status = kvsim__fail(base, KVSIM_E_NOMEM, "the system has no room for a mutex");
    } else if (status == KVSIM_OK) {
        run_schedule(&work);
        (void)pthread_mutex_destroy(&work.lock);
    }
    schedule_close(&work);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__top_sort(pairing->figures[kind].top, pairing->figures[kind].top_count);
    }
    if (status == KVSIM_OK && atomic_load(&pairing->progress->out_of_memory)) {
        status = kvsim__fail_memory(base, sizeof(double), "comparing pairs");
    } else if (status == KVSIM_OK && atomic_load(&pairing->progress->stop)) {
        status = kvsim__fail_cancelled(base);
    }
    return status;
}
