/*
 * Runs a fuzz target over the files of folders, where there is no libFuzzer: each file as it is, cut short at each
 * length, and with each byte changed. Last line: `NAME: N passed, 0 failed, 0 skipped`; whatever goes wrong ends the
 * program.
 *
 * Usage: NAME FOLDER...
 *
 * With libFuzzer the same target is built from its file and the sources of the library, without this one:
 * clang -fsanitize=fuzzer,address,undefined -Iinclude -Ilib tests/fuzz/fuzz_npy.c SOURCES -ljansson -lm -lpthread
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_FILE = 1 << 20, LARGEST_VARIED = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An exact copy for each run: a sanitizer sees a read past its end. */
static void run(const uint8_t *bytes, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) {
        perror("malloc");
        exit(EXIT_FAILURE);
    }
    memcpy(copy, bytes, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void replay_file(const char *path, uint8_t *bytes) {
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    const size_t size = fread(bytes, 1, LARGEST_FILE, file);
    (void)fclose(file);
    run(bytes, size);
    for (size_t i = 0; i < size && size <= LARGEST_VARIED; i++) {
        run(bytes, i);
        for (size_t change = 0; change < sizeof changes; change++) {
            bytes[i] ^= changes[change];
            run(bytes, size);
            bytes[i] ^= changes[change];
        }
    }
}

static int replay_folder(const char *folder, uint8_t *bytes) {
    DIR *listing = opendir(folder);
    if (listing == NULL) {
        perror(folder);
        exit(EXIT_FAILURE);
    }
    int count = 0;
    for (const struct dirent *item; (item = readdir(listing)) != NULL;) {
        if (item->d_name[0] != '.') {
            char path[4096];
            (void)snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
            replay_file(path, bytes);
            count++;
        }
    }
    (void)closedir(listing);
    return count;
}

int main(int argc, char **argv) {
    uint8_t *bytes = malloc(LARGEST_FILE);
    int count = 0;
    for (int i = 1; bytes != NULL && i < argc; i++) {
        count += replay_folder(argv[i], bytes);
    }
    free(bytes);
    printf("%s: %d passed, 0 failed, 0 skipped\n", program_invocation_short_name, count);
    return count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
