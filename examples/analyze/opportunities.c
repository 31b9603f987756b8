#include "opportunities.h"

#include "common/json_text.h"

#include <math.h>
#include <stdlib.h>

/** Columns of the table `assignments`, docs/columns.md. */
enum assignment_column {
    ASSIGNED_VIEW,
    ASSIGNED_KIND,
    ASSIGNED_HEAD,
    ASSIGNED_BUDGET,
    ASSIGNED_PAGE,
    ASSIGNED_REPRESENTATIVE,
    ASSIGNED_COSINE,
    ASSIGNED_ERROR,
    ASSIGNED_EXACT,
    ASSIGNED_COLUMNS
};

static const char *const assignment_names[ASSIGNED_COLUMNS] = {
    "view", "kind", "head", "budget", "page", "representative", "cosine", "relative_error", "exact",
};

/** Columns of the table `pages`. */
enum page_column { PAGE_LAYER, PAGE_KIND, PAGE_SEQUENCE, PAGE_POSITION, PAGE_BYTES, PAGE_COLUMNS };

static const char *const page_names[PAGE_COLUMNS] = {"layer", "kind", "sequence", "position", "bytes"};

static double cell(const kvsim_column *column, int64_t row) {
    bool wide = column->dtype_bits == 64;
    switch (column->dtype_code) {
    case KVSIM_DTYPE_INT:
        return wide ? (double)((const int64_t *)column->data)[row] : (double)((const int32_t *)column->data)[row];
    case KVSIM_DTYPE_UINT:
        return wide ? (double)((const uint64_t *)column->data)[row] : (double)((const uint32_t *)column->data)[row];
    default:
        return wide ? ((const double *)column->data)[row] : (double)((const float *)column->data)[row];
    }
}

static int find_columns(const kvsim_result *result, const char *table, const char *const *names, size_t count,
                        kvsim_column *columns, error_text *error) {
    for (size_t i = 0; i < count; i++) {
        columns[i] = (kvsim_column)KVSIM_COLUMN_INIT;
        if (kvsim_result_column(result, table, names[i], &columns[i]) != KVSIM_OK)
            return fail(error, "libkvsim %s has no column %s.%s", kvsim_version_string(), table, names[i]);
    }
    return 0;
}

/** One page that could go. */
typedef struct opportunity {
    int64_t row;
    int64_t page;
    double error;
} opportunity;

static int compare_opportunities(const void *a, const void *b) {
    const opportunity *x = a, *y = b;
    if (x->error != y->error)
        return x->error < y->error ? -1 : 1;
    return x->page < y->page ? -1 : x->page > y->page;
}

/** Rows of the raw view, all heads, one kind, at the budget. */
static bool is_wanted(const kvsim_column *columns, int64_t row, double budget) {
    return cell(&columns[ASSIGNED_VIEW], row) == KVSIM_VIEW_RAW && cell(&columns[ASSIGNED_KIND], row) != 0.0 &&
           cell(&columns[ASSIGNED_HEAD], row) < 0.0 && cell(&columns[ASSIGNED_BUDGET], row) == budget;
}

static json_t *describe_page(const kvsim_column *pages, int64_t page) {
    json_t *object = json_object();
    json_object_set_new(object, "layer", json_integer((json_int_t)cell(&pages[PAGE_LAYER], page)));
    json_object_set_new(object, "kind", json_string(cell(&pages[PAGE_KIND], page) == KVSIM_KIND_KEY ? "key" : "value"));
    json_object_set_new(object, "sequence", json_integer((json_int_t)cell(&pages[PAGE_SEQUENCE], page)));
    json_object_set_new(object, "position", json_integer((json_int_t)cell(&pages[PAGE_POSITION], page)));
    return object;
}

static json_t *describe(const kvsim_column *assignments, const kvsim_column *pages, const opportunity *item) {
    int64_t representative = (int64_t)cell(&assignments[ASSIGNED_REPRESENTATIVE], item->row);
    json_t *object = json_object();
    json_object_set_new(object, "page", describe_page(pages, item->page));
    json_object_set_new(object, "representative", describe_page(pages, representative));
    json_object_set_new(object, "cosine", json_number(cell(&assignments[ASSIGNED_COSINE], item->row)));
    json_object_set_new(object, "relative_error", json_number(item->error));
    json_object_set_new(object, "exact", json_boolean(cell(&assignments[ASSIGNED_EXACT], item->row) != 0.0));
    json_object_set_new(object, "bytes", json_integer((json_int_t)cell(&pages[PAGE_BYTES], item->page)));
    return object;
}

json_t *opportunities_list(const kvsim_result *result, double budget, uint32_t most, uint64_t *total,
                           error_text *error) {
    kvsim_column assignments[ASSIGNED_COLUMNS], pages[PAGE_COLUMNS];
    if (find_columns(result, "assignments", assignment_names, ASSIGNED_COLUMNS, assignments, error) != 0 ||
        find_columns(result, "pages", page_names, PAGE_COLUMNS, pages, error) != 0)
        return NULL;
    int64_t rows = assignments[0].rows;
    opportunity *items = calloc((size_t)rows + 1, sizeof *items);
    json_t *list = json_array();
    if (items == NULL || list == NULL) {
        free(items);
        json_decref(list);
        fail(error, "out of memory");
        return NULL;
    }
    size_t count = 0;
    for (int64_t row = 0; row < rows; row++)
        if (is_wanted(assignments, row, budget))
            items[count++] = (opportunity){row, (int64_t)cell(&assignments[ASSIGNED_PAGE], row),
                                           cell(&assignments[ASSIGNED_ERROR], row)};
    qsort(items, count, sizeof *items, compare_opportunities);
    for (size_t i = 0; i < count && i < most; i++)
        json_array_append_new(list, describe(assignments, pages, &items[i]));
    free(items);
    *total = count;
    return list;
}
