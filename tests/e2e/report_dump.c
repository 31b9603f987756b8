/*
 * The report of one or more files (kvsim.dump.v1, kvsim.paged.v1 or NumPy), with every option of the library given by
 * name: what the scripts that check its figures drive.
 *
 * usage: report_dump FILE [OPTION VALUE]... >report.json
 *
 * Options: views, metrics, flags (numbers, as in kvsim.h), pairs, seed, null, resamples, ulps, threads; thresholds,
 * budgets, families and layers (lists with commas); rope (style,theta,rotary_dims,scaling,factor,
 * original_max_position,low_freq_factor,high_freq_factor,beta_fast,beta_slow).
 */
#include <kvsim/kvsim.h>
#include <kvsim/snapshot.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096 };

/* What the options say, with room for what they point to. */
typedef struct request {
    kvsim_compute_options compute;
    kvsim_snapshot_pages pages;
    kvsim_rope rope;
    uint32_t threads;
    double thresholds[KVSIM_MAX_LEVELS], budgets[KVSIM_MAX_LEVELS];
    int64_t families[MOST];
    int32_t layers[MOST];
} request;

static void refuse(const char *what, const char *why) {
    (void)fprintf(stderr, "report_dump: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

/* The numbers of a list with commas. */
static uint32_t read_list(const char *text, double *out, uint32_t room) {
    uint32_t count = 0;
    while (*text != '\0') {
        char *end;
        if (count == room) {
            refuse(text, "too long a list");
        }
        out[count++] = strtod(text, &end);
        if (end == text || (*end != ',' && *end != '\0')) {
            refuse(text, "not a number");
        }
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

static void read_rope(request *out, const double *numbers, uint32_t count) {
    double all[10] = {0};
    for (uint32_t i = 0; i < count && i < 10; i++) {
        all[i] = numbers[i];
    }
    out->rope = (kvsim_rope){.struct_size = sizeof(kvsim_rope),
                             .style = (int32_t)all[0],
                             .theta = all[1],
                             .rotary_dims = (int32_t)all[2],
                             .scaling = (int32_t)all[3],
                             .factor = all[4],
                             .original_max_position = all[5],
                             .low_freq_factor = all[6],
                             .high_freq_factor = all[7],
                             .beta_fast = all[8],
                             .beta_slow = all[9]};
}

static void read_option(request *out, const char *name, const char *value) {
    static double numbers[MOST];
    kvsim_compute_options *compute = &out->compute;
    const uint32_t count = read_list(value, numbers, MOST);
    const uint32_t number = count > 0 ? (uint32_t)numbers[0] : 0;
    if (strcmp(name, "views") == 0) {
        compute->views = number;
    } else if (strcmp(name, "metrics") == 0) {
        compute->metrics = number;
    } else if (strcmp(name, "flags") == 0) {
        compute->flags = number;
    } else if (strcmp(name, "pairs") == 0) {
        compute->pairs = (int32_t)number;
    } else if (strcmp(name, "seed") == 0) {
        compute->seed = number;
    } else if (strcmp(name, "null") == 0) {
        compute->null_repetitions = number;
    } else if (strcmp(name, "resamples") == 0) {
        compute->resamples = number;
    } else if (strcmp(name, "ulps") == 0) {
        compute->ulps = number;
    } else if (strcmp(name, "threads") == 0) {
        out->threads = number;
    } else if (strcmp(name, "thresholds") == 0) {
        compute->threshold_count = read_list(value, out->thresholds, KVSIM_MAX_LEVELS);
        compute->thresholds = out->thresholds;
    } else if (strcmp(name, "budgets") == 0) {
        compute->budget_count = read_list(value, out->budgets, KVSIM_MAX_LEVELS);
        compute->budgets = out->budgets;
    } else if (strcmp(name, "families") == 0) {
        for (uint32_t i = 0; i < count; i++) {
            out->families[i] = (int64_t)numbers[i];
        }
        compute->families = out->families;
        compute->family_count = count;
    } else if (strcmp(name, "layers") == 0) {
        for (uint32_t i = 0; i < count; i++) {
            out->layers[i] = (int32_t)numbers[i];
        }
        out->pages.layers = out->layers;
        out->pages.layer_count = count;
    } else if (strcmp(name, "rope") == 0) {
        read_rope(out, numbers, count);
    } else {
        refuse(name, "unknown option");
    }
}

int main(int argc, char **argv) {
    static request of = {.compute = KVSIM_COMPUTE_OPTIONS_INIT, .pages = KVSIM_SNAPSHOT_PAGES_INIT};
    if (argc < 2 || argc % 2 != 0) {
        refuse("usage", "report_dump FILE [OPTION VALUE]...");
    }
    of.compute.top_k = KVSIM_TOP_NONE;
    for (int i = 2; i < argc; i += 2) {
        read_option(&of, argv[i], argv[i + 1]);
    }
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.threads = of.threads;
    kvsim_ctx *ctx = NULL;
    kvsim_snapshot *snapshot = NULL;
    kvsim_result *result = NULL;
    kvsim_status status = kvsim_ctx_create(&options, &ctx);
    if (status != KVSIM_OK) {
        refuse("kvsim_ctx_create", kvsim_status_string(status));
    }
    status = kvsim_snapshot_open(ctx, argv[1], &snapshot);
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_add_pages(ctx, snapshot, &of.pages);
    }
    if (status == KVSIM_OK && of.rope.struct_size != 0) {
        status = kvsim_set_rope(ctx, &of.rope);
    }
    if (status == KVSIM_OK) {
        status = kvsim_compute(ctx, &of.compute, &result);
    }
    if (status == KVSIM_OK) {
        kvsim_report_options report = KVSIM_REPORT_OPTIONS_INIT;
        report.file = stdout;
        status = kvsim_report(ctx, result, &report);
    }
    if (status != KVSIM_OK) {
        refuse(argv[1], kvsim_ctx_error(ctx));
    }
    kvsim_result_destroy(result);
    kvsim_ctx_clear(ctx);
    kvsim_snapshot_close(snapshot);
    kvsim_ctx_destroy(ctx);
    return EXIT_SUCCESS;
}
