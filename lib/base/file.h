/**
 * A file that appears whole or not at all: bytes go to a temporary file in the same folder, which is synced and
 * renamed over the path at the end.
 */
#ifndef KVSIM_BASE_FILE_H
#define KVSIM_BASE_FILE_H

#include "base.h"

/** Bytes of a text made by `kvsim__shorten`, terminating NUL included. */
#define KVSIM__SHORT_SIZE 128

/** A file that is being written. All zero: no file. */
typedef struct kvsim__file {
    char *path;      /**< the file to be, after symbolic links */
    char *temporary; /**< what is written, in the same folder */
    unsigned char *buffer;
    size_t path_size;
    size_t temporary_size;
    size_t used;
    int descriptor;
    bool open;
    char shown[KVSIM__SHORT_SIZE]; /**< path as given, for error texts */
} kvsim__file;

/**
 * Begin a file. A symbolic link is followed; a path that names anything but a regular file is refused.
 * The host keeps its signals: where a file size limit is set, SIGXFSZ must be ignored for the limit to come as an
 * error.
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_IO, KVSIM_E_NOMEM; on failure nothing is left behind
 */
kvsim_status kvsim__file_begin(kvsim__base *base, const char *path, kvsim__file *file);

/** Append bytes. On failure (KVSIM_E_IO) the file is abandoned. */
kvsim_status kvsim__file_write(kvsim__base *base, kvsim__file *file, const void *data, size_t size);

/** Flush, sync and rename. On failure (KVSIM_E_IO) the file is abandoned. */
kvsim_status kvsim__file_commit(kvsim__base *base, kvsim__file *file);

/** Forget the file; nothing is left behind. Does nothing after a commit, a failure or a second call. */
void kvsim__file_abandon(kvsim__base *base, kvsim__file *file);

/** Fail with `WHAT: the system's reason for the error number`. */
kvsim_status kvsim__fail_system(kvsim__base *base, int number, const char *what, const char *action);

/**
 * Copy UTF-8 text into `out`, cut to fit between two characters, with "..." where something is missing: the
 * beginning if `keep_end`, which suits paths, else the end, which suits names.
 * @return out
 */
const char *kvsim__shorten(const char *text, bool keep_end, char out[KVSIM__SHORT_SIZE]);

#endif
