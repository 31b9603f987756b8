/*
 * Comparing on a device, on the twin: the figures of all pairs against those that the library finds on the CPU, the
 * lists against pairs computed in double, and lists that are too short.
 */
#include "backend/twin.h"
#include "device_tools.h"
#include "kvsim_check.h"

#define FINDINGS (KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BEST_MATCH)

/* What a compare of all pairs leaves on a device, and how it is asked. */
typedef struct outcome {
    device_set *set;
    kvsim__device_compare job;
    uint32_t panel_slots, row_step;
    kvsim__device_figures figures;
    uint64_t *threshold_bits, *best, *relation_bits, *sequence_pairs, *sequence_threshold_pairs;
    int64_t *sequence_units;
    uint32_t *only_least, *only_most;
    kvsim__device_pair *near, *top;
    uint32_t near_count, top_count, resolved;
} outcome;

enum { SEQUENCE_COUNT = 5 };

static void open_list(device_set *set, kvsim__device_list *list, uint32_t capacity) {
    list->items = device_room(set, capacity * sizeof *list->items, 0xee);
    list->count = device_room(set, sizeof *list->count, 0);
    list->capacity = capacity;
}

static void open_job(device_set *set, uint32_t capacity, outcome *out) {
    const size_t slots = set->recipe.slots, levels = set->plan.threshold_count;
    memset(out, 0, sizeof *out);
    out->set = set;
    out->panel_slots = out->row_step = 256;
    kvsim__device_compare *job = &out->job;
    job->flags = KVSIM__COMPARE_GATHER | KVSIM__COMPARE_DOUBT | KVSIM__COMPARE_NEAR | KVSIM__COMPARE_TOP;
    job->operand = set->packing.operand;
    job->elements = (uint32_t)set->n;
    job->top_cutoff = 0.9f;
    job->host_rules = rules_of(set);
    job->rules = device_copy(set, &job->host_rules, sizeof job->host_rules);
    kvsim__device_figures figures;
    memset(&figures, 0, sizeof figures);
    figures.cosine_min = UINT32_MAX;
    job->figures = device_copy(set, &figures, sizeof figures);
    job->threshold_bits = device_room(set, slots * sizeof(uint64_t), 0);
    job->best = device_room(set, slots * sizeof(uint64_t), 0);
    job->sequence_pairs = device_room(set, SEQUENCE_COUNT * sizeof(uint64_t), 0);
    job->sequence_units = device_room(set, SEQUENCE_COUNT * sizeof(int64_t), 0);
    job->sequence_threshold_pairs = device_room(set, SEQUENCE_COUNT * levels * sizeof(uint64_t), 0);
    job->only_least = device_room(set, slots * levels * sizeof(uint32_t), 0xff);
    job->only_most = device_room(set, slots * levels * sizeof(uint32_t), 0);
    job->relation_bits = device_room(set, slots * KVSIM__RELATION_CELLS * sizeof(uint64_t), 0);
    open_list(set, &job->doubtful, 65536);
    open_list(set, &job->near, capacity);
    open_list(set, &job->top, capacity);
}

static uint32_t count_of(device_set *set, const kvsim__device_list *list) {
    uint32_t count;
    ck_device(set, set->table->download(set->device, &count, list->count, sizeof count));
    return count;
}

/* One pair of panels, in ranges of rows, with what is in doubt resolved after each. */
static void compare_panels(outcome *of) {
    device_set *set = of->set;
    for (uint32_t row = 0; row < of->job.rows.count; row += of->row_step) {
        of->job.row_begin = row;
        of->job.row_end = row + of->row_step < of->job.rows.count ? row + of->row_step : of->job.rows.count;
        ck_device(set, set->table->fill(set->device, of->job.doubtful.count, 0, sizeof(uint32_t)));
        ck_device(set, set->table->compare(set->device, &of->job));
        const uint32_t doubtful = count_of(set, &of->job.doubtful);
        ck_assert_uint_le(doubtful, of->job.doubtful.capacity);
        ck_device(set, set->table->resolve(set->device, &set->group, set->largest_norm, &of->job, doubtful));
        of->resolved += doubtful;
    }
}

static void release_panel(device_set *set, const kvsim__device_panel *panel) {
    void *const arrays[] = {panel->operand, panel->signs,      panel->actives,     panel->codes,
                            panel->facts,   panel->sign_count, panel->active_count};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        set->table->release(set->device, arrays[i]);
    }
}

static void compare_all(outcome *of) {
    device_set *set = of->set;
    const uint32_t slots = set->recipe.slots, step = of->panel_slots;
    for (uint32_t first = 0; first < slots; first += step) {
        of->job.rows = pack_panel(set, first, slots - first < step ? slots - first : step);
        for (uint32_t earlier = 0; earlier < first; earlier += step) {
            of->job.columns = pack_panel(set, earlier, step);
            compare_panels(of);
            release_panel(set, &of->job.columns);
        }
        of->job.columns = of->job.rows;
        compare_panels(of);
        release_panel(set, &of->job.rows);
    }
}

static void read_outcome(outcome *of) {
    device_set *set = of->set;
    const kvsim__device_compare *job = &of->job;
    const size_t slots = set->recipe.slots, levels = set->plan.threshold_count;
    ck_device(set, set->table->download(set->device, &of->figures, job->figures, sizeof of->figures));
    of->threshold_bits = host_copy(set, job->threshold_bits, slots * sizeof(uint64_t));
    of->best = host_copy(set, job->best, slots * sizeof(uint64_t));
    of->sequence_pairs = host_copy(set, job->sequence_pairs, SEQUENCE_COUNT * sizeof(uint64_t));
    of->sequence_units = host_copy(set, job->sequence_units, SEQUENCE_COUNT * sizeof(int64_t));
    of->sequence_threshold_pairs =
        host_copy(set, job->sequence_threshold_pairs, SEQUENCE_COUNT * levels * sizeof(uint64_t));
    of->only_least = host_copy(set, job->only_least, slots * levels * sizeof(uint32_t));
    of->only_most = host_copy(set, job->only_most, slots * levels * sizeof(uint32_t));
    of->relation_bits = host_copy(set, job->relation_bits, slots * KVSIM__RELATION_CELLS * sizeof(uint64_t));
    of->near_count = count_of(set, &job->near);
    of->top_count = count_of(set, &job->top);
    of->near = host_copy(set, job->near.items, job->near.capacity * sizeof *of->near);
    of->top = host_copy(set, job->top.items, job->top.capacity * sizeof *of->top);
}

/* ---- the same on the CPU ---- */

/* Errors as the sink of the library receives them, [measure][later, earlier]; INFINITY where it receives none. */
typedef struct recorded {
    double *errors[KVSIM__ERRORS];
    size_t slots;
} recorded;

static bool record_begin(void *user, size_t first, size_t count) {
    (void)user;
    (void)first;
    (void)count;
    return true;
}

static void record_tile(void *user, size_t later, size_t rows, size_t earlier, size_t columns,
                        const kvsim__error_cells *errors, size_t stride) {
    recorded *to = user;
    for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
        const double *cells = errors->cells[measure][KVSIM__KEY];
        for (size_t i = 0; i < rows && cells != NULL; i++) {
            memcpy(to->errors[measure] + (later + i) * to->slots + earlier, cells + i * stride,
                   columns * sizeof *cells);
        }
    }
}

static void record_panel(void *user, size_t first, size_t count, const kvsim__error_cells *errors) {
    recorded *to = user;
    for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
        const double *cells = errors->cells[measure][KVSIM__KEY];
        for (size_t i = 1; i < count && cells != NULL; i++) {
            memcpy(to->errors[measure] + (first + i) * to->slots + first, cells + i * (i - 1) / 2, i * sizeof *cells);
        }
    }
}

static recorded *compare_on_cpu(device_set *set) {
    recorded *to = get_memory(sizeof *to);
    to->slots = set->recipe.slots;
    for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
        to->errors[measure] = get_memory(to->slots * to->slots * sizeof(double));
        for (size_t i = 0; i < to->slots * to->slots; i++) {
            to->errors[measure][i] = INFINITY;
        }
    }
    set->pairing.sink = (kvsim__error_sink){to, record_begin, record_tile, record_panel};
    ck_status(set->ctx, kvsim__figures_open(&set->pairing, &set->pairing.figures[KVSIM__KEY]), KVSIM_OK);
    ck_status(set->ctx, kvsim__pairs_run(&set->pairing), KVSIM_OK);
    return to;
}

/* ---- figures ---- */

static void check_sums(const outcome *of, const kvsim__figures *cpu) {
    const kvsim__device_figures *figures = &of->figures;
    const double pairs = (double)cpu->pairs, largest = of->set->largest_norm;
    const double cosine = (double)figures->cosine_units / (double)KVSIM__DEVICE_COSINE_UNITS;
    const double distance = (double)figures->distance_units / (double)KVSIM__DISTANCE_UNITS * largest;
    double relative = 0.0;
    for (int limb = 0; limb < KVSIM__LIMBS; limb++) {
        relative += ldexp((double)figures->relative_units[limb], KVSIM__LIMB_BITS * limb - 20);
    }
    ck_assert_double_le(fabs(cosine - cpu->cosine_sum), 2e-6 * pairs);
    ck_assert_double_le(fabs(distance - cpu->l2_sum), 4e-6 * pairs * largest);
    /* An error is at most about 1 + y / x. */
    ck_assert_double_le(fabs(relative - cpu->relative_sum), 1e-5 * cpu->relative_sum + 1e-6 * pairs);
    ck_assert_uint_eq(figures->relative_infinite, cpu->relative_infinite);
    ck_assert_double_le(fabs((double)kvsim__key_float(figures->cosine_min) - cpu->cosine_min), 2e-6);
    ck_assert_double_le(fabs((double)kvsim__key_float(figures->cosine_max) - cpu->cosine_max), 2e-6);
    for (int h = 0; h < 3; h++) {
        /* Counts up to a bin's edge differ by the few pairs that lie at it. */
        uint64_t own = 0, other = 0;
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            own += figures->histograms[h][bin];
            other += cpu->histograms[h][bin];
            const uint64_t apart = own > other ? own - other : other - own;
            require(apart <= 2 + cpu->pairs / 1000, "histogram %d, up to bin %d: %llu and %llu", h, bin,
                    (unsigned long long)own, (unsigned long long)other);
        }
        ck_assert_uint_eq(own, other);
    }
}

static void check_slots(const outcome *of, const kvsim__figures *cpu) {
    const device_set *set = of->set;
    const uint32_t levels = set->plan.threshold_count;
    for (uint32_t slot = 0; slot < set->recipe.slots; slot++) {
        ck_assert_uint_eq(of->threshold_bits[slot], cpu->threshold_bits[slot]);
        ck_assert_int_eq(of->best[slot] != 0, cpu->best_slot[slot] != KVSIM__NONE);
        if (of->best[slot] != 0) {
            /* Where several are alike within the bound, either may be the best. */
            const double best = (double)kvsim__key_float((uint32_t)(of->best[slot] >> 32));
            require(fabs(best - cpu->best_cosine[slot]) <= 2e-6, "slot %u: %.9g, not %.9g", slot, best,
                    cpu->best_cosine[slot]);
            require((uint32_t)~of->best[slot] < slot, "slot %u: the best is not earlier", slot);
        }
        for (uint32_t t = 0; t < levels; t++) {
            const size_t at = (size_t)slot * levels + t;
            const uint32_t only = of->only_least[at] == UINT32_MAX              ? KVSIM__NONE
                                  : of->only_most[at] == of->only_least[at] + 1 ? of->only_least[at]
                                                                                : KVSIM__MANY;
            ck_assert_uint_eq(only, cpu->by_sequence.only_match[at]);
        }
        for (uint32_t relation = 0; relation < KVSIM__RELATION_CELLS; relation++) {
            const size_t at = (size_t)slot * KVSIM__RELATION_CELLS + relation;
            ck_assert_uint_eq(of->relation_bits[at], cpu->relation_bits[at]);
        }
    }
}

static void check_places(const outcome *of, const kvsim__figures *cpu) {
    const uint32_t levels = of->set->plan.threshold_count;
    for (uint32_t s = 0; s < SEQUENCE_COUNT; s++) {
        ck_assert_uint_eq(of->sequence_pairs[s], cpu->by_sequence.pairs[s]);
        ck_assert_double_le(fabs((double)(of->sequence_units[s] - cpu->by_sequence.cosine_units[s])),
                            2e-6 * (double)KVSIM__DEVICE_COSINE_UNITS * (double)of->sequence_pairs[s]);
        for (uint32_t t = 0; t < levels; t++) {
            ck_assert_uint_eq(of->sequence_threshold_pairs[s * levels + t],
                              cpu->by_sequence.threshold_pairs[s * levels + t]);
        }
    }
    for (uint32_t cell = 0; cell < KVSIM__STRATA_CELLS; cell++) {
        const kvsim__stratum_figures *stratum =
            &cpu->strata[cell / KVSIM__RELATION_CELLS][cell % KVSIM__RELATION_CELLS];
        ck_assert_uint_eq(of->figures.strata_pairs[cell], stratum->pairs);
        ck_assert_double_le(fabs((double)(of->figures.strata_units[cell] - stratum->cosine_units)),
                            2e-6 * (double)KVSIM__DEVICE_COSINE_UNITS * (double)stratum->pairs);
        for (uint32_t t = 0; t < levels; t++) {
            ck_assert_uint_eq(of->figures.strata_threshold_pairs[cell][t], stratum->threshold_pairs[t]);
        }
    }
}

/* ---- lists ---- */

/* Errors of a listed pair, as the host makes them from the list and the norms. */
static void find_errors(const device_set *set, const kvsim__device_pair *of, double errors[KVSIM__ERRORS]) {
    const double distance = of->distance * set->largest_norm;
    const double x = set->norms[of->later], y = set->norms[of->earlier];
    errors[KVSIM__ERROR_PLAIN] = x > 0.0 ? distance / x : distance > 0.0 ? (double)INFINITY : 0.0;
    errors[KVSIM__ERROR_SCALED] = x > 0.0 ? sqrt(1.0 - of->cosine * of->cosine) : errors[KVSIM__ERROR_PLAIN];
    errors[KVSIM__ERROR_PACKING] = x + y > 0.0 ? distance / (x + y) : 0.0;
}

static bool is_filtered(const device_set *set, uint32_t later, uint32_t earlier) {
    return set->plan.different_sequences && set->sequences[later] == set->sequences[earlier];
}

/* Every pair that is near by a measure is on the list, once, and is on the same side of every budget. */
static void check_near(const outcome *of, const recorded *cpu) {
    const device_set *set = of->set;
    const uint32_t slots = set->recipe.slots;
    const double limit = set->plan.budgets[set->plan.budget_count - 1];
    const bool bounds = (set->plan.flags & KVSIM_COMPUTE_BOUNDS) != 0;
    uint8_t *listed = get_memory((size_t)slots * slots);
    ck_assert_uint_gt(of->near_count, 0);
    ck_assert_uint_le(of->near_count, of->job.near.capacity);
    for (uint32_t i = 0; i < of->near_count; i++) {
        const kvsim__device_pair *pair = &of->near[i];
        const size_t cell = (size_t)pair->later * slots + pair->earlier;
        double errors[KVSIM__ERRORS];
        require(pair->earlier < pair->later && pair->later < slots && listed[cell] == 0, "pair %u, %u", pair->later,
                pair->earlier);
        listed[cell] = 1;
        find_errors(set, pair, errors);
        for (int measure = 0; measure < (bounds ? KVSIM__ERRORS : 1); measure++) {
            if (measure != KVSIM__ERROR_PACKING && is_filtered(set, pair->later, pair->earlier)) {
                continue;
            }
            const double error = cpu->errors[measure][cell];
            /* Errors below the limit are exact within the cosine's bound in the square. */
            require(error > limit + 0.01 || fabs(errors[measure] * errors[measure] - error * error) < 1e-5,
                    "pair %u, %u: error %d is %.9g, not %.9g", pair->later, pair->earlier, measure, errors[measure],
                    error);
            for (uint32_t b = 0; b < set->plan.budget_count && measure != KVSIM__ERROR_PACKING; b++) {
                require((errors[measure] <= set->plan.budgets[b]) == (error <= set->plan.budgets[b]),
                        "pair %u, %u: error %d is %.17g, not %.17g", pair->later, pair->earlier, measure,
                        errors[measure], error);
            }
        }
    }
    for (uint32_t later = 0; later < slots; later++) {
        for (uint32_t earlier = 0; earlier < later; earlier++) {
            const size_t cell = (size_t)later * slots + earlier;
            bool near = false;
            for (int measure = 0; measure < KVSIM__ERRORS; measure++) {
                near = near || cpu->errors[measure][cell] <= limit;
            }
            if (near && (set->plan.different_sequences || set->classes[earlier] == earlier)) {
                require(listed[cell] == 1, "pair %u, %u is missing", later, earlier);
            }
        }
    }
}

static void check_top(const outcome *of) {
    device_set *set = of->set;
    const uint32_t slots = set->recipe.slots;
    const size_t bytes = kvsim__scratch_size(set->cpu);
    kvsim__scratch a = kvsim__scratch_at(set->cpu, get_memory(bytes)),
                   b = kvsim__scratch_at(set->cpu, get_memory(bytes));
    double *listed = get_memory((size_t)slots * slots * sizeof *listed);
    for (uint32_t i = 0; i < of->top_count; i++) {
        double *cell = &listed[(size_t)of->top[i].later * slots + of->top[i].earlier];
        require(*cell == 0.0, "pair %u, %u is there twice", of->top[i].later, of->top[i].earlier);
        *cell = of->top[i].cosine;
    }
    for (uint32_t later = 0; later < slots; later++) {
        for (uint32_t earlier = 0; earlier < later; earlier++) {
            const double cosine = listed[(size_t)later * slots + earlier];
            if (set->pages[later] == KVSIM__NONE || set->pages[earlier] == KVSIM__NONE ||
                is_filtered(set, later, earlier)) {
                require(cosine == 0.0, "pair %u, %u does not count", later, earlier);
                continue;
            }
            const double exact = kvsim__rescore(set->cpu, later, earlier, &a, &b).cosine;
            require(cosine != 0.0 ? fabs(cosine - exact) <= 2e-6 && exact >= 0.9 - 2e-6 : exact < 0.9 + 2e-6,
                    "pair %u, %u: %.9g, listed %.9g", later, earlier, exact, cosine);
        }
    }
}

/* ---- tests ---- */

static const device_recipe recipes[] = {
    {.seed = 21,
     .slots = 120,
     .tokens = 2,
     .heads = 2,
     .head_dim = 6,
     .dtype = KVSIM__F32,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS},
    {.seed = 22,
     .slots = 540,
     .tokens = 2,
     .heads = 1,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS,
     .with_absent = true},
    {.seed = 23,
     .slots = 300,
     .tokens = 2,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS | KVSIM_COMPUTE_BOUNDS,
     .different_sequences = true},
    {.seed = 24,
     .slots = 300,
     .tokens = 2,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .view = KVSIM_VIEW_DEROTATED_CENTERED,
     .flags = FINDINGS | KVSIM_COMPUTE_BOUNDS,
     .with_absent = true},
    {.seed = 25,
     .slots = 200,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E4M3FN,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS,
     .scale_mode = KVSIM_SCALE_TENSOR,
     .different_sequences = true},
    {.seed = 26,
     .slots = 200,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E5M2,
     .view = KVSIM_VIEW_CENTERED,
     .flags = FINDINGS | KVSIM_COMPUTE_BOUNDS},
    {.seed = 27,
     .slots = 200,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS,
     .scale_mode = KVSIM_SCALE_TOKEN_HEAD},
    {.seed = 28,
     .slots = 200,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS | KVSIM_COMPUTE_BOUNDS,
     .scale_mode = KVSIM_SCALE_TENSOR},
    {.seed = 29,
     .slots = 100,
     .tokens = 2,
     .heads = 2,
     .head_dim = 6,
     .dtype = KVSIM__F32,
     .view = KVSIM_VIEW_DEROTATED,
     .flags = FINDINGS,
     .magnitude = 1e-25},
    {.seed = 30,
     .slots = 150,
     .tokens = 4,
     .heads = 3,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .view = KVSIM_VIEW_RAW,
     .flags = FINDINGS,
     .only_head = 3},
};

enum { RECIPES = sizeof recipes / sizeof recipes[0], CAPACITY = 60000 };

static device_set *open_row(int row) {
    return open_device_set(kvsim_backend_query(KVSIM__BACKEND_VERSION), &recipes[row]);
}

static void close_row(device_set *set) {
    const kvsim__twin *twin = kvsim_twin();
    ck_assert_msg(twin->misuses == 0, "%s", twin->misuse);
    close_device_set(set);
    ck_assert_uint_eq(twin->blocks, 0);
}

static void check_everything(outcome *of) {
    const recorded *cpu = compare_on_cpu(of->set);
    const kvsim__figures *figures = &of->set->pairing.figures[KVSIM__KEY];
    read_outcome(of);
    ck_assert_uint_gt(figures->pairs, 1000);
    ck_assert_uint_eq(of->figures.pairs, figures->pairs);
    for (uint32_t t = 0; t < of->set->plan.threshold_count; t++) {
        ck_assert_uint_eq(of->figures.threshold_pairs[t], figures->threshold_pairs[t]);
    }
    check_sums(of, figures);
    check_slots(of, figures);
    check_places(of, figures);
    check_near(of, cpu);
    check_top(of);
}

START_TEST(figures_are_those_of_the_cpu) {
    device_set *set = open_row(_i);
    outcome of;
    open_job(set, CAPACITY, &of);
    compare_all(&of);
    ck_assert_uint_gt(of.resolved, 0);
    check_everything(&of);
    close_row(set);
}
END_TEST

/* Products may be wrong up to the bound, and pairs may come in any order. */
START_TEST(figures_hold_with_wrong_products_in_another_order) {
    device_set *set = open_row(_i);
    outcome of;
    kvsim_twin()->noise = 1.0;
    kvsim_twin()->backwards = 1;
    open_job(set, CAPACITY, &of);
    compare_all(&of);
    check_everything(&of);
    close_row(set);
}
END_TEST

START_TEST(figures_do_not_depend_on_ranges_of_rows) {
    device_set *set = open_row(_i);
    outcome whole, parts;
    open_job(set, CAPACITY, &whole);
    whole.panel_slots = 1024;
    whole.row_step = 1024;
    compare_all(&whole);
    read_outcome(&whole);
    open_job(set, CAPACITY, &parts);
    parts.panel_slots = 512;
    parts.row_step = 256;
    compare_all(&parts);
    read_outcome(&parts);
    ck_assert_mem_eq(&whole.figures, &parts.figures, sizeof whole.figures);
    ck_assert_mem_eq(whole.best, parts.best, set->recipe.slots * sizeof *whole.best);
    ck_assert_uint_eq(whole.near_count, parts.near_count);
    ck_assert_uint_eq(whole.top_count, parts.top_count);
    close_row(set);
}
END_TEST

/* A list that is too short says how long it should be, holds as many as fit, and nothing is written past it. */
START_TEST(short_lists_count_on) {
    device_set *set = open_row(_i);
    outcome whole, cut;
    open_job(set, CAPACITY, &whole);
    compare_all(&whole);
    read_outcome(&whole);
    open_job(set, 5, &cut);
    kvsim__device_pair *room = device_room(set, 9 * sizeof *room, 0x5a);
    cut.job.near.items = room;
    compare_all(&cut);
    read_outcome(&cut);
    ck_assert_uint_gt(whole.near_count, 5);
    ck_assert_uint_eq(cut.near_count, whole.near_count);
    ck_assert_uint_eq(cut.top_count, whole.top_count);
    ck_assert_mem_eq(&whole.figures, &cut.figures, sizeof whole.figures);
    const unsigned char *bytes = host_copy(set, room, 9 * sizeof *room);
    for (size_t i = 5 * sizeof *room; i < 9 * sizeof *room; i++) {
        ck_assert_uint_eq(bytes[i], 0x5a);
    }
    /* Listing alone counts nothing, and finds the same pairs. */
    outcome again;
    open_job(set, CAPACITY, &again);
    again.job.flags = KVSIM__COMPARE_NEAR | KVSIM__COMPARE_DOUBT;
    compare_all(&again);
    read_outcome(&again);
    ck_assert_uint_eq(again.near_count, whole.near_count);
    ck_assert_uint_eq(again.figures.pairs, 0);
    ck_assert_uint_eq(again.top_count, 0);
    ck_assert_mem_eq(again.near, whole.near, whole.near_count * sizeof *whole.near);
    /* The list of doubtful pairs is bounded too; what does not fit can be compared again. */
    open_job(set, CAPACITY, &cut);
    cut.job.doubtful.capacity = 1;
    cut.job.rows = cut.job.columns = pack_panel(set, 0, 64);
    cut.job.row_end = 64;
    ck_device(set, set->table->compare(set->device, &cut.job));
    ck_assert_uint_gt(count_of(set, &cut.job.doubtful), 1);
    close_row(set);
}
END_TEST

START_TEST(jobs_against_the_rules_are_refused) {
    device_set *set = open_row(0);
    outcome of;
    open_job(set, 10, &of);
    of.job.rows = of.job.columns = pack_panel(set, 0, 120);
    of.job.row_end = 120;
    kvsim__device_compare wrong = of.job;
    wrong.row_begin = 100;
    ck_assert_int_eq(set->table->compare(set->device, &wrong), KVSIM_E_BACKEND);
    wrong = of.job;
    wrong.host_rules.bound = 1.0f;
    ck_assert_int_eq(set->table->compare(set->device, &wrong), KVSIM_E_BACKEND);
    wrong = of.job;
    wrong.figures = NULL;
    ck_assert_int_eq(set->table->compare(set->device, &wrong), KVSIM_E_BACKEND);
    wrong = of.job;
    wrong.threshold_bits = device_room(set, 8, 0);
    ck_assert_int_eq(set->table->compare(set->device, &wrong), KVSIM_E_BACKEND);
    wrong = of.job;
    wrong.rows.operand = &wrong;
    ck_assert_int_eq(set->table->compare(set->device, &wrong), KVSIM_E_BACKEND);
    ck_assert_int_eq(set->table->compare(set->device, &of.job), KVSIM_OK);
    ck_assert_int_eq(set->table->resolve(set->device, &set->group, set->largest_norm, &of.job, 65537), KVSIM_E_BACKEND);
    ck_assert_uint_eq(kvsim_twin()->misuses > 5, 1);
    close_device_set(set);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("device_pairs");
    TCase *pairs = kvsim_check_case(suite, "pairs");
    tcase_add_loop_test(pairs, figures_are_those_of_the_cpu, 0, RECIPES);
    tcase_add_loop_test(pairs, figures_hold_with_wrong_products_in_another_order, 0, RECIPES);
    tcase_add_loop_test(pairs, figures_do_not_depend_on_ranges_of_rows, 1, 4);
    tcase_add_loop_test(pairs, short_lists_count_on, 0, RECIPES);
    tcase_add_test(pairs, jobs_against_the_rules_are_refused);
    return kvsim_check_main(suite, "test_device_pairs", 3 * RECIPES + 4);
}
