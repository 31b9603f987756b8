#include "store.h"

#include "common/json_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <kvsim/kvsim.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/** Files of a model up to this size are part of a hash with their content, larger ones with their size and time. */
#define HASHED_BYTES (1 << 20)

/** Most files of a model's folder. */
#define MOST_MODEL_FILES 4096

struct store {
    path_text path; /**< absolute */
    path_text runs; /**< its folder .runs */
    int lock;
    bool made; /**< the output folder was not there before */
};

const char *store_path(const store *s) {
    return s->path.text;
}

/** Whether a folder below .runs holds a complete run. */
static bool has_run(const char *folder) {
    bool found = false;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing != NULL && !found && (entry = readdir(listing)) != NULL;)
        found = entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
    if (listing != NULL)
        closedir(listing);
    return found;
}

/** Call `found` with each folder of .runs; stops when it returns true, and returns that. */
static bool any_folder(const store *s, bool (*found)(const char *folder)) {
    bool result = false;
    error_text ignored;
    path_text path;
    DIR *listing = opendir(s->runs.text);
    for (struct dirent *entry; listing != NULL && !result && (entry = readdir(listing)) != NULL;)
        if (entry->d_name[0] != '.' && path_make(&path, &ignored, "%s/%s", s->runs.text, entry->d_name) == 0)
            result = found(path.text);
    if (listing != NULL)
        closedir(listing);
    return result;
}

static bool holds_results(const store *s) {
    error_text ignored;
    path_text report;
    if (path_make(&report, &ignored, "%s/final_report.json", s->path.text) == 0 && path_exists(report.text))
        return true;
    return any_folder(s, has_run);
}

/** Take away what a killed program has left in a folder of .runs. */
static bool clean(const char *folder) {
    error_text ignored;
    path_text path;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        bool hidden = entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
        if (hidden && path_make(&path, &ignored, "%s/%s", folder, entry->d_name) == 0)
            path_remove(path.text);
    }
    if (listing != NULL)
        closedir(listing);
    return false;
}

static int take_lock(store *s, error_text *error) {
    path_text path;
    if (path_make(&path, error, "%s/.lock", s->runs.text) != 0)
        return -1;
    s->lock = open(path.text, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (s->lock < 0)
        return fail(error, "cannot write to the output folder %s: %s; name another one with --output-dir", s->path.text,
                    strerror(errno));
    if (flock(s->lock, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return fail(error,
                "another kvsim-experiments is at work in %s; wait for it, or name another folder with "
                "--output-dir",
                s->path.text);
}

static int open_folders(store *s, const char *path, error_text *error) {
    error_text reason = {""};
    s->made = !path_exists(path);
    if (path_make_folders(path, &reason) != 0)
        return fail(error, "the output folder: %s; name another one with --output-dir", reason.text);
    char *absolute = realpath(path, NULL);
    int result = absolute != NULL ? path_make(&s->path, error, "%s", absolute)
                                  : fail(error, "the output folder %s: %s", path, strerror(errno));
    free(absolute);
    if (result != 0 || path_make(&s->runs, error, "%s/.runs", s->path.text) != 0)
        return -1;
    if (path_make_folders(s->runs.text, &reason) != 0)
        return fail(error, "the output folder: %s; name another one with --output-dir", reason.text);
    return 0;
}

store *store_open(const char *path, bool resume, error_text *error) {
    store *s = calloc(1, sizeof *s);
    if (s == NULL) {
        fail(error, "out of memory");
        return NULL;
    }
    s->lock = -1;
    int result = open_folders(s, path, error);
    if (result == 0)
        result = take_lock(s, error);
    if (result == 0 && !resume && holds_results(s))
        result = fail(error,
                      "%s holds results of an earlier run; go on with them with --resume, or name another folder with "
                      "--output-dir",
                      path);
    if (result != 0) {
        store_close(s);
        return NULL;
    }
    any_folder(s, clean);
    return s;
}

void store_close(store *s) {
    path_text path;
    error_text ignored;
    if (s == NULL)
        return;
    if (s->lock >= 0 && path_make(&path, &ignored, "%s/.lock", s->runs.text) == 0) {
        /* Whoever opened the file before this has a lock on a name that is gone, so it goes only with the folder. */
        if (!any_folder(s, path_exists)) {
            unlink(path.text);
            rmdir(s->runs.text);
        }
        close(s->lock);
    }
    if (s->made)
        rmdir(s->path.text);
    free(s);
}

int store_run_folder(const store *s, const char *name, int64_t repeat, path_text *path, error_text *error) {
    return path_make(path, error, "%s/%s/%" PRId64, s->runs.text, name, repeat);
}

/* ---- The hash ---- */

static void hash_text(XXH3_state_t *state, const char *text) {
    XXH3_128bits_update(state, text, strlen(text) + 1);
}

/** Name, size and content, or time, of one file. */
static int hash_file(XXH3_state_t *state, const char *folder, const char *name, error_text *error) {
    path_text path;
    struct stat facts;
    if (path_make(&path, error, "%s/%s", folder, name) != 0)
        return -1;
    if (stat(path.text, &facts) != 0 || !S_ISREG(facts.st_mode))
        return 0;
    char text[96];
    hash_text(state, name);
    snprintf(text, sizeof text, "%jd", (intmax_t)facts.st_size);
    hash_text(state, text);
    if (facts.st_size > HASHED_BYTES) {
        snprintf(text, sizeof text, "%jd.%09ld", (intmax_t)facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec);
        hash_text(state, text);
        return 0;
    }
    FILE *file = fopen(path.text, "rbe");
    if (file == NULL)
        return fail(error, "cannot open %s: %s", path.text, strerror(errno));
    char data[4096];
    for (size_t got; (got = fread(data, 1, sizeof data, file)) > 0;)
        XXH3_128bits_update(state, data, got);
    fclose(file);
    return 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/** The files of a model's folder in the order of their names; what is no folder is only a name. */
static int hash_model(XXH3_state_t *state, const char *model, error_text *error) {
    char *names[MOST_MODEL_FILES];
    size_t count = 0;
    int result = 0;
    DIR *listing = opendir(model);
    const char *slash = strrchr(model, '/');
    hash_text(state, listing != NULL && slash != NULL ? slash + 1 : model);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL && count < MOST_MODEL_FILES;)
        if (entry->d_name[0] != '.' && (names[count] = strdup(entry->d_name)) != NULL)
            count++;
    if (listing != NULL)
        closedir(listing);
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (result == 0)
            result = hash_file(state, model, names[i], error);
        free(names[i]);
    }
    return result;
}

int store_hash(const experiment *e, int64_t repeat, char hash[HASH_SIZE], error_text *error) {
    json_t *object = experiment_to_json(e);
    char *text = NULL;
    char seed[32];
    if (object != NULL) {
        json_object_del(object, "description");
        json_object_del(object, "repeats");
        json_object_del(object, "seed");
        json_object_del(object, "model");
        text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    }
    json_decref(object);
    if (text == NULL)
        return fail(error, "out of memory");
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    hash_text(&state, KVSIM_VERSION_STRING);
    hash_text(&state, text);
    free(text);
    snprintf(seed, sizeof seed, "%" PRIu64, experiment_repeat_seed(e, repeat));
    hash_text(&state, seed);
    if (hash_model(&state, e->model, error) != 0)
        return -1;
    XXH128_hash_t digest = XXH3_128bits_digest(&state);
    snprintf(hash, HASH_SIZE, "%016" PRIx64 "%016" PRIx64, digest.high64, digest.low64);
    return 0;
}

/* ---- Runs ---- */

/** A value as a short text. */
static void describe_value(const json_t *value, char *text, size_t size) {
    char *dumped = value != NULL ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    const char *shown = value == NULL ? "absent" : dumped != NULL ? dumped : "?";
    snprintf(text, size, strlen(shown) < size ? "%s" : "other", shown);
    free(dumped);
}

/** Say which fields differ between the experiment of a run and ours. */
static void describe_difference(const json_t *before, const experiment *e, char *text, size_t size) {
    json_t *now = experiment_to_json(e);
    size_t used = 0;
    text[0] = 0;
    for (experiment_field f = 0; f < FIELD_COUNT; f++) {
        const char *name = experiment_field_names[f];
        const json_t *old = json_object_get(before, name), *ours = json_object_get(now, name);
        bool same = old == NULL || ours == NULL ? old == ours : json_equal(old, ours) != 0;
        if (same || f == FIELD_DESCRIPTION || f == FIELD_REPEATS || used >= size)
            continue;
        char was[64], is[64];
        describe_value(old, was, sizeof was);
        describe_value(ours, is, sizeof is);
        used +=
            (size_t)snprintf(text + used, size - used, "%s%s was %s and is %s", used > 0 ? ", " : "", name, was, is);
    }
    if (used == 0)
        snprintf(text, size, "the files of the model, or the version of the program, are others");
    json_decref(now);
}

int store_find(const store *s, const experiment *e, int64_t repeat, const char *hash, error_text *error) {
    path_text folder, path;
    error_text reason = {""};
    if (store_run_folder(s, e->name, repeat, &folder, error) != 0 ||
        path_make(&path, error, "%s/run.json", folder.text) != 0)
        return -1;
    if (!path_exists(path.text))
        return RUN_ABSENT;
    json_t *run = json_file_read(path.text, &reason);
    const char *found = json_string_value(json_object_get(run, "config_hash"));
    int result = run == NULL ? fail(error, "%s", reason.text) : RUN_OTHER;
    if (found != NULL && strcmp(found, hash) == 0)
        result = RUN_COMPLETE;
    json_decref(run);
    if (result != RUN_OTHER || path_make(&path, error, "%s/experiment.json", folder.text) != 0)
        return result;
    char difference[512];
    json_t *before = json_file_read(path.text, &reason);
    describe_difference(before, e, difference, sizeof difference);
    json_decref(before);
    fail(error,
         "experiment %s: %s holds a run of another configuration (%s); give the same options as before, or another "
         "folder with --output-dir",
         e->name, s->path.text, difference);
    return RUN_OTHER;
}

int store_stage(const store *s, const char *name, const char *label, path_text *path, error_text *error) {
    if (path_make(path, error, "%s/%s/.%s", s->runs.text, name, label) != 0)
        return -1;
    path_remove(path->text);
    return path_make_folders(path->text, error);
}

int store_commit(const store *s, const path_text *staged, const char *name, int64_t repeat, error_text *error) {
    path_text folder;
    if (store_run_folder(s, name, repeat, &folder, error) != 0)
        return -1;
    path_remove(folder.text);
    if (rename(staged->text, folder.text) != 0)
        return fail(error, "cannot put %s in place: %s", folder.text, strerror(errno));
    char *slash = strrchr(folder.text, '/');
    *slash = 0;
    path_sync(folder.text);
    return 0;
}

bool store_has_dump(const store *s, const char *name, int64_t repeat) {
    path_text path;
    error_text ignored;
    return path_make(&path, &ignored, "%s/%s/%" PRId64 "/dump.safetensors", s->runs.text, name, repeat) == 0 &&
           path_exists(path.text);
}

void store_drop_dumps(const store *s, const experiment *e) {
    path_text path;
    error_text ignored;
    for (int64_t repeat = 0; repeat < e->repeats; repeat++)
        if (path_make(&path, &ignored, "%s/%s/%" PRId64 "/dump.safetensors", s->runs.text, e->name, repeat) == 0)
            unlink(path.text);
}

bool store_has_stamp(const store *s, const char *name, const char *label, const char *text) {
    path_text path;
    error_text ignored;
    if (path_make(&path, &ignored, "%s/%s/%s-made-from.json", s->runs.text, name, label) != 0 ||
        !path_exists(path.text))
        return false;
    json_t *stamp = json_file_read(path.text, &ignored);
    const char *made_from = json_string_value(json_object_get(stamp, "made_from"));
    bool same = made_from != NULL && strcmp(made_from, text) == 0;
    json_decref(stamp);
    return same;
}

int store_set_stamp(const store *s, const char *name, const char *label, const char *text, error_text *error) {
    path_text path;
    if (path_make(&path, error, "%s/%s/%s-made-from.json", s->runs.text, name, label) != 0)
        return -1;
    json_t *stamp = json_object();
    json_object_set_new(stamp, "made_from", json_string(text));
    int result = json_file_write(path.text, stamp, error);
    json_decref(stamp);
    return result;
}
