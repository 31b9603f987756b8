/*
 * Every operation of the backend table, on the twin: against straightforward double precision, and against what the
 * library itself finds on the CPU.
 */
#include "backend/twin.h"
#include "device_tools.h"
#include "kvsim_check.h"

#include "findings/duplicates.h"

/* Views, element types, scales, gaps: each row is opened by several tests. */
static const device_recipe recipes[] = {
    {.seed = 1, .slots = 60, .tokens = 4, .heads = 2, .head_dim = 6, .dtype = KVSIM__F32, .view = KVSIM_VIEW_RAW},
    {.seed = 2,
     .slots = 70,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .view = KVSIM_VIEW_RAW,
     .gaps = 3,
     .with_absent = true},
    {.seed = 3,
     .slots = 70,
     .tokens = 5,
     .heads = 1,
     .head_dim = 10,
     .dtype = KVSIM__BF16,
     .view = KVSIM_VIEW_RAW,
     .hamming_bits = 4},
    {.seed = 4,
     .slots = 60,
     .tokens = 3,
     .heads = 3,
     .head_dim = 8,
     .dtype = KVSIM__F8_E4M3FN,
     .view = KVSIM_VIEW_RAW,
     .gaps = 1},
    {.seed = 5,
     .slots = 60,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E4M3FN,
     .view = KVSIM_VIEW_RAW,
     .scale_mode = KVSIM_SCALE_TENSOR},
    {.seed = 6,
     .slots = 60,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F8_E5M2,
     .view = KVSIM_VIEW_RAW,
     .scale_mode = KVSIM_SCALE_HEAD,
     .with_absent = true},
    {.seed = 7,
     .slots = 60,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .view = KVSIM_VIEW_RAW,
     .scale_mode = KVSIM_SCALE_TENSOR},
    {.seed = 8,
     .slots = 60,
     .tokens = 3,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .view = KVSIM_VIEW_RAW,
     .scale_mode = KVSIM_SCALE_TOKEN_HEAD,
     .gaps = 2},
    {.seed = 9, .slots = 60, .tokens = 4, .heads = 2, .head_dim = 8, .dtype = KVSIM__BF16, .view = KVSIM_VIEW_CENTERED},
    {.seed = 10,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__F16,
     .view = KVSIM_VIEW_DEROTATED,
     .with_absent = true},
    {.seed = 11,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 12,
     .dtype = KVSIM__F32,
     .view = KVSIM_VIEW_DEROTATED_CENTERED,
     .gaps = 1},
    {.seed = 12,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 6,
     .dtype = KVSIM__F32,
     .view = KVSIM_VIEW_RAW,
     .magnitude = 1e-30},
    {.seed = 13,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 6,
     .dtype = KVSIM__BF16,
     .view = KVSIM_VIEW_CENTERED,
     .magnitude = 1e30},
    {.seed = 14,
     .slots = 60,
     .tokens = 4,
     .heads = 3,
     .head_dim = 8,
     .dtype = KVSIM__BF16,
     .view = KVSIM_VIEW_RAW,
     .only_head = 2,
     .gaps = 1,
     .with_absent = true},
    {.seed = 15,
     .slots = 60,
     .tokens = 4,
     .heads = 2,
     .head_dim = 8,
     .dtype = KVSIM__I8,
     .view = KVSIM_VIEW_DEROTATED_CENTERED,
     .scale_mode = KVSIM_SCALE_TOKEN_HEAD,
     .only_head = 2},
};

enum { RECIPES = sizeof recipes / sizeof recipes[0] };

static device_set *open_row(int row) {
    return open_device_set(kvsim_backend_query(KVSIM__BACKEND_VERSION), &recipes[row]);
}

static void close_row(device_set *set) {
    const kvsim__twin *twin = kvsim_twin();
    ck_assert_msg(twin->misuses == 0, "%s", twin->misuse);
    close_device_set(set);
    ck_assert_uint_eq(twin->opened, 0);
    ck_assert_uint_eq(twin->blocks, 0);
    ck_assert_uint_eq(twin->bytes, 0);
}

/* ---- pages ---- */

START_TEST(pages_are_gathered_without_gaps) {
    device_set *set = open_row(_i);
    const size_t size = kvsim__dtype_size(set->recipe.dtype), channels = (size_t)set->recipe.head_dim;
    const size_t row = channels + (size_t)set->recipe.gaps, bytes = set->recipe.slots * set->n * size;
    unsigned char *to = device_room(set, bytes, 0x77);
    ck_device(set, set->table->gather(set->device, &set->group, to));
    const unsigned char *gathered = host_copy(set, to, bytes);
    for (size_t i = 0; i < set->recipe.slots * set->n; i++) {
        const size_t heads = (size_t)set->cpu->heads, token = i / channels / heads;
        const size_t stored_row =
            token * (size_t)set->recipe.heads + i / channels % heads + (size_t)set->cpu->first_head;
        const unsigned char *stored = set->elements + (stored_row * row + i % channels) * size;
        for (size_t b = 0; b < size; b++) {
            const unsigned char expected = set->pages[i / set->n] != KVSIM__NONE ? stored[b] : 0x77;
            require(gathered[i * size + b] == expected, "byte %zu of element %zu", b, i);
        }
    }
    close_row(set);
}
END_TEST

START_TEST(pages_are_hashed_and_compared) {
    device_set *set = open_row(_i);
    const uint32_t slots = set->recipe.slots;
    uint64_t *hashes = device_room(set, slots * 16, 0xee);
    ck_device(set, set->table->hash(set->device, &set->group, hashes));
    const uint64_t *hash = host_copy(set, hashes, slots * 16);
    uint32_t(*pairs)[2] = get_memory((size_t)slots * slots * sizeof *pairs);
    uint32_t count = 0, equal_pairs = 0;
    for (uint32_t a = 0; a < slots; a++) {
        for (uint32_t b = 0; b < slots; b++) {
            if (set->pages[a] != KVSIM__NONE && set->pages[b] != KVSIM__NONE) {
                pairs[count][0] = a;
                pairs[count++][1] = b;
            }
        }
    }
    uint8_t *equal = device_room(set, count, 0xee);
    ck_device(
        set, set->table->equal(set->device, &set->group, device_copy(set, pairs, count * sizeof *pairs), count, equal));
    const uint8_t *is_equal = host_copy(set, equal, count);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t a = pairs[i][0], b = pairs[i][1];
        const bool same = set->first[a] == set->first[b];
        equal_pairs += same && a != b;
        require(is_equal[i] == same, "slots %u and %u", a, b);
        require((hash[2 * a] == hash[2 * b] && hash[2 * a + 1] == hash[2 * b + 1]) == same, "hashes of %u, %u", a, b);
    }
    ck_assert_uint_gt(equal_pairs, 0);
    close_row(set);
}
END_TEST

START_TEST(pages_are_measured) {
    device_set *set = open_row(_i);
    const uint32_t slots = set->recipe.slots, runs = 7;
    const size_t heads = (size_t)set->cpu->heads, channels = heads * (size_t)set->recipe.head_dim;
    /* Row by row of the library's own reading, in double. */
    double *squares = get_memory(heads * sizeof *squares), *absmax = get_memory(heads * sizeof *absmax);
    double *sums = get_memory(channels * sizeof *sums);
    kvsim__scratch scratch = kvsim__scratch_at(set->cpu, get_memory(kvsim__scratch_size(set->cpu)));
    for (uint32_t slot = 0; slot < slots; slot++) {
        double page_squares = 0.0, largest = 0.0;
        for (int32_t row = 0; row < set->recipe.tokens * set->cpu->heads && set->pages[slot] != KVSIM__NONE; row++) {
            const size_t head = (size_t)(row % set->cpu->heads);
            kvsim__view_begin(set->cpu, set->pages[slot], &scratch);
            const double *values =
                kvsim__view_row(set->cpu, set->pages[slot], row / set->cpu->heads, row % set->cpu->heads, &scratch);
            for (int32_t d = 0; d < set->recipe.head_dim; d++) {
                page_squares += values[d] * values[d];
                largest = fmax(largest, fabs(values[d]));
                absmax[head] = fmax(absmax[head], fabs(values[d]));
                squares[head] += values[d] * values[d];
                sums[head * (size_t)set->recipe.head_dim + (size_t)d] += values[d];
            }
        }
        ck_assert_double_le(fabs(set->norms[slot] - sqrt(page_squares)), 1e-12 * sqrt(page_squares));
        ck_assert_double_le(fabs(set->largest[slot] - largest), 1e-12 * largest);
    }
    ck_assert_double_le(fabs(set->largest_norm - set->cpu->largest_norm), 1e-12 * set->largest_norm);
    kvsim__device_measures measures = {.runs = runs};
    measures.sums = device_room(set, runs * channels * sizeof(double), 0xee);
    ck_device(set, set->table->measure(set->device, &set->group, &measures));
    const double *of_runs = host_copy(set, measures.sums, runs * channels * sizeof(double));
    for (size_t c = 0; c < channels; c++) {
        double sum = 0.0;
        for (size_t run = 0; run < runs; run++) {
            sum += of_runs[run * channels + c];
        }
        ck_assert_double_le(fabs(sum - sums[c]), 1e-11 * slots * absmax[c / (size_t)set->recipe.head_dim]);
    }
    for (size_t h = 0; h < heads; h++) {
        const double values = (double)set->cpu->count * set->recipe.tokens * set->recipe.head_dim;
        ck_assert_double_le(fabs(absmax[h] - set->cpu->absmax[h]), 1e-12 * absmax[h]);
        ck_assert_double_le(fabs(squares[h] / values - set->cpu->mean_square[h]), 1e-12 * squares[h] / values);
    }
    close_row(set);
}
END_TEST

START_TEST(infinities_in_valid_slots_are_found) {
    device_recipe recipe = recipes[_i];
    const bool has_infinities = recipe.dtype != KVSIM__I8;
    recipe.with_absent = false;
    recipe.only_head = 0; /* the library looks at all heads */
    device_set *set = open_device_set(kvsim_backend_query(KVSIM__BACKEND_VERSION), &recipe);
    /* All ones are no number in any type but i8. */
    const size_t size = kvsim__dtype_size(recipe.dtype);
    const size_t row = (size_t)recipe.heads * (size_t)(recipe.head_dim + recipe.gaps) * size;
    const size_t page = (size_t)recipe.tokens * row;
    int32_t *fills = get_memory(recipe.slots * sizeof *fills);
    uint64_t seed = recipe.seed;
    for (uint32_t slot = 0; slot < recipe.slots; slot++) {
        fills[slot] = 1 + (int32_t)draw_below(&seed, (size_t)recipe.tokens);
        const size_t bad = draw_below(&seed, (size_t)recipe.tokens);
        memset(set->elements + slot * page + bad * row, 0xff, size);
        set->ctx->store.pages[slot].fill = fills[slot];
    }
    ck_device(set, set->table->upload(set->device, set->far_elements, set->elements, set->element_bytes));
    uint8_t *finite = device_room(set, recipe.slots, 0xee);
    ck_device(set, set->table->classify(set->device, &set->group, device_copy(set, fills, recipe.slots * sizeof *fills),
                                        finite));
    const uint8_t *is_finite = host_copy(set, finite, recipe.slots);
    float *room = get_memory((size_t)recipe.head_dim * sizeof *room);
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < recipe.slots; slot++) {
        ck_assert_uint_eq(is_finite[slot], kvsim__page_is_finite(&set->ctx->store, slot, room));
        count += is_finite[slot];
    }
    ck_assert(has_infinities ? count > 0 && count < recipe.slots : count == recipe.slots);
    close_row(set);
}
END_TEST

START_TEST(pairs_are_scored_in_double) {
    device_set *set = open_row(_i);
    const uint32_t slots = set->recipe.slots;
    kvsim__device_pair *pairs = get_memory((size_t)slots * slots * sizeof *pairs);
    uint32_t count = 0;
    for (uint32_t later = 0; later < slots; later++) {
        for (uint32_t earlier = 0; earlier < later; earlier++) {
            if (set->pages[later] != KVSIM__NONE && set->pages[earlier] != KVSIM__NONE) {
                pairs[count++] = (kvsim__device_pair){.later = later, .earlier = earlier, .cosine = 7.0};
            }
        }
    }
    kvsim__device_pair *far_pairs = device_copy(set, pairs, count * sizeof *pairs);
    ck_device(set, set->table->rescore(set->device, &set->group, set->largest_norm, far_pairs, count));
    const kvsim__device_pair *scored = host_copy(set, far_pairs, count * sizeof *pairs);
    const size_t bytes = kvsim__scratch_size(set->cpu);
    kvsim__scratch a = kvsim__scratch_at(set->cpu, get_memory(bytes)),
                   b = kvsim__scratch_at(set->cpu, get_memory(bytes));
    for (uint32_t i = 0; i < count; i++) {
        const kvsim__exact exact = kvsim__rescore(set->cpu, pairs[i].later, pairs[i].earlier, &a, &b);
        const double distance = sqrt(exact.squared_distance) / set->largest_norm;
        require(scored[i].later == pairs[i].later && scored[i].earlier == pairs[i].earlier, "pair %u", i);
        require(fabs(scored[i].cosine - exact.cosine) <= 1e-12, "pair %u: cosine %.17g, not %.17g", i, scored[i].cosine,
                exact.cosine);
        require(fabs(scored[i].distance - distance) <= 1e-13, "pair %u: distance %.17g, not %.17g", i,
                scored[i].distance, distance);
    }
    close_row(set);
}
END_TEST

/* ---- packing ---- */

START_TEST(packed_pages_are_what_the_library_packs) {
    device_set *set = open_row(_i);
    const uint32_t slots = set->recipe.slots, first = 7, count = slots - first;
    const kvsim__device_panel panel = pack_panel(set, first, count);
    const kvsim__row_facts *facts = host_copy(set, panel.facts, panel.capacity * sizeof *facts);
    const uint8_t *signs = host_copy(set, panel.signs, panel.capacity * panel.bit_bytes);
    const uint8_t *actives = host_copy(set, panel.actives, panel.capacity * panel.bit_bytes);
    const int8_t *codes = host_copy(set, panel.codes, panel.capacity * panel.code_bytes);
    const uint32_t *sign_count = host_copy(set, panel.sign_count, panel.capacity * sizeof(uint32_t));
    const uint32_t *active_count = host_copy(set, panel.active_count, panel.capacity * sizeof(uint32_t));
    kvsim__panel cpu;
    ck_status(set->ctx, kvsim__panel_open(&set->pairing, (count + 7) / 8 * 8, &cpu), KVSIM_OK);
    kvsim__panel_fill(&set->pairing, &cpu, first, count);
    const kvsim__packed *packed = &cpu.kinds[KVSIM__KEY];
    for (uint32_t row = 0; row < panel.capacity; row++) {
        const bool there = row < count && set->pages[first + row] != KVSIM__NONE;
        uint32_t sign_bits = 0, active_bits = 0;
        for (size_t k = 0; k < panel.bit_bytes * 8; k++) {
            const bool sign = signs[row * panel.bit_bytes + k / 8] >> k % 8 & 1;
            const bool active = actives[row * panel.bit_bytes + k / 8] >> k % 8 & 1;
            const bool inside = there && k < set->n;
            sign_bits += sign;
            active_bits += active;
            require(sign == (inside && (packed->signs[row * packed->words + k / 64] >> k % 64 & 1) != 0), "row %u",
                    row);
            require(active == (inside && (packed->actives[row * packed->words + k / 64] >> k % 64 & 1) != 0), "row %u",
                    row);
        }
        for (size_t k = 0; k < panel.code_bytes; k++) {
            const int code = there && k < set->n ? packed->codes[row * packed->code_stride + k] : 0;
            require(codes[row * panel.code_bytes + k] == code, "row %u, code %zu", row, k);
        }
        ck_assert_uint_eq(sign_count[row], sign_bits);
        ck_assert_uint_eq(active_count[row], active_bits);
        ck_assert_uint_eq(facts[row].slot.class_id, there ? set->classes[first + row] : UINT32_MAX);
        const double share = there ? packed->norm[row] / set->largest_norm : 0.0;
        ck_assert_double_le(fabs((double)facts[row].norm - share), 1e-7 * share);
        ck_assert_double_le(fabs((double)(facts[row].inverse * facts[row].norm) - (share > 0.0 ? 1.0 : 0.0)), 1e-6);
        ck_assert((facts[row].unit > 0.0f) == (share > 0.0));
        require(facts[row].doubt >= 0.0f && (double)facts[row].doubt <= 1e-6, "row %u: doubt %g", row,
                (double)facts[row].doubt);
    }
    kvsim__panel_close(&set->pairing, &cpu);
    close_row(set);
}
END_TEST

START_TEST(bits_and_codes_of_all_pairs_are_counted) {
    device_set *set = open_row(_i);
    const uint32_t slots = set->recipe.slots, half = slots / 2;
    const kvsim__device_panel panels[2] = {pack_panel(set, 0, half), pack_panel(set, half, slots - half)};
    set->pairing.sink = (kvsim__error_sink){0};
    kvsim__device_bit_figures found[3];
    for (uint32_t what = 0; what < 3; what++) {
        kvsim__device_bit_figures *figures = device_room(set, sizeof *figures, 0);
        for (int pair = 0; pair < 3; pair++) {
            const kvsim__device_bit_compare job = {.rows = panels[pair > 0],
                                                   .columns = panels[pair > 1],
                                                   .what = what,
                                                   .elements = (uint32_t)set->n,
                                                   .filter = set->plan.different_sequences,
                                                   .figures = figures};
            ck_device(set, set->table->compare_bits(set->device, &job));
        }
        const kvsim__device_bit_figures *copy = host_copy(set, figures, sizeof *figures);
        found[what] = *copy;
    }
    /* The same from the panel that the library packs, pair by pair. */
    kvsim__panel cpu;
    ck_status(set->ctx, kvsim__panel_open(&set->pairing, (slots + 7) / 8 * 8, &cpu), KVSIM_OK);
    kvsim__panel_fill(&set->pairing, &cpu, 0, slots);
    const kvsim__packed *packed = &cpu.kinds[KVSIM__KEY];
    const kvsim__kernels *kernels = kvsim__kernel_table();
    uint64_t codes = 0, signs = 0, union_elements = 0, pairs = 0, counted[3] = {0};
    double jaccard = 0.0;
    for (size_t i = 0; i < slots; i++) {
        for (size_t j = 0; j < i; j++) {
            if (set->pages[i] == KVSIM__NONE || set->pages[j] == KVSIM__NONE) {
                continue;
            }
            pairs++;
            codes += kernels->codes_differ(packed->codes + i * packed->code_stride,
                                           packed->codes + j * packed->code_stride, set->n);
            signs += kernels->bits_differ(packed->signs + i * packed->words, packed->signs + j * packed->words,
                                          packed->words);
            const uint64_t common = kernels->bits_common(packed->actives + i * packed->words,
                                                         packed->actives + j * packed->words, packed->words);
            const uint64_t all = (uint64_t)packed->active_count[i] + packed->active_count[j] - common;
            union_elements += all;
            jaccard += all > 0 ? (double)common / (double)all : 1.0;
        }
    }
    for (int what = 0; what < 3; what++) {
        for (int bin = 0; bin < KVSIM_HISTOGRAM_BINS; bin++) {
            counted[what] += found[what].histogram[bin];
        }
        ck_assert_uint_eq(counted[what], pairs);
    }
    ck_assert_uint_eq(found[KVSIM__BITS_CODES].differ, codes);
    ck_assert_uint_eq(found[KVSIM__BITS_SIGN].differ, signs);
    ck_assert_uint_eq(found[KVSIM__BITS_ACTIVE].union_elements, union_elements);
    ck_assert_double_le(fabs((double)found[KVSIM__BITS_ACTIVE].jaccard_units / (double)KVSIM__JACCARD_UNITS - jaccard),
                        1e-6 * jaccard);
    kvsim__panel_close(&set->pairing, &cpu);
    close_row(set);
}
END_TEST

/* ---- devices and memory ---- */

START_TEST(memory_is_counted_and_bounded) {
    const kvsim__backend *table = kvsim_backend_query(KVSIM__BACKEND_VERSION);
    const kvsim__device_options options = {.memory_bytes = 10000};
    kvsim__device *device;
    char reason[128];
    void *a, *b;
    kvsim__device_facts facts;
    ck_assert_int_eq(table->open(&options, &device, reason, sizeof reason), KVSIM_OK);
    ck_assert_int_eq(table->allocate(device, 6000, &a), KVSIM_OK);
    ck_assert_int_eq(table->allocate(device, 4001, &b), KVSIM_E_NOMEM);
    ck_assert_ptr_null(b);
    ck_assert_ptr_nonnull(strstr(table->error(device), "memory"));
    ck_assert_int_eq(table->allocate(device, 4000, &b), KVSIM_OK);
    table->describe(device, &facts);
    ck_assert_uint_eq(facts.memory_used, 10000);
    ck_assert_uint_eq(facts.memory_bytes, 10000);
    ck_assert_int_eq(table->device_of(device, a), 0);
    ck_assert_int_eq(table->device_of(device, (char *)a + 5999), 0);
    ck_assert_int_eq(table->device_of(device, &facts), -1);
    table->release(device, a);
    table->release(device, NULL);
    ck_assert_uint_eq(kvsim_twin()->blocks, 1);
    table->close(device);
    ck_assert_uint_eq(kvsim_twin()->blocks, 0);
    ck_assert_uint_eq(kvsim_twin()->left_at_close, 1);
    ck_assert_uint_eq(kvsim_twin()->peak_bytes, 10000);
    ck_assert_uint_eq(kvsim_twin()->misuses, 0);
}
END_TEST

START_TEST(misuse_is_noticed) {
    const kvsim__backend *table = kvsim_backend_query(KVSIM__BACKEND_VERSION);
    const kvsim__device_options options = {0};
    kvsim__device *device;
    char reason[128], bytes[64] = "";
    void *memory;
    ck_assert_int_eq(table->open(&options, &device, reason, sizeof reason), KVSIM_OK);
    ck_assert_int_eq(table->allocate(device, sizeof bytes, &memory), KVSIM_OK);
    ck_assert_int_eq(table->upload(device, (char *)memory + 1, bytes, sizeof bytes), KVSIM_E_BACKEND);
    ck_assert_int_eq(table->upload(device, bytes, bytes, sizeof bytes), KVSIM_E_BACKEND);
    ck_assert_int_eq(table->download(device, memory, memory, sizeof bytes), KVSIM_E_BACKEND);
    ck_assert_int_eq(table->fill(device, (char *)memory + 60, 0, 5), KVSIM_E_BACKEND);
    ck_assert_uint_eq(kvsim_twin()->misuses, 4);
    ck_assert_str_eq(kvsim_twin()->misuse, "upload: past the end of a block");
    ck_assert_int_eq(table->upload(device, memory, bytes, sizeof bytes), KVSIM_OK);
    table->release(device, (char *)memory + 1);
    ck_assert_uint_eq(kvsim_twin()->misuses, 5);
    table->close(device);
}
END_TEST

START_TEST(calls_fail_as_told) {
    const kvsim__backend *table = kvsim_backend_query(KVSIM__BACKEND_VERSION);
    static const struct {
        int32_t status;
        uint32_t mode;
        bool waits;
        int32_t expected[4]; /* of the second to the fifth call; the third is told to fail */
    } rows[] = {
        {KVSIM_E_NOMEM, KVSIM__TWIN_ONCE, false, {0, KVSIM_E_NOMEM, 0, 0}},
        {KVSIM_E_NOMEM, KVSIM__TWIN_ALWAYS, false, {0, KVSIM_E_NOMEM, KVSIM_E_NOMEM, KVSIM_E_NOMEM}},
        {KVSIM_E_BACKEND, KVSIM__TWIN_LOST, false, {0, KVSIM_E_BACKEND, KVSIM_E_BACKEND, KVSIM_E_BACKEND}},
        {KVSIM_E_BACKEND, KVSIM__TWIN_LATE, true, {0, KVSIM_E_BACKEND, KVSIM_E_BACKEND, KVSIM_E_BACKEND}},
        {KVSIM_E_BACKEND, KVSIM__TWIN_LATE, false, {0, 0, KVSIM_E_BACKEND, KVSIM_E_BACKEND}},
    };
    const kvsim__device_options options = {0};
    kvsim__device *device;
    kvsim__device_facts facts;
    char reason[128];
    kvsim_twin()->fail_at = 3;
    kvsim_twin()->fail_status = rows[_i].status;
    kvsim_twin()->fail_mode = rows[_i].mode;
    ck_assert_int_eq(table->open(&options, &device, reason, sizeof reason), KVSIM_OK);
    for (int call = 0; call < 4; call++) {
        ck_assert_int_eq(rows[_i].waits ? table->wait(device) : table->wait_for(device, NULL), rows[_i].expected[call]);
    }
    table->describe(device, &facts);
    ck_assert_uint_eq(facts.lost, rows[_i].status == KVSIM_E_BACKEND);
    ck_assert_int_eq((int)strlen(table->error(device)) > 0, 1);
    table->close(device);
    ck_assert_uint_eq(kvsim_twin()->calls, 5);
    ck_assert_uint_eq(kvsim_twin()->opened, 0);
    /* Opening fails too. */
    kvsim_twin()->fail_at = 6;
    kvsim_twin()->fail_mode = KVSIM__TWIN_ONCE;
    ck_assert_int_eq(table->open(&options, &device, reason, sizeof reason), rows[_i].status);
    ck_assert_ptr_null(device);
    const kvsim__device_options other = {.ordinal = 1};
    ck_assert_int_eq(table->open(&other, &device, reason, sizeof reason), KVSIM_E_BACKEND);
    ck_assert_str_eq(reason, "the twin has no device 1, only 1");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backend");
    TCase *pages = kvsim_check_case(suite, "pages");
    tcase_add_loop_test(pages, pages_are_gathered_without_gaps, 0, RECIPES);
    tcase_add_loop_test(pages, pages_are_hashed_and_compared, 0, RECIPES);
    tcase_add_loop_test(pages, pages_are_measured, 0, RECIPES);
    tcase_add_loop_test(pages, infinities_in_valid_slots_are_found, 0, RECIPES);
    tcase_add_loop_test(pages, pairs_are_scored_in_double, 0, RECIPES);
    tcase_add_loop_test(pages, packed_pages_are_what_the_library_packs, 0, RECIPES);
    tcase_add_loop_test(pages, bits_and_codes_of_all_pairs_are_counted, 0, RECIPES);
    TCase *devices = kvsim_check_case(suite, "devices");
    tcase_add_test(devices, memory_is_counted_and_bounded);
    tcase_add_test(devices, misuse_is_noticed);
    tcase_add_loop_test(devices, calls_fail_as_told, 0, 5);
    return kvsim_check_main(suite, "test_backend", 7 * RECIPES + 7);
}
