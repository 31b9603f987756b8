/**
 * What the tests of lib/snapshot share: folders that go away, files built byte by byte, an allocator that fails.
 */
#ifndef KVSIM_TESTS_SNAPSHOT_FILES_H
#define KVSIM_TESTS_SNAPSHOT_FILES_H

#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kvsim/snapshot.h>

#include "kvsim_check.h"

/** Folder of the running test, and the context that the fixture makes for it. */
static char folder[64];
static kvsim_ctx *ctx;

static inline void make_folder(void) {
    (void)snprintf(folder, sizeof folder, "/tmp/kvsim-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(kvsim_ctx_create(NULL, &ctx), KVSIM_OK);
}

/** Number of entries of the folder; they are removed if asked for. */
static inline int count_files(bool remove_them) {
    int count = 0;
    DIR *listing = opendir(folder);
    ck_assert_ptr_nonnull(listing);
    for (const struct dirent *item; (item = readdir(listing)) != NULL;) {
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) {
            continue;
        }
        count++;
        if (remove_them) {
            ck_assert_int_eq(unlinkat(dirfd(listing), item->d_name, 0), 0);
        }
    }
    (void)closedir(listing);
    return count;
}

static inline void remove_folder(void) {
    kvsim_ctx_destroy(ctx);
    (void)count_files(true);
    ck_assert_int_eq(rmdir(folder), 0);
}

/** Path of a file in the folder, in one of a few buffers used in turn. */
static inline const char *path_of(const char *name) {
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    (void)snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

static inline void write_bytes(const char *name, const void *bytes, size_t size) {
    FILE *file = fopen(path_of(name), "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

static inline void write_text(const char *name, const char *text) {
    write_bytes(name, text, strlen(text));
}

/** Header length, header, `data_size` bytes of data; [owned] by free, exactly *size bytes. */
static inline unsigned char *make_safetensors(const char *header, size_t data_size, size_t *size) {
    const uint64_t length = strlen(header);
    *size = 8 + length + data_size;
    unsigned char *bytes = malloc(*size);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++) {
        bytes[8 + length + i] = (unsigned char)i;
    }
    return bytes;
}

static inline void write_safetensors(const char *name, const char *header, size_t data_size) {
    size_t size = 0;
    unsigned char *bytes = make_safetensors(header, data_size, &size);
    write_bytes(name, bytes, size);
    free(bytes);
}

/** Fail the test unless the context's error text has `part` in it, is one line, and fits. */
static inline void expect_error(const char *part) {
    const char *text = kvsim_ctx_error(ctx);
    ck_assert_msg(strstr(text, part) != NULL, "'%s' is not in '%s'", part, text);
    ck_assert_ptr_null(strchr(text, '\n'));
}

static inline void expect_open(const char *path, kvsim_status status, const char *part) {
    kvsim_snapshot *snapshot = NULL;
    const kvsim_status actual = kvsim_snapshot_open(ctx, path, &snapshot);
    ck_assert_msg(actual == status, "%s: status %d, not %d: %s", path, actual, status, kvsim_ctx_error(ctx));
    ck_assert_ptr_null(snapshot);
    expect_error(part);
}

static inline kvsim_snapshot *open_good(const char *path) {
    kvsim_snapshot *snapshot = NULL;
    const kvsim_status status = kvsim_snapshot_open(ctx, path, &snapshot);
    ck_assert_msg(status == KVSIM_OK, "%s: status %d: %s", path, status, kvsim_ctx_error(ctx));
    return snapshot;
}

/** An allocator that counts, and fails from call number `fail_at` on, or then only. */
typedef struct failing_allocator {
    long calls;
    long fail_at; /**< 0 = never */
    bool once;
    long live;
    size_t live_bytes;
} failing_allocator;

static inline void *fail_allocate(void *user, size_t size, size_t alignment) {
    failing_allocator *state = user;
    state->calls++;
    if (state->fail_at > 0 && (state->once ? state->calls == state->fail_at : state->calls >= state->fail_at)) {
        return NULL;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, size) != 0) {
        return NULL;
    }
    state->live++;
    state->live_bytes += size;
    return memory;
}

static inline void fail_release(void *user, void *memory, size_t size) {
    failing_allocator *state = user;
    state->live--;
    state->live_bytes -= size;
    free(memory);
}

/**
 * Run `body` with a context whose N-th allocation fails, for each N until none is left to fail; once, and from then
 * on. `body` returns the status of the first call that failed.
 */
static inline void sweep_allocations(kvsim_status (*body)(kvsim_ctx *with)) {
    for (int once = 0; once < 2; once++) {
        bool failed = true;
        for (long n = 1; failed; n++) {
            ck_assert_int_lt(n, 10000);
            failing_allocator state = {.once = once != 0};
            const kvsim_allocator allocator = {fail_allocate, fail_release, &state};
            kvsim_options options = KVSIM_OPTIONS_INIT;
            options.allocator = &allocator;
            options.threads = 1;
            kvsim_ctx *with = NULL;
            ck_assert_int_eq(kvsim_ctx_create(&options, &with), KVSIM_OK);
            state.calls = 0;
            state.fail_at = n;
            const kvsim_status status = body(with);
            failed = state.calls >= n;
            ck_assert_msg(status == (failed ? KVSIM_E_NOMEM : KVSIM_OK), "allocation %ld: status %d: %s", n, status,
                          kvsim_ctx_error(with));
            kvsim_ctx_destroy(with);
            ck_assert_int_eq(state.live, 0);
            ck_assert_uint_eq(state.live_bytes, 0);
        }
    }
}

#endif
