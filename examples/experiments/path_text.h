/**
 * Paths put together, and folders taken away.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_PATH_TEXT_H
#define KVSIM_EXAMPLES_EXPERIMENTS_PATH_TEXT_H

#include "common/message.h"

#include <stdbool.h>

/** Longest path, terminating NUL included. */
#define PATH_TEXT_SIZE 4096

/** A path. */
typedef struct path_text {
    char text[PATH_TEXT_SIZE];
} path_text;

/** Format a path. 0, or -1 with `error` set if it is too long. */
int path_make(path_text *path, error_text *error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** A path from the root; the working folder is put before it if need be. [owned]; NULL when out of memory */
char *path_absolute(const char *path);

/** Whether something of this name is there. */
bool path_exists(const char *path);

/** Make a folder and those above it that are missing. 0, or -1 with `error` set. */
int path_make_folders(const char *path, error_text *error);

/** Take away a file, or a folder with everything in it; links are not followed. It may be missing. */
void path_remove(const char *path);

/** Sync a folder, so that a name that was changed in it stays changed. */
void path_sync(const char *folder);

#endif
