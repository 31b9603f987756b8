#define _XOPEN_SOURCE 700
#include "snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    /* More shards than any model has; each takes a mapping, of which a process has some 65,000. */
    SHARDS_LIMIT = 4096
};

/* Other tools keep facts of their own beside the map, in whatever shape. */
static const kvsim__json_limits index_limits = {.depth = KVSIM__DEPTH_LIMIT, .list = SIZE_MAX, .values = 2000000};

#define MODEL_FILE   "model.safetensors"
#define MODEL_INDEX  "model.safetensors.index.json"
#define MODEL_ENDING ".safetensors"
#define INDEX_ENDING ".json"
#define MEMORY_SHOWN "(memory)"
#define WEIGHT_MAP   "weight_map"
#define ZIP_MAGIC    "PK\003\004"
#define GGUF_MAGIC   "GGUF"

/* ---- Entries ---- */

kvsim_status kvsim__refuse_tensor(kvsim__base *base, const char *shown, const char *name, const char *format, ...) {
    char shortened[KVSIM__SHORT_SIZE];
    char text[KVSIM__ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return kvsim__fail(base, KVSIM_E_FORMAT, "%s: tensor '%s': %s", shown, kvsim__shorten(name, false, shortened),
                       text);
}

static bool comes_before(const kvsim__entry *a, const kvsim__entry *b, bool by_name) {
    if (!by_name) {
        if (a->begin != b->begin) {
            return a->begin < b->begin;
        }
        if (a->end != b->end) {
            return a->end < b->end;
        }
    }
    const int order = strcmp(a->name, b->name);
    return order != 0 ? order < 0 : a->file < b->file;
}

static void sift_down(kvsim__entry *entries, size_t root, size_t count, bool by_name) {
    const kvsim__entry moved = entries[root];
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && comes_before(&entries[child], &entries[child + 1], by_name)) {
            child++;
        }
        if (!comes_before(&moved, &entries[child], by_name)) {
            break;
        }
        entries[root] = entries[child];
        root = child;
    }
    entries[root] = moved;
}

/* Heap sort: qsort may take memory of its own, and no order of a hostile file makes this one slow. Most files are in
 * order already. */
void kvsim__sort_entries(kvsim__entry *entries, size_t count, bool by_name) {
    size_t ordered = 1;
    while (ordered < count && comes_before(&entries[ordered - 1], &entries[ordered], by_name)) {
        ordered++;
    }
    if (ordered >= count) {
        return;
    }
    for (size_t root = count / 2; root-- > 0;) {
        sift_down(entries, root, count, by_name);
    }
    for (size_t last = count; last-- > 1;) {
        const kvsim__entry largest = entries[0];
        entries[0] = entries[last];
        entries[last] = largest;
        sift_down(entries, 0, last, by_name);
    }
}

const kvsim__entry *kvsim__find_entry(const kvsim_snapshot *snapshot, const char *name) {
    size_t low = 0;
    size_t high = snapshot->entry_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(snapshot->entries[middle].name, name);
        if (order == 0) {
            return &snapshot->entries[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* ---- Files ---- */

static kvsim_status add_file(kvsim_snapshot *snapshot, const char *path, kvsim__source **out) {
    void *files = snapshot->files;
    const kvsim_status status = kvsim__grow(snapshot->base, &files, &snapshot->file_capacity, snapshot->file_count + 1,
                                            sizeof *snapshot->files);
    snapshot->files = files;
    if (status != KVSIM_OK) {
        return status;
    }
    *out = &snapshot->files[snapshot->file_count++];
    **out = (kvsim__source){0};
    (void)kvsim__shorten(path, true, (*out)->shown);
    return KVSIM_OK;
}

static kvsim_status map_descriptor(kvsim__base *base, int descriptor, const struct stat *facts, const char *shown,
                                   const unsigned char **bytes, size_t *size) {
    if (!S_ISREG(facts->st_mode)) {
        return kvsim__fail(base, KVSIM_E_IO, "%s: not a regular file", shown);
    }
    if (facts->st_size <= 0) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: the file is empty", shown);
    }
    if ((uint64_t)facts->st_size > SIZE_MAX / 2) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "%s: too large for the address space", shown);
    }
    *size = (size_t)facts->st_size;
    void *memory = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) {
        return kvsim__fail_system(base, errno, shown, "cannot map the file");
    }
    *bytes = memory;
    return KVSIM_OK;
}

/* O_NONBLOCK: opening a pipe that nobody writes to must not hang. */
static int open_for_reading(const char *path) {
    int descriptor = -1;
    do {
        descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

kvsim_status kvsim__map_path(kvsim__base *base, const char *path, const unsigned char **bytes, size_t *size,
                             bool *folder) {
    char shown[KVSIM__SHORT_SIZE];
    (void)kvsim__shorten(path, true, shown);
    *folder = false;
    const int descriptor = open_for_reading(path);
    if (descriptor < 0) {
        return kvsim__fail_system(base, errno, shown, "cannot open");
    }
    struct stat facts;
    kvsim_status status = KVSIM_OK;
    if (fstat(descriptor, &facts) != 0) {
        status = kvsim__fail_system(base, errno, shown, "cannot open");
    } else if (S_ISDIR(facts.st_mode)) {
        *folder = true;
    } else {
        status = map_descriptor(base, descriptor, &facts, shown, bytes, size);
    }
    (void)close(descriptor);
    return status;
}

void kvsim__unmap(const unsigned char *bytes, size_t size) {
    /* munmap takes the address without const. */
    (void)munmap((void *)(uintptr_t)bytes, size);
}

/* Read the header of the newest file of the snapshot, whatever its format is. */
static kvsim_status read_file(kvsim_snapshot *snapshot) {
    const size_t file = snapshot->file_count - 1;
    const kvsim__source *source = &snapshot->files[file];
    if (kvsim__is_npy(source->bytes, source->size)) {
        if (file > 0 || source->shard != NULL) {
            return kvsim__fail(snapshot->base, KVSIM_E_FORMAT, "%s: an npy file cannot be a shard", source->shown);
        }
        snapshot->npy = true;
        return kvsim__read_npy(snapshot, file);
    }
    if (source->size >= 4 && memcmp(source->bytes, ZIP_MAGIC, 4) == 0) {
        return kvsim__fail(snapshot->base, KVSIM_E_FORMAT,
                           "%s: a zip archive (a PyTorch checkpoint, or npz), not safetensors; convert it first",
                           source->shown);
    }
    if (source->size >= 4 && memcmp(source->bytes, GGUF_MAGIC, 4) == 0) {
        return kvsim__fail(snapshot->base, KVSIM_E_FORMAT, "%s: a GGUF file, not safetensors; convert it first",
                           source->shown);
    }
    return kvsim__read_safetensors(snapshot, file);
}

char *kvsim__join(kvsim__base *base, const char *folder, size_t folder_length, const char *name, size_t *size) {
    *size = folder_length + strlen(name) + 2;
    char *path = kvsim__allocate(base, *size, 1);
    if (path == NULL) {
        (void)kvsim__fail_memory(base, *size, "a path");
        return NULL;
    }
    const bool slash = folder_length > 0 && folder[folder_length - 1] != '/';
    (void)snprintf(path, *size, "%.*s%s%s", (int)folder_length, folder, slash ? "/" : "", name);
    return path;
}

/* ---- Index and shards ---- */

/* A shard lies beside its index: a name with a folder in it could reach any file. */
static bool is_plain_name(const char *name) {
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strpbrk(name, "/\\") == NULL;
}

static kvsim_status open_shard(kvsim_snapshot *snapshot, const char *index_path, const char *index_shown,
                               const char *shard) {
    kvsim__base *base = snapshot->base;
    if (snapshot->file_count == SHARDS_LIMIT) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: names more than %d files", index_shown, SHARDS_LIMIT);
    }
    const char *slash = strrchr(index_path, '/');
    size_t path_size = 0;
    char *path = kvsim__join(base, index_path, slash == NULL ? 0 : (size_t)(slash - index_path) + 1, shard, &path_size);
    if (path == NULL) {
        return KVSIM_E_NOMEM;
    }
    kvsim__source *source = NULL;
    kvsim_status status = add_file(snapshot, path, &source);
    if (status == KVSIM_OK) {
        bool folder = false;
        source->shard = shard;
        status = kvsim__map_path(base, path, &source->bytes, &source->size, &folder);
        if (status == KVSIM_OK && folder) {
            status = kvsim__fail(base, KVSIM_E_FORMAT, "%s: a folder, where the index names a file", source->shown);
        }
        source->mapped = status == KVSIM_OK;
    }
    kvsim__release(base, path, path_size, 1);
    return status == KVSIM_OK ? read_file(snapshot) : status;
}

static bool has_shard(const kvsim_snapshot *snapshot, const char *shard) {
    /* Neighbours in the map mostly share a shard, so the newest one is looked at first. */
    for (size_t i = snapshot->file_count; i-- > 0;) {
        if (strcmp(snapshot->files[i].shard, shard) == 0) {
            return true;
        }
    }
    return false;
}

static kvsim_status open_shards(kvsim_snapshot *snapshot, const char *path, const char *shown, json_t *map) {
    const char *name = NULL;
    json_t *value = NULL;
    char shortened[KVSIM__SHORT_SIZE];
    json_object_foreach(map, name, value) {
        const char *shard = json_string_value(value);
        if (shard == NULL) {
            return kvsim__refuse_tensor(snapshot->base, shown, name, "the index gives no file name for it");
        }
        if (!is_plain_name(shard)) {
            return kvsim__refuse_tensor(snapshot->base, shown, name,
                                        "'%s' is not the plain name of a file beside the index",
                                        kvsim__shorten(shard, false, shortened));
        }
        if (!has_shard(snapshot, shard)) {
            const kvsim_status status = open_shard(snapshot, path, shown, shard);
            if (status != KVSIM_OK) {
                return status;
            }
        }
    }
    return KVSIM_OK;
}

/* Put the entries in order of names; one name in two files is refused. */
static kvsim_status order_entries(kvsim_snapshot *snapshot) {
    kvsim__sort_entries(snapshot->entries, snapshot->entry_count, true);
    for (size_t i = 1; i < snapshot->entry_count; i++) {
        const kvsim__entry *previous = &snapshot->entries[i - 1];
        const kvsim__entry *entry = &snapshot->entries[i];
        if (strcmp(previous->name, entry->name) == 0) {
            return kvsim__refuse_tensor(snapshot->base, snapshot->files[entry->file].shown, entry->name, "also in %s",
                                        snapshot->files[previous->file].shown);
        }
    }
    return KVSIM_OK;
}

static kvsim_status check_index(const kvsim_snapshot *snapshot, const char *shown, json_t *map) {
    const char *name = NULL;
    json_t *value = NULL;
    char shortened[KVSIM__SHORT_SIZE];
    json_object_foreach(map, name, value) {
        const char *shard = kvsim__shorten(json_string_value(value), false, shortened);
        const kvsim__entry *entry = kvsim__find_entry(snapshot, name);
        if (entry == NULL) {
            return kvsim__refuse_tensor(snapshot->base, shown, name, "not in '%s', where the index has it", shard);
        }
        if (strcmp(snapshot->files[entry->file].shard, json_string_value(value)) != 0) {
            return kvsim__refuse_tensor(snapshot->base, shown, name, "in %s, but the index has it in '%s'",
                                        snapshot->files[entry->file].shown, shard);
        }
    }
    return KVSIM_OK;
}

static kvsim_status read_index(kvsim_snapshot *snapshot, const char *path, const unsigned char *bytes, size_t size) {
    kvsim__base *base = snapshot->base;
    char shown[KVSIM__SHORT_SIZE];
    (void)kvsim__shorten(path, true, shown);
    if (size > KVSIM__HEADER_LIMIT) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: an index of %zu bytes; at most %u are allowed", shown, size,
                           KVSIM__HEADER_LIMIT);
    }
    kvsim_status status = KVSIM_OK;
    json_t *root = kvsim__parse_json(base, shown, "index", bytes, size, &index_limits, &status);
    if (root == NULL) {
        return status;
    }
    json_t *map = json_object_get(root, WEIGHT_MAP);
    if (!json_is_object(map) || json_object_size(map) == 0) {
        status = kvsim__fail(base, KVSIM_E_FORMAT, "%s: index: no object '" WEIGHT_MAP "' with tensors in it", shown);
    } else {
        status = open_shards(snapshot, path, shown, map);
    }
    if (status == KVSIM_OK) {
        status = order_entries(snapshot);
    }
    if (status == KVSIM_OK) {
        status = check_index(snapshot, shown, map);
    }
    for (size_t i = 0; i < snapshot->file_count; i++) {
        snapshot->files[i].shard = NULL;
    }
    json_decref(root);
    return status;
}

/* ---- Paths ---- */

static bool ends_with(const char *text, const char *ending) {
    const size_t length = strlen(text);
    const size_t ending_length = strlen(ending);
    return length > ending_length && strcmp(text + length - ending_length, ending) == 0;
}

static kvsim_status open_file(kvsim_snapshot *snapshot, const char *path, const unsigned char *bytes, size_t size) {
    if (ends_with(path, INDEX_ENDING)) {
        const kvsim_status status = read_index(snapshot, path, bytes, size);
        kvsim__unmap(bytes, size);
        return status;
    }
    kvsim__source *source = NULL;
    kvsim_status status = add_file(snapshot, path, &source);
    if (status != KVSIM_OK) {
        kvsim__unmap(bytes, size);
        return status;
    }
    source->bytes = bytes;
    source->size = size;
    source->mapped = true;
    status = read_file(snapshot);
    return status == KVSIM_OK ? order_entries(snapshot) : status;
}

/* Name of the only *.safetensors of a folder, [owned]; how many there are in *count. */
static kvsim_status find_only_file(kvsim__base *base, const char *folder, const char *shown, char **path,
                                   size_t *path_size, size_t *count) {
    DIR *listing = opendir(folder);
    if (listing == NULL) {
        return kvsim__fail_system(base, errno, shown, "cannot list the folder");
    }
    kvsim_status status = KVSIM_OK;
    for (;;) {
        errno = 0;
        const struct dirent *item = readdir(listing);
        if (item == NULL) {
            if (errno != 0) {
                status = kvsim__fail_system(base, errno, shown, "cannot list the folder");
            }
            break;
        }
        if (!ends_with(item->d_name, MODEL_ENDING) || item->d_name[0] == '.') {
            continue;
        }
        (*count)++;
        if (*path == NULL) {
            *path = kvsim__join(base, folder, strlen(folder), item->d_name, path_size);
            if (*path == NULL) {
                status = KVSIM_E_NOMEM;
                break;
            }
        }
    }
    (void)closedir(listing);
    return status;
}

/* Path of the file that a folder is opened by, [owned]. */
static kvsim_status choose_file(kvsim__base *base, const char *folder, char **path, size_t *path_size) {
    static const char *const preferred[] = {MODEL_FILE, MODEL_INDEX};
    char shown[KVSIM__SHORT_SIZE];
    (void)kvsim__shorten(folder, true, shown);
    for (size_t i = 0; i < sizeof preferred / sizeof preferred[0]; i++) {
        *path = kvsim__join(base, folder, strlen(folder), preferred[i], path_size);
        if (*path == NULL) {
            return KVSIM_E_NOMEM;
        }
        if (access(*path, F_OK) == 0) {
            return KVSIM_OK;
        }
        kvsim__release(base, *path, *path_size, 1);
        *path = NULL;
    }
    size_t count = 0;
    const kvsim_status status = find_only_file(base, folder, shown, path, path_size, &count);
    if (status != KVSIM_OK) {
        return status;
    }
    if (count == 0) {
        return kvsim__fail(base, KVSIM_E_IO, "%s: no *" MODEL_ENDING " in this folder", shown);
    }
    if (count > 1) {
        return kvsim__fail(base, KVSIM_E_IO,
                           "%s: %zu files *" MODEL_ENDING " in this folder and no " MODEL_INDEX "; name one of them",
                           shown, count);
    }
    return KVSIM_OK;
}

static kvsim_status open_folder(kvsim_snapshot *snapshot, const char *folder) {
    kvsim__base *base = snapshot->base;
    char *path = NULL;
    size_t path_size = 0;
    kvsim_status status = choose_file(base, folder, &path, &path_size);
    if (status == KVSIM_OK) {
        const unsigned char *bytes = NULL;
        size_t size = 0;
        bool is_folder = false;
        status = kvsim__map_path(base, path, &bytes, &size, &is_folder);
        if (status == KVSIM_OK && is_folder) {
            char shown[KVSIM__SHORT_SIZE];
            status = kvsim__fail(base, KVSIM_E_IO, "%s: a folder, where a file should be",
                                 kvsim__shorten(path, true, shown));
        } else if (status == KVSIM_OK) {
            status = open_file(snapshot, path, bytes, size);
        }
    }
    kvsim__release(base, path, path_size, 1);
    return status;
}

/* ---- Public calls ---- */

static kvsim_status make_snapshot(kvsim__base *base, kvsim_snapshot **out) {
    *out = kvsim__allocate_zeroed(base, 1, sizeof **out);
    if (*out == NULL) {
        return kvsim__fail_memory(base, sizeof **out, "a snapshot");
    }
    (*out)->base = base;
    return KVSIM_OK;
}

static kvsim_status hand_out(kvsim_snapshot *snapshot, kvsim_status status, kvsim_snapshot **out) {
    if (status != KVSIM_OK) {
        kvsim_snapshot_close(snapshot);
        return status;
    }
    *out = snapshot;
    return KVSIM_OK;
}

kvsim_status kvsim__snapshot_open_memory(kvsim__base *base, const void *bytes, size_t size, kvsim_snapshot **out) {
    kvsim_snapshot *snapshot = NULL;
    kvsim_status status = make_snapshot(base, &snapshot);
    kvsim__source *source = NULL;
    if (status == KVSIM_OK) {
        status = add_file(snapshot, MEMORY_SHOWN, &source);
    }
    if (status == KVSIM_OK) {
        source->bytes = bytes;
        source->size = size;
        status = read_file(snapshot);
    }
    if (status == KVSIM_OK) {
        status = order_entries(snapshot);
    }
    return hand_out(snapshot, status, out);
}

kvsim_status kvsim_snapshot_open(kvsim_ctx *ctx, const char *path, kvsim_snapshot **out) {
    if (out != NULL) {
        *out = NULL;
    }
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = kvsim__ctx_base(ctx);
    if (path == NULL || out == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_snapshot_open: %s is NULL", path == NULL ? "path" : "out");
    }
    kvsim_snapshot *snapshot = NULL;
    kvsim_status status = make_snapshot(base, &snapshot);
    if (status != KVSIM_OK) {
        return status;
    }
    const unsigned char *bytes = NULL;
    size_t size = 0;
    bool folder = false;
    status = kvsim__map_path(base, path, &bytes, &size, &folder);
    if (status == KVSIM_OK) {
        status = folder ? open_folder(snapshot, path) : open_file(snapshot, path, bytes, size);
    }
    return hand_out(snapshot, status, out);
}

void kvsim_snapshot_close(kvsim_snapshot *snapshot) {
    if (snapshot == NULL) {
        return;
    }
    kvsim__base *base = snapshot->base;
    for (size_t i = 0; i < snapshot->file_count; i++) {
        kvsim__source *source = &snapshot->files[i];
        if (source->mapped) {
            kvsim__unmap(source->bytes, source->size);
        }
        kvsim__release(base, source->names, source->names_size, 1);
        kvsim__release(base, source->shapes, source->shapes_count, sizeof *source->shapes);
    }
    kvsim__release(base, snapshot->files, snapshot->file_capacity, sizeof *snapshot->files);
    kvsim__release(base, snapshot->entries, snapshot->entry_capacity, sizeof *snapshot->entries);
    kvsim__release(base, snapshot->metadata, snapshot->metadata_count, sizeof *snapshot->metadata);
    kvsim__release(base, snapshot->metadata_text, snapshot->metadata_text_size, 1);
    kvsim__release(base, snapshot, 1, sizeof *snapshot);
}

uint64_t kvsim_snapshot_tensor_count(const kvsim_snapshot *snapshot) {
    return snapshot == NULL ? 0 : snapshot->entry_count;
}

static kvsim_status fill_tensor(const kvsim__entry *entry, kvsim_tensor *tensor) {
    const uint32_t theirs = tensor->struct_size;
    if (theirs < sizeof(kvsim_tensor)) {
        return KVSIM_E_INVALID;
    }
    *tensor = (kvsim_tensor){.struct_size = sizeof(kvsim_tensor),
                             .device_type = KVSIM_DEVICE_CPU,
                             .ndim = entry->ndim,
                             .dtype_code = entry->dtype_code,
                             .dtype_bits = entry->dtype_bits,
                             .dtype_lanes = 1,
                             .data = entry->data,
                             .shape = entry->shape};
    return KVSIM_OK;
}

kvsim_status kvsim_snapshot_tensor_at(const kvsim_snapshot *snapshot, uint64_t index, const char **name,
                                      kvsim_tensor *tensor) {
    if (snapshot == NULL || tensor == NULL || index >= snapshot->entry_count) {
        return KVSIM_E_INVALID;
    }
    const kvsim__entry *entry = &snapshot->entries[index];
    const kvsim_status status = fill_tensor(entry, tensor);
    if (status == KVSIM_OK && name != NULL) {
        *name = entry->name;
    }
    return status;
}

kvsim_status kvsim_snapshot_find(const kvsim_snapshot *snapshot, const char *name, kvsim_tensor *tensor) {
    if (snapshot == NULL || name == NULL || tensor == NULL) {
        return KVSIM_E_INVALID;
    }
    const kvsim__entry *entry = kvsim__find_entry(snapshot, name);
    return entry == NULL ? KVSIM_E_NOT_FOUND : fill_tensor(entry, tensor);
}

const char *kvsim_snapshot_metadata(const kvsim_snapshot *snapshot, const char *key) {
    if (snapshot == NULL || key == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < snapshot->metadata_count; i++) {
        if (strcmp(snapshot->metadata[i].key, key) == 0) {
            return snapshot->metadata[i].value;
        }
    }
    return NULL;
}
