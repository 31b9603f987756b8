#include "families.h"

#include <stdlib.h>

int families_add(family_list *list, const char *prompt, error_text *error) {
    int64_t *larger = realloc(list->numbers, (list->count + 1) * sizeof *larger);
    if (larger == NULL)
        return fail(error, "out of memory");
    list->numbers = larger;
    int64_t number = (int64_t)list->count;
    if (prompt != NULL && prompt[0] != 0) {
        if (list->first == NULL)
            list->first = json_object();
        const json_t *known = json_object_get(list->first, prompt);
        if (known != NULL)
            number = json_integer_value(known);
        else if (json_object_set_new(list->first, prompt, json_integer(number)) != 0)
            return fail(error, "out of memory");
    }
    list->distinct += number == (int64_t)list->count;
    larger[list->count++] = number;
    return 0;
}

void families_release(family_list *list) {
    free(list->numbers);
    json_decref(list->first);
}
