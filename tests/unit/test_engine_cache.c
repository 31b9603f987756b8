/* The example engine's paged cache: sharing, copy-on-write, limits, and its pages for libkvsim. */
#include "engine_tools.h"

/* ---- Sharing ---- */

START_TEST(shared_prefixes_give_the_same_tokens_in_fewer_blocks) {
    engine_options options = options_for(SMALL);
    options.batch_tokens = _i ? 10 : 512;
    engine *sharing = run_prompts(&options, 40, NULL);
    options.share_prefixes = false;
    engine *apart = run_prompts(&options, 40, NULL);
    engine_stats with;
    engine_stats without;
    engine_get_stats(sharing, &with);
    engine_get_stats(apart, &without);
    for (int32_t p = 0; p < PROMPTS; p++) {
        expect_same_tokens(sharing, p, apart, p);
    }
    /* The prompt of 33 finds the block of the one of 16; those of 48 and 64 find both blocks of the common 40 tokens.
     */
    ck_assert_int_eq(with.prefix_tokens, 16 + 2 * 32);
    ck_assert_int_eq(with.prefill_tokens, without.prefill_tokens - with.prefix_tokens);
    ck_assert_int_eq(with.blocks_used, without.blocks_used - 5);
    ck_assert_int_eq(with.blocks_shared, 2);
    ck_assert_int_eq(with.references, without.references);
    ck_assert_int_eq(without.blocks_shared, 0);
    ck_assert_int_eq(without.prefix_tokens, 0);
    ck_assert_mem_eq(engine_block_table(sharing, 3, NULL), engine_block_table(sharing, 4, NULL), 2 * sizeof(int32_t));
    engine_destroy(apart);
    engine_destroy(sharing);
}
END_TEST

START_TEST(prefixes_computed_again_are_equal_to_the_bit) {
    static const int64_t lengths[] = {160, 163, 201, 190, 177};
    engine_options options = options_for(_i < 2 ? SMALL : KVSIM_TEST_SOURCE "/examples/models/tiny");
    options.share_prefixes = false;
    options.batch_tokens = _i % 2 ? 50 : 512;
    engine *e = start(&options);
    int32_t ids[201];
    for (int32_t p = 0; p < 5; p++) {
        add(e, ids, make_prompt(ids, lengths[p], 160, p), NULL, 5);
    }
    run(e);
    for (int64_t p = 1; p < 5; p++) {
        for (int64_t page = 0; page < 10; page++) {
            for (int32_t layer = 0; layer < engine_get_config(e)->layers; layer++) {
                int32_t block = engine_block_table(e, p, NULL)[page];
                ck_assert_mem_eq(pool_page(&e->pool, layer, block, 0), page_of(e, layer, 0, page),
                                 2 * e->pool.page_bytes);
            }
        }
    }
    engine_destroy(e);
}
END_TEST

START_TEST(generated_blocks_are_found_by_later_prompts) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t first = add(e, ids, make_prompt(ids, 10, 0, 1), &greedy, 60);
    run(e);
    int64_t second = add(e, engine_tokens(e, first, NULL), 40, &greedy, 30);
    run(e);
    expect_same_tokens(e, first, e, second);
    engine_stats stats;
    engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.prefix_tokens, 32);
    /* What the second generated again is the same as well: full blocks became one. */
    ck_assert_mem_eq(engine_block_table(e, first, NULL), engine_block_table(e, second, NULL), 4 * sizeof(int32_t));
    engine_destroy(e);
}
END_TEST

START_TEST(equal_tokens_after_another_prefix_are_not_shared) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[48];
    make_prompt(ids, 48, 48, 0);
    add(e, ids, 48, NULL, 0);
    ids[3] = ids[3] == 9 ? 10 : 9;
    add(e, ids, 48, NULL, 0);
    run(e);
    engine_stats stats;
    engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.blocks_shared, 0);
    ck_assert_int_eq(stats.blocks_used, 6);
    engine_destroy(e);
}
END_TEST

START_TEST(forks_copy_a_shared_block_when_they_write) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    const engine_sampling greedy = {.ignore_eos = true};
    const engine_sampling random = {.temperature = 2.0, .seed = 9, .ignore_eos = true};
    int64_t parent = add(e, ids, make_prompt(ids, 20, 0, 2), &greedy, 6);
    run(e); /* 25 tokens in the cache: one full block, one with 9 */
    int64_t same;
    int64_t other;
    ck_assert_int_eq(engine_fork(e, parent, &greedy, 20, &same), ENGINE_OK);
    ck_assert_int_eq(engine_fork(e, parent, &random, 20, &other), ENGINE_OK);
    engine_stats stats;
    engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.blocks_used, 2);
    ck_assert_int_eq(stats.blocks_shared, 2);
    ck_assert_int_eq(stats.blocks_partial, 1);
    ck_assert_int_eq(stats.references, 6);
    char before[4096];
    size_t bytes = e->pool.page_bytes * 9 / 16;
    ck_assert_uint_le(bytes, sizeof before);
    int32_t shared = engine_block_table(e, parent, NULL)[1];
    memcpy(before, pool_page(&e->pool, 1, shared, 1), bytes);
    run(e);
    ck_assert_mem_eq(before, pool_page(&e->pool, 1, engine_block_table(e, parent, NULL)[1], 1), bytes);
    ck_assert_int_eq(engine_block_table(e, parent, NULL)[1], shared);
    ck_assert_int_eq(e->pool.fill[shared], 9);
    ck_assert_int_ne(engine_block_table(e, same, NULL)[1], engine_block_table(e, other, NULL)[1]);
    ck_assert_int_eq(engine_block_table(e, same, NULL)[0], engine_block_table(e, other, NULL)[0]);
    engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.blocks_copied, 2);
    engine *straight = start(&options);
    int64_t whole = add(straight, ids, 20, &greedy, 26);
    run(straight);
    expect_same_tokens(e, same, straight, whole);
    engine_destroy(straight);
    engine_destroy(e);
}
END_TEST

START_TEST(a_fork_of_a_finished_prompt_computes_its_last_tokens_again) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t parent = add(e, ids, make_prompt(ids, 32 + _i, 0, 2), NULL, 0);
    run(e);
    int64_t child;
    int64_t copy;
    ck_assert_int_eq(engine_fork(e, parent, &greedy, 10, &child), ENGINE_OK);
    ck_assert_int_eq(engine_fork(e, parent, NULL, 0, &copy), ENGINE_OK);
    run(e);
    int64_t whole = add(e, ids, 32 + _i, &greedy, 10);
    run(e);
    expect_same_tokens(e, child, e, whole);
    ck_assert_int_eq(engine_cached_length(e, copy), 32 + _i);
    engine_destroy(e);
}
END_TEST

/* Every block is as often referred to as block tables name it, or free; what is free is free once. */
static void check_pool(const engine *e) {
    const block_pool *pool = &e->pool;
    int32_t *named = calloc((size_t)pool->blocks, sizeof *named);
    ck_assert_ptr_nonnull(named);
    for (int64_t i = 0; i < e->sequence_count; i++) {
        const sequence *s = e->sequences[i];
        for (int64_t k = 0; s && k < s->block_count; k++) {
            named[s->blocks[k]]++;
            if (k < s->cached / pool->page_tokens) {
                ck_assert_int_eq(pool->fill[s->blocks[k]], pool->page_tokens);
            }
        }
        if (s && s->cached % pool->page_tokens) {
            ck_assert_int_eq(pool->fill[s->blocks[s->cached / pool->page_tokens]], s->cached % pool->page_tokens);
        }
    }
    ck_assert_mem_eq(named, pool->references, (size_t)pool->blocks * sizeof *named);
    for (int64_t i = 0; i < pool->free_count; i++) {
        ck_assert_int_eq(named[pool->free_blocks[i]], 0);
        ck_assert(!pool->registered[pool->free_blocks[i]]);
        named[pool->free_blocks[i]] = -1;
    }
    int64_t used = 0;
    for (int64_t i = 0; i < pool->blocks; i++) {
        used += named[i] > 0;
    }
    ck_assert_int_eq(used, pool->blocks - pool->free_count);
    free(named);
}

static int stop_at(void *user, int64_t done, int64_t total) {
    int *left = user;
    ck_assert_int_le(done, total);
    return --*left < 0;
}

START_TEST(a_random_life_keeps_the_pool_consistent) {
    engine_options options = options_for(SMALL);
    options.page_tokens = 4;
    options.max_blocks = 60;
    options.batch_tokens = 24;
    engine *e = start(&options);
    uint32_t state = (uint32_t)_i + 1;
    int32_t ids[PROMPT_SIZE];
    int full = 0;
    for (int turn = 0; turn < 300; turn++) {
        state = state * 1664525u + 1013904223u;
        uint32_t dice = state >> 8;
        const engine_sampling sampling = {.temperature = 1.5, .seed = dice % 3};
        int64_t some = engine_sequence_count(e) ? (int64_t)(dice / 7 % (uint32_t)engine_sequence_count(e)) : 0;
        if (dice % 5 < 2) {
            int64_t count = 1 + (int64_t)(dice / 11 % 50);
            add(e, ids, make_prompt(ids, count, 25, (int32_t)(dice / 13 % 3)), &sampling, dice / 17 % 20);
        } else if (dice % 5 == 2) {
            int status = engine_fork(e, some, &sampling, dice / 17 % 20, NULL);
            ck_assert(status == ENGINE_OK || engine_tokens(e, some, NULL) == NULL);
        } else if (dice % 5 == 3) {
            engine_release(e, some);
        } else {
            int left = (int)(dice / 19 % 12);
            int status = engine_run(e, stop_at, &left);
            ck_assert(status == ENGINE_OK || status == ENGINE_E_CANCELLED || status == ENGINE_E_FULL);
            full += status == ENGINE_E_FULL;
            for (int64_t i = 0; status == ENGINE_E_FULL && i < engine_sequence_count(e); i += 2) {
                engine_release(e, i);
            }
        }
        check_pool(e);
    }
    ck_assert_int_gt(full, 0);
    for (int64_t i = 0; i < engine_sequence_count(e); i++) {
        engine_release(e, i);
    }
    check_pool(e);
    ck_assert_int_eq(e->pool.free_count, e->pool.blocks);
    engine_destroy(e);
}
END_TEST

/* ---- Limits ---- */

START_TEST(a_full_pool_is_an_error_that_can_be_mended) {
    engine_options options = options_for(SMALL);
    options.max_blocks = 8;
    options.share_prefixes = false;
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t kept = add(e, ids, make_prompt(ids, 40, 0, 1), &greedy, 60);
    int64_t released = add(e, ids, make_prompt(ids, 40, 0, 2), &greedy, 60);
    ck_assert_int_eq(engine_run(e, NULL, NULL), ENGINE_E_FULL);
    ck_assert_ptr_nonnull(strstr(engine_error(e), "pool of 8 blocks of 16 tokens is full"));
    check_pool(e);
    ck_assert_int_eq(engine_release(e, released), ENGINE_OK);
    run(e);
    options.max_blocks = 100;
    engine *roomy = start(&options);
    int64_t whole = add(roomy, ids, make_prompt(ids, 40, 0, 1), &greedy, 60);
    run(roomy);
    expect_same_tokens(e, kept, roomy, whole);
    engine_destroy(roomy);
    engine_destroy(e);
}
END_TEST

START_TEST(cancelling_keeps_what_was_done) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[PROMPT_SIZE];
    int64_t count = make_prompt(ids, 30, 0, 1);
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t number = add(e, ids, count, &greedy, 30);
    int left = 10;
    ck_assert_int_eq(engine_run(e, stop_at, &left), ENGINE_E_CANCELLED);
    ck_assert_int_eq(engine_cached_length(e, number), count + 9);
    run(e);
    int64_t again = add(e, ids, count, &greedy, 30);
    run(e);
    expect_same_tokens(e, number, e, again);
    engine_destroy(e);
}
END_TEST

static int sleep_before_the_third_step(void *user, int64_t done, int64_t total) {
    int *calls = user;
    (void)done;
    (void)total;
    if (++*calls == 3) {
        usleep(30000);
    }
    return 0;
}

START_TEST(token_times_rise_and_hold_what_the_engine_waited) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[20];
    const engine_sampling greedy = {.ignore_eos = true};
    add(e, ids, make_prompt(ids, 20, 0, 1), &greedy, 5);
    add(e, ids, make_prompt(ids, 12, 0, 2), &greedy, 0);
    int calls = 0;
    ck_assert_int_eq(engine_run(e, sleep_before_the_third_step, &calls), ENGINE_OK);
    int64_t count;
    const double *seconds = engine_token_seconds(e, 0, &count);
    ck_assert_int_eq(count, 5);
    ck_assert(seconds[0] > 0.0);
    for (int64_t i = 1; i < count; i++) {
        ck_assert(seconds[i] > seconds[i - 1]);
    }
    /* The first step is the prefill; the third one chooses the third token. */
    ck_assert(seconds[2] - seconds[1] >= 0.03);
    ck_assert_ptr_nonnull(engine_token_seconds(e, 1, &count));
    ck_assert_int_eq(count, 0);
    int64_t child;
    ck_assert_int_eq(engine_fork(e, 0, &greedy, 2, &child), ENGINE_OK);
    run(e);
    seconds = engine_token_seconds(e, child, &count);
    ck_assert_int_eq(count, 2);
    ck_assert(seconds[0] > 0.0 && seconds[1] > seconds[0]);
    ck_assert_ptr_null(engine_token_seconds(e, 7, &count));
    ck_assert_int_eq(count, 0);
    engine_destroy(e);
}
END_TEST

START_TEST(sequences_end_at_the_models_longest) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[600];
    const engine_sampling greedy = {.ignore_eos = true};
    int64_t most = engine_get_config(e)->max_position;
    ck_assert_int_eq(most, 512);
    int64_t number = add(e, ids, make_prompt(ids, 500, 0, 1), &greedy, INT64_MAX / 2);
    int64_t full = add(e, ids, make_prompt(ids, 512, 0, 2), &greedy, 5);
    ck_assert_int_eq(engine_add_sequence(e, ids, 513, NULL, 0, NULL), ENGINE_E_INVALID);
    run(e);
    int64_t count;
    engine_tokens(e, number, &count);
    ck_assert_int_eq(count, most);
    engine_tokens(e, full, &count);
    ck_assert_int_eq(count, most);
    ck_assert_int_eq(engine_cached_length(e, full), most);
    engine_destroy(e);
}
END_TEST

/* ---- Pages for libkvsim ---- */

static kvsim_result *compute(kvsim_ctx *ctx) {
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = KVSIM_VIEW_CENTERED | KVSIM_VIEW_DEROTATED | KVSIM_VIEW_DEROTATED_CENTERED;
    kvsim_result *result;
    kvsim_status status = kvsim_compute(ctx, &options, &result);
    ck_assert_msg(status == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    return result;
}

START_TEST(live_pages_and_a_dump_give_the_same_groups) {
    engine_options options = options_for(SMALL);
    options.share_prefixes = false;
    options.kv_dtype = _i;
    engine *e = run_prompts(&options, 40, NULL);
    kvsim_ctx *live;
    kvsim_ctx *dumped;
    ck_assert_int_eq(kvsim_ctx_create(NULL, &live), KVSIM_OK);
    ck_assert_int_eq(kvsim_ctx_create(NULL, &dumped), KVSIM_OK);
    ck_assert_int_eq(engine_add_pages(e, live), ENGINE_OK);
    char folder[PATH_SIZE];
    char path[PATH_SIZE + 32];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    ck_assert_msg(engine_dump(e, dumped, path, NULL) == ENGINE_OK, "%s", engine_error(e));
    kvsim_snapshot *snapshot;
    ck_assert_int_eq(kvsim_snapshot_open(dumped, path, &snapshot), KVSIM_OK);
    kvsim_status added = kvsim_snapshot_add_pages(dumped, snapshot, NULL);
    ck_assert_msg(added == KVSIM_OK, "%s", kvsim_ctx_error(dumped));
    ck_assert_uint_eq(kvsim_page_count(live), kvsim_page_count(dumped));
    kvsim_result *ours = compute(live);
    kvsim_result *theirs = compute(dumped);
    uint32_t compared = 0;
    for (uint32_t i = 0; i < kvsim_result_column_count(ours); i++) {
        kvsim_column a = KVSIM_COLUMN_INIT;
        kvsim_column b = KVSIM_COLUMN_INIT;
        ck_assert_int_eq(kvsim_result_column_at(ours, i, &a), KVSIM_OK);
        if (strcmp(a.table, "groups") != 0) {
            continue;
        }
        ck_assert_int_eq(kvsim_result_column(theirs, a.table, a.name, &b), KVSIM_OK);
        ck_assert_int_eq(a.rows, b.rows);
        ck_assert_int_gt(a.rows, 0);
        ck_assert_msg(memcmp(a.data, b.data, (size_t)(a.rows * a.width) * a.dtype_bits / 8) == 0, "groups.%s differs",
                      a.name);
        compared++;
    }
    ck_assert_uint_gt(compared, 5);
    kvsim_result_destroy(theirs);
    kvsim_result_destroy(ours);
    kvsim_ctx_destroy(live);
    kvsim_ctx_clear(dumped);
    kvsim_snapshot_close(snapshot);
    kvsim_ctx_destroy(dumped);
    remove_folder(folder);
    engine_destroy(e);
}
END_TEST

START_TEST(a_shared_block_is_one_page_with_its_references) {
    engine_options options = options_for(SMALL);
    engine *e = run_prompts(&options, 40, NULL);
    kvsim_ctx *ctx;
    engine_stats stats;
    engine_get_stats(e, &stats);
    ck_assert_int_eq(kvsim_ctx_create(NULL, &ctx), KVSIM_OK);
    ck_assert_int_eq(engine_add_pages(e, ctx), ENGINE_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), (uint64_t)(2 * engine_get_config(e)->layers * stats.blocks_used));
    kvsim_ctx_destroy(ctx);
    engine_destroy(e);
}
END_TEST

START_TEST(a_dump_holds_what_is_in_the_cache) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    kvsim_ctx *ctx;
    ck_assert_int_eq(kvsim_ctx_create(NULL, &ctx), KVSIM_OK);
    char folder[PATH_SIZE];
    char path[PATH_SIZE + 32];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    ck_assert_int_eq(engine_dump(e, ctx, path, NULL), ENGINE_E_INVALID);
    int32_t ids[PROMPT_SIZE];
    add(e, ids, make_prompt(ids, 20, 0, 1), NULL, 10);
    run(e);
    const char *const prompts[] = {"\xc3\xa4 \"prompt\""};
    ck_assert_msg(engine_dump(e, ctx, path, prompts) == ENGINE_OK, "%s", engine_error(e));
    kvsim_snapshot *snapshot;
    ck_assert_int_eq(kvsim_snapshot_open(ctx, path, &snapshot), KVSIM_OK);
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "seq.0.tokens", &tensor), KVSIM_OK);
    int64_t cached = engine_cached_length(e, 0);
    ck_assert_int_eq(tensor.shape[0], cached);
    ck_assert_mem_eq((const char *)tensor.data + tensor.byte_offset, engine_tokens(e, 0, NULL), (size_t)cached * 4);
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "seq.0.layer.1.value", &tensor), KVSIM_OK);
    const char *rows = (const char *)tensor.data + tensor.byte_offset;
    ck_assert_mem_eq(rows, page_of(e, 1, 1, 0), e->pool.page_bytes);
    ck_assert_mem_eq(rows + e->pool.page_bytes, page_of(e, 1, 1, 1),
                     (size_t)(cached - 16) * e->pool.row_elements * sizeof(float));
    ck_assert_str_eq(kvsim_snapshot_metadata(snapshot, "prompts"), "[\"\xc3\xa4 \\\"prompt\\\"\"]");
    kvsim_snapshot_close(snapshot);
    kvsim_ctx_destroy(ctx);
    remove_folder(folder);
    engine_destroy(e);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("engine_cache");
    TCase *sharing = kvsim_check_case(suite, "sharing");
    tcase_add_loop_test(sharing, shared_prefixes_give_the_same_tokens_in_fewer_blocks, 0, 2);
    tcase_add_loop_test(sharing, prefixes_computed_again_are_equal_to_the_bit, 0, 4);
    tcase_add_test(sharing, generated_blocks_are_found_by_later_prompts);
    tcase_add_test(sharing, equal_tokens_after_another_prefix_are_not_shared);
    tcase_add_test(sharing, forks_copy_a_shared_block_when_they_write);
    tcase_add_loop_test(sharing, a_fork_of_a_finished_prompt_computes_its_last_tokens_again, 0, 2);
    tcase_add_loop_test(sharing, a_random_life_keeps_the_pool_consistent, 0, 8);
    TCase *limits = kvsim_check_case(suite, "limits");
    tcase_add_test(limits, a_full_pool_is_an_error_that_can_be_mended);
    tcase_add_test(limits, cancelling_keeps_what_was_done);
    tcase_add_test(limits, token_times_rise_and_hold_what_the_engine_waited);
    tcase_add_test(limits, sequences_end_at_the_models_longest);
    TCase *pages = kvsim_check_case(suite, "pages");
    tcase_add_loop_test(pages, live_pages_and_a_dump_give_the_same_groups, ENGINE_KV_F32, ENGINE_KV_F16 + 1);
    tcase_add_test(pages, a_shared_block_is_one_page_with_its_references);
    tcase_add_test(pages, a_dump_holds_what_is_in_the_cache);
    return kvsim_check_main(suite, "engine_cache", 28);
}
