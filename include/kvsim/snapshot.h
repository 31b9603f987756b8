/**
 * @file snapshot.h
 * @brief Files: safetensors and npy in, KV-cache dumps in and out.
 *
 * A snapshot is a set of named tensors that are mapped from one or more files: a `.safetensors` file, an index
 * (`*.safetensors.index.json`) with its shards, a folder that holds either, or a `.npy` file (one tensor, named
 * `pages`). Files are treated as hostile: every offset, overlap, product of sizes, type, duplicate name and depth
 * is checked, and a file that lies is refused with what is wrong and where.
 * Formats: safetensors (github.com/huggingface/safetensors), NPY 1.0 to 3.0 (numpy.lib.format),
 * kvsim.dump.v1 and kvsim.paged.v1 (docs/formats.md).
 *
 * **Threads:** a snapshot may be read by many threads; opening, adding and closing follow the thread rule of the
 * context that is passed.
 */
#ifndef KVSIM_SNAPSHOT_H
#define KVSIM_SNAPSHOT_H

#include <kvsim/kvsim.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Tensors mapped from files. Opaque. */
typedef struct kvsim_snapshot kvsim_snapshot;

/**
 * Open a file, an index or a folder, check all of its headers and map it read-only.
 *
 * A file that is cut short while it is mapped raises SIGBUS in whoever reads it: do not let another program
 * rewrite it in place meanwhile.
 *
 * @param ctx receives the error text and lends its allocator; must outlive the snapshot
 * @param path NUL-terminated
 * @param out [owned] for `kvsim_snapshot_close`; NULL on failure
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_IO, KVSIM_E_FORMAT, KVSIM_E_NOMEM, KVSIM_E_UNSUPPORTED
 */
KVSIM_API kvsim_status kvsim_snapshot_open(kvsim_ctx *ctx, const char *path, kvsim_snapshot **out);

/**
 * Unmap and forget. Pages that were added from it (they are borrowed) must be gone.
 * @param snapshot NULL is allowed
 */
KVSIM_API void kvsim_snapshot_close(kvsim_snapshot *snapshot);

/**
 * Number of tensors.
 * @param snapshot the snapshot to look in
 * @return number of tensors
 */
KVSIM_API uint64_t kvsim_snapshot_tensor_count(const kvsim_snapshot *snapshot);

/**
 * Tensor number `index`, in order of names.
 * @param snapshot the snapshot to look in
 * @param index 0 .. count - 1
 * @param name [borrowed] from the snapshot; may be NULL
 * @param tensor its `struct_size` is set by the caller (KVSIM_TENSOR_INIT); filled with a CPU tensor, row-major
 *        (strides NULL), data and shape [borrowed] from the snapshot. The data may lie at any address: read elements
 *        by memcpy. Element types that `KVSIM_DTYPE_*` has no code for come as KVSIM_DTYPE_OPAQUE of the same bits
 *        (4 and 6 too); I32, I64, U8, BOOL and the like as KVSIM_DTYPE_INT / _UINT with their bits.
 * @return KVSIM_OK, KVSIM_E_INVALID
 */
KVSIM_API kvsim_status kvsim_snapshot_tensor_at(const kvsim_snapshot *snapshot, uint64_t index, const char **name,
                                                kvsim_tensor *tensor);

/**
 * Find a tensor by its name.
 * @param snapshot the snapshot to look in
 * @param name NUL-terminated
 * @param tensor filled as by `kvsim_snapshot_tensor_at`
 * @return KVSIM_OK, KVSIM_E_NOT_FOUND, KVSIM_E_INVALID
 */
KVSIM_API kvsim_status kvsim_snapshot_find(const kvsim_snapshot *snapshot, const char *name, kvsim_tensor *tensor);

/**
 * Value of a metadata key of the (first) file.
 * @param snapshot the snapshot to look in
 * @param key NUL-terminated
 * @return [borrowed] from the snapshot, UTF-8; NULL when there is none
 */
KVSIM_API const char *kvsim_snapshot_metadata(const kvsim_snapshot *snapshot, const char *key);

/** @name Schemas
 * @{ */
#define KVSIM_SCHEMA_NONE  0 /**< tensors of no known schema (model weights, say) */
#define KVSIM_SCHEMA_DUMP  1 /**< kvsim.dump.v1: `[tokens, H, D]` for each sequence, layer and kind */
#define KVSIM_SCHEMA_PAGED 2 /**< kvsim.paged.v1: a pool of physical blocks with block tables */
#define KVSIM_SCHEMA_NPY   3 /**< a bare array `[pages, N, H, D]` */
/** @} */

/** What a snapshot says of itself. Filled by the library: it writes min(struct_size, its own size) bytes. */
typedef struct kvsim_snapshot_info {
    uint32_t struct_size; /**< sizeof(kvsim_snapshot_info), set by the caller */
    int32_t schema;       /**< KVSIM_SCHEMA_* */
    int32_t layers;       /**< number of layers */
    int32_t kv_heads;     /**< H */
    int32_t head_dim;     /**< D */
    int32_t page_tokens;  /**< N */
    int64_t sequences;    /**< number of sequences */
    int64_t tokens;       /**< sum of their lengths */
    uint8_t dtype_code;   /**< KVSIM_DTYPE_* of the pages */
    uint8_t dtype_bits;   /**< bits of an element */
    uint16_t reserved;    /**< 0 */
    int32_t rope_applied; /**< 1 if the keys are stored after RoPE */
    kvsim_rope rope;      /**< how, if rope_applied; style KVSIM_ROPE_NONE when the file does not say */
    const char *model;    /**< [borrowed] from the snapshot; "" when not said */
    uint64_t file_bytes;  /**< of all files */
} kvsim_snapshot_info;

/** All zero but the sizes. */
#define KVSIM_SNAPSHOT_INFO_INIT                                                                                       \
    { sizeof(kvsim_snapshot_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, KVSIM_ROPE_INIT, NULL, 0 }

/**
 * Read the schema and its facts, checked against the tensors.
 * @param ctx receives the error text
 * @param snapshot the snapshot to look in
 * @param info filled; its `struct_size` is set by the caller
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_FORMAT (metadata missing or contradicting the tensors),
 *         KVSIM_E_UNSUPPORTED (a newer schema of kvsim), KVSIM_E_NOMEM
 */
KVSIM_API kvsim_status kvsim_snapshot_get_info(kvsim_ctx *ctx, const kvsim_snapshot *snapshot,
                                               kvsim_snapshot_info *info);

/** Options of `kvsim_snapshot_add_pages`. Zero means the default for every field. */
typedef struct kvsim_snapshot_pages {
    uint32_t struct_size;   /**< sizeof(kvsim_snapshot_pages) */
    int32_t kind;           /**< KVSIM_KIND_*; 0 = both. For an npy file the kind of its pages; 0 = key */
    int32_t page_tokens;    /**< cut sequences of a dump into pages of this many tokens; 0 = as the file says */
    int32_t layer;          /**< of the pages of an npy file; 0 for any other */
    const int32_t *layers;  /**< layers to add, rising; NULL = all, and always for an npy file */
    uint64_t layer_count;   /**< length of `layers`, at least 1 if that is set */
    int64_t first_sequence; /**< added to the sequence numbers, so that several files do not mix; >= 0 */
} kvsim_snapshot_pages;

/** All defaults. */
#define KVSIM_SNAPSHOT_PAGES_INIT                                                                                      \
    { sizeof(kvsim_snapshot_pages), 0, 0, 0, NULL, 0, 0 }

/**
 * Add the pages of a snapshot to a context by borrowing, and tell the context its RoPE facts (`kvsim_set_rope`).
 * The snapshot must stay open until the context is cleared or destroyed. A failure may leave some of the pages
 * behind: clear the context.
 *
 * Pages arrive sequence by sequence, each from its first token on. Pages of one snapshot that are added by several
 * calls (keys first, then values, say) still pair into blocks; a page that is added again is one more reference.
 * The last RoPE facts told hold for the whole context: do not mix files that differ in them.
 *
 * @param ctx the context to add to
 * @param snapshot stays open as long as the pages are used
 * @param options NULL for the defaults
 * @return KVSIM_OK, KVSIM_E_INVALID (a layer that does not exist), KVSIM_E_FORMAT, KVSIM_E_NOMEM,
 *         KVSIM_E_UNSUPPORTED (no schema that holds pages; another page size for a paged file)
 */
KVSIM_API kvsim_status kvsim_snapshot_add_pages(kvsim_ctx *ctx, const kvsim_snapshot *snapshot,
                                                const kvsim_snapshot_pages *options);

/**
 * Read how a model rotates its keys from the `config.json` of its Hugging Face folder, for `kvsim_set_rope`.
 *
 * Read are `rope_theta`, `rope_scaling` and `rope_parameters` (types default, linear, ntk, yarn and llama3), the head
 * size, and the share of it that is rotated. The style, and what the file leaves out, follow from `model_type`; of an
 * unknown one KVSIM_ROPE_HALF is assumed, with a warning in the log. A model without RoPE, and the latents of
 * multi-head latent attention (`kv_lora_rank`), give style KVSIM_ROPE_NONE and a line in the log that says so.
 *
 * @param ctx receives the error text and the log lines
 * @param path of the file, or of the folder that holds it; NUL-terminated
 * @param out its `struct_size` is set by the caller (KVSIM_ROPE_INIT); unchanged on failure
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_IO, KVSIM_E_NOMEM, KVSIM_E_FORMAT (malformed), KVSIM_E_UNSUPPORTED (a
 *         rotation that `kvsim_rope` cannot say: dynamic, longrope, or layers that differ)
 */
KVSIM_API kvsim_status kvsim_rope_read_config(kvsim_ctx *ctx, const char *path, kvsim_rope *out);

/**
 * Check the rotation that the context knows (`kvsim_set_rope`, `kvsim_snapshot_add_pages`) against a dump. Before RoPE
 * a key of layer 0 depends on its token alone, so keys of equal tokens at different positions must agree once they are
 * de-rotated. The difference that is left is what rounding makes of it, about 0.004 for bf16; with a wrong theta or
 * style it is mostly above 0.3. It does not hold for models that add positions in another way beside RoPE.
 *
 * @param ctx its rotation is checked; receives the error text
 * @param snapshot a dump (KVSIM_SCHEMA_DUMP)
 * @param residual root of the mean square of the relative differences, each over the keys of all heads; 0 if there
 *        are no pairs
 * @param pairs number of pairs that were compared, at most 4,096, spread evenly over all; 0 if no token comes twice
 * @return KVSIM_OK, KVSIM_E_INVALID (a rotation that does not fit the keys), KVSIM_E_FORMAT, KVSIM_E_NOMEM,
 *         KVSIM_E_UNSUPPORTED (no dump, or no rotation to check)
 */
KVSIM_API kvsim_status kvsim_snapshot_check_rope(kvsim_ctx *ctx, const kvsim_snapshot *snapshot, double *residual,
                                                 int64_t *pairs);

/** A dump to write in the schema kvsim.dump.v1. */
typedef struct kvsim_dump {
    uint32_t struct_size;         /**< sizeof(kvsim_dump) */
    int32_t layers;               /**< number of layers */
    int32_t kv_heads;             /**< H */
    int32_t head_dim;             /**< D */
    int32_t page_tokens;          /**< N, as the engine pages them */
    uint8_t dtype_code;           /**< KVSIM_DTYPE_FLOAT or _BFLOAT */
    uint8_t dtype_bits;           /**< 16 or 32 */
    uint16_t reserved;            /**< 0 */
    kvsim_rope rope;              /**< how the stored keys were rotated */
    const char *model;            /**< name; NULL = "" */
    int64_t sequences;            /**< number of sequences */
    const int64_t *lengths;       /**< [sequences] tokens of each, >= 1 */
    const int32_t *const *tokens; /**< [sequences] token ids of each, [lengths[s]] */
    const char *const *prompts;   /**< [sequences] UTF-8 prompt texts; NULL = none */
    /**
     * Fill `out` with the rows [lengths[sequence], H, D] of one sequence, layer and kind (KVSIM_KIND_KEY or
     * _VALUE), row-major, in the dump's element type. Called once for each, in order. Returns 0, or anything else to
     * give up.
     */
    int (*read)(void *user, int64_t sequence, int32_t layer, int32_t kind, void *out);
    void *read_user; /**< handed to `read` */
} kvsim_dump;

/** All zero but the sizes. */
#define KVSIM_DUMP_INIT                                                                                                \
    { sizeof(kvsim_dump), 0, 0, 0, 0, 0, 0, 0, KVSIM_ROPE_INIT, NULL, 0, NULL, NULL, NULL, NULL, NULL }

/**
 * Write a dump. The file appears whole or not at all: a temporary file beside it is written, synced and renamed. Equal
 * dumps give equal bytes. A symbolic link is followed; a path that names a device, a pipe or a folder is refused.
 * The library leaves signals alone: under a limit of file sizes (RLIMIT_FSIZE), ignore SIGXFSZ to get KVSIM_E_IO.
 * @param ctx receives the error text and lends its allocator
 * @param path of the file to make, NUL-terminated
 * @param dump what to write
 * @return KVSIM_OK, KVSIM_E_INVALID, KVSIM_E_IO, KVSIM_E_NOMEM, KVSIM_E_CANCELLED (`read` gave up)
 */
KVSIM_API kvsim_status kvsim_dump_write(kvsim_ctx *ctx, const char *path, const kvsim_dump *dump);

#ifdef __cplusplus
}
#endif

#endif
