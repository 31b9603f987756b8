/* Rows of the result, from what was gathered. */
#include <math.h>
#include <string.h>

#include "../pairs/tile.h"
#include "internal.h"

static double share(uint64_t part, uint64_t whole) {
    return whole > 0 ? (double)part / (double)whole : NAN;
}

static void fill_figures(const kvsim__work *at, const kvsim__group *group, const kvsim__figures *figures,
                         kvsim__group_row *row) {
    const double pairs = (double)figures->pairs;
    const double elements = pairs * (double)group->elements;
    const bool any = figures->pairs > 0;
    double mean_square = 0.0;
    for (int32_t h = 0; h < group->heads; h++) {
        mean_square += group->mean_square[h];
    }
    row->pairs = figures->pairs;
    row->mean_square = group->count > 0 ? mean_square / group->heads : NAN;
    row->cosine_mean = any ? figures->cosine_sum / pairs : NAN;
    row->cosine_min = any ? figures->cosine_min : NAN;
    row->cosine_max = any ? figures->cosine_max : NAN;
    row->mean_l2 = any ? figures->l2_sum / pairs : NAN;
    const uint64_t finite = figures->pairs - figures->relative_infinite;
    row->mean_relative_error = finite > 0 ? figures->relative_sum / (double)finite : NAN;
    row->infinite_relative_errors = figures->relative_infinite;
    const bool hamming = any && (at->plan->metrics & KVSIM_METRIC_HAMMING) != 0;
    const bool jaccard = any && (at->plan->metrics & KVSIM_METRIC_JACCARD) != 0;
    row->mean_hamming = hamming ? (double)figures->codes_differ / elements : NAN;
    row->mean_hamming_sign = hamming ? (double)figures->signs_differ / elements : NAN;
    row->mean_jaccard = jaccard ? figures->jaccard_sum / pairs : NAN;
    row->jaccard_union_share = jaccard ? (double)figures->union_elements / elements : NAN;
    row->l2_upper = 2.0 * group->largest_norm;
    memcpy(row->histograms, figures->histograms, sizeof row->histograms);
}

/* Row of a group, its thresholds, its dedup figures and its top pairs; `pairing` NULL for opaque pages. */
static kvsim_status put_group(kvsim__work *at, const kvsim__unit *unit, int kind, int32_t view,
                              const kvsim__pairing *pairing) {
    const kvsim__combination *from = unit->kinds[kind];
    const kvsim__format *format = kvsim__page_format(at->store, from->any_page);
    static const struct {
        uint8_t code, bits;
    } dtypes[] = {[KVSIM__F32] = {KVSIM_DTYPE_FLOAT, 32},      [KVSIM__F16] = {KVSIM_DTYPE_FLOAT, 16},
                  [KVSIM__BF16] = {KVSIM_DTYPE_BFLOAT, 16},    [KVSIM__F8_E4M3FN] = {KVSIM_DTYPE_F8_E4M3FN, 8},
                  [KVSIM__F8_E5M2] = {KVSIM_DTYPE_F8_E5M2, 8}, [KVSIM__I8] = {KVSIM_DTYPE_INT, 8},
                  [KVSIM__OPAQUE] = {KVSIM_DTYPE_OPAQUE, 8}};
    kvsim__group_row *row = kvsim__result_append(at->result, KVSIM__TABLE_GROUPS);
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_GROUPS) - 1;
    row->view = view;
    row->layer = from->layer;
    row->kind = from->kind;
    row->head = unit->head;
    row->tokens = format->page_tokens;
    row->heads = unit->head < 0 ? format->heads : 1;
    row->head_dim = format->head_dim;
    row->dtype_code = dtypes[format->dtype].code;
    row->dtype_bits = dtypes[format->dtype].bits;
    row->page_bytes = kvsim__format_page_bytes(format) / (unit->head < 0 ? 1 : (uint64_t)format->heads);
    row->references = from->references;
    row->physical_pages = from->physical;
    row->pages = from->compared + from->opaque;
    row->partial = from->partial;
    row->non_finite = from->non_finite;
    row->opaque = from->opaque;
    row->exact_duplicates = unit->duplicates[kind];
    if (pairing == NULL) {
        row->mean_square = row->cosine_mean = row->cosine_min = row->cosine_max = row->mean_l2 = NAN;
        row->mean_relative_error = row->mean_hamming = row->mean_hamming_sign = row->mean_jaccard = NAN;
        row->jaccard_union_share = row->l2_upper = NAN;
        return KVSIM_OK;
    }
    const kvsim__figures *figures = &pairing->figures[kind];
    fill_figures(at, &pairing->groups[kind], figures, row);
    const uint64_t pages = row->pages;
    for (uint32_t t = 0; t < at->plan->threshold_count; t++) {
        kvsim__threshold_row *level = kvsim__result_append(at->result, KVSIM__TABLE_THRESHOLDS);
        if (level == NULL) {
            return KVSIM_E_NOMEM;
        }
        level->group = number;
        level->threshold = at->plan->thresholds[t];
        level->pairs = figures->threshold_pairs[t];
        level->pair_share = share(level->pairs, figures->pairs);
        for (size_t slot = 0; slot < unit->slots; slot++) {
            level->pages += figures->threshold_bits[slot] >> t & 1;
        }
        level->page_share = share(level->pages, pages);
    }
    for (size_t i = 0; i < figures->top_count; i++) {
        kvsim__top_row *pair = kvsim__result_append(at->result, KVSIM__TABLE_TOP_PAIRS);
        if (pair == NULL) {
            return KVSIM_E_NOMEM;
        }
        const kvsim__page *later = &at->store->pages[unit->pages[kind][figures->top[i].later]];
        const kvsim__page *earlier = &at->store->pages[unit->pages[kind][figures->top[i].earlier]];
        *pair = (kvsim__top_row){.group = number,
                                 .cosine = figures->top[i].cosine,
                                 .relative_error = figures->top[i].relative_error,
                                 .sequence = later->sequence,
                                 .position = later->position,
                                 .block = at->store->identities[later->identity].block,
                                 .earlier_sequence = earlier->sequence,
                                 .earlier_position = earlier->position,
                                 .earlier_block = at->store->identities[earlier->identity].block};
    }
    return KVSIM_OK;
}

static kvsim_status put_matches(kvsim__work *at, const kvsim__unit *unit, int kind, const kvsim__figures *figures,
                                int64_t group) {
    for (size_t slot = 0; slot < unit->slots && figures->best_slot != NULL; slot++) {
        if (unit->pages[kind][slot] == KVSIM__NONE) {
            continue;
        }
        kvsim__match_row *match = kvsim__result_append(at->result, KVSIM__TABLE_MATCHES);
        if (match == NULL) {
            return KVSIM_E_NOMEM;
        }
        const uint32_t best = figures->best_slot[slot];
        match->group = group;
        match->page = unit->pages[kind][slot];
        match->earlier_page = best != KVSIM__NONE ? (int64_t)unit->pages[kind][best] : -1;
        match->cosine = best != KVSIM__NONE ? figures->best_cosine[slot] : NAN;
    }
    return KVSIM_OK;
}

static kvsim_status put_dedup(kvsim__work *at, const kvsim__dedup *dedup, uint32_t lane, int table, int64_t owner) {
    for (uint32_t b = 0; b < at->plan->budget_count; b++) {
        kvsim__dedup_row *row = kvsim__result_append(at->result, table);
        if (row == NULL) {
            return KVSIM_E_NOMEM;
        }
        const kvsim__dedup_figures figures = kvsim__dedup_figures_of(dedup, lane, b);
        *row = (kvsim__dedup_row){.group = owner,
                                  .budget = at->plan->budgets[b],
                                  .representatives = figures.representatives,
                                  .removed = figures.removed,
                                  .removed_share = share(figures.removed, figures.representatives + figures.removed),
                                  .groups_of_two_or_more = figures.groups_of_two_or_more,
                                  .largest_group = figures.largest_group,
                                  .scaled_representatives = figures.scaled_representatives,
                                  .lower_bound = figures.lower_bound};
    }
    return KVSIM_OK;
}

static kvsim_status put_block(kvsim__work *at, const kvsim__unit *unit, int32_t view, const kvsim__dedup *dedup) {
    kvsim__block_row *row = kvsim__result_append(at->result, KVSIM__TABLE_BLOCKS);
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_BLOCKS) - 1;
    row->view = view;
    row->layer = unit->kinds[KVSIM__KEY]->layer;
    row->head = unit->head;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const kvsim__format *format = kvsim__page_format(at->store, unit->kinds[kind]->any_page);
        row->block_bytes += kvsim__format_page_bytes(format) / (unit->head < 0 ? 1 : (uint64_t)format->heads);
    }
    for (size_t slot = 0; slot < unit->slots; slot++) {
        row->blocks += unit->present[KVSIM__LANE_BLOCK][slot];
    }
    row->exact_duplicates = unit->duplicates[KVSIM__LANE_BLOCK];
    return dedup != NULL ? put_dedup(at, dedup, KVSIM__LANE_BLOCK, KVSIM__TABLE_BLOCK_DEDUP, number) : KVSIM_OK;
}

static kvsim_status put_assignments(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                                    const kvsim__dedup *dedup) {
    const kvsim__assignment *removed;
    size_t count;
    kvsim_status status = kvsim__dedup_assignments(dedup, &removed, &count);
    size_t scratch_size = 0;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const size_t needed = pairing->present[kind] ? kvsim__scratch_size(&pairing->groups[kind]) : 0;
        scratch_size = needed > scratch_size ? needed : scratch_size;
    }
    if (status != KVSIM_OK || count == 0) {
        return status;
    }
    unsigned char *memory = kvsim__allocate(at->base, 2, scratch_size);
    if (memory == NULL) {
        return kvsim__fail_memory(at->base, 2 * scratch_size, "the list of removed pages");
    }
    for (size_t i = 0; i < count && status == KVSIM_OK; i++) {
        const kvsim__assignment *from = &removed[i];
        kvsim__assignment_row *row = kvsim__result_append(at->result, KVSIM__TABLE_ASSIGNMENTS);
        if (row == NULL) {
            status = KVSIM_E_NOMEM;
            break;
        }
        const bool block = from->lane == KVSIM__LANE_BLOCK;
        const int shown = block ? KVSIM__KEY : (int)from->lane;
        row->view = (int32_t)pairing->groups[shown].view;
        row->layer = unit->kinds[shown]->layer;
        row->kind = block ? 0 : unit->kinds[shown]->kind;
        row->head = unit->head;
        row->budget = at->plan->budgets[from->budget];
        row->page = unit->pages[shown][from->slot];
        row->representative = unit->pages[shown][from->representative];
        row->exact = unit->first[from->lane][from->slot] == unit->first[from->lane][from->representative];
        row->cosine = 1.0;
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            if (block || kind == shown) {
                const kvsim__group *group = &pairing->groups[kind];
                kvsim__scratch a = kvsim__scratch_at(group, memory);
                kvsim__scratch b = kvsim__scratch_at(group, memory + scratch_size);
                const kvsim__exact exact = kvsim__rescore(group, from->slot, from->representative, &a, &b);
                const double error =
                    exact.squared_distance > 0.0 ? sqrt(exact.squared_distance) / sqrt(exact.later_squares) : 0.0;
                row->cosine = exact.cosine < row->cosine ? exact.cosine : row->cosine;
                row->relative_error = error > row->relative_error ? error : row->relative_error;
            }
        }
    }
    kvsim__release(at->base, memory, 2, scratch_size);
    return status;
}

kvsim_status kvsim__put_view(kvsim__work *at, const kvsim__unit *unit, int32_t view, const kvsim__pairing *pairing,
                             const kvsim__dedup *dedup) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (!pairing->present[kind]) {
            continue;
        }
        status = put_group(at, unit, kind, view, pairing);
        const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_GROUPS) - 1;
        if (status == KVSIM_OK) {
            status = put_dedup(at, dedup, (uint32_t)kind, KVSIM__TABLE_DEDUP, number);
        }
        if (status == KVSIM_OK) {
            status = put_matches(at, unit, kind, &pairing->figures[kind], number);
        }
        if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_STRATA) != 0) {
            status = kvsim__put_strata(at, unit, kind, &pairing->figures[kind], number);
        }
        if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_PAGES) != 0) {
            status = kvsim__put_page_thresholds(at, unit, kind, &pairing->figures[kind], number);
        }
        if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_DISTANCES) != 0) {
            status = kvsim__put_distances(at, unit, kind, pairing, number);
        }
    }
    if (status == KVSIM_OK && pairing->present[KVSIM__KEY] && pairing->present[KVSIM__VALUE]) {
        status = put_block(at, unit, view, dedup);
    }
    if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_ASSIGNMENTS) != 0) {
        status = put_assignments(at, unit, pairing, dedup);
    }
    if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_CHANCE) != 0) {
        status = kvsim__put_statistics(at, unit, pairing, dedup);
    }
    if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_LEDGER) != 0 && view == (int32_t)KVSIM_VIEW_RAW &&
        unit->head < 0) {
        status = kvsim__put_ledger(at, unit, pairing, dedup);
    }
    return status;
}

/* Opaque pages: their duplicates, in the one view there is. */
kvsim_status kvsim__put_opaque(kvsim__work *at, const kvsim__unit *unit) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (kvsim__is_opaque(at, unit->kinds[kind])) {
            status = put_group(at, unit, kind, KVSIM_VIEW_RAW, NULL);
        }
    }
    if (status == KVSIM_OK && kvsim__is_opaque(at, unit->kinds[KVSIM__KEY]) &&
        kvsim__is_opaque(at, unit->kinds[KVSIM__VALUE])) {
        status = put_block(at, unit, KVSIM_VIEW_RAW, NULL);
    }
    if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_LEDGER) != 0) {
        status = kvsim__put_opaque_ledger(at, unit);
    }
    return status;
}

kvsim_status kvsim__put_pages(kvsim__work *at) {
    if ((at->plan->flags & (KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_PAGES)) == 0) {
        return KVSIM_OK;
    }
    for (size_t i = 0; i < at->store->page_count; i++) {
        kvsim__page_row *row = kvsim__result_append(at->result, KVSIM__TABLE_PAGES);
        if (row == NULL) {
            return KVSIM_E_NOMEM;
        }
        const kvsim__page *page = &at->store->pages[i];
        const kvsim__identity *identity = &at->store->identities[page->identity];
        *row = (kvsim__page_row){.layer = page->layer,
                                 .kind = page->kind,
                                 .sequence = page->sequence,
                                 .position = page->position,
                                 .block = identity->block,
                                 .generation = identity->generation,
                                 .fill = page->fill,
                                 .state = at->states[i],
                                 .references = page->references,
                                 .bytes = kvsim__format_page_bytes(kvsim__page_format(at->store, (uint32_t)i))};
    }
    return KVSIM_OK;
}

/* Blocks are counted by identity: references as of its page that has most, the worst state of any of its pages. */
kvsim_status kvsim__put_summary(kvsim__work *at) {
    const kvsim__store *store = at->store;
    kvsim__summary_row *row = kvsim__result_append(at->result, KVSIM__TABLE_SUMMARY);
    uint32_t *references = kvsim__allocate_zeroed(at->base, store->identity_count, sizeof *references);
    uint8_t *states = kvsim__allocate_zeroed(at->base, store->identity_count, 1);
    kvsim_status status = KVSIM_OK;
    if (row == NULL || references == NULL || states == NULL) {
        status = kvsim__fail_memory(at->base, store->identity_count * sizeof *references, "the summary");
    } else {
        for (size_t i = 0; i < store->page_count; i++) {
            const kvsim__page *page = &store->pages[i];
            const uint64_t bytes = kvsim__format_page_bytes(kvsim__page_format(store, (uint32_t)i));
            const uint8_t state = (uint8_t)(1u << at->states[i]);
            references[page->identity] =
                page->references > references[page->identity] ? page->references : references[page->identity];
            states[page->identity] |= state;
            row->physical_bytes += bytes;
            row->logical_bytes += bytes * page->references;
        }
        row->pages = store->page_count;
        for (size_t i = 0; i < store->identity_count; i++) {
            const bool partial = (states[i] & 1u << KVSIM__STATE_PARTIAL) != 0;
            row->references += references[i];
            row->partial += partial;
            row->full += !partial;
            row->non_finite_blocks += (states[i] & 1u << KVSIM__STATE_NON_FINITE) != 0;
            row->opaque_blocks += (states[i] & 1u << KVSIM__STATE_OPAQUE) != 0;
        }
        kvsim__engine_blocks_count(at, row);
        for (size_t c = 0; c < at->combination_count; c++) {
            const uint64_t compared = at->combinations[c].compared;
            row->pairs += compared > 1 ? compared * (compared - 1) / 2 : 0;
        }
    }
    kvsim__release(at->base, references, store->identity_count, sizeof *references);
    kvsim__release(at->base, states, store->identity_count, 1);
    return status;
}
