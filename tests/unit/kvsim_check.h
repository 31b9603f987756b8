/**
 * The frame of every unit test program: Check (libcheck.github.io/check), with counted skips and a last line
 * `NAME: N passed, N failed, N skipped` that scripts/run-tests adds up.
 *
 * @code{.c}
 *   START_TEST(norm_of_a_zero_page_is_zero) {
 *       ck_assert_double_eq(norm(zero_page, 4), 0.0);
 *   }
 *   END_TEST
 *
 *   int main(void) {
 *       Suite *suite = suite_create("norms");
 *       TCase *norms = kvsim_check_case(suite, "norms");
 *       tcase_add_test(norms, norm_of_a_zero_page_is_zero);
 *       return kvsim_check_main(suite, "norms", 1);
 *   }
 * @endcode
 *
 * Each test runs in a process of its own; assert only in its first thread.
 */
#ifndef KVSIM_TESTS_KVSIM_CHECK_H
#define KVSIM_TESTS_KVSIM_CHECK_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>

/** Add a test case to a suite, with a time limit that also holds under sanitizers on a busy machine. */
TCase *kvsim_check_case(Suite *suite, const char *name);

/**
 * Run a suite, print its last line, destroy it.
 * @param minimum tests the program has at least (a row of a loop test is one): Check itself is content when a filter
 *        leaves none
 * @return exit status of the program: 0 if none failed and at least `minimum` ran or were skipped
 */
int kvsim_check_main(Suite *suite, const char *name, int minimum);

/** Leave the test function and count it as skipped, with a reason in the manner of printf. */
#define kvsim_check_skip(...)                                                                                          \
    do {                                                                                                               \
        kvsim_check_count_skip(__VA_ARGS__);                                                                           \
        return;                                                                                                        \
    } while (0)

/** What kvsim_check_skip does before it leaves. */
void kvsim_check_count_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/**
 * Path of a file of the test data: below the folder that the environment names in KVSIM_TEST_DATA, or
 * `../shared/data` beside the source tree.
 * @return false, `out` set all the same, if there is no such file: skip
 */
bool kvsim_check_data(char *out, size_t size, const char *file);

#endif
