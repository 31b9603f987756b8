/* Files out: dumps, and the file that appears whole or not at all. */
#define _GNU_SOURCE
#include "snapshot_files.h"

#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/file.h"

enum { LAYERS = 2, HEADS = 2, DIM = 4, SEQUENCES = 3, LONGEST = 5 };

static const int64_t lengths[SEQUENCES] = {5, 1, 4};
static const int32_t token_rows[SEQUENCES][LONGEST] = {{1, 2, 3, 4, 5}, {-6}, {7, INT32_MAX, INT32_MIN, 10}};
static const int32_t *const tokens[SEQUENCES] = {token_rows[0], token_rows[1], token_rows[2]};
static const char *const prompts[SEQUENCES] = {"plain", "", "\"quotes\", \\, \n, \x01, \xc3\xa9 and \xf0\x9f\x98\x80"};

/* Says where it is asked to stop, and what it has been asked. */
typedef struct reading {
    int calls;
    int give_up_at;
    int element_size;
} reading;

static unsigned char byte_of(int64_t sequence, int32_t layer, int32_t kind, size_t index) {
    return (unsigned char)(sequence * 101 + layer * 31 + kind * 7 + (int64_t)index);
}

static int read_rows(void *user, int64_t sequence, int32_t layer, int32_t kind, void *out) {
    reading *state = user;
    const int expected = (int)(sequence * LAYERS * 2 + layer * 2 + kind - KVSIM_KIND_KEY);
    if (state->calls != expected || state->calls == state->give_up_at) {
        return 1;
    }
    state->calls++;
    const size_t size = (size_t)lengths[sequence] * HEADS * DIM * (size_t)state->element_size;
    for (size_t i = 0; i < size; i++) {
        ((unsigned char *)out)[i] = byte_of(sequence, layer, kind, i);
    }
    return 0;
}

static kvsim_dump make_dump(reading *state) {
    *state = (reading){.give_up_at = -1, .element_size = 4};
    kvsim_dump dump = KVSIM_DUMP_INIT;
    dump.layers = LAYERS;
    dump.kv_heads = HEADS;
    dump.head_dim = DIM;
    dump.page_tokens = 2;
    dump.dtype_code = KVSIM_DTYPE_FLOAT;
    dump.dtype_bits = 32;
    dump.rope.style = KVSIM_ROPE_HALF;
    dump.rope.theta = 500000.0;
    dump.model = "a \"model\"";
    dump.sequences = SEQUENCES;
    dump.lengths = lengths;
    dump.tokens = tokens;
    dump.prompts = prompts;
    dump.read = read_rows;
    dump.read_user = state;
    return dump;
}

static const struct {
    int code;
    int bits;
} dump_types[] = {{KVSIM_DTYPE_FLOAT, 32}, {KVSIM_DTYPE_FLOAT, 16}, {KVSIM_DTYPE_BFLOAT, 16}};

START_TEST(a_dump_reads_back_as_it_was_written) {
    reading state;
    kvsim_dump dump = make_dump(&state);
    dump.dtype_code = (uint8_t)dump_types[_i].code;
    dump.dtype_bits = (uint8_t)dump_types[_i].bits;
    state.element_size = dump_types[_i].bits / 8;
    ck_assert_msg(kvsim_dump_write(ctx, path_of("d.safetensors"), &dump) == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    ck_assert_int_eq(state.calls, SEQUENCES * LAYERS * 2);
    ck_assert_int_eq(count_files(false), 1);
    kvsim_snapshot *snapshot = open_good(path_of("d.safetensors"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_msg(kvsim_snapshot_get_info(ctx, snapshot, &info) == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    ck_assert_int_eq(info.schema, KVSIM_SCHEMA_DUMP);
    ck_assert_int_eq(info.layers, LAYERS);
    ck_assert_int_eq(info.kv_heads, HEADS);
    ck_assert_int_eq(info.head_dim, DIM);
    ck_assert_int_eq(info.page_tokens, 2);
    ck_assert_int_eq(info.sequences, SEQUENCES);
    ck_assert_int_eq(info.tokens, 10);
    ck_assert_int_eq(info.dtype_code, dump_types[_i].code);
    ck_assert_int_eq(info.dtype_bits, dump_types[_i].bits);
    ck_assert_int_eq(info.rope.style, KVSIM_ROPE_HALF);
    ck_assert_double_eq(info.rope.theta, 500000.0);
    ck_assert_str_eq(info.model, "a \"model\"");
    for (int s = 0; s < SEQUENCES; s++) {
        char name[64];
        kvsim_tensor tensor = KVSIM_TENSOR_INIT;
        (void)snprintf(name, sizeof name, "seq.%d.tokens", s);
        ck_assert_int_eq(kvsim_snapshot_find(snapshot, name, &tensor), KVSIM_OK);
        ck_assert_mem_eq(tensor.data, tokens[s], (size_t)lengths[s] * 4);
        for (int part = 0; part < LAYERS * 2; part++) {
            (void)snprintf(name, sizeof name, "seq.%d.layer.%d.%s", s, part / 2, part % 2 == 0 ? "key" : "value");
            ck_assert_int_eq(kvsim_snapshot_find(snapshot, name, &tensor), KVSIM_OK);
            ck_assert_uint_eq((uintptr_t)tensor.data % (uintptr_t)state.element_size, 0);
            for (size_t i = 0; i < (size_t)lengths[s] * HEADS * DIM * (size_t)state.element_size; i++) {
                ck_assert_int_eq(((const unsigned char *)tensor.data)[i],
                                 byte_of(s, part / 2, part % 2 + KVSIM_KIND_KEY, i));
            }
        }
    }
    ck_assert_int_eq(kvsim_snapshot_add_pages(ctx, snapshot, NULL), KVSIM_OK);
    ck_assert_uint_eq(kvsim_page_count(ctx), (3 + 1 + 2) * LAYERS * 2);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static size_t read_file(const char *name, unsigned char *out, size_t size) {
    FILE *file = fopen(path_of(name), "rb");
    ck_assert_ptr_nonnull(file);
    const size_t length = fread(out, 1, size, file);
    ck_assert_int_eq(fclose(file), 0);
    return length;
}

START_TEST(a_dump_has_the_bytes_that_the_schema_asks_for) {
    static unsigned char first[65536];
    static unsigned char second[65536];
    static const char metadata[] =
        "{\"__metadata__\":{\"format\":\"kvsim.dump.v1\",\"model\":\"a \\\"model\\\"\",\"layers\":\"2\","
        "\"kv_heads\":\"2\",\"head_dim\":\"4\",\"rope_theta\":\"500000\",\"rope_style\":\"half\","
        "\"rope_applied\":\"true\",\"page_tokens\":\"2\",\"sequences\":\"3\",\"prompts\":\"[\\\"plain\\\", \\\"\\\", ";
    reading state;
    kvsim_dump dump = make_dump(&state);
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("1"), &dump), KVSIM_OK);
    state.calls = 0;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("2"), &dump), KVSIM_OK);
    const size_t size = read_file("1", first, sizeof first);
    ck_assert_uint_eq(read_file("2", second, sizeof second), size);
    ck_assert_mem_eq(first, second, size);
    uint64_t length = 0;
    memcpy(&length, first, 8);
    ck_assert_uint_eq(length % 8, 0);
    ck_assert_uint_eq(size, 8 + length + 10 * 4 + (size_t)10 * LAYERS * 2 * HEADS * DIM * 4);
    ck_assert_mem_eq(first + 8, metadata, sizeof metadata - 1);
}
END_TEST

static const struct {
    double theta;
    const char *text;
} thetas[] = {{0.0, "10000"}, {1e6, "1000000"}, {10000.5, "10000.5"}, {0.1, "0.1"}, {1e300, NULL}, {1.0 / 3.0, NULL}};

START_TEST(numbers_read_back_the_same_in_any_locale) {
    /* A decimal comma, where the system has such a locale. */
    (void)(setlocale(LC_ALL, "de_DE.UTF-8") != NULL || setlocale(LC_ALL, "de_DE") != NULL);
    reading state;
    kvsim_dump dump = make_dump(&state);
    dump.rope.theta = thetas[_i].theta;
    dump.rope.style = KVSIM_ROPE_INTERLEAVED;
    dump.rope.rotary_dims = 2;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_OK);
    kvsim_snapshot *snapshot = open_good(path_of("d"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_double_eq(info.rope.theta, thetas[_i].theta > 0.0 ? thetas[_i].theta : 10000.0);
    ck_assert_int_eq(info.rope.style, KVSIM_ROPE_INTERLEAVED);
    ck_assert_int_eq(info.rope.rotary_dims, 2);
    const char *text = kvsim_snapshot_metadata(snapshot, "rope_theta");
    ck_assert_ptr_null(strchr(text, ','));
    if (thetas[_i].text != NULL) {
        ck_assert_str_eq(text, thetas[_i].text);
    }
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(what_is_not_known_is_left_out) {
    reading state;
    kvsim_dump dump = make_dump(&state);
    dump.rope = (kvsim_rope)KVSIM_ROPE_INIT;
    dump.model = NULL;
    dump.prompts = NULL;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_OK);
    kvsim_snapshot *snapshot = open_good(path_of("d"));
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.rope_applied, 0);
    ck_assert_int_eq(info.rope.style, KVSIM_ROPE_NONE);
    ck_assert_str_eq(info.model, "");
    ck_assert_ptr_null(kvsim_snapshot_metadata(snapshot, "prompts"));
    kvsim_snapshot_close(snapshot);
    dump.sequences = 0;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_OK);
    snapshot = open_good(path_of("d"));
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 0);
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.schema, KVSIM_SCHEMA_DUMP);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static void refuse_dump(const kvsim_dump *dump, const char *error) {
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), dump), KVSIM_E_INVALID);
    expect_error(error);
    ck_assert_int_eq(count_files(false), 0);
}

START_TEST(wrong_dumps_are_refused) {
    static const int64_t empty[SEQUENCES] = {5, 0, 4};
    static const int64_t huge[SEQUENCES] = {INT64_MAX, 1, 1};
    static const int32_t *const no_tokens[SEQUENCES] = {token_rows[0], NULL, token_rows[2]};
    static const char *const latin[SEQUENCES] = {"caf\xe9", "", ""};
    static const char *const bad_utf8[] = {"\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",
                                           "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                           "\xc3",         "\xe2\x82",         "\xf0\x9f\x98",     "\xff"};
    reading state;
    const kvsim_dump good = make_dump(&state);
#define REFUSE(FIELD, VALUE, ERROR)                                                                                    \
    do {                                                                                                               \
        kvsim_dump dump = good;                                                                                        \
        dump.FIELD = VALUE;                                                                                            \
        refuse_dump(&dump, ERROR);                                                                                     \
    } while (0)
    REFUSE(layers, 0, "layers is 0, outside 1..65536");
    REFUSE(layers, 65537, "layers is 65537");
    REFUSE(kv_heads, -1, "kv_heads is -1");
    REFUSE(head_dim, 0, "head_dim is 0");
    REFUSE(page_tokens, 0, "page_tokens is 0");
    REFUSE(dtype_bits, 64, "dtype code 2 with 64 bits");
    REFUSE(dtype_code, KVSIM_DTYPE_INT, "dtype code 0");
    REFUSE(dtype_code, KVSIM_DTYPE_BFLOAT, "dtype code 4 with 32 bits");
    REFUSE(rope.style, 3, "rope.style is 3");
    REFUSE(rope.theta, -1.0, "rope.theta");
    REFUSE(rope.theta, (double)NAN, "rope.theta");
    REFUSE(rope.theta, (double)INFINITY, "rope.theta");
    REFUSE(rope.rotary_dims, 3, "rope.rotary_dims");
    REFUSE(rope.rotary_dims, 6, "rope.rotary_dims");
    REFUSE(sequences, -1, "-1 sequences");
    REFUSE(lengths, NULL, "with lengths and tokens");
    REFUSE(tokens, NULL, "with lengths and tokens");
    REFUSE(lengths, empty, "sequence 1 has 0 tokens");
    REFUSE(lengths, huge, "the size of sequence 0 overflows");
    REFUSE(tokens, no_tokens, "sequence 1 has 1 tokens and no token ids");
    REFUSE(prompts, latin, "the prompt of sequence 0 is not UTF-8");
    REFUSE(reserved, 1, "a reserved field is not 0");
    REFUSE(read, NULL, "read is NULL");
    REFUSE(struct_size, 4, "struct_size 4");
    for (size_t i = 0; i < sizeof bad_utf8 / sizeof bad_utf8[0]; i++) {
        REFUSE(model, bad_utf8[i], "model is not UTF-8");
    }
#undef REFUSE
    ck_assert_int_eq(kvsim_dump_write(NULL, path_of("d"), &good), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_dump_write(ctx, NULL, &good), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_dump_write(ctx, "", &good), KVSIM_E_INVALID);
}
END_TEST

START_TEST(too_many_tensors_for_a_header_are_refused) {
    enum { MANY = 20000 };
    int64_t *many_lengths = calloc(MANY, sizeof *many_lengths);
    const int32_t **many_tokens = calloc(MANY, sizeof *many_tokens);
    for (int i = 0; i < MANY; i++) {
        many_lengths[i] = 1;
        many_tokens[i] = token_rows[0];
    }
    reading state;
    kvsim_dump dump = make_dump(&state);
    dump.layers = 100;
    dump.sequences = MANY;
    dump.lengths = many_lengths;
    dump.tokens = many_tokens;
    dump.prompts = NULL;
    refuse_dump(&dump, "too many for the header of one file");
    free(many_lengths);
    free(many_tokens);
}
END_TEST

START_TEST(a_reader_that_gives_up_leaves_nothing) {
    for (int i = 0; i < SEQUENCES * LAYERS * 2; i++) {
        reading state;
        const kvsim_dump dump = make_dump(&state);
        state.give_up_at = i;
        ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_E_CANCELLED);
        ck_assert_int_eq(count_files(false), 0);
    }
    expect_error("read gave up on the values of sequence 2, layer 1");
}
END_TEST

/* Write under a limit of file sizes. No assertion meanwhile: Check writes a file of its own for each. */
static kvsim_status write_limited(const kvsim_dump *dump, rlim_t bytes) {
    const char *path = path_of("d");
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return KVSIM_E_INTERNAL;
    }
    const struct rlimit before = limit;
    limit.rlim_cur = bytes;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return KVSIM_E_INTERNAL;
    }
    const kvsim_status status = kvsim_dump_write(ctx, path, dump);
    return setrlimit(RLIMIT_FSIZE, &before) == 0 ? status : KVSIM_E_INTERNAL;
}

START_TEST(a_full_disk_leaves_the_old_file_and_nothing_else) {
    static unsigned char bytes[65536];
    write_text("d", "old");
    (void)signal(SIGXFSZ, SIG_IGN);
    const rlim_t limits[] = {0, 1, 100, 2000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        reading state;
        const kvsim_dump dump = make_dump(&state);
        ck_assert_int_eq(write_limited(&dump, limits[i]), KVSIM_E_IO);
        expect_error("d: cannot write: ");
        ck_assert_int_eq(count_files(false), 1);
        ck_assert_uint_eq(read_file("d", bytes, sizeof bytes), 3);
    }
}
END_TEST

static kvsim_status write_dump(kvsim_ctx *with) {
    reading state;
    const kvsim_dump dump = make_dump(&state);
    const kvsim_status status = kvsim_dump_write(with, path_of("d"), &dump);
    ck_assert_int_eq(count_files(true), status == KVSIM_OK ? 1 : 0);
    return status;
}

START_TEST(writing_survives_every_failing_allocation) {
    sweep_allocations(write_dump);
}
END_TEST

/* jansson takes its own memory, and does not report every failure of it. */
static long json_calls;
static long json_fail_at;
static long json_live;

static void *json_allocate(size_t size) {
    if (++json_calls == json_fail_at) {
        return NULL;
    }
    json_live++;
    return malloc(size);
}

static void json_release(void *memory) {
    json_live -= memory != NULL ? 1 : 0;
    free(memory);
}

START_TEST(jansson_may_run_out_of_memory) {
    static unsigned char whole[65536];
    static unsigned char again[65536];
    reading state;
    kvsim_dump dump = make_dump(&state);
    dump.rope.theta = 10000.25;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_OK);
    const size_t size = read_file("d", whole, sizeof whole);
    json_set_alloc_funcs(json_allocate, json_release);
    bool failed = true;
    for (json_fail_at = 1; failed; json_fail_at++) {
        json_calls = 0;
        state.calls = 0;
        ck_assert_int_eq(unlink(path_of("d")), 0);
        const kvsim_status status = kvsim_dump_write(ctx, path_of("d"), &dump);
        failed = json_calls >= json_fail_at;
        ck_assert_int_eq(json_live, 0);
        if (status == KVSIM_OK) {
            ck_assert_uint_eq(read_file("d", again, sizeof again), size);
            ck_assert_mem_eq(whole, again, size);
        } else {
            ck_assert_int_eq(status, KVSIM_E_NOMEM);
            ck_assert_int_eq(count_files(false), 0);
            write_bytes("d", whole, size);
        }
    }
    failed = true;
    for (json_fail_at = 1; failed; json_fail_at++) {
        json_calls = 0;
        kvsim_snapshot *snapshot = NULL;
        kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
        kvsim_status status = kvsim_snapshot_open(ctx, path_of("d"), &snapshot);
        if (status == KVSIM_OK) {
            status = kvsim_snapshot_get_info(ctx, snapshot, &info);
        }
        failed = json_calls >= json_fail_at;
        ck_assert_int_eq(json_live, 0);
        /* It takes a token that it has no memory for to be a malformed one. */
        ck_assert_msg(status == KVSIM_OK || status == KVSIM_E_NOMEM || status == KVSIM_E_FORMAT, "status %d", status);
        ck_assert_int_eq(info.sequences, status == KVSIM_OK ? SEQUENCES : 0);
        kvsim_snapshot_close(snapshot);
    }
    ck_assert_int_gt(json_fail_at, 10);
}
END_TEST

/* ---- lib/base/file ---- */

START_TEST(a_file_is_whole_or_absent) {
    static unsigned char large[200000];
    kvsim__base *base = kvsim__ctx_base(ctx);
    kvsim__file file;
    memset(large, 7, sizeof large);
    ck_assert_int_eq(kvsim__file_begin(base, path_of("f"), &file), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, "head", 4), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, large, sizeof large), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, "", 0), KVSIM_OK);
    ck_assert_int_eq(access(path_of("f"), F_OK), -1);
    ck_assert_int_eq(kvsim__file_commit(base, &file), KVSIM_OK);
    kvsim__file_abandon(base, &file);
    struct stat facts;
    ck_assert_int_eq(stat(path_of("f"), &facts), 0);
    ck_assert_int_eq(facts.st_size, sizeof large + 4);
    ck_assert_int_eq(facts.st_mode & S_IRUSR, S_IRUSR);
    ck_assert_int_eq(kvsim__file_begin(base, path_of("g"), &file), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, large, sizeof large), KVSIM_OK);
    kvsim__file_abandon(base, &file);
    kvsim__file_abandon(base, &file);
    ck_assert_int_eq(kvsim__file_write(base, &file, "x", 1), KVSIM_E_IO);
    ck_assert_int_eq(kvsim__file_commit(base, &file), KVSIM_E_IO);
    ck_assert_int_eq(count_files(false), 1);
}
END_TEST

START_TEST(two_files_can_be_written_at_once) {
    kvsim__base *base = kvsim__ctx_base(ctx);
    kvsim__file first;
    kvsim__file second;
    ck_assert_int_eq(kvsim__file_begin(base, path_of("f"), &first), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_begin(base, path_of("f"), &second), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &first, "first", 5), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &second, "second", 6), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_commit(base, &second), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_commit(base, &first), KVSIM_OK);
    unsigned char bytes[16];
    ck_assert_uint_eq(read_file("f", bytes, sizeof bytes), 5);
    ck_assert_int_eq(count_files(false), 1);
}
END_TEST

START_TEST(links_are_followed_and_odd_targets_refused) {
    kvsim__base *base = kvsim__ctx_base(ctx);
    kvsim__file file;
    write_text("real", "old");
    ck_assert_int_eq(symlink("real", path_of("link")), 0);
    ck_assert_int_eq(symlink("absent", path_of("dangling")), 0);
    ck_assert_int_eq(kvsim__file_begin(base, path_of("link"), &file), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, "new text", 8), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_commit(base, &file), KVSIM_OK);
    unsigned char bytes[16];
    ck_assert_uint_eq(read_file("real", bytes, sizeof bytes), 8);
    struct stat facts;
    ck_assert_int_eq(lstat(path_of("link"), &facts), 0);
    ck_assert(S_ISLNK(facts.st_mode));
    ck_assert_int_eq(kvsim__file_begin(base, path_of("dangling"), &file), KVSIM_E_IO);
    ck_assert_int_eq(kvsim__file_begin(base, path_of("no/such/folder"), &file), KVSIM_E_IO);
    ck_assert_int_eq(kvsim__file_begin(base, folder, &file), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim__file_begin(base, "/dev/null", &file), KVSIM_E_INVALID);
    expect_error("/dev/null: not a regular file");
    ck_assert_int_eq(kvsim__file_begin(base, NULL, &file), KVSIM_E_INVALID);
    ck_assert_int_eq(count_files(false), 3);
}
END_TEST

START_TEST(a_name_without_a_folder_is_in_the_current_one) {
    ck_assert_int_eq(chdir(folder), 0);
    kvsim__base *base = kvsim__ctx_base(ctx);
    kvsim__file file;
    ck_assert_int_eq(kvsim__file_begin(base, "plain", &file), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_write(base, &file, "x", 1), KVSIM_OK);
    ck_assert_int_eq(kvsim__file_commit(base, &file), KVSIM_OK);
    ck_assert_int_eq(access(path_of("plain"), F_OK), 0);
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

START_TEST(texts_are_shortened_between_characters) {
    char out[KVSIM__SHORT_SIZE];
    char text[3 * KVSIM__SHORT_SIZE];
    ck_assert_str_eq(kvsim__shorten("short", true, out), "short");
    for (size_t shift = 0; shift < 4; shift++) {
        size_t length = 0;
        while (length < shift) {
            text[length++] = 'x';
        }
        while (length < 2 * KVSIM__SHORT_SIZE) {
            memcpy(text + length, "\xf0\x9f\x98\x80", 4);
            length += 4;
        }
        text[length] = '\0';
        const char *begin = kvsim__shorten(text, false, out);
        ck_assert_uint_lt(strlen(begin), KVSIM__SHORT_SIZE);
        ck_assert_uint_eq((strlen(begin) - 3 - shift) % 4, 0);
        const char *end = kvsim__shorten(text, true, out);
        ck_assert_uint_lt(strlen(end), KVSIM__SHORT_SIZE);
        ck_assert_int_eq((unsigned char)end[3], 0xf0);
    }
}
END_TEST

#define COUNT_OF(ROWS) ((int)(sizeof(ROWS) / sizeof(ROWS)[0]))

int main(void) {
    Suite *suite = suite_create("snapshot_dump");
    TCase *dumps = kvsim_check_case(suite, "dumps");
    tcase_add_checked_fixture(dumps, make_folder, remove_folder);
    tcase_add_loop_test(dumps, a_dump_reads_back_as_it_was_written, 0, COUNT_OF(dump_types));
    tcase_add_test(dumps, a_dump_has_the_bytes_that_the_schema_asks_for);
    tcase_add_loop_test(dumps, numbers_read_back_the_same_in_any_locale, 0, COUNT_OF(thetas));
    tcase_add_test(dumps, what_is_not_known_is_left_out);
    tcase_add_test(dumps, wrong_dumps_are_refused);
    tcase_add_test(dumps, too_many_tensors_for_a_header_are_refused);
    tcase_add_test(dumps, a_reader_that_gives_up_leaves_nothing);
    tcase_add_test(dumps, a_full_disk_leaves_the_old_file_and_nothing_else);
    tcase_add_test(dumps, writing_survives_every_failing_allocation);
    tcase_add_test(dumps, jansson_may_run_out_of_memory);
    TCase *files = kvsim_check_case(suite, "files");
    tcase_add_checked_fixture(files, make_folder, remove_folder);
    tcase_add_test(files, a_file_is_whole_or_absent);
    tcase_add_test(files, two_files_can_be_written_at_once);
    tcase_add_test(files, links_are_followed_and_odd_targets_refused);
    tcase_add_test(files, a_name_without_a_folder_is_in_the_current_one);
    tcase_add_test(files, texts_are_shortened_between_characters);
    return kvsim_check_main(suite, "test_snapshot_dump", 22);
}
