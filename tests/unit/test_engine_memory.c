/*
 * The example engine when memory runs out: every allocation of the engine and of libkvsim fails once, and in a second
 * round with all that follow it. The program is linked so that these go through the functions here.
 */
#include "engine_tools.h"

void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

static long allocations;    /* so far */
static long first_to_fail;  /* number of the first that fails; 0 = none */
static bool all_after_fail; /* and so do all that follow */

static bool fails(void) {
    allocations++;
    return first_to_fail > 0 && (allocations == first_to_fail || (all_after_fail && allocations > first_to_fail));
}

void *__wrap_calloc(size_t count, size_t size) {
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
    return fails() ? NULL : __real_realloc(memory, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return fails() ? NULL : __real_aligned_alloc(alignment, size);
}

/* A failure must be for lack of memory, and must say so. */
static bool ok(const engine *e, int status) {
    ck_assert_msg(status == ENGINE_OK || status == ENGINE_E_NOMEM, "status %d: %s", status, engine_error(e));
    ck_assert_str_ne(status == ENGINE_OK ? "fine" : engine_error(e), "");
    return status == ENGINE_OK;
}

/* Use everything that allocates; true if nothing failed. */
static bool live(const char *folder, kvsim_ctx *ctx) {
    engine_options options = options_for(SMALL);
    options.max_blocks = 40;
    options.page_tokens = 8;
    engine *e;
    int32_t ids[PROMPT_SIZE];
    float logits[61];
    char path[PATH_SIZE + 32];
    bool good = ok(NULL, engine_create(&options, &e)) && e != NULL;
    if (good) {
        int64_t count = make_prompt(ids, 20, 0, 1);
        good = ok(e, engine_add_sequence(e, ids, count, NULL, 10, NULL)) && good;
        good = ok(e, engine_run(e, NULL, NULL)) && good;
        good = ok(e, engine_logits(e, ids, count, count - 1, logits)) && good;
        for (int i = 0; i < 17; i++) { /* more than the list of sequences has room for at first */
            int status = engine_fork(e, 0, NULL, 3, NULL);
            good = (status == ENGINE_E_INVALID || ok(e, status)) && good;
        }
        good = ok(e, engine_run(e, NULL, NULL)) && good;
        good = ok(e, engine_add_pages(e, ctx)) && good;
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        int status = engine_dump(e, ctx, path, NULL);
        good = (status == ENGINE_E_INVALID || ok(e, status)) && good;
        kvsim_ctx_clear(ctx);
    }
    engine_destroy(e);
    return good;
}

START_TEST(every_allocation_may_fail) {
    char folder[PATH_SIZE];
    kvsim_ctx *ctx;
    make_folder(folder);
    ck_assert_int_eq(kvsim_ctx_create(NULL, &ctx), KVSIM_OK);
    all_after_fail = _i != 0;
    long number = 0;
    do {
        allocations = 0;
        first_to_fail = ++number;
    } while (!live(folder, ctx));
    first_to_fail = 0;
    printf("%ld allocations\n", number - 1);
    ck_assert_int_gt(number, 80);
    ck_assert_int_gt(number, allocations);
    kvsim_ctx_destroy(ctx);
    remove_folder(folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("engine_memory");
    TCase *memory = kvsim_check_case(suite, "memory");
    tcase_add_loop_test(memory, every_allocation_may_fail, 0, 2);
    return kvsim_check_main(suite, "engine_memory", 2);
}
