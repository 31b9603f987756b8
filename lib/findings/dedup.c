#include "dedup.h"

#include <math.h>

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
    const uint8_t *present[KVSIM__LANES];
    uint64_t *representative[KVSIM__LANES]; /* [slots] bit b: representative at budget b */
    uint32_t *sharers;                      /* [KVSIM__LANES, budgets, slots] pages that share this one */
    candidate *nearest;                     /* [slots of the panel, KVSIM__LANES, budgets] */
    size_t nearest_capacity;
    size_t nearest_first; /* the panel's first slot */
    bool keep_assignments;
    kvsim__assignment *assignments;
    size_t assignment_count, assignment_capacity;
    bool out_of_memory;
};

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
    dedup->keep_assignments = keep_assignments;
    dedup->sharers = kvsim__allocate_zeroed(base, slots * KVSIM__LANES * dedup->budgets, sizeof(uint32_t));
    bool complete = dedup->sharers != NULL;
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        dedup->present[lane] = present[lane];
        dedup->representative[lane] = kvsim__allocate_zeroed(base, slots, sizeof(uint64_t));
        complete = complete && dedup->representative[lane] != NULL;
    }
    return complete ? KVSIM_OK : kvsim__fail_memory(base, slots * sizeof(uint64_t), "dedup groups");
}

void kvsim__dedup_close(kvsim__dedup *dedup) {
    if (dedup == NULL) {
        return;
    }
    kvsim__base *base = dedup->base;
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        kvsim__release(base, dedup->representative[lane], dedup->slots, sizeof(uint64_t));
    }
    kvsim__release(base, dedup->sharers, dedup->slots * KVSIM__LANES * dedup->budgets, sizeof(uint32_t));
    kvsim__release(base, dedup->nearest, dedup->nearest_capacity, sizeof *dedup->nearest);
    kvsim__release(base, dedup->assignments, dedup->assignment_capacity, sizeof *dedup->assignments);
    kvsim__release(base, dedup, 1, sizeof *dedup);
}

static bool begin_panel(void *user, size_t first, size_t count) {
    kvsim__dedup *dedup = user;
    const size_t candidates = count * KVSIM__LANES * dedup->budgets;
    if (kvsim__grow(dedup->base, (void **)&dedup->nearest, &dedup->nearest_capacity, candidates,
                    sizeof *dedup->nearest) != KVSIM_OK) {
        return false;
    }
    dedup->nearest_first = first;
    for (size_t i = 0; i < candidates; i++) {
        dedup->nearest[i] = (candidate){INFINITY, KVSIM__NONE};
    }
    return true;
}

static void offer(candidate *nearest, double error, size_t slot) {
    if (error < nearest->error || (error == nearest->error && slot < nearest->slot)) {
        *nearest = (candidate){error, (uint32_t)slot};
    }
}

/* Offer slot `earlier` to slot `later` at every budget where it is a representative near enough. */
static void offer_pair(kvsim__dedup *dedup, candidate *nearest, size_t earlier, const double errors[KVSIM__KINDS]) {
    const double block = errors[KVSIM__KEY] > errors[KVSIM__VALUE] ? errors[KVSIM__KEY] : errors[KVSIM__VALUE];
    const double lanes[KVSIM__LANES] = {errors[KVSIM__KEY], errors[KVSIM__VALUE], block};
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        const uint64_t representative = dedup->representative[lane][earlier];
        for (uint32_t b = dedup->budgets; b-- > 0 && lanes[lane] <= dedup->plan->budgets[b];) {
            if ((representative >> b & 1) != 0) {
                offer(&nearest[(size_t)lane * dedup->budgets + b], lanes[lane], earlier);
            }
        }
    }
}

static void take_tile(void *user, size_t later, size_t rows, size_t earlier, size_t columns,
                      const double *const errors[KVSIM__KINDS], size_t stride) {
    kvsim__dedup *dedup = user;
    const size_t per_slot = (size_t)KVSIM__LANES * dedup->budgets;
    for (size_t i = 0; i < rows; i++) {
        candidate *nearest = dedup->nearest + (later + i - dedup->nearest_first) * per_slot;
        for (size_t j = 0; j < columns; j++) {
            const double pair[KVSIM__KINDS] = {errors[KVSIM__KEY][i * stride + j],
                                               errors[KVSIM__VALUE][i * stride + j]};
            offer_pair(dedup, nearest, earlier + j, pair);
        }
    }
}

static void remove_slot(kvsim__dedup *dedup, uint32_t lane, uint32_t budget, size_t slot, const candidate *nearest) {
    dedup->sharers[((size_t)lane * dedup->budgets + budget) * dedup->slots + nearest->slot]++;
    if (!dedup->keep_assignments) {
        return;
    }
    if (kvsim__grow(dedup->base, (void **)&dedup->assignments, &dedup->assignment_capacity, dedup->assignment_count + 1,
                    sizeof *dedup->assignments) != KVSIM_OK) {
        dedup->out_of_memory = true;
        return;
    }
    dedup->assignments[dedup->assignment_count++] =
        (kvsim__assignment){lane, budget, (uint32_t)slot, nearest->slot, nearest->error};
}

/* All earlier slots have made their offers: decide. */
static void decide(kvsim__dedup *dedup, size_t slot, const candidate *nearest) {
    for (uint32_t lane = 0; lane < KVSIM__LANES; lane++) {
        if (dedup->present[lane][slot] == 0) {
            continue;
        }
        for (uint32_t b = 0; b < dedup->budgets; b++) {
            const candidate *chosen = &nearest[(size_t)lane * dedup->budgets + b];
            if (chosen->slot != KVSIM__NONE) {
                remove_slot(dedup, lane, b, slot, chosen);
            } else {
                dedup->representative[lane][slot] |= (uint64_t)1 << b;
            }
        }
    }
}

static void take_panel(void *user, size_t first, size_t count, const double *const errors[KVSIM__KINDS]) {
    kvsim__dedup *dedup = user;
    const size_t per_slot = (size_t)KVSIM__LANES * dedup->budgets;
    for (size_t i = 0; i < count; i++) {
        candidate *nearest = dedup->nearest + i * per_slot;
        for (size_t j = 0; j < i; j++) {
            const size_t cell = i * (i - 1) / 2 + j;
            const double pair[KVSIM__KINDS] = {errors[KVSIM__KEY][cell], errors[KVSIM__VALUE][cell]};
            offer_pair(dedup, nearest, first + j, pair);
        }
        decide(dedup, first + i, nearest);
    }
}

kvsim__error_sink kvsim__dedup_sink(kvsim__dedup *dedup) {
    return (kvsim__error_sink){dedup, begin_panel, take_tile, take_panel};
}

kvsim__dedup_figures kvsim__dedup_figures_of(const kvsim__dedup *dedup, uint32_t lane, uint32_t budget) {
    kvsim__dedup_figures figures = {0};
    const uint32_t *sharers = dedup->sharers + ((size_t)lane * dedup->budgets + budget) * dedup->slots;
    for (size_t slot = 0; slot < dedup->slots; slot++) {
        if ((dedup->representative[lane][slot] >> budget & 1) == 0) {
            continue;
        }
        figures.representatives++;
        figures.removed += sharers[slot];
        figures.groups_of_two_or_more += sharers[slot] > 0;
        figures.largest_group = sharers[slot] + 1 > figures.largest_group ? sharers[slot] + 1 : figures.largest_group;
    }
    return figures;
}

kvsim_status kvsim__dedup_assignments(const kvsim__dedup *dedup, const kvsim__assignment **out, size_t *count) {
    *out = dedup->assignments;
    *count = dedup->assignment_count;
    return dedup->out_of_memory ? kvsim__fail_memory(dedup->base, sizeof **out, "the list of removed pages") : KVSIM_OK;
}
