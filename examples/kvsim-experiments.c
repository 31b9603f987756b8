/**
 * kvsim-experiments: which workloads are redundant, how sure that is, and what it cost. Runs experiments through an
 * engine, each one in a process of its own, analyses their caches with libkvsim, and writes one report.
 */
#include "common/message.h"
#include "experiments/campaign.h"
#include "experiments/options.h"
#include "experiments/specification.h"
#include "experiments/worker.h"

#include <locale.h>
#include <string.h>

int main(int argc, char **argv) {
    campaign_options options;
    experiment_list experiments = {NULL, 0};
    error_text error = {""};
    setlocale(LC_CTYPE, "");
    if (argc == 4 && strcmp(argv[1], WORKER_OPTION) == 0)
        return worker_main(argv[2], argv[3]);
    options_read(argc, argv, &options);
    watch_signals();
    int status;
    if (options_experiments(&options, &experiments, &error) != 0) {
        print_error(PROGRAM, "%s", error.text);
        status = EXIT_USAGE;
    } else if (options.list) {
        status = campaign_list(&experiments);
    } else if (options.dry_run) {
        status = campaign_dry_run(&options, &experiments);
    } else {
        status = campaign_run(&options, &experiments);
    }
    experiments_release(&experiments);
    options_release(&options);
    return status;
}
