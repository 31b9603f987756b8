#include "rotation.h"

#include "common/rope_residual.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Most channels of a head that --rope takes. */
#define MOST_DIMS 65536

static int read_setting(const char *part, kvsim_rope *rope, error_text *error) {
    const char *number = strchr(part, '=');
    char *end = NULL;
    if (number == NULL)
        return fail(error, "--rope does not know '%s', only theta=X and dims=N behind the style", part);
    number++;
    errno = 0;
    if (strncmp(part, "theta=", 6) == 0) {
        rope->theta = strtod(number, &end);
        if (end == number || *end != 0 || !(rope->theta > 0.0) || isinf(rope->theta))
            return fail(error, "--rope takes a theta above 0, not '%s'", number);
        return 0;
    }
    if (strncmp(part, "dims=", 5) != 0)
        return fail(error, "--rope does not know '%s', only theta=X and dims=N behind the style", part);
    long dims = strtol(number, &end, 10);
    if (end == number || *end != 0 || errno != 0 || dims < 2 || dims > MOST_DIMS || dims % 2 != 0)
        return fail(error, "--rope takes dims from 2 to %d, an even number, not '%s'", MOST_DIMS, number);
    rope->rotary_dims = (int32_t)dims;
    return 0;
}

int rotation_read(const char *text, kvsim_rope *rope, error_text *error) {
    static const char *const styles[] = {
        [KVSIM_ROPE_NONE] = "none", [KVSIM_ROPE_HALF] = "half", [KVSIM_ROPE_INTERLEAVED] = "interleaved"};
    *rope = (kvsim_rope)KVSIM_ROPE_INIT;
    char *copy = strdup(text);
    if (copy == NULL)
        return fail(error, "out of memory");
    char *rest = copy;
    const char *style = strsep(&rest, ",");
    int result = -1;
    for (int32_t i = KVSIM_ROPE_NONE; i <= KVSIM_ROPE_INTERLEAVED; i++) {
        if (strcmp(styles[i], style) == 0) {
            rope->style = i;
            result = 0;
        }
    }
    if (result != 0)
        fail(error, "--rope does not know '%s', only none, half and interleaved", style);
    for (const char *part; result == 0 && (part = strsep(&rest, ",")) != NULL;)
        result = read_setting(part, rope, error);
    free(copy);
    return result;
}

int rotation_tell(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    kvsim_rope rope = options->rope;
    if (options->rope_config == NULL && rope.struct_size == 0)
        return 0;
    if (options->rope_config != NULL) {
        rope = (kvsim_rope)KVSIM_ROPE_INIT;
        if (kvsim_rope_read_config(ctx, options->rope_config, &rope) != KVSIM_OK)
            return fail(error, "--rope-config: %s", kvsim_ctx_error(ctx));
    }
    if (kvsim_set_rope(ctx, &rope) != KVSIM_OK)
        return fail(error, "--rope: %s", kvsim_ctx_error(ctx));
    source->rope_known = rope.style != KVSIM_ROPE_NONE;
    return 0;
}

/** Sums over files. */
typedef struct check_sums {
    double squares; /**< of the relative differences */
    int64_t pairs;
    double limit; /**< of the residual, for the coarsest element type */
} check_sums;

static int check_file(const kvsim_snapshot *snapshot, kvsim_ctx *ctx, check_sums *sums, error_text *error) {
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    double residual = 0.0;
    int64_t pairs = 0;
    if (kvsim_snapshot_get_info(ctx, snapshot, &info) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(ctx));
    if (info.schema != KVSIM_SCHEMA_DUMP)
        return 0;
    if (kvsim_snapshot_check_rope(ctx, snapshot, &residual, &pairs) != KVSIM_OK)
        return fail(error, "%s", kvsim_ctx_error(ctx));
    double limit = rope_residual_limit(info.dtype_code);
    sums->squares += residual * residual * (double)pairs;
    sums->pairs += pairs;
    sums->limit = limit > sums->limit ? limit : sums->limit;
    return 0;
}

int rotation_check(page_source *source, kvsim_ctx *ctx, const analyze_options *options, error_text *error) {
    check_sums sums = {0};
    for (size_t i = 0; i < source->opened_count && !interrupted(); i++)
        if (check_file(source->opened[i], ctx, &sums, error) != 0)
            return -1;
    if (sums.pairs == 0)
        return 0;
    double residual = sqrt(sums.squares / (double)sums.pairs);
    json_object_set_new(source->input, "rope_check",
                        json_pack("{s:f, s:I}", "residual", residual, "pairs", (json_int_t)sums.pairs));
    if (residual > sums.limit && !options->quiet)
        print_error(PROGRAM,
                    "warning: the keys were not rotated as %s: de-rotated keys of equal tokens in layer 0 differ by "
                    "%.2g of their length, rounding explains %.2g; do not trust the de-rotated views",
                    options->rope_config != NULL     ? "--rope-config says"
                    : options->rope.struct_size != 0 ? "--rope says"
                                                     : "the file says",
                    residual, sums.limit);
    return 0;
}
