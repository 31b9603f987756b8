/* The forward pass of a Llama-family decoder over a batch, with keys and values in the paged cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "internal.h"

/* Decode steps of fewer rows are multiplied by one thread: they do not feed more, and on two cores are no faster with
 * two and much slower when something else runs there. */
#define ROWS_FOR_THREADS 32

int workspace_create(engine *e) {
    const engine_config *c = &e->config;
    workspace *w = &e->workspace;
    size_t rows = (size_t)e->batch.capacity;
    w->residual = engine_array(rows, (size_t)c->hidden * sizeof(float));
    w->normed = engine_array(rows, (size_t)c->hidden * sizeof(float));
    w->qkv =
        engine_array(rows, ((size_t)c->query_heads + 2 * (size_t)c->kv_heads) * (size_t)c->head_dim * sizeof(float));
    w->attention = engine_array(rows, (size_t)c->query_heads * (size_t)c->head_dim * sizeof(float));
    w->gate_up = engine_array(rows, 2 * (size_t)c->intermediate * sizeof(float));
    w->rotation = engine_array(rows, (size_t)c->head_dim * sizeof(float));
    w->query_rows = c->query_heads > TILE_ROWS ? (size_t)c->query_heads : TILE_ROWS;
    w->sums = engine_array(w->query_rows, sizeof(float));
    w->candidates = engine_array((size_t)c->vocabulary, sizeof *w->candidates);
    if (!w->residual || !w->normed || !w->qkv || !w->attention || !w->gate_up || !w->rotation || !w->sums ||
        !w->candidates) {
        return engine_fail_memory(e, "the workspace of the forward pass");
    }
    return ENGINE_OK;
}

void workspace_destroy(workspace *w) {
    free(w->residual);
    free(w->normed);
    free(w->qkv);
    free(w->attention);
    free(w->gate_up);
    free(w->rotation);
    free(w->keys);
    free(w->values);
    free(w->scores);
    free(w->sums);
    free(w->logits);
    free(w->candidates);
}

/* Make room for the longest sequence of the batch and for its logits. Room at least doubles, up to the model's
 * longest sequence, so that decoding does not allocate at every step. */
static int workspace_reserve(engine *e, const batch *b) {
    const engine_config *c = &e->config;
    workspace *w = &e->workspace;
    int64_t context = 0;
    for (int64_t i = 0; i < b->segment_count; i++) {
        int64_t end = b->segments[i].sequence->cached + b->segments[i].rows;
        context = end > context ? end : context;
    }
    context = whole_tiles(context);
    if (context > w->context) {
        int64_t room = context > 2 * w->context ? context : 2 * w->context;
        room = room < whole_tiles(c->max_position) ? room : whole_tiles(c->max_position);
        size_t row_bytes = e->pool.row_elements * sizeof(float);
        free(w->keys);
        free(w->values);
        free(w->scores);
        w->context = 0;
        w->keys = engine_array((size_t)room, row_bytes);
        w->values = engine_array((size_t)room, row_bytes);
        w->scores = engine_array((size_t)room, w->query_rows * sizeof(float));
        if (!w->keys || !w->values || !w->scores) {
            return engine_fail_memory(e, "the keys and values of one sequence");
        }
        w->context = room;
    }
    if (b->logit_count > w->logit_rows) {
        free(w->logits);
        w->logit_rows = 0;
        w->logits = engine_array((size_t)b->logit_count, (size_t)c->vocabulary * sizeof(float));
        if (!w->logits) {
            return engine_fail_memory(e, "logits");
        }
        w->logit_rows = b->logit_count;
    }
    return ENGINE_OK;
}

/*
 * to [rows, outputs] = from [rows, inputs] * weights [outputs, inputs]^T, added to what is there if `keep` is 1. Rows
 * of `from` are `stride` apart. A tiled batch is multiplied tile by tile.
 */
static void project(const batch *b, const float *from, int64_t stride, const float *weights, float *to, int64_t inputs,
                    int64_t outputs, float keep) {
    int64_t step = b->tiled ? TILE_ROWS : b->rows;
    for (int64_t row = 0; row < b->rows; row += step) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)step, (int)outputs, (int)inputs, 1.0f,
                    from + row * stride, (int)stride, weights, (int)inputs, keep, to + row * outputs, (int)outputs);
    }
}

static void add_bias(float *rows, const float *bias, int64_t count, int64_t width) {
    for (int64_t r = 0; bias && r < count; r++) {
        for (int64_t i = 0; i < width; i++) {
            rows[r * width + i] += bias[i];
        }
    }
}

/* RMSNorm (arXiv 1910.07467). */
static void normalise(const float *from, const float *weight, double epsilon, float *to, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        const float *x = from + r * width;
        float *y = to + r * width;
        float square = cblas_sdot((int)width, x, 1, x, 1);
        float scale = (float)(1.0 / sqrt((double)square / (double)width + epsilon));
        for (int64_t i = 0; i < width; i++) {
            y[i] = x[i] * scale * weight[i];
        }
    }
}

/*
 * e^x for x <= 88, written so that compilers turn loops over it into vector code. x = n ln 2 + r with |r| <= ln 2 / 2;
 * the polynomial of e^r is that of Cephes' expf, relative error below 2e-7. Adding 1.5 * 2^23 rounds to the integer n
 * and leaves it in the lowest bits. Below -87 the result is about 1e-38.
 */
static inline float exponential(float x) {
    typedef union word {
        float value;
        uint32_t bits;
    } word;
    const word round = {0x1.8p23f};
    x = x < -87.0f ? -87.0f : x;
    word n = {x * 1.44269504f + round.value};
    float whole = n.value - round.value;
    float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    word power = {.bits = (n.bits - round.bits + 127u) << 23};
    return p * power.value;
}

/* SwiGLU (arXiv 2002.05202): silu(gate) * up, written over the gate. Rows are [gate, up]. */
static void gate(float *gate_up, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        float *restrict g = gate_up + r * 2 * width;
        const float *restrict up = g + width;
        for (int64_t i = 0; i < width; i++) {
            float x = g[i] < -80.0f ? -80.0f : g[i]; /* silu is 0 there */
            g[i] = x / (1.0f + exponential(-x)) * up[i];
        }
    }
}

/*
 * Cosines and sines of RoPE (arXiv 2104.09864) at the batch's positions. Frequency and angle are rounded to float
 * as in Hugging Face transformers, which is the truth that the models were trained with.
 */
static void prepare_rotation(const engine_config *c, const batch *b, float *rotation) {
    int32_t pairs = c->head_dim / 2;
    for (int32_t i = 0; i < pairs; i++) {
        float frequency = (float)pow(c->rope_theta, -2.0 * i / c->head_dim);
        for (int64_t r = 0; r < b->rows; r++) {
            float angle = (float)b->positions[r] * frequency;
            rotation[r * c->head_dim + i] = cosf(angle);
            rotation[r * c->head_dim + pairs + i] = sinf(angle);
        }
    }
}

/* Rotate channel i of every head with channel i + head_dim/2. */
static void rotate(float *heads, int32_t head_count, int32_t head_dim, const float *rotation) {
    int32_t pairs = head_dim / 2;
    const float *cosines = rotation;
    const float *sines = rotation + pairs;
    for (int32_t h = 0; h < head_count; h++) {
        float *restrict first = heads + (int64_t)h * head_dim;
        float *restrict second = first + pairs;
        for (int32_t i = 0; i < pairs; i++) {
            float a = first[i];
            float z = second[i];
            first[i] = a * cosines[i] - z * sines[i];
            second[i] = z * cosines[i] + a * sines[i];
        }
    }
}

/* Write the keys and values of a segment's tokens into their slots. */
static void store(engine *e, int32_t layer, const segment *part, const float *keys, int64_t stride) {
    block_pool *pool = &e->pool;
    size_t row_bytes = pool->page_bytes / (size_t)pool->page_tokens;
    for (int64_t r = 0; r < part->rows; r++) {
        int64_t position = part->sequence->cached + r;
        int32_t block = part->sequence->blocks[position / pool->page_tokens];
        size_t slot = (size_t)(position % pool->page_tokens);
        const float *key = keys + r * stride;
        kv_narrow(pool->kv_dtype, key, (char *)pool_page(pool, layer, block, 0) + slot * row_bytes, pool->row_elements);
        kv_narrow(pool->kv_dtype, key + pool->row_elements, (char *)pool_page(pool, layer, block, 1) + slot * row_bytes,
                  pool->row_elements);
        pool->fill[block] = (int32_t)slot + 1;
    }
}

/* Read the first `context` keys and values of a sequence from its pages; the rest of the last tile becomes 0. */
static void gather(engine *e, int32_t layer, const sequence *s, int64_t context) {
    const block_pool *pool = &e->pool;
    for (int64_t first = 0; first < context; first += pool->page_tokens) {
        int32_t block = s->blocks[first / pool->page_tokens];
        int64_t tokens = context - first < pool->page_tokens ? context - first : pool->page_tokens;
        size_t offset = (size_t)first * pool->row_elements;
        size_t count = (size_t)tokens * pool->row_elements;
        kv_widen(pool->kv_dtype, pool_page(pool, layer, block, 0), e->workspace.keys + offset, count);
        kv_widen(pool->kv_dtype, pool_page(pool, layer, block, 1), e->workspace.values + offset, count);
    }
    size_t used = (size_t)context * pool->row_elements;
    size_t empty = (size_t)(whole_tiles(context) - context) * pool->row_elements;
    memset(e->workspace.keys + used, 0, empty * sizeof(float));
    memset(e->workspace.values + used, 0, empty * sizeof(float));
}

/* Scores are handled in groups of that many, each with its own maximum and sum, so that compilers can vectorise. */
#define LANES 16

static float largest_of(const float *scores, int64_t count) {
    float lanes[LANES];
    int64_t whole = count - count % LANES;
    for (int64_t k = 0; k < LANES; k++) {
        lanes[k] = scores[0];
    }
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int64_t k = 0; k < LANES; k++) {
            lanes[k] = scores[i + k] > lanes[k] ? scores[i + k] : lanes[k];
        }
    }
    float largest = lanes[0];
    for (int64_t k = 1; k < LANES; k++) {
        largest = lanes[k] > largest ? lanes[k] : largest;
    }
    for (int64_t i = whole; i < count; i++) {
        largest = scores[i] > largest ? scores[i] : largest;
    }
    return largest;
}

/* Softmax over the first `visible` scores but for its denominator, which is returned; the rest of the row becomes 0. */
static float exponentiate(float *scores, int64_t visible, int64_t width) {
    float lanes[LANES] = {0};
    float largest = largest_of(scores, visible);
    int64_t whole = visible - visible % LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int64_t k = 0; k < LANES; k++) {
            scores[i + k] = exponential(scores[i + k] - largest);
            lanes[k] += scores[i + k];
        }
    }
    float sum = 0.0f;
    for (int64_t k = 0; k < LANES; k++) {
        sum += lanes[k];
    }
    for (int64_t i = whole; i < visible; i++) {
        scores[i] = exponential(scores[i] - largest);
        sum += scores[i];
    }
    memset(scores + visible, 0, (size_t)(width - visible) * sizeof *scores);
    return sum;
}

/*
 * Attention of `rows` query rows with one KV head, all in one pair of products: `queries` and `out` are matrices
 * [rows, head_dim] whose rows are `query_stride` and `out_stride` apart. Row r sees `visible + r * step` tokens.
 */
static void attend_head(engine *e, int32_t kv_head, const float *queries, int64_t query_stride, float *out,
                        int64_t out_stride, int64_t rows, int64_t visible, int64_t step) {
    const engine_config *c = &e->config;
    workspace *w = &e->workspace;
    int64_t width = visible + (rows - 1) * step;
    int row_stride = c->kv_heads * c->head_dim;
    const float *keys = w->keys + (int64_t)kv_head * c->head_dim;
    const float *values = w->values + (int64_t)kv_head * c->head_dim;
    float scale = 1.0f / sqrtf((float)c->head_dim);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)width, c->head_dim, scale, queries,
                (int)query_stride, keys, row_stride, 0.0f, w->scores, (int)width);
    for (int64_t r = 0; r < rows; r++) {
        w->sums[r] = exponentiate(w->scores + r * width, visible + r * step, width);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, c->head_dim, (int)width, 1.0f, w->scores,
                (int)width, values, row_stride, 0.0f, out, (int)out_stride);
    for (int64_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < c->head_dim; i++) {
            out[r * out_stride + i] /= w->sums[r];
        }
    }
}

/* Decode: attention of one token. The query heads that share a KV head are the rows. */
static void attend_token(engine *e, int64_t visible, const float *queries, float *out) {
    const engine_config *c = &e->config;
    int32_t shared = c->query_heads / c->kv_heads;
    for (int32_t h = 0; h < c->kv_heads; h++) {
        int64_t offset = (int64_t)h * shared * c->head_dim;
        attend_head(e, h, queries + offset, c->head_dim, out + offset, c->head_dim, shared, visible, 0);
    }
}

/* Prefill: attention of a tile whose first row is at `position`. The tokens of a query head are the rows. */
static void attend_tile(engine *e, int64_t position, const float *queries, int64_t stride, float *out) {
    const engine_config *c = &e->config;
    int32_t shared = c->query_heads / c->kv_heads;
    int64_t out_stride = (int64_t)c->query_heads * c->head_dim;
    for (int32_t h = 0; h < c->query_heads; h++) {
        int64_t offset = (int64_t)h * c->head_dim;
        attend_head(e, h / shared, queries + offset, stride, out + offset, out_stride, TILE_ROWS, position + 1, 1);
    }
}

/* Causal attention of a segment's tokens over all tokens of its sequence up to themselves. */
static void attend(engine *e, int32_t layer, const batch *b, const segment *part, int64_t stride) {
    workspace *w = &e->workspace;
    int64_t cached = part->sequence->cached;
    int64_t end = cached + part->rows;
    int64_t out_stride = (int64_t)e->config.query_heads * e->config.head_dim;
    gather(e, layer, part->sequence, end);
    if (!b->tiled) {
        attend_token(e, end, w->qkv + part->first_row * stride, w->attention + part->first_row * out_stride);
        return;
    }
    int64_t row = part->first_row - cached % TILE_ROWS;
    for (int64_t position = cached - cached % TILE_ROWS; position < end; position += TILE_ROWS) {
        attend_tile(e, position, w->qkv + row * stride, stride, w->attention + row * out_stride);
        row += TILE_ROWS;
    }
}

/* The attention half of a layer: norm, projections, RoPE, cache, attention, output. */
static void attention_block(engine *e, int32_t layer, const batch *b) {
    const engine_config *c = &e->config;
    const layer_weights *l = &e->weights.layers[layer];
    workspace *w = &e->workspace;
    int64_t queries = (int64_t)c->query_heads * c->head_dim;
    int64_t width = queries + 2 * (int64_t)e->pool.row_elements;
    normalise(w->residual, l->attention_norm, c->norm_epsilon, w->normed, b->rows, c->hidden);
    project(b, w->normed, c->hidden, l->qkv, w->qkv, c->hidden, width, 0.0f);
    add_bias(w->qkv, l->qkv_bias, b->rows, width);
    for (int64_t r = 0; r < b->rows; r++) {
        rotate(w->qkv + r * width, c->query_heads + c->kv_heads, c->head_dim, w->rotation + r * c->head_dim);
    }
    /* All keys and values are stored before any is read. */
    for (int64_t i = 0; i < b->segment_count; i++) {
        store(e, layer, &b->segments[i], w->qkv + b->segments[i].first_row * width + queries, width);
    }
    for (int64_t i = 0; i < b->segment_count; i++) {
        attend(e, layer, b, &b->segments[i], width);
    }
    project(b, w->attention, queries, l->output, w->residual, queries, c->hidden, 1.0f);
    add_bias(w->residual, l->output_bias, b->rows, c->hidden);
}

/* The other half: norm and SwiGLU. */
static void mlp_block(engine *e, int32_t layer, const batch *b) {
    const engine_config *c = &e->config;
    const layer_weights *l = &e->weights.layers[layer];
    workspace *w = &e->workspace;
    normalise(w->residual, l->mlp_norm, c->norm_epsilon, w->normed, b->rows, c->hidden);
    project(b, w->normed, c->hidden, l->gate_up, w->gate_up, c->hidden, 2 * (int64_t)c->intermediate, 0.0f);
    gate(w->gate_up, b->rows, c->intermediate);
    project(b, w->gate_up, 2 * (int64_t)c->intermediate, l->down, w->residual, c->intermediate, c->hidden, 1.0f);
}

int engine_forward(engine *e, const batch *b) {
    const engine_config *c = &e->config;
    workspace *w = &e->workspace;
    int status = workspace_reserve(e, b);
    if (status != ENGINE_OK) {
        return status;
    }
    openblas_set_num_threads(!b->tiled && b->rows < ROWS_FOR_THREADS ? 1 : e->threads);
    size_t row_bytes = (size_t)c->hidden * sizeof(float);
    for (int64_t r = 0; r < b->rows; r++) {
        if (b->tokens[r] < 0) {
            memset(w->residual + r * c->hidden, 0, row_bytes);
        } else {
            memcpy(w->residual + r * c->hidden, e->weights.embedding + (int64_t)b->tokens[r] * c->hidden, row_bytes);
        }
    }
    prepare_rotation(c, b, w->rotation);
    for (int32_t layer = 0; layer < c->layers; layer++) {
        attention_block(e, layer, b);
        mlp_block(e, layer, b);
    }
    if (b->logit_count == 0) {
        return ENGINE_OK;
    }
    for (int64_t i = 0; i < b->logit_count; i++) {
        normalise(w->residual + b->logit_rows[i] * c->hidden, e->weights.final_norm, c->norm_epsilon,
                  w->normed + i * c->hidden, 1, c->hidden);
    }
    const batch last = {.rows = b->logit_count};
    project(&last, w->normed, c->hidden, e->weights.head, w->logits, c->hidden, c->vocabulary, 0.0f);
    return ENGINE_OK;
}
