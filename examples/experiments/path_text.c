#include "path_text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int path_make(path_text *path, error_text *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path->text, sizeof path->text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof path->text)
        return fail(error, "a path is longer than %zu bytes: %.200s...", sizeof path->text - 1, path->text);
    return 0;
}

char *path_absolute(const char *path) {
    char *folder = path[0] != '/' ? getcwd(NULL, 0) : NULL;
    char *absolute;
    while (folder != NULL && path[0] == '.' && path[1] == '/')
        path += 2;
    bool here = folder != NULL && strcmp(path, ".") == 0;
    if (asprintf(&absolute, "%s%s%s", folder != NULL ? folder : "", folder != NULL && !here ? "/" : "",
                 here ? "" : path) < 0)
        absolute = NULL;
    free(folder);
    return absolute;
}

bool path_exists(const char *path) {
    struct stat facts;
    return lstat(path, &facts) == 0;
}

int path_make_folders(const char *path, error_text *error) {
    path_text copy;
    struct stat facts;
    if (path_make(&copy, error, "%s", path) != 0)
        return -1;
    for (size_t i = 1;; i++) {
        if (copy.text[i] != '/' && copy.text[i] != 0)
            continue;
        char saved = copy.text[i];
        copy.text[i] = 0;
        if (mkdir(copy.text, 0777) != 0 && errno != EEXIST)
            return fail(error, "cannot make the folder %s: %s", copy.text, strerror(errno));
        copy.text[i] = saved;
        if (saved == 0)
            break;
    }
    if (stat(path, &facts) != 0 || !S_ISDIR(facts.st_mode))
        return fail(error, "%s is no folder", path);
    return 0;
}

/** Take away what is in a folder; takes the descriptor over. */
static void empty_folder(int descriptor) {
    DIR *listing = fdopendir(descriptor);
    if (listing == NULL) {
        close(descriptor);
        return;
    }
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(listing), entry->d_name, 0) == 0)
            continue;
        int inner = openat(dirfd(listing), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner >= 0)
            empty_folder(inner);
        unlinkat(dirfd(listing), entry->d_name, AT_REMOVEDIR);
    }
    closedir(listing);
}

void path_remove(const char *path) {
    if (unlink(path) == 0)
        return;
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor >= 0)
        empty_folder(descriptor);
    rmdir(path);
}

void path_sync(const char *folder) {
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0)
        return;
    fsync(descriptor);
    close(descriptor);
}
