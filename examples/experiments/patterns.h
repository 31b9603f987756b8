/**
 * Patterns in words, each with the numbers behind it.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_PATTERNS_H
#define KVSIM_EXAMPLES_EXPERIMENTS_PATTERNS_H

#include <jansson.h>

/**
 * What the layers, the places in a sequence and the distance in tokens show in one experiment.
 * @param analysis member `cache_analysis` of its results.json
 * @return array of {pattern, text, figures}, [owned]; NULL when out of memory
 */
json_t *patterns_of_experiment(const json_t *analysis);

/**
 * What the experiments show against each other.
 * @param experiments member `experiments` of final_report.json
 * @param differences,between its members `differences` and `between_experiments`
 * @return as patterns_of_experiment
 */
json_t *patterns_between_experiments(const json_t *experiments, const json_t *differences, const json_t *between);

/**
 * The answer in three sentences: which workload is the most redundant and by how much, in which layers, and whether the
 * difference is more than noise.
 * @return array of texts, [owned]; NULL when out of memory
 */
json_t *patterns_answer(const json_t *experiments, const json_t *differences);

/** How it was measured, and what it does not show: texts. [owned]; NULL when out of memory */
json_t *patterns_method(const json_t *experiments);
json_t *patterns_not_shown(const json_t *experiments);

#endif
