#include "document_members.h"

#include "common/json_text.h"

#include <math.h>

const char *const kind_names[FIGURE_KINDS] = {"key", "value"};

void set_count(json_t *object, const char *name, uint64_t value) {
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

void set_bytes(json_t *object, const char *name, double bytes) {
    json_object_set_new(object, name, isnan(bytes) ? json_null() : json_integer((json_int_t)bytes));
}

void set_number(json_t *object, const char *name, double value) {
    json_object_set_new(object, name, json_number(value));
}

void set_share(json_t *object, const char *name, uint64_t part, uint64_t whole) {
    set_number(object, name, whole > 0 ? (double)part / (double)whole : (double)NAN);
}

/** `observed` is the count's own share, which exists without chance levels too. */
static json_t *describe_estimate(const share_evidence *evidence, double observed) {
    share_estimate estimate = evidence_estimate(evidence);
    json_t *object = json_object();
    set_number(object, "observed", observed);
    set_number(object, "low", estimate.low);
    set_number(object, "high", estimate.high);
    set_number(object, "null", estimate.chance);
    set_number(object, "excess", estimate.excess);
    set_number(object, "excess_low", estimate.excess_low);
    set_number(object, "excess_high", estimate.excess_high);
    set_count(object, "sequences", evidence->sequences);
    return object;
}

json_t *describe_evidence(const report_figures *figures) {
    json_t *views = json_object();
    for (size_t view = 0; view < figures->view_count; view++) {
        json_t *kinds = json_object();
        for (int kind = 0; kind < FIGURE_KINDS; kind++) {
            const kind_figures *one = &figures->total.kind[kind];
            const cosine_figures *cosine = &one->cosine[view];
            double observed = one->pages > 0 ? (double)cosine->alike / (double)one->pages : (double)NAN;
            json_t *estimate = describe_estimate(&cosine->evidence, observed);
            set_number(estimate, "threshold", figures->threshold);
            set_count(estimate, "pages", one->pages);
            json_object_set_new(kinds, kind_names[kind], estimate);
        }
        json_object_set_new(views, figures->views[view], kinds);
    }
    return views;
}

/** All blocks, or pages where there is one kind only. */
static double all_units(const report_figures *figures) {
    const layer_figures *total = &figures->total;
    return figures->by_block ? (double)total->block.blocks
                             : (double)(total->kind[FIGURE_KEY].pages + total->kind[FIGURE_VALUE].pages);
}

json_t *describe_curve(const report_figures *figures) {
    const layer_figures *total = &figures->total;
    double units = all_units(figures);
    json_t *curve = json_object(), *points = json_array();
    json_object_set_new(curve, "level", json_string(figures->by_block ? "block" : "page"));
    set_bytes(curve, "units", units);
    set_bytes(curve, "compared_bytes", figures_compared_bytes(figures));
    set_number(curve, "threshold", figures->threshold);
    set_bytes(curve, "cosine_claim_bytes", total->kind[FIGURE_KEY].alike_bytes + total->kind[FIGURE_VALUE].alike_bytes);
    set_bytes(curve, "pair_count_claim_bytes", figures->pair_bytes);
    for (size_t i = 0; i < figures->point_count; i++) {
        const curve_point *point = &figures->curve[i];
        json_t *object = json_object();
        set_number(object, "budget", point->budget);
        set_bytes(object, "removed", point->removed);
        set_bytes(object, "removed_bytes", point->removed_bytes);
        set_bytes(object, "metadata_bytes", METADATA_BYTES * point->removed * (figures->by_block ? 2.0 : 1.0));
        set_bytes(object, "scaled_removed", point->scaled);
        set_bytes(object, "scaled_bytes", point->scaled_bytes);
        set_bytes(object, "possible", point->possible);
        set_bytes(object, "possible_bytes", point->possible_bytes);
        json_object_set_new(object, "removed_share",
                            describe_estimate(&point->evidence, units > 0.0 ? point->removed / units : (double)NAN));
        json_array_append_new(points, object);
    }
    json_object_set_new(curve, "points", points);
    return curve;
}

json_t *describe_ledger(const report_figures *figures, const ledger_totals *totals) {
    json_t *ledger = json_object(), *layers = json_array(), *total = json_object(), *row;
    size_t index;
    json_array_foreach(json_object_get(figures->report, "ledger"), index, row) {
        if (member_number(row, "budget") == figures->budget)
            json_array_append(layers, row);
    }
    set_bytes(total, "left_out_bytes", totals->left_out);
    set_bytes(total, "exact_bytes", totals->exact);
    set_bytes(total, "ulp_bytes", totals->ulp);
    set_bytes(total, "near_bytes", totals->near);
    set_bytes(total, "unique_bytes", totals->unique);
    set_bytes(total, "seen_bytes", totals->seen);
    set_bytes(total, "logical_bytes", totals->logical);
    set_bytes(total, "metadata_bytes", totals->metadata);
    set_number(ledger, "budget", figures->budget);
    json_object_set_new(ledger, "total", total);
    json_object_set_new(ledger, "layers", layers);
    return ledger;
}

json_t *describe_lossless(const report_figures *figures, const lossless_totals *totals) {
    json_t *lossless = json_object(), *total = json_object();
    json_t *layers = json_object_get(figures->report, "lossless");
    set_bytes(total, "bytes", totals->bytes);
    set_bytes(total, "order0_bytes", totals->order0);
    set_bytes(total, "zstd_bytes", totals->zstd);
    set_bytes(total, "coding_gain_bytes", totals->coding_gain);
    set_bytes(total, "repetition_gain_bytes", totals->repetition_gain);
    json_object_set_new(lossless, "total", total);
    json_object_set_new(lossless, "layers", layers != NULL ? json_incref(layers) : json_array());
    return lossless;
}
