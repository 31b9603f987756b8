/*
 * From pages to a result: which pages form groups, what is found in each, one row after the other.
 *
 * A unit is one layer's key group and value group side by side (either may be missing), all heads or one of them.
 * Its slots are identities in arrival order, so a slot's key page and value page are a block.
 */
#include <math.h>
#include <string.h>

#include "context.h"
#include "findings/dedup.h"
#include "findings/duplicates.h"
#include "pairs/tile.h"

/* The pages of one layer and kind whose formats are of one class. */
typedef struct combination {
    int32_t layer, kind;
    uint32_t class_id;
    uint32_t any_page;
    uint64_t references, physical, partial, non_finite, opaque, compared;
    bool paired; /* a value group that a key group has taken as its partner */
} combination;

typedef struct work {
    kvsim_ctx *ctx;
    kvsim__base *base;
    const kvsim__store *store;
    const kvsim__plan *plan;
    kvsim_result *result;
    kvsim__progress progress;
    uint8_t *states; /* [pages] KVSIM__STATE_* */
    combination *combinations;
    size_t combination_count, combination_capacity;
} work;

/* One unit while it is worked on; arrays are [slots]. */
typedef struct unit {
    const combination *kinds[KVSIM__KINDS];
    size_t slots;
    uint32_t *pages[KVSIM__KINDS];
    uint32_t *first[KVSIM__LANES]; /* first slot of equal contents */
    uint8_t *present[KVSIM__LANES];
    uint8_t *duplicate[KVSIM__LANES];
    uint64_t duplicates[KVSIM__LANES];
    int64_t *sequences; /* NULL if all pairs count */
    int32_t head;       /* -1 = all */
} unit;

/* ---------------------------------------------------------------------------------------------- states of pages */

enum { STATE_RUNS = 64 };

typedef struct state_job {
    work *at;
    float *rows;
    size_t row_length;
} state_job;

static void find_states(void *opaque, uint32_t run) {
    const state_job *job = opaque;
    const kvsim__store *store = job->at->store;
    float *row = job->rows + run * job->row_length;
    const size_t end = store->page_count * (run + 1) / STATE_RUNS;
    for (size_t i = store->page_count * run / STATE_RUNS; i < end; i++) {
        const uint32_t page = (uint32_t)i;
        const bool opaque_bytes = kvsim__page_format(store, page)->dtype == KVSIM__OPAQUE;
        job->at->states[i] = !kvsim__page_is_full(store, page)                       ? KVSIM__STATE_PARTIAL
                             : opaque_bytes                                          ? KVSIM__STATE_OPAQUE
                             : kvsim__page_is_finite(store, page, row)               ? KVSIM__STATE_COMPARED
                                                                                     : KVSIM__STATE_NON_FINITE;
    }
}

static kvsim_status classify_pages(work *at) {
    state_job job = {.at = at, .row_length = 16};
    for (size_t i = 0; i < at->store->format_count; i++) {
        const size_t length = (size_t)at->store->formats[i].head_dim;
        job.row_length = at->store->formats[i].dtype != KVSIM__OPAQUE && length > job.row_length ? length : job.row_length;
    }
    at->states = kvsim__allocate(at->base, at->store->page_count, 1);
    job.rows = kvsim__allocate(at->base, STATE_RUNS * job.row_length, sizeof(float));
    kvsim_status status = KVSIM_OK;
    if (at->states == NULL || job.rows == NULL) {
        status = kvsim__fail_memory(at->base, at->store->page_count, "the states of pages");
    } else {
        kvsim__parallel_for(at->base, STATE_RUNS, find_states, &job);
    }
    kvsim__release(at->base, job.rows, STATE_RUNS * job.row_length, sizeof(float));
    return status;
}

/* ---------------------------------------------------------------------------------------------- groups */

static void count_page(work *at, combination *group, uint32_t page) {
    const uint8_t state = at->states[page];
    group->references += at->store->pages[page].references;
    group->physical++;
    group->partial += state == KVSIM__STATE_PARTIAL;
    group->non_finite += state == KVSIM__STATE_NON_FINITE;
    group->opaque += state == KVSIM__STATE_OPAQUE;
    group->compared += state == KVSIM__STATE_COMPARED;
}

/* Order of groups in the result: by layer, then keys before values, then first come. */
static bool comes_before(const combination *a, const combination *b) {
    return a->layer != b->layer ? a->layer < b->layer : a->kind != b->kind ? a->kind < b->kind : a->any_page < b->any_page;
}

static kvsim_status collect_groups(work *at) {
    size_t last = 0;
    for (size_t i = 0; i < at->store->page_count; i++) {
        const kvsim__page *page = &at->store->pages[i];
        const uint32_t class_id = at->store->formats[page->format].class_id;
        size_t found = at->combination_count;
        for (size_t c = 0; c < at->combination_count; c++) {
            /* Neighbours are of one group more often than not: begin with the last one. */
            const size_t candidate = (last + c) % at->combination_count;
            const combination *group = &at->combinations[candidate];
            if (group->layer == page->layer && group->kind == page->kind && group->class_id == class_id) {
                found = candidate;
                break;
            }
        }
        if (found == at->combination_count) {
            kvsim_status status = kvsim__grow(at->base, (void **)&at->combinations, &at->combination_capacity, found + 1,
                                              sizeof *at->combinations);
            if (status != KVSIM_OK) {
                return status;
            }
            at->combinations[at->combination_count++] = (combination){
                .layer = page->layer, .kind = page->kind, .class_id = class_id, .any_page = (uint32_t)i};
        }
        count_page(at, &at->combinations[found], (uint32_t)i);
        last = found;
    }
    for (size_t i = 1; i < at->combination_count; i++) {
        const combination moved = at->combinations[i];
        size_t to = i;
        for (; to > 0 && comes_before(&moved, &at->combinations[to - 1]); to--) {
            at->combinations[to] = at->combinations[to - 1];
        }
        at->combinations[to] = moved;
    }
    return KVSIM_OK;
}

static bool in_group(const work *at, const combination *group, uint32_t page) {
    return group != NULL && page != KVSIM__NONE &&
           at->store->formats[at->store->pages[page].format].class_id == group->class_id;
}

/* The value group that holds the partner of the first key page that has one. */
static combination *find_partner(work *at, const combination *keys) {
    for (size_t i = keys->any_page; i < at->store->page_count; i++) {
        const kvsim__page *page = &at->store->pages[i];
        if (page->layer != keys->layer || page->kind != KVSIM_KIND_KEY || !in_group(at, keys, (uint32_t)i)) {
            continue;
        }
        const uint32_t value = kvsim__store_find_page(at->store, page->identity, keys->layer, KVSIM_KIND_VALUE);
        for (size_t c = 0; c < at->combination_count && value != KVSIM__NONE; c++) {
            combination *group = &at->combinations[c];
            if (group->layer == keys->layer && group->kind == KVSIM_KIND_VALUE && in_group(at, group, value)) {
                return group->paired ? NULL : group;
            }
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- units */

/* The page of a slot's identity that takes part, or KVSIM__NONE. Opaque pages take part in exact duplicates only. */
static uint32_t page_of(const work *at, const combination *group, uint32_t identity) {
    if (group == NULL) {
        return KVSIM__NONE;
    }
    const uint32_t page = kvsim__store_find_page(at->store, identity, group->layer, group->kind);
    return in_group(at, group, page) &&
                   (at->states[page] == KVSIM__STATE_COMPARED || at->states[page] == KVSIM__STATE_OPAQUE)
               ? page
               : KVSIM__NONE;
}

static bool is_opaque(const work *at, const combination *group) {
    return group != NULL && kvsim__page_format(at->store, group->any_page)->dtype == KVSIM__OPAQUE;
}

static void unit_close(work *at, unit *of) {
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        kvsim__release(at->base, of->first[lane], of->slots, sizeof(uint32_t));
        kvsim__release(at->base, of->present[lane], of->slots, 1);
        kvsim__release(at->base, of->duplicate[lane], of->slots, 1);
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__release(at->base, of->pages[kind], of->slots, sizeof(uint32_t));
    }
    kvsim__release(at->base, of->sequences, of->slots, sizeof(int64_t));
}

static kvsim_status unit_allocate(work *at, unit *of) {
    bool complete = true;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        of->pages[kind] = kvsim__allocate(at->base, of->slots, sizeof(uint32_t));
        complete = complete && of->pages[kind] != NULL;
    }
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        of->first[lane] = kvsim__allocate(at->base, of->slots, sizeof(uint32_t));
        of->present[lane] = kvsim__allocate(at->base, of->slots, 1);
        of->duplicate[lane] = kvsim__allocate(at->base, of->slots, 1);
        complete = complete && of->first[lane] != NULL && of->present[lane] != NULL && of->duplicate[lane] != NULL;
    }
    if (at->plan->different_sequences) {
        of->sequences = kvsim__allocate(at->base, of->slots, sizeof(int64_t));
        complete = complete && of->sequences != NULL;
    }
    return complete ? KVSIM_OK : kvsim__fail_memory(at->base, of->slots * 40, "the slots of a layer");
}

/* Fill in the slots of a unit: identities that have a page in either group. */
static kvsim_status unit_open(work *at, const combination *keys, const combination *values, unit *of) {
    memset(of, 0, sizeof *of);
    of->kinds[KVSIM__KEY] = keys;
    of->kinds[KVSIM__VALUE] = values;
    for (size_t i = 0; i < at->store->identity_count; i++) {
        of->slots += page_of(at, keys, (uint32_t)i) != KVSIM__NONE || page_of(at, values, (uint32_t)i) != KVSIM__NONE;
    }
    kvsim_status status = unit_allocate(at, of);
    if (status != KVSIM_OK) {
        return status;
    }
    size_t slot = 0;
    for (size_t i = 0; i < at->store->identity_count; i++) {
        const uint32_t key = page_of(at, keys, (uint32_t)i), value = page_of(at, values, (uint32_t)i);
        if (key == KVSIM__NONE && value == KVSIM__NONE) {
            continue;
        }
        of->pages[KVSIM__KEY][slot] = key;
        of->pages[KVSIM__VALUE][slot] = value;
        if (of->sequences != NULL) {
            of->sequences[slot] = at->store->pages[key != KVSIM__NONE ? key : value].sequence;
        }
        slot++;
    }
    return KVSIM_OK;
}

/* Heads that a kind contributes to a unit: all, or the one of a per-head unit if it has it. */
static int32_t heads_of(const work *at, const unit *of, int kind, int32_t *first) {
    const combination *group = of->kinds[kind];
    *first = 0;
    if (group == NULL) {
        return 0;
    }
    const int32_t heads = kvsim__page_format(at->store, group->any_page)->heads;
    if (of->head < 0) {
        return heads;
    }
    *first = of->head;
    return of->head < heads && !is_opaque(at, group) ? 1 : 0;
}

/* Exact duplicates of each kind and of blocks: the same in every view. */
static kvsim_status find_duplicates(work *at, unit *of) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        kvsim__contents contents = {
            .base = at->base, .store = at->store, .pages = of->pages[kind], .slots = of->slots};
        contents.heads = heads_of(at, of, kind, &contents.first_head);
        if (contents.heads > 0) {
            status = kvsim__find_equal_pages(&contents, of->first[kind]);
        } else {
            memset(of->first[kind], 0xff, of->slots * sizeof(uint32_t)); /* KVSIM__NONE */
        }
    }
    if (status == KVSIM_OK) {
        status = kvsim__find_equal_blocks(at->base, of->slots, of->first[KVSIM__KEY], of->first[KVSIM__VALUE],
                                          of->first[KVSIM__LANE_BLOCK]);
    }
    for (int lane = 0; lane < KVSIM__LANES && status == KVSIM_OK; lane++) {
        for (size_t slot = 0; slot < of->slots; slot++) {
            of->present[lane][slot] = of->first[lane][slot] != KVSIM__NONE;
        }
        status = kvsim__count_duplicates(at->base, of->slots, of->first[lane], of->sequences, of->duplicate[lane],
                                         &of->duplicates[lane]);
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------- rows */

static double share(uint64_t part, uint64_t whole) {
    return whole > 0 ? (double)part / (double)whole : NAN;
}

static void fill_figures(const work *at, const kvsim__group *group, const kvsim__figures *figures,
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
static kvsim_status put_group(work *at, const unit *of, int kind, int32_t view, const kvsim__pairing *pairing) {
    const combination *from = of->kinds[kind];
    const kvsim__format *format = kvsim__page_format(at->store, from->any_page);
    static const struct {
        uint8_t code, bits;
    } dtypes[] = {[KVSIM__F32] = {KVSIM_DTYPE_FLOAT, 32},          [KVSIM__F16] = {KVSIM_DTYPE_FLOAT, 16},
                  [KVSIM__BF16] = {KVSIM_DTYPE_BFLOAT, 16},        [KVSIM__F8_E4M3FN] = {KVSIM_DTYPE_F8_E4M3FN, 8},
                  [KVSIM__F8_E5M2] = {KVSIM_DTYPE_F8_E5M2, 8},     [KVSIM__I8] = {KVSIM_DTYPE_INT, 8},
                  [KVSIM__OPAQUE] = {KVSIM_DTYPE_OPAQUE, 8}};
    kvsim__group_row *row = kvsim__result_append(at->result, KVSIM__TABLE_GROUPS);
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_GROUPS) - 1;
    row->view = view;
    row->layer = from->layer;
    row->kind = from->kind;
    row->head = of->head;
    row->tokens = format->page_tokens;
    row->heads = of->head < 0 ? format->heads : 1;
    row->head_dim = format->head_dim;
    row->dtype_code = dtypes[format->dtype].code;
    row->dtype_bits = dtypes[format->dtype].bits;
    row->page_bytes = kvsim__format_page_bytes(format) / (of->head < 0 ? 1 : (uint64_t)format->heads);
    row->references = from->references;
    row->physical_pages = from->physical;
    row->pages = from->compared + from->opaque;
    row->partial = from->partial;
    row->non_finite = from->non_finite;
    row->opaque = from->opaque;
    row->exact_duplicates = of->duplicates[kind];
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
        for (size_t slot = 0; slot < of->slots; slot++) {
            level->pages += figures->threshold_bits[slot] >> t & 1;
        }
        level->page_share = share(level->pages, pages);
    }
    for (size_t i = 0; i < figures->top_count; i++) {
        kvsim__top_row *pair = kvsim__result_append(at->result, KVSIM__TABLE_TOP_PAIRS);
        if (pair == NULL) {
            return KVSIM_E_NOMEM;
        }
        const kvsim__page *later = &at->store->pages[of->pages[kind][figures->top[i].later]];
        const kvsim__page *earlier = &at->store->pages[of->pages[kind][figures->top[i].earlier]];
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

static kvsim_status put_matches(work *at, const unit *of, int kind, const kvsim__figures *figures, int64_t group) {
    for (size_t slot = 0; slot < of->slots && figures->best_slot != NULL; slot++) {
        if (of->pages[kind][slot] == KVSIM__NONE) {
            continue;
        }
        kvsim__match_row *match = kvsim__result_append(at->result, KVSIM__TABLE_MATCHES);
        if (match == NULL) {
            return KVSIM_E_NOMEM;
        }
        const uint32_t best = figures->best_slot[slot];
        match->group = group;
        match->page = of->pages[kind][slot];
        match->earlier_page = best != KVSIM__NONE ? (int64_t)of->pages[kind][best] : -1;
        match->cosine = best != KVSIM__NONE ? figures->best_cosine[slot] : NAN;
    }
    return KVSIM_OK;
}

static kvsim_status put_dedup(work *at, const kvsim__dedup *dedup, uint32_t lane, int table, int64_t owner) {
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
                                  .largest_group = figures.largest_group};
    }
    return KVSIM_OK;
}

static kvsim_status put_block(work *at, const unit *of, int32_t view, const kvsim__dedup *dedup) {
    kvsim__block_row *row = kvsim__result_append(at->result, KVSIM__TABLE_BLOCKS);
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_BLOCKS) - 1;
    row->view = view;
    row->layer = of->kinds[KVSIM__KEY]->layer;
    row->head = of->head;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const kvsim__format *format = kvsim__page_format(at->store, of->kinds[kind]->any_page);
        row->block_bytes += kvsim__format_page_bytes(format) / (of->head < 0 ? 1 : (uint64_t)format->heads);
    }
    for (size_t slot = 0; slot < of->slots; slot++) {
        row->blocks += of->present[KVSIM__LANE_BLOCK][slot];
    }
    row->exact_duplicates = of->duplicates[KVSIM__LANE_BLOCK];
    return dedup != NULL ? put_dedup(at, dedup, KVSIM__LANE_BLOCK, KVSIM__TABLE_BLOCK_DEDUP, number) : KVSIM_OK;
}

static kvsim_status put_assignments(work *at, const unit *of, const kvsim__pairing *pairing, const kvsim__dedup *dedup) {
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
        row->layer = of->kinds[shown]->layer;
        row->kind = block ? 0 : of->kinds[shown]->kind;
        row->head = of->head;
        row->budget = at->plan->budgets[from->budget];
        row->page = of->pages[shown][from->slot];
        row->representative = of->pages[shown][from->representative];
        row->relative_error = from->error;
        row->exact = of->first[from->lane][from->slot] == of->first[from->lane][from->representative];
        row->cosine = 1.0;
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            if (block || kind == shown) {
                const kvsim__group *group = &pairing->groups[kind];
                kvsim__scratch a = kvsim__scratch_at(group, memory);
                kvsim__scratch b = kvsim__scratch_at(group, memory + scratch_size);
                const kvsim__exact exact = kvsim__rescore(group, from->slot, from->representative, &a, &b);
                row->cosine = exact.cosine < row->cosine ? exact.cosine : row->cosine;
            }
        }
    }
    kvsim__release(at->base, memory, 2, scratch_size);
    return status;
}

/* ---------------------------------------------------------------------------------------------- one unit, one view */

static kvsim_status put_rows(work *at, const unit *of, int32_t view, const kvsim__pairing *pairing,
                             const kvsim__dedup *dedup) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (!pairing->present[kind]) {
            continue;
        }
        status = put_group(at, of, kind, view, pairing);
        const int64_t number = (int64_t)kvsim__result_rows(at->result, KVSIM__TABLE_GROUPS) - 1;
        if (status == KVSIM_OK) {
            status = put_dedup(at, dedup, (uint32_t)kind, KVSIM__TABLE_DEDUP, number);
        }
        if (status == KVSIM_OK) {
            status = put_matches(at, of, kind, &pairing->figures[kind], number);
        }
    }
    if (status == KVSIM_OK && pairing->present[KVSIM__KEY] && pairing->present[KVSIM__VALUE]) {
        status = put_block(at, of, view, dedup);
    }
    if (status == KVSIM_OK && (at->plan->flags & KVSIM_COMPUTE_ASSIGNMENTS) != 0) {
        status = put_assignments(at, of, pairing, dedup);
    }
    return status;
}

static void describe_group(const work *at, const unit *of, int kind, kvsim__group *group) {
    const kvsim__format *format = kvsim__page_format(at->store, of->kinds[kind]->any_page);
    group->base = at->base;
    group->store = at->store;
    group->pages = of->pages[kind];
    group->slots = of->slots;
    for (size_t slot = 0; slot < of->slots; slot++) {
        group->count += of->pages[kind][slot] != KVSIM__NONE;
    }
    group->heads = heads_of(at, of, kind, &group->first_head);
    group->tokens = format->tokens;
    group->head_dim = format->head_dim;
    group->elements = (size_t)format->tokens * (size_t)group->heads * (size_t)format->head_dim;
}

static kvsim_status run_view(work *at, const unit *of, uint32_t view) {
    kvsim__pairing pairing = {.base = at->base,
                              .plan = at->plan,
                              .progress = &at->progress,
                              .slots = of->slots,
                              .sequences = of->sequences};
    kvsim__dedup *dedup = NULL;
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        int32_t first;
        pairing.groups[kind].base = at->base;
        pairing.present[kind] = heads_of(at, of, kind, &first) > 0 && !is_opaque(at, of->kinds[kind]);
        if (pairing.present[kind] && status == KVSIM_OK) {
            describe_group(at, of, kind, &pairing.groups[kind]);
            status = kvsim__group_open(&pairing.groups[kind], view, of->kinds[kind]->kind, &at->ctx->rope);
        }
        if (pairing.present[kind] && status == KVSIM_OK) {
            status = kvsim__figures_open(at->base, at->plan, of->slots, &pairing.figures[kind]);
        }
    }
    if (status == KVSIM_OK) {
        const uint8_t *const present[KVSIM__LANES] = {of->present[0], of->present[1], of->present[2]};
        const bool keep = (at->plan->flags & KVSIM_COMPUTE_ASSIGNMENTS) != 0;
        status = kvsim__dedup_open(at->base, at->plan, of->slots, present, keep, &dedup);
    }
    if (status == KVSIM_OK) {
        pairing.sink = kvsim__dedup_sink(dedup);
        status = kvsim__pairs_run(&pairing);
    }
    if (status == KVSIM_OK) {
        status = put_rows(at, of, (int32_t)view, &pairing, dedup);
    }
    kvsim__dedup_close(dedup);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__figures_close(at->base, at->plan, of->slots, &pairing.figures[kind]);
        kvsim__group_close(&pairing.groups[kind]);
    }
    return status;
}

/* Opaque pages: their duplicates, in the one view there is. */
static kvsim_status put_opaque(work *at, const unit *of) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (is_opaque(at, of->kinds[kind])) {
            status = put_group(at, of, kind, KVSIM_VIEW_RAW, NULL);
        }
    }
    if (status == KVSIM_OK && is_opaque(at, of->kinds[KVSIM__KEY]) && is_opaque(at, of->kinds[KVSIM__VALUE])) {
        status = put_block(at, of, KVSIM_VIEW_RAW, NULL);
    }
    return status;
}

static const uint32_t view_order[] = {KVSIM_VIEW_RAW, KVSIM_VIEW_CENTERED, KVSIM_VIEW_DEROTATED,
                                      KVSIM_VIEW_DEROTATED_CENTERED};

static kvsim_status run_unit(work *at, const combination *keys, const combination *values) {
    unit of;
    int32_t heads = 0;
    kvsim_status status = unit_open(at, keys, values, &of);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const combination *group = of.kinds[kind];
        const int32_t own = group != NULL ? kvsim__page_format(at->store, group->any_page)->heads : 0;
        heads = own > heads ? own : heads;
    }
    const int32_t end = (at->plan->flags & KVSIM_COMPUTE_PER_HEAD) != 0 ? heads : 0;
    const bool any_arithmetic = (keys != NULL && !is_opaque(at, keys)) || (values != NULL && !is_opaque(at, values));
    for (of.head = -1; of.head < end && status == KVSIM_OK; of.head++) {
        status = find_duplicates(at, &of);
        if (status == KVSIM_OK && of.head < 0) {
            status = put_opaque(at, &of);
        }
        for (size_t v = 0; v < sizeof view_order / sizeof view_order[0] && status == KVSIM_OK && any_arithmetic; v++) {
            if ((at->plan->views & view_order[v]) != 0) {
                status = run_view(at, &of, view_order[v]);
            }
        }
    }
    unit_close(at, &of);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the whole */

static uint64_t count_passes(const work *at, const combination *group) {
    uint64_t views = 0;
    for (size_t v = 0; v < sizeof view_order / sizeof view_order[0]; v++) {
        views += (at->plan->views & view_order[v]) != 0;
    }
    const uint64_t heads = (uint64_t)kvsim__page_format(at->store, group->any_page)->heads;
    return views * ((at->plan->flags & KVSIM_COMPUTE_PER_HEAD) != 0 ? 1 + heads : 1);
}

static kvsim_status put_pages(work *at) {
    if ((at->plan->flags & (KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS)) == 0) {
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
static kvsim_status put_summary(work *at) {
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
        for (size_t c = 0; c < at->combination_count; c++) {
            const uint64_t compared = at->combinations[c].compared;
            row->pairs += compared > 1 ? compared * (compared - 1) / 2 : 0;
        }
    }
    kvsim__release(at->base, references, store->identity_count, sizeof *references);
    kvsim__release(at->base, states, store->identity_count, 1);
    return status;
}

static kvsim_status run(work *at) {
    kvsim_status status = classify_pages(at);
    if (status == KVSIM_OK) {
        status = collect_groups(at);
    }
    if (status == KVSIM_OK) {
        status = put_summary(at);
    }
    for (size_t c = 0; c < at->combination_count; c++) {
        const combination *group = &at->combinations[c];
        at->progress.total +=
            group->compared > 1 ? group->compared * (group->compared - 1) / 2 * count_passes(at, group) : 0;
    }
    for (size_t c = 0; c < at->combination_count && status == KVSIM_OK; c++) {
        combination *group = &at->combinations[c];
        if (group->kind == KVSIM_KIND_KEY) {
            combination *partner = find_partner(at, group);
            if (partner != NULL) {
                partner->paired = true;
            }
            status = run_unit(at, group, partner);
        } else if (!group->paired) {
            status = run_unit(at, NULL, group);
        }
    }
    if (status == KVSIM_OK) {
        status = put_pages(at);
    }
    if (status == KVSIM_OK) {
        kvsim__progress_report(&at->progress, at->plan, true);
        status = kvsim__result_finish(at->result);
    }
    return status;
}

kvsim_status kvsim__compute(kvsim_ctx *ctx, const kvsim__plan *plan, kvsim_result **out) {
    work at = {.ctx = ctx, .base = &ctx->base, .store = &ctx->store, .plan = plan};
    *out = NULL;
    if ((plan->views & (KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED)) != 0 &&
        ctx->rope.style == KVSIM_ROPE_NONE) {
        return kvsim__fail(&ctx->base, KVSIM_E_UNSUPPORTED,
                           "a de-rotated view needs to know how keys were rotated: call kvsim_set_rope first");
    }
    kvsim_status status = kvsim__result_open(at.base, plan, &ctx->rope, &at.result);
    if (status == KVSIM_OK) {
        status = run(&at);
    }
    kvsim__release(at.base, at.states, ctx->store.page_count, 1);
    kvsim__release(at.base, at.combinations, at.combination_capacity, sizeof *at.combinations);
    if (status != KVSIM_OK) {
        kvsim_result_destroy(at.result);
        return status;
    }
    *out = at.result;
    return KVSIM_OK;
}
