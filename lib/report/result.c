#include "result.h"

#include <string.h>

/* One column: where it lies in a row of its table. */
typedef struct column_spec {
    const char *name, *unit;
    uint8_t code, bits;
    uint16_t width;
    size_t offset;
} column_spec;

#define INT(row, field, bits, unit)                                                                                    \
    { #field, unit, KVSIM_DTYPE_INT, bits, 1, offsetof(row, field) }
#define UINT(row, field, unit)                                                                                         \
    { #field, unit, KVSIM_DTYPE_UINT, 64, 1, offsetof(row, field) }
#define REAL(row, field, unit)                                                                                         \
    { #field, unit, KVSIM_DTYPE_FLOAT, 64, 1, offsetof(row, field) }
#define HISTOGRAM(name, index, unit)                                                                                   \
    { name, unit, KVSIM_DTYPE_UINT, 64, KVSIM_HISTOGRAM_BINS, offsetof(kvsim__group_row, histograms[index]) }

static const column_spec summary_columns[] = {
    UINT(kvsim__summary_row, references, "blocks"),
    UINT(kvsim__summary_row, full, "blocks"),
    UINT(kvsim__summary_row, partial, "blocks"),
    UINT(kvsim__summary_row, non_finite_blocks, "blocks"),
    UINT(kvsim__summary_row, opaque_blocks, "blocks"),
    UINT(kvsim__summary_row, engine_blocks, "blocks"),
    UINT(kvsim__summary_row, engine_exact_duplicates, "blocks"),
    UINT(kvsim__summary_row, pages, "pages"),
    UINT(kvsim__summary_row, pairs, "pairs"),
    UINT(kvsim__summary_row, physical_bytes, "bytes"),
    UINT(kvsim__summary_row, logical_bytes, "bytes"),
};

static const column_spec group_columns[] = {
    INT(kvsim__group_row, view, 32, "KVSIM_VIEW_*"),
    INT(kvsim__group_row, layer, 32, "1"),
    INT(kvsim__group_row, kind, 32, "KVSIM_KIND_*"),
    INT(kvsim__group_row, head, 32, "1"),
    INT(kvsim__group_row, tokens, 32, "slots"),
    INT(kvsim__group_row, heads, 32, "heads"),
    INT(kvsim__group_row, head_dim, 32, "channels"),
    INT(kvsim__group_row, dtype_code, 32, "KVSIM_DTYPE_*"),
    INT(kvsim__group_row, dtype_bits, 32, "bits"),
    UINT(kvsim__group_row, page_bytes, "bytes"),
    UINT(kvsim__group_row, references, "pages"),
    UINT(kvsim__group_row, physical_pages, "pages"),
    UINT(kvsim__group_row, pages, "pages"),
    UINT(kvsim__group_row, partial, "pages"),
    UINT(kvsim__group_row, non_finite, "pages"),
    UINT(kvsim__group_row, opaque, "pages"),
    UINT(kvsim__group_row, pairs, "pairs"),
    REAL(kvsim__group_row, mean_square, "element^2"),
    REAL(kvsim__group_row, cosine_mean, "1"),
    REAL(kvsim__group_row, cosine_min, "1"),
    REAL(kvsim__group_row, cosine_max, "1"),
    REAL(kvsim__group_row, mean_l2, "element"),
    REAL(kvsim__group_row, mean_relative_error, "1"),
    UINT(kvsim__group_row, infinite_relative_errors, "pairs"),
    REAL(kvsim__group_row, mean_hamming, "1"),
    REAL(kvsim__group_row, mean_hamming_sign, "1"),
    REAL(kvsim__group_row, mean_jaccard, "1"),
    REAL(kvsim__group_row, jaccard_union_share, "1"),
    UINT(kvsim__group_row, exact_duplicates, "pages"),
    REAL(kvsim__group_row, l2_upper, "element"),
    HISTOGRAM("histogram_cosine", KVSIM__HISTOGRAM_COSINE, "pairs, over [-1, 1]"),
    HISTOGRAM("histogram_l2", KVSIM__HISTOGRAM_L2, "pairs, over [0, l2_upper]"),
    HISTOGRAM("histogram_relative_error", KVSIM__HISTOGRAM_RELATIVE, "pairs, over [0, 2], last bin open"),
    HISTOGRAM("histogram_hamming", KVSIM__HISTOGRAM_HAMMING, "pairs, over [0, 1]"),
    HISTOGRAM("histogram_hamming_sign", KVSIM__HISTOGRAM_SIGN, "pairs, over [0, 1]"),
    HISTOGRAM("histogram_jaccard", KVSIM__HISTOGRAM_JACCARD, "pairs, over [0, 1]"),
};

static const column_spec threshold_columns[] = {
    INT(kvsim__threshold_row, group, 64, "row of groups"),
    REAL(kvsim__threshold_row, threshold, "1"),
    UINT(kvsim__threshold_row, pairs, "pairs"),
    REAL(kvsim__threshold_row, pair_share, "1"),
    UINT(kvsim__threshold_row, pages, "pages"),
    REAL(kvsim__threshold_row, page_share, "1"),
};

#define DEDUP_COLUMNS(owner)                                                                                           \
    {                                                                                                                  \
        INT(kvsim__dedup_row, group, 64, owner), REAL(kvsim__dedup_row, budget, "1"),                                  \
            UINT(kvsim__dedup_row, representatives, "pages"), UINT(kvsim__dedup_row, removed, "pages"),                \
            REAL(kvsim__dedup_row, removed_share, "1"), UINT(kvsim__dedup_row, groups_of_two_or_more, "1"),            \
            UINT(kvsim__dedup_row, largest_group, "pages"), UINT(kvsim__dedup_row, scaled_representatives, "pages"),   \
            UINT(kvsim__dedup_row, lower_bound, "pages"),                                                              \
    }

static const column_spec dedup_columns[] = DEDUP_COLUMNS("row of groups");
static const column_spec block_dedup_columns[] = DEDUP_COLUMNS("row of blocks");

static const column_spec block_columns[] = {
    INT(kvsim__block_row, view, 32, "KVSIM_VIEW_*"),
    INT(kvsim__block_row, layer, 32, "1"),
    INT(kvsim__block_row, head, 32, "1"),
    UINT(kvsim__block_row, block_bytes, "bytes"),
    UINT(kvsim__block_row, blocks, "blocks"),
    UINT(kvsim__block_row, exact_duplicates, "blocks"),
};

static const column_spec top_columns[] = {
    INT(kvsim__top_row, group, 64, "row of groups"), REAL(kvsim__top_row, cosine, "1"),
    REAL(kvsim__top_row, relative_error, "1"),       INT(kvsim__top_row, sequence, 64, "1"),
    INT(kvsim__top_row, position, 64, "tokens"),     INT(kvsim__top_row, block, 64, "1"),
    INT(kvsim__top_row, earlier_sequence, 64, "1"),  INT(kvsim__top_row, earlier_position, 64, "tokens"),
    INT(kvsim__top_row, earlier_block, 64, "1"),
};

static const column_spec match_columns[] = {
    INT(kvsim__match_row, group, 64, "row of groups"),
    INT(kvsim__match_row, page, 64, "row of pages"),
    INT(kvsim__match_row, earlier_page, 64, "row of pages, -1 = none"),
    REAL(kvsim__match_row, cosine, "1"),
};

static const column_spec assignment_columns[] = {
    INT(kvsim__assignment_row, view, 32, "KVSIM_VIEW_*"),
    INT(kvsim__assignment_row, layer, 32, "1"),
    INT(kvsim__assignment_row, kind, 32, "KVSIM_KIND_*, 0 = block"),
    INT(kvsim__assignment_row, head, 32, "1"),
    REAL(kvsim__assignment_row, budget, "1"),
    INT(kvsim__assignment_row, page, 64, "row of pages"),
    INT(kvsim__assignment_row, representative, 64, "row of pages"),
    REAL(kvsim__assignment_row, cosine, "1"),
    REAL(kvsim__assignment_row, relative_error, "1"),
    INT(kvsim__assignment_row, exact, 32, "1"),
};

static const column_spec page_columns[] = {
    INT(kvsim__page_row, layer, 32, "1"),
    INT(kvsim__page_row, kind, 32, "KVSIM_KIND_*"),
    INT(kvsim__page_row, sequence, 64, "1"),
    INT(kvsim__page_row, position, 64, "tokens"),
    INT(kvsim__page_row, block, 64, "1"),
    UINT(kvsim__page_row, generation, "1"),
    INT(kvsim__page_row, fill, 32, "slots"),
    INT(kvsim__page_row, state, 32, "0 compared, 1 partial, 2 non-finite, 3 opaque"),
    UINT(kvsim__page_row, references, "pages"),
    UINT(kvsim__page_row, bytes, "bytes"),
};

static const column_spec statistic_columns[] = {
    INT(kvsim__statistic_row, view, 32, "KVSIM_VIEW_*"),
    INT(kvsim__statistic_row, layer, 32, "1"),
    INT(kvsim__statistic_row, kind, 32, "KVSIM_KIND_*, 0 = block"),
    INT(kvsim__statistic_row, head, 32, "1"),
    INT(kvsim__statistic_row, statistic, 32, "1 mean cosine, 2 pair share, 3 page share, 4 removed share"),
    INT(kvsim__statistic_row, sequences, 32, "sequences"),
    REAL(kvsim__statistic_row, level, "1"),
    REAL(kvsim__statistic_row, observed, "1"),
    REAL(kvsim__statistic_row, low, "1"),
    REAL(kvsim__statistic_row, high, "1"),
    REAL(kvsim__statistic_row, null_mean, "1"),
    REAL(kvsim__statistic_row, null_deviation, "1"),
    REAL(kvsim__statistic_row, excess, "1"),
    REAL(kvsim__statistic_row, excess_low, "1"),
    REAL(kvsim__statistic_row, excess_high, "1"),
};

static const column_spec stratum_columns[] = {
    INT(kvsim__stratum_row, group, 64, "row of groups"),
    INT(kvsim__stratum_row, stratum, 32, "0 first page of its sequence, 1 last full page, 2 another"),
    INT(kvsim__stratum_row, relation, 32, "0 within a sequence, 1 within a family, 2 between families"),
    REAL(kvsim__stratum_row, threshold, "1"),
    UINT(kvsim__stratum_row, pairs, "pairs"),
    REAL(kvsim__stratum_row, cosine_mean, "1"),
    UINT(kvsim__stratum_row, pairs_above, "pairs"),
    REAL(kvsim__stratum_row, pair_share, "1"),
    UINT(kvsim__stratum_row, pages, "pages"),
    UINT(kvsim__stratum_row, pages_above, "pages"),
    REAL(kvsim__stratum_row, page_share, "1"),
};

static const column_spec ledger_columns[] = {
    INT(kvsim__ledger_row, layer, 32, "1"),
    INT(kvsim__ledger_row, kind, 32, "KVSIM_KIND_*, 0 = block"),
    REAL(kvsim__ledger_row, budget, "1"),
    UINT(kvsim__ledger_row, seen_bytes, "bytes"),
    UINT(kvsim__ledger_row, logical_bytes, "bytes"),
    UINT(kvsim__ledger_row, left_out_bytes, "bytes"),
    UINT(kvsim__ledger_row, exact_bytes, "bytes"),
    UINT(kvsim__ledger_row, ulp_bytes, "bytes"),
    UINT(kvsim__ledger_row, near_bytes, "bytes"),
    UINT(kvsim__ledger_row, unique_bytes, "bytes"),
    UINT(kvsim__ledger_row, exact, "blocks"),
    UINT(kvsim__ledger_row, ulp, "blocks"),
    UINT(kvsim__ledger_row, near, "blocks"),
    UINT(kvsim__ledger_row, unique, "blocks"),
    UINT(kvsim__ledger_row, metadata_bytes, "bytes"),
};

static const column_spec lossless_columns[] = {
    INT(kvsim__lossless_row, layer, 32, "1"),
    INT(kvsim__lossless_row, kind, 32, "KVSIM_KIND_*"),
    UINT(kvsim__lossless_row, pages, "pages"),
    UINT(kvsim__lossless_row, bytes, "bytes"),
    REAL(kvsim__lossless_row, order0_bytes, "bytes"),
    UINT(kvsim__lossless_row, zstd_bytes, "bytes"),
    INT(kvsim__lossless_row, zstd_level, 32, "1"),
    REAL(kvsim__lossless_row, coding_gain_bytes, "bytes"),
    REAL(kvsim__lossless_row, repetition_gain_bytes, "bytes"),
};

static const column_spec page_threshold_columns[] = {
    INT(kvsim__page_threshold_row, group, 64, "row of groups"),
    INT(kvsim__page_threshold_row, page, 64, "row of pages"),
    REAL(kvsim__page_threshold_row, threshold, "1"),
    INT(kvsim__page_threshold_row, same, 32, "1"),
    INT(kvsim__page_threshold_row, family, 32, "1"),
    INT(kvsim__page_threshold_row, different, 32, "1"),
    INT(kvsim__page_threshold_row, earlier_sequences, 32, "sequences, 2 = two or more"),
    INT(kvsim__page_threshold_row, only_sequence, 64, "1"),
};

static const column_spec duplicate_columns[] = {
    INT(kvsim__duplicate_row, layer, 32, "1"),
    INT(kvsim__duplicate_row, kind, 32, "KVSIM_KIND_*, 0 = block"),
    INT(kvsim__duplicate_row, page, 64, "row of pages"),
    INT(kvsim__duplicate_row, first_page, 64, "row of pages"),
};

static const column_spec distance_columns[] = {
    INT(kvsim__distance_row, group, 64, "row of groups"), INT(kvsim__distance_row, sequence, 64, "1"),
    INT(kvsim__distance_row, distance, 64, "tokens"),     UINT(kvsim__distance_row, pairs, "pairs"),
    REAL(kvsim__distance_row, cosine_mean, "1"),          UINT(kvsim__distance_row, pairs_above, "pairs"),
};

#define TABLE(name, row, columns, in_json)                                                                             \
    { name, columns, sizeof(columns) / sizeof(columns[0]), sizeof(row), in_json }

static const struct table_spec {
    const char *name;
    const column_spec *columns;
    uint32_t column_count;
    size_t row_size;
    bool in_json; /* the rows are kept for the report */
} table_specs[KVSIM__TABLES] = {
    [KVSIM__TABLE_SUMMARY] = TABLE("summary", kvsim__summary_row, summary_columns, true),
    [KVSIM__TABLE_GROUPS] = TABLE("groups", kvsim__group_row, group_columns, true),
    [KVSIM__TABLE_THRESHOLDS] = TABLE("thresholds", kvsim__threshold_row, threshold_columns, true),
    [KVSIM__TABLE_DEDUP] = TABLE("dedup", kvsim__dedup_row, dedup_columns, true),
    [KVSIM__TABLE_BLOCKS] = TABLE("blocks", kvsim__block_row, block_columns, true),
    [KVSIM__TABLE_BLOCK_DEDUP] = TABLE("block_dedup", kvsim__dedup_row, block_dedup_columns, true),
    [KVSIM__TABLE_TOP_PAIRS] = TABLE("top_pairs", kvsim__top_row, top_columns, true),
    [KVSIM__TABLE_MATCHES] = TABLE("matches", kvsim__match_row, match_columns, false),
    [KVSIM__TABLE_ASSIGNMENTS] = TABLE("assignments", kvsim__assignment_row, assignment_columns, false),
    [KVSIM__TABLE_PAGES] = TABLE("pages", kvsim__page_row, page_columns, false),
    [KVSIM__TABLE_STATISTICS] = TABLE("statistics", kvsim__statistic_row, statistic_columns, true),
    [KVSIM__TABLE_STRATA] = TABLE("strata", kvsim__stratum_row, stratum_columns, true),
    [KVSIM__TABLE_LEDGER] = TABLE("ledger", kvsim__ledger_row, ledger_columns, true),
    [KVSIM__TABLE_LOSSLESS] = TABLE("lossless", kvsim__lossless_row, lossless_columns, true),
    [KVSIM__TABLE_PAGE_THRESHOLDS] = TABLE("page_thresholds", kvsim__page_threshold_row, page_threshold_columns, false),
    [KVSIM__TABLE_DUPLICATES] = TABLE("duplicates", kvsim__duplicate_row, duplicate_columns, false),
    [KVSIM__TABLE_DISTANCES] = TABLE("distances", kvsim__distance_row, distance_columns, false),
};

kvsim_status kvsim__result_open(kvsim__base *base, const kvsim__plan *plan, const kvsim_rope *rope,
                                kvsim_result **out) {
    kvsim_result *result = kvsim__allocate_zeroed(base, 1, sizeof *result);
    *out = result;
    if (result == NULL) {
        return kvsim__fail_memory(base, sizeof *result, "a result");
    }
    result->base = base;
    result->plan = *plan;
    result->rope = *rope;
    return KVSIM_OK;
}

void kvsim_result_destroy(kvsim_result *result) {
    if (result == NULL) {
        return;
    }
    for (int i = 0; i < KVSIM__TABLES; i++) {
        kvsim__table *table = &result->tables[i];
        kvsim__release(result->base, table->rows, table->capacity, table_specs[i].row_size);
        kvsim__release(result->base, table->columns, table->column_bytes, 1);
    }
    kvsim__release(result->base, result, 1, sizeof *result);
}

void *kvsim__result_append(kvsim_result *result, int index) {
    kvsim__table *table = &result->tables[index];
    const size_t size = table_specs[index].row_size;
    if (kvsim__grow(result->base, (void **)&table->rows, &table->capacity, table->count + 1, size) != KVSIM_OK) {
        return NULL;
    }
    void *row = table->rows + table->count++ * size;
    memset(row, 0, size);
    return row;
}

size_t kvsim__result_rows(const kvsim_result *result, int table) {
    return result->tables[table].count;
}

static size_t column_size(const column_spec *spec, size_t rows) {
    return (rows * spec->width * (spec->bits / 8u) + 63) / 64 * 64;
}

kvsim_status kvsim__result_finish(kvsim_result *result) {
    for (int i = 0; i < KVSIM__TABLES; i++) {
        kvsim__table *table = &result->tables[i];
        const struct table_spec *spec = &table_specs[i];
        for (uint32_t c = 0; c < spec->column_count; c++) {
            table->column_bytes += column_size(&spec->columns[c], table->count);
        }
        table->columns = kvsim__allocate_zeroed(result->base, table->column_bytes, 1);
        if (table->columns == NULL) {
            return kvsim__fail_memory(result->base, table->column_bytes, "the columns of a result");
        }
        unsigned char *to = table->columns;
        for (uint32_t c = 0; c < spec->column_count; c++) {
            const column_spec *column = &spec->columns[c];
            const size_t bytes = (size_t)column->width * (column->bits / 8u);
            for (size_t row = 0; row < table->count; row++) {
                memcpy(to + row * bytes, table->rows + row * spec->row_size + column->offset, bytes);
            }
            to += column_size(column, table->count);
        }
        if (!spec->in_json) {
            kvsim__release(result->base, table->rows, table->capacity, spec->row_size);
            table->rows = NULL;
            table->capacity = 0;
        }
    }
    return KVSIM_OK;
}

uint32_t kvsim__result_column_count(void) {
    uint32_t count = 0;
    for (int i = 0; i < KVSIM__TABLES; i++) {
        count += table_specs[i].column_count;
    }
    return count;
}

bool kvsim__result_column(const kvsim_result *result, uint32_t index, kvsim_column *out) {
    for (int i = 0; i < KVSIM__TABLES; i++) {
        const struct table_spec *spec = &table_specs[i];
        if (index >= spec->column_count) {
            index -= spec->column_count;
            continue;
        }
        const unsigned char *data = result->tables[i].columns;
        for (uint32_t c = 0; c < index; c++) {
            data += column_size(&spec->columns[c], result->tables[i].count);
        }
        const column_spec *column = &spec->columns[index];
        *out = (kvsim_column){.struct_size = sizeof *out,
                              .dtype_code = column->code,
                              .dtype_bits = column->bits,
                              .rows = (int64_t)result->tables[i].count,
                              .width = column->width,
                              .data = data,
                              .table = spec->name,
                              .name = column->name,
                              .unit = column->unit};
        return true;
    }
    return false;
}

const char *kvsim__view_name(int32_t view) {
    return view == KVSIM_VIEW_CENTERED             ? "centered"
           : view == KVSIM_VIEW_DEROTATED          ? "derotated"
           : view == KVSIM_VIEW_DEROTATED_CENTERED ? "derotated_centered"
                                                   : "raw";
}
