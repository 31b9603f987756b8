/**
 * Writes report.html from the documents of a folder, without running an experiment.
 *
 * usage: report_page FOLDER OUTPUT_FOLDER
 * FOLDER holds final_report.json and, in folders of their own, results.json of its experiments.
 */
#include "experiments/report.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>

/** Most documents that are read. */
#define MOST_RESULTS 64

static json_t *read_document(const char *path) {
    json_error_t error;
    json_t *document = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (document == NULL)
        fprintf(stderr, "report_page: %s: %s\n", path, error.text);
    return document;
}

int main(int count, char **arguments) {
    char path[4096];
    glob_t found;
    json_t *results[MOST_RESULTS];
    size_t read = 0;
    error_text error;
    if (count != 3) {
        fprintf(stderr, "usage: report_page FOLDER OUTPUT_FOLDER\n");
        return EXIT_USAGE;
    }
    watch_signals(); /* a gnuplot that does not read its script must not end this program */
    snprintf(path, sizeof path, "%s/final_report.json", arguments[1]);
    json_t *final_report = read_document(path);
    snprintf(path, sizeof path, "%s/*/results.json", arguments[1]);
    if (glob(path, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && read < MOST_RESULTS; i++)
            if ((results[read] = read_document(found.gl_pathv[i])) != NULL)
                read++;
        globfree(&found);
    }
    int status = final_report == NULL ? -1 : report_write(arguments[2], final_report, results, read, &error);
    if (final_report != NULL && status != 0)
        fprintf(stderr, "report_page: %s\n", error.text);
    while (read > 0)
        json_decref(results[--read]);
    json_decref(final_report);
    return status == 0 ? EXIT_SUCCESS : EXIT_FAILED;
}
