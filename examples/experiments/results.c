#include "results.h"

#include "analyze/figures.h"
#include "analyze/plots.h"
#include "common/gnuplot.h"
#include "common/json_file.h"
#include "common/json_text.h"
#include "common/output.h"
#include "path_text.h"
#include "patterns.h"
#include "results_parts.h"

#include <stdlib.h>
#include <string.h>

/** The pictures of an experiment, among those that plots_draw makes. */
static const char *const pictures_kept[] = {"similarity_distribution.png",   "similarity_distribution.svg",
                                            "layer_similarity.png",          "layer_similarity.svg",
                                            "compression_opportunities.png", "compression_opportunities.svg"};

enum { PICTURES = sizeof pictures_kept / sizeof *pictures_kept };

static json_t *describe_sequence(const json_t *from) {
    static const char *const members[] = {"prompt_tokens", "prompt_cut", "output", "finish"};
    json_t *sequence = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        json_t *member = json_object_get(from, members[i]);
        json_object_set_new(sequence, members[i], member != NULL ? json_incref(member) : json_null());
    }
    size_t tokens = json_array_size(json_object_get(from, "output_tokens"));
    json_object_set_new(sequence, "output_tokens", json_integer((json_int_t)tokens));
    return sequence;
}

static json_t *describe_outputs(const run_documents *documents) {
    json_t *outputs = json_array(), *from;
    size_t index;
    for (size_t r = 0; r < documents->repeats; r++) {
        json_t *sequences = json_array(), *output = json_object();
        json_array_foreach(json_object_get(documents->generations[r], "sequences"), index, from)
            json_array_append_new(sequences, describe_sequence(from));
        json_object_set_new(output, "repeat", json_integer((json_int_t)r));
        json_object_set_new(output, "seed", json_integer((json_int_t)experiment_repeat_seed(documents->e, (int64_t)r)));
        json_object_set_new(output, "sequences", sequences);
        json_array_append_new(outputs, output);
    }
    return outputs;
}

static json_t *describe_notes(const run_documents *documents) {
    json_t *notes = json_object_get(documents->generations[0], "notes");
    return json_is_array(notes) ? json_incref(notes) : json_array();
}

/** results.json. [owned]; NULL when out of memory. */
static json_t *describe_results(const run_documents *documents, const char *config_hash, bool reproducible) {
    json_t *analysis = describe_cache_analysis(documents), *document = json_object();
    if (analysis == NULL || document == NULL) {
        json_decref(analysis);
        json_decref(document);
        return NULL;
    }
    json_object_set_new(document, "schema", json_string(RESULTS_SCHEMA));
    json_object_set_new(document, "name", json_string(documents->e->name));
    json_object_set_new(document, "config", experiment_to_json(documents->e));
    json_object_set_new(document, "config_hash", json_string(config_hash != NULL ? config_hash : ""));
    json_object_set_new(document, "ignored_fields", describe_ignored_fields(documents));
    json_object_set_new(document, "notes", describe_notes(documents));
    json_object_set_new(document, "engine", describe_engine(documents));
    json_object_set(document, "model", json_object_get(documents->generations[0], "model"));
    json_object_set_new(document, "tokens", describe_tokens(documents));
    if (!reproducible)
        json_object_set_new(document, "timing", describe_timing(documents));
    json_object_set_new(document, "memory_stats", describe_memory(documents, reproducible));
    json_object_set_new(document, "patterns", patterns_of_experiment(analysis));
    json_object_set_new(document, "cache_analysis", analysis);
    json_object_set_new(document, "outputs", describe_outputs(documents));
    if (!reproducible)
        json_object_set_new(document, "environment", describe_environment());
    if (json_object_size(document) < (reproducible ? 13u : 15u)) {
        json_decref(document);
        return NULL;
    }
    return document;
}

/** Draw the pictures of repeat 0. A picture that cannot be drawn is no failure of the experiment. */
static bool draw(const experiment_runs *runs, const char *folder, error_text *remark, error_text *error) {
    path_text path;
    report_figures figures;
    json_t *report = NULL;
    int drawn = GNUPLOT_FAILED;
    if (path_make(&path, error, "%s/" ANALYSIS_REPORT_NAME, runs->run_folders[0]) != 0 ||
        (report = json_file_read(path.text, remark)) == NULL)
        return false;
    if (figures_collect(&figures, report, ANALYSIS_THRESHOLD, ANALYSIS_BUDGET, remark) == 0) {
        saving_figures saving = figures_saving(&figures);
        if (figures.total.kind[FIGURE_KEY].cosine[0].pairs + figures.total.kind[FIGURE_VALUE].cosine[0].pairs == 0)
            fail(remark, "%s: no pictures, because there are no pairs to show", runs->e->name);
        else
            drawn = plots_draw(&figures, &saving, runs->e->name, folder, remark);
        if (drawn == GNUPLOT_ABSENT)
            fail(remark, "no pictures: gnuplot is not installed; install the package gnuplot-nox");
        else if (drawn == GNUPLOT_OK)
            remark->text[0] = 0;
    }
    figures_release(&figures);
    json_decref(report);
    return drawn == GNUPLOT_OK;
}

static int write_output(const char *folder, const experiment_runs *runs, const json_t *document, bool pictures,
                        error_text *remark, error_text *error) {
    const char *names[PICTURES + 1];
    size_t count = 0, size = 0;
    output_folder *output = output_open(folder, error);
    if (output == NULL)
        return -1;
    char *text = json_text(document, &size);
    int status = text != NULL ? output_write(output, RESULTS_NAME, text, size, error) : fail(error, "out of memory");
    free(text);
    bool drawn = status == 0 && pictures && draw(runs, output_staging(output), remark, error);
    for (size_t i = 0; i < PICTURES && drawn; i++)
        names[count++] = pictures_kept[i];
    names[count++] = RESULTS_NAME;
    if (status == 0 && interrupted())
        status = fail(error, "interrupted");
    if (status == 0)
        status = output_commit(output, names, count, pictures_kept, drawn ? 0 : PICTURES, error);
    output_close(output);
    return status;
}

int results_write(const char *folder, const experiment_runs *runs, bool reproducible, bool pictures, error_text *remark,
                  error_text *error) {
    run_documents documents;
    json_t *document = NULL;
    remark->text[0] = 0;
    int status = run_documents_open(&documents, runs, error);
    if (status == 0 && (document = describe_results(&documents, runs->config_hash, reproducible)) == NULL)
        status = fail(error, "out of memory");
    if (status == 0)
        status = write_output(folder, runs, document, pictures, remark, error);
    json_decref(document);
    run_documents_close(&documents);
    return status;
}
