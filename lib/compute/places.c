/* Which sequence, prompt family and stratum each slot of a unit belongs to. */
#include "internal.h"

enum { NO_FAMILY = 1, FAMILY = 2 };

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

/* A value with the name space it is in, so that a sequence without a family differs from every family. */
typedef struct label {
    int64_t value;
    int space;
} label;

static label label_of(const kvsim__plan *plan, int64_t sequence, bool family) {
    if (family && sequence >= 0 && (uint64_t)sequence < plan->family_count) {
        return (label){plan->families[sequence], FAMILY};
    }
    return (label){sequence, NO_FAMILY};
}

static int64_t sequence_of(const kvsim__work *at, const kvsim__unit *unit, size_t slot) {
    const uint32_t key = unit->pages[KVSIM__KEY][slot];
    return at->store->pages[key != KVSIM__NONE ? key : unit->pages[KVSIM__VALUE][slot]].sequence;
}

/* Number the labels from 0 in order of first appearance; `entries` holds slot + 1 of a first appearance, or 0. */
static uint32_t number_labels(const kvsim__work *at, const kvsim__unit *unit, bool family, uint32_t *entries,
                              size_t capacity, uint32_t *out) {
    uint32_t count = 0;
    for (size_t slot = 0; slot < unit->slots; slot++) {
        const label own = label_of(at->plan, sequence_of(at, unit, slot), family);
        size_t entry = (size_t)mix((uint64_t)own.value ^ (uint64_t)own.space << 62) & (capacity - 1);
        for (; entries[entry] != 0; entry = (entry + 1) & (capacity - 1)) {
            const label other = label_of(at->plan, sequence_of(at, unit, entries[entry] - 1), family);
            if (other.value == own.value && other.space == own.space) {
                break;
            }
        }
        if (entries[entry] == 0) {
            entries[entry] = (uint32_t)slot + 1;
            out[slot] = count++;
        } else {
            out[slot] = out[entries[entry] - 1];
        }
    }
    return count;
}

static int64_t position_of(const kvsim__work *at, const kvsim__unit *unit, size_t slot) {
    const uint32_t key = unit->pages[KVSIM__KEY][slot];
    return at->store->pages[key != KVSIM__NONE ? key : unit->pages[KVSIM__VALUE][slot]].position;
}

/* First and last page of each sequence, by position; `edges` is [sequences, 2] of slots + 1. */
static void find_strata(const kvsim__work *at, kvsim__unit *unit, uint32_t *edges) {
    for (size_t slot = 0; slot < unit->slots; slot++) {
        uint32_t *first = &edges[(size_t)unit->sequence[slot] * 2], *last = first + 1;
        const int64_t position = position_of(at, unit, slot);
        if (*first == 0 || position < position_of(at, unit, *first - 1)) {
            *first = (uint32_t)slot + 1;
        }
        if (*last == 0 || position > position_of(at, unit, *last - 1)) {
            *last = (uint32_t)slot + 1;
        }
    }
    for (size_t slot = 0; slot < unit->slots; slot++) {
        const uint32_t *edge = &edges[(size_t)unit->sequence[slot] * 2];
        unit->stratum[slot] = edge[0] == slot + 1   ? KVSIM__STRATUM_FIRST
                              : edge[1] == slot + 1 ? KVSIM__STRATUM_LAST
                                                    : KVSIM__STRATUM_MIDDLE;
    }
}

kvsim_status kvsim__unit_find_places(kvsim__work *at, kvsim__unit *unit) {
    size_t capacity = 64;
    while (capacity < unit->slots * 2) {
        capacity *= 2;
    }
    uint32_t *entries = kvsim__allocate_zeroed(at->base, capacity, sizeof *entries);
    if (entries == NULL) {
        return kvsim__fail_memory(at->base, capacity * sizeof *entries, "the sequences of a layer");
    }
    unit->sequence_count = number_labels(at, unit, false, entries, capacity, unit->sequence);
    for (size_t i = 0; i < capacity; i++) {
        entries[i] = 0;
    }
    (void)number_labels(at, unit, true, entries, capacity, unit->family);
    for (size_t i = 0; i < capacity; i++) {
        entries[i] = 0; /* twice the slots: room for two edges of every sequence */
    }
    find_strata(at, unit, entries);
    kvsim__release(at->base, entries, capacity, sizeof *entries);
    return KVSIM_OK;
}
