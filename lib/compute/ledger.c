/* Rows of `ledger` and `lossless`: every byte in one bin. */
#include <math.h>
#include <string.h>

#include "../findings/lossless.h"
#include "internal.h"

/* Bytes to find a removed page again: the number of its representative. */
enum { METADATA_BYTES = 8 };

/* Position of a float's bit pattern among all floats in rising order: neighbours differ by 1 (sign and magnitude to
   two's complement). */
static int64_t rank_of(const unsigned char *element, kvsim__dtype dtype) {
    uint32_t bits = 0;
    const size_t size = kvsim__dtype_size(dtype);
    memcpy(&bits, element, size); /* little-endian, like every format here */
    if (dtype == KVSIM__I8) {
        return (int8_t)bits;
    }
    const uint32_t sign = (uint32_t)1 << (8 * size - 1);
    return (bits & sign) != 0 ? -(int64_t)(bits & ~sign) : (int64_t)bits;
}

/* Are all stored elements of two pages within `ulps` units in the last place, and their scales equal? */
static bool within_ulps(const kvsim__store *store, uint32_t first, uint32_t second, uint32_t ulps) {
    const kvsim__page *x = &store->pages[first], *y = &store->pages[second];
    const kvsim__format *a = &store->formats[x->format], *b = &store->formats[y->format];
    const size_t scales = (size_t)a->tokens * (size_t)a->heads;
    if (x->token_scales != NULL && memcmp(x->token_scales, y->token_scales, scales * sizeof(float)) != 0) {
        return false;
    }
    for (int32_t t = 0; t < a->tokens; t++) {
        for (int32_t h = 0; h < a->heads; h++) {
            const unsigned char *left = x->data + t * a->token_stride + h * a->head_stride;
            const unsigned char *right = y->data + t * b->token_stride + h * b->head_stride;
            for (int32_t d = 0; d < a->head_dim; d++) {
                const int64_t difference =
                    rank_of(left + d * a->channel_stride, a->dtype) - rank_of(right + d * b->channel_stride, a->dtype);
                if (difference > (int64_t)ulps || difference < -(int64_t)ulps) {
                    return false;
                }
            }
        }
    }
    return true;
}

static bool blocks_within_ulps(const kvsim__work *at, const kvsim__unit *unit, uint32_t lane, size_t slot,
                               size_t representative) {
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (lane == KVSIM__LANE_BLOCK || (int)lane == kind) {
            const uint32_t *pages = unit->pages[kind];
            if (!within_ulps(at->store, pages[slot], pages[representative], at->plan->ulps)) {
                return false;
            }
        }
    }
    return true;
}

/* True if the bytes that a page of the lane would share are its own, or those of an earlier page that counts. */
static bool is_exact(const kvsim__work *at, const kvsim__unit *unit, uint32_t lane, size_t slot,
                     size_t representative) {
    const uint32_t head = unit->first[lane][slot];
    return head == unit->first[lane][representative] ||
           (head != slot && (!at->plan->different_sequences || unit->sequence[head] != unit->sequence[slot]));
}

/* Bytes of one page or block of a lane, of all that were seen, and of all references to them. */
typedef struct lane_bytes {
    uint64_t one, seen, logical;
} lane_bytes;

static lane_bytes bytes_of(const kvsim__work *at, const kvsim__unit *unit, uint32_t lane) {
    lane_bytes sum = {0};
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        if (lane == KVSIM__LANE_BLOCK || (int)lane == kind) {
            const kvsim__combination *group = unit->kinds[kind];
            const uint64_t page = kvsim__format_page_bytes(kvsim__page_format(at->store, group->any_page));
            sum.one += page;
            sum.seen += page * group->physical;
            sum.logical += page * group->references;
        }
    }
    return sum;
}

/* `exact` blocks are known to be removed besides those listed. */
static kvsim_status put_budget(kvsim__work *at, const kvsim__unit *unit, uint32_t lane, uint32_t budget,
                               const kvsim__assignment *removed, size_t count, uint64_t exact) {
    const lane_bytes bytes = bytes_of(at, unit, lane);
    kvsim__ledger_row *row = kvsim__result_append(at->result, KVSIM__TABLE_LEDGER);
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const bool block = lane == KVSIM__LANE_BLOCK;
    uint64_t pages = 0;
    for (size_t slot = 0; slot < unit->slots; slot++) {
        pages += unit->present[lane][slot];
    }
    row->layer = unit->kinds[block ? KVSIM__KEY : (int)lane]->layer;
    row->kind = block ? 0 : unit->kinds[lane]->kind;
    row->budget = at->plan->budgets[budget];
    row->exact = exact;
    for (size_t i = 0; i < count; i++) {
        if (removed[i].lane != lane || removed[i].budget != budget) {
            continue;
        }
        if (is_exact(at, unit, lane, removed[i].slot, removed[i].representative)) {
            row->exact++;
        } else if (blocks_within_ulps(at, unit, lane, removed[i].slot, removed[i].representative)) {
            row->ulp++;
        } else {
            row->near++;
        }
    }
    row->unique = pages - row->exact - row->ulp - row->near;
    row->exact_bytes = row->exact * bytes.one;
    row->ulp_bytes = row->ulp * bytes.one;
    row->near_bytes = row->near * bytes.one;
    row->unique_bytes = row->unique * bytes.one;
    row->seen_bytes = bytes.seen;
    row->logical_bytes = bytes.logical;
    row->left_out_bytes = bytes.seen - pages * bytes.one;
    row->metadata_bytes = (pages - row->unique) * METADATA_BYTES * (block ? 2 : 1);
    if (row->left_out_bytes + row->exact_bytes + row->ulp_bytes + row->near_bytes + row->unique_bytes != bytes.seen ||
        pages * bytes.one > bytes.seen || row->unique > pages) {
        return kvsim__fail(at->base, KVSIM_E_INTERNAL, "the ledger of layer %d does not add up: a defect of kvsim",
                           row->layer);
    }
    return KVSIM_OK;
}

static kvsim_status put_lossless(kvsim__work *at, const kvsim__unit *unit, int kind, const uint8_t *kept) {
    kvsim__lossless measured;
    kvsim_status status = kvsim__measure_lossless(at->base, at->store, unit->pages[kind], kept, unit->slots, &measured);
    kvsim__lossless_row *row = status == KVSIM_OK ? kvsim__result_append(at->result, KVSIM__TABLE_LOSSLESS) : NULL;
    if (row == NULL) {
        return KVSIM_E_NOMEM;
    }
    const double bytes = (double)measured.bytes, reached = (double)measured.compressed_bytes;
    *row = (kvsim__lossless_row){.layer = unit->kinds[kind]->layer,
                                 .kind = unit->kinds[kind]->kind,
                                 .pages = measured.pages,
                                 .bytes = measured.bytes,
                                 .order0_bytes = measured.order0_bytes,
                                 .zstd_bytes = measured.compressed_bytes,
                                 .zstd_level = measured.level};
    if (measured.level == 0) {
        row->coding_gain_bytes = row->repetition_gain_bytes = NAN;
    } else {
        /* Down to the bound it is coding; what goes below can only come from repetition. */
        row->coding_gain_bytes = bytes - fmax(reached, measured.order0_bytes);
        row->repetition_gain_bytes = fmax(0.0, measured.order0_bytes - reached);
    }
    return KVSIM_OK;
}

kvsim_status kvsim__put_ledger(kvsim__work *at, const kvsim__unit *unit, const kvsim__pairing *pairing,
                               const kvsim__dedup *dedup) {
    const bool block = pairing->present[KVSIM__KEY] && pairing->present[KVSIM__VALUE];
    const uint32_t lane = block                          ? KVSIM__LANE_BLOCK
                          : pairing->present[KVSIM__KEY] ? KVSIM__LANE_KEY
                                                         : KVSIM__LANE_VALUE;
    const kvsim__assignment *removed;
    size_t count;
    kvsim_status status = kvsim__dedup_assignments(dedup, &removed, &count);
    for (uint32_t b = 0; b < at->plan->budget_count && status == KVSIM_OK; b++) {
        status = put_budget(at, unit, lane, b, removed, count, 0);
    }
    uint8_t *kept = kvsim__allocate(at->base, unit->slots, 1);
    if (status == KVSIM_OK && kept == NULL) {
        status = kvsim__fail_memory(at->base, unit->slots, "the ledger");
    }
    if (status == KVSIM_OK) {
        memcpy(kept, unit->present[lane], unit->slots);
        for (size_t i = 0; i < count; i++) {
            if (removed[i].lane == lane && removed[i].budget == 0) {
                kept[removed[i].slot] = 0;
            }
        }
        for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
            status = pairing->present[kind] ? put_lossless(at, unit, kind, kept) : KVSIM_OK;
        }
    }
    kvsim__release(at->base, kept, unit->slots, 1);
    return status;
}

kvsim_status kvsim__put_opaque_ledger(kvsim__work *at, const kvsim__unit *unit) {
    bool opaque[KVSIM__KINDS];
    for (int kind = 0; kind < KVSIM__KINDS; kind++) {
        opaque[kind] = kvsim__is_opaque(at, unit->kinds[kind]);
    }
    if (!opaque[KVSIM__KEY] && !opaque[KVSIM__VALUE]) {
        return KVSIM_OK;
    }
    const uint32_t lane = opaque[KVSIM__KEY] && opaque[KVSIM__VALUE] ? KVSIM__LANE_BLOCK
                          : opaque[KVSIM__KEY]                       ? KVSIM__LANE_KEY
                                                                     : KVSIM__LANE_VALUE;
    kvsim_status status = KVSIM_OK;
    for (uint32_t b = 0; b < at->plan->budget_count && status == KVSIM_OK; b++) {
        status = put_budget(at, unit, lane, b, NULL, 0, unit->duplicates[lane]);
    }
    uint8_t *kept = kvsim__allocate(at->base, unit->slots, 1);
    if (status == KVSIM_OK && kept == NULL) {
        status = kvsim__fail_memory(at->base, unit->slots, "the ledger");
    }
    for (size_t slot = 0; slot < unit->slots && status == KVSIM_OK; slot++) {
        kept[slot] = unit->first[lane][slot] == slot;
    }
    for (int kind = 0; kind < KVSIM__KINDS && status == KVSIM_OK; kind++) {
        status = opaque[kind] ? put_lossless(at, unit, kind, kept) : KVSIM_OK;
    }
    kvsim__release(at->base, kept, unit->slots, 1);
    return status;
}
