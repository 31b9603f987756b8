/**
 * Finds the backend of a device, checks it and loads it: once in a process, and for good.
 *
 * A table that is linked into the program comes first. Else the plug-in is looked for in the folder that the
 * environment names in KVSIM_BACKEND_DIR, in libkvsim's own folder, in `kvsim` below that, and where it is installed;
 * the first file found counts, also if it cannot be used. The current folder is never looked at, and of a process with
 * more rights than its user (setuid) neither are the environment and the folder of the program.
 */
#ifndef KVSIM_BACKEND_LOADER_H
#define KVSIM_BACKEND_LOADER_H

#include "backend.h"

/** File name of the plug-in. */
#define KVSIM__BACKEND_FILE "libkvsim_cuda.so"

/** Variable of the environment that names a folder; an absolute path. */
#define KVSIM__BACKEND_VARIABLE "KVSIM_BACKEND_DIR"

/** Room for a reason, terminating NUL included. */
#define KVSIM__REASON_SIZE 512

/**
 * The backend of this process. Any thread may call. A failure is not kept: the next call looks again.
 * @param reason on failure one line that says what is wrong, where, and what to do
 * @return [borrowed] valid until the process ends; NULL if there is none that can be used
 */
const kvsim__backend *kvsim__backend_find(char *reason, size_t reason_size);

/** Load the plug-in `path`, which is absolute, and check it. Results as those of kvsim__backend_find. */
const kvsim__backend *kvsim__backend_load(const char *path, char *reason, size_t reason_size);

#endif
