#include "device_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 16 };

void fixture_need(const fixture *at, int32_t status, const char *what) {
    if (status != KVSIM_OK) {
        fprintf(stderr, "%s: status %d: %s\n", what, status, at->device != NULL ? at->table->error(at->device) : "");
        exit(1);
    }
}

uint64_t fixture_random(uint64_t *state) {
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

/* About normal, with variance 1: a sum of four uniform ones. */
static float next_normal(uint64_t *state) {
    const uint64_t bits = fixture_random(state);
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        sum += (float)(bits >> (16 * i) & 0xffff) * (1.0f / 65536.0f) - 0.5f;
    }
    return sum * 1.7320508f;
}

static void *allocate_host(size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static void *allocate(fixture *at, size_t bytes) {
    void *memory = NULL;
    fixture_need(at, at->table->allocate(at->device, bytes, &memory), "allocate");
    at->owned[at->owned_count++] = memory;
    return memory;
}

static void *upload(fixture *at, const void *from, size_t bytes) {
    void *memory = allocate(at, bytes);
    fixture_need(at, at->table->upload(at->device, memory, from, bytes), "upload");
    return memory;
}

static uint16_t round_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static size_t element_size(int32_t dtype) {
    return dtype == KVSIM__F32 ? 4 : dtype == KVSIM__F16 || dtype == KVSIM__BF16 ? 2 : 1;
}

/* A stored element near `value`. Elements of 8 and 16 bits but bf16 are drawn as bits that are finite and not tiny. */
static void store(int32_t dtype, float value, unsigned char *to) {
    if (dtype == KVSIM__F32) {
        memcpy(to, &value, sizeof value);
    } else if (dtype == KVSIM__BF16) {
        const uint16_t bits = round_bf16(value);
        memcpy(to, &bits, sizeof bits);
    } else if (dtype == KVSIM__F16) {
        const _Float16 half = (_Float16)value;
        memcpy(to, &half, sizeof half);
    } else if (dtype == KVSIM__I8) {
        const float code = value * 30.0f;
        *to = (unsigned char)(signed char)(code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code);
    } else {
        /* The top byte of a half is an e5m2; an e4m3 has one more bit of mantissa, one less of exponent. */
        const float limited = value > 8.0f ? 8.0f : value < -8.0f ? -8.0f : value;
        if (dtype == KVSIM__F8_E5M2) {
            const _Float16 half = (_Float16)limited;
            uint16_t bits;
            memcpy(&bits, &half, sizeof bits);
            *to = (unsigned char)(bits >> 8);
        } else {
            const _Float16 half = (_Float16)(limited * 0x1p-8f); /* bias 15 becomes bias 7 */
            uint16_t bits;
            memcpy(&bits, &half, sizeof bits);
            *to = (unsigned char)((bits >> 8 & 0x80) | (bits >> 7 & 0x7f));
        }
    }
}

/* Pages in memory of the host: a common vector, noise, some copies. */
static unsigned char *make_pages(fixture *at, size_t token_stride, size_t page_stride) {
    const fixture_case *of = &at->of;
    const size_t size = element_size(of->dtype), row = (size_t)of->heads * (size_t)of->head_dim;
    unsigned char *pages = allocate_host(of->slots, page_stride);
    float *common = allocate_host(at->elements, sizeof *common);
    uint64_t state = of->seed;
    const float own_share = (float)sqrt(1.0 - of->likeness * of->likeness);
    for (uint32_t i = 0; i < at->elements; i++) {
        common[i] = next_normal(&state) * (float)of->likeness;
    }
    for (uint32_t slot = 0; slot < of->slots; slot++) {
        unsigned char *page = pages + slot * page_stride;
        if (slot >= of->slots - of->duplicates) {
            at->class_of[slot] = (uint32_t)(fixture_random(&state) % (of->slots - of->duplicates));
            memcpy(page, pages + at->class_of[slot] * page_stride, page_stride);
            continue;
        }
        at->class_of[slot] = slot;
        for (int32_t t = 0; t < of->tokens; t++) {
            for (size_t i = 0; i < row; i++) {
                store(of->dtype, common[(size_t)t * row + i] + own_share * next_normal(&state),
                      page + (size_t)t * token_stride + i * size);
            }
        }
    }
    free(common);
    return pages;
}

static void describe_pages(fixture *at, const unsigned char *device_pages, size_t token_stride, size_t page_stride) {
    const fixture_case *of = &at->of;
    const size_t size = element_size(of->dtype);
    kvsim__device_format format = {.token_stride = (int64_t)token_stride,
                                   .head_stride = (int64_t)((size_t)of->head_dim * size),
                                   .channel_stride = (int64_t)size,
                                   .dtype = of->dtype,
                                   .heads = of->heads};
    if (of->dtype >= KVSIM__F8_E4M3FN) {
        const float scale = 0.125f;
        format.scale_mode = KVSIM_SCALE_TENSOR;
        format.scales = upload(at, &scale, sizeof scale);
    }
    kvsim__device_page *pages = allocate_host(of->slots, sizeof *pages);
    for (uint32_t slot = 0; slot < of->slots; slot++) {
        pages[slot].data = device_pages + slot * page_stride;
        pages[slot].position = (int64_t)slot % 61 * of->tokens;
    }
    at->group.pages = upload(at, pages, of->slots * sizeof *pages);
    at->group.formats = upload(at, &format, sizeof format);
    at->group.slots = of->slots;
    at->group.tokens = of->tokens;
    at->group.heads = of->heads;
    at->group.head_dim = of->head_dim;
    if (size <= 2 && (size_t)of->head_dim * size % 16 == 0 && token_stride % 16 == 0 && !of->rotate && !of->centre) {
        at->group.plain_bytes = (int32_t)size;
    }
    free(pages);
}

static void describe_rotation(fixture *at) {
    const int32_t pairs = at->of.head_dim / 2;
    double *frequencies = allocate_host((size_t)pairs, sizeof(double));
    double *cosines = allocate_host((size_t)(at->of.tokens * pairs), sizeof(double));
    double *sines = allocate_host((size_t)(at->of.tokens * pairs), sizeof(double));
    for (int32_t i = 0; i < pairs; i++) {
        frequencies[i] = pow(10000.0, -2.0 * i / at->of.head_dim);
        for (int32_t t = 0; t < at->of.tokens; t++) {
            cosines[t * pairs + i] = cos(t * frequencies[i]);
            sines[t * pairs + i] = sin(t * frequencies[i]);
        }
    }
    at->group.rotate = 1;
    at->group.pairs = pairs;
    at->group.frequencies = upload(at, frequencies, (size_t)pairs * sizeof(double));
    at->group.slot_cosine = upload(at, cosines, (size_t)(at->of.tokens * pairs) * sizeof(double));
    at->group.slot_sine = upload(at, sines, (size_t)(at->of.tokens * pairs) * sizeof(double));
    free(frequencies);
    free(cosines);
    free(sines);
}

/* The pages in the view, in double, by the host alone. */
static void make_values(fixture *at, const unsigned char *pages, size_t token_stride, size_t page_stride) {
    const fixture_case *of = &at->of;
    const size_t size = element_size(of->dtype), row = (size_t)of->heads * (size_t)of->head_dim;
    const double scale = of->dtype >= KVSIM__F8_E4M3FN ? 0.125 : 1.0;
    float *line = allocate_host(row, sizeof *line);
    at->values = allocate_host((size_t)of->slots * at->elements, sizeof(double));
    for (uint32_t slot = 0; slot < of->slots; slot++) {
        for (int32_t t = 0; t < of->tokens; t++) {
            double *out = at->values + (size_t)slot * at->elements + (size_t)t * row;
            kvsim__convert_row((kvsim__dtype)of->dtype, pages + slot * page_stride + (size_t)t * token_stride,
                               (int64_t)size, row, line);
            for (size_t i = 0; i < row; i++) {
                out[i] = (double)line[i] * scale;
            }
            for (int32_t h = 0; h < of->heads && of->rotate; h++) {
                for (int32_t i = 0; i < of->head_dim / 2; i++) {
                    const double position = (double)((int64_t)slot % 61 * of->tokens + t);
                    const double angle = position * pow(10000.0, -2.0 * i / of->head_dim);
                    double *first = &out[h * of->head_dim + i], *second = first + of->head_dim / 2;
                    const double x = *first, y = *second;
                    *first = x * cos(angle) + y * sin(angle);
                    *second = y * cos(angle) - x * sin(angle);
                }
            }
        }
    }
    free(line);
}

static void centre(fixture *at) {
    const size_t row = (size_t)at->of.heads * (size_t)at->of.head_dim;
    double *mean = allocate_host(row, sizeof *mean), *sums = allocate_host(RUNS * row, sizeof *sums);
    kvsim__device_measures out = {.runs = RUNS, .sums = allocate(at, RUNS * row * sizeof(double))};
    fixture_need(at, at->table->measure(at->device, &at->group, &out), "measure");
    fixture_need(at, at->table->download(at->device, sums, out.sums, RUNS * row * sizeof(double)), "download");
    for (size_t i = 0; i < row; i++) {
        for (int run = 0; run < RUNS; run++) {
            mean[i] += sums[(size_t)run * row + i];
        }
        mean[i] /= (double)at->of.slots * at->of.tokens;
    }
    at->group.mean = upload(at, mean, row * sizeof(double));
    for (size_t i = 0; i < (size_t)at->of.slots * at->elements && at->values != NULL; i++) {
        at->values[i] -= mean[i % row];
    }
    free(mean);
    free(sums);
}

/* Statistics that packing needs. */
static void measure(fixture *at) {
    const uint32_t slots = at->of.slots, heads = (uint32_t)at->of.heads;
    kvsim__device_measures out = {.runs = RUNS,
                                  .absmax = allocate(at, RUNS * heads * sizeof(double)),
                                  .squares = allocate(at, RUNS * heads * sizeof(double)),
                                  .norms = allocate(at, slots * sizeof(double)),
                                  .largest = allocate(at, slots * sizeof(double))};
    double *norms = allocate_host(slots, sizeof(double)), *absmax = allocate_host(RUNS * heads, sizeof(double));
    double *squares = allocate_host(RUNS * heads, sizeof(double));
    double *most = allocate_host(heads, sizeof(double)), *tau = allocate_host(heads, sizeof(double));
    fixture_need(at, at->table->measure(at->device, &at->group, &out), "measure");
    fixture_need(at, at->table->download(at->device, norms, out.norms, slots * sizeof(double)), "download");
    fixture_need(at, at->table->download(at->device, absmax, out.absmax, RUNS * heads * sizeof(double)), "download");
    fixture_need(at, at->table->download(at->device, squares, out.squares, RUNS * heads * sizeof(double)), "download");
    at->largest_norm = 0.0;
    for (uint32_t i = 0; i < slots; i++) {
        at->largest_norm = norms[i] > at->largest_norm ? norms[i] : at->largest_norm;
    }
    for (uint32_t h = 0; h < heads; h++) {
        for (uint32_t run = 0; run < RUNS; run++) {
            most[h] = absmax[run * heads + h] > most[h] ? absmax[run * heads + h] : most[h];
            tau[h] += squares[run * heads + h];
        }
        tau[h] = sqrt(tau[h] / ((double)slots * at->of.tokens * at->of.head_dim));
    }
    kvsim__slot_facts *facts = allocate_host(slots, sizeof *facts);
    for (uint32_t i = 0; i < slots; i++) {
        /* In a view that turns pages by their positions, equal bytes are not equal any more. */
        const uint32_t class_id = at->of.rotate ? i : at->class_of[i];
        facts[i] = (kvsim__slot_facts){.class_id = class_id,
                                       .sequence = i / 7,
                                       .family = i / 21,
                                       .stratum = (uint16_t)(i % 3),
                                       .listed = class_id == i};
    }
    at->packing = (kvsim__device_packing){.operand = at->of.operand,
                                          .code_limit = 127.0,
                                          .largest_norm = at->largest_norm,
                                          .absmax = upload(at, most, heads * sizeof(double)),
                                          .tau = upload(at, tau, heads * sizeof(double)),
                                          .norms = out.norms,
                                          .largest = out.largest,
                                          .slots = upload(at, facts, slots * sizeof *facts)};
    free(norms);
    free(absmax);
    free(squares);
    free(most);
    free(tau);
    free(facts);
}

static uint64_t whole_lines(uint64_t bytes) {
    return (bytes + 127) / 128 * 128;
}

static void make_panel(fixture *at) {
    const bool split = at->of.operand == KVSIM__OPERAND_SPLIT;
    const uint64_t size = split ? 2 : element_size(at->of.dtype);
    const uint32_t capacity = (at->of.slots + 255) / 256 * 256;
    kvsim__device_panel panel = {.capacity = capacity, .count = at->of.slots};
    panel.row_bytes = whole_lines(at->elements * size) * (split ? 2 : 1);
    panel.bit_bytes = whole_lines((at->elements + 7) / 8);
    panel.code_bytes = whole_lines(at->elements);
    panel.operand = allocate(at, capacity * panel.row_bytes);
    panel.signs = allocate(at, capacity * panel.bit_bytes);
    panel.actives = allocate(at, capacity * panel.bit_bytes);
    panel.codes = allocate(at, capacity * panel.code_bytes);
    panel.facts = allocate(at, capacity * sizeof *panel.facts);
    panel.sign_count = allocate(at, capacity * sizeof(uint32_t));
    panel.active_count = allocate(at, capacity * sizeof(uint32_t));
    at->panel = panel;
}

static kvsim__device_list make_list(fixture *at, uint32_t capacity) {
    return (kvsim__device_list){.items = allocate(at, capacity * sizeof(kvsim__device_pair)),
                                .count = allocate(at, sizeof(uint32_t)),
                                .capacity = capacity};
}

static void make_compare(fixture *at) {
    const uint32_t slots = at->of.slots;
    kvsim__device_compare *job = &at->compare;
    kvsim__pair_rules *rules = &job->host_rules;
    const double thresholds[] = {0.9, 0.95, 0.99}, budgets[] = {0.1, 0.2, 0.3};
    job->rows = job->columns = at->panel;
    job->row_end = at->panel.capacity;
    job->flags = KVSIM__COMPARE_GATHER | KVSIM__COMPARE_DOUBT | KVSIM__COMPARE_NEAR;
    job->operand = at->of.operand;
    job->elements = at->elements;
    job->top_cutoff = 2.0f;
    rules->bound = at->of.operand == KVSIM__OPERAND_E4M3 || at->of.operand == KVSIM__OPERAND_E5M2 ? 1e-4f : 1.6e-6f;
    rules->near_limit = at->of.all_near ? 1e30f : 0.3f + 1e-4f;
    rules->clear_limit = 0.31f;
    rules->threshold_count = rules->budget_count = 3;
    rules->filter = at->of.filter;
    rules->bounds = at->of.bounds;
    rules->filtered_listing = at->of.filter || at->of.all_near;
    for (int i = 0; i < 3; i++) {
        rules->exact_thresholds[i] = thresholds[i];
        rules->thresholds[i] = (float)thresholds[i];
        rules->budgets[i] = (float)budgets[i];
    }
    job->rules = upload(at, rules, sizeof *rules);
    job->figures = allocate(at, sizeof *job->figures);
    job->threshold_bits = allocate(at, slots * sizeof(uint64_t));
    job->best = allocate(at, slots * sizeof(uint64_t));
    job->doubtful = make_list(at, at->of.list_capacity);
    job->near = make_list(at, at->of.list_capacity);
    at->bits = (kvsim__device_bit_compare){.rows = at->panel,
                                           .columns = at->panel,
                                           .elements = at->elements,
                                           .filter = at->of.filter,
                                           .figures = allocate(at, sizeof(kvsim__device_bit_figures))};
}

void fixture_open(fixture *at, const kvsim__backend *table, kvsim__device *device, const fixture_case *of,
                  bool reference) {
    memset(at, 0, sizeof *at);
    at->table = table;
    at->device = device;
    at->of = *of;
    at->elements = (uint32_t)(of->tokens * of->heads * of->head_dim);
    at->class_of = allocate_host(of->slots, sizeof *at->class_of);
    const size_t row = (size_t)of->heads * (size_t)of->head_dim * element_size(of->dtype);
    const size_t token_stride = row + (of->padded ? 48 : 0), page_stride = token_stride * (size_t)of->tokens;
    unsigned char *pages = make_pages(at, token_stride, page_stride);
    describe_pages(at, upload(at, pages, of->slots * page_stride), token_stride, page_stride);
    if (of->rotate) {
        describe_rotation(at);
    }
    if (reference) {
        make_values(at, pages, token_stride, page_stride);
    }
    free(pages);
    if (of->centre) {
        centre(at);
    }
    measure(at);
    make_panel(at);
    make_compare(at);
}

void fixture_pack(fixture *at) {
    fixture_need(at, at->table->pack(at->device, &at->group, &at->packing, &at->panel), "pack");
}

void fixture_clear(fixture *at) {
    kvsim__device_figures none;
    memset(&none, 0, sizeof none);
    none.cosine_min = UINT32_MAX;
    const kvsim__device_compare *job = &at->compare;
    const size_t slots = at->of.slots;
    fixture_need(at, at->table->upload(at->device, job->figures, &none, sizeof none), "clear");
    fixture_need(at, at->table->fill(at->device, job->threshold_bits, 0, slots * sizeof(uint64_t)), "clear");
    fixture_need(at, at->table->fill(at->device, job->best, 0, slots * sizeof(uint64_t)), "clear");
    fixture_need(at, at->table->fill(at->device, job->doubtful.count, 0, sizeof(uint32_t)), "clear");
    fixture_need(at, at->table->fill(at->device, job->near.count, 0, sizeof(uint32_t)), "clear");
    fixture_need(at, at->table->fill(at->device, at->bits.figures, 0, sizeof *at->bits.figures), "clear");
}

void fixture_close(fixture *at) {
    for (size_t i = 0; i < at->owned_count; i++) {
        at->table->release(at->device, at->owned[i]);
    }
    free(at->values);
    free(at->class_of);
}
