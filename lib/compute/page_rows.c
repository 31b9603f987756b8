/* Rows of `page_thresholds` and `duplicates`: what was found for each page, for those who add up in another way. */
#include "internal.h"

void kvsim__list_sequences(const kvsim__work *at, const kvsim__unit *unit, int64_t *numbers) {
    for (size_t slot = 0; slot < unit->slots; slot++) {
        const uint32_t key = unit->pages[KVSIM__KEY][slot];
        const uint32_t page = key != KVSIM__NONE ? key : unit->pages[KVSIM__VALUE][slot];
        numbers[unit->sequence[slot]] = at->store->pages[page].sequence;
    }
}

static kvsim_status put_page(kvsim__work *at, const kvsim__figures *figures, size_t slot, const int64_t *numbers,
                             int64_t group, uint32_t page) {
    const kvsim__plan *plan = at->plan;
    const uint64_t *bits = &figures->relation_bits[slot * KVSIM__RELATIONS];
    for (uint32_t t = 0; t < plan->threshold_count; t++) {
        kvsim__page_threshold_row *row = kvsim__result_append(at->result, KVSIM__TABLE_PAGE_THRESHOLDS);
        if (row == NULL) {
            return KVSIM_E_NOMEM;
        }
        const uint32_t only = figures->by_sequence.only_match[slot * plan->threshold_count + t];
        row->group = group;
        row->page = page;
        row->threshold = plan->thresholds[t];
        row->same = (int32_t)(bits[KVSIM__WITHIN_SEQUENCE] >> t & 1);
        row->family = (int32_t)(bits[KVSIM__WITHIN_FAMILY] >> t & 1);
        row->different = (int32_t)(bits[KVSIM__BETWEEN_FAMILIES] >> t & 1);
        row->earlier_sequences = only == KVSIM__NONE ? 0 : only == KVSIM__MANY ? 2 : 1;
        row->only_sequence = row->earlier_sequences == 1 ? numbers[only] : -1;
    }
    return KVSIM_OK;
}

kvsim_status kvsim__put_page_thresholds(kvsim__work *at, const kvsim__unit *unit, int kind,
                                        const kvsim__figures *figures, int64_t group) {
    int64_t *numbers = kvsim__allocate_zeroed(at->base, unit->sequence_count, sizeof *numbers);
    if (numbers == NULL) {
        return kvsim__fail_memory(at->base, unit->sequence_count * sizeof *numbers, "the sequences of a layer");
    }
    kvsim__list_sequences(at, unit, numbers);
    kvsim_status status = KVSIM_OK;
    for (size_t slot = 0; slot < unit->slots && status == KVSIM_OK; slot++) {
        if (unit->pages[kind][slot] != KVSIM__NONE) {
            status = put_page(at, figures, slot, numbers, group, unit->pages[kind][slot]);
        }
    }
    kvsim__release(at->base, numbers, unit->sequence_count, sizeof *numbers);
    return status;
}

kvsim_status kvsim__put_duplicates(kvsim__work *at, const kvsim__unit *unit) {
    for (int lane = 0; lane < KVSIM__LANES; lane++) {
        const int shown = lane == KVSIM__LANE_BLOCK ? KVSIM__KEY : lane;
        for (size_t slot = 0; slot < unit->slots; slot++) {
            const uint32_t first = unit->first[lane][slot];
            if (first == KVSIM__NONE || first == slot) {
                continue;
            }
            kvsim__duplicate_row *row = kvsim__result_append(at->result, KVSIM__TABLE_DUPLICATES);
            if (row == NULL) {
                return KVSIM_E_NOMEM;
            }
            *row = (kvsim__duplicate_row){.layer = unit->kinds[shown]->layer,
                                          .kind = lane == KVSIM__LANE_BLOCK ? 0 : unit->kinds[lane]->kind,
                                          .page = unit->pages[shown][slot],
                                          .first_page = unit->pages[shown][first]};
        }
    }
    return KVSIM_OK;
}
