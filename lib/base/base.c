#include "base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

static void *default_allocate(void *user, size_t size, size_t alignment) {
    (void)user;
    /* aligned_alloc wants a multiple of the alignment. */
    if (size > SIZE_MAX - alignment) {
        return NULL;
    }
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void default_release(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    free(memory);
}

void kvsim__base_init(kvsim__base *base, const kvsim_options *options) {
    *base = (kvsim__base){.allocator = {default_allocate, default_release, NULL}, .log_level = KVSIM_LOG_WARNING};
    if (options != NULL) {
        if (options->allocator != NULL) {
            base->allocator = *options->allocator;
        }
        base->log = options->log;
        base->log_user = options->log_user;
        if (options->log_level != 0) {
            base->log_level = options->log_level;
        }
        base->threads = options->threads;
        base->parallel_for = options->parallel_for;
        base->parallel_user = options->parallel_user;
    }
    if (base->threads == 0) {
        base->threads = kvsim__core_count();
    }
}

bool kvsim__multiply(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

void *kvsim__allocate(kvsim__base *base, size_t count, size_t size) {
    uint64_t bytes = 0;
    if (!kvsim__multiply(count > 0 ? count : 1, size, &bytes) || bytes > PTRDIFF_MAX) {
        return NULL;
    }
    return base->allocator.allocate(base->allocator.user, (size_t)bytes, ALIGNMENT);
}

void *kvsim__allocate_zeroed(kvsim__base *base, size_t count, size_t size) {
    void *memory = kvsim__allocate(base, count, size);
    if (memory != NULL) {
        memset(memory, 0, (count > 0 ? count : 1) * size);
    }
    return memory;
}

void kvsim__release(kvsim__base *base, void *memory, size_t count, size_t size) {
    if (memory != NULL) {
        base->allocator.release(base->allocator.user, memory, (count > 0 ? count : 1) * size);
    }
}

kvsim_status kvsim__grow(kvsim__base *base, void **array, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) {
        return KVSIM_OK;
    }
    size_t wanted = *capacity > 0 ? *capacity : 16;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / 2) {
            return kvsim__fail_memory(base, SIZE_MAX, "a growing table");
        }
        wanted *= 2;
    }
    void *memory = kvsim__allocate(base, wanted, size);
    if (memory == NULL) {
        return kvsim__fail_memory(base, wanted * size, "a growing table");
    }
    if (*array != NULL) {
        memcpy(memory, *array, *capacity * size);
        kvsim__release(base, *array, *capacity, size);
    }
    *array = memory;
    *capacity = wanted;
    return KVSIM_OK;
}

kvsim_status kvsim__fail(kvsim__base *base, kvsim_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(base->error, sizeof base->error, format, arguments);
    va_end(arguments);
    /* One line, whatever a file or a caller put into a name. */
    for (char *c = base->error; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    return status;
}

kvsim_status kvsim__fail_memory(kvsim__base *base, size_t bytes, const char *what) {
    return kvsim__fail(base, KVSIM_E_NOMEM, "out of memory (%zu bytes for %s)", bytes, what);
}

void kvsim__log(kvsim__base *base, int32_t level, const char *format, ...) {
    if (base->log == NULL || level > base->log_level) {
        return;
    }
    char line[KVSIM__ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    base->log(base->log_user, level, line);
}

kvsim_status kvsim__read_struct(void *out, size_t ours, const void *from, size_t first_release) {
    memset(out, 0, ours);
    if (from == NULL) {
        return KVSIM_OK;
    }
    uint32_t theirs = 0;
    memcpy(&theirs, from, sizeof theirs);
    if (theirs < first_release) {
        return KVSIM_E_INVALID;
    }
    const unsigned char *bytes = from;
    for (size_t i = ours; i < theirs; i++) {
        if (bytes[i] != 0) {
            return KVSIM_E_UNSUPPORTED;
        }
    }
    memcpy(out, from, theirs < ours ? theirs : ours);
    return KVSIM_OK;
}
