#include "base/base.h"
#include "kvsim_check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct newer_options {
    uint32_t struct_size;
    uint32_t known;
    uint64_t unknown;
} newer_options;

typedef struct our_options {
    uint32_t struct_size;
    uint32_t known;
} our_options;

START_TEST(struct_of_our_own_size_is_copied) {
    const our_options from = {sizeof from, 7};
    our_options out;
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, &from, 4), KVSIM_OK);
    ck_assert_uint_eq(out.known, 7);
}
END_TEST

START_TEST(absent_struct_reads_as_defaults) {
    our_options out = {1, 2};
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, NULL, 4), KVSIM_OK);
    ck_assert_uint_eq(out.known, 0);
}
END_TEST

START_TEST(older_struct_reads_with_a_zero_tail) {
    const our_options from = {4, 7};
    our_options out;
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, &from, 4), KVSIM_OK);
    ck_assert_uint_eq(out.known, 0);
}
END_TEST

START_TEST(struct_smaller_than_the_first_release_is_invalid) {
    const our_options from = {3, 7};
    our_options out;
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, &from, 4), KVSIM_E_INVALID);
}
END_TEST

START_TEST(newer_struct_is_accepted_only_with_a_zero_tail) {
    newer_options from = {sizeof from, 7, 0};
    our_options out;
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, &from, 4), KVSIM_OK);
    ck_assert_uint_eq(out.known, 7);
    from.unknown = UINT64_C(1) << 63;
    ck_assert_int_eq(kvsim__read_struct(&out, sizeof out, &from, 4), KVSIM_E_UNSUPPORTED);
}
END_TEST

START_TEST(error_text_is_one_line) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    ck_assert_int_eq(kvsim__fail(&base, KVSIM_E_IO, "file '%s'", "a\nb\033[0m"), KVSIM_E_IO);
    ck_assert_str_eq(base.error, "file 'a?b?[0m'");
}
END_TEST

START_TEST(long_error_text_is_cut) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    char name[2 * KVSIM__ERROR_SIZE];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    (void)kvsim__fail(&base, KVSIM_E_IO, "%s", name);
    ck_assert_uint_eq(strlen(base.error), KVSIM__ERROR_SIZE - 1);
}
END_TEST

START_TEST(memory_is_aligned_and_cleared) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    for (size_t count = 0; count < 70; count++) {
        unsigned char *memory = kvsim__allocate_zeroed(&base, count, 3);
        ck_assert_ptr_nonnull(memory);
        ck_assert_uint_eq((uintptr_t)memory % 64, 0);
        for (size_t i = 0; i < count * 3; i++) {
            ck_assert_uint_eq(memory[i], 0);
        }
        kvsim__release(&base, memory, count, 3);
    }
}
END_TEST

START_TEST(allocation_that_overflows_fails) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    ck_assert_ptr_null(kvsim__allocate(&base, SIZE_MAX / 2, 4));
    ck_assert_ptr_null(kvsim__allocate(&base, SIZE_MAX, 1));
}
END_TEST

START_TEST(growing_keeps_the_items) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    uint32_t *items = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        ck_assert_int_eq(kvsim__grow(&base, (void **)&items, &capacity, i + 1, sizeof *items), KVSIM_OK);
        items[i] = (uint32_t)i;
    }
    for (size_t i = 0; i < 1000; i++) {
        ck_assert_uint_eq(items[i], i);
    }
    kvsim__release(&base, items, capacity, sizeof *items);
}
END_TEST

START_TEST(growing_beyond_memory_leaves_the_array) {
    kvsim__base base;
    kvsim__base_init(&base, NULL);
    void *items = NULL;
    size_t capacity = 0;
    ck_assert_int_eq(kvsim__grow(&base, &items, &capacity, SIZE_MAX, 4), KVSIM_E_NOMEM);
    ck_assert_ptr_null(items);
    ck_assert_uint_eq(capacity, 0);
    ck_assert(strstr(base.error, "out of memory") != NULL);
}
END_TEST

static void count_visit(void *argument, uint32_t index) {
    atomic_int *visits = argument;
    atomic_fetch_add(&visits[index], 1);
}

/* Row i runs with i threads. */
START_TEST(every_index_is_visited_once) {
    enum { COUNT = 1000 };
    const kvsim_options options = {.struct_size = sizeof options, .threads = (uint32_t)_i};
    kvsim__base base;
    kvsim__base_init(&base, &options);
    atomic_int *visits = calloc(COUNT, sizeof *visits);
    ck_assert_ptr_nonnull(visits);
    kvsim__parallel_for(&base, COUNT, count_visit, visits);
    for (int i = 0; i < COUNT; i++) {
        ck_assert_int_eq(atomic_load(&visits[i]), 1);
    }
    free(visits);
}
END_TEST

static void count_backwards(void *user, uint32_t count, void (*body)(void *argument, uint32_t index), void *argument) {
    *(uint32_t *)user += count;
    while (count > 0) {
        body(argument, --count);
    }
}

START_TEST(threads_of_the_host_are_used) {
    uint32_t asked = 0;
    const kvsim_options options = {
        .struct_size = sizeof options, .parallel_for = count_backwards, .parallel_user = &asked};
    kvsim__base base;
    kvsim__base_init(&base, &options);
    atomic_int visits[3] = {0};
    kvsim__parallel_for(&base, 3, count_visit, visits);
    ck_assert_uint_eq(asked, 3);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(atomic_load(&visits[i]), 1);
    }
}
END_TEST

typedef struct lines {
    int count;
    char last[64];
} lines;

static void keep_line(void *user, int32_t level, const char *message) {
    lines *kept = user;
    kept->count++;
    (void)snprintf(kept->last, sizeof kept->last, "%d %s", (int)level, message);
}

START_TEST(log_keeps_to_its_level) {
    lines kept = {0};
    const kvsim_options options = {
        .struct_size = sizeof options, .log_level = KVSIM_LOG_INFO, .log = keep_line, .log_user = &kept};
    kvsim__base base;
    kvsim__base_init(&base, &options);
    kvsim__log(&base, KVSIM_LOG_DEBUG, "not seen");
    ck_assert_int_eq(kept.count, 0);
    kvsim__log(&base, KVSIM_LOG_INFO, "%d pages", 5);
    ck_assert_int_eq(kept.count, 1);
    ck_assert_str_eq(kept.last, "3 5 pages");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("base");
    TCase *structs = kvsim_check_case(suite, "sized structs");
    tcase_add_test(structs, struct_of_our_own_size_is_copied);
    tcase_add_test(structs, absent_struct_reads_as_defaults);
    tcase_add_test(structs, older_struct_reads_with_a_zero_tail);
    tcase_add_test(structs, struct_smaller_than_the_first_release_is_invalid);
    tcase_add_test(structs, newer_struct_is_accepted_only_with_a_zero_tail);
    TCase *messages = kvsim_check_case(suite, "messages");
    tcase_add_test(messages, error_text_is_one_line);
    tcase_add_test(messages, long_error_text_is_cut);
    tcase_add_test(messages, log_keeps_to_its_level);
    TCase *memory = kvsim_check_case(suite, "memory");
    tcase_add_test(memory, memory_is_aligned_and_cleared);
    tcase_add_test(memory, allocation_that_overflows_fails);
    tcase_add_test(memory, growing_keeps_the_items);
    tcase_add_test(memory, growing_beyond_memory_leaves_the_array);
    TCase *threads = kvsim_check_case(suite, "threads");
    tcase_add_loop_test(threads, every_index_is_visited_once, 0, 6);
    tcase_add_test(threads, threads_of_the_host_are_used);
    return kvsim_check_main(suite, "test_base", 19);
}
