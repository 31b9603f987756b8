/**
 * The pages that could share the memory of another page.
 */
#ifndef KVSIM_EXAMPLES_ANALYZE_OPPORTUNITIES_H
#define KVSIM_EXAMPLES_ANALYZE_OPPORTUNITIES_H

#include "common/message.h"

#include <jansson.h>
#include <kvsim/kvsim.h>
#include <stdint.h>

/**
 * List the pages that are within `budget` of a representative in the raw view, ordered by relative error, then page.
 * @param most length of the list at most
 * @param total receives how many there are
 * @return array, [owned] by the caller; NULL with `error` set on failure
 */
json_t *opportunities_list(const kvsim_result *result, double budget, uint32_t most, uint64_t *total,
                           error_text *error);

#endif
