/* Rows against columns: figures, and lists that may turn out too short. */
#include <string.h>

#include "device_pairs.h"
#include "top.h"

/* Rows that a device compares at least: see kvsim__device_compare. */
enum { LEAST_ROWS = 256 };

/* One panel of rows and one of columns. */
typedef struct comparing {
    kvsim__device_run *run;
    int kind;
    kvsim__device_compare job;
    uint32_t counts[KVSIM__LISTS];
} comparing;

static const char doing[] = "comparing pages";

kvsim_status kvsim__device_list_grow(kvsim__device_run *run, int list, uint32_t capacity) {
    kvsim__device_list *grown = &run->lists[list];
    void *items = NULL;
    if (grown->capacity >= capacity) {
        return KVSIM_OK;
    }
    kvsim__device_give(&run->memory, grown->items);
    grown->items = NULL;
    grown->capacity = 0;
    const kvsim_status status =
        kvsim__device_take(&run->memory, (uint64_t)capacity * sizeof *grown->items, "lists of pairs", &items);
    grown->items = items;
    grown->capacity = status == KVSIM_OK ? capacity : 0;
    return status;
}

static void set_lists(comparing *at) {
    at->job.doubtful = at->run->lists[KVSIM__LIST_DOUBTFUL];
    at->job.near = at->run->lists[KVSIM__LIST_NEAR];
    at->job.top = at->run->lists[KVSIM__LIST_TOP];
}

static kvsim_status take_counts(comparing *at) {
    return kvsim__device_download(at->run->accelerator, at->counts, at->run->counts, sizeof at->counts);
}

/* Compare rows with the lists empty, and see how many pairs were offered to each. */
static kvsim_status launch(comparing *at, uint32_t begin, uint32_t end, uint32_t flags) {
    kvsim__accelerator *accelerator = at->run->accelerator;
    set_lists(at);
    at->job.row_begin = begin;
    at->job.row_end = end;
    at->job.flags = flags | KVSIM__COMPARE_DOUBT;
    kvsim_status status = kvsim__device_check(
        accelerator, accelerator->table->fill(accelerator->device, at->run->counts, 0, sizeof at->counts), doing);
    if (status == KVSIM_OK) {
        status = kvsim__device_check(accelerator, accelerator->table->compare(accelerator->device, &at->job), doing);
    }
    return status == KVSIM_OK ? take_counts(at) : status;
}

static bool fits(const comparing *at, int list) {
    return at->counts[list] <= at->run->lists[list].capacity;
}

/* Decide the pairs in doubt, which all fit their list. */
static kvsim_status resolve(comparing *at, uint32_t flags) {
    kvsim__accelerator *accelerator = at->run->accelerator;
    const uint32_t count = at->counts[KVSIM__LIST_DOUBTFUL];
    if (count == 0) {
        return KVSIM_OK;
    }
    at->job.flags = flags;
    const kvsim_status status = kvsim__device_check(
        accelerator,
        accelerator->table->resolve(accelerator->device, &at->run->kinds[at->kind].view->group,
                                    at->run->pairing->groups[at->kind].largest_norm, &at->job, count),
        doing);
    return status == KVSIM_OK ? take_counts(at) : status;
}

static kvsim_status take_near(comparing *at) {
    kvsim__near_list *list = &at->run->near.kinds[at->kind];
    const uint32_t count = at->counts[KVSIM__LIST_NEAR];
    if (count == 0) {
        return KVSIM_OK;
    }
    kvsim_status status = kvsim__near_reserve(&at->run->near, at->kind, count);
    if (status == KVSIM_OK) {
        status = kvsim__device_download(at->run->accelerator, list->pairs + list->count,
                                        at->run->lists[KVSIM__LIST_NEAR].items, count * sizeof *list->pairs);
        list->count += status == KVSIM_OK ? count : 0;
    }
    return status;
}

/* Offer the first `count` pairs of the list of best ones to a heap. */
static kvsim_status offer_top(comparing *at, uint32_t count, kvsim__scored_pair *top, size_t *top_count) {
    kvsim__base *base = at->run->pairing->base;
    if (count == 0) {
        return KVSIM_OK;
    }
    kvsim__device_pair *pairs = kvsim__allocate(base, count, sizeof *pairs);
    if (pairs == NULL) {
        return kvsim__fail_memory(base, count * sizeof *pairs, "the most similar pairs");
    }
    const kvsim_status status = kvsim__device_download(at->run->accelerator, pairs,
                                                       at->run->lists[KVSIM__LIST_TOP].items, count * sizeof *pairs);
    for (uint32_t i = 0; i < count && status == KVSIM_OK; i++) {
        kvsim__top_offer(
            top, top_count, at->run->pairing->plan->top_k,
            (kvsim__scored_pair){.cosine = pairs[i].cosine, .later = pairs[i].later, .earlier = pairs[i].earlier});
    }
    kvsim__release(base, pairs, count, sizeof *pairs);
    return status;
}

/* Pairs below the last of a full heap need not be listed any more. */
static void tighten(comparing *at, const kvsim__scored_pair *top, size_t count) {
    const float least = (float)top[0].cosine;
    if (count == at->run->pairing->plan->top_k && least > at->job.top_cutoff) {
        at->job.top_cutoff = least;
    }
}

static kvsim_status take_top(comparing *at) {
    kvsim__figures *figures = &at->run->pairing->figures[at->kind];
    const kvsim_status status = offer_top(at, at->counts[KVSIM__LIST_TOP], figures->top, &figures->top_count);
    if (status == KVSIM_OK) {
        tighten(at, figures->top, figures->top_count);
    }
    return status;
}

/* The list of best pairs was too short; the pairs that are on it tell how good a pair has to be. */
static kvsim_status tighten_from_list(comparing *at) {
    kvsim__base *base = at->run->pairing->base;
    const size_t room = at->run->pairing->plan->top_k;
    size_t count = 0;
    kvsim__scored_pair *top = kvsim__allocate(base, room, sizeof *top);
    if (top == NULL) {
        return kvsim__fail_memory(base, room * sizeof *top, "the most similar pairs");
    }
    const kvsim_status status = offer_top(at, at->run->lists[KVSIM__LIST_TOP].capacity, top, &count);
    if (status == KVSIM_OK) {
        tighten(at, top, count);
    }
    kvsim__release(base, top, room, sizeof *top);
    return status;
}

/* Make every list that was too short as long as it would have had to be. */
static kvsim_status grow_lists(comparing *at) {
    kvsim_status status = KVSIM_OK;
    for (int list = 0; list < KVSIM__LISTS && status == KVSIM_OK; list++) {
        if (!fits(at, list)) {
            status = kvsim__device_list_grow(at->run, list, at->counts[list]);
        }
    }
    return status;
}

static int list_of(uint32_t flag) {
    return flag == KVSIM__COMPARE_NEAR  ? KVSIM__LIST_NEAR
           : flag == KVSIM__COMPARE_TOP ? KVSIM__LIST_TOP
                                        : KVSIM__LIST_DOUBTFUL;
}

/* Compare rows once more for one purpose: to list near or best pairs, or to count the pairs in doubt. */
static kvsim_status try_rows(comparing *at, uint32_t begin, uint32_t end, uint32_t flag, bool *done) {
    const int list = list_of(flag);
    kvsim_status status = launch(at, begin, end, flag & ~KVSIM__COMPARE_GATHER);
    *done = false;
    if (status == KVSIM_OK && fits(at, KVSIM__LIST_DOUBTFUL) && fits(at, list)) {
        status = resolve(at, flag);
        *done = status == KVSIM_OK && fits(at, list);
    }
    if (*done && flag == KVSIM__COMPARE_NEAR) {
        status = take_near(at);
    } else if (*done && flag == KVSIM__COMPARE_TOP) {
        status = take_top(at);
    }
    return status;
}

/* Compare rows again, fewer at a time, because a list was too short. */
static kvsim_status compare_again(comparing *at, uint32_t begin, uint32_t end, uint32_t flag) {
    uint32_t step = end - begin;
    kvsim_status status = KVSIM_OK;
    for (uint32_t row = begin; row < end && status == KVSIM_OK;) {
        const uint32_t stop = end - row < step ? end : row + step;
        const float cutoff = at->job.top_cutoff;
        bool done = false;
        status = try_rows(at, row, stop, flag, &done);
        if (status == KVSIM_OK && !done && flag == KVSIM__COMPARE_TOP && !fits(at, KVSIM__LIST_TOP)) {
            status = tighten_from_list(at);
        }
        if (done) {
            row = stop;
        } else if (status == KVSIM_OK && at->job.top_cutoff <= cutoff) {
            if (step > LEAST_ROWS) {
                step = (step / 2 + LEAST_ROWS - 1) / LEAST_ROWS * LEAST_ROWS;
            } else {
                status = grow_lists(at);
            }
        }
    }
    return status;
}

/* The best pairs are final when they are all perfect, and earlier than any to come. */
static bool top_is_wanted(const comparing *at, uint32_t begin) {
    const kvsim__figures *figures = &at->run->pairing->figures[at->kind];
    const uint32_t top_k = at->run->pairing->plan->top_k;
    return top_k > 0 && !(figures->top_count == top_k && figures->top[0].cosine >= 1.0 &&
                          figures->top[0].later < at->job.rows.first + begin);
}

static comparing begin_comparing(kvsim__device_run *run, int kind, const kvsim__device_panel *columns) {
    const kvsim__device_kind *of = &run->kinds[kind];
    const kvsim__figures *figures = &run->pairing->figures[kind];
    comparing at = {.run = run, .kind = kind};
    at.job.rows = run->panels[0];
    at.job.columns = *columns;
    at.job.operand = of->view->operand;
    at.job.elements = (uint32_t)run->pairing->groups[kind].elements;
    at.job.path = KVSIM__GRAM_BEST;
    at.job.top_cutoff = -2.0f;
    at.job.rules = of->rules_there;
    at.job.host_rules = of->rules;
    kvsim__gathered_attach(&of->gathered, &at.job);
    if (run->pairing->plan->top_k > 0) {
        tighten(&at, figures->top, figures->top_count);
    }
    return at;
}

kvsim_status kvsim__device_compare_rows(kvsim__device_run *run, int kind, const kvsim__device_panel *columns,
                                        uint32_t begin, uint32_t end) {
    comparing at = begin_comparing(run, kind, columns);
    const uint32_t flags =
        KVSIM__COMPARE_GATHER | KVSIM__COMPARE_NEAR | (top_is_wanted(&at, begin) ? KVSIM__COMPARE_TOP : 0u);
    kvsim_status status = kvsim__gathered_expect(&run->kinds[kind].gathered, &run->pairing->figures[kind],
                                                 (uint64_t)(end - begin) * columns->count);
    uint32_t again = flags;
    if (status == KVSIM_OK) {
        status = launch(&at, begin, end, flags);
    }
    if (status == KVSIM_OK && fits(&at, KVSIM__LIST_DOUBTFUL)) {
        status = resolve(&at, flags);
        again = (fits(&at, KVSIM__LIST_NEAR) ? 0u : KVSIM__COMPARE_NEAR) |
                (fits(&at, KVSIM__LIST_TOP) ? 0u : KVSIM__COMPARE_TOP);
        if (status == KVSIM_OK && (again & KVSIM__COMPARE_NEAR) == 0) {
            status = take_near(&at);
        }
        if (status == KVSIM_OK && (again & KVSIM__COMPARE_TOP) == 0 && (flags & KVSIM__COMPARE_TOP) != 0) {
            status = take_top(&at);
        }
    }
    for (uint32_t flag = KVSIM__COMPARE_GATHER; flag <= KVSIM__COMPARE_TOP && status == KVSIM_OK; flag <<= 1) {
        if ((again & flag) != 0) {
            status = compare_again(&at, begin, end, flag);
        }
    }
    return status;
}

kvsim_status kvsim__device_rescore(kvsim__device_run *run, int kind, kvsim__device_pair *pairs, size_t count) {
    kvsim__accelerator *accelerator = run->accelerator;
    const kvsim__device_list *list = &run->lists[KVSIM__LIST_NEAR];
    kvsim_status status = KVSIM_OK;
    for (size_t done = 0; done < count && status == KVSIM_OK; done += list->capacity) {
        const size_t now = count - done < list->capacity ? count - done : list->capacity;
        status = kvsim__device_upload(accelerator, list->items, pairs + done, now * sizeof *pairs);
        if (status == KVSIM_OK) {
            status = kvsim__device_check(accelerator,
                                         accelerator->table->rescore(accelerator->device, &run->kinds[kind].view->group,
                                                                     run->pairing->groups[kind].largest_norm,
                                                                     list->items, (uint32_t)now),
                                         doing);
        }
        if (status == KVSIM_OK) {
            status = kvsim__device_download(accelerator, pairs + done, list->items, now * sizeof *pairs);
        }
    }
    return status;
}
