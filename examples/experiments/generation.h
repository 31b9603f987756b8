/**
 * generation.json (schema kvsim.generation.v1) of engines that are programs of their own: what such a program says of
 * its run is checked against its dump, and completed.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_GENERATION_H
#define KVSIM_EXAMPLES_EXPERIMENTS_GENERATION_H

#include "specification.h"

#include <kvsim/snapshot.h>

/** What is known of a run without the word of its engine. */
typedef struct generation_facts {
    const experiment *e;
    int64_t repeat;
    const kvsim_snapshot_info *dump;
    const int64_t *lengths; /**< [e->prompt_count] tokens of the dump's sequences */
    int64_t peak_rss_bytes; /**< of the engine's processes; 0 = not known */
} generation_facts;

/**
 * Complete what an engine says of its run.
 * @param given its generation.json; NULL if it left none. Every member may be left out
 * @return [owned] the whole document, null where nobody knows; NULL with `error` set if a member has another type or
 *         contradicts the dump. The error begins with the JSON pointer of the member
 */
json_t *generation_complete(const json_t *given, const generation_facts *facts, error_text *error);

/** Add a line to the notes of a document. */
void generation_add_note(json_t *document, const char *text);

#endif
