/**
 * A folder of results that is changed whole or not at all.
 */
#ifndef KVSIM_EXAMPLES_COMMON_OUTPUT_H
#define KVSIM_EXAMPLES_COMMON_OUTPUT_H

#include "message.h"

#include <stddef.h>

/** Results on their way into a folder. */
typedef struct output_folder output_folder;

/**
 * Make the folder `path` with its parents if need be, and a hidden staging folder inside it.
 * @return NULL with `error` set if that cannot be done
 */
output_folder *output_open(const char *path, error_text *error);

/** Folder that files are written to until `output_commit`. */
const char *output_staging(const output_folder *folder);

/** Write a file into the staging folder and sync it. 0, or -1 with `error` set and no file. */
int output_write(output_folder *folder, const char *name, const void *data, size_t size, error_text *error);

/**
 * Move the named files from the staging folder into the folder, in that order, replacing older ones; `outdated` files
 * of an earlier run are taken away. On failure what was there before is put back.
 */
int output_commit(output_folder *folder, const char *const *names, size_t count, const char *const *outdated,
                  size_t outdated_count, error_text *error);

/** Take the staging folder away, and the folders that `output_open` made if nothing was committed. NULL is allowed. */
void output_close(output_folder *folder);

#endif
