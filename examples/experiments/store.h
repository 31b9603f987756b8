/**
 * The output folder while a campaign works in it: which runs it holds, and whether they are of this configuration.
 *
 * `<output>/.runs/<name>/<repeat>/` is one run, whole or absent: it is made under another name and renamed. A program
 * that is killed at any moment leaves at most such other names, which the next one takes away.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_STORE_H
#define KVSIM_EXAMPLES_EXPERIMENTS_STORE_H

#include "path_text.h"
#include "specification.h"

#include <jansson.h>

/** Bytes of a configuration's hash as hexadecimal digits, terminating NUL included. */
#define HASH_SIZE 33

/** Value of the member `schema` of run.json. */
#define RUN_SCHEMA "kvsim.run.v1"

/** An output folder that is open. Opaque. */
typedef struct store store;

/**
 * Open an output folder, which is made if need be, and lock it.
 * @param resume false: refuse a folder that holds results of this program
 * @return NULL with `error` set if that cannot be done
 */
store *store_open(const char *path, bool resume, error_text *error);

/** Unlock the folder; folders that were made and are empty go away. NULL is allowed. */
void store_close(store *s);

/** Path of the output folder, absolute. */
const char *store_path(const store *s);

/** Path of a run. */
int store_run_folder(const store *s, const char *name, int64_t repeat, path_text *path, error_text *error);

/**
 * Hash of the configuration of a run: everything that changes its outcome (fields of the experiment, seed, the model's
 * files, the program's version), and nothing else (its description, the number of repeats).
 */
int store_hash(const experiment *e, int64_t repeat, char hash[HASH_SIZE], error_text *error);

/** @name What store_find finds
 * @{ */
#define RUN_ABSENT   0
#define RUN_COMPLETE 1
#define RUN_OTHER    2 /**< a run of another configuration */
/** @} */

/**
 * Look for a run.
 * @return RUN_*; -1 with `error` set if it cannot be read. For RUN_OTHER the error text says what differs
 */
int store_find(const store *s, const experiment *e, int64_t repeat, const char *hash, error_text *error);

/** Make an empty folder for work that is not complete: `.runs/<name>/.<label>`. */
int store_stage(const store *s, const char *name, const char *label, path_text *path, error_text *error);

/** Make the staged folder the run, in place of an older one. */
int store_commit(const store *s, const path_text *staged, const char *name, int64_t repeat, error_text *error);

/** Whether a run still has its dump. */
bool store_has_dump(const store *s, const char *name, int64_t repeat);

/** Take the dumps of all runs of an experiment away. */
void store_drop_dumps(const store *s, const experiment *e);

/** @name Small texts that say what a result was made from, so that it is not made again
 * @{ */
bool store_has_stamp(const store *s, const char *name, const char *label, const char *text);
int store_set_stamp(const store *s, const char *name, const char *label, const char *text, error_text *error);
/** @} */

#endif
