#include "device_pairs.h"

#include <math.h>
#include <string.h>

#include "top.h"

enum {
    ROW_UNIT = 256,              /* rows that panels and bands are multiples of */
    MOST_ROWS = 16384,           /* of a panel */
    FIRST_BAND = 2048,           /* rows of the first band: how many pairs are near is not known yet */
    HOST_PAIRS = 2 << 20,        /* near pairs of a band that are wanted on the host at most */
    LIST_PAIRS = 1 << 20,        /* pairs on a list to begin with */
    FEWEST_LISTED = 1 << 10,     /* and no fewer, however little memory there is */
    ROW_ALIGNMENT = 128,         /* bytes of packed rows are multiples of this */
    CLEARLY_ABOVE_HUNDREDTHS = 1 /* see clear_limit */
};

/* Beyond the pages, what is packed takes this, or 30 % of the pages' bytes if that is more. */
#define LEAST_WORKSPACE ((uint64_t)1 << 30)

/* Products of elements in one launch, for tensor cores and without, so that none lasts much longer than 50 ms. */
#define LAUNCH_PRODUCTS        ((uint64_t)1 << 42)
#define SIMPLE_LAUNCH_PRODUCTS ((uint64_t)1 << 37)

/* The same for codes, which no tensor core compares, and for bits. */
#define LAUNCH_CODES ((uint64_t)1 << 39)
#define LAUNCH_BITS  ((uint64_t)1 << 42)

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* ---- opening ---- */

static void set_rules(const kvsim__plan *plan, int32_t operand, kvsim__pair_rules *rules) {
    const double largest = plan->budgets[plan->budget_count - 1];
    memset(rules, 0, sizeof *rules);
    rules->bound = (float)kvsim__operand_bound(operand);
    rules->near_limit = (float)(largest + KVSIM__ERROR_SLACK);
    rules->clear_limit = (float)(largest + CLEARLY_ABOVE_HUNDREDTHS / 100.0);
    rules->threshold_count = plan->threshold_count;
    rules->budget_count = plan->budget_count;
    rules->filter = plan->different_sequences;
    rules->bounds = (plan->flags & KVSIM_COMPUTE_BOUNDS) != 0;
    /* Of equal pages of one sequence the first may be no representative where the second is. */
    rules->filtered_listing = plan->different_sequences;
    for (uint32_t i = 0; i < plan->threshold_count; i++) {
        rules->thresholds[i] = (float)plan->thresholds[i];
        rules->exact_thresholds[i] = plan->thresholds[i];
    }
    for (uint32_t i = 0; i < plan->budget_count; i++) {
        rules->budgets[i] = (float)plan->budgets[i];
    }
}

/* Bytes of packed rows; what a panel has beside the operand is 128-byte aligned for any number of rows of ROW_UNIT. */
static void set_row_bytes(const kvsim__pairing *pairing, const kvsim__group *group, kvsim__device_kind *of) {
    const uint64_t n = group->elements;
    const uint64_t size = of->view->operand <= KVSIM__OPERAND_F16 ? 2 : 1;
    const bool hamming = (pairing->plan->metrics & KVSIM_METRIC_HAMMING) != 0;
    const bool jaccard = (pairing->plan->metrics & KVSIM_METRIC_JACCARD) != 0;
    of->row_bytes = of->view->operand == KVSIM__OPERAND_SPLIT ? 2 * round_up(2 * n, ROW_ALIGNMENT)
                                                              : round_up(n * size, ROW_ALIGNMENT);
    of->bit_bytes = hamming || jaccard ? round_up((n + 7) / 8, ROW_ALIGNMENT) : 0;
    of->code_bytes = hamming ? round_up(n, ROW_ALIGNMENT) : 0;
    of->panel_bytes = of->row_bytes + of->bit_bytes * ((hamming ? 1u : 0u) + (jaccard ? 1u : 0u)) + of->code_bytes +
                      sizeof(kvsim__row_facts) + 2 * sizeof(uint32_t);
}

static kvsim_status open_kind(kvsim__device_run *run, const kvsim__device_pairing *from, int kind) {
    kvsim__pairing *pairing = run->pairing;
    kvsim__device_kind *of = &run->kinds[kind];
    const kvsim__group *group = &pairing->groups[kind];
    void *rules = NULL, *facts = NULL;
    of->view = from->views[kind];
    set_rules(pairing->plan, of->view->operand, &of->rules);
    set_row_bytes(pairing, group, of);
    run->near.kinds[kind].norms = of->view->norms;
    of->present = kvsim__allocate(pairing->base, pairing->slots + 1, sizeof *of->present);
    if (of->present == NULL) {
        return kvsim__fail_memory(pairing->base, pairing->slots * sizeof *of->present, "comparing pairs");
    }
    of->present[0] = 0;
    for (size_t slot = 0; slot < pairing->slots; slot++) {
        of->present[slot + 1] = of->present[slot] + (group->pages[slot] != KVSIM__NONE);
    }
    kvsim_status status =
        kvsim__device_take_copy(&run->memory, &of->rules, sizeof of->rules, "comparing pairs", &rules);
    if (status == KVSIM_OK) {
        status = kvsim__device_take_copy(&run->memory, from->facts[kind], pairing->slots * sizeof *from->facts[kind],
                                         "comparing pairs", &facts);
    }
    of->rules_there = rules;
    of->facts_there = facts;
    return status == KVSIM_OK ? kvsim__gathered_open(run->accelerator, pairing, &of->gathered) : status;
}

static kvsim_status open_lists(kvsim__device_run *run) {
    const uint64_t room = kvsim__device_room(run->accelerator) / 32 / sizeof(kvsim__device_pair);
    const uint64_t slots = run->pairing->slots;
    uint64_t capacity = run->accelerator->list_capacity;
    if (capacity == 0) {
        const uint64_t pairs = slots * (slots - 1) / 2;
        capacity = room < LIST_PAIRS ? room : LIST_PAIRS;
        capacity = capacity < pairs ? capacity : pairs;
        capacity = capacity > FEWEST_LISTED ? capacity : FEWEST_LISTED;
    }
    void *counts = NULL;
    kvsim_status status =
        kvsim__device_take(&run->memory, KVSIM__LISTS * sizeof *run->counts, "lists of pairs", &counts);
    run->counts = counts;
    for (int list = 0; list < KVSIM__LISTS && status == KVSIM_OK; list++) {
        run->lists[list].count = run->counts + list;
        status = kvsim__device_list_grow(run, list, (uint32_t)capacity);
    }
    return status;
}

/* Rows of a panel: as many as the workspace allows. */
static uint64_t choose_capacity(const kvsim__device_run *run) {
    const uint64_t all = round_up(run->pairing->slots, ROW_UNIT);
    const uint64_t most =
        run->accelerator->panel_rows > 0 ? round_up(run->accelerator->panel_rows, ROW_UNIT) : MOST_ROWS;
    uint64_t pages = 0, row = 0;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const kvsim__device_kind *of = &run->kinds[kind];
        pages += of->view != NULL ? of->view->page_bytes : 0;
        row = of->panel_bytes > row ? of->panel_bytes : row;
    }
    const uint64_t share = pages / 10 * 3, room = kvsim__device_room(run->accelerator) / 4 * 3;
    uint64_t workspace = share > LEAST_WORKSPACE ? share : LEAST_WORKSPACE;
    workspace = workspace < room ? workspace : room;
    if (all <= most && all * row <= workspace) {
        return all;
    }
    const uint64_t rows = workspace / (2 * row) / ROW_UNIT * ROW_UNIT;
    const uint64_t capacity = rows < ROW_UNIT ? ROW_UNIT : rows > most ? most : rows;
    return capacity < all ? capacity : all;
}

/* Memory for the panels; with fewer rows if there is less than it seemed. */
static kvsim_status open_panels(kvsim__device_run *run) {
    kvsim__accelerator *accelerator = run->accelerator;
    uint64_t capacity = choose_capacity(run), row = 0;
    kvsim_status status;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        row = run->kinds[kind].panel_bytes > row ? run->kinds[kind].panel_bytes : row;
    }
    for (;;) {
        const int panels = capacity < run->pairing->slots ? 2 : 1;
        status = KVSIM_OK;
        for (int i = 0; i < panels && status == KVSIM_OK; i++) {
            status = kvsim__device_take(&run->memory, capacity * row, "packed pages", &run->panel_memory[i]);
        }
        if (status != KVSIM_E_NOMEM || capacity <= ROW_UNIT || !accelerator->failed) {
            break;
        }
        for (int i = 0; i < panels; i++) {
            kvsim__device_give(&run->memory, run->panel_memory[i]);
            run->panel_memory[i] = NULL;
        }
        accelerator->failed = false;
        capacity = round_up(capacity / 2, ROW_UNIT);
    }
    run->capacity = (uint32_t)capacity;
    run->packed[0] = run->packed[1] = -1;
    return status;
}

static kvsim_status run_open(kvsim__device_run *run, const kvsim__device_pairing *from) {
    kvsim__device_facts facts;
    kvsim_status status = kvsim__near_open(run->pairing, &run->near);
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (from->views[kind] != NULL) {
            status = open_kind(run, from, kind);
        }
    }
    if (status == KVSIM_OK) {
        status = open_lists(run);
    }
    if (status == KVSIM_OK) {
        status = open_panels(run);
    }
    run->accelerator->table->describe(run->accelerator->device, &facts);
    run->gram_path = facts.gram_path;
    return status;
}

static void run_close(kvsim__device_run *run) {
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__gathered_close(&run->kinds[kind].gathered);
        kvsim__release(run->pairing->base, run->kinds[kind].present, run->pairing->slots + 1, sizeof(uint32_t));
    }
    kvsim__near_close(&run->near);
    kvsim__device_give_all(&run->memory);
}

/* ---- packing ---- */

/* Take the array of a panel from a running place. */
static void *take(unsigned char **at, uint64_t bytes) {
    void *taken = bytes > 0 ? *at : NULL;
    *at += bytes;
    return taken;
}

static kvsim__device_panel lay_out(const kvsim__device_run *run, int which, int kind) {
    const kvsim__device_kind *of = &run->kinds[kind];
    const uint64_t rows = run->capacity;
    const bool hamming = (run->pairing->plan->metrics & KVSIM_METRIC_HAMMING) != 0;
    const bool jaccard = (run->pairing->plan->metrics & KVSIM_METRIC_JACCARD) != 0;
    unsigned char *at = run->panel_memory[which];
    kvsim__device_panel panel = {.capacity = run->capacity,
                                 .row_bytes = of->row_bytes,
                                 .bit_bytes = of->bit_bytes,
                                 .code_bytes = of->code_bytes};
    panel.operand = take(&at, rows * of->row_bytes);
    panel.signs = take(&at, hamming ? rows * of->bit_bytes : 0);
    panel.actives = take(&at, jaccard ? rows * of->bit_bytes : 0);
    panel.codes = take(&at, rows * of->code_bytes);
    panel.facts = take(&at, rows * sizeof *panel.facts);
    panel.sign_count = take(&at, rows * sizeof *panel.sign_count);
    panel.active_count = take(&at, rows * sizeof *panel.active_count);
    return panel;
}

/* See that one of the panels holds the slots from `first` on. */
static kvsim_status pack(kvsim__device_run *run, int which, int kind, size_t first) {
    kvsim__accelerator *accelerator = run->accelerator;
    kvsim__device_panel *panel = &run->panels[which];
    const kvsim__device_kind *of = &run->kinds[kind];
    const size_t left = run->pairing->slots - first;
    if (run->packed[which] == kind && panel->first == first) {
        return KVSIM_OK;
    }
    const kvsim__device_packing packing = {.operand = of->view->operand,
                                           .stored_codes = of->view->stored_codes,
                                           .code_limit = run->pairing->plan->hamming_bits == 4 ? 7.0 : 127.0,
                                           .largest_norm = run->pairing->groups[kind].largest_norm,
                                           .absmax = of->view->absmax,
                                           .tau = of->view->tau,
                                           .norms = of->view->norms_there,
                                           .largest = of->view->largest,
                                           .slots = of->facts_there};
    *panel = lay_out(run, which, kind);
    panel->first = (uint32_t)first;
    panel->count = left < run->capacity ? (uint32_t)left : run->capacity;
    run->packed[which] = kind;
    return kvsim__device_check(
        accelerator, accelerator->table->pack(accelerator->device, &of->view->group, &packing, panel), "packing pages");
}

/* ---- comparing ---- */

/* Rows for which a launch does about `work`, where each takes `row`. */
static uint32_t rows_of_launch(const kvsim__device_run *run, uint64_t work, uint64_t row) {
    const uint32_t asked = run->accelerator->launch_rows;
    const uint64_t rows = (asked > 0 ? asked : work / row) / ROW_UNIT * ROW_UNIT;
    return rows < ROW_UNIT ? ROW_UNIT : rows > MOST_ROWS ? MOST_ROWS : (uint32_t)rows;
}

/* The rows [begin, end) of a panel as a panel; `begin` is a multiple of ROW_UNIT. */
static kvsim__device_panel part_of(const kvsim__device_panel *panel, uint32_t begin, uint32_t end) {
    kvsim__device_panel part = *panel;
    part.first += begin;
    part.count = end - begin;
    part.capacity = (uint32_t)round_up(end, ROW_UNIT) - begin;
    part.operand = NULL;
    part.signs = panel->signs != NULL ? panel->signs + begin * panel->bit_bytes : NULL;
    part.actives = panel->actives != NULL ? panel->actives + begin * panel->bit_bytes : NULL;
    part.codes = panel->codes != NULL ? panel->codes + begin * panel->code_bytes : NULL;
    part.facts = panel->facts + begin;
    part.sign_count = panel->sign_count + begin;
    part.active_count = panel->active_count + begin;
    return part;
}

static kvsim_status launch_bits(kvsim__device_run *run, int kind, uint32_t what, const kvsim__device_panel *rows,
                                const kvsim__device_panel *columns) {
    kvsim__accelerator *accelerator = run->accelerator;
    const kvsim__device_bit_compare job = {.rows = *rows,
                                           .columns = *columns,
                                           .what = what,
                                           .elements = (uint32_t)run->pairing->groups[kind].elements,
                                           .filter = run->pairing->plan->different_sequences,
                                           .path = KVSIM__GRAM_BEST,
                                           .figures = run->kinds[kind].gathered.bits[what]};
    return kvsim__device_check(accelerator, accelerator->table->compare_bits(accelerator->device, &job),
                               "comparing codes");
}

/* Bits or codes of all rows with a panel of columns, in launches that do not last too long. */
static kvsim_status compare_what(kvsim__device_run *run, int kind, uint32_t what, const kvsim__device_panel *columns) {
    const kvsim__device_panel *rows = &run->panels[0];
    const atomic_bool *stop = &run->pairing->progress->stop;
    const uint64_t row = (uint64_t)columns->count * run->pairing->groups[kind].elements;
    const uint32_t step = rows_of_launch(run, what == KVSIM__BITS_CODES ? LAUNCH_CODES : LAUNCH_BITS, row);
    kvsim_status status = KVSIM_OK;
    for (uint32_t begin = 0; begin < rows->count && status == KVSIM_OK && !atomic_load(stop); begin += step) {
        const uint32_t end = rows->count - begin < step ? rows->count : begin + step;
        const kvsim__device_panel part = part_of(rows, begin, end);
        if (columns != rows) {
            status = launch_bits(run, kind, what, &part, columns);
            continue;
        }
        if (begin > 0) {
            const kvsim__device_panel before = part_of(rows, 0, begin);
            status = launch_bits(run, kind, what, &part, &before);
        }
        if (status == KVSIM_OK) {
            status = launch_bits(run, kind, what, &part, &part);
        }
    }
    return status;
}

static kvsim_status compare_bits(kvsim__device_run *run, int kind, const kvsim__device_panel *columns) {
    kvsim_status status = KVSIM_OK;
    for (uint32_t what = 0; what < KVSIM__BIT_KINDS && status == KVSIM_OK; what++) {
        if (run->kinds[kind].gathered.bits[what] != NULL) {
            status = compare_what(run, kind, what, columns);
        }
    }
    return status == KVSIM_OK ? kvsim__gathered_take_bits(&run->kinds[kind].gathered, &run->pairing->figures[kind])
                              : status;
}

/* Pairs of present slots of rows [begin, end) with earlier ones of a panel of columns. */
static uint64_t count_pairs(const kvsim__device_run *run, int kind, const kvsim__device_panel *columns, uint32_t begin,
                            uint32_t end) {
    const uint32_t *present = run->kinds[kind].present;
    uint64_t pairs = 0;
    for (uint32_t row = begin; row < end; row++) {
        const size_t slot = (size_t)run->panels[0].first + row, last = (size_t)columns->first + columns->count;
        const size_t stop = slot < last ? slot : last;
        pairs += present[slot + 1] > present[slot] ? present[stop] - present[columns->first] : 0;
    }
    return pairs;
}

/* Rows that one launch takes. */
static uint32_t choose_rows(const kvsim__device_run *run, int kind, const kvsim__device_panel *columns, bool first) {
    const uint64_t factor = run->kinds[kind].view->operand == KVSIM__OPERAND_SPLIT ? 3 : 1;
    const uint64_t row = (uint64_t)columns->count * run->pairing->groups[kind].elements * factor;
    const uint64_t most = run->gram_path == KVSIM__GRAM_SIMPLE ? SIMPLE_LAUNCH_PRODUCTS : LAUNCH_PRODUCTS;
    /* The first rows tell how good the best pairs have to be. */
    return first ? ROW_UNIT : rows_of_launch(run, most, row);
}

static kvsim_status compare_band(kvsim__device_run *run, int kind, const kvsim__device_panel *columns, uint32_t begin,
                                 uint32_t end) {
    kvsim__progress *progress = run->pairing->progress;
    kvsim_status status = KVSIM_OK;
    for (uint32_t row = begin; row < end && status == KVSIM_OK && !atomic_load(&progress->stop);) {
        const bool first = run->panels[0].first == 0 && row == 0 && run->pairing->plan->top_k > 0;
        const uint32_t rows = choose_rows(run, kind, columns, first);
        const uint32_t stop = end - row < rows ? end : row + rows;
        status = kvsim__device_compare_rows(run, kind, columns, row, stop);
        progress->done += count_pairs(run, kind, columns, row, stop);
        row = stop;
        kvsim__progress_report(progress, run->pairing->plan, false);
    }
    return status;
}

/* Rows [begin, end) of the panel that begins at slot `first`, of one kind, with all earlier ones. */
static kvsim_status run_band_of_kind(kvsim__device_run *run, int kind, size_t first, uint32_t begin, uint32_t end) {
    const atomic_bool *stop = &run->pairing->progress->stop;
    kvsim_status status = pack(run, 0, kind, first);
    for (size_t earlier = 0; earlier <= first && status == KVSIM_OK && !atomic_load(stop); earlier += run->capacity) {
        const kvsim__device_panel *columns = &run->panels[earlier < first ? 1 : 0];
        status = earlier < first ? pack(run, 1, kind, earlier) : KVSIM_OK;
        if (status == KVSIM_OK && begin == 0) {
            status = compare_bits(run, kind, columns);
        }
        if (status == KVSIM_OK) {
            status = compare_band(run, kind, columns, begin, end);
        }
    }
    return status;
}

/* Rows of the next band, so that about as many near pairs come as are wanted on the host. */
static uint32_t choose_band(const kvsim__device_run *run, uint32_t band, uint32_t rows) {
    size_t listed = 0;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        listed = run->near.kinds[kind].count > listed ? run->near.kinds[kind].count : listed;
    }
    const uint64_t wanted = listed > 0 ? (uint64_t)rows * HOST_PAIRS / listed : MOST_ROWS;
    const uint64_t grown = (uint64_t)band * 4 < wanted ? (uint64_t)band * 4 : wanted;
    const uint64_t next = grown / ROW_UNIT * ROW_UNIT;
    return next < ROW_UNIT ? ROW_UNIT : next > MOST_ROWS ? MOST_ROWS : (uint32_t)next;
}

static kvsim_status run_all(kvsim__device_run *run) {
    const kvsim__pairing *pairing = run->pairing;
    const atomic_bool *stop = &pairing->progress->stop;
    kvsim_status status = KVSIM_OK;
    uint32_t band = FIRST_BAND;
    for (size_t first = 0; first < pairing->slots && status == KVSIM_OK; first += run->capacity) {
        const size_t left = pairing->slots - first;
        const uint32_t count = left < run->capacity ? (uint32_t)left : run->capacity;
        for (uint32_t begin = 0, end; begin < count && status == KVSIM_OK && !atomic_load(stop); begin = end) {
            end = count - begin < band ? count : begin + band;
            for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
                if (run->kinds[kind].view != NULL) {
                    status = run_band_of_kind(run, kind, first, begin, end);
                }
            }
            band = choose_band(run, band, end - begin);
            if (status == KVSIM_OK && !atomic_load(stop)) {
                status = kvsim__near_deliver(&run->near, first + begin, end - begin);
            }
        }
    }
    return status == KVSIM_OK && atomic_load(stop) ? kvsim__fail_cancelled(pairing->base) : status;
}

/* ---- finishing ---- */

/* The best pairs with their cosines and errors as they are in double. */
static kvsim_status finish_top(kvsim__device_run *run, int kind) {
    kvsim__figures *figures = &run->pairing->figures[kind];
    const kvsim__device_kind *of = &run->kinds[kind];
    const size_t count = figures->top_count;
    kvsim__device_pair *pairs = kvsim__allocate(run->pairing->base, count, sizeof *pairs);
    if (pairs == NULL) {
        return kvsim__fail_memory(run->pairing->base, count * sizeof *pairs, "the most similar pairs");
    }
    for (size_t i = 0; i < count; i++) {
        pairs[i] = (kvsim__device_pair){.later = figures->top[i].later, .earlier = figures->top[i].earlier};
    }
    const kvsim_status status = kvsim__device_rescore(run, kind, pairs, count);
    figures->top_count = 0;
    for (size_t i = 0; i < count && status == KVSIM_OK; i++) {
        const double x = of->view->norms[pairs[i].later];
        const double distance = pairs[i].distance * run->pairing->groups[kind].largest_norm;
        kvsim__top_offer(figures->top, &figures->top_count, run->pairing->plan->top_k,
                         (kvsim__scored_pair){.cosine = pairs[i].cosine,
                                              .relative_error = x > 0.0           ? distance / x
                                                                : distance == 0.0 ? 0.0
                                                                                  : INFINITY,
                                              .later = pairs[i].later,
                                              .earlier = pairs[i].earlier});
    }
    kvsim__top_sort(figures->top, figures->top_count);
    kvsim__release(run->pairing->base, pairs, count, sizeof *pairs);
    return status;
}

/* Each page's best earlier page with its cosine as it is in double. */
static kvsim_status finish_best(kvsim__device_run *run, int kind) {
    kvsim__figures *figures = &run->pairing->figures[kind];
    const size_t slots = run->pairing->slots;
    size_t count = 0;
    if (figures->best_slot == NULL) {
        return KVSIM_OK;
    }
    kvsim__device_pair *pairs = kvsim__allocate(run->pairing->base, slots, sizeof *pairs);
    if (pairs == NULL) {
        return kvsim__fail_memory(run->pairing->base, slots * sizeof *pairs, "the best matches");
    }
    for (size_t slot = 0; slot < slots; slot++) {
        if (figures->best_slot[slot] != KVSIM__NONE) {
            pairs[count++] = (kvsim__device_pair){.later = (uint32_t)slot, .earlier = figures->best_slot[slot]};
        }
    }
    const kvsim_status status = kvsim__device_rescore(run, kind, pairs, count);
    for (size_t i = 0; i < count && status == KVSIM_OK; i++) {
        figures->best_cosine[pairs[i].later] = pairs[i].cosine;
    }
    kvsim__release(run->pairing->base, pairs, slots, sizeof *pairs);
    return status;
}

static kvsim_status finish(kvsim__device_run *run) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        if (run->kinds[kind].view == NULL) {
            continue;
        }
        status = kvsim__gathered_finish(&run->kinds[kind].gathered, run->pairing, kind);
        if (status == KVSIM_OK) {
            status = finish_top(run, kind);
        }
        if (status == KVSIM_OK) {
            status = finish_best(run, kind);
        }
    }
    return status;
}

kvsim_status kvsim__device_pairs_run(const kvsim__device_pairing *of) {
    kvsim__pairing *pairing = of->pairing;
    const kvsim__device_view *any = of->views[of->views[KVSIM__KEY] != NULL ? KVSIM__KEY : KVSIM__VALUE];
    if (any == NULL) {
        return KVSIM_OK;
    }
    kvsim__device_run run = {
        .pairing = pairing, .accelerator = any->accelerator, .memory = {.accelerator = any->accelerator}};
    kvsim_status status = run_open(&run, of);
    if (status == KVSIM_OK) {
        status = run_all(&run);
    }
    if (status == KVSIM_OK) {
        status = finish(&run);
    }
    run_close(&run);
    return status;
}
