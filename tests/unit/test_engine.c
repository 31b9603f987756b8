/*
 * The example engine's tokens. Truth is what Hugging Face transformers computes (tests/golden/make_golden.py); what
 * batching and paging must not change is compared with a run that does without.
 */
#include "engine_tools.h"

#define GOLDEN KVSIM_TEST_SOURCE "/tests/golden"
#define NEW    200 /* tokens that the golden files go on for */

/* What the truth asks for. */
#define LOGIT_TOLERANCE 1e-3
#define PAGE_TOLERANCE  1e-4

/* Sums over a page of up to 2,048 elements, whose errors are far below PAGE_TOLERANCE and partly cancel. */
#define SUM_TOLERANCE 2e-3

typedef struct truth {
    const char *name;
    const char *model; /* below the source tree, or below the test data */
    bool data;
} truth;

static const truth truths[] = {
    {"llama", "tests/golden/models/llama", false}, {"mistral", "tests/golden/models/mistral", false},
    {"qwen2", "tests/golden/models/qwen2", false}, {"tiny", "examples/models/tiny", false},
    {"stories260k", "stories260k/hf", true},       {"llama30m", "llama30m", true},
};
enum { TRUTHS = sizeof truths / sizeof *truths };

static bool find_model(const truth *t, char path[PATH_SIZE]) {
    if (t->data) {
        return kvsim_check_data(path, PATH_SIZE, t->model);
    }
    snprintf(path, PATH_SIZE, "%s/%s", KVSIM_TEST_SOURCE, t->model);
    return access(path, R_OK) == 0;
}

/* ---- Truth ---- */

typedef struct golden {
    kvsim_ctx *ctx;
    kvsim_snapshot *file;
} golden;

static golden open_golden(const char *name) {
    golden g;
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s.safetensors", GOLDEN, name);
    ck_assert_int_eq(kvsim_ctx_create(NULL, &g.ctx), KVSIM_OK);
    kvsim_status status = kvsim_snapshot_open(g.ctx, path, &g.file);
    ck_assert_msg(status == KVSIM_OK, "%s", kvsim_ctx_error(g.ctx));
    return g;
}

static void close_golden(golden *g) {
    kvsim_snapshot_close(g->file);
    kvsim_ctx_destroy(g->ctx);
}

/* A tensor of 32-bit elements, copied so that it is aligned. [owned] */
static void *read_golden(const golden *g, const char *name, int64_t shape[4]) {
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_msg(kvsim_snapshot_find(g->file, name, &tensor) == KVSIM_OK, "no %s", name);
    ck_assert_uint_eq(tensor.dtype_bits, 32);
    size_t count = 1;
    for (int32_t axis = 0; axis < tensor.ndim; axis++) {
        shape[axis] = tensor.shape[axis];
        count *= (size_t)tensor.shape[axis];
    }
    void *copy = malloc(count * 4);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, (const char *)tensor.data + tensor.byte_offset, count * 4);
    return copy;
}

START_TEST(logits_are_those_of_transformers) {
    const truth *t = &truths[_i];
    char model[PATH_SIZE];
    if (!find_model(t, model)) {
        kvsim_check_skip("no model %s", t->name);
    }
    golden g = open_golden(t->name);
    int64_t shape[4];
    int32_t *prompt = read_golden(&g, "prompt", shape);
    int64_t count = shape[0];
    float *expected = read_golden(&g, "logits", shape);
    engine_options options = options_for(model);
    engine *e = start(&options);
    ck_assert_int_eq(shape[1], engine_get_config(e)->vocabulary);
    size_t values = (size_t)(shape[0] * shape[1]);
    float *logits = malloc(values * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    ck_assert_int_eq(engine_logits(e, prompt, count, count - shape[0], logits), ENGINE_OK);
    double worst = 0.0;
    for (size_t i = 0; i < values; i++) {
        worst = fmax(worst, fabs((double)logits[i] - (double)expected[i]));
    }
    printf("%s: largest difference of a logit %.2g\n", t->name, worst);
    ck_assert_double_le(worst, LOGIT_TOLERANCE);
    ck_assert_int_eq(engine_sequence_count(e), 0);
    free(logits);
    free(expected);
    free(prompt);
    engine_destroy(e);
    close_golden(&g);
}
END_TEST

START_TEST(greedy_tokens_are_those_of_transformers) {
    const truth *t = &truths[_i];
    char model[PATH_SIZE];
    if (!find_model(t, model)) {
        kvsim_check_skip("no model %s", t->name);
    }
    golden g = open_golden(t->name);
    int64_t shape[4];
    int32_t *prompt = read_golden(&g, "prompt", shape);
    int64_t count = shape[0];
    int32_t *tokens = read_golden(&g, "tokens", shape);
    ck_assert_int_eq(shape[0], count + NEW);
    engine_options options = options_for(model);
    engine *e = start(&options);
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t number = add(e, prompt, count, &greedy, NEW);
    run(e);
    expect_tokens(e, number, tokens, count + NEW);
    ck_assert_int_eq(engine_cached_length(e, number), count + NEW - 1);
    ck_assert_int_eq(engine_prompt_length(e, number), count);
    free(tokens);
    free(prompt);
    engine_destroy(e);
    close_golden(&g);
}
END_TEST

static double compare_sums(const engine *e, const golden *g, int kind, int64_t cached) {
    int64_t shape[4];
    float *sums = read_golden(g, kind ? "sums.value" : "sums.key", shape);
    int64_t page_tokens = e->pool.page_tokens;
    double worst = 0.0;
    ck_assert_int_eq(shape[0], engine_get_config(e)->layers);
    ck_assert_int_eq(shape[1], (cached + page_tokens - 1) / page_tokens);
    for (int64_t layer = 0; layer < shape[0]; layer++) {
        for (int64_t page = 0; page < shape[1]; page++) {
            const float *content = page_of(e, (int32_t)layer, kind, page);
            int64_t tokens = cached - page * page_tokens < page_tokens ? cached - page * page_tokens : page_tokens;
            double sum = 0.0;
            double alternating = 0.0;
            for (size_t i = 0; i < (size_t)tokens * e->pool.row_elements; i++) {
                sum += (double)content[i];
                alternating += i % 2 ? -(double)content[i] : (double)content[i];
            }
            const float *expected = sums + (layer * shape[1] + page) * 2;
            worst = fmax(worst, fmax(fabs(sum - (double)expected[0]), fabs(alternating - (double)expected[1])));
        }
    }
    free(sums);
    return worst;
}

/* Whole pages of the golden file, found by their names. */
static double compare_pages(const engine *e, const golden *g, int *compared) {
    double worst = 0.0;
    for (uint64_t i = 0; i < kvsim_snapshot_tensor_count(g->file); i++) {
        const char *name;
        kvsim_tensor tensor = KVSIM_TENSOR_INIT;
        int layer;
        int page;
        char kind[8];
        ck_assert_int_eq(kvsim_snapshot_tensor_at(g->file, i, &name, &tensor), KVSIM_OK);
        if (sscanf(name, "page.%d.%5[a-z].%d", &layer, kind, &page) != 3) {
            continue;
        }
        int64_t shape[4];
        float *expected = read_golden(g, name, shape);
        const float *content = page_of(e, layer, strcmp(kind, "value") == 0, page);
        ck_assert_int_eq(shape[0], e->pool.page_tokens);
        for (size_t k = 0; k < (size_t)shape[0] * e->pool.row_elements; k++) {
            worst = fmax(worst, fabs((double)content[k] - (double)expected[k]));
        }
        free(expected);
        (*compared)++;
    }
    return worst;
}

START_TEST(pages_are_those_of_transformers) {
    const truth *t = &truths[_i];
    char model[PATH_SIZE];
    if (!find_model(t, model)) {
        kvsim_check_skip("no model %s", t->name);
    }
    golden g = open_golden(t->name);
    int64_t shape[4];
    int32_t *tokens = read_golden(&g, "tokens", shape);
    engine_options options = options_for(model);
    engine *e = start(&options);
    int64_t cached = shape[0] - 1;
    add(e, tokens, cached, NULL, 0);
    run(e);
    ck_assert_int_eq(engine_cached_length(e, 0), cached);
    int compared = 0;
    double sums = fmax(compare_sums(e, &g, 0, cached), compare_sums(e, &g, 1, cached));
    double pages = compare_pages(e, &g, &compared);
    printf("%s: largest difference of a page's element %.2g (%d pages), of a page's sum %.2g\n", t->name, pages,
           compared, sums);
    ck_assert_int_eq(compared, 6);
    ck_assert_double_le(pages, PAGE_TOLERANCE);
    ck_assert_double_le(sums, SUM_TOLERANCE);
    free(tokens);
    engine_destroy(e);
    close_golden(&g);
}
END_TEST

/* ---- What must not change the tokens ---- */

START_TEST(a_batch_gives_the_tokens_of_single_runs) {
    engine_options options = options_for(SMALL);
    engine *together = run_prompts(&options, 0, NULL);
    for (int32_t p = 0; p < PROMPTS; p++) {
        engine *alone = start(&options);
        int32_t ids[PROMPT_SIZE];
        add(alone, ids, make_prompt(ids, prompt_length(p), 0, p), NULL, 60);
        run(alone);
        expect_same_tokens(together, p, alone, 0);
        engine_destroy(alone);
    }
    engine_destroy(together);
}
END_TEST

START_TEST(page_and_batch_sizes_do_not_change_the_tokens) {
    static const int32_t page_sizes[] = {7, 1, 16, 64, 16};
    static const int32_t batch_sizes[] = {512, 512, 5, 64, 1};
    const engine_sampling sampling = {.temperature = 0.8, .seed = 5, .ignore_eos = true};
    engine_options options = options_for(SMALL);
    engine *usual = run_prompts(&options, 20, &sampling);
    options.page_tokens = page_sizes[_i];
    options.batch_tokens = batch_sizes[_i];
    engine *other = run_prompts(&options, 20, &sampling);
    for (int32_t p = 0; p < PROMPTS; p++) {
        expect_same_tokens(usual, p, other, p);
    }
    engine_destroy(other);
    engine_destroy(usual);
}
END_TEST

START_TEST(threads_do_not_change_the_tokens) {
    engine_options options = options_for(SMALL);
    engine *one = run_prompts(&options, 0, NULL);
    options.threads = 2;
    engine *two = run_prompts(&options, 0, NULL);
    for (int32_t p = 0; p < PROMPTS; p++) {
        expect_same_tokens(one, p, two, p);
    }
    engine_destroy(two);
    engine_destroy(one);
}
END_TEST

START_TEST(seeds_give_the_same_tokens_again) {
    const engine_sampling sampling = {.temperature = 1.0, .top_k = 40, .top_p = 0.95, .seed = 1, .ignore_eos = true};
    engine_sampling other = sampling;
    other.seed = 2;
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    int64_t count = make_prompt(ids, 10, 0, 1);
    int64_t first = add(e, ids, count, &sampling, 50);
    int64_t second = add(e, ids, count, &sampling, 50);
    int64_t third = add(e, ids, count, &other, 50);
    run(e);
    expect_same_tokens(e, first, e, second);
    ck_assert_mem_ne(engine_tokens(e, first, NULL), engine_tokens(e, third, NULL), 60 * sizeof(int32_t));
    engine_destroy(e);
}
END_TEST

/* ---- Sampling ---- */

static const float four_logits[] = {1.0f, 3.0f, 2.0f, 0.0f};

START_TEST(frequencies_are_the_softmax) {
    const engine_sampling options = {.temperature = 2.0, .seed = 3};
    enum { DRAWS = 100000 };
    sampler s;
    candidate candidates[4];
    int counts[4] = {0};
    double total = 0.0;
    sampler_init(&s, &options);
    for (int i = 0; i < DRAWS; i++) {
        counts[sampler_next(&s, four_logits, 4, candidates)]++;
    }
    for (int i = 0; i < 4; i++) {
        total += exp((double)four_logits[i] / 2.0);
    }
    for (int i = 0; i < 4; i++) {
        /* Five standard deviations of a share are below 0.8 percent. */
        ck_assert_double_eq_tol((double)counts[i] / DRAWS, exp((double)four_logits[i] / 2.0) / total, 0.008);
    }
}
END_TEST

/* Bits of the ids that come up in many draws. */
static unsigned drawn(const engine_sampling *options) {
    sampler s;
    candidate candidates[4];
    unsigned seen = 0;
    sampler_init(&s, options);
    for (int i = 0; i < 2000; i++) {
        seen |= 1u << sampler_next(&s, four_logits, 4, candidates);
    }
    return seen;
}

START_TEST(top_k_and_top_p_cut_the_tail) {
    engine_sampling options = {.temperature = 1.0, .top_k = 2};
    ck_assert_uint_eq(drawn(&options), 1u << 1 | 1u << 2);
    options.top_k = 1;
    ck_assert_uint_eq(drawn(&options), 1u << 1);
    options.top_k = 0; /* shares are 0.087, 0.644, 0.237, 0.032 */
    options.top_p = 0.6;
    ck_assert_uint_eq(drawn(&options), 1u << 1);
    options.top_p = 0.7;
    ck_assert_uint_eq(drawn(&options), 1u << 1 | 1u << 2);
    options.top_p = 0.95;
    ck_assert_uint_eq(drawn(&options), 1u << 0 | 1u << 1 | 1u << 2);
    options.top_p = 1.0;
    ck_assert_uint_eq(drawn(&options), 15u);
    options.top_k = 2; /* of the two that are left, the first has 0.731 */
    options.top_p = 0.7;
    ck_assert_uint_eq(drawn(&options), 1u << 1);
    options.temperature = 0.0;
    options.top_p = 1.0;
    ck_assert_uint_eq(drawn(&options), 1u << 1);
}
END_TEST

START_TEST(logits_that_are_no_numbers_are_never_chosen) {
    const float logits[] = {NAN, 1.0f, NAN, 1.5f};
    const engine_sampling options = {.temperature = 1.0, .top_k = 3};
    sampler s;
    candidate candidates[4];
    sampler_init(&s, &options);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(sampler_next(&s, logits, 4, candidates) % 2, 1);
    }
}
END_TEST

START_TEST(eos_ends_a_sequence) {
    engine_sampling sampling = {.temperature = 3.0, .seed = 4};
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    int64_t count = make_prompt(ids, 3, 0, 1);
    int64_t ends = add(e, ids, count, &sampling, 450);
    sampling.ignore_eos = true;
    int64_t goes_on = add(e, ids, count, &sampling, 450);
    run(e);
    int64_t length;
    const int32_t *tokens = engine_tokens(e, ends, &length);
    ck_assert_int_lt(length, count + 450);
    ck_assert_int_eq(tokens[length - 1], engine_get_config(e)->eos);
    ck_assert_int_eq(engine_cached_length(e, ends), length - 1);
    ck_assert_mem_eq(engine_tokens(e, goes_on, NULL), tokens, (size_t)length * sizeof *tokens);
    engine_tokens(e, goes_on, &length);
    ck_assert_int_eq(length, count + 450);
    engine_destroy(e);
}
END_TEST

/* ---- Element types ---- */

START_TEST(stored_types_read_back_as_they_were) {
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t stored = (uint16_t)i;
        uint16_t back;
        float value;
        kv_widen(_i, &stored, &value, 1);
        kv_narrow(_i, &value, &back, 1);
        ck_assert_msg(back == stored || isnan(value), "%04x became %04x", stored, back);
        if (isnan(value)) {
            kv_widen(_i, &back, &value, 1);
            ck_assert(isnan(value));
        }
    }
}
END_TEST

START_TEST(rounding_is_to_nearest_even) {
    for (uint32_t i = 0; i < 0x7bff; i++) {
        /* Neighbours, their middle, and a little to both sides of it. */
        uint16_t pair[2] = {(uint16_t)i, (uint16_t)(i + 1)};
        float values[2];
        kv_widen(_i, pair, values, 2);
        if (_i == ENGINE_KV_BF16 && values[0] < 0x1p-126f) {
            continue;
        }
        float middle = values[0] + (values[1] - values[0]) / 2;
        float tests[3] = {nextafterf(middle, 0.0f), middle, nextafterf(middle, INFINITY)};
        uint16_t out[3];
        kv_narrow(_i, tests, out, 3);
        ck_assert_uint_eq(out[0], pair[0]);
        ck_assert_uint_eq(out[1], i % 2 ? pair[1] : pair[0]);
        ck_assert_uint_eq(out[2], pair[1]);
    }
}
END_TEST

START_TEST(smaller_caches_round_what_the_larger_one_holds) {
    engine_options options = options_for(SMALL);
    engine *exact = start(&options);
    options.kv_dtype = _i;
    engine *rounded = start(&options);
    int32_t ids[PROMPT_SIZE];
    int64_t count = make_prompt(ids, 16, 0, 3);
    add(exact, ids, count, NULL, 0);
    add(rounded, ids, count, NULL, 0);
    run(exact);
    run(rounded);
    ck_assert_uint_eq(rounded->pool.page_bytes, exact->pool.page_bytes / 2);
    /* Layer 0 does not depend on what the cache holds. */
    size_t elements = 16 * exact->pool.row_elements;
    for (int kind = 0; kind < 2; kind++) {
        uint16_t expected[16 * 64];
        ck_assert_uint_le(elements, sizeof expected / sizeof *expected);
        kv_narrow(_i, page_of(exact, 0, kind, 0), expected, elements);
        ck_assert_mem_eq(pool_page(&rounded->pool, 0, rounded->sequences[0]->blocks[0], kind), expected,
                         elements * sizeof *expected);
    }
    engine_destroy(rounded);
    engine_destroy(exact);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("engine");
    TCase *against = kvsim_check_case(suite, "transformers");
    tcase_add_loop_test(against, logits_are_those_of_transformers, 0, TRUTHS);
    tcase_add_loop_test(against, greedy_tokens_are_those_of_transformers, 0, TRUTHS);
    tcase_add_loop_test(against, pages_are_those_of_transformers, 0, TRUTHS);
    TCase *invariance = kvsim_check_case(suite, "invariance");
    tcase_add_test(invariance, a_batch_gives_the_tokens_of_single_runs);
    tcase_add_loop_test(invariance, page_and_batch_sizes_do_not_change_the_tokens, 0, 5);
    tcase_add_test(invariance, threads_do_not_change_the_tokens);
    tcase_add_test(invariance, seeds_give_the_same_tokens_again);
    TCase *sampling = kvsim_check_case(suite, "sampling");
    tcase_add_test(sampling, frequencies_are_the_softmax);
    tcase_add_test(sampling, top_k_and_top_p_cut_the_tail);
    tcase_add_test(sampling, logits_that_are_no_numbers_are_never_chosen);
    tcase_add_test(sampling, eos_ends_a_sequence);
    TCase *types = kvsim_check_case(suite, "element types");
    tcase_add_loop_test(types, stored_types_read_back_as_they_were, ENGINE_KV_BF16, ENGINE_KV_F16 + 1);
    tcase_add_loop_test(types, rounding_is_to_nearest_even, ENGINE_KV_BF16, ENGINE_KV_F16 + 1);
    tcase_add_loop_test(types, smaller_caches_round_what_the_larger_one_holds, ENGINE_KV_BF16, ENGINE_KV_F16 + 1);
    return kvsim_check_main(suite, "engine", 36);
}
