#define _XOPEN_SOURCE 700
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 65536,
    /* Largest single write: below the limit of every system (Linux stops at 2^31 - 4,096). */
    LARGEST_WRITE = 1 << 30,
    /* Names tried before giving up, each of which another writer holds. */
    NAME_ATTEMPTS = 1000,
    /* ".kvsim-", two numbers of at most 20 digits, ".tmp" and the NUL. */
    TEMPORARY_NAME_SIZE = 64
};

const char *kvsim__shorten(const char *text, bool keep_end, char out[KVSIM__SHORT_SIZE]) {
    const size_t length = strlen(text);
    if (length < KVSIM__SHORT_SIZE) {
        memcpy(out, text, length + 1);
        return out;
    }
    size_t kept = KVSIM__SHORT_SIZE - 4;
    if (keep_end) {
        const char *end = text + length;
        while (kept > 0 && ((unsigned char)end[-(ptrdiff_t)kept] & 0xc0) == 0x80) {
            kept--;
        }
        memcpy(out, "...", 3);
        memcpy(out + 3, end - kept, kept + 1);
    } else {
        while (kept > 0 && ((unsigned char)text[kept] & 0xc0) == 0x80) {
            kept--;
        }
        memcpy(out, text, kept);
        memcpy(out + kept, "...", 4);
    }
    return out;
}

kvsim_status kvsim__fail_system(kvsim__base *base, int number, const char *what, const char *action) {
    char reason[128] = "";
    if (strerror_r(number, reason, sizeof reason) != 0 || reason[0] == '\0') {
        (void)snprintf(reason, sizeof reason, "system error %d", number);
    }
    return kvsim__fail(base, number == ENOMEM ? KVSIM_E_NOMEM : KVSIM_E_IO, "%s: %s: %s", what, action, reason);
}

static void release_memory(kvsim__base *base, kvsim__file *file) {
    kvsim__release(base, file->path, file->path_size, 1);
    kvsim__release(base, file->temporary, file->temporary_size, 1);
    kvsim__release(base, file->buffer, BUFFER_SIZE, 1);
    file->path = NULL;
    file->temporary = NULL;
    file->buffer = NULL;
}

void kvsim__file_abandon(kvsim__base *base, kvsim__file *file) {
    if (file->open) {
        (void)close(file->descriptor);
        (void)unlink(file->temporary);
        file->open = false;
    }
    release_memory(base, file);
}

/* Abandon the file and fail with the reason that the system gave. */
static kvsim_status give_up(kvsim__base *base, kvsim__file *file, const char *action) {
    const int number = errno;
    kvsim__file_abandon(base, file);
    return kvsim__fail_system(base, number, file->shown, action);
}

/* The path to rename to: symbolic links are followed, so that a link stays a link and /dev/stdout is seen to be no
 * file of its own. */
static kvsim_status resolve(kvsim__base *base, kvsim__file *file, const char *path) {
    char real[PATH_MAX];
    struct stat facts;
    if (lstat(path, &facts) != 0) {
        if (errno != ENOENT) {
            return give_up(base, file, "cannot write here");
        }
    } else {
        if (S_ISLNK(facts.st_mode)) {
            if (realpath(path, real) == NULL || stat(real, &facts) != 0) {
                return give_up(base, file, "cannot follow the symbolic link");
            }
            path = real;
        }
        if (!S_ISREG(facts.st_mode)) {
            return kvsim__fail(base, KVSIM_E_INVALID,
                               "%s: not a regular file, so it cannot be replaced in one step; name a regular file",
                               file->shown);
        }
    }
    const char *slash = strrchr(path, '/');
    const size_t folder = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    file->path_size = strlen(path) + 1;
    file->temporary_size = folder + TEMPORARY_NAME_SIZE;
    file->path = kvsim__allocate(base, file->path_size, 1);
    file->temporary = kvsim__allocate(base, file->temporary_size, 1);
    file->buffer = kvsim__allocate(base, BUFFER_SIZE, 1);
    if (file->path == NULL || file->temporary == NULL || file->buffer == NULL) {
        return kvsim__fail_memory(base, BUFFER_SIZE + file->path_size + file->temporary_size, "a file to write");
    }
    memcpy(file->path, path, file->path_size);
    memcpy(file->temporary, path, folder);
    file->temporary[folder] = '\0';
    return KVSIM_OK;
}

/* Make the temporary file under a name that nobody has. */
static kvsim_status make_temporary(kvsim__base *base, kvsim__file *file) {
    const size_t folder = strlen(file->temporary);
    for (int attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        (void)snprintf(file->temporary + folder, file->temporary_size - folder, ".kvsim-%ld-%d.tmp", (long)getpid(),
                       attempt);
        const int descriptor = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (descriptor >= 0) {
            file->descriptor = descriptor;
            file->open = true;
            return KVSIM_OK;
        }
        if (errno != EEXIST && errno != EINTR) {
            break;
        }
    }
    return give_up(base, file, "cannot make a file in this folder");
}

kvsim_status kvsim__file_begin(kvsim__base *base, const char *path, kvsim__file *file) {
    *file = (kvsim__file){.descriptor = -1};
    if (path == NULL || path[0] == '\0') {
        return kvsim__fail(base, KVSIM_E_INVALID, "path: empty; name the file to write");
    }
    (void)kvsim__shorten(path, true, file->shown);
    kvsim_status status = resolve(base, file, path);
    if (status == KVSIM_OK) {
        status = make_temporary(base, file);
    }
    if (status != KVSIM_OK) {
        release_memory(base, file);
    }
    return status;
}

/* Write all bytes, however often the system stops short. */
static bool write_all(int descriptor, const unsigned char *data, size_t size) {
    while (size > 0) {
        const ssize_t written = write(descriptor, data, size < LARGEST_WRITE ? size : LARGEST_WRITE);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            /* A write of nothing is not progress; the next one would loop. */
            errno = written == 0 ? ENOSPC : errno;
            return false;
        }
        data += written;
        size -= (size_t)written;
    }
    return true;
}

static bool flush(kvsim__file *file) {
    const bool written = write_all(file->descriptor, file->buffer, file->used);
    file->used = 0;
    return written;
}

kvsim_status kvsim__file_write(kvsim__base *base, kvsim__file *file, const void *data, size_t size) {
    if (!file->open) {
        return kvsim__fail(base, KVSIM_E_IO, "%s: cannot write: the file was given up", file->shown);
    }
    if (size > BUFFER_SIZE - file->used && !flush(file)) {
        return give_up(base, file, "cannot write");
    }
    if (size >= BUFFER_SIZE) {
        if (!write_all(file->descriptor, data, size)) {
            return give_up(base, file, "cannot write");
        }
    } else if (size > 0) {
        memcpy(file->buffer + file->used, data, size);
        file->used += size;
    }
    return KVSIM_OK;
}

/* Make the new name last. The file is whole either way, so a folder that cannot be synced is no failure. */
static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    const char *folder = ".";
    if (slash != NULL) {
        slash[slash == path ? 1 : 0] = '\0';
        folder = path;
    }
    const int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        (void)fsync(descriptor);
        (void)close(descriptor);
    }
}

kvsim_status kvsim__file_commit(kvsim__base *base, kvsim__file *file) {
    if (!file->open) {
        return kvsim__fail(base, KVSIM_E_IO, "%s: cannot write: the file was given up", file->shown);
    }
    if (!flush(file)) {
        return give_up(base, file, "cannot write");
    }
    /* Some file systems cannot sync and say so with EINVAL; there is nothing better to do on them. */
    if (fsync(file->descriptor) != 0 && errno != EINVAL) {
        return give_up(base, file, "cannot write to the disk");
    }
    const int descriptor = file->descriptor;
    file->open = false;
    const char *action = NULL;
    int number = 0;
    if (close(descriptor) != 0 && errno != EINTR) {
        number = errno;
        action = "cannot write to the disk";
    } else if (rename(file->temporary, file->path) != 0) {
        number = errno;
        action = "cannot put the finished file in place";
    }
    if (action != NULL) {
        (void)unlink(file->temporary);
        release_memory(base, file);
        return kvsim__fail_system(base, number, file->shown, action);
    }
    sync_folder(file->path);
    release_memory(base, file);
    return KVSIM_OK;
}
