/* How the twin packs pages for a compare. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../pages/format.h"
#include "twin_parts.h"

/* binary16 nearest to a value of at most 1 in magnitude, ties to even. */
static uint16_t half_of(double value) {
    const double magnitude = fabs(value);
    int exponent = 0;
    (void)frexp(magnitude, &exponent);
    exponent = magnitude == 0.0 || exponent < -13 ? -13 : exponent; /* below are the numbers that are not normal */
    const double units = rint(ldexp(magnitude, 11 - exponent));
    const uint32_t bits = ((uint32_t)(exponent + 13) << 10) + (uint32_t)units;
    return (uint16_t)(bits | (signbit(value) != 0 ? 0x8000u : 0u));
}

/* One call of pack; arrays as the twin sees them, NULL where not wanted. */
typedef struct packing {
    const kvsim__twin_view *view;
    const kvsim__device_packing *how;
    const kvsim__device_panel *panel;
    const double *absmax, *tau, *norms, *largest;
    const kvsim__slot_facts *slots;
    unsigned char *operand;
    uint8_t *signs, *actives;
    int8_t *codes;
    kvsim__row_facts *facts;
    uint32_t *sign_count, *active_count;
    unsigned char *bytes;    /* of a page, as stored */
    double *stored, *values; /* of a page */
} packing;

static size_t operand_size(int32_t operand) {
    return operand == KVSIM__OPERAND_BF16 || operand == KVSIM__OPERAND_F16 ? 2 : 1;
}

/* Element types of the operands that hold pages as they are stored. */
static int32_t stored_type(int32_t operand) {
    static const int32_t types[] = {-1, KVSIM__BF16, KVSIM__F16, KVSIM__F8_E4M3FN, KVSIM__F8_E5M2, KVSIM__I8};
    return operand > 0 && operand < KVSIM__OPERAND_SPLIT ? types[operand] : -1;
}

static void pack_row(const packing *at, uint32_t row, const kvsim__device_format *format, kvsim__row_facts *facts,
                     double norm) {
    const size_t n = at->view->elements;
    unsigned char *out = at->operand + row * at->panel->row_bytes;
    if (at->how->operand != KVSIM__OPERAND_SPLIT) {
        memcpy(out, at->bytes, n * operand_size(at->how->operand));
        float scale = 1.0f;
        if (format->scale_mode == KVSIM_SCALE_TENSOR) {
            memcpy(&scale, kvsim__twin_span_at(at->view->device, format->scales, sizeof scale, "a scale").at,
                   sizeof scale);
        }
        facts->unit = norm > 0.0 ? (float)((double)scale / norm) : 0.0f;
        return;
    }
    uint16_t *high = (void *)out, *low = (void *)(out + at->panel->row_bytes / 2);
    int exponent = 0;
    double lost = 0.0;
    (void)frexp(at->largest[facts - at->facts + at->panel->first], &exponent);
    for (size_t i = 0; i < n; i++) {
        const double value = ldexp(at->values[i], -exponent);
        high[i] = half_of(value);
        const double rest = value - kvsim__twin_small_float(high[i], 5, 10, true);
        low[i] = half_of(rest * 0x1p11);
        const double error = rest - kvsim__twin_small_float(low[i], 5, 10, true) * 0x1p-11;
        lost += error * error;
    }
    const double scaled_norm = ldexp(norm, -exponent);
    facts->unit = norm > 0.0 ? (float)(1.0 / scaled_norm) : 0.0f;
    /* A little more, so that rounding to float does not make it less. */
    facts->doubt = norm > 0.0 ? (float)(sqrt(lost) / scaled_norm * (1.0 + 0x1p-20)) : 0.0f;
}

static void pack_bits(const packing *at, uint32_t row) {
    const kvsim__device_group *group = at->view->group;
    const size_t channels = (size_t)group->head_dim;
    for (size_t i = 0; i < at->view->elements; i++) {
        const size_t head = i / channels % (size_t)group->heads;
        const uint8_t bit = (uint8_t)(1u << i % 8);
        if (at->signs != NULL && at->values[i] < 0.0) {
            at->signs[row * at->panel->bit_bytes + i / 8] |= bit;
            at->sign_count[row]++;
        }
        if (at->actives != NULL && fabs(at->values[i]) > at->tau[head]) {
            at->actives[row * at->panel->bit_bytes + i / 8] |= bit;
            at->active_count[row]++;
        }
        if (at->codes != NULL) {
            const double limit = at->how->code_limit, scale = at->absmax[head] / limit;
            const double quotient = scale > 0.0 ? fmin(fmax(at->values[i] / scale, -limit), limit) : 0.0;
            const double code = at->how->stored_codes != 0 ? at->stored[i] : rint(quotient);
            at->codes[row * at->panel->code_bytes + i] = (int8_t)code;
        }
    }
}

static int32_t pack_page(const packing *at, uint32_t row) {
    const uint32_t slot = at->panel->first + row;
    kvsim__row_facts *facts = &at->facts[row];
    facts->slot = at->slots[slot];
    if (at->view->pages[slot].data == NULL) {
        facts->slot.class_id = UINT32_MAX;
        return KVSIM_OK;
    }
    if (facts->slot.class_id == UINT32_MAX) {
        return KVSIM_OK;
    }
    const kvsim__device_format *format = kvsim__twin_format_of(at->view, slot);
    if (!kvsim__twin_read(at->view, slot, at->view->group->tokens, at->bytes, at->stored, at->values)) {
        return KVSIM_E_BACKEND;
    }
    const int32_t type = stored_type(at->how->operand);
    if (at->operand != NULL && at->how->operand != KVSIM__OPERAND_SPLIT &&
        (type != format->dtype || format->scale_mode > KVSIM_SCALE_TENSOR || at->view->group->rotate != 0 ||
         at->view->mean != NULL)) {
        return kvsim__twin_misused(at->view->device, "pack: an operand that does not hold these pages");
    }
    const double norm = at->norms[slot], share = at->how->largest_norm > 0.0 ? norm / at->how->largest_norm : 0.0;
    facts->norm = (float)share;
    facts->inverse = facts->norm < KVSIM__LEAST_NORM ? 0.0f : (float)(1.0 / share);
    if (at->operand != NULL) {
        pack_row(at, row, format, facts, norm);
    }
    pack_bits(at, row);
    return KVSIM_OK;
}

/* An array of the panel, cleared. */
static void *open_array(kvsim__device *device, void *address, size_t bytes, const char *what) {
    unsigned char *at = kvsim__twin_optional(device, address, bytes, what).at;
    if (at != NULL) {
        memset(at, 0, bytes);
    }
    return at;
}

static int32_t open_packing(packing *at, kvsim__device *device) {
    const kvsim__device_panel *panel = at->panel;
    const kvsim__device_packing *how = at->how;
    const size_t capacity = panel->capacity, slots = at->view->group->slots, n = at->view->elements;
    const size_t heads = (size_t)at->view->group->heads;
    const size_t operand_bytes =
        how->operand == KVSIM__OPERAND_SPLIT ? 2 * n * sizeof(uint16_t) : n * operand_size(how->operand);
    if (capacity % 256 != 0 || panel->count > capacity || panel->first > slots || panel->count > slots - panel->first ||
        how->operand < KVSIM__OPERAND_BF16 || how->operand > KVSIM__OPERAND_SPLIT ||
        (panel->operand != NULL && (panel->row_bytes % 128 != 0 || panel->row_bytes < operand_bytes)) ||
        ((panel->signs != NULL || panel->actives != NULL) &&
         (panel->bit_bytes % 128 != 0 || panel->bit_bytes < (n + 7) / 8)) ||
        (panel->codes != NULL && (panel->code_bytes % 128 != 0 || panel->code_bytes < n))) {
        return kvsim__twin_misused(device, "pack: a panel of an impossible shape");
    }
    at->operand = open_array(device, panel->operand, capacity * panel->row_bytes, "packed rows");
    at->signs = open_array(device, panel->signs, capacity * panel->bit_bytes, "signs");
    at->actives = open_array(device, panel->actives, capacity * panel->bit_bytes, "active sets");
    at->codes = open_array(device, panel->codes, capacity * panel->code_bytes, "codes");
    at->facts = open_array(device, panel->facts, capacity * sizeof *panel->facts, "facts of rows");
    at->sign_count = open_array(device, panel->sign_count, capacity * sizeof(uint32_t), "counts of signs");
    at->active_count = open_array(device, panel->active_count, capacity * sizeof(uint32_t), "counts of active sets");
    at->absmax = (const void *)kvsim__twin_optional(device, how->absmax, heads * sizeof(double), "absmax").at;
    at->tau = (const void *)kvsim__twin_optional(device, how->tau, heads * sizeof(double), "tau").at;
    at->norms = (const void *)kvsim__twin_optional(device, how->norms, slots * sizeof(double), "norms").at;
    at->largest = (const void *)kvsim__twin_optional(device, how->largest, slots * sizeof(double), "largest").at;
    at->slots = (const void *)kvsim__twin_optional(device, how->slots, slots * sizeof *how->slots, "slots").at;
    if (at->facts == NULL || at->norms == NULL || at->largest == NULL || at->slots == NULL ||
        (at->signs != NULL && at->sign_count == NULL) ||
        (at->actives != NULL && (at->active_count == NULL || at->tau == NULL)) ||
        (at->codes != NULL && at->absmax == NULL)) {
        return kvsim__twin_misused(device, "pack: an array is missing");
    }
    return kvsim__twin_is_misused(device) ? KVSIM_E_BACKEND : KVSIM_OK;
}

int32_t kvsim__twin_pack(kvsim__device *device, const kvsim__device_group *group,
                         const kvsim__device_packing *packing_of, const kvsim__device_panel *panel) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    packing at = {.view = &view, .how = packing_of, .panel = panel};
    status = status == KVSIM_OK ? open_packing(&at, device) : status;
    if (status != KVSIM_OK) {
        return status;
    }
    for (uint32_t row = 0; row < panel->capacity; row++) {
        at.facts[row].slot.class_id = UINT32_MAX;
    }
    at.bytes = kvsim__twin_scratch(device, view.elements, sizeof(float));
    at.stored = kvsim__twin_scratch(device, view.elements, sizeof *at.stored);
    at.values = kvsim__twin_scratch(device, view.elements, sizeof *at.values);
    status = at.bytes != NULL && at.stored != NULL && at.values != NULL ? KVSIM_OK : KVSIM_E_NOMEM;
    for (uint32_t row = 0; row < panel->count && status == KVSIM_OK; row++) {
        status = pack_page(&at, row);
    }
    free(at.bytes);
    free(at.stored);
    free(at.values);
    return status;
}
