/**
 * What the files of the engine share: its parts, and what each file does for the others.
 */
#ifndef KVSIM_EXAMPLES_ENGINE_INTERNAL_H
#define KVSIM_EXAMPLES_ENGINE_INTERNAL_H

#include "engine.h"

#define ENGINE_ERROR_SIZE 512

/* ---- convert.c: element types ---- */

/** Bytes of an element of ENGINE_KV_*. */
size_t kv_element_size(int32_t kv_dtype);

/** Expand `count` stored elements to float. */
void kv_widen(int32_t kv_dtype, const void *from, float *to, size_t count);

/** Round `count` floats to the stored type, to nearest even. */
void kv_narrow(int32_t kv_dtype, const float *from, void *to, size_t count);

/* ---- config.c: config.json ---- */

/** What config.json says, beyond the public facts. */
typedef struct model_config {
    bool tied_embeddings; /* the output matrix is the embedding */
    bool qkv_bias;        /* query, key and value projections have a bias */
    bool output_bias;     /* the attention's output projection has one */
} model_config;

/** Read FOLDER/config.json into the engine. */
int engine_load_config(engine *e, const char *folder);

/* ---- weights.c: matrices ---- */

/** Weights of one decoder layer, float, row-major [outputs, inputs]. */
typedef struct layer_weights {
    float *attention_norm; /* [hidden] */
    float *qkv;            /* [(query_heads + 2 kv_heads) * head_dim, hidden]: queries, keys, values */
    float *qkv_bias;       /* one for each row of qkv, or NULL */
    float *output;         /* [hidden, query_heads * head_dim] */
    float *output_bias;    /* [hidden], or NULL */
    float *mlp_norm;       /* [hidden] */
    float *gate_up;        /* [2 * intermediate, hidden]: gate, up */
    float *down;           /* [hidden, intermediate] */
} layer_weights;

/** All weights. */
typedef struct model_weights {
    float *embedding;  /* [vocabulary, hidden] */
    float *head;       /* [vocabulary, hidden]; the embedding itself if tied */
    float *final_norm; /* [hidden] */
    layer_weights *layers;
} model_weights;

/** Read every tensor of the model from the folder's safetensors files. */
int engine_load_weights(engine *e, const char *folder);

/** Free what was loaded. */
void engine_free_weights(engine *e);

/* ---- cache.c: the block pool ---- */

/** Blocks of the paged cache. The pages of a layer are one tensor [blocks, 2, page_tokens, kv_heads, head_dim]. */
typedef struct block_pool {
    void **layers; /* [layer count] tensors */
    int32_t layer_count;
    int32_t page_tokens;
    int32_t kv_dtype;
    int64_t blocks;
    size_t row_elements;  /* kv_heads * head_dim: the keys, or the values, of one token */
    size_t page_bytes;    /* the keys, or the values, of one block in one layer */
    int32_t *references;  /* [blocks] block table entries that name the block; 0 = free */
    int32_t *fill;        /* [blocks] slots in use */
    int32_t *free_blocks; /* stack of free blocks */
    int64_t free_count;
    int64_t copies; /* made on write, so far */

    /* Prefix sharing. Full blocks are found by a hash of their tokens and of the chain of blocks before them. */
    int32_t *tokens;   /* [blocks, page_tokens] of registered blocks */
    int32_t *previous; /* [blocks] block before it in its sequence; -1 = none */
    uint64_t *hashes;  /* [blocks] of the chain that ends here */
    bool *registered;  /* [blocks] */
    int32_t *next;     /* [blocks] next block of the same bucket; -1 = none */
    int32_t *buckets;  /* [bucket_mask + 1] first block of a bucket; -1 = none */
    uint64_t bucket_mask;
} block_pool;

/** Make the pool that the engine's options and model ask for. */
int pool_create(engine *e);
void pool_destroy(block_pool *pool);

/** A free block with one reference, or -1. */
int32_t pool_take(block_pool *pool);
void pool_retain(block_pool *pool, int32_t block);

/** Give one reference back; the last one frees the block. */
void pool_release(block_pool *pool, int32_t block);

/** Give back `block` and return a copy of it with one reference, or -1 (then nothing has changed). */
int32_t pool_copy_on_write(block_pool *pool, int32_t block);

/** The registered block with these tokens after this chain, or -1. */
int32_t pool_find(const block_pool *pool, int32_t previous, const int32_t *tokens);

/** Let `pool_find` find this full block. */
void pool_register(block_pool *pool, int32_t block, int32_t previous, const int32_t *tokens);

/** First slot of the keys (kind 0) or values (kind 1) of a block. */
void *pool_page(const block_pool *pool, int32_t layer, int32_t block, int kind);

/* ---- sample.c: the next token ---- */

/** Sampling of one sequence with the state of its random numbers. */
typedef struct sampler {
    engine_sampling options;
    uint64_t state;
} sampler;

/** A candidate of top-k and top-p. */
typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

void sampler_init(sampler *s, const engine_sampling *options);

/** Choose a token. `candidates` has room for `vocabulary` entries. */
int32_t sampler_next(sampler *s, const float *logits, int32_t vocabulary, candidate *candidates);

/* ---- model.c: the forward pass ---- */

/** A sequence: its tokens, and the blocks that hold the keys and values of the first `cached` of them. */
typedef struct sequence {
    int32_t *tokens; /* [limit, at least token_count] */
    int64_t token_count;
    int64_t prompt_length;
    int64_t given_count;   /* tokens that it was added or forked with */
    double begin_time;     /* of the first step that computed any of them; 0 = there was none yet */
    double *token_seconds; /* [limit - given_count] from then until each further token was chosen */
    int64_t limit;         /* the sequence is finished when it has that many tokens */
    int64_t cached;        /* tokens in the cache */
    int32_t *blocks;
    int64_t block_count;
    sampler sampler;
    bool finished;
} sequence;

/** Consecutive tokens of one sequence in a batch. */
typedef struct segment {
    sequence *sequence;
    int64_t first_row; /* in the batch */
    int64_t rows;      /* tokens cached .. cached + rows - 1 of the sequence */
} segment;

/**
 * Rows of a tile. In prefill the token at position p has row p % TILE_ROWS of a tile that holds no other sequence, and
 * products are made tile by tile, so that equal tokens after equal prefixes meet exactly the same arithmetic: BLAS
 * rounds differently for another number of rows. Without that, recomputed prefixes would be near-duplicates only.
 */
#define TILE_ROWS 64

/** Tokens that go through the model together. */
typedef struct batch {
    bool tiled;        /* prefill: rows lie in tiles, some of them empty. Decode: rows lie one after the other */
    segment *segments; /* [capacity] */
    int64_t segment_count;
    int32_t *tokens;     /* [capacity], -1 = empty row */
    int64_t *positions;  /* [capacity] */
    int64_t *logit_rows; /* [capacity] rows whose logits are wanted, rising */
    int64_t logit_count;
    int64_t token_count;
    int64_t rows; /* tokens and empty rows */
    int64_t capacity;
} batch;

/** Intermediate results of a forward pass. */
typedef struct workspace {
    float *residual;       /* [rows, hidden] */
    float *normed;         /* [rows, hidden] */
    float *qkv;            /* [rows, (query_heads + 2 kv_heads) * head_dim] */
    float *attention;      /* [rows, query_heads * head_dim] */
    float *gate_up;        /* [rows, 2 * intermediate] */
    float *rotation;       /* [rows, head_dim]: cosines, then sines */
    float *keys;           /* [context, kv_heads * head_dim] gathered from the pages of one sequence */
    float *values;         /* as keys */
    float *scores;         /* [query_rows, context] */
    float *sums;           /* [query_rows] denominators of the softmax */
    float *logits;         /* [logit rows, vocabulary] */
    candidate *candidates; /* [vocabulary] */
    size_t query_rows;     /* query rows that are scored together, at most */
    int64_t context;       /* tokens that keys, values and scores have room for */
    int64_t logit_rows;    /* rows that logits has room for */
} workspace;

int workspace_create(engine *e);
void workspace_destroy(workspace *w);

/** Run the batch through the model: keys and values go into the cache, logits into the workspace. */
int engine_forward(engine *e, const batch *b);

/* ---- engine.c ---- */

struct engine {
    engine_options options;
    engine_config config;
    char *model_name;
    char *architecture;
    bool loaded;
    int32_t threads; /* of OpenBLAS, for large products */
    model_config model;
    model_weights weights;
    block_pool pool;
    workspace workspace;
    batch batch;
    sequence **sequences; /* [sequence_count], NULL = released */
    int64_t sequence_count;
    int64_t sequence_capacity;
    engine_stats stats;
    char error[ENGINE_ERROR_SIZE];
};

#if defined(__GNUC__)
#define ENGINE_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define ENGINE_PRINTF(format_index, first)
#endif

/** Set the error text and return `status`. */
int engine_fail(engine *e, int status, const char *format, ...) ENGINE_PRINTF(3, 4);

/** Set the text "out of memory for WHAT" and return ENGINE_E_NOMEM. */
int engine_fail_memory(engine *e, const char *what);

/** Log one line. */
void engine_say(engine *e, const char *format, ...) ENGINE_PRINTF(2, 3);

/** `count` items of `size` bytes, zeroed; NULL when out of memory or on overflow. `count` 0 gives one item. */
void *engine_array(size_t count, size_t size);

/** `count` rounded up to whole tiles. */
int64_t whole_tiles(int64_t count);

/** Sequence of that number, or NULL. */
sequence *engine_find(const engine *e, int64_t number);

#endif
