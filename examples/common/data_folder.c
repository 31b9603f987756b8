#include "data_folder.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KVSIM_SOURCE_DATA_DIR
#error "define KVSIM_SOURCE_DATA_DIR: the folder examples/ of the source tree"
#endif

static char *join(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

char *find_shipped(const char *name) {
    const char *chosen = getenv("KVSIM_DATA_DIR");
    if (chosen != NULL && chosen[0] != 0)
        return join(chosen, name);
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash != NULL) {
        *slash = 0;
        char *path;
        if (asprintf(&path, "%s/../share/kvsim/%s", program, name) < 0)
            return NULL;
        if (access(path, F_OK) == 0)
            return path;
        free(path);
    }
    return join(KVSIM_SOURCE_DATA_DIR, name);
}
