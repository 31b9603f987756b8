/* The result as JSON, schema kvsim.report.v1 (docs/report-schema.json). */
#include "json_writer.h"
#include "result.h"

#define REPORT_SCHEMA "kvsim.report.v1"

/* Rows of a table from a position on that belong to one owner; tables are in the owners' order. */
typedef struct rows {
    const unsigned char *data;
    size_t size, count, at;
} rows;

static rows rows_of(const kvsim_result *result, int table, size_t size) {
    return (rows){result->tables[table].rows, size, result->tables[table].count, 0};
}

/* The next row if it belongs to `owner`: every row of these tables begins with its owner's number. */
static const void *next_of(rows *from, int64_t owner) {
    if (from->at >= from->count) {
        return NULL;
    }
    const void *row = from->data + from->at * from->size;
    if (*(const int64_t *)row != owner) {
        return NULL;
    }
    from->at++;
    return row;
}

static const char *kind_name(int32_t kind) {
    return kind == KVSIM_KIND_KEY ? "key" : kind == KVSIM_KIND_VALUE ? "value" : "block";
}

static void write_levels(kvsim__json *json, const char *key, const double *levels, uint32_t count) {
    kvsim__json_open(json, key, '[');
    for (uint32_t i = 0; i < count; i++) {
        kvsim__json_real(json, NULL, levels[i]);
    }
    kvsim__json_close(json, ']');
}

static void write_options(kvsim__json *json, const kvsim_result *result) {
    static const struct {
        uint32_t bit;
        const char *name;
    } metrics[] = {{KVSIM_METRIC_COSINE, "cosine"},
                   {KVSIM_METRIC_L2, "l2"},
                   {KVSIM_METRIC_HAMMING, "hamming"},
                   {KVSIM_METRIC_JACCARD, "jaccard"}};
    const kvsim__plan *plan = &result->plan;
    kvsim__json_open(json, "options", '{');
    kvsim__json_open(json, "metrics", '[');
    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
        if ((plan->metrics & metrics[i].bit) != 0) {
            kvsim__json_string(json, NULL, metrics[i].name);
        }
    }
    kvsim__json_close(json, ']');
    kvsim__json_open(json, "views", '[');
    for (int32_t view = KVSIM_VIEW_RAW; view <= (int32_t)KVSIM_VIEW_DEROTATED_CENTERED; view *= 2) {
        if ((plan->views & (uint32_t)view) != 0) {
            kvsim__json_string(json, NULL, kvsim__view_name(view));
        }
    }
    kvsim__json_close(json, ']');
    kvsim__json_string(json, "pairs", plan->different_sequences ? "different-sequences" : "all");
    kvsim__json_bool(json, "per_head", (plan->flags & KVSIM_COMPUTE_PER_HEAD) != 0);
    write_levels(json, "thresholds", plan->thresholds, plan->threshold_count);
    write_levels(json, "budgets", plan->budgets, plan->budget_count);
    kvsim__json_unsigned(json, "top_k", plan->top_k);
    kvsim__json_unsigned(json, "seed", plan->seed);
    kvsim__json_unsigned(json, "null_repetitions", plan->null_repetitions);
    kvsim__json_unsigned(json, "resamples", plan->resamples);
    kvsim__json_unsigned(json, "ulps", plan->ulps);
    kvsim__json_unsigned(json, "hamming_bits", plan->hamming_bits);
    kvsim__json_string(json, "jaccard_tau", plan->jaccard_absolute ? "absolute" : "rms");
    kvsim__json_real(json, "jaccard_tau_value", plan->jaccard_tau);
    kvsim__json_open(json, "rope", '{');
    kvsim__json_string(json, "style",
                       result->rope.style == KVSIM_ROPE_HALF          ? "half"
                       : result->rope.style == KVSIM_ROPE_INTERLEAVED ? "interleaved"
                                                                      : "none");
    kvsim__json_real(json, "theta", result->rope.theta);
    kvsim__json_signed(json, "rotary_dims", result->rope.rotary_dims);
    if (result->rope.scaling != KVSIM_ROPE_SCALING_NONE) {
        static const char *const scalings[] = {"none", "linear", "ntk", "yarn", "llama3"};
        kvsim__json_string(json, "scaling", scalings[result->rope.scaling]);
        kvsim__json_real(json, "factor", result->rope.factor);
    }
    kvsim__json_close(json, '}');
    kvsim__json_close(json, '}');
}

static void write_counts(kvsim__json *json, const kvsim__summary_row *summary) {
    kvsim__json_open(json, "counts", '{');
    kvsim__json_unsigned(json, "references", summary->references);
    kvsim__json_unsigned(json, "full", summary->full);
    kvsim__json_unsigned(json, "partial", summary->partial);
    kvsim__json_unsigned(json, "non_finite_blocks", summary->non_finite_blocks);
    kvsim__json_unsigned(json, "opaque_blocks", summary->opaque_blocks);
    kvsim__json_unsigned(json, "engine_blocks", summary->engine_blocks);
    kvsim__json_unsigned(json, "engine_exact_duplicates", summary->engine_exact_duplicates);
    kvsim__json_unsigned(json, "pages", summary->pages);
    kvsim__json_unsigned(json, "pairs", summary->pairs);
    kvsim__json_unsigned(json, "physical_bytes", summary->physical_bytes);
    kvsim__json_unsigned(json, "logical_bytes", summary->logical_bytes);
    kvsim__json_close(json, '}');
}

static void write_dedup(kvsim__json *json, rows *dedup, int64_t owner, bool bounds) {
    kvsim__json_open(json, "dedup", '[');
    const kvsim__dedup_row *row;
    while ((row = next_of(dedup, owner)) != NULL) {
        kvsim__json_open(json, NULL, '{');
        kvsim__json_real(json, "budget", row->budget);
        kvsim__json_unsigned(json, "representatives", row->representatives);
        kvsim__json_unsigned(json, "removed", row->removed);
        kvsim__json_real(json, "removed_share", row->removed_share);
        kvsim__json_unsigned(json, "groups_of_two_or_more", row->groups_of_two_or_more);
        kvsim__json_unsigned(json, "largest_group", row->largest_group);
        if (bounds) {
            kvsim__json_unsigned(json, "scaled_representatives", row->scaled_representatives);
            kvsim__json_unsigned(json, "lower_bound", row->lower_bound);
        }
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_place(kvsim__json *json, const char *key, int64_t sequence, int64_t position, int64_t block) {
    kvsim__json_open(json, key, '{');
    kvsim__json_signed(json, "sequence", sequence);
    kvsim__json_signed(json, "position", position);
    kvsim__json_signed(json, "block", block);
    kvsim__json_close(json, '}');
}

static void write_thresholds(kvsim__json *json, rows *thresholds, int64_t owner) {
    kvsim__json_open(json, "thresholds", '[');
    const kvsim__threshold_row *row;
    while ((row = next_of(thresholds, owner)) != NULL) {
        kvsim__json_open(json, NULL, '{');
        kvsim__json_real(json, "t", row->threshold);
        kvsim__json_unsigned(json, "pairs", row->pairs);
        kvsim__json_real(json, "pair_share", row->pair_share);
        kvsim__json_unsigned(json, "pages", row->pages);
        kvsim__json_real(json, "page_share", row->page_share);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_histograms(kvsim__json *json, const kvsim_result *result, const kvsim__group_row *row) {
    static const char *const names[KVSIM__HISTOGRAMS] = {"cosine",  "l2",           "relative_error",
                                                         "hamming", "hamming_sign", "jaccard"};
    kvsim__json_open(json, "histogram", '{');
    for (int h = 0; h < KVSIM__HISTOGRAMS; h++) {
        const bool hamming = h == KVSIM__HISTOGRAM_HAMMING || h == KVSIM__HISTOGRAM_SIGN;
        if ((hamming && (result->plan.metrics & KVSIM_METRIC_HAMMING) == 0) ||
            (h == KVSIM__HISTOGRAM_JACCARD && (result->plan.metrics & KVSIM_METRIC_JACCARD) == 0)) {
            continue;
        }
        kvsim__json_counts(json, names[h], row->histograms[h], KVSIM_HISTOGRAM_BINS);
    }
    kvsim__json_real(json, "l2_upper", row->l2_upper);
    kvsim__json_close(json, '}');
}

static void write_figures(kvsim__json *json, const kvsim_result *result, const kvsim__group_row *row) {
    kvsim__json_unsigned(json, "pages", row->pages);
    kvsim__json_unsigned(json, "pairs", row->pairs);
    kvsim__json_unsigned(json, "references", row->references);
    kvsim__json_unsigned(json, "partial", row->partial);
    kvsim__json_unsigned(json, "non_finite", row->non_finite);
    kvsim__json_unsigned(json, "opaque", row->opaque);
    kvsim__json_unsigned(json, "page_bytes", row->page_bytes);
    kvsim__json_real(json, "mean_square", row->mean_square);
    kvsim__json_open(json, "cosine", '{');
    kvsim__json_real(json, "mean", row->cosine_mean);
    kvsim__json_real(json, "min", row->cosine_min);
    kvsim__json_real(json, "max", row->cosine_max);
    kvsim__json_close(json, '}');
    kvsim__json_real(json, "mean_l2", row->mean_l2);
    kvsim__json_real(json, "mean_relative_error", row->mean_relative_error);
    kvsim__json_unsigned(json, "infinite_relative_errors", row->infinite_relative_errors);
    kvsim__json_real(json, result->plan.hamming_bits == 4 ? "mean_hamming_4bit" : "mean_hamming_8bit",
                     row->mean_hamming);
    kvsim__json_real(json, "mean_hamming_sign", row->mean_hamming_sign);
    kvsim__json_real(json, result->plan.jaccard_absolute ? "mean_jaccard_absolute" : "mean_jaccard_rms",
                     row->mean_jaccard);
    kvsim__json_real(json, "jaccard_union_share", row->jaccard_union_share);
    kvsim__json_unsigned(json, "exact_duplicates", row->exact_duplicates);
}

static void write_groups(kvsim__json *json, const kvsim_result *result) {
    const kvsim__group_row *groups = (const kvsim__group_row *)(const void *)result->tables[KVSIM__TABLE_GROUPS].rows;
    rows thresholds = rows_of(result, KVSIM__TABLE_THRESHOLDS, sizeof(kvsim__threshold_row));
    rows dedup = rows_of(result, KVSIM__TABLE_DEDUP, sizeof(kvsim__dedup_row));
    rows top = rows_of(result, KVSIM__TABLE_TOP_PAIRS, sizeof(kvsim__top_row));
    kvsim__json_open(json, "groups", '[');
    for (size_t i = 0; i < result->tables[KVSIM__TABLE_GROUPS].count; i++) {
        const kvsim__group_row *row = &groups[i];
        const int64_t owner = (int64_t)i;
        kvsim__json_open(json, NULL, '{');
        kvsim__json_string(json, "view", kvsim__view_name(row->view));
        kvsim__json_signed(json, "layer", row->layer);
        kvsim__json_string(json, "kind", kind_name(row->kind));
        if (row->head >= 0) {
            kvsim__json_signed(json, "head", row->head);
        }
        write_figures(json, result, row);
        write_thresholds(json, &thresholds, owner);
        write_dedup(json, &dedup, owner, (result->plan.flags & KVSIM_COMPUTE_BOUNDS) != 0);
        write_histograms(json, result, row);
        kvsim__json_open(json, "top_pairs", '[');
        const kvsim__top_row *pair;
        while ((pair = next_of(&top, owner)) != NULL) {
            kvsim__json_open(json, NULL, '{');
            kvsim__json_real(json, "cosine", pair->cosine);
            kvsim__json_real(json, "relative_error", pair->relative_error);
            write_place(json, "page", pair->sequence, pair->position, pair->block);
            write_place(json, "earlier", pair->earlier_sequence, pair->earlier_position, pair->earlier_block);
            kvsim__json_close(json, '}');
        }
        kvsim__json_close(json, ']');
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_blocks(kvsim__json *json, const kvsim_result *result) {
    const kvsim__block_row *blocks = (const kvsim__block_row *)(const void *)result->tables[KVSIM__TABLE_BLOCKS].rows;
    rows dedup = rows_of(result, KVSIM__TABLE_BLOCK_DEDUP, sizeof(kvsim__dedup_row));
    kvsim__json_open(json, "blocks", '[');
    for (size_t i = 0; i < result->tables[KVSIM__TABLE_BLOCKS].count; i++) {
        const kvsim__block_row *row = &blocks[i];
        kvsim__json_open(json, NULL, '{');
        kvsim__json_string(json, "view", kvsim__view_name(row->view));
        kvsim__json_signed(json, "layer", row->layer);
        if (row->head >= 0) {
            kvsim__json_signed(json, "head", row->head);
        }
        kvsim__json_unsigned(json, "blocks", row->blocks);
        kvsim__json_unsigned(json, "block_bytes", row->block_bytes);
        kvsim__json_unsigned(json, "exact_duplicates", row->exact_duplicates);
        write_dedup(json, &dedup, (int64_t)i, (result->plan.flags & KVSIM_COMPUTE_BOUNDS) != 0);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

/* What was asked for is there, empty if need be; what was not is absent. */
static void write_statistics(kvsim__json *json, const kvsim_result *result) {
    static const char *const names[] = {"", "mean_cosine", "pair_share", "page_share", "removed_share"};
    const kvsim__table *table = &result->tables[KVSIM__TABLE_STATISTICS];
    const kvsim__statistic_row *statistics = (const kvsim__statistic_row *)(const void *)table->rows;
    kvsim__json_open(json, "statistics", '[');
    for (size_t i = 0; i < table->count; i++) {
        const kvsim__statistic_row *row = &statistics[i];
        kvsim__json_open(json, NULL, '{');
        kvsim__json_string(json, "view", kvsim__view_name(row->view));
        kvsim__json_signed(json, "layer", row->layer);
        kvsim__json_string(json, "kind", kind_name(row->kind));
        if (row->head >= 0) {
            kvsim__json_signed(json, "head", row->head);
        }
        kvsim__json_string(json, "statistic", names[row->statistic]);
        kvsim__json_real(json, "level", row->level);
        kvsim__json_real(json, "observed", row->observed);
        kvsim__json_real(json, "low", row->low);
        kvsim__json_real(json, "high", row->high);
        kvsim__json_real(json, "null", row->null_mean);
        kvsim__json_real(json, "null_deviation", row->null_deviation);
        kvsim__json_real(json, "excess", row->excess);
        kvsim__json_real(json, "excess_low", row->excess_low);
        kvsim__json_real(json, "excess_high", row->excess_high);
        kvsim__json_signed(json, "sequences", row->sequences);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_strata(kvsim__json *json, const kvsim_result *result) {
    static const char *const strata[] = {"first", "last", "middle"};
    static const char *const relations[] = {"within-sequence", "within-family", "between-families"};
    const kvsim__group_row *groups = (const kvsim__group_row *)(const void *)result->tables[KVSIM__TABLE_GROUPS].rows;
    const kvsim__table *table = &result->tables[KVSIM__TABLE_STRATA];
    const kvsim__stratum_row *rows_at = (const kvsim__stratum_row *)(const void *)table->rows;
    kvsim__json_open(json, "strata", '[');
    for (size_t i = 0; i < table->count; i++) {
        const kvsim__stratum_row *row = &rows_at[i];
        const kvsim__group_row *group = &groups[row->group];
        kvsim__json_open(json, NULL, '{');
        kvsim__json_string(json, "view", kvsim__view_name(group->view));
        kvsim__json_signed(json, "layer", group->layer);
        kvsim__json_string(json, "kind", kind_name(group->kind));
        if (group->head >= 0) {
            kvsim__json_signed(json, "head", group->head);
        }
        kvsim__json_string(json, "stratum", strata[row->stratum]);
        kvsim__json_string(json, "relation", relations[row->relation]);
        kvsim__json_real(json, "t", row->threshold);
        kvsim__json_unsigned(json, "pairs", row->pairs);
        kvsim__json_real(json, "mean_cosine", row->cosine_mean);
        kvsim__json_unsigned(json, "pairs_above", row->pairs_above);
        kvsim__json_real(json, "pair_share", row->pair_share);
        kvsim__json_unsigned(json, "pages", row->pages);
        kvsim__json_unsigned(json, "pages_above", row->pages_above);
        kvsim__json_real(json, "page_share", row->page_share);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_ledger(kvsim__json *json, const kvsim_result *result) {
    const kvsim__table *table = &result->tables[KVSIM__TABLE_LEDGER];
    const kvsim__ledger_row *ledger = (const kvsim__ledger_row *)(const void *)table->rows;
    kvsim__json_open(json, "ledger", '[');
    for (size_t i = 0; i < table->count; i++) {
        const kvsim__ledger_row *row = &ledger[i];
        kvsim__json_open(json, NULL, '{');
        kvsim__json_signed(json, "layer", row->layer);
        kvsim__json_string(json, "kind", kind_name(row->kind));
        kvsim__json_real(json, "budget", row->budget);
        kvsim__json_unsigned(json, "seen_bytes", row->seen_bytes);
        kvsim__json_unsigned(json, "logical_bytes", row->logical_bytes);
        kvsim__json_unsigned(json, "left_out_bytes", row->left_out_bytes);
        kvsim__json_unsigned(json, "exact_bytes", row->exact_bytes);
        kvsim__json_unsigned(json, "ulp_bytes", row->ulp_bytes);
        kvsim__json_unsigned(json, "near_bytes", row->near_bytes);
        kvsim__json_unsigned(json, "unique_bytes", row->unique_bytes);
        kvsim__json_unsigned(json, "exact", row->exact);
        kvsim__json_unsigned(json, "ulp", row->ulp);
        kvsim__json_unsigned(json, "near", row->near);
        kvsim__json_unsigned(json, "unique", row->unique);
        kvsim__json_unsigned(json, "metadata_bytes", row->metadata_bytes);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_lossless(kvsim__json *json, const kvsim_result *result) {
    const kvsim__table *table = &result->tables[KVSIM__TABLE_LOSSLESS];
    const kvsim__lossless_row *lossless = (const kvsim__lossless_row *)(const void *)table->rows;
    kvsim__json_open(json, "lossless", '[');
    for (size_t i = 0; i < table->count; i++) {
        const kvsim__lossless_row *row = &lossless[i];
        kvsim__json_open(json, NULL, '{');
        kvsim__json_signed(json, "layer", row->layer);
        kvsim__json_string(json, "kind", kind_name(row->kind));
        kvsim__json_unsigned(json, "pages", row->pages);
        kvsim__json_unsigned(json, "bytes", row->bytes);
        kvsim__json_real(json, "order0_bytes", row->order0_bytes);
        kvsim__json_unsigned(json, "zstd_bytes", row->zstd_bytes);
        kvsim__json_signed(json, "zstd_level", row->zstd_level);
        kvsim__json_real(json, "coding_gain_bytes", row->coding_gain_bytes);
        kvsim__json_real(json, "repetition_gain_bytes", row->repetition_gain_bytes);
        kvsim__json_close(json, '}');
    }
    kvsim__json_close(json, ']');
}

static void write_findings(kvsim__json *json, const kvsim_result *result) {
    if ((result->plan.flags & KVSIM_COMPUTE_CHANCE) != 0) {
        write_statistics(json, result);
    }
    if ((result->plan.flags & KVSIM_COMPUTE_STRATA) != 0) {
        write_strata(json, result);
    }
    if ((result->plan.flags & KVSIM_COMPUTE_LEDGER) != 0) {
        write_ledger(json, result);
        write_lossless(json, result);
    }
}

bool kvsim__write_json(const kvsim_result *result, uint32_t indent,
                       int (*write)(void *user, const void *data, size_t size), void *user) {
    kvsim__json json;
    kvsim__json_begin(&json, indent, write, user);
    kvsim__json_open(&json, NULL, '{');
    kvsim__json_string(&json, "schema", REPORT_SCHEMA);
    kvsim__json_string(&json, "library_version", KVSIM_VERSION_STRING);
    kvsim__json_string(&json, "backend", result->backend);
    write_options(&json, result);
    write_counts(&json, (const kvsim__summary_row *)(const void *)result->tables[KVSIM__TABLE_SUMMARY].rows);
    write_groups(&json, result);
    write_blocks(&json, result);
    write_findings(&json, result);
    kvsim__json_close(&json, '}');
    return kvsim__json_end(&json);
}
