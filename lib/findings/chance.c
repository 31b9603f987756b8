#include "chance.h"

#include <math.h>
#include <string.h>

#include "../base/random.h"
#include "../pairs/tile.h"

enum {
    COLUMN_SHUFFLINGS = 4, /* shufflings of the earlier pages, each compared with a share of the repetitions */
    FEWEST_DRAWN = 64,     /* pages drawn in a repetition at least, */
    MOST_DRAWN = 4096,     /* and at most */
    ALL_UP_TO = 256,       /* all pages are drawn where there are no more */
    ROW_BYTES = 44 << 20,  /* of the panel of drawn pages: few panels, for the earlier pages are packed once for each */
    COLUMN_BYTES = 12 << 20, /* of the panel of earlier pages */
    MAX_PANEL = 512,
    PURPOSE_ROWS = 1,
    PURPOSE_COLUMNS,
    PURPOSE_DRAW
};

/* What one drawn page meets among all earlier ones. */
typedef struct row_figures {
    uint64_t pairs[KVSIM__KINDS];
    double cosine_sum[KVSIM__KINDS];
    uint32_t hits[KVSIM__KINDS][KVSIM_MAX_LEVELS];
    uint64_t threshold_bits[KVSIM__KINDS];
    uint64_t budget_bits[KVSIM__LANES];
} row_figures;

typedef struct chance {
    kvsim__pairing pairing; /* as the caller's, but for cosines alone */
    kvsim__plan plan;
    uint32_t *slots; /* [ranks] */
    size_t ranks;
    size_t drawn, total;                           /* rows of a repetition, of all of one column shuffling at most */
    uint32_t *row_ranks;                           /* [total] */
    uint64_t *row_draws;                           /* [total] keys of the repetitions */
    uint32_t *column_ranks;                        /* [capacity] */
    uint64_t *shuffling;                           /* [capacity] the key of the shuffling at hand, over and over */
    row_figures *rows;                             /* [total] */
    size_t row_capacity, column_capacity, longest; /* slots of a panel; of the larger one */
    kvsim__panel row_panel, column_panel;
} chance;

typedef struct compare_job {
    chance *of;
    size_t first_row;    /* of the panel, among the rows of this shuffling */
    size_t first_column; /* rank of the column panel's first page */
} compare_job;

static uint64_t bits_from(const double *levels, uint32_t count, double value, bool at_least) {
    uint64_t bits = 0;
    for (uint32_t i = 0; i < count; i++) {
        bits |= (uint64_t)(at_least ? value >= levels[i] : value <= levels[i]) << i;
    }
    return bits;
}

/* Count the pair of a row and a column of the panels, given its cosines. */
static void count_pair(const chance *of, row_figures *row, size_t i, size_t j, const double cosines[KVSIM__KINDS]) {
    double errors[KVSIM__KINDS] = {INFINITY, INFINITY};
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (!of->pairing.present[kind]) {
            continue;
        }
        const double x = of->row_panel.kinds[kind].norm[i], y = of->column_panel.kinds[kind].norm[j];
        const double c = cosines[kind];
        const double square = x * x + y * y - 2.0 * x * y * c;
        errors[kind] = x > 0.0 ? sqrt(square > 0.0 ? square : 0.0) / x : y > 0.0 ? INFINITY : 0.0;
        row->pairs[kind]++;
        row->cosine_sum[kind] += c;
        const uint64_t reached = bits_from(of->plan.thresholds, of->plan.threshold_count, c, true);
        row->threshold_bits[kind] |= reached;
        for (uint32_t t = 0; reached >> t != 0 && t < of->plan.threshold_count; t++) {
            row->hits[kind][t] += reached >> t & 1;
        }
        row->budget_bits[kind] |= bits_from(of->plan.budgets, of->plan.budget_count, errors[kind], false);
    }
    const double block = errors[KVSIM__KEY] > errors[KVSIM__VALUE] ? errors[KVSIM__KEY] : errors[KVSIM__VALUE];
    row->budget_bits[KVSIM__LANE_BLOCK] |= bits_from(of->plan.budgets, of->plan.budget_count, block, false);
}

static double cosine_of(const chance *of, int kind, size_t i, size_t j, double packed_dot) {
    const kvsim__packed *rows = &of->row_panel.kinds[kind], *columns = &of->column_panel.kinds[kind];
    const double x = rows->norm[i], y = columns->norm[j];
    if (x == 0.0 || y == 0.0) {
        return x == y ? 1.0 : 0.0;
    }
    const double cosine = packed_dot * rows->scale[i] * columns->scale[j] / (x * y);
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

/* One strip of drawn pages against one panel of earlier pages; figures of a row belong to one task alone. */
static void compare_strip(void *opaque, uint32_t strip) {
    const compare_job *job = opaque;
    chance *of = job->of;
    const kvsim__pairing *pairing = &of->pairing;
    const size_t first = (size_t)strip * KVSIM__STRIP;
    if (atomic_load_explicit(&pairing->progress->stop, memory_order_relaxed)) {
        return;
    }
    size_t latest = 0;
    for (size_t i = first; i < first + KVSIM__STRIP && i < of->row_panel.count; i++) {
        const size_t rank = of->row_ranks[job->first_row + i];
        latest = rank > latest ? rank : latest;
    }
    for (size_t column = 0; column < of->column_panel.count && job->first_column + column < latest;
         column += KVSIM__STRIP) {
        double gram[KVSIM__KINDS][KVSIM__STRIP * KVSIM__STRIP];
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            if (pairing->present[kind]) {
                kvsim__kernel_table()->gram(kvsim__strip(pairing, &of->row_panel, kind, first),
                                            kvsim__strip(pairing, &of->column_panel, kind, column),
                                            pairing->groups[kind].elements, gram[kind], KVSIM__STRIP);
            }
        }
        for (size_t i = first; i < first + KVSIM__STRIP && i < of->row_panel.count; i++) {
            const size_t row = job->first_row + i;
            for (size_t j = column; j < column + KVSIM__STRIP && j < of->column_panel.count; j++) {
                const size_t earlier = job->first_column + j;
                const size_t later = of->row_ranks[row];
                const uint32_t *sequence = pairing->places.sequence;
                if (earlier >= later ||
                    (of->plan.different_sequences && sequence[of->slots[earlier]] == sequence[of->slots[later]])) {
                    continue;
                }
                double cosines[KVSIM__KINDS] = {0};
                for (int kind = 0; kind < KVSIM__KINDS; kind++) {
                    cosines[kind] =
                        pairing->present[kind]
                            ? cosine_of(of, kind, i, j, gram[kind][(i - first) * KVSIM__STRIP + (j - column)])
                            : 0.0;
                }
                count_pair(of, &of->rows[row], i, j, cosines);
            }
        }
    }
}

/* Compare the rows of one shuffling with all earlier pages. */
static void compare_all(chance *of, size_t row_count, uint64_t key) {
    const kvsim__pairing *pairing = &of->pairing;
    for (size_t i = 0; i < of->longest; i++) {
        of->shuffling[i] = key;
    }
    for (size_t first = 0; first < row_count && !atomic_load(&pairing->progress->stop); first += of->row_capacity) {
        const size_t rows = row_count - first < of->row_capacity ? row_count - first : of->row_capacity;
        const kvsim__contents_map row_map = {of->slots, of->ranks, of->row_ranks + first, of->shuffling,
                                             of->row_draws + first};
        kvsim__panel_fill_shuffled(pairing, &of->row_panel, &row_map, rows);
        size_t latest = 0;
        for (size_t i = first; i < first + rows; i++) {
            latest = of->row_ranks[i] > latest ? of->row_ranks[i] : latest;
        }
        for (size_t column = 0; column < latest; column += of->column_capacity) {
            const size_t rest = of->ranks - column;
            const size_t columns = rest < of->column_capacity ? rest : of->column_capacity;
            for (size_t j = 0; j < columns; j++) {
                of->column_ranks[j] = (uint32_t)(column + j);
            }
            const kvsim__contents_map column_map = {of->slots, of->ranks, of->column_ranks, of->shuffling, NULL};
            kvsim__panel_fill_shuffled(pairing, &of->column_panel, &column_map, columns);
            compare_job job = {of, first, column};
            kvsim__parallel_for(pairing->base, (uint32_t)((rows + KVSIM__STRIP - 1) / KVSIM__STRIP), compare_strip,
                                &job);
        }
    }
}

/* Figures of one repetition from its rows, which lie `stride` apart. */
static void summarise(const chance *of, const row_figures *rows, size_t stride, kvsim__chance_sample *out) {
    const double drawn = (double)of->drawn;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        uint64_t pairs = 0;
        double sum = 0.0;
        for (size_t i = 0; i < of->drawn; i++) {
            pairs += rows[i * stride].pairs[kind];
            sum += rows[i * stride].cosine_sum[kind];
        }
        out->mean_cosine[kind] = pairs > 0 ? sum / (double)pairs : NAN;
        for (uint32_t t = 0; t < of->plan.threshold_count; t++) {
            uint64_t hits = 0, pages = 0;
            for (size_t i = 0; i < of->drawn; i++) {
                hits += rows[i * stride].hits[kind][t];
                pages += rows[i * stride].threshold_bits[kind] >> t & 1;
            }
            out->pair_share[kind][t] = pairs > 0 ? (double)hits / (double)pairs : NAN;
            out->page_share[kind][t] = (double)pages / drawn;
        }
    }
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        for (uint32_t b = 0; b < of->plan.budget_count; b++) {
            uint64_t pages = 0;
            for (size_t i = 0; i < of->drawn; i++) {
                pages += rows[i * stride].budget_bits[lane] >> b & 1;
            }
            out->removed_share[lane][b] = (double)pages / drawn;
        }
    }
}

static kvsim_status run(chance *of, kvsim__chance_sample *samples) {
    const uint32_t repetitions = of->plan.null_repetitions;
    for (uint32_t c = 0; c < COLUMN_SHUFFLINGS && c < repetitions; c++) {
        /* Rows of all repetitions of this shuffling lie in order of their ranks, so that neighbours have about the same
           earlier pages and the rest need not be looked at. */
        const size_t stride = (repetitions - c + COLUMN_SHUFFLINGS - 1) / COLUMN_SHUFFLINGS;
        const size_t rows = of->drawn * stride;
        for (uint32_t r = c, own = 0; r < repetitions; r += COLUMN_SHUFFLINGS, own++) {
            const uint64_t purpose = (uint64_t)of->pairing.groups[0].view << 40 | (uint64_t)r << 8;
            kvsim__random draw = {kvsim__random_seed(of->plan.seed, purpose | PURPOSE_DRAW)};
            const uint64_t key = kvsim__random_seed(of->plan.seed, purpose | PURPOSE_ROWS);
            for (size_t i = 0; i < of->drawn; i++) {
                /* One page from each of `drawn` equal stretches of the arrival order. */
                const size_t begin = of->ranks * i / of->drawn, end = of->ranks * (i + 1) / of->drawn;
                of->row_ranks[i * stride + own] = (uint32_t)(begin + kvsim__random_below(&draw, end - begin));
                of->row_draws[i * stride + own] = key;
            }
        }
        memset(of->rows, 0, rows * sizeof *of->rows);
        compare_all(of, rows, kvsim__random_seed(of->plan.seed, (uint64_t)c << 8 | PURPOSE_COLUMNS));
        for (uint32_t r = c, own = 0; r < repetitions; r += COLUMN_SHUFFLINGS, own++) {
            summarise(of, of->rows + own, stride, &samples[r]);
        }
        if (atomic_load(&of->pairing.progress->stop)) {
            return kvsim__fail(of->pairing.base, KVSIM_E_CANCELLED, "cancelled by the progress callback");
        }
        kvsim__progress_report(of->pairing.progress, &of->plan, false);
    }
    return KVSIM_OK;
}

static void list_slots(chance *of) {
    const kvsim__pairing *pairing = &of->pairing;
    for (size_t slot = 0; slot < pairing->slots; slot++) {
        bool complete = true;
        for (int kind = 0; kind < KVSIM__KINDS; kind++) {
            complete = complete && (!pairing->present[kind] || pairing->groups[kind].pages[slot] != KVSIM__NONE);
        }
        if (complete) {
            of->slots[of->ranks++] = (uint32_t)slot;
        }
    }
}

static size_t panel_capacity(const chance *of, size_t bytes) {
    const size_t capacity = bytes / kvsim__panel_bytes(&of->pairing, KVSIM__STRIP) * KVSIM__STRIP;
    return capacity > MAX_PANEL ? MAX_PANEL : capacity < KVSIM__STRIP ? KVSIM__STRIP : capacity;
}

static void choose_sizes(chance *of) {
    const uint32_t repetitions = of->plan.null_repetitions;
    const size_t share = (of->ranks + 2 * (size_t)repetitions - 1) / (2 * (size_t)repetitions);
    of->drawn = of->ranks <= ALL_UP_TO ? of->ranks
                : share < FEWEST_DRAWN ? FEWEST_DRAWN
                : share > MOST_DRAWN   ? MOST_DRAWN
                                       : share;
    of->total = of->drawn * ((repetitions + COLUMN_SHUFFLINGS - 1) / COLUMN_SHUFFLINGS);
    of->row_capacity = panel_capacity(of, ROW_BYTES);
    of->column_capacity = panel_capacity(of, COLUMN_BYTES);
    of->longest = of->row_capacity > of->column_capacity ? of->row_capacity : of->column_capacity;
}

kvsim_status kvsim__chance_run(const kvsim__pairing *pairing, kvsim__chance_sample *samples, bool *enough) {
    kvsim__base *base = pairing->base;
    chance of = {.pairing = *pairing, .plan = *pairing->plan};
    of.plan.metrics = KVSIM_METRIC_COSINE; /* no codes, no bits are packed */
    of.pairing.plan = &of.plan;
    of.slots = kvsim__allocate(base, pairing->slots, sizeof *of.slots);
    if (of.slots == NULL) {
        return kvsim__fail_memory(base, pairing->slots * sizeof *of.slots, "a chance level");
    }
    list_slots(&of);
    *enough = of.ranks >= KVSIM__FEWEST_PAGES;
    kvsim_status status = KVSIM_OK;
    if (*enough) {
        choose_sizes(&of);
        of.row_ranks = kvsim__allocate(base, of.total, sizeof *of.row_ranks);
        of.row_draws = kvsim__allocate(base, of.total, sizeof *of.row_draws);
        of.rows = kvsim__allocate(base, of.total, sizeof *of.rows);
        of.column_ranks = kvsim__allocate(base, of.column_capacity, sizeof *of.column_ranks);
        of.shuffling = kvsim__allocate(base, of.longest, sizeof *of.shuffling);
        status = of.row_ranks != NULL && of.row_draws != NULL && of.rows != NULL && of.column_ranks != NULL &&
                         of.shuffling != NULL
                     ? kvsim__panel_open(&of.pairing, of.row_capacity, &of.row_panel)
                     : kvsim__fail_memory(base, of.total * sizeof *of.rows, "a chance level");
        if (status == KVSIM_OK) {
            status = kvsim__panel_open(&of.pairing, of.column_capacity, &of.column_panel);
        }
        if (status == KVSIM_OK) {
            status = run(&of, samples);
        }
        kvsim__panel_close(&of.pairing, &of.row_panel);
        kvsim__panel_close(&of.pairing, &of.column_panel);
        kvsim__release(base, of.row_ranks, of.total, sizeof *of.row_ranks);
        kvsim__release(base, of.row_draws, of.total, sizeof *of.row_draws);
        kvsim__release(base, of.rows, of.total, sizeof *of.rows);
        kvsim__release(base, of.column_ranks, of.column_capacity, sizeof *of.column_ranks);
        kvsim__release(base, of.shuffling, of.longest, sizeof *of.shuffling);
    }
    kvsim__release(base, of.slots, pairing->slots, sizeof *of.slots);
    return status;
}
