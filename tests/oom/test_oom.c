/*
 * Every public call with an allocator that fails: at its N-th allocation only, and from then on, until no allocation
 * is left to fail. The call must say KVSIM_E_NOMEM, lose nothing, release what it took with the size it took, and leave
 * the context usable. And how much memory a compute takes at its peak.
 */
#include <kvsim/kvsim.h>
#include <kvsim/snapshot.h>

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int passed, failed;
static bool sound = true;

static void check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void check(bool good, const char *format, ...) {
    if (good) {
        return;
    }
    sound = false;
    va_list arguments;
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)printf("\n");
}

/* One failing allocation, or one measurement, is one test: it passed if all checks since the last one did. */
static void end_test(void) {
    passed += sound;
    failed += !sound;
    sound = true;
}

/* ---- the allocator ---- */

typedef struct counted {
    atomic_llong outstanding, peak, calls;
    atomic_llong fail_at; /* number of the call that fails; 0 = none */
    bool and_all_after;
    atomic_bool wrong_size;
} counted;

/* Before each block stands its size. */
enum { HEADER = 4096 };

static void *allocate(void *user, size_t size, size_t alignment) {
    counted *to = user;
    const long long call = atomic_fetch_add(&to->calls, 1) + 1, fail_at = atomic_load(&to->fail_at);
    if (fail_at != 0 && (call == fail_at || (to->and_all_after && call > fail_at))) {
        return NULL;
    }
    if (size == 0 || size > (size_t)1 << 40 || alignment > HEADER) {
        return NULL;
    }
    const size_t header = alignment > 64 ? HEADER : 64;
    unsigned char *memory = aligned_alloc(header, (size + 2 * header - 1) / header * header);
    if (memory == NULL) {
        return NULL;
    }
    memcpy(memory + header - sizeof size, &size, sizeof size);
    memcpy(memory + header - 2 * sizeof size, &header, sizeof header);
    const long long now = atomic_fetch_add(&to->outstanding, (long long)size) + (long long)size;
    long long peak = atomic_load(&to->peak);
    while (now > peak && !atomic_compare_exchange_weak(&to->peak, &peak, now)) {
    }
    return memory + header;
}

static void release(void *user, void *memory, size_t size) {
    counted *to = user;
    size_t taken, header;
    memcpy(&taken, (unsigned char *)memory - sizeof taken, sizeof taken);
    memcpy(&header, (unsigned char *)memory - 2 * sizeof taken, sizeof header);
    if (taken != size) {
        atomic_store(&to->wrong_size, true);
    }
    atomic_fetch_sub(&to->outstanding, (long long)taken);
    free((unsigned char *)memory - header);
}

static kvsim_status create(counted *counts, uint32_t threads, kvsim_ctx **out) {
    const kvsim_allocator allocator = {allocate, release, counts};
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.threads = threads;
    options.allocator = &allocator;
    return kvsim_ctx_create(&options, out);
}

/* ---- the calls ---- */

enum { B = 40, N = 3, H = 2, D = 6 };

static float elements[2][B * N * H * D];
static int8_t bytes[B * N * H * D];
static float scales[B * N * H];
static const int64_t shape[4] = {B, N, H, D}, head_shape[1] = {H}, slot_shape[3] = {B, N, H};
static char folder[64], data_file[1024];

static void fill_elements(void) {
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof elements / sizeof(float); i++) {
        state = state * 1664525u + 1013904223u;
        /* Some pages equal, some near: every part of a compute has work. */
        ((float *)elements)[i] = i / 36 % 4 == 1 ? ((float *)elements)[i - 36] : (float)(state >> 8) * 0x1p-24f - 0.4f;
        bytes[i % sizeof bytes] = (int8_t)(state >> 16);
        scales[i % (B * N * H)] = 1.0f;
    }
}

static kvsim_tensor tensor_of(const void *data, uint8_t code, uint8_t bits, const int64_t *axes, int ndim) {
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    tensor.data = data;
    tensor.dtype_code = code;
    tensor.dtype_bits = bits;
    tensor.shape = axes;
    tensor.ndim = ndim;
    return tensor;
}

static kvsim_status add(kvsim_ctx *ctx, uint32_t flags, uint64_t source) {
    const kvsim_tensor keys = tensor_of(elements[0], KVSIM_DTYPE_FLOAT, 32, shape, 4);
    const kvsim_tensor values = tensor_of(elements[1], KVSIM_DTYPE_FLOAT, 32, shape, 4);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_BOTH;
    pages.tensor = &keys;
    pages.value_tensor = &values;
    pages.flags = flags;
    pages.source = source;
    return kvsim_add_pages(ctx, &pages);
}

static kvsim_status add_scaled(kvsim_ctx *ctx, int32_t mode) {
    const kvsim_tensor keys = tensor_of(bytes, KVSIM_DTYPE_INT, 8, shape, 4);
    const kvsim_tensor scale =
        tensor_of(scales, KVSIM_DTYPE_FLOAT, 32, mode == KVSIM_SCALE_HEAD ? head_shape : slot_shape,
                  mode == KVSIM_SCALE_HEAD ? 1 : 3);
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = KVSIM_KIND_KEY;
    pages.tensor = &keys;
    pages.scale = &scale;
    pages.scale_mode = mode;
    return kvsim_add_pages(ctx, &pages);
}

static kvsim_status compute(kvsim_ctx *ctx, uint32_t flags, kvsim_result **result) {
    const kvsim_rope rope = {.struct_size = sizeof rope, .style = KVSIM_ROPE_HALF, .theta = 0.0, .rotary_dims = 0};
    kvsim_status status = kvsim_set_rope(ctx, &rope);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.views = 15;
    options.flags = flags;
    options.pairs = flags != 0 ? KVSIM_PAIRS_DIFFERENT_SEQUENCES : KVSIM_PAIRS_ALL;
    options.metrics = (flags & KVSIM_COMPUTE_CHANCE) != 0 ? KVSIM_METRIC_COSINE : 0;
    options.null_repetitions = 1;
    options.resamples = 2;
    return status == KVSIM_OK ? kvsim_compute(ctx, &options, result) : status;
}

#define FINDINGS (KVSIM_COMPUTE_CHANCE | KVSIM_COMPUTE_STRATA | KVSIM_COMPUTE_BOUNDS | KVSIM_COMPUTE_LEDGER)

static kvsim_status run_create(kvsim_ctx *ctx) {
    (void)ctx;
    return KVSIM_OK; /* creating is a part of every run */
}

static kvsim_status run_copy(kvsim_ctx *ctx) {
    return add(ctx, 0, 0);
}

static kvsim_status run_borrow(kvsim_ctx *ctx) {
    return add(ctx, KVSIM_PAGES_BORROW, 3);
}

static kvsim_status run_head_scales(kvsim_ctx *ctx) {
    return add_scaled(ctx, KVSIM_SCALE_HEAD);
}

static kvsim_status run_slot_scales(kvsim_ctx *ctx) {
    return add_scaled(ctx, KVSIM_SCALE_TOKEN_HEAD);
}

static kvsim_status run_many_adds(kvsim_ctx *ctx) {
    kvsim_status status = KVSIM_OK;
    for (int i = 0; i < 5 && status == KVSIM_OK; i++) {
        status = add(ctx, (uint32_t)i % 2, 0);
    }
    return status;
}

static kvsim_status compute_and_report(kvsim_ctx *ctx, uint32_t flags) {
    kvsim_result *result = NULL;
    kvsim_status status = add(ctx, KVSIM_PAGES_BORROW, 0);
    if (status == KVSIM_OK) {
        status = compute(ctx, flags, &result);
        check((result != NULL) == (status == KVSIM_OK), "a result without success, or the other way round");
    }
    if (status == KVSIM_OK) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s/report.json", folder);
        kvsim_report_options options = KVSIM_REPORT_OPTIONS_INIT;
        options.path = path;
        status = kvsim_report(ctx, result, &options);
        check((access(path, F_OK) == 0) == (status == KVSIM_OK), "a report without success, or the other way round");
        (void)unlink(path);
        kvsim_column column = KVSIM_COLUMN_INIT;
        check(kvsim_result_column(result, "summary", "pages", &column) == KVSIM_OK, "columns take no memory");
    }
    kvsim_result_destroy(result);
    return status;
}

static kvsim_status run_compute(kvsim_ctx *ctx) {
    return compute_and_report(ctx, 0);
}

static kvsim_status run_compute_with_everything(kvsim_ctx *ctx) {
    return compute_and_report(ctx, KVSIM_COMPUTE_PER_HEAD | KVSIM_COMPUTE_BEST_MATCH | KVSIM_COMPUTE_ASSIGNMENTS);
}

static kvsim_status run_findings(kvsim_ctx *ctx) {
    return compute_and_report(ctx,
                              KVSIM_COMPUTE_ASSIGNMENTS | FINDINGS | KVSIM_COMPUTE_PAGES | KVSIM_COMPUTE_DISTANCES);
}

static kvsim_status run_snapshot(kvsim_ctx *ctx) {
    kvsim_snapshot *snapshot = NULL;
    kvsim_status status = kvsim_snapshot_open(ctx, data_file, &snapshot);
    check((snapshot != NULL) == (status == KVSIM_OK), "a snapshot without success, or the other way round");
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_add_pages(ctx, snapshot, NULL);
        kvsim_ctx_clear(ctx);
    }
    kvsim_snapshot_close(snapshot);
    return status;
}

static int read_rows(void *user, int64_t sequence, int32_t layer, int32_t kind, void *out) {
    (void)user;
    (void)sequence;
    (void)layer;
    memcpy(out, elements[kind == KVSIM_KIND_VALUE], sizeof(float) * 5 * H * D);
    return 0;
}

static kvsim_status run_dump(kvsim_ctx *ctx) {
    static const int64_t lengths[2] = {5, 4};
    static const int32_t tokens[5] = {1, 2, 3, 4, 5};
    static const int32_t *const token_lists[2] = {tokens, tokens};
    static const char *const prompts[2] = {"a", "b"};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/dump.safetensors", folder);
    kvsim_dump dump = KVSIM_DUMP_INIT;
    dump.layers = 2;
    dump.kv_heads = H;
    dump.head_dim = D;
    dump.page_tokens = N;
    dump.dtype_code = KVSIM_DTYPE_FLOAT;
    dump.dtype_bits = 32;
    dump.sequences = 2;
    dump.lengths = lengths;
    dump.tokens = token_lists;
    dump.prompts = prompts;
    dump.read = read_rows;
    const kvsim_status status = kvsim_dump_write(ctx, path, &dump);
    check((access(path, F_OK) == 0) == (status == KVSIM_OK), "a dump without success, or the other way round");
    (void)unlink(path);
    return status;
}

static const struct scenario {
    const char *name;
    kvsim_status (*run)(kvsim_ctx *ctx);
    bool needs_data;
} scenarios[] = {
    {"create", run_create, false},
    {"add_pages by copy", run_copy, false},
    {"add_pages by borrowing", run_borrow, false},
    {"add_pages with head scales", run_head_scales, false},
    {"add_pages with slot scales", run_slot_scales, false},
    {"add_pages many times", run_many_adds, false},
    {"compute and report", run_compute, false},
    {"compute and report, all options", run_compute_with_everything, false},
    {"compute and report, all findings", run_findings, false},
    {"snapshot", run_snapshot, true},
    {"dump", run_dump, true},
};

/* Run a scenario with the N-th allocation failing. False when there was no N-th allocation. */
static bool run_failing(const struct scenario *scenario, long long fail_at, bool and_all_after, uint32_t threads) {
    counted counts = {.fail_at = fail_at, .and_all_after = and_all_after};
    kvsim_ctx *ctx = NULL;
    kvsim_status status = create(&counts, threads, &ctx);
    uint64_t before = 0;
    if (status == KVSIM_OK) {
        before = kvsim_page_count(ctx);
        status = scenario->run(ctx);
    }
    const bool reached = atomic_load(&counts.calls) >= fail_at;
    check(status == (reached ? KVSIM_E_NOMEM : KVSIM_OK), "%s, allocation %lld%s: status %d (%s)", scenario->name,
          fail_at, and_all_after ? " and after" : "", status, kvsim_ctx_error(ctx));
    atomic_store(&counts.fail_at, 0);
    if (ctx != NULL) {
        if (reached) {
            check(strstr(kvsim_ctx_error(ctx), "memory") != NULL, "%s, allocation %lld: the text is \"%s\"",
                  scenario->name, fail_at, kvsim_ctx_error(ctx));
        }
        /* The context works on: what failed succeeds now. */
        kvsim_ctx_clear(ctx);
        check(kvsim_page_count(ctx) == before, "%s: pages are left", scenario->name);
        status = scenario->run(ctx);
        check(status == KVSIM_OK, "%s, after a failure at allocation %lld: %d (%s)", scenario->name, fail_at, status,
              kvsim_ctx_error(ctx));
        kvsim_ctx_destroy(ctx);
    }
    check(atomic_load(&counts.outstanding) == 0, "%s, allocation %lld: %lld bytes are lost", scenario->name, fail_at,
          atomic_load(&counts.outstanding));
    check(!atomic_load(&counts.wrong_size), "%s, allocation %lld: released with another size", scenario->name, fail_at);
    end_test();
    return reached;
}

static void sweep(const struct scenario *scenario, uint32_t threads) {
    long long allocations = 0;
    for (int after = 0; after < 2; after++) {
        long long fail_at = 1;
        while (run_failing(scenario, fail_at, after == 1, threads) && fail_at < 100000) {
            fail_at++;
        }
        allocations = fail_at - 1;
    }
    printf("%s, threads %u: %lld allocations\n", scenario->name, threads, allocations);
}

/* A call that fails adds nothing, however far it came. */
static void check_nothing_is_added(void) {
    for (uint32_t flags = 0; flags <= KVSIM_PAGES_BORROW; flags++) {
        for (long long fail_at = 1;; fail_at++) {
            counted counts = {0};
            kvsim_ctx *ctx = NULL;
            check(create(&counts, 1, &ctx) == KVSIM_OK, "create");
            check(add(ctx, 0, 1) == KVSIM_OK, "add");
            atomic_store(&counts.fail_at, atomic_load(&counts.calls) + fail_at);
            const kvsim_status status = add(ctx, flags, 2);
            atomic_store(&counts.fail_at, 0);
            check(kvsim_page_count(ctx) == (status == KVSIM_OK ? 4 * B : 2 * B), "pages after a failed add: %llu",
                  (unsigned long long)kvsim_page_count(ctx));
            check(add(ctx, flags, 2) == KVSIM_OK && kvsim_page_count(ctx) == 4 * B, "the add after a failed add");
            kvsim_ctx_destroy(ctx);
            check(atomic_load(&counts.outstanding) == 0, "memory is lost");
            end_test();
            if (status == KVSIM_OK) {
                break;
            }
        }
    }
}

/* ---- peak ---- */

/* Where the long computes are cancelled: the peak is the same after 64 million pairs, which take minutes. */
#define FIRST_PAIRS 100000

static int stop_soon(void *user, uint64_t done, uint64_t total) {
    (void)total;
    return done > *(const uint64_t *)user;
}

static void measure_peak(const char *what, int64_t count, int64_t channels, uint8_t code, uint8_t bits, bool both,
                         uint32_t flags, uint64_t stop_after) {
    const int64_t axes[4] = {count, 1, 1, channels}, strides[4] = {channels % 97, channels, channels, 1};
    /* Pages overlap, so that the data itself takes little: what is measured is what the library takes. */
    const size_t size = ((size_t)count * (size_t)strides[0] + (size_t)channels) * bits / 8;
    unsigned char *data = malloc(size);
    if (data == NULL) {
        perror("malloc");
        exit(EXIT_FAILURE);
    }
    uint32_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (unsigned char)((state >> 24) & 0xbf); /* no infinity, no NaN */
    }
    kvsim_tensor tensor = tensor_of(data, code, bits, axes, 4);
    tensor.strides = strides;
    kvsim_pages pages = KVSIM_PAGES_INIT;
    pages.kind = both ? KVSIM_KIND_BOTH : KVSIM_KIND_KEY;
    pages.tensor = &tensor;
    pages.value_tensor = both ? &tensor : NULL;
    pages.flags = KVSIM_PAGES_BORROW;
    counted counts = {0};
    kvsim_ctx *ctx = NULL;
    check(create(&counts, 0, &ctx) == KVSIM_OK && kvsim_add_pages(ctx, &pages) == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    const long long before = atomic_load(&counts.outstanding);
    atomic_store(&counts.peak, before);
    kvsim_compute_options options = KVSIM_COMPUTE_OPTIONS_INIT;
    options.flags = flags;
    options.progress = stop_soon;
    options.progress_user = &stop_after;
    kvsim_result *result = NULL;
    const kvsim_status status = kvsim_compute(ctx, &options, &result);
    check(status == KVSIM_OK || status == KVSIM_E_CANCELLED, "%s: %s", what, kvsim_ctx_error(ctx));
    const double page_count = (double)kvsim_page_count(ctx), mebi = 1048576.0;
    const double peak = (double)(atomic_load(&counts.peak) - before);
    const double allowed = 64.0 * mebi + 64.0 * page_count;
    printf("peak of %s: %.1f MiB above the pages (allowed %.1f MiB); descriptors of pages: %.1f bytes each\n", what,
           peak / mebi, allowed / mebi, (double)before / page_count);
    check(peak <= allowed, "%s: %.1f MiB are taken, %.1f MiB allowed", what, peak / mebi, allowed / mebi);
    kvsim_result_destroy(result);
    kvsim_ctx_destroy(ctx);
    check(atomic_load(&counts.outstanding) == 0, "%s: memory is lost", what);
    end_test();
    free(data);
}

int main(void) {
    int skipped = 0;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)snprintf(folder, sizeof folder, "/tmp/kvsim-oom-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror("mkdtemp");
        return EXIT_FAILURE;
    }
    const char *data = getenv("KVSIM_TEST_DATA");
    (void)snprintf(data_file, sizeof data_file, "%s/kv/paged_vllm_e3.safetensors",
                   data != NULL ? data : KVSIM_TEST_DEFAULT_DATA);
    fill_elements();
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (scenarios[i].run == run_snapshot && access(data_file, R_OK) != 0) {
            printf("skipped: %s is not there\n", data_file);
            skipped++;
            continue;
        }
        sweep(&scenarios[i], 1);
    }
    sweep(&scenarios[7], 3);
    check_nothing_is_added();
    measure_peak("200,000 blocks of 2 x 4 f32 elements", 200000, 4, KVSIM_DTYPE_FLOAT, 32, true, 0, FIRST_PAIRS);
    measure_peak("200,000 key pages of 4 f32 elements", 200000, 4, KVSIM_DTYPE_FLOAT, 32, false, 0, FIRST_PAIRS);
    measure_peak("2,000 blocks of 2 x 16,384 bf16 elements", 2000, 16384, KVSIM_DTYPE_BFLOAT, 16, true, 0, 1000);
    measure_peak("2,000 key pages of 16,384 bf16 elements", 2000, 16384, KVSIM_DTYPE_BFLOAT, 16, false, 0, 1000);
    measure_peak("1,500 blocks of 2 x 4 f32 elements, to the end", 1500, 4, KVSIM_DTYPE_FLOAT, 32, true, 0, UINT64_MAX);
    measure_peak("200,000 blocks, all findings", 200000, 4, KVSIM_DTYPE_FLOAT, 32, true, FINDINGS, FIRST_PAIRS);
    measure_peak("200,000 value pages, all findings", 200000, 4, KVSIM_DTYPE_FLOAT, 32, false, FINDINGS, FIRST_PAIRS);
    measure_peak("3,000 blocks, all findings, to the end", 3000, 4, KVSIM_DTYPE_FLOAT, 32, true, FINDINGS, UINT64_MAX);
    measure_peak("150 blocks of 2 x 16,384 bf16, all findings, to the end", 150, 16384, KVSIM_DTYPE_BFLOAT, 16, true,
                 FINDINGS, UINT64_MAX);
    (void)rmdir(folder);
    printf("test_oom: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed == 0 && passed > 1000 ? EXIT_SUCCESS : EXIT_FAILURE;
}
