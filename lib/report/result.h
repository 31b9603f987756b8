/** The result object: tables of rows, readable as columns; docs/columns.md describes them. */
#ifndef KVSIM_REPORT_RESULT_H
#define KVSIM_REPORT_RESULT_H

#include "../pairs/pairs.h"

/** Tables, in the order in which columns are numbered. */
enum {
    KVSIM__TABLE_SUMMARY,
    KVSIM__TABLE_GROUPS,
    KVSIM__TABLE_THRESHOLDS,
    KVSIM__TABLE_DEDUP,
    KVSIM__TABLE_BLOCKS,
    KVSIM__TABLE_BLOCK_DEDUP,
    KVSIM__TABLE_TOP_PAIRS,
    KVSIM__TABLE_MATCHES,
    KVSIM__TABLE_ASSIGNMENTS,
    KVSIM__TABLE_PAGES,
    KVSIM__TABLE_STATISTICS,
    KVSIM__TABLE_STRATA,
    KVSIM__TABLE_LEDGER,
    KVSIM__TABLE_LOSSLESS,
    KVSIM__TABLE_PAGE_THRESHOLDS,
    KVSIM__TABLE_DUPLICATES,
    KVSIM__TABLE_DISTANCES,
    KVSIM__TABLES
};

/** One row: what the context held. Counts of blocks are counts of identities, over all layers and kinds. */
typedef struct kvsim__summary_row {
    uint64_t references, full, partial, non_finite_blocks, opaque_blocks, engine_blocks, engine_exact_duplicates;
    uint64_t pages, pairs;
    uint64_t physical_bytes, logical_bytes;
} kvsim__summary_row;

/** One row a group and view. */
typedef struct kvsim__group_row {
    int32_t view, layer, kind, head; /* head -1 = all heads together */
    int32_t tokens, heads, head_dim, dtype_code, dtype_bits;
    uint64_t page_bytes, references, physical_pages, pages, partial, non_finite, opaque, pairs;
    double mean_square, cosine_mean, cosine_min, cosine_max, mean_l2, mean_relative_error;
    uint64_t infinite_relative_errors;
    double mean_hamming, mean_hamming_sign, mean_jaccard, jaccard_union_share;
    uint64_t exact_duplicates;
    double l2_upper;
    uint64_t histograms[KVSIM__HISTOGRAMS][KVSIM_HISTOGRAM_BINS];
} kvsim__group_row;

typedef struct kvsim__threshold_row {
    int64_t group;
    double threshold;
    uint64_t pairs;
    double pair_share;
    uint64_t pages;
    double page_share;
} kvsim__threshold_row;

/** Of a group, or of the blocks of a layer. */
typedef struct kvsim__dedup_row {
    int64_t group;
    double budget;
    uint64_t representatives, removed;
    double removed_share;
    uint64_t groups_of_two_or_more, largest_group;
    uint64_t scaled_representatives, lower_bound; /* 0 if not asked for */
} kvsim__dedup_row;

typedef struct kvsim__block_row {
    int32_t view, layer, head;
    uint64_t block_bytes, blocks, exact_duplicates;
} kvsim__block_row;

/** The later page and the earlier one. */
typedef struct kvsim__top_row {
    int64_t group;
    double cosine, relative_error;
    int64_t sequence, position, block, earlier_sequence, earlier_position, earlier_block;
} kvsim__top_row;

typedef struct kvsim__match_row {
    int64_t group, page, earlier_page;
    double cosine;
} kvsim__match_row;

typedef struct kvsim__assignment_row {
    int32_t view, layer, kind, head; /* kind 0 = block */
    double budget;
    int64_t page, representative; /* rows of `pages`; of a block, its key pages */
    double cosine, relative_error;
    int32_t exact; /* 1 if the stored bytes are identical */
} kvsim__assignment_row;

/** What a row of `statistics` is about. */
enum {
    KVSIM__STATISTIC_MEAN_COSINE = 1,
    KVSIM__STATISTIC_PAIR_SHARE,   /* at a threshold */
    KVSIM__STATISTIC_PAGE_SHARE,   /* at a threshold */
    KVSIM__STATISTIC_REMOVED_SHARE /* at a budget */
};

typedef struct kvsim__statistic_row {
    int32_t view, layer, kind, head; /* kind 0 = block */
    int32_t statistic;
    int32_t sequences;
    double level, observed, low, high, null_mean, null_deviation, excess, excess_low, excess_high;
} kvsim__statistic_row;

typedef struct kvsim__stratum_row {
    int64_t group;
    int32_t stratum, relation;
    double threshold;
    uint64_t pairs;
    double cosine_mean;
    uint64_t pairs_above;
    double pair_share;
    uint64_t pages, pages_above;
    double page_share;
} kvsim__stratum_row;

/** Bytes of one layer's blocks (or of one kind where the other is missing), at one budget, each in one bin. */
typedef struct kvsim__ledger_row {
    int32_t layer, kind; /* kind 0 = block */
    double budget;
    uint64_t seen_bytes, logical_bytes, left_out_bytes, exact_bytes, ulp_bytes, near_bytes, unique_bytes;
    uint64_t exact, ulp, near, unique; /* blocks */
    uint64_t metadata_bytes;
} kvsim__ledger_row;

/** Lossless coding of the pages that stay at the smallest budget. */
typedef struct kvsim__lossless_row {
    int32_t layer, kind;
    uint64_t pages, bytes;
    double order0_bytes;
    uint64_t zstd_bytes; /* 0 without zstd */
    int32_t zstd_level;
    double coding_gain_bytes, repetition_gain_bytes;
} kvsim__lossless_row;

/** A page of a group at one threshold: whether earlier pages of each relation reach it, and of how many sequences. */
typedef struct kvsim__page_threshold_row {
    int64_t group, page;
    double threshold;
    int32_t same, family, different; /* 1 if an earlier page of that relation does */
    int32_t earlier_sequences;       /* 0, 1, or 2 for more */
    int64_t only_sequence;           /* if there is one only, else -1 */
} kvsim__page_threshold_row;

/** A page, or block, whose stored bytes an earlier one of its group has. */
typedef struct kvsim__duplicate_row {
    int32_t layer, kind;      /* kind 0 = block */
    int64_t page, first_page; /* rows of `pages`; of blocks, their key pages */
} kvsim__duplicate_row;

/** Pairs of pages of one sequence whose positions differ by `distance` tokens. */
typedef struct kvsim__distance_row {
    int64_t group, sequence, distance;
    uint64_t pairs;
    double cosine_mean;
    uint64_t pairs_above; /* at the first threshold */
} kvsim__distance_row;

/** State of a page. */
enum { KVSIM__STATE_COMPARED, KVSIM__STATE_PARTIAL, KVSIM__STATE_NON_FINITE, KVSIM__STATE_OPAQUE };

typedef struct kvsim__page_row {
    int32_t layer, kind;
    int64_t sequence, position, block;
    uint64_t generation;
    int32_t fill, state;
    uint64_t references, bytes;
} kvsim__page_row;

/** Rows of one table, and once finished its columns. */
typedef struct kvsim__table {
    unsigned char *rows;
    size_t count, capacity;
    unsigned char *columns; /* column after column, each aligned to 64 bytes */
    size_t column_bytes;
} kvsim__table;

struct kvsim_result {
    kvsim__base *base;
    kvsim__plan plan;
    kvsim_rope rope;
    const char *backend; /**< that computed it; of static storage */
    kvsim__table tables[KVSIM__TABLES];
};

/** An empty result. @return KVSIM_OK, KVSIM_E_NOMEM */
kvsim_status kvsim__result_open(kvsim__base *base, const kvsim__plan *plan, const kvsim_rope *rope, kvsim_result **out);

/** Append a row to a table and return it cleared; NULL when out of memory (error text set). Moves earlier rows. */
void *kvsim__result_append(kvsim_result *result, int table);

/** Rows of a table. */
size_t kvsim__result_rows(const kvsim_result *result, int table);

/** Build the columns; rows of tables that the JSON report does not hold are given back. @return KVSIM_OK, KVSIM_E_NOMEM
 */
kvsim_status kvsim__result_finish(kvsim_result *result);

/** Column number `index` over all tables; false if there is none. */
bool kvsim__result_column(const kvsim_result *result, uint32_t index, kvsim_column *out);

/** Number of columns over all tables. */
uint32_t kvsim__result_column_count(void);

/** Name of a view as in JSON and options, "derotated_centered". */
const char *kvsim__view_name(int32_t view);

/** Write the result as JSON through `write`; returns false as soon as `write` does not return 0. */
bool kvsim__write_json(const kvsim_result *result, uint32_t indent,
                       int (*write)(void *user, const void *data, size_t size), void *user);

#endif
