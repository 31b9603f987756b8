/* What the twin does with the pages of a group: read them, look for infinities, hash, compare bytes, measure, copy. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../pages/format.h"
#include "twin_parts.h"

size_t kvsim__twin_element_size(int32_t dtype) {
    switch (dtype) {
    case KVSIM__F32:
        return 4;
    case KVSIM__F16:
    case KVSIM__BF16:
        return 2;
    case KVSIM__F8_E4M3FN:
    case KVSIM__F8_E5M2:
    case KVSIM__I8:
        return 1;
    default:
        return 0;
    }
}

double kvsim__twin_small_float(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinities) {
    const uint32_t all_ones = ((uint32_t)1 << exponent_bits) - 1;
    const uint32_t exponent = bits >> mantissa_bits & all_ones, one = (uint32_t)1 << mantissa_bits;
    const uint32_t mantissa = bits & (one - 1);
    const int bias = (int)(all_ones >> 1);
    const bool negative = (bits >> (exponent_bits + mantissa_bits) & 1) != 0;
    double magnitude;
    if (exponent == all_ones && (has_infinities || mantissa == one - 1)) {
        magnitude = has_infinities && mantissa == 0 ? (double)INFINITY : (double)NAN;
    } else if (exponent == 0) {
        magnitude = ldexp((double)mantissa, 1 - bias - mantissa_bits);
    } else {
        magnitude = ldexp((double)(mantissa + one), (int)exponent - bias - mantissa_bits);
    }
    return negative ? -magnitude : magnitude;
}

double kvsim__twin_element(int32_t dtype, const unsigned char *at) {
    uint16_t half;
    float single;
    switch (dtype) {
    case KVSIM__F32:
        memcpy(&single, at, sizeof single);
        return (double)single;
    case KVSIM__F16:
        memcpy(&half, at, sizeof half);
        return kvsim__twin_small_float(half, 5, 10, true);
    case KVSIM__BF16:
        memcpy(&half, at, sizeof half);
        return kvsim__twin_small_float(half, 8, 7, true);
    case KVSIM__F8_E4M3FN:
        return kvsim__twin_small_float(*at, 4, 3, false);
    case KVSIM__F8_E5M2:
        return kvsim__twin_small_float(*at, 5, 2, true);
    default:
        return (double)(int8_t)*at;
    }
}

int32_t kvsim__twin_view_open(kvsim__device *device, const kvsim__device_group *group, kvsim__twin_view *view) {
    const size_t tokens = (size_t)group->tokens, pairs = group->rotate != 0 ? (size_t)group->pairs : 0;
    const size_t channels = (size_t)group->heads * (size_t)group->head_dim;
    *view = (kvsim__twin_view){.device = device, .group = group, .elements = tokens * channels};
    if (group->tokens <= 0 || group->heads <= 0 || group->head_dim <= 0 || group->first_head < 0) {
        return kvsim__twin_misused(device, "a group of an impossible shape");
    }
    view->pages = (const void *)kvsim__twin_optional(device, group->slots > 0 ? group->pages : NULL,
                                                     group->slots * sizeof *group->pages, "pages of a group")
                      .at;
    view->formats =
        kvsim__twin_optional(device, group->slots > 0 ? group->formats : NULL, sizeof *group->formats, "formats");
    view->mean = (const void *)kvsim__twin_optional(device, group->mean, channels * sizeof(double), "mean").at;
    if (pairs > 0) {
        view->frequencies =
            (const void *)kvsim__twin_span_at(device, group->frequencies, pairs * sizeof(double), "frequencies").at;
        view->slot_cosine =
            (const void *)kvsim__twin_span_at(device, group->slot_cosine, tokens * pairs * sizeof(double), "cosines")
                .at;
        view->slot_sine =
            (const void *)kvsim__twin_span_at(device, group->slot_sine, tokens * pairs * sizeof(double), "sines").at;
    }
    return kvsim__twin_is_misused(device) ? KVSIM_E_BACKEND : KVSIM_OK;
}

const kvsim__device_format *kvsim__twin_format_of(const kvsim__twin_view *view, uint32_t slot) {
    const kvsim__device_format *formats = (const void *)view->formats.at;
    const uint32_t number = view->pages[slot].format;
    if ((number + (size_t)1) * sizeof *formats > view->formats.bytes) {
        (void)kvsim__twin_misused(view->device, "a format past the end");
        return NULL;
    }
    const kvsim__device_format *format = &formats[number];
    if (kvsim__twin_element_size(format->dtype) == 0 || view->group->first_head + view->group->heads > format->heads) {
        (void)kvsim__twin_misused(view->device, "a format of an impossible type or number of heads");
        return NULL;
    }
    return format;
}

/* What is at element (0, 0, 0) of a page, after a look at both ends of what will be read. */
static const unsigned char *open_page(const kvsim__twin_view *view, uint32_t slot, const kvsim__device_format *format,
                                      int32_t tokens) {
    const kvsim__device_group *group = view->group;
    const int64_t reach[3] = {(tokens - 1) * format->token_stride, (group->heads - 1) * format->head_stride,
                              (group->head_dim - 1) * format->channel_stride};
    int64_t low = group->first_head * format->head_stride;
    int64_t high = low + (int64_t)kvsim__twin_element_size(format->dtype);
    for (int axis = 0; axis < 3; axis++) {
        low += reach[axis] < 0 ? reach[axis] : 0;
        high += reach[axis] > 0 ? reach[axis] : 0;
    }
    const unsigned char *data = view->pages[slot].data;
    const unsigned char *lowest =
        kvsim__twin_span_at(view->device, data + low, (size_t)(high - low), "elements of a page").at;
    return lowest != NULL ? lowest - low : NULL;
}

/* Scales of a page: their first one, and how many elements there are from a slot and a head to the next. */
typedef struct scale_reader {
    const float *scales; /* NULL: 1 */
    size_t token_step, head_step;
} scale_reader;

static scale_reader open_scales(const kvsim__twin_view *view, uint32_t slot, const kvsim__device_format *format) {
    const size_t heads = (size_t)format->heads, tokens = (size_t)view->group->tokens;
    scale_reader reader = {NULL, 0, 0};
    switch (format->scale_mode) {
    case KVSIM_SCALE_TENSOR:
        reader.scales = (const void *)kvsim__twin_span_at(view->device, format->scales, sizeof(float), "a scale").at;
        break;
    case KVSIM_SCALE_HEAD:
        reader.scales =
            (const void *)kvsim__twin_span_at(view->device, format->scales, heads * sizeof(float), "scales").at;
        reader.head_step = 1;
        break;
    case KVSIM_SCALE_TOKEN_HEAD:
        reader.scales = (const void *)kvsim__twin_span_at(view->device, view->pages[slot].token_scales,
                                                          tokens * heads * sizeof(float), "scales of slots")
                            .at;
        reader.token_step = heads;
        reader.head_step = 1;
        break;
    default:
        break;
    }
    return reader;
}

/* A row in the view, in place: dequantised before, then turned back and centred. */
static void apply_view(const kvsim__twin_view *view, uint32_t slot, int32_t token, int32_t head, double *row) {
    const kvsim__device_group *group = view->group;
    for (int32_t i = 0; i < (group->rotate != 0 ? group->pairs : 0); i++) {
        const size_t at = (size_t)token * (size_t)group->pairs + (size_t)i;
        const double angle = (double)view->pages[slot].position * view->frequencies[i];
        const double cosine = cos(angle) * view->slot_cosine[at] - sin(angle) * view->slot_sine[at];
        const double sine = sin(angle) * view->slot_cosine[at] + cos(angle) * view->slot_sine[at];
        double *first = &row[group->interleaved != 0 ? 2 * i : i];
        double *second = &row[group->interleaved != 0 ? 2 * i + 1 : i + group->pairs];
        const double x = *first, y = *second;
        *first = x * cosine + y * sine;
        *second = y * cosine - x * sine;
    }
    for (int32_t d = 0; d < group->head_dim && view->mean != NULL; d++) {
        row[d] -= view->mean[(size_t)head * (size_t)group->head_dim + (size_t)d];
    }
}

bool kvsim__twin_read(const kvsim__twin_view *view, uint32_t slot, int32_t tokens, unsigned char *bytes, double *stored,
                      double *values) {
    const kvsim__device_group *group = view->group;
    const kvsim__device_format *format = kvsim__twin_format_of(view, slot);
    if (format == NULL || tokens <= 0) {
        return false;
    }
    const size_t size = kvsim__twin_element_size(format->dtype), channels = (size_t)group->head_dim;
    const unsigned char *data = open_page(view, slot, format, tokens);
    const scale_reader scales = values != NULL ? open_scales(view, slot, format) : (scale_reader){NULL, 0, 0};
    if (data == NULL || kvsim__twin_is_misused(view->device)) {
        return false;
    }
    size_t start = 0;
    for (int32_t t = 0; t < tokens; t++) {
        for (int32_t h = 0; h < group->heads; h++, start += channels) {
            const int32_t stored_head = h + group->first_head;
            const unsigned char *row = data + t * format->token_stride + stored_head * format->head_stride;
            const size_t scale = (size_t)t * scales.token_step + (size_t)stored_head * scales.head_step;
            for (size_t d = 0; d < channels; d++, row += format->channel_stride) {
                if (bytes != NULL) {
                    memcpy(bytes + (start + d) * size, row, size);
                }
                if (stored != NULL) {
                    stored[start + d] = kvsim__twin_element(format->dtype, row);
                }
                if (values != NULL) {
                    values[start + d] = kvsim__twin_element(format->dtype, row) *
                                        (scales.scales != NULL ? (double)scales.scales[scale] : 1.0);
                }
            }
            if (values != NULL) {
                apply_view(view, slot, t, h, values + start);
            }
        }
    }
    return true;
}

int32_t kvsim__twin_classify(kvsim__device *device, const kvsim__device_group *group, const int32_t *fills,
                             uint8_t *finite) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    if (status != KVSIM_OK || group->slots == 0) {
        return status;
    }
    const int32_t *fill = (const void *)kvsim__twin_span_at(device, fills, group->slots * sizeof *fills, "fills").at;
    uint8_t *out = kvsim__twin_span_at(device, finite, group->slots, "finite").at;
    double *stored = kvsim__twin_scratch(device, view.elements, sizeof *stored);
    if (fill == NULL || out == NULL || stored == NULL) {
        free(stored);
        return stored == NULL ? KVSIM_E_NOMEM : KVSIM_E_BACKEND;
    }
    const size_t row = view.elements / (size_t)group->tokens;
    for (uint32_t slot = 0; slot < group->slots && status == KVSIM_OK; slot++) {
        out[slot] = 0;
        if (view.pages[slot].data == NULL) {
            continue;
        }
        if (fill[slot] < 1 || fill[slot] > group->tokens) {
            status = kvsim__twin_misused(device, "a page that is filled beyond its end, or empty");
        } else if (!kvsim__twin_read(&view, slot, fill[slot], NULL, stored, NULL)) {
            status = KVSIM_E_BACKEND;
        } else {
            out[slot] = 1;
            for (size_t i = 0; i < (size_t)fill[slot] * row; i++) {
                out[slot] = out[slot] != 0 && isfinite(stored[i]);
            }
        }
    }
    free(stored);
    return status;
}

/* Room for the bytes of a page of the group, whatever its type, and its token scales behind them. */
static size_t bytes_of_page(const kvsim__twin_view *view) {
    return view->elements * sizeof(float) + (size_t)view->group->tokens * (size_t)view->group->heads * sizeof(float);
}

/* Stored bytes and token scales of a page, in order. Returns how many, or 0 on a misuse. */
static size_t read_bytes(const kvsim__twin_view *view, uint32_t slot, unsigned char *out) {
    const kvsim__device_group *group = view->group;
    if (!kvsim__twin_read(view, slot, group->tokens, out, NULL, NULL)) {
        return 0;
    }
    const kvsim__device_format *format = kvsim__twin_format_of(view, slot);
    size_t count = view->elements * kvsim__twin_element_size(format->dtype);
    if (format->scale_mode != KVSIM_SCALE_TOKEN_HEAD) {
        return count;
    }
    const scale_reader scales = open_scales(view, slot, format);
    for (int32_t t = 0; t < group->tokens && scales.scales != NULL; t++) {
        for (int32_t h = group->first_head; h < group->first_head + group->heads; h++, count += sizeof(float)) {
            memcpy(out + count, &scales.scales[(size_t)t * scales.token_step + (size_t)h], sizeof(float));
        }
    }
    return scales.scales != NULL ? count : 0;
}

/* FNV-1a (Fowler, Noll, Vo) over 64 bits. */
static uint64_t hash_bytes(const unsigned char *bytes, size_t count, uint64_t start) {
    uint64_t hash = start;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

int32_t kvsim__twin_hash(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    if (status != KVSIM_OK || group->slots == 0) {
        return status;
    }
    uint64_t *out = (void *)kvsim__twin_span_at(device, hashes, group->slots * 2 * sizeof *hashes, "hashes").at;
    unsigned char *bytes = kvsim__twin_scratch(device, bytes_of_page(&view), 1);
    if (out == NULL || bytes == NULL) {
        free(bytes);
        return bytes == NULL ? KVSIM_E_NOMEM : KVSIM_E_BACKEND;
    }
    for (uint32_t slot = 0; slot < group->slots && status == KVSIM_OK; slot++) {
        out[2 * slot] = out[2 * slot + 1] = 0;
        if (view.pages[slot].data != NULL) {
            const size_t count = read_bytes(&view, slot, bytes);
            out[2 * slot] = hash_bytes(bytes, count, 0xcbf29ce484222325u);
            out[2 * slot + 1] = hash_bytes(bytes, count, 0x6c62272e07bb0142u);
            status = count > 0 ? KVSIM_OK : KVSIM_E_BACKEND;
        }
    }
    free(bytes);
    return status;
}

int32_t kvsim__twin_equal(kvsim__device *device, const kvsim__device_group *group, const uint32_t (*pairs)[2],
                          uint32_t count, uint8_t *equal) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    if (status != KVSIM_OK || count == 0) {
        return status;
    }
    const uint32_t(*pair)[2] = (const void *)kvsim__twin_span_at(device, pairs, count * sizeof *pairs, "pairs").at;
    uint8_t *out = kvsim__twin_span_at(device, equal, count, "equal").at;
    const size_t room = bytes_of_page(&view);
    unsigned char *bytes = kvsim__twin_scratch(device, 2, room);
    if (pair == NULL || out == NULL || bytes == NULL) {
        free(bytes);
        return bytes == NULL ? KVSIM_E_NOMEM : KVSIM_E_BACKEND;
    }
    for (uint32_t i = 0; i < count && status == KVSIM_OK; i++) {
        const uint32_t a = pair[i][0], b = pair[i][1];
        if (a >= group->slots || b >= group->slots || view.pages[a].data == NULL || view.pages[b].data == NULL) {
            status = kvsim__twin_misused(device, "equal: a slot without a page");
            break;
        }
        const size_t first = read_bytes(&view, a, bytes), second = read_bytes(&view, b, bytes + room);
        out[i] = first == second && memcmp(bytes, bytes + room, first) == 0;
        status = first > 0 && second > 0 ? KVSIM_OK : KVSIM_E_BACKEND;
    }
    free(bytes);
    return status;
}

int32_t kvsim__twin_gather(kvsim__device *device, const kvsim__device_group *group, void *to) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    for (uint32_t slot = 0; slot < group->slots && status == KVSIM_OK; slot++) {
        if (view.pages[slot].data == NULL) {
            continue;
        }
        const kvsim__device_format *format = kvsim__twin_format_of(&view, slot);
        const size_t bytes = format != NULL ? view.elements * kvsim__twin_element_size(format->dtype) : 0;
        unsigned char *out =
            kvsim__twin_span_at(device, (unsigned char *)to + slot * bytes, bytes, "gathered pages").at;
        if (out == NULL || !kvsim__twin_read(&view, slot, group->tokens, out, NULL, NULL)) {
            status = KVSIM_E_BACKEND;
        }
    }
    return status;
}

/* ---- measures ---- */

/* The arrays of kvsim__device_measures as the twin sees them. */
typedef struct measuring {
    const kvsim__twin_view *view;
    double *values; /* of a page */
    double *sums, *absmax, *squares, *norms, *largest;
} measuring;

static void measure_page(const measuring *at, uint32_t run, uint32_t slot) {
    const kvsim__device_group *group = at->view->group;
    const size_t heads = (size_t)group->heads, channels = (size_t)group->head_dim;
    double page_squares = 0.0, page_largest = 0.0;
    for (size_t row = 0; row < at->view->elements / channels; row++) {
        const double *values = at->values + row * channels;
        const size_t cell = run * heads + row % heads;
        double largest = 0.0, squares = 0.0;
        for (size_t d = 0; d < channels && at->sums != NULL; d++) {
            at->sums[cell * channels + d] += values[d];
        }
        for (size_t d = 0; d < channels && at->sums == NULL; d++) {
            largest = fabs(values[d]) > largest ? fabs(values[d]) : largest;
            squares += values[d] * values[d];
        }
        if (at->sums == NULL) {
            at->absmax[cell] = largest > at->absmax[cell] ? largest : at->absmax[cell];
            at->squares[cell] += squares;
            page_largest = largest > page_largest ? largest : page_largest;
            page_squares += squares;
        }
    }
    if (at->sums == NULL) {
        at->norms[slot] = sqrt(page_squares);
        at->largest[slot] = page_largest;
    }
}

static int32_t measure_runs(const measuring *at, uint32_t runs) {
    const kvsim__device_group *group = at->view->group;
    for (uint32_t run = 0; run < runs; run++) {
        const uint32_t end = (uint32_t)((uint64_t)group->slots * (run + 1) / runs);
        for (uint32_t slot = (uint32_t)((uint64_t)group->slots * run / runs); slot < end; slot++) {
            if (at->view->pages[slot].data == NULL) {
                continue;
            }
            if (!kvsim__twin_read(at->view, slot, group->tokens, NULL, NULL, at->values)) {
                return KVSIM_E_BACKEND;
            }
            measure_page(at, run, slot);
        }
    }
    return KVSIM_OK;
}

/* An array of the result, cleared. */
static double *open_doubles(kvsim__device *device, double *address, size_t count, const char *what) {
    double *at = (void *)kvsim__twin_span_at(device, address, count * sizeof *address, what).at;
    if (at != NULL) {
        memset(at, 0, count * sizeof *at);
    }
    return at;
}

int32_t kvsim__twin_measure(kvsim__device *device, const kvsim__device_group *group,
                            const kvsim__device_measures *out) {
    kvsim__twin_view view;
    int32_t status = kvsim__twin_view_open(device, group, &view);
    if (status != KVSIM_OK || group->slots == 0) {
        return status;
    }
    const size_t heads = (size_t)group->heads, cells = out->runs * heads;
    measuring at = {.view = &view};
    if (out->runs == 0) {
        return kvsim__twin_misused(device, "measure: no runs");
    }
    if (out->sums != NULL) {
        at.sums = open_doubles(device, out->sums, cells * (size_t)group->head_dim, "sums");
    } else {
        at.absmax = open_doubles(device, out->absmax, cells, "absmax");
        at.squares = open_doubles(device, out->squares, cells, "squares");
        at.norms = open_doubles(device, out->norms, group->slots, "norms");
        at.largest = open_doubles(device, out->largest, group->slots, "largest");
    }
    if (kvsim__twin_is_misused(device)) {
        return KVSIM_E_BACKEND;
    }
    at.values = kvsim__twin_scratch(device, view.elements, sizeof *at.values);
    status = at.values != NULL ? measure_runs(&at, out->runs) : KVSIM_E_NOMEM;
    free(at.values);
    return status;
}
