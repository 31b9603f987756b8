/*
 * Finding and loading the plug-in of a device: where it is looked for, where it must not be, and what is said of files
 * that are none. The plug-in is the twin, under the name of a real one.
 */
#include "backend/loader.h"
#include "backend/twin.h"
#include "core_tools.h"
#include "kvsim_check.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER = 2048, NOBODY = 65534 };

static char folder[64], program[PATH_MAX];

/* ---- the child: this program with the argument --find says what it finds ---- */

static void find_and_tell(void) {
    char reason[KVSIM__REASON_SIZE] = "";
    const kvsim__backend *table = kvsim__backend_find(reason, sizeof reason);
    printf("%s%s%s\n", getauxval(AT_SECURE) != 0 ? "secure " : "",
           table != NULL ? "found " : "none: ", table != NULL ? table->name : reason);
    (void)fflush(stdout);
    _exit(EXIT_SUCCESS); /* a leak detector could not look at a process with other rights */
}

/* Run `path` under the name `name` in the folder `in`, with KVSIM_BACKEND_DIR or without; what it says. */
static const char *run_child(const char *path, const char *name, const char *in, const char *variable) {
    static char answer[ANSWER];
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        (void)dup2(ends[1], STDOUT_FILENO);
        (void)close(ends[0]);
        (void)unsetenv(KVSIM__BACKEND_VARIABLE);
        if ((variable == NULL || setenv(KVSIM__BACKEND_VARIABLE, variable, 1) == 0) && chdir(in) == 0) {
            (void)execl(path, name, "--find", (char *)NULL);
        }
        _exit(127);
    }
    (void)close(ends[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], answer + length, sizeof answer - 1 - length)) > 0;) {
        length += (size_t)got;
    }
    (void)close(ends[0]);
    answer[length] = '\0';
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(status == 0, "%s ended with %d", path, status);
    return answer;
}

/* ---- folders ---- */

static const char *below(const char *name) {
    static char paths[8][PATH_MAX];
    static int next;
    char *path = paths[next++ % 8];
    (void)snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

static void copy_file(const char *from, const char *to, mode_t mode) {
    char bytes[65536];
    const int source = open(from, O_RDONLY), target = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    ck_assert_msg(source >= 0 && target >= 0, "%s to %s: %s", from, to, strerror(errno));
    for (ssize_t got; (got = read(source, bytes, sizeof bytes)) > 0;) {
        ck_assert_int_eq(write(target, bytes, (size_t)got), got);
    }
    (void)close(source);
    ck_assert_int_eq(fchmod(target, mode), 0);
    ck_assert_int_eq(close(target), 0);
}

static void write_file(const char *to, const char *text) {
    FILE *file = fopen(to, "w");
    ck_assert_ptr_nonnull(file);
    (void)fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
}

static void make_folders(void) {
    (void)snprintf(folder, sizeof folder, "/tmp/kvsim-loader-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chmod(folder, 0755), 0);
    ck_assert_int_eq(mkdir(below("with"), 0755), 0);
    ck_assert_int_eq(mkdir(below("bin"), 0755), 0);
    ck_assert_int_eq(mkdir(below("bin/kvsim"), 0755), 0);
    ck_assert_int_eq(mkdir(below("empty"), 0755), 0);
    copy_file(KVSIM_TEST_TWIN, below("with/" KVSIM__BACKEND_FILE), 0755);
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    ck_assert_int_gt((int)length, 0);
    copy_file(program, below("bin/probe"), 0755);
}

static void remove_folders(void) {
    static const char *const files[] = {"with/" KVSIM__BACKEND_FILE,      "bin/" KVSIM__BACKEND_FILE,
                                        "bin/kvsim/" KVSIM__BACKEND_FILE, "bin/probe",
                                        "empty/" KVSIM__BACKEND_FILE,     "rubbish"};
    static const char *const folders[] = {"with", "bin/kvsim", "bin", "empty", "pipe", "."};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        (void)unlink(below(files[i]));
    }
    (void)unlink(below("pipe"));
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        (void)rmdir(i + 1 < sizeof folders / sizeof folders[0] ? below(folders[i]) : folder);
    }
}

#define ck_answer(answer, beginning)                                                                                   \
    do {                                                                                                               \
        const char *ck_answer_is = (answer);                                                                           \
        ck_assert_msg(strncmp(ck_answer_is, (beginning), strlen(beginning)) == 0, "\"%s\" does not begin with \"%s\"", \
                      ck_answer_is, (beginning));                                                                      \
    } while (0)

/* ---- where it is looked for ---- */

/** Leave a test that expects that nothing is found. */
#define skip_if_installed()                                                                                            \
    do {                                                                                                               \
        if (access(KVSIM_TEST_INSTALLED, F_OK) == 0) {                                                                 \
            kvsim_check_skip("%s is there, so that there always is a backend", KVSIM_TEST_INSTALLED);                  \
        }                                                                                                              \
    } while (0)

START_TEST(the_variable_names_a_folder) {
    ck_answer(run_child(program, program, "/", below("with")), "found twin");
}
END_TEST

START_TEST(without_a_plugin_the_folders_are_named) {
    skip_if_installed();
    const char *answer = run_child(below("bin/probe"), "probe", "/", below("empty"));
    ck_answer(answer, "none: there is no " KVSIM__BACKEND_FILE " in /tmp/kvsim-loader-");
    ck_assert_ptr_nonnull(strstr(answer, "/bin/kvsim"));
    ck_assert_ptr_nonnull(strstr(answer, KVSIM__BACKEND_VARIABLE));
}
END_TEST

START_TEST(a_relative_folder_is_refused) {
    ck_answer(run_child(program, program, below("with"), "."), "none: " KVSIM__BACKEND_VARIABLE " is \".\"");
    ck_answer(run_child(program, program, folder, "with"), "none: " KVSIM__BACKEND_VARIABLE " is \"with\"");
}
END_TEST

START_TEST(the_current_folder_is_not_looked_at) {
    skip_if_installed();
    ck_answer(run_child(program, program, below("with"), NULL), "none: there is no ");
    ck_answer(run_child(program, program, below("with"), ""), "none: there is no ");
    ck_answer(run_child(program, "./probe", below("with"), NULL), "none: there is no ");
}
END_TEST

START_TEST(the_name_of_the_program_is_not_trusted) {
    skip_if_installed();
    ck_answer(run_child(program, below("with/probe"), "/", NULL), "none: there is no ");
}
END_TEST

START_TEST(beside_the_library_and_below) {
    copy_file(KVSIM_TEST_TWIN, below("bin/kvsim/" KVSIM__BACKEND_FILE), 0755);
    ck_answer(run_child(below("bin/probe"), "probe", "/", NULL), "found twin");
    /* What lies nearer counts, also if it cannot be used. */
    write_file(below("bin/" KVSIM__BACKEND_FILE), "rubbish");
    ck_answer(run_child(below("bin/probe"), "probe", "/", NULL), "none: /tmp/kvsim-loader-");
    copy_file(KVSIM_TEST_TWIN, below("bin/" KVSIM__BACKEND_FILE), 0755);
    ck_answer(run_child(below("bin/probe"), "probe", "/", NULL), "found twin");
    write_file(below("empty/" KVSIM__BACKEND_FILE), "rubbish");
    ck_answer(run_child(below("bin/probe"), "probe", "/", below("empty")), "none: /tmp/kvsim-loader-");
}
END_TEST

START_TEST(with_more_rights_than_the_user_only_the_system_is_looked_at) {
    skip_if_installed();
    if (geteuid() != 0) {
        kvsim_check_skip("only root can make a program that runs with other rights");
    }
    copy_file(KVSIM_TEST_TWIN, below("bin/" KVSIM__BACKEND_FILE), 0755);
    ck_assert_int_eq(chown(below("bin/probe"), NOBODY, NOBODY), 0);
    ck_assert_int_eq(chmod(below("bin/probe"), 04755), 0);
    const char *answer = run_child(below("bin/probe"), "probe", "/", below("with"));
    if (strncmp(answer, "secure", strlen("secure")) != 0) {
        kvsim_check_skip("the file system of /tmp grants no other rights");
    }
    ck_answer(answer, "secure none: there is no ");
}
END_TEST

/* ---- what it must be ---- */

START_TEST(files_that_are_no_plugins) {
    char reason[KVSIM__REASON_SIZE];
    write_file(below("rubbish"), _i == 0 ? "This is no library.\n" : "");
    ck_assert_int_eq(mkfifo(below("pipe"), 0600), 0);
    const char *const paths[] = {below("rubbish"), below("pipe"), folder,
                                 below("missing"), "rubbish",     KVSIM_TEST_LIBRARY};
    static const char *const reasons[] = {"cannot be loaded", "is not a file",        "is not a file",
                                          "is not a file",    "not an absolute path", "is no backend of kvsim"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        reason[0] = '\0';
        ck_assert_ptr_null(kvsim__backend_load(paths[i], reason, sizeof reason));
        ck_assert_msg(strstr(reason, reasons[i]) != NULL, "%s: %s", paths[i], reason);
        ck_assert_msg(strstr(reason, paths[i]) != NULL, "%s is not named: %s", paths[i], reason);
        ck_assert_ptr_null(strchr(reason, '\n'));
    }
    /* A short buffer is not overrun. */
    char little[16];
    ck_assert_ptr_null(kvsim__backend_load(below("missing"), little, sizeof little));
    ck_assert_uint_lt(strlen(little), sizeof little);
}
END_TEST

START_TEST(tables_of_another_version) {
    static const char *const reasons[] = {"", "does not know version 1", "has version 2", "bytes) of the backend table",
                                          "leaves out functions"};
    char reason[KVSIM__REASON_SIZE] = "";
    void *library = dlopen(KVSIM_TEST_TWIN, RTLD_NOW | RTLD_LOCAL);
    ck_assert_ptr_nonnull(library);
    kvsim__twin *(*get_twin)(void);
    void *symbol = dlsym(library, "kvsim_twin");
    memcpy(&get_twin, &symbol, sizeof get_twin);
    get_twin()->query = (uint32_t)_i;
    const kvsim__backend *table = kvsim__backend_load(KVSIM_TEST_TWIN, reason, sizeof reason);
    ck_assert_int_eq(table != NULL, _i == KVSIM__TWIN_TABLE);
    ck_assert_msg(strstr(reason, reasons[_i]) != NULL, "%s", reason);
    ck_assert_msg(table != NULL || strstr(reason, KVSIM_TEST_TWIN) != NULL, "%s", reason);
    (void)dlclose(library);
}
END_TEST

START_TEST(what_is_found_stays) {
    char reason[KVSIM__REASON_SIZE] = "";
    write_file(below("empty/" KVSIM__BACKEND_FILE), "rubbish");
    ck_assert_int_eq(setenv(KVSIM__BACKEND_VARIABLE, below("empty"), 1), 0);
    ck_assert_ptr_null(kvsim__backend_find(reason, sizeof reason));
    /* A failure is not kept. */
    ck_assert_int_eq(setenv(KVSIM__BACKEND_VARIABLE, below("with"), 1), 0);
    const kvsim__backend *table = kvsim__backend_find(reason, sizeof reason);
    ck_assert_msg(table != NULL, "%s", reason);
    ck_assert_int_eq(setenv(KVSIM__BACKEND_VARIABLE, below("empty"), 1), 0);
    ck_assert_ptr_eq(kvsim__backend_find(reason, sizeof reason), table);
}
END_TEST

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "--find") == 0) {
        find_and_tell();
    }
    Suite *suite = suite_create("loader");
    TCase *loader = kvsim_check_case(suite, "loader");
    tcase_add_checked_fixture(loader, make_folders, remove_folders);
    tcase_add_test(loader, the_variable_names_a_folder);
    tcase_add_test(loader, without_a_plugin_the_folders_are_named);
    tcase_add_test(loader, a_relative_folder_is_refused);
    tcase_add_test(loader, the_current_folder_is_not_looked_at);
    tcase_add_test(loader, the_name_of_the_program_is_not_trusted);
    tcase_add_test(loader, beside_the_library_and_below);
    tcase_add_test(loader, with_more_rights_than_the_user_only_the_system_is_looked_at);
    tcase_add_loop_test(loader, files_that_are_no_plugins, 0, 2);
    tcase_add_loop_test(loader, tables_of_another_version, 0, 5);
    tcase_add_test(loader, what_is_found_stays);
    return kvsim_check_main(suite, "test_loader", 15);
}
