#include "ledger.h"

#include "figures.h"

#include <math.h>
#include <string.h>

static double member_bytes(const json_t *row, const char *name) {
    return (double)member_count(row, name);
}

static bool adds_up(const ledger_totals *of) {
    return of->left_out + of->exact + of->ulp + of->near + of->unique == of->seen;
}

static void add_row(ledger_totals *sum, const json_t *row) {
    sum->left_out += member_bytes(row, "left_out_bytes");
    sum->exact += member_bytes(row, "exact_bytes");
    sum->ulp += member_bytes(row, "ulp_bytes");
    sum->near += member_bytes(row, "near_bytes");
    sum->unique += member_bytes(row, "unique_bytes");
    sum->seen += member_bytes(row, "seen_bytes");
    sum->logical += member_bytes(row, "logical_bytes");
    sum->metadata += member_bytes(row, "metadata_bytes");
}

int ledger_collect(ledger_totals *totals, const json_t *report, double budget, error_text *error) {
    const json_t *row, *counts = json_object_get(report, "counts");
    size_t index;
    memset(totals, 0, sizeof *totals);
    json_array_foreach(json_object_get(report, "ledger"), index, row) {
        ledger_totals one = {0};
        if (member_number(row, "budget") != budget)
            continue;
        add_row(&one, row);
        if (!adds_up(&one))
            return fail(error, "the ledger of layer %d does not add up: a defect of kvsim",
                        (int)member_count(row, "layer"));
        add_row(totals, row);
    }
    /* Groups of which no page can be compared have no row. */
    double seen = member_bytes(counts, "physical_bytes");
    totals->left_out += seen - totals->seen;
    totals->logical = member_bytes(counts, "logical_bytes");
    totals->seen = seen;
    if (totals->left_out < 0.0 || !adds_up(totals))
        return fail(error, "the ledger does not add up to the bytes seen: a defect of kvsim");
    return 0;
}

lossless_totals lossless_collect(const json_t *report) {
    lossless_totals totals = {0};
    const json_t *row;
    size_t index;
    json_array_foreach(json_object_get(report, "lossless"), index, row) {
        bool coded = member_count(row, "zstd_level") > 0;
        totals.bytes += member_bytes(row, "bytes");
        totals.order0 += member_number(row, "order0_bytes");
        totals.zstd += coded ? member_bytes(row, "zstd_bytes") : (double)NAN;
        totals.coding_gain += member_number(row, "coding_gain_bytes");
        totals.repetition_gain += member_number(row, "repetition_gain_bytes");
    }
    return totals;
}
