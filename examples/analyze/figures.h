/**
 * The figures of a report (kvsim.report.v1) pooled by layer and kind, for the summary, the pictures and the words.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_FIGURES_H
#define KVSIM_EXAMPLES_ANALYZE_FIGURES_H

#include "common/message.h"
#include "evidence.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvsim/kvsim.h>

/** Kinds in the order in which everything shows them. */
enum figure_kind { FIGURE_KEY, FIGURE_VALUE, FIGURE_KINDS };

/** Most views of one report. */
#define FIGURE_VIEWS 4

/** Bytes of metadata that finding a removed page again costs: the number of its representative. */
#define METADATA_BYTES 8

/** Share of bytes that the rule of thumb takes for saved where pages look alike. */
#define ASSUMED_SHARE 0.5

/** Cosine of the pairs of some groups in one view. */
typedef struct cosine_figures {
    uint64_t pairs;
    uint64_t high_pairs; /**< at the first threshold or above */
    uint64_t alike;      /**< pages with an earlier page at the first threshold */
    double sum;          /**< of the cosines */
    double least;        /**< of any pair; only if there are pairs */
    double most;
    double histogram[KVSIM_HISTOGRAM_BINS]; /**< pairs in bins of [-1, 1] */
    share_evidence evidence;                /**< of the share of pages alike */
} cosine_figures;

/** What is known of the pages of one kind, in one layer or in all. Raw view unless said otherwise. */
typedef struct kind_figures {
    uint64_t pages;     /**< full, finite, not opaque: those that are compared */
    uint64_t others;    /**< partial, non-finite and opaque pages */
    uint64_t exact;     /**< pages with an earlier page of the same bytes */
    uint64_t removed;   /**< pages within the budget of a representative, exact ones included */
    double bytes;       /**< of `pages` */
    double other_bytes; /**< of `others` */
    double exact_bytes;
    double removed_bytes;
    double alike_bytes;
    cosine_figures cosine[FIGURE_VIEWS]; /**< in each view of the report */
} kind_figures;

/** What is known of blocks: key page and value page together, raw view. */
typedef struct block_figures {
    uint64_t blocks;
    uint64_t exact;
    uint64_t removed; /**< exact ones included */
    double bytes;
    double exact_bytes;
    double removed_bytes;
} block_figures;

/** One layer. */
typedef struct layer_figures {
    int layer;
    kind_figures kind[FIGURE_KINDS];
    block_figures block;
} layer_figures;

/** What one error budget would save, over all layers: blocks, or pages where there is one kind only. */
typedef struct curve_point {
    double budget;
    double removed, removed_bytes;   /**< as an engine could have done it */
    double scaled, scaled_bytes;     /**< with the best scale on each representative */
    double possible, possible_bytes; /**< no choice of representatives removes more without scaling */
    share_evidence evidence;         /**< of the share that is removed */
} curve_point;

/** A report. */
typedef struct report_figures {
    const json_t *report;
    size_t view_count;
    const char *views[FIGURE_VIEWS]; /**< names; the first is "raw" */
    size_t layer_count;
    layer_figures *layers; /**< rising */
    layer_figures total;   /**< over all layers */
    double threshold;      /**< the first one */
    double budget;         /**< of the headline */
    bool by_block;         /**< key page and value page of a block must both pass; false: there is one kind only */
    double pair_bytes;     /**< the pair count: pairs alike x page x ASSUMED_SHARE, what pairs cannot mean */
    size_t point_count;
    curve_point curve[KVSIM_MAX_LEVELS]; /**< by rising budget */
} report_figures;

/**
 * Pool the figures of a report, which must outlive them.
 * @param threshold first threshold and
 * @param budget budget of the headline that the report was computed with
 * @return 0, or -1 with `error` set; figures_release is due in any case
 */
int figures_collect(report_figures *figures, const json_t *report, double threshold, double budget, error_text *error);

/** Give back what figures_collect took. */
void figures_release(report_figures *figures);

/** A layer of the figures, NULL if there is no such layer. */
layer_figures *figures_layer(report_figures *figures, int layer);

/** Index of a view, FIGURE_VIEWS if the report does not have it. */
size_t figures_view(const report_figures *figures, const char *name);

/** Bytes of all pages that are compared. */
double figures_compared_bytes(const report_figures *figures);

/** The point of the curve at the budget of the headline. */
const curve_point *figures_headline(const report_figures *figures);

/** Mean cosine, NaN without pairs. */
double figures_mean(const cosine_figures *cosine);

/** Cosine below which a share of the pairs lies, read off the histogram; NaN without pairs. */
double figures_quantile(const cosine_figures *cosine, double share);

/** What sharing pages would save. */
typedef struct saving_figures {
    bool by_block;         /**< key page and value page of a block must both pass; false: there is one kind only */
    double bytes;          /**< of everything that was compared */
    double exact_bytes;    /**< of pages whose bytes an earlier page has */
    double near_bytes;     /**< of further pages within the budget */
    double metadata_bytes; /**< to find the removed pages again */
    double saved_bytes;    /**< exact and near, minus metadata; not below 0 */
    double assumed_bytes;  /**< by the rule of thumb */
} saving_figures;

/** Work out the saving of all layers. */
saving_figures figures_saving(const report_figures *figures);

/** @name Members of JSON objects; 0, NaN or "" where the member is absent or of another type
 * @{ */
uint64_t member_count(const json_t *object, const char *name);
double member_number(const json_t *object, const char *name);
const char *member_text(const json_t *object, const char *name);
/** Entry of an array of objects whose member `name` is `value`; NULL if there is none. */
const json_t *find_level(const json_t *levels, const char *name, double value);
/** @} */

#endif
