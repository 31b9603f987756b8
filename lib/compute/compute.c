/* The order of a compute: groups, units, views. */
#include <string.h>

#include "on_device.h"

static void describe_group(const kvsim__work *at, const kvsim__unit *unit, int kind, kvsim__group *group) {
    const kvsim__format *format = kvsim__page_format(at->store, unit->kinds[kind]->any_page);
    group->base = at->base;
    group->store = at->store;
    group->pages = unit->pages[kind];
    group->slots = unit->slots;
    for (size_t slot = 0; slot < unit->slots; slot++) {
        group->count += unit->pages[kind][slot] != KVSIM__NONE;
    }
    group->heads = kvsim__unit_heads(at, unit, kind, &group->first_head);
    group->tokens = format->tokens;
    group->head_dim = format->head_dim;
    group->elements = (size_t)format->tokens * (size_t)group->heads * (size_t)format->head_dim;
}

/* Open a kind's group in the view, on the device if its pages are there: then `device_view` is set. */
static kvsim_status open_group(kvsim__work *at, const kvsim__unit *unit, int kind, uint32_t view, kvsim__group *group,
                               kvsim__device_view *device_view) {
    const kvsim__resident *resident = &unit->resident[kind];
    describe_group(at, unit, kind, group);
    if (resident->accelerator == NULL) {
        return kvsim__group_open(group, view, unit->kinds[kind]->kind, &at->ctx->rope);
    }
    bool centre;
    const kvsim_status status = kvsim__group_prepare(group, view, unit->kinds[kind]->kind, &at->ctx->rope, &centre);
    return status == KVSIM_OK ? kvsim__device_view_open(resident, at->plan, group, centre, device_view) : status;
}

static kvsim_status compare_pairs(kvsim__work *at, const kvsim__unit *unit, kvsim__pairing *pairing,
                                  kvsim__device_view views[KVSIM__KINDS]) {
    kvsim__device_view *opened[KVSIM__KINDS];
    bool any = false;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        opened[kind] = views[kind].accelerator != NULL ? &views[kind] : NULL;
        any = any || opened[kind] != NULL;
    }
    return any ? kvsim__compare_on_device(at, unit, pairing, opened) : kvsim__pairs_run(pairing);
}

static kvsim_status run_view(kvsim__work *at, const kvsim__unit *unit, uint32_t view) {
    kvsim__pairing pairing = {.base = at->base,
                              .plan = at->plan,
                              .progress = &at->progress,
                              .slots = unit->slots,
                              .places = {unit->sequence, unit->family, unit->stratum, unit->sequence_count}};
    kvsim__device_view device_views[KVSIM__KINDS];
    kvsim__dedup *dedup = NULL;
    kvsim_status status = KVSIM_OK;
    memset(device_views, 0, sizeof device_views);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        int32_t first;
        pairing.groups[kind].base = at->base;
        pairing.present[kind] =
            kvsim__unit_heads(at, unit, kind, &first) > 0 && !kvsim__is_opaque(at, unit->kinds[kind]);
        if (pairing.present[kind] && status == KVSIM_OK) {
            status = open_group(at, unit, kind, view, &pairing.groups[kind], &device_views[kind]);
        }
        if (pairing.present[kind] && status == KVSIM_OK) {
            status = kvsim__figures_open(&pairing, &pairing.figures[kind]);
        }
    }
    if (status == KVSIM_OK) {
        const uint8_t *const present[KVSIM__LANES] = {unit->present[0], unit->present[1], unit->present[2]};
        const bool keep =
            (at->plan->flags & (KVSIM_COMPUTE_ASSIGNMENTS | KVSIM_COMPUTE_LEDGER | KVSIM_COMPUTE_CHANCE)) != 0;
        status = kvsim__dedup_open(at->base, at->plan, unit->slots, present, keep, &dedup);
    }
    if (status == KVSIM_OK) {
        pairing.sink = kvsim__dedup_sink(dedup);
        status = compare_pairs(at, unit, &pairing, device_views);
    }
    if (status == KVSIM_OK) {
        status = kvsim__put_view(at, unit, (int32_t)view, &pairing, dedup);
    }
    kvsim__dedup_close(dedup);
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__figures_close(&pairing, &pairing.figures[kind]);
        kvsim__device_view_close(at->base, &device_views[kind]);
        kvsim__group_close(&pairing.groups[kind]);
    }
    return status;
}

static const uint32_t view_order[] = {KVSIM_VIEW_RAW, KVSIM_VIEW_CENTERED, KVSIM_VIEW_DEROTATED,
                                      KVSIM_VIEW_DEROTATED_CENTERED};

static kvsim_status run_unit(kvsim__work *at, const kvsim__combination *keys, const kvsim__combination *values) {
    kvsim__unit unit;
    int32_t heads = 0;
    kvsim_status status = kvsim__unit_open(at, keys, values, &unit);
    if (status == KVSIM_OK) {
        status = kvsim__unit_to_device(at, &unit);
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        const kvsim__combination *group = unit.kinds[kind];
        const int32_t own = group != NULL ? kvsim__page_format(at->store, group->any_page)->heads : 0;
        heads = own > heads ? own : heads;
    }
    const int32_t end = (at->plan->flags & KVSIM_COMPUTE_PER_HEAD) != 0 ? heads : 0;
    const bool any_arithmetic =
        (keys != NULL && !kvsim__is_opaque(at, keys)) || (values != NULL && !kvsim__is_opaque(at, values));
    for (unit.head = -1; unit.head < end && status == KVSIM_OK; unit.head++) {
        status = kvsim__unit_find_duplicates(at, &unit);
        if (status == KVSIM_OK && unit.head < 0) {
            status = kvsim__put_opaque(at, &unit);
        }
        if (status == KVSIM_OK && unit.head < 0 && (at->plan->flags & KVSIM_COMPUTE_PAGES) != 0) {
            status = kvsim__put_duplicates(at, &unit);
        }
        if (status == KVSIM_OK && unit.head < 0) {
            status = kvsim__engine_blocks_refine(at, &unit);
        }
        for (size_t v = 0; v < sizeof view_order / sizeof view_order[0] && status == KVSIM_OK && any_arithmetic; v++) {
            if ((at->plan->views & view_order[v]) != 0) {
                status = run_view(at, &unit, view_order[v]);
            }
        }
    }
    kvsim__unit_leave_device(at, &unit);
    kvsim__unit_close(at, &unit);
    return status;
}

static uint64_t count_passes(const kvsim__work *at, const kvsim__combination *group) {
    uint64_t views = 0;
    for (size_t v = 0; v < sizeof view_order / sizeof view_order[0]; v++) {
        views += (at->plan->views & view_order[v]) != 0;
    }
    const uint64_t heads = (uint64_t)kvsim__page_format(at->store, group->any_page)->heads;
    return views * ((at->plan->flags & KVSIM_COMPUTE_PER_HEAD) != 0 ? 1 + heads : 1);
}

static kvsim_status run(kvsim__work *at) {
    kvsim_status status = kvsim__open_mirror(at);
    if (status == KVSIM_OK) {
        status = kvsim__classify_pages(at);
    }
    if (status == KVSIM_OK) {
        status = kvsim__collect_groups(at);
    }
    if (status == KVSIM_OK) {
        status = kvsim__engine_blocks_open(at);
    }
    for (size_t c = 0; c < at->combination_count; c++) {
        const kvsim__combination *group = &at->combinations[c];
        at->progress.total +=
            group->compared > 1 ? group->compared * (group->compared - 1) / 2 * count_passes(at, group) : 0;
    }
    for (size_t c = 0; c < at->combination_count && status == KVSIM_OK; c++) {
        kvsim__combination *group = &at->combinations[c];
        if (group->kind == KVSIM_KIND_KEY) {
            kvsim__combination *partner = kvsim__find_partner(at, group);
            if (partner != NULL) {
                partner->paired = true;
            }
            status = run_unit(at, group, partner);
        } else if (!group->paired) {
            status = run_unit(at, NULL, group);
        }
    }
    if (status == KVSIM_OK) {
        status = kvsim__put_summary(at);
    }
    if (status == KVSIM_OK) {
        status = kvsim__put_pages(at);
    }
    if (status == KVSIM_OK) {
        kvsim__progress_report(&at->progress, at->plan, true);
        status = atomic_load(&at->progress.stop) ? kvsim__fail_cancelled(at->base) : kvsim__result_finish(at->result);
    }
    return status;
}

/* One compute from the beginning; `device` NULL: on the CPU. */
static kvsim_status compute_on(kvsim_ctx *ctx, const kvsim__plan *plan, kvsim__accelerator *device,
                               kvsim_result **out) {
    kvsim__work at = {.ctx = ctx, .base = &ctx->base, .device = device, .store = &ctx->store, .plan = plan};
    kvsim_status status = kvsim__result_open(at.base, plan, &ctx->rope, &at.result);
    if (status == KVSIM_OK) {
        at.result->backend = device != NULL ? device->table->name : "cpu";
        status = run(&at);
    }
    kvsim__release(at.base, at.states, ctx->store.page_count, 1);
    kvsim__engine_blocks_close(&at);
    kvsim__release(at.base, at.combinations, at.combination_capacity, sizeof *at.combinations);
    kvsim__mirror_close(&at.mirror);
    if (status != KVSIM_OK) {
        kvsim_result_destroy(at.result);
        return status;
    }
    *out = at.result;
    return KVSIM_OK;
}

kvsim_status kvsim__compute(kvsim_ctx *ctx, const kvsim__plan *plan, kvsim_result **out) {
    kvsim__accelerator *device;
    *out = NULL;
    if ((plan->views & (KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED)) != 0 &&
        ctx->rope.style == KVSIM_ROPE_NONE) {
        return kvsim__fail(&ctx->base, KVSIM_E_UNSUPPORTED,
                           "a de-rotated view needs to know how keys were rotated: call kvsim_set_rope first");
    }
    kvsim_status status = kvsim__accelerator_choose(&ctx->accelerator, ctx->store.device_pages > 0, &device);
    if (status == KVSIM_OK) {
        status = compute_on(ctx, plan, device, out);
    }
    if (status != KVSIM_OK && device != NULL && kvsim__accelerator_give_up(device, ctx->store.device_pages > 0)) {
        status = compute_on(ctx, plan, NULL, out);
    }
    return status;
}
