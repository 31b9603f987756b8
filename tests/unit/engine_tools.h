/**
 * What the test programs of the example engine share.
 */
#ifndef KVSIM_TESTS_ENGINE_TOOLS_H
#define KVSIM_TESTS_ENGINE_TOOLS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <kvsim/snapshot.h>

#include "engine/engine.h"
#include "engine/internal.h"
#include "kvsim_check.h"

#define PATH_SIZE 1024

/* A model that is always there. */
#define SMALL KVSIM_TEST_SOURCE "/tests/golden/models/mistral"

static inline engine_options options_for(const char *model) {
    engine_options options;
    engine_options_init(&options);
    options.model = model;
    options.threads = 1;
    options.max_bytes = 64 << 20;
    return options;
}

static inline engine *start(const engine_options *options) {
    engine *e;
    int status = engine_create(options, &e);
    ck_assert_msg(status == ENGINE_OK, "%s", engine_error(e));
    return e;
}

static inline void run(engine *e) {
    int status = engine_run(e, NULL, NULL);
    ck_assert_msg(status == ENGINE_OK, "%s", engine_error(e));
}

static inline int64_t add(engine *e, const int32_t *ids, int64_t count, const engine_sampling *sampling,
                          int64_t max_new) {
    int64_t number = -1;
    int status = engine_add_sequence(e, ids, count, sampling, max_new, &number);
    ck_assert_msg(status == ENGINE_OK, "%s", engine_error(e));
    return number;
}

/* Prompt number `which` for the small model: the first `shared` tokens are those of every prompt. */
static inline int64_t make_prompt(int32_t *ids, int64_t count, int64_t shared, int32_t which) {
    for (int64_t i = 0; i < count; i++) {
        int64_t x = i < shared ? 7 * i * i + 3 : 11 * i * i + 5 * i * which + 13 * which;
        ids[i] = (int32_t)(3 + x % 58);
    }
    ids[0] = 1;
    return count;
}

static inline void expect_tokens(const engine *e, int64_t number, const int32_t *tokens, int64_t count) {
    int64_t made;
    const int32_t *ours = engine_tokens(e, number, &made);
    ck_assert_ptr_nonnull(ours);
    ck_assert_int_eq(made, count);
    for (int64_t i = 0; i < count; i++) {
        ck_assert_msg(ours[i] == tokens[i], "token %lld is %d, not %d", (long long)i, ours[i], tokens[i]);
    }
}

static inline void expect_same_tokens(const engine *a, int64_t first, const engine *b, int64_t second) {
    int64_t count;
    const int32_t *tokens = engine_tokens(b, second, &count);
    ck_assert_ptr_nonnull(tokens);
    expect_tokens(a, first, tokens, count);
}

/* Keys (kind 0) or values (kind 1) of a page of sequence 0 of an F32 pool. */
static inline const float *page_of(const engine *e, int32_t layer, int kind, int64_t page) {
    return pool_page(&e->pool, layer, e->sequences[0]->blocks[page], kind);
}

#define PROMPTS     6
#define PROMPT_SIZE 64

static inline int64_t prompt_length(int32_t which) {
    static const int64_t lengths[PROMPTS] = {1, 5, 16, 33, 48, 64};
    return lengths[which];
}

/* Six prompts of 1 to 64 tokens that have the first `shared` in common, and 60 tokens after each. */
static inline engine *run_prompts(const engine_options *options, int64_t shared, const engine_sampling *sampling) {
    engine *e = start(options);
    int32_t ids[PROMPT_SIZE];
    for (int32_t p = 0; p < PROMPTS; p++) {
        add(e, ids, make_prompt(ids, prompt_length(p), shared, p), sampling, 60);
    }
    run(e);
    return e;
}

static inline void make_folder(char folder[PATH_SIZE]) {
    snprintf(folder, PATH_SIZE, "%s/kvsim-engine-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void remove_folder(const char *folder) {
    char path[PATH_SIZE + 32];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
}

#endif
