/*
 * An engine's block: the key and value pages of all layers that one physical block holds. It can be shared without
 * loss only if an earlier one has the same bytes in every layer, so classes of equal contents are refined layer by
 * layer.
 */
#include "internal.h"

#include "../findings/duplicates.h"

kvsim_status kvsim__engine_blocks_open(kvsim__work *at) {
    const size_t identities = at->store->identity_count;
    at->engine_class = kvsim__allocate_zeroed(at->base, identities, sizeof *at->engine_class);
    at->engine_layers = kvsim__allocate_zeroed(at->base, identities, sizeof *at->engine_layers);
    return at->engine_class != NULL && at->engine_layers != NULL
               ? KVSIM_OK
               : kvsim__fail_memory(at->base, identities * sizeof *at->engine_class, "the blocks of an engine");
}

void kvsim__engine_blocks_close(kvsim__work *at) {
    const size_t identities = at->store->identity_count;
    kvsim__release(at->base, at->engine_class, identities, sizeof *at->engine_class);
    kvsim__release(at->base, at->engine_layers, identities, sizeof *at->engine_layers);
}

/* The lane whose pages are all that a block has in this layer. */
static int whole_lane(const kvsim__unit *unit) {
    return unit->kinds[KVSIM__KEY] == NULL     ? KVSIM__LANE_VALUE
           : unit->kinds[KVSIM__VALUE] == NULL ? KVSIM__LANE_KEY
                                               : KVSIM__LANE_BLOCK;
}

static uint32_t identity_of(const kvsim__work *at, const kvsim__unit *unit, size_t slot) {
    const uint32_t key = unit->pages[KVSIM__KEY][slot];
    return at->store->pages[key != KVSIM__NONE ? key : unit->pages[KVSIM__VALUE][slot]].identity;
}

kvsim_status kvsim__engine_blocks_refine(kvsim__work *at, const kvsim__unit *unit) {
    const int lane = whole_lane(unit);
    uint32_t *before = kvsim__allocate(at->base, unit->slots, sizeof *before);
    uint32_t *refined = kvsim__allocate(at->base, unit->slots, sizeof *refined);
    kvsim_status status = KVSIM_OK;
    if (before == NULL || refined == NULL) {
        status = kvsim__fail_memory(at->base, unit->slots * sizeof *before, "the blocks of an engine");
    } else {
        for (size_t slot = 0; slot < unit->slots; slot++) {
            before[slot] = at->engine_class[identity_of(at, unit, slot)];
        }
        status = kvsim__find_equal_blocks(at->base, unit->slots, before, unit->first[lane], refined);
    }
    for (size_t slot = 0; slot < unit->slots && status == KVSIM_OK; slot++) {
        if (refined[slot] != KVSIM__NONE) {
            const uint32_t identity = identity_of(at, unit, slot);
            at->engine_class[identity] = identity_of(at, unit, refined[slot]);
            at->engine_layers[identity]++;
        }
    }
    kvsim__release(at->base, before, unit->slots, sizeof *before);
    kvsim__release(at->base, refined, unit->slots, sizeof *refined);
    return status;
}

void kvsim__engine_blocks_count(const kvsim__work *at, kvsim__summary_row *row) {
    uint32_t layers = 0;
    for (size_t c = 0; c < at->combination_count; c++) {
        layers += c == 0 || at->combinations[c].layer != at->combinations[c - 1].layer;
    }
    for (uint32_t i = 0; i < at->store->identity_count && layers > 0; i++) {
        if (at->engine_layers[i] == layers) {
            row->engine_blocks++;
            row->engine_exact_duplicates += at->engine_class[i] != i;
        }
    }
}
