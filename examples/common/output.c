#include "output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/** Most files of one commit. */
#define MAX_FILES 64

struct output_folder {
    char *path;
    char *staging;
    /** The first `made` bytes of `path` name the topmost folder that did not exist before; 0: all existed. */
    size_t made;
    bool committed;
};

/** "folder/name" in new memory, NULL when out of memory. */
static char *join(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/** Make `path` and its parents; how much of it names the topmost new folder goes to `made`. */
static int make_folders(char *path, size_t *made, error_text *error) {
    size_t length = strlen(path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        char saved = path[i];
        path[i] = 0;
        int failed = mkdir(path, 0777) != 0;
        int reason = errno;
        if (!failed && *made == 0)
            *made = i;
        if (failed && reason != EEXIST)
            return fail(error, "cannot make the output folder %s: %s; name another one with --output-dir", path,
                        strerror(reason));
        path[i] = saved;
    }
    return 0;
}

/** Remove the folders that make_folders made, innermost first; stops at the first that is not empty. */
static void remove_made_folders(output_folder *folder) {
    size_t length = strlen(folder->path);
    while (folder->made > 0 && length >= folder->made) {
        folder->path[length] = 0;
        if (rmdir(folder->path) != 0)
            return;
        while (length > 0 && folder->path[length] != '/')
            length--;
    }
}

output_folder *output_open(const char *path, error_text *error) {
    output_folder *folder = calloc(1, sizeof *folder);
    if (folder == NULL || (folder->path = strdup(path)) == NULL) {
        free(folder);
        fail(error, "out of memory");
        return NULL;
    }
    size_t length = strlen(folder->path);
    while (length > 1 && folder->path[length - 1] == '/')
        folder->path[--length] = 0;
    if (length == 0) {
        fail(error, "the name of the output folder is empty; name one with --output-dir");
        output_close(folder);
        return NULL;
    }
    if (make_folders(folder->path, &folder->made, error) != 0) {
        output_close(folder);
        return NULL;
    }
    char *staging = join(folder->path, ".kvsim-XXXXXX");
    if (staging == NULL || mkdtemp(staging) == NULL) {
        fail(error, "cannot write to the output folder %s: %s; name another one with --output-dir", folder->path,
             strerror(errno));
        free(staging);
        output_close(folder);
        return NULL;
    }
    folder->staging = staging;
    return folder;
}

const char *output_staging(const output_folder *folder) {
    return folder->staging;
}

static int write_all(int descriptor, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(descriptor, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        data += written;
        size -= (size_t)written;
    }
    return fsync(descriptor);
}

int output_write(output_folder *folder, const char *name, const void *data, size_t size, error_text *error) {
    char *path = join(folder->staging, name);
    if (path == NULL)
        return fail(error, "out of memory");
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int failed = descriptor < 0 || write_all(descriptor, data, size) != 0;
    int reason = errno;
    if (descriptor >= 0 && close(descriptor) != 0 && !failed) {
        failed = 1;
        reason = errno;
    }
    if (failed) {
        fail(error, "cannot write %s/%s: %s; make room or name another folder with --output-dir", folder->path, name,
             strerror(reason));
        unlink(path);
    }
    free(path);
    return failed ? -1 : 0;
}

/** Sync a file or a folder that somebody else has written. */
static int sync_path(const char *path) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    int result = fsync(descriptor);
    close(descriptor);
    return result;
}

/** One name of a commit: where the new file waits, where it goes, where the old one is kept meanwhile. */
typedef struct move {
    char *staged; /**< NULL for an outdated file */
    char *target;
    char *old;
    bool old_kept;
    bool moved;
} move;

static int make_move(move *step, const output_folder *folder, const char *name, bool outdated) {
    char old_name[32];
    snprintf(old_name, sizeof old_name, "old-%p", (const void *)step);
    memset(step, 0, sizeof *step);
    step->target = join(folder->path, name);
    step->old = join(folder->staging, old_name);
    if (!outdated)
        step->staged = join(folder->staging, name);
    return step->target == NULL || step->old == NULL || (!outdated && step->staged == NULL) ? -1 : 0;
}

static int do_move(move *step) {
    struct stat facts;
    if (step->staged != NULL && sync_path(step->staged) != 0)
        return -1;
    if (lstat(step->target, &facts) == 0) {
        if (S_ISDIR(facts.st_mode)) {
            errno = EISDIR;
            return -1;
        }
        if (rename(step->target, step->old) != 0)
            return -1;
        step->old_kept = true;
    }
    if (step->staged != NULL) {
        if (rename(step->staged, step->target) != 0)
            return -1;
        step->moved = true;
    }
    return 0;
}

static void undo_move(const move *step) {
    if (step->moved)
        rename(step->target, step->staged);
    if (step->old_kept)
        rename(step->old, step->target);
}

int output_commit(output_folder *folder, const char *const *names, size_t count, const char *const *outdated,
                  size_t outdated_count, error_text *error) {
    move steps[MAX_FILES];
    size_t total = count + outdated_count;
    size_t made = 0;
    int result = 0;
    if (total > MAX_FILES)
        return fail(error, "too many files for one commit: %zu", total);
    /* Outdated files go first: nobody may see an old picture beside the new report, which comes last. */
    for (; made < total && result == 0; made++) {
        bool is_old = made < outdated_count;
        result = make_move(&steps[made], folder, is_old ? outdated[made] : names[made - outdated_count], is_old);
    }
    if (result != 0)
        fail(error, "out of memory");
    for (size_t done = 0; done < total && result == 0; done++) {
        if (do_move(&steps[done]) == 0)
            continue;
        result = fail(error, "cannot put %s in place: %s", steps[done].target, strerror(errno));
        for (size_t i = done + 1; i > 0; i--)
            undo_move(&steps[i - 1]);
    }
    for (size_t i = 0; i < made; i++) {
        free(steps[i].staged);
        free(steps[i].target);
        free(steps[i].old);
    }
    if (result == 0) {
        folder->committed = true;
        sync_path(folder->path);
    }
    return result;
}

void output_close(output_folder *folder) {
    if (folder == NULL)
        return;
    if (folder->staging != NULL) {
        DIR *listing = opendir(folder->staging);
        for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;)
            unlinkat(dirfd(listing), entry->d_name, 0);
        if (listing != NULL)
            closedir(listing);
        rmdir(folder->staging);
        free(folder->staging);
    }
    if (!folder->committed)
        remove_made_folders(folder);
    free(folder->path);
    free(folder);
}
