#include "document.h"

#include "common/json_text.h"
#include "document_members.h"
#include "opportunities.h"
#include "words.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/** The cosines of keys and values together. */
static cosine_figures pool_kinds(const layer_figures *layer, size_t view) {
    cosine_figures pooled = layer->kind[FIGURE_KEY].cosine[view];
    const cosine_figures *value = &layer->kind[FIGURE_VALUE].cosine[view];
    if (value->pairs == 0)
        return pooled;
    pooled.least = pooled.pairs == 0 ? value->least : fmin(pooled.least, value->least);
    pooled.most = pooled.pairs == 0 ? value->most : fmax(pooled.most, value->most);
    pooled.pairs += value->pairs;
    pooled.high_pairs += value->high_pairs;
    pooled.sum += value->sum;
    return pooled;
}

static void set_similarity(json_t *object, const cosine_figures *cosine) {
    bool any = cosine->pairs > 0;
    set_number(object, "avg_similarity", figures_mean(cosine));
    set_number(object, "min_similarity", any ? cosine->least : (double)NAN);
    set_number(object, "max_similarity", any ? cosine->most : (double)NAN);
    set_count(object, "high_similarity_count", cosine->high_pairs);
    set_count(object, "page_comparisons", cosine->pairs);
}

static json_t *describe_kind(const kind_figures *figures) {
    json_t *kind = json_object();
    set_similarity(kind, &figures->cosine[0]);
    set_count(kind, "pages", figures->pages);
    set_count(kind, "pages_left_out", figures->others);
    set_count(kind, "exact_duplicates", figures->exact);
    set_share(kind, "exact_share", figures->exact, figures->pages);
    set_count(kind, "near_duplicates", figures->removed - figures->exact);
    set_share(kind, "near_share", figures->removed - figures->exact, figures->pages);
    set_count(kind, "high_similarity_pages", figures->cosine[0].alike);
    set_share(kind, "high_similarity_page_share", figures->cosine[0].alike, figures->pages);
    set_bytes(kind, "bytes", figures->bytes);
    set_bytes(kind, "exact_bytes", figures->exact_bytes);
    set_bytes(kind, "near_bytes", figures->removed_bytes - figures->exact_bytes);
    set_bytes(kind, "unique_bytes", figures->bytes - figures->removed_bytes);
    return kind;
}

static json_t *describe_blocks(const block_figures *figures) {
    json_t *block = json_object();
    set_count(block, "blocks", figures->blocks);
    set_count(block, "exact_duplicates", figures->exact);
    set_count(block, "near_duplicates", figures->removed - figures->exact);
    set_bytes(block, "bytes", figures->bytes);
    set_bytes(block, "exact_bytes", figures->exact_bytes);
    set_bytes(block, "near_bytes", figures->removed_bytes - figures->exact_bytes);
    return block;
}

static json_t *describe_layers(const report_figures *figures) {
    json_t *layers = json_object();
    for (size_t i = 0; i < figures->layer_count; i++) {
        const layer_figures *figure = &figures->layers[i];
        char name[32];
        snprintf(name, sizeof name, "layer_%d", figure->layer);
        json_t *layer = json_object();
        cosine_figures both = pool_kinds(figure, 0);
        set_similarity(layer, &both);
        for (int kind = 0; kind < FIGURE_KINDS; kind++)
            if (figure->kind[kind].pages + figure->kind[kind].others > 0)
                json_object_set_new(layer, kind_names[kind], describe_kind(&figure->kind[kind]));
        if (figure->block.blocks > 0)
            json_object_set_new(layer, "block", describe_blocks(&figure->block));
        json_object_set_new(layers, name, layer);
    }
    return layers;
}

/** Likeness of each kind in each view, since the raw one says little of keys. */
static json_t *describe_views(const report_figures *figures) {
    json_t *views = json_object();
    for (size_t view = 0; view < figures->view_count; view++) {
        json_t *kinds = json_object();
        for (int kind = 0; kind < FIGURE_KINDS; kind++) {
            const kind_figures *one = &figures->total.kind[kind];
            json_t *figure = json_object();
            set_number(figure, "avg_similarity", figures_mean(&one->cosine[view]));
            set_count(figure, "high_similarity_pages", one->cosine[view].alike);
            set_share(figure, "high_similarity_page_share", one->cosine[view].alike, one->pages);
            json_object_set_new(kinds, kind_names[kind], figure);
        }
        json_object_set_new(views, figures->views[view], kinds);
    }
    return views;
}

static json_t *describe_summary(const document_parts *parts, uint64_t opportunities) {
    const report_figures *figures = parts->figures;
    const saving_figures *saving = parts->saving;
    cosine_figures all = pool_kinds(&figures->total, 0);
    json_t *summary = json_object();
    json_object_set_new(summary, "in_words", words_headline(figures, saving));
    set_count(summary, "total_page_comparisons", all.pairs);
    set_number(summary, "avg_cosine_similarity", figures_mean(&all));
    set_count(summary, "high_similarity_pairs", all.high_pairs);
    set_number(summary, "high_similarity_threshold", figures->threshold);
    set_count(summary, "total_compression_opportunities", opportunities);
    set_number(summary, "error_budget", figures->budget);
    set_number(summary, "potential_memory_savings_mb", saving->saved_bytes / 1e6);
    set_number(summary, "assumed_memory_savings_mb", saving->assumed_bytes / 1e6);
    json_t *measured = json_object();
    json_object_set_new(measured, "level", json_string(saving->by_block ? "block" : "page"));
    set_bytes(measured, "compared_bytes", saving->bytes);
    set_bytes(measured, "exact_bytes", saving->exact_bytes);
    set_bytes(measured, "near_bytes", saving->near_bytes);
    set_bytes(measured, "metadata_bytes", saving->metadata_bytes);
    set_bytes(measured, "saved_bytes", saving->saved_bytes);
    json_object_set_new(summary, "measured_saving", measured);
    json_t *assumed = json_object();
    set_number(assumed, "share", ASSUMED_SHARE);
    set_number(assumed, "threshold", figures->threshold);
    set_bytes(assumed, "bytes_of_pages_alike",
              figures->total.kind[FIGURE_KEY].alike_bytes + figures->total.kind[FIGURE_VALUE].alike_bytes);
    set_bytes(assumed, "saved_bytes", saving->assumed_bytes);
    json_object_set_new(summary, "assumed_saving", assumed);
    json_object_set_new(summary, "by_view", describe_views(figures));
    json_t *cache = json_object();
    double seen = 0.0;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        const kind_figures *one = &figures->total.kind[kind];
        json_object_set_new(summary, kind_names[kind], describe_kind(one));
        seen += one->bytes + one->other_bytes;
    }
    json_object_set_new(cache, "predicted_bytes",
                        parts->source->predicted_bytes > 0.0 ? json_integer((json_int_t)parts->source->predicted_bytes)
                                                             : json_null());
    set_bytes(cache, "seen_bytes", seen);
    set_count(cache, "tokens", (uint64_t)parts->source->tokens);
    json_object_set_new(summary, "cache", cache);
    return summary;
}

static json_t *describe_environment(const document_parts *parts) {
    json_t *environment = json_object();
    char text[64];
    time_t now = time(NULL);
    struct tm parts_of_time;
    struct utsname machine;
    gmtime_r(&now, &parts_of_time);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts_of_time);
    json_object_set_new(environment, "time", json_string(text));
    if (uname(&machine) == 0) {
        json_object_set_new(environment, "system", json_string(machine.sysname));
        json_object_set_new(environment, "release", json_string(machine.release));
        json_object_set_new(environment, "machine", json_string(machine.machine));
    }
    json_object_set_new(environment, "processors", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(environment, "program_version", json_string(KVSIM_VERSION_STRING));
    json_object_set_new(environment, "library_version", json_string(kvsim_version_string()));
    json_object_set_new(environment, "jansson_version", json_string(jansson_version_str()));
    json_object_set_new(environment, "backend", json_string(member_text(parts->figures->report, "backend")));
    json_object_set_new(environment, "threads_asked_for", json_integer(parts->options->threads));
    set_number(environment, "source_seconds", parts->source->load_seconds);
    set_number(environment, "compute_seconds", parts->compute_seconds);
    return environment;
}

/** A member of the library's report, shared, or an empty array where it is absent. */
static json_t *shared_member(const report_figures *figures, const char *name) {
    json_t *member = json_object_get(figures->report, name);
    return member != NULL ? json_incref(member) : json_array();
}

/**
 * The groups without the numbers of physical blocks in their top pairs: sequence and position say which page it is,
 * and stay the same when the pages are dumped and read again.
 */
static json_t *groups_without_blocks(const report_figures *figures) {
    static const char *const places[] = {"page", "earlier"};
    json_t *groups = shared_member(figures, "groups");
    json_t *group, *pair;
    size_t i, j;
    json_array_foreach(groups, i, group)
        json_array_foreach(json_object_get(group, "top_pairs"), j,
                           pair) for (size_t place = 0; place < sizeof places / sizeof *places; place++)
            json_object_del(json_object_get(pair, places[place]), "block");
    return groups;
}

json_t *document_build(const document_parts *parts, error_text *error) {
    const report_figures *figures = parts->figures;
    uint64_t opportunities = 0;
    json_t *listed = opportunities_list(parts->result, figures->budget, parts->options->top, &opportunities, error);
    if (listed == NULL)
        return NULL;
    json_t *document = json_object();
    json_object_set_new(document, "schema", json_string(DOCUMENT_SCHEMA));
    json_object_set(document, "input", parts->source->input);
    json_object_set_new(document, "options", shared_member(figures, "options"));
    json_object_set_new(document, "counts", shared_member(figures, "counts"));
    json_object_set_new(document, "summary", describe_summary(parts, opportunities));
    json_object_set_new(document, "notes", words_notes(parts->options, parts->source, figures));
    json_object_set_new(document, "views", describe_evidence(figures));
    json_object_set_new(document, "dedup_curve", describe_curve(figures));
    json_object_set_new(document, "ledger", describe_ledger(figures, parts->ledger));
    json_object_set_new(document, "lossless", describe_lossless(figures, parts->lossless));
    json_object_set_new(document, "layer_analysis", describe_layers(figures));
    json_object_set_new(document, "compression_opportunities", listed);
    json_object_set_new(document, "groups", groups_without_blocks(figures));
    json_object_set_new(document, "blocks", shared_member(figures, "blocks"));
    json_object_set_new(document, "null", shared_member(figures, "statistics"));
    json_object_set_new(document, "strata", shared_member(figures, "strata"));
    if (!parts->options->reproducible)
        json_object_set_new(document, "environment", describe_environment(parts));
    if (document == NULL || json_object_size(document) < 16) {
        json_decref(document);
        fail(error, "out of memory");
        return NULL;
    }
    return document;
}
