#include "prompts.h"

#include "text_file.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

static int check_utf8(const char *text, size_t size, const char *path, error_text *error) {
    size_t line = 1;
    for (size_t i = 0, step; i < size; i += step) {
        step = utf8_character_size(text + i, size - i);
        if (step == 0)
            return fail(error, "%s: line %zu is not UTF-8 text (byte %zu); save the file as UTF-8", path, line, i);
        line += text[i] == '\n';
    }
    return 0;
}

/** Resolve the escapes of a line in place. */
static void resolve_escapes(char *line) {
    char *to = line;
    for (const char *from = line; *from != 0; from++, to++) {
        *to = *from;
        if (*from != '\\' || from[1] == 0 || strchr("nt\\", from[1]) == NULL)
            continue;
        from++;
        *to = *from == 'n' ? '\n' : *from == 't' ? '\t' : '\\';
    }
    *to = 0;
}

static int add_prompt(prompt_list *list, char *line, error_text *error) {
    size_t length = strlen(line);
    if (length > 0 && line[length - 1] == '\r')
        line[--length] = 0;
    if (strspn(line, " \t") == length)
        return 0;
    resolve_escapes(line);
    char **larger = realloc(list->texts, (list->count + 1) * sizeof *larger);
    if (larger == NULL)
        return fail(error, "out of memory");
    list->texts = larger;
    larger[list->count] = strdup(line);
    if (larger[list->count] == NULL)
        return fail(error, "out of memory");
    list->count++;
    return 0;
}

int prompts_read(prompt_list *list, const char *path, error_text *error) {
    memset(list, 0, sizeof *list);
    size_t size;
    char *text = text_file_read(path, "the prompts file", &size, error);
    if (text == NULL)
        return -1;
    int result = check_utf8(text, size, path, error);
    char *rest = text;
    for (char *line; result == 0 && (line = strsep(&rest, "\n")) != NULL;)
        result = add_prompt(list, line, error);
    free(text);
    if (result == 0 && list->count == 0)
        return fail(error, "the prompts file %s holds no prompt; write one a line", path);
    return result;
}

void prompts_release(prompt_list *list) {
    for (size_t i = 0; i < list->count; i++)
        free(list->texts[i]);
    free(list->texts);
}
