/* The slots of a unit and their exact duplicates. */
#include <string.h>

#include "../findings/duplicates.h"
#include "internal.h"

/* The page of a slot's identity that takes part, or KVSIM__NONE. Opaque pages take part in exact duplicates only. */
static uint32_t page_of(const kvsim__work *at, const kvsim__combination *group, uint32_t identity) {
    if (group == NULL) {
        return KVSIM__NONE;
    }
    const uint32_t page = kvsim__store_find_page(at->store, identity, group->layer, group->kind);
    return kvsim__in_group(at, group, page) &&
                   (at->states[page] == KVSIM__STATE_COMPARED || at->states[page] == KVSIM__STATE_OPAQUE)
               ? page
               : KVSIM__NONE;
}

bool kvsim__is_opaque(const kvsim__work *at, const kvsim__combination *group) {
    return group != NULL && kvsim__page_format(at->store, group->any_page)->dtype == KVSIM__OPAQUE;
}

void kvsim__unit_close(kvsim__work *at, kvsim__unit *unit) {
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        kvsim__release(at->base, unit->first[lane], unit->slots, sizeof(uint32_t));
        kvsim__release(at->base, unit->present[lane], unit->slots, 1);
    }
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        kvsim__release(at->base, unit->pages[kind], unit->slots, sizeof(uint32_t));
    }
    kvsim__release(at->base, unit->sequence, unit->slots, sizeof(uint32_t));
    kvsim__release(at->base, unit->family, unit->slots, sizeof(uint32_t));
    kvsim__release(at->base, unit->stratum, unit->slots, 1);
}

static kvsim_status unit_allocate(kvsim__work *at, kvsim__unit *unit) {
    bool complete = true;
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        unit->pages[kind] = kvsim__allocate(at->base, unit->slots, sizeof(uint32_t));
        complete = complete && unit->pages[kind] != NULL;
    }
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        unit->first[lane] = kvsim__allocate(at->base, unit->slots, sizeof(uint32_t));
        unit->present[lane] = kvsim__allocate(at->base, unit->slots, 1);
        complete = complete && unit->first[lane] != NULL && unit->present[lane] != NULL;
    }
    unit->sequence = kvsim__allocate(at->base, unit->slots, sizeof(uint32_t));
    unit->family = kvsim__allocate(at->base, unit->slots, sizeof(uint32_t));
    unit->stratum = kvsim__allocate(at->base, unit->slots, 1);
    complete = complete && unit->sequence != NULL && unit->family != NULL && unit->stratum != NULL;
    return complete ? KVSIM_OK : kvsim__fail_memory(at->base, unit->slots * 44, "the slots of a layer");
}

/* Fill in the slots of a unit: identities that have a page in either group. */
kvsim_status kvsim__unit_open(kvsim__work *at, const kvsim__combination *keys, const kvsim__combination *values,
                              kvsim__unit *unit) {
    memset(unit, 0, sizeof *unit);
    unit->kinds[KVSIM__KEY] = keys;
    unit->kinds[KVSIM__VALUE] = values;
    for (size_t i = 0; i < at->store->identity_count; i++) {
        unit->slots += page_of(at, keys, (uint32_t)i) != KVSIM__NONE || page_of(at, values, (uint32_t)i) != KVSIM__NONE;
    }
    kvsim_status status = unit_allocate(at, unit);
    if (status != KVSIM_OK) {
        return status;
    }
    size_t slot = 0;
    for (size_t i = 0; i < at->store->identity_count; i++) {
        const uint32_t key = page_of(at, keys, (uint32_t)i), value = page_of(at, values, (uint32_t)i);
        if (key == KVSIM__NONE && value == KVSIM__NONE) {
            continue;
        }
        unit->pages[KVSIM__KEY][slot] = key;
        unit->pages[KVSIM__VALUE][slot] = value;
        slot++;
    }
    return kvsim__unit_find_places(at, unit);
}

/* Heads that a kind contributes to a unit: all, or the one of a per-head unit if it has it. */
int32_t kvsim__unit_heads(const kvsim__work *at, const kvsim__unit *unit, int kind, int32_t *first) {
    const kvsim__combination *group = unit->kinds[kind];
    *first = 0;
    if (group == NULL) {
        return 0;
    }
    const int32_t heads = kvsim__page_format(at->store, group->any_page)->heads;
    if (unit->head < 0) {
        return heads;
    }
    *first = unit->head;
    return unit->head < heads && !kvsim__is_opaque(at, group) ? 1 : 0;
}

/* Exact duplicates of each kind and of blocks: the same in every view. */
kvsim_status kvsim__unit_find_duplicates(kvsim__work *at, kvsim__unit *unit) {
    kvsim_status status = KVSIM_OK;
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        kvsim__contents contents = {
            .base = at->base, .store = at->store, .pages = unit->pages[kind], .slots = unit->slots};
        contents.heads = kvsim__unit_heads(at, unit, kind, &contents.first_head);
        if (contents.heads > 0) {
            status = unit->resident[kind].any_on_device
                         ? kvsim__find_equal_on_device(&unit->resident[kind], contents.first_head, contents.heads,
                                                       unit->first[kind])
                         : kvsim__find_equal_pages(&contents, unit->first[kind]);
        } else {
            memset(unit->first[kind], 0xff, unit->slots * sizeof(uint32_t)); /* KVSIM__NONE */
        }
    }
    if (status == KVSIM_OK) {
        status = kvsim__find_equal_blocks(at->base, unit->slots, unit->first[KVSIM__KEY], unit->first[KVSIM__VALUE],
                                          unit->first[KVSIM__LANE_BLOCK]);
    }
    for (int lane = 0; lane < KVSIM__LANES && status == KVSIM_OK; lane++) {
        for (size_t slot = 0; slot < unit->slots; slot++) {
            unit->present[lane][slot] = unit->first[lane][slot] != KVSIM__NONE;
        }
        status =
            kvsim__count_duplicates(at->base, unit->slots, unit->first[lane],
                                    at->plan->different_sequences ? unit->sequence : NULL, &unit->duplicates[lane]);
    }
    return status;
}
