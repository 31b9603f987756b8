/**
 * A campaign: experiments, each run several times by workers, analysed, and summed up in one report.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_CAMPAIGN_H
#define KVSIM_EXAMPLES_EXPERIMENTS_CAMPAIGN_H

#include "options.h"
#include "specification.h"

/**
 * Run the experiments, or go on with them, into the output folder, and print the answer. An experiment that fails is
 * reported, and the others go on.
 * @return exit status
 */
int campaign_run(const campaign_options *options, const experiment_list *experiments);

/** Say what would run, how much that is and about how long it takes. @return exit status */
int campaign_dry_run(const campaign_options *options, const experiment_list *experiments);

/** Print the experiments and what they are about. @return exit status */
int campaign_list(const experiment_list *experiments);

#endif
