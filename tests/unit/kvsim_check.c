#define _GNU_SOURCE
#include "kvsim_check.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TIME_LIMIT_SECONDS = 240 };

/* Shared with the processes that the tests run in, so that their skips reach the parent. */
static atomic_int *skipped;

static void share_counter(void) {
    if (skipped != NULL) {
        return;
    }
    skipped = mmap(NULL, sizeof *skipped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (skipped == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
}

TCase *kvsim_check_case(Suite *suite, const char *name) {
    TCase *test_case = tcase_create(name);
    tcase_set_timeout(test_case, TIME_LIMIT_SECONDS);
    suite_add_tcase(suite, test_case);
    return test_case;
}

int kvsim_check_main(Suite *suite, const char *name, int minimum) {
    share_counter();
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int run = srunner_ntests_run(runner);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (run < minimum) {
        printf("%s: only %d tests ran, at least %d were expected\n", name, run, minimum);
    }
    const int skips = atomic_load(skipped);
    printf("%s: %d passed, %d failed, %d skipped\n", name, run - failed - skips, failed, skips);
    return failed == 0 && run >= minimum ? EXIT_SUCCESS : EXIT_FAILURE;
}

void kvsim_check_count_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("skipped: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    fflush(stdout);
    atomic_fetch_add(skipped, 1);
}

bool kvsim_check_data(char *out, size_t size, const char *file) {
    const char *folder = getenv("KVSIM_TEST_DATA");
    const int length = snprintf(out, size, "%s/%s", folder != NULL ? folder : KVSIM_TEST_DEFAULT_DATA, file);
    return length >= 0 && (size_t)length < size && access(out, R_OK) == 0;
}
