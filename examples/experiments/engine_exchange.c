#include "engine_exchange.h"

#include "common/json_file.h"
#include "common/rope_residual.h"
#include "generation.h"

#include <kvsim/snapshot.h>

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DUMP       "dump.safetensors"
#define GENERATION "generation.json"

/** Files that nftw may hold open. */
#define OPEN_FOLDERS 16

static char *join(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static int write_file(const char *path, const char *text, size_t size, error_text *error) {
    FILE *file = fopen(path, "wbe");
    bool written = file != NULL && fwrite(text, 1, size, file) == size;
    int reason = errno;
    if (file != NULL && fclose(file) != 0 && written) {
        written = false;
        reason = errno;
    }
    return written ? 0 : fail(error, "cannot write %s: %s", path, strerror(reason));
}

/** The experiment, every field filled in, and what one run of it needs besides. */
static json_t *request_document(const engine_exchange *x, const engine_limits *limits, const char *const *ignored) {
    json_t *document = json_object();
    json_t *seeds = json_array();
    json_t *fields = json_array();
    for (size_t i = 0; i < x->e->prompt_count; i++)
        json_array_append_new(seeds, json_integer((json_int_t)experiment_sequence_seed(x->e, x->repeat, i)));
    for (size_t i = 0; ignored[i] != NULL; i++)
        json_array_append_new(fields, json_string(ignored[i]));
    json_object_set_new(document, "schema", json_string("kvsim.request.v1"));
    json_object_update_new(document, experiment_to_json(x->e));
    json_object_set_new(document, "seed", json_integer((json_int_t)experiment_repeat_seed(x->e, x->repeat)));
    json_object_set_new(document, "repeat", json_integer(x->repeat));
    json_object_set_new(document, "sequence_seeds", seeds);
    json_object_set_new(document, "threads", json_integer(limits->threads));
    json_object_set_new(document, "ignored_fields", fields);
    return document;
}

/** Prompts as kvsim-analyze reads them: one a line, with escapes. */
static int write_prompts(const engine_exchange *x, error_text *error) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return fail(error, "out of memory");
    for (size_t i = 0; i < x->e->prompt_count; i++) {
        for (const char *c = x->e->prompts[i]; *c != 0; c++) {
            const char *escape = *c == '\n' ? "\\n" : *c == '\t' ? "\\t" : *c == '\\' ? "\\\\" : NULL;
            if (escape != NULL)
                fputs(escape, out);
            else
                fputc(*c, out);
        }
        fputc('\n', out);
    }
    int result = fclose(out) != 0 ? fail(error, "out of memory") : write_file(x->prompts, text, size, error);
    free(text);
    return result;
}

int engine_exchange_open(engine_exchange *x, const experiment *e, int64_t repeat, const char *run_folder,
                         const engine_limits *limits, const char *const *ignored, error_text *error) {
    *x = (engine_exchange){.e = e, .repeat = repeat, .run_folder = run_folder};
    char *absolute = realpath(run_folder, NULL);
    if (absolute == NULL)
        return fail(error, "cannot find %s: %s", run_folder, strerror(errno));
    x->request = join(absolute, "request.json");
    x->prompts = join(absolute, "prompts.txt");
    x->folder = join(absolute, "engine");
    free(absolute);
    if (x->request == NULL || x->prompts == NULL || x->folder == NULL)
        return fail(error, "out of memory");
    if (mkdir(x->folder, 0777) != 0)
        return fail(error, "cannot make the folder %s: %s", x->folder, strerror(errno));
    json_t *document = request_document(x, limits, ignored);
    int result = json_file_write(x->request, document, error);
    json_decref(document);
    return result != 0 ? result : write_prompts(x, error);
}

static int remove_entry(const char *path, const struct stat *facts, int type, struct FTW *place) {
    (void)facts;
    (void)type;
    (void)place;
    remove(path);
    return 0;
}

void engine_exchange_close(engine_exchange *x) {
    if (x->folder != NULL)
        nftw(x->folder, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    if (x->request != NULL)
        unlink(x->request);
    if (x->prompts != NULL)
        unlink(x->prompts);
    free(x->folder);
    free(x->request);
    free(x->prompts);
    memset(x, 0, sizeof *x);
}

/* ---- What the engine left ---- */

/** A dump that is being looked at. */
typedef struct dump {
    kvsim_ctx *ctx;
    kvsim_snapshot *snapshot;
    kvsim_snapshot_info info;
    int64_t *lengths; /**< tokens of each sequence */
} dump;

static void close_dump(dump *d) {
    kvsim_snapshot_close(d->snapshot);
    kvsim_ctx_destroy(d->ctx);
    free(d->lengths);
}

/** Length of each sequence. */
static int read_lengths(const engine_exchange *x, dump *d, const char *what, error_text *error) {
    d->lengths = calloc(x->e->prompt_count, sizeof *d->lengths);
    if (d->lengths == NULL)
        return fail(error, "out of memory");
    for (size_t i = 0; i < x->e->prompt_count; i++) {
        char name[64];
        kvsim_tensor tokens = KVSIM_TENSOR_INIT;
        snprintf(name, sizeof name, "seq.%zu.tokens", i);
        if (kvsim_snapshot_find(d->snapshot, name, &tokens) == KVSIM_OK && tokens.ndim == 1)
            d->lengths[i] = tokens.shape[0];
        if (d->lengths[i] == 0)
            return fail(error, "%s: sequence %zu of " DUMP " has no tokens", what, i);
    }
    return 0;
}

static int open_dump(const engine_exchange *x, dump *d, const char *path, const char *what, error_text *error) {
    struct stat facts;
    if (lstat(path, &facts) != 0)
        return fail(error, "%s: ended well but left no " DUMP " in $KVSIM_OUTPUT_DIR", what);
    if (!S_ISREG(facts.st_mode))
        return fail(error, "%s: the " DUMP " that it left is not a regular file", what);
    if (kvsim_ctx_create(NULL, &d->ctx) != KVSIM_OK)
        return fail(error, "out of memory");
    d->info = (kvsim_snapshot_info)KVSIM_SNAPSHOT_INFO_INIT;
    if (kvsim_snapshot_open(d->ctx, path, &d->snapshot) != KVSIM_OK ||
        kvsim_snapshot_get_info(d->ctx, d->snapshot, &d->info) != KVSIM_OK)
        return fail(error, "%s: the dump that it left cannot be read: %s", what, kvsim_ctx_error(d->ctx));
    if (d->info.schema != KVSIM_SCHEMA_DUMP)
        return fail(error, "%s: the " DUMP " that it left is not of the schema kvsim.dump.v1", what);
    if (d->info.sequences != (int64_t)x->e->prompt_count)
        return fail(error,
                    "%s: the dump that it left has %" PRId64 " sequences; it needs one for each of the %zu prompts",
                    what, d->info.sequences, x->e->prompt_count);
    return read_lengths(x, d, what, error);
}

/** Note a rotation that cannot be true. */
static int check_rotation(dump *d, json_t *document, const char *what, error_text *error) {
    double residual = 0.0;
    int64_t pairs = 0;
    if (!d->info.rope_applied || d->info.rope.style == KVSIM_ROPE_NONE)
        return 0;
    if (kvsim_set_rope(d->ctx, &d->info.rope) != KVSIM_OK ||
        kvsim_snapshot_check_rope(d->ctx, d->snapshot, &residual, &pairs) != KVSIM_OK)
        return fail(error, "%s: %s", what, kvsim_ctx_error(d->ctx));
    if (pairs > 0 && residual > rope_residual_limit(d->info.dtype_code))
        generation_add_note(document, "the keys were not rotated as the dump says: do not trust the de-rotated views");
    return 0;
}

/** The engine's own words. @return 0, and *given is NULL if it left none */
static int read_generation(const char *path, const char *what, json_t **given, error_text *error) {
    error_text reason;
    *given = NULL;
    if (access(path, F_OK) != 0)
        return 0;
    *given = json_file_read(path, &reason);
    return *given != NULL ? 0 : fail(error, "%s: the " GENERATION " that it left: %s", what, reason.text);
}

static int complete(const engine_exchange *x, dump *d, const char *what, int64_t peak_rss_bytes, json_t **document,
                    error_text *error) {
    const generation_facts facts = {x->e, x->repeat, &d->info, d->lengths, peak_rss_bytes};
    error_text reason;
    json_t *given = NULL;
    char *path = join(x->folder, GENERATION);
    int result = path == NULL ? fail(error, "out of memory") : read_generation(path, what, &given, error);
    free(path);
    if (result != 0)
        return -1;
    *document = generation_complete(given, &facts, &reason);
    json_decref(given);
    if (*document == NULL)
        return fail(error, "%s: the " GENERATION " that it left: %s", what, reason.text);
    return check_rotation(d, *document, what, error);
}

int engine_exchange_take(engine_exchange *x, const char *what, int64_t peak_rss_bytes, error_text *error) {
    dump d = {0};
    json_t *document = NULL;
    char *from = join(x->folder, DUMP), *to = join(x->run_folder, DUMP);
    char *generation = join(x->run_folder, GENERATION);
    int result = from == NULL || to == NULL || generation == NULL ? fail(error, "out of memory")
                                                                  : open_dump(x, &d, from, what, error);
    if (result == 0)
        result = complete(x, &d, what, peak_rss_bytes, &document, error);
    if (result == 0)
        result = json_file_write(generation, document, error);
    close_dump(&d);
    if (result == 0 && rename(from, to) != 0)
        result = fail(error, "cannot move %s to %s: %s", from, to, strerror(errno));
    json_decref(document);
    free(from);
    free(to);
    free(generation);
    return result;
}
