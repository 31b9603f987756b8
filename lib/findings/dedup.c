#include "dedup.h"

#include <math.h>

/* Greedy runs: with the plain error, and with the best scale. Their numbers are those of the errors. */
enum { RUNS = KVSIM__ERROR_PACKING };

/* Pages nearer than a budget plus this are taken for a conflict of the lower bound, whose errors are not re-scored:
   more than the packed arithmetic can be wrong by (see KVSIM__COSINE_BOUND). */
#define PACKING_SLACK         3e-5
#define PACKING_SLACK_AT_ZERO 1e-6

/* The nearest representative found so far for a slot of the current panel. */
typedef struct candidate {
    double error;
    uint32_t slot;
} candidate;

struct kvsim__dedup {
    kvsim__base *base;
    const kvsim__plan *plan;
    size_t slots;
    uint32_t budgets;
    int runs; /* 1, or RUNS with bounds */
    const uint8_t *present[KVSIM__LANES];
    uint64_t *representative; /* [runs, KVSIM__LANES, slots] bit b: representative at budget b */
    uint32_t *sharers;        /* [runs, KVSIM__LANES, budgets, slots] pages that share this one */
    uint64_t *apart;          /* [KVSIM__LANES, slots] bit b: in the set behind the lower bound; with bounds only */
    candidate *nearest;       /* [slots of the panel, runs, KVSIM__LANES, budgets] */
    size_t nearest_capacity;
    uint64_t *conflicts; /* [slots of the panel, KVSIM__LANES] bit b: too near to one that is in the set */
    size_t conflict_capacity;
    size_t panel_first;
    bool keep_assignments;
    kvsim__assignment *assignments;
    size_t assignment_count, assignment_capacity;
    bool out_of_memory;
};

static bool has_bounds(const kvsim__dedup *dedup) {
    return dedup->runs == RUNS;
}

kvsim_status kvsim__dedup_open(kvsim__base *base, const kvsim__plan *plan, size_t slots,
                               const uint8_t *const present[KVSIM__LANES], bool keep_assignments, kvsim__dedup **out) {
    kvsim__dedup *dedup = kvsim__allocate_zeroed(base, 1, sizeof *dedup);
    *out = dedup;
    if (dedup == NULL) {
        return kvsim__fail_memory(base, sizeof *dedup, "dedup groups");
    }
    dedup->base = base;
    dedup->plan = plan;
    dedup->slots = slots;
    dedup->budgets = plan->budget_count;
    dedup->runs = (plan->flags & KVSIM_COMPUTE_BOUNDS) != 0 ? RUNS : 1;
    dedup->keep_assignments = keep_assignments;
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        dedup->present[lane] = present[lane];
    }
    const size_t lanes = slots * KVSIM__LANES;
    dedup->representative = kvsim__allocate_zeroed(base, lanes * (size_t)dedup->runs, sizeof(uint64_t));
    dedup->sharers = kvsim__allocate_zeroed(base, lanes * (size_t)dedup->runs * dedup->budgets, sizeof(uint32_t));
    dedup->apart = has_bounds(dedup) ? kvsim__allocate_zeroed(base, lanes, sizeof(uint64_t)) : NULL;
    return dedup->representative != NULL && dedup->sharers != NULL && (dedup->apart != NULL || !has_bounds(dedup))
               ? KVSIM_OK
               : kvsim__fail_memory(base, lanes * sizeof(uint64_t), "dedup groups");
}

void kvsim__dedup_close(kvsim__dedup *dedup) {
    if (dedup == NULL) {
        return;
    }
    kvsim__base *base = dedup->base;
    const size_t lanes = dedup->slots * KVSIM__LANES;
    kvsim__release(base, dedup->representative, lanes * (size_t)dedup->runs, sizeof(uint64_t));
    kvsim__release(base, dedup->sharers, lanes * (size_t)dedup->runs * dedup->budgets, sizeof(uint32_t));
    kvsim__release(base, dedup->apart, lanes, sizeof(uint64_t));
    kvsim__release(base, dedup->nearest, dedup->nearest_capacity, sizeof *dedup->nearest);
    kvsim__release(base, dedup->conflicts, dedup->conflict_capacity, sizeof *dedup->conflicts);
    kvsim__release(base, dedup->assignments, dedup->assignment_capacity, sizeof *dedup->assignments);
    kvsim__release(base, dedup, 1, sizeof *dedup);
}

static bool begin_panel(void *user, size_t first, size_t count) {
    kvsim__dedup *dedup = user;
    const size_t candidates = count * (size_t)dedup->runs * KVSIM__LANES * dedup->budgets;
    const size_t conflicts = has_bounds(dedup) ? count * KVSIM__LANES : 0;
    if (kvsim__grow(dedup->base, (void **)&dedup->nearest, &dedup->nearest_capacity, candidates,
                    sizeof *dedup->nearest) != KVSIM_OK ||
        kvsim__grow(dedup->base, (void **)&dedup->conflicts, &dedup->conflict_capacity, conflicts,
                    sizeof *dedup->conflicts) != KVSIM_OK) {
        return false;
    }
    dedup->panel_first = first;
    for (size_t i = 0; i < candidates; i++) {
        dedup->nearest[i] = (candidate){INFINITY, KVSIM__NONE};
    }
    for (size_t i = 0; i < conflicts; i++) {
        dedup->conflicts[i] = 0;
    }
    return true;
}

/* Errors of one pair under one measure, by lane; a block's is the larger of its pages'. */
static void lane_errors(const kvsim__error_cells *errors, int measure, size_t cell, double out[KVSIM__LANES]) {
    const double key = errors->cells[measure][KVSIM__KEY][cell], value = errors->cells[measure][KVSIM__VALUE][cell];
    out[KVSIM__LANE_KEY] = key;
    out[KVSIM__LANE_VALUE] = value;
    out[KVSIM__LANE_BLOCK] = key > value ? key : value;
}

/* Offer slot `earlier` to slot `later` at every budget where it is a representative near enough. */
static void offer(kvsim__dedup *dedup, int run, size_t later, size_t earlier, const double errors[KVSIM__LANES]) {
    for (size_t lane = 0; lane < KVSIM__LANES; lane++) {
        const size_t row = (size_t)run * KVSIM__LANES + lane;
        const uint64_t representative = dedup->representative[row * dedup->slots + earlier];
        candidate *nearest =
            dedup->nearest + ((later - dedup->panel_first) * (size_t)dedup->runs * KVSIM__LANES + row) * dedup->budgets;
        for (uint32_t b = dedup->budgets; b-- > 0 && errors[lane] <= dedup->plan->budgets[b];) {
            const bool better =
                errors[lane] < nearest[b].error || (errors[lane] == nearest[b].error && earlier < nearest[b].slot);
            if ((representative >> b & 1) != 0 && better) {
                nearest[b] = (candidate){errors[lane], (uint32_t)earlier};
            }
        }
    }
}

/* Note at which budgets slot `later` is too near to slot `earlier` of the set behind the lower bound. */
static void note_conflicts(kvsim__dedup *dedup, size_t later, size_t earlier, const double errors[KVSIM__LANES]) {
    for (size_t lane = 0; lane < KVSIM__LANES; lane++) {
        uint32_t b = dedup->budgets;
        while (b > 0) {
            const double budget = dedup->plan->budgets[b - 1];
            if (errors[lane] > budget + (budget > 0.0 ? PACKING_SLACK : PACKING_SLACK_AT_ZERO)) {
                break;
            }
            b--;
        }
        if (b < dedup->budgets) {
            const uint64_t near = ~(uint64_t)0 << b;
            dedup->conflicts[(later - dedup->panel_first) * KVSIM__LANES + lane] |=
                near & dedup->apart[lane * dedup->slots + earlier];
        }
    }
}

static void take_pair(kvsim__dedup *dedup, size_t later, size_t earlier, const kvsim__error_cells *errors,
                      size_t cell) {
    double lanes[KVSIM__LANES];
    for (int run = 0; run < dedup->runs; run++) {
        lane_errors(errors, run, cell, lanes);
        offer(dedup, run, later, earlier, lanes);
    }
    if (has_bounds(dedup)) {
        lane_errors(errors, KVSIM__ERROR_PACKING, cell, lanes);
        note_conflicts(dedup, later, earlier, lanes);
    }
}

static void take_tile(void *user, size_t later, size_t rows, size_t earlier, size_t columns,
                      const kvsim__error_cells *errors, size_t stride) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            take_pair(user, later + i, earlier + j, errors, i * stride + j);
        }
    }
}

static void remove_slot(kvsim__dedup *dedup, int run, size_t lane, uint32_t budget, size_t slot,
                        const candidate *nearest) {
    const size_t row = ((size_t)run * KVSIM__LANES + lane) * dedup->budgets + budget;
    dedup->sharers[row * dedup->slots + nearest->slot]++;
    if (!dedup->keep_assignments || run != KVSIM__ERROR_PLAIN) {
        return;
    }
    if (kvsim__grow(dedup->base, (void **)&dedup->assignments, &dedup->assignment_capacity, dedup->assignment_count + 1,
                    sizeof *dedup->assignments) != KVSIM_OK) {
        dedup->out_of_memory = true;
        return;
    }
    dedup->assignments[dedup->assignment_count++] =
        (kvsim__assignment){(uint32_t)lane, budget, (uint32_t)slot, nearest->slot, nearest->error};
}

/* All earlier slots have made their offers: decide. */
static void decide(kvsim__dedup *dedup, size_t slot) {
    const size_t in_panel = slot - dedup->panel_first;
    for (size_t lane = 0; lane < KVSIM__LANES; lane++) {
        if (dedup->present[lane][slot] == 0) {
            continue;
        }
        for (int run = 0; run < dedup->runs; run++) {
            const size_t row = (size_t)run * KVSIM__LANES + lane;
            const candidate *nearest =
                dedup->nearest + (in_panel * (size_t)dedup->runs * KVSIM__LANES + row) * dedup->budgets;
            for (uint32_t b = 0; b < dedup->budgets; b++) {
                if (nearest[b].slot != KVSIM__NONE) {
                    remove_slot(dedup, run, lane, b, slot, &nearest[b]);
                } else {
                    dedup->representative[row * dedup->slots + slot] |= (uint64_t)1 << b;
                }
            }
        }
        if (has_bounds(dedup)) {
            dedup->apart[lane * dedup->slots + slot] = ~dedup->conflicts[in_panel * KVSIM__LANES + lane];
        }
    }
}

static void take_panel(void *user, size_t first, size_t count, const kvsim__error_cells *errors) {
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            take_pair(user, first + i, first + j, errors, i * (i - 1) / 2 + j);
        }
        decide(user, first + i);
    }
}

kvsim__error_sink kvsim__dedup_sink(kvsim__dedup *dedup) {
    return (kvsim__error_sink){dedup, begin_panel, take_tile, take_panel};
}

static uint64_t count_bits(const uint64_t *bits, size_t slots, uint32_t bit) {
    uint64_t count = 0;
    for (size_t slot = 0; slot < slots; slot++) {
        count += bits[slot] >> bit & 1;
    }
    return count;
}

kvsim__dedup_figures kvsim__dedup_figures_of(const kvsim__dedup *dedup, uint32_t lane, uint32_t budget) {
    kvsim__dedup_figures figures = {0};
    const uint64_t *representative = dedup->representative + (size_t)lane * dedup->slots;
    const uint32_t *sharers = dedup->sharers + ((size_t)lane * dedup->budgets + budget) * dedup->slots;
    for (size_t slot = 0; slot < dedup->slots; slot++) {
        if ((representative[slot] >> budget & 1) == 0) {
            continue;
        }
        figures.representatives++;
        figures.removed += sharers[slot];
        figures.groups_of_two_or_more += sharers[slot] > 0;
        figures.largest_group = sharers[slot] + 1 > figures.largest_group ? sharers[slot] + 1 : figures.largest_group;
    }
    if (has_bounds(dedup)) {
        const size_t scaled = (size_t)KVSIM__ERROR_SCALED * KVSIM__LANES + lane;
        figures.scaled_representatives =
            count_bits(dedup->representative + scaled * dedup->slots, dedup->slots, budget);
        figures.lower_bound = count_bits(dedup->apart + (size_t)lane * dedup->slots, dedup->slots, budget);
    }
    return figures;
}

kvsim_status kvsim__dedup_assignments(const kvsim__dedup *dedup, const kvsim__assignment **out, size_t *count) {
    *out = dedup->assignments;
    *count = dedup->assignment_count;
    return dedup->out_of_memory ? kvsim__fail_memory(dedup->base, sizeof **out, "the list of removed pages") : KVSIM_OK;
}
