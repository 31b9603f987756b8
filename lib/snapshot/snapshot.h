/**
 * Snapshots: tensors that are mapped from hostile files, and what the schemas say of them. Parts of this room share
 * these declarations; the library's other rooms use the public header.
 *
 * All memory comes through the context's allocator but what jansson takes while a header is parsed or made, and what
 * the C library takes to list a folder.
 */
#ifndef KVSIM_SNAPSHOT_ROOM_H
#define KVSIM_SNAPSHOT_ROOM_H

#include <jansson.h>
#include <kvsim/snapshot.h>

#include "base/base.h"
#include "base/file.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors and npy data are little-endian; this machine is not, and kvsim does not swap"
#endif

/** Largest header of a safetensors file, and the largest index: the limit of the reference implementation. */
#define KVSIM__HEADER_LIMIT 100000000u

/** Deepest nesting of JSON in any file. An index needs 2; other tools keep facts of their own in it. */
#define KVSIM__DEPTH_LIMIT 16

/** Axes of a tensor: what kvsim_tensor allows. */
#define KVSIM__AXES_LIMIT 8

/** Largest page of a file, in tokens. Engines use 8 to 1,024; a limit keeps the product N*H*D small. */
#define KVSIM__PAGE_TOKENS_LIMIT 65536

/** Layers are numbered 0..65,535 (kvsim_pages). */
#define KVSIM__LAYERS_LIMIT 65536

/** Bytes that hold the name of every tensor of the schemas. */
#define KVSIM__SCHEMA_NAME_SIZE 80

/** A tensor of a file. */
typedef struct kvsim__entry {
    const char *name;          /**< [borrowed] from its file */
    const int64_t *shape;      /**< [borrowed] from its file */
    const unsigned char *data; /**< in the mapping, any alignment */
    uint64_t begin;            /**< first byte, counted from the begin of the file's data */
    uint64_t end;              /**< one past the last byte */
    uint32_t file;             /**< index of its file */
    int32_t ndim;
    uint8_t dtype_code;
    uint8_t dtype_bits;
} kvsim__entry;

/** A file whose bytes are in memory. */
typedef struct kvsim__source {
    const unsigned char *bytes;
    size_t size;
    bool mapped;       /**< to be unmapped; else the bytes are borrowed */
    const char *shard; /**< name by which an index calls it; valid only while the snapshot is opened */
    char *names;       /**< all names, NUL-terminated, one after the other */
    size_t names_size;
    int64_t *shapes; /**< all shapes, one after the other */
    size_t shapes_count;
    char shown[KVSIM__SHORT_SIZE]; /**< path for error texts */
} kvsim__source;

typedef struct kvsim__metadata {
    const char *key;
    const char *value;
} kvsim__metadata;

struct kvsim_snapshot {
    kvsim__base *base;
    kvsim__source *files;
    size_t file_count;
    size_t file_capacity;
    kvsim__entry *entries; /**< in order of names once the snapshot is open */
    size_t entry_count;
    size_t entry_capacity;
    kvsim__metadata *metadata; /**< of the first file */
    size_t metadata_count;
    char *metadata_text;
    size_t metadata_text_size;
    bool npy;
};

/** Facts of a snapshot that holds pages, checked against its tensors. */
typedef struct kvsim__facts {
    int32_t schema;
    int32_t layout; /**< KVSIM_LAYOUT_* */
    int32_t layers;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t page_tokens;
    int64_t blocks; /**< physical blocks of a paged file, pages of an npy file */
    int64_t sequences;
    int64_t tokens;
    int64_t longest; /**< tokens of the longest sequence */
    uint8_t dtype_code;
    uint8_t dtype_bits;
    bool rope_applied;
    kvsim_rope rope;
    const char *model;
} kvsim__facts;

/** Fail with KVSIM_E_FORMAT and "FILE: tensor 'NAME': ...", names shortened. */
kvsim_status kvsim__refuse_tensor(kvsim__base *base, const char *shown, const char *name, const char *format, ...)
    KVSIM__PRINTF(4, 5);

/** Order entries by where they lie in the data, or by name. */
void kvsim__sort_entries(kvsim__entry *entries, size_t count, bool by_name);

/** Entry of that name, in a snapshot whose entries are in order of names; NULL if there is none. */
const kvsim__entry *kvsim__find_entry(const kvsim_snapshot *snapshot, const char *name);

/** Snapshot of bytes in memory, safetensors or npy; the bytes are borrowed. For tests. */
kvsim_status kvsim__snapshot_open_memory(kvsim__base *base, const void *bytes, size_t size, kvsim_snapshot **out);

/** Parse and check the header of safetensors file number `file`, append its tensors; keep the metadata of file 0. */
kvsim_status kvsim__read_safetensors(kvsim_snapshot *snapshot, size_t file);

/** Parse and check the header of npy file number `file`, append its tensor. */
kvsim_status kvsim__read_npy(kvsim_snapshot *snapshot, size_t file);

/** Whether bytes begin as an npy file does. */
bool kvsim__is_npy(const unsigned char *bytes, size_t size);

/** What JSON text may be at most, so that a small file cannot make the parser take a lot of memory and time. */
typedef struct kvsim__json_limits {
    int depth;     /**< nesting, at most KVSIM__DEPTH_LIMIT */
    size_t list;   /**< values of one list */
    size_t values; /**< members and values of everything together */
    /** Members of an object inside the outermost one; 0 = any number. One of them, the metadata, may have more. */
    size_t members;
    size_t metadata; /**< members of that one */
} kvsim__json_limits;

/**
 * Parse JSON text that must be an object; duplicate keys, and more than the limits, are refused.
 * @return [owned] NULL on failure, error text set and status in `status`
 */
json_t *kvsim__parse_json(kvsim__base *base, const char *shown, const char *what, const unsigned char *text,
                          size_t size, const kvsim__json_limits *limits, kvsim_status *status);

/** Map a file; a folder is no failure: `folder` is set and nothing is mapped. */
kvsim_status kvsim__map_path(kvsim__base *base, const char *path, const unsigned char **bytes, size_t *size,
                             bool *folder);

/** Undo kvsim__map_path. */
void kvsim__unmap(const unsigned char *bytes, size_t size);

/** `folder`, a slash and `name`. @return [owned] of *size bytes; NULL when out of memory, error text set */
char *kvsim__join(kvsim__base *base, const char *folder, size_t folder_length, const char *name, size_t *size);

/**
 * Read a description of RoPE scaling as Hugging Face writes it: an object with `rope_type` (or `type`) and the numbers
 * of that type. `rope` holds what is known already; its scaling, factor and the like are set.
 * @param max_position the model's context where the object has no `original_max_position_embeddings`; 0 = not known
 * @return KVSIM_OK, KVSIM_E_FORMAT (malformed), KVSIM_E_UNSUPPORTED (a scaling that kvsim does not undo)
 */
kvsim_status kvsim__read_scaling(kvsim__base *base, const char *shown, const char *what, const json_t *object,
                                 double max_position, kvsim_rope *rope);

/** The same of JSON text, without a context to fall back on. */
kvsim_status kvsim__parse_scaling(kvsim__base *base, const char *shown, const char *what, const char *text,
                                  kvsim_rope *rope);

/** Scaling as an object that kvsim__read_scaling reads; NULL when out of memory. @return [owned] */
json_t *kvsim__make_scaling(const kvsim_rope *rope);

/** Read the facts and check every tensor against them. */
kvsim_status kvsim__read_facts(kvsim__base *base, const kvsim_snapshot *snapshot, kvsim__facts *facts);

/** Element `index` of an I32 tensor, which may lie at any address. */
int32_t kvsim__integer_at(const kvsim__entry *entry, int64_t index);

/** Names of the tensors of kvsim.dump.v1 and kvsim.paged.v1. */
void kvsim__name_tokens(char out[KVSIM__SCHEMA_NAME_SIZE], int64_t sequence);
void kvsim__name_rows(char out[KVSIM__SCHEMA_NAME_SIZE], int64_t sequence, int32_t layer, bool values);
void kvsim__name_cache(char out[KVSIM__SCHEMA_NAME_SIZE], int32_t layer, const char *cache);

#endif
