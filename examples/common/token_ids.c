#include "token_ids.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int token_ids_read(const char *text, size_t number, int32_t vocabulary, int32_t *ids, int64_t *count,
                   error_text *error) {
    char *end;
    *count = 0;
    for (const char *at = text; at[strspn(at, " \t")] != 0; at = end) {
        long id = strtol(at, &end, 10);
        bool ended = *end == 0 || *end == ' ' || *end == '\t';
        if (end == at || !ended || id < 0 || id >= vocabulary)
            return fail(error,
                        "prompt %zu: this model has a tokenizer of its own; give token ids (0 to %d) in place of text",
                        number, vocabulary - 1);
        ids[(*count)++] = (int32_t)id;
    }
    return 0;
}
