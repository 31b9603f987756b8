/*
 * Self-test of a rotation. Before RoPE a key of the first layer depends on its token alone, so two keys of one token
 * must agree once each is turned back by its position.
 */
#include "snapshot.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "pages/format.h"
#include "pages/rope.h"

enum {
    /* Where each token was first seen; rarer tokens than fit are left out. A power of two. */
    TABLE_SIZE = 1 << 16,
    PROBES = 16,
    /* Pairs that are compared: spread over all there are. */
    PAIRS_LIMIT = 4096
};

typedef struct place {
    int64_t sequence; /* -1: a free entry */
    int64_t position;
    int32_t token;
} place;

typedef struct rope_test {
    kvsim__base *base;
    const kvsim_snapshot *snapshot;
    kvsim__facts facts;
    const kvsim_rope *rope;
    kvsim__dtype dtype;
    int32_t rotary;
    place *table;
    double *frequencies; /* [rotary / 2] */
    double *angles;      /* [rotary]: cosines, then sines */
    float *stored;       /* [D] */
    double *rows;        /* [2, H, D] */
    int64_t candidates;
    int64_t every; /* of the candidates one in this many is compared; 0 = they are only counted */
    int64_t pairs;
    double sum; /* of the squared relative residuals */
} rope_test;

/* The entry of a token: its own, or a free one for it, or NULL. */
static place *find_place(const rope_test *test, int32_t token) {
    const uint32_t hash = (uint32_t)token * 2654435761u;
    for (uint32_t i = 0; i < PROBES; i++) {
        place *at = &test->table[((hash >> 16) + i) % TABLE_SIZE];
        if (at->sequence < 0 || at->token == token) {
            return at;
        }
    }
    return NULL;
}

/* Turn a row back by the angles of its position. */
static void turn_back(const rope_test *test, double *row) {
    const int32_t pairs = test->rotary / 2;
    const double *cosines = test->angles;
    const double *sines = test->angles + pairs;
    const bool interleaved = test->rope->style == KVSIM_ROPE_INTERLEAVED;
    for (int32_t i = 0; i < pairs; i++) {
        double *first = &row[interleaved ? 2 * i : i];
        double *second = &row[interleaved ? 2 * i + 1 : i + pairs];
        const double x = *first;
        const double y = *second;
        *first = x * cosines[i] + y * sines[i];
        *second = y * cosines[i] - x * sines[i];
    }
}

/* The key of the first layer at a place, all heads, turned back. */
static void read_key(const rope_test *test, int64_t sequence, int64_t position, double *out) {
    char name[KVSIM__SCHEMA_NAME_SIZE];
    kvsim__name_rows(name, sequence, 0, false);
    const size_t dim = (size_t)test->facts.head_dim;
    const size_t heads = (size_t)test->facts.kv_heads;
    const size_t size = test->facts.dtype_bits / 8u;
    const unsigned char *data = kvsim__find_entry(test->snapshot, name)->data + (size_t)position * heads * dim * size;
    for (int32_t i = 0; i < test->rotary / 2; i++) {
        const double angle = (double)position * test->frequencies[i];
        test->angles[i] = cos(angle);
        test->angles[test->rotary / 2 + i] = sin(angle);
    }
    for (size_t head = 0; head < heads; head++) {
        kvsim__convert_row(test->dtype, data + head * dim * size, (int64_t)size, dim, test->stored);
        for (size_t i = 0; i < dim; i++) {
            out[head * dim + i] = (double)test->stored[i];
        }
        turn_back(test, out + head * dim);
    }
}

/* Two keys of one token; those that are zero or not finite say nothing. */
static void compare(rope_test *test, const place *first, int64_t sequence, int64_t position) {
    const size_t count = (size_t)test->facts.kv_heads * (size_t)test->facts.head_dim;
    double difference = 0.0;
    double norms = 0.0;
    read_key(test, first->sequence, first->position, test->rows);
    read_key(test, sequence, position, test->rows + count);
    for (size_t i = 0; i < count; i++) {
        const double a = test->rows[i];
        const double b = test->rows[count + i];
        difference += (a - b) * (a - b);
        norms += (a * a + b * b) / 2.0;
    }
    if (isfinite(norms) && norms > 0.0) {
        test->sum += difference / norms;
        test->pairs++;
    }
}

static void take_token(rope_test *test, int64_t sequence, int64_t position, int32_t token) {
    place *at = find_place(test, token);
    if (at == NULL) {
        return;
    }
    if (at->sequence < 0) {
        *at = (place){sequence, position, token};
    } else if (at->position != position) {
        if (test->every > 0 && test->candidates % test->every == 0) {
            compare(test, at, sequence, position);
        }
        test->candidates++;
    }
}

static void take_tokens(rope_test *test, int64_t every) {
    test->candidates = 0;
    test->every = every;
    for (int64_t sequence = 0; sequence < test->facts.sequences; sequence++) {
        char name[KVSIM__SCHEMA_NAME_SIZE];
        kvsim__name_tokens(name, sequence);
        const kvsim__entry *tokens = kvsim__find_entry(test->snapshot, name);
        for (int64_t position = 0; position < tokens->shape[0]; position++) {
            take_token(test, sequence, position, kvsim__integer_at(tokens, position));
        }
    }
}

static kvsim_status run(rope_test *test) {
    kvsim__base *base = test->base;
    const size_t dim = (size_t)test->facts.head_dim;
    const size_t row = 2 * (size_t)test->facts.kv_heads;
    const size_t rotary = (size_t)test->rotary;
    size_t count = 0;
    if (__builtin_mul_overflow(row, dim, &count)) {
        return kvsim__fail_memory(base, SIZE_MAX, "the keys of two tokens");
    }
    test->table = kvsim__allocate(base, TABLE_SIZE, sizeof *test->table);
    test->frequencies = kvsim__allocate(base, rotary / 2, sizeof *test->frequencies);
    test->angles = kvsim__allocate(base, rotary, sizeof *test->angles);
    test->stored = kvsim__allocate(base, dim, sizeof *test->stored);
    test->rows = kvsim__allocate(base, count, sizeof *test->rows);
    kvsim_status status = KVSIM_OK;
    if (test->table == NULL || test->frequencies == NULL || test->angles == NULL || test->stored == NULL ||
        test->rows == NULL) {
        status = kvsim__fail_memory(base, TABLE_SIZE * sizeof *test->table, "the check of a rotation");
    } else {
        for (size_t i = 0; i < TABLE_SIZE; i++) {
            test->table[i] = (place){-1, 0, 0};
        }
        kvsim__rope_frequencies(test->rope, test->rotary, test->frequencies);
        take_tokens(test, 0);
        take_tokens(test, test->candidates / PAIRS_LIMIT + 1);
    }
    kvsim__release(base, test->table, TABLE_SIZE, sizeof *test->table);
    kvsim__release(base, test->frequencies, rotary / 2, sizeof *test->frequencies);
    kvsim__release(base, test->angles, rotary, sizeof *test->angles);
    kvsim__release(base, test->stored, dim, sizeof *test->stored);
    kvsim__release(base, test->rows, count, sizeof *test->rows);
    return status;
}

static kvsim_status prepare(rope_test *test) {
    kvsim__base *base = test->base;
    const char *shown = test->snapshot->files[0].shown;
    const kvsim_status status = kvsim__read_facts(base, test->snapshot, &test->facts);
    if (status != KVSIM_OK) {
        return status;
    }
    if (test->facts.schema != KVSIM_SCHEMA_DUMP) {
        return kvsim__fail(
            base, KVSIM_E_UNSUPPORTED,
            "%s: only kvsim.dump.v1 says which token each key is of, which the check of a rotation needs", shown);
    }
    if (test->rope->style == KVSIM_ROPE_NONE) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s: no rotation to check: call kvsim_set_rope or add the pages first", shown);
    }
    test->rotary = test->rope->rotary_dims > 0 ? test->rope->rotary_dims : test->facts.head_dim;
    if (test->rotary > test->facts.head_dim || test->rotary % 2 != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID, "%s: RoPE over %" PRId32 " channels does not fit keys of %" PRId32,
                           shown, test->rotary, test->facts.head_dim);
    }
    const kvsim_tensor tensor = {
        .dtype_code = test->facts.dtype_code, .dtype_bits = test->facts.dtype_bits, .dtype_lanes = 1};
    /* A dump without sequences has no element type, and nothing to compare. */
    if (test->facts.sequences > 0 && !kvsim__dtype_from_tensor(&tensor, &test->dtype)) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "%s: keys of an element type without numbers", shown);
    }
    return KVSIM_OK;
}

kvsim_status kvsim_snapshot_check_rope(kvsim_ctx *ctx, const kvsim_snapshot *snapshot, double *residual,
                                       int64_t *pairs) {
    if (ctx == NULL) {
        return KVSIM_E_INVALID;
    }
    kvsim__base *base = kvsim__ctx_base(ctx);
    if (snapshot == NULL || residual == NULL || pairs == NULL) {
        return kvsim__fail(base, KVSIM_E_INVALID, "kvsim_snapshot_check_rope: %s is NULL",
                           snapshot == NULL   ? "snapshot"
                           : residual == NULL ? "residual"
                                              : "pairs");
    }
    *residual = 0.0;
    *pairs = 0;
    rope_test test = {.base = base, .snapshot = snapshot, .rope = kvsim__ctx_rope(ctx)};
    kvsim_status status = prepare(&test);
    if (status == KVSIM_OK && test.facts.sequences > 0) {
        status = run(&test);
    }
    if (status == KVSIM_OK && test.pairs > 0) {
        *residual = sqrt(test.sum / (double)test.pairs);
        *pairs = test.pairs;
    }
    return status;
}
