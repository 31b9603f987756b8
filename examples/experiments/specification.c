#include "specification.h"

#include "common/data_folder.h"
#include "common/prompts.h"
#include "common/text_file.h"
#include "json_place.h"
#include "path_text.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/** Longest name: it is part of the names of folders. */
#define LONGEST_NAME 64

/** Most prompts of one experiment. */
#define MOST_PROMPTS 100000

/** Most new tokens of one prompt, and longest context; every model's own limit is below. */
#define MOST_TOKENS 10000000

/** Most repeats. */
#define MOST_REPEATS 1000

/** Highest temperature: every token is then equally likely. */
#define HIGHEST_TEMPERATURE 1000.0

/** Most GPUs of one model. */
#define MOST_GPUS 4096

/** Longest page in tokens that the engines take. */
#define MOST_PAGE_TOKENS 1024

const char *const experiment_field_names[FIELD_COUNT] = {
    "name",
    "description",
    "model",
    "prompts",
    "prompts_file",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "repeats",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "max_model_len",
    "engine",
    "page_tokens",
    "ignore_eos",
    "dtype",
    "long_prompts",
    "engine_command",
};

/** A file of experiments while it is read. */
typedef struct reader {
    const char *path;
    const char *text;
    size_t size;
    char place[512];  /**< JSON pointer of the value that is looked at */
    const char *name; /**< of the experiment; NULL before it is known */
    error_text *error;
} reader;

/** Fail at the reader's place. */
static int fail_here(reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail_here(reader *r, const char *format, ...) {
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t line = json_place_line(r->text, r->size, r->place);
    const char *place = r->place[0] != 0 ? r->place : "/";
    if (r->name != NULL)
        return fail(r->error, "%s:%zu: %s: experiment %s: %s", r->path, line, place, r->name, text);
    return fail(r->error, "%s:%zu: %s: %s", r->path, line, place, text);
}

/** Fail because a value is not what the field takes. */
static int fail_value(reader *r, const char *wanted, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    int result = fail_here(r, "takes %s, not %.60s%s", wanted, text != NULL ? text : "this",
                           text != NULL && strlen(text) > 60 ? "..." : "");
    free(text);
    return result;
}

static int read_integer_field(reader *r, const json_t *value, int64_t least, int64_t most, int64_t *out) {
    char wanted[96];
    if (json_is_integer(value) && json_integer_value(value) >= least && json_integer_value(value) <= most) {
        *out = json_integer_value(value);
        return 0;
    }
    if (most == INT64_MAX)
        snprintf(wanted, sizeof wanted, "a whole number from %" PRId64 " on", least);
    else
        snprintf(wanted, sizeof wanted, "a whole number from %" PRId64 " to %" PRId64, least, most);
    return fail_value(r, wanted, value);
}

/** A number in [least, most], or in (least, most] if `above`. */
static int read_real_field(reader *r, const json_t *value, double least, double most, bool above, double *out) {
    char wanted[96];
    double number = json_number_value(value);
    if (json_is_number(value) && (above ? number > least : number >= least) && number <= most) {
        *out = number;
        return 0;
    }
    snprintf(wanted, sizeof wanted, "a number %s%g to %g", above ? "over " : "from ", least, most);
    return fail_value(r, wanted, value);
}

static int read_text_field(reader *r, const json_t *value, char **out) {
    if (!json_is_string(value))
        return fail_value(r, "a text", value);
    free(*out);
    *out = strdup(json_string_value(value));
    return *out != NULL ? 0 : fail(r->error, "out of memory");
}

/** A text that is one of `words`, which end with NULL. */
static int read_word_field(reader *r, const json_t *value, const char *const *words, char **out) {
    char wanted[128] = "";
    for (size_t i = 0; words[i] != NULL; i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), words[i]) == 0)
            return read_text_field(r, value, out);
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s\"%s\"",
                 i == 0                 ? ""
                 : words[i + 1] == NULL ? " or "
                                        : ", ",
                 words[i]);
    }
    return fail_value(r, wanted, value);
}

/** A name is a folder's name, part of messages, and an entry of lists that commas separate. */
static bool is_name(const char *text) {
    size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return length >= 1 && length <= LONGEST_NAME && text[length] == 0 && text[0] != '-';
}

static int read_name(reader *r, experiment *e, const json_t *value) {
    if (!json_is_string(value) || !is_name(json_string_value(value)))
        return fail_value(r, "1 to 64 letters, digits, '_' and '-' (it names a folder)", value);
    return read_text_field(r, value, &e->name);
}

/** A path of the file as one that holds everywhere: relative ones begin at the file's folder. [owned] */
static char *resolve_path(const reader *r, const char *path) {
    char *joined;
    const char *slash = strrchr(r->path, '/');
    if (path[0] == '/' || slash == NULL)
        return path_absolute(path);
    if (asprintf(&joined, "%.*s/%s", (int)(slash - r->path), r->path, path) < 0)
        return NULL;
    char *absolute = path_absolute(joined);
    free(joined);
    return absolute;
}

static int add_prompt(reader *r, experiment *e, const char *text) {
    if (text[0] == 0)
        return fail_here(r, "an empty prompt; write a text or leave it out");
    e->prompts[e->prompt_count] = strdup(text);
    if (e->prompts[e->prompt_count] == NULL)
        return fail(r->error, "out of memory");
    e->prompt_sizes[e->prompt_count++] = strlen(text);
    return 0;
}

static int make_room_for_prompts(reader *r, experiment *e, size_t count) {
    if (count == 0)
        return fail_here(r, "holds no prompt; give at least one");
    if (count > MOST_PROMPTS)
        return fail_here(r, "holds %zu prompts; at most %d are taken", count, MOST_PROMPTS);
    e->prompts = calloc(count, sizeof *e->prompts);
    e->prompt_sizes = calloc(count, sizeof *e->prompt_sizes);
    return e->prompts != NULL && e->prompt_sizes != NULL ? 0 : fail(r->error, "out of memory");
}

static int read_prompts(reader *r, experiment *e, const json_t *value) {
    if (!json_is_array(value))
        return fail_value(r, "an array of texts", value);
    if (make_room_for_prompts(r, e, json_array_size(value)) != 0)
        return -1;
    size_t place = strlen(r->place);
    size_t index;
    const json_t *entry;
    json_array_foreach(value, index, entry) {
        snprintf(r->place + place, sizeof r->place - place, "/%zu", index);
        if (!json_is_string(entry))
            return fail_value(r, "a text", entry);
        if (add_prompt(r, e, json_string_value(entry)) != 0)
            return -1;
    }
    return 0;
}

static int read_prompts_file(reader *r, experiment *e, const json_t *value) {
    if (!json_is_string(value))
        return fail_value(r, "the path of a text file", value);
    char *path = resolve_path(r, json_string_value(value));
    if (path == NULL)
        return fail(r->error, "out of memory");
    prompt_list list;
    error_text reason = {""};
    int result = prompts_read(&list, path, &reason);
    if (result != 0)
        fail_here(r, "%s", reason.text);
    if (result == 0)
        result = make_room_for_prompts(r, e, list.count);
    for (size_t i = 0; result == 0 && i < list.count; i++)
        result = add_prompt(r, e, list.texts[i]);
    prompts_release(&list);
    free(path);
    return result;
}

static int read_flag(reader *r, const json_t *value, bool *out) {
    if (!json_is_boolean(value))
        return fail_value(r, "true or false", value);
    *out = json_is_true(value);
    return 0;
}

static int read_long_prompts(reader *r, experiment *e, const json_t *value) {
    static const char *const words[] = {"refuse", "cut", NULL};
    char *word = NULL;
    if (read_word_field(r, value, words, &word) != 0)
        return -1;
    e->cut_prompts = strcmp(word, "cut") == 0;
    free(word);
    return 0;
}

/** A text that must not be empty. */
static int read_words(reader *r, const json_t *value, const char *wanted, char **out) {
    if (!json_is_string(value) || json_string_length(value) == 0)
        return fail_value(r, wanted, value);
    return read_text_field(r, value, out);
}

static int read_field(reader *r, experiment *e, experiment_field field, const json_t *value) {
    static const char *const engines[] = {ENGINE_BUILTIN, ENGINE_TRANSFORMERS, ENGINE_COMMAND, NULL};
    static const char *const dtypes[] = {"auto", "float32", "bfloat16", "float16", NULL};
    int64_t seed;
    switch (field) {
    case FIELD_NAME:
        return read_name(r, e, value);
    case FIELD_DESCRIPTION:
        return read_text_field(r, value, &e->description);
    case FIELD_MODEL:
        return read_words(r, value, "the folder of a model", &e->model);
    case FIELD_PROMPTS:
        return read_prompts(r, e, value);
    case FIELD_PROMPTS_FILE:
        return read_prompts_file(r, e, value);
    case FIELD_MAX_TOKENS:
        return read_integer_field(r, value, 1, MOST_TOKENS, &e->max_tokens);
    case FIELD_TEMPERATURE:
        return read_real_field(r, value, 0.0, HIGHEST_TEMPERATURE, false, &e->temperature);
    case FIELD_TOP_P:
        return read_real_field(r, value, 0.0, 1.0, true, &e->top_p);
    case FIELD_SEED:
        if (read_integer_field(r, value, 0, INT64_MAX, &seed) != 0)
            return -1;
        e->seed = (uint64_t)seed;
        return 0;
    case FIELD_REPEATS:
        return read_integer_field(r, value, 1, MOST_REPEATS, &e->repeats);
    case FIELD_TENSOR_PARALLEL_SIZE:
        return read_integer_field(r, value, 1, MOST_GPUS, &e->tensor_parallel_size);
    case FIELD_GPU_MEMORY_UTILIZATION:
        return read_real_field(r, value, 0.0, 1.0, true, &e->gpu_memory_utilization);
    case FIELD_MAX_MODEL_LEN:
        return read_integer_field(r, value, 2, MOST_TOKENS, &e->max_model_len);
    case FIELD_ENGINE:
        return read_word_field(r, value, engines, &e->engine);
    case FIELD_PAGE_TOKENS:
        return read_integer_field(r, value, 1, MOST_PAGE_TOKENS, &e->page_tokens);
    case FIELD_IGNORE_EOS:
        return read_flag(r, value, &e->ignore_eos);
    case FIELD_DTYPE:
        return read_word_field(r, value, dtypes, &e->dtype);
    case FIELD_LONG_PROMPTS:
        return read_long_prompts(r, e, value);
    case FIELD_ENGINE_COMMAND:
        return read_words(r, value, "a command for the shell", &e->engine_command);
    default:
        return fail_here(r, "is no field");
    }
}

static experiment_field find_field(const char *name) {
    experiment_field field = 0;
    while (field < FIELD_COUNT && strcmp(experiment_field_names[field], name) != 0)
        field++;
    return field;
}

static int set_defaults(reader *r, experiment *e) {
    e->max_tokens = 128;
    e->temperature = 0.8;
    e->top_p = 1.0;
    e->seed = 1;
    e->repeats = 3;
    e->tensor_parallel_size = 1;
    e->gpu_memory_utilization = 0.9;
    e->page_tokens = 16;
    e->ignore_eos = true;
    e->description = strdup("");
    e->engine = strdup(ENGINE_BUILTIN);
    e->dtype = strdup("auto");
    return e->description != NULL && e->engine != NULL && e->dtype != NULL ? 0 : fail(r->error, "out of memory");
}

/** A folder's path holds everywhere; what is no folder may be a name that the engine knows. */
static int settle_model(reader *r, experiment *e) {
    struct stat facts;
    char *path = e->model == NULL ? find_shipped("models/tiny") : resolve_path(r, e->model);
    if (path == NULL)
        return fail(r->error, "out of memory");
    bool there = stat(path, &facts) == 0;
    if (e->model != NULL && !there && strcmp(e->engine, ENGINE_BUILTIN) != 0) {
        free(path);
        return 0;
    }
    free(e->model);
    e->model = path;
    return 0;
}

/** What is not wrong in one field, but in two together. */
static int check_together(reader *r, const experiment *e) {
    bool texts = e->given[FIELD_PROMPTS], file = e->given[FIELD_PROMPTS_FILE];
    if (!e->given[FIELD_NAME])
        return fail_here(r, "has no \"name\"");
    if (!texts && !file)
        return fail_here(r, "has no \"prompts\" and no \"prompts_file\"");
    if (texts && file)
        return fail_here(r, "has \"prompts\" and \"prompts_file\"; leave one out");
    return 0;
}

static int read_experiment(reader *r, experiment *e, const json_t *object) {
    size_t place = strlen(r->place);
    if (!json_is_object(object))
        return fail_value(r, "an experiment: an object with the fields name, prompts, ...", object);
    if (set_defaults(r, e) != 0)
        return -1;
    const json_t *name = json_object_get(object, "name");
    r->name = json_is_string(name) && is_name(json_string_value(name)) ? json_string_value(name) : NULL;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        experiment_field field = find_field(key);
        json_pointer_append(r->place, sizeof r->place, key);
        if (field == FIELD_PROMPTS_FILE && e->given[FIELD_PROMPTS])
            return fail_here(r, "there is \"prompts\", too; leave one out");
        if (field == FIELD_PROMPTS && e->given[FIELD_PROMPTS_FILE])
            return fail_here(r, "there is \"prompts_file\", too; leave one out");
        if (field == FIELD_COUNT)
            return fail_here(r, "is no field of an experiment; the user guide lists them");
        e->given[field] = true;
        if (read_field(r, e, field, value) != 0)
            return -1;
        r->place[place] = 0;
    }
    return check_together(r, e) != 0 ? -1 : settle_model(r, e);
}

static int append_experiment(reader *r, experiment_list *list, const json_t *object) {
    experiment *larger = realloc(list->items, (list->count + 1) * sizeof *larger);
    if (larger == NULL)
        return fail(r->error, "out of memory");
    list->items = larger;
    experiment *e = &larger[list->count++];
    memset(e, 0, sizeof *e);
    if (read_experiment(r, e, object) != 0)
        return -1;
    for (size_t i = 0; i + 1 < list->count; i++) {
        if (strcmp(list->items[i].name, e->name) != 0)
            continue;
        json_pointer_append(r->place, sizeof r->place, "name");
        return fail_here(r, "there is another experiment of this name; every one needs its own");
    }
    r->name = NULL;
    return 0;
}

int specification_parse(experiment_list *list, const char *text, size_t size, const char *path, error_text *error) {
    reader r = {path, text, size, "", NULL, error};
    json_error_t reason;
    if (strspn(text, " \t\r\n") == size)
        return fail(error, "%s:1: the file is empty; it must hold an experiment or an array of them", path);
    json_t *document = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &reason);
    if (document == NULL)
        return fail(error, "%s:%d: no JSON: %s", path, reason.line > 0 ? reason.line : 1, reason.text);
    int result = 0;
    if (!json_is_array(document)) {
        result = append_experiment(&r, list, document);
    } else if (json_array_size(document) == 0) {
        result = fail_here(&r, "the array is empty; it must hold at least one experiment");
    } else {
        size_t index;
        const json_t *object;
        json_array_foreach(document, index, object) {
            snprintf(r.place, sizeof r.place, "/%zu", index);
            if (result == 0)
                result = append_experiment(&r, list, object);
        }
    }
    json_decref(document);
    return result;
}

int specification_read(experiment_list *list, const char *path, error_text *error) {
    size_t size;
    char *text = text_file_read(path, "the experiments file", &size, error);
    if (text == NULL)
        return -1;
    int result = specification_parse(list, text, size, path, error);
    free(text);
    return result;
}

void experiment_release(experiment *e) {
    for (size_t i = 0; i < e->prompt_count; i++)
        free(e->prompts[i]);
    free(e->prompts);
    free(e->prompt_sizes);
    free(e->name);
    free(e->description);
    free(e->model);
    free(e->engine);
    free(e->dtype);
    free(e->engine_command);
    memset(e, 0, sizeof *e);
}

void experiments_release(experiment_list *list) {
    for (size_t i = 0; i < list->count; i++)
        experiment_release(&list->items[i]);
    free(list->items);
    memset(list, 0, sizeof *list);
}

json_t *experiment_to_json(const experiment *e) {
    json_t *prompts = json_array();
    for (size_t i = 0; i < e->prompt_count; i++)
        json_array_append_new(prompts, json_string(e->prompts[i]));
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string(e->name));
    json_object_set_new(object, "description", json_string(e->description));
    json_object_set_new(object, "model", json_string(e->model));
    json_object_set_new(object, "prompts", prompts);
    json_object_set_new(object, "max_tokens", json_integer(e->max_tokens));
    json_object_set_new(object, "temperature", json_real(e->temperature));
    json_object_set_new(object, "top_p", json_real(e->top_p));
    json_object_set_new(object, "seed", json_integer((json_int_t)e->seed));
    json_object_set_new(object, "repeats", json_integer(e->repeats));
    if (e->given[FIELD_TENSOR_PARALLEL_SIZE])
        json_object_set_new(object, "tensor_parallel_size", json_integer(e->tensor_parallel_size));
    if (e->given[FIELD_GPU_MEMORY_UTILIZATION])
        json_object_set_new(object, "gpu_memory_utilization", json_real(e->gpu_memory_utilization));
    if (e->max_model_len != 0)
        json_object_set_new(object, "max_model_len", json_integer(e->max_model_len));
    json_object_set_new(object, "engine", json_string(e->engine));
    json_object_set_new(object, "page_tokens", json_integer(e->page_tokens));
    json_object_set_new(object, "ignore_eos", json_boolean(e->ignore_eos));
    json_object_set_new(object, "dtype", json_string(e->dtype));
    json_object_set_new(object, "long_prompts", json_string(e->cut_prompts ? "cut" : "refuse"));
    if (e->engine_command != NULL)
        json_object_set_new(object, "engine_command", json_string(e->engine_command));
    return object;
}

int64_t experiment_prompt_room(const experiment *e, int64_t context) {
    return context > e->max_tokens ? context - e->max_tokens : 1;
}

uint64_t experiment_repeat_seed(const experiment *e, int64_t repeat) {
    return e->seed + (uint64_t)repeat;
}

uint64_t experiment_sequence_seed(const experiment *e, int64_t repeat, size_t prompt) {
    uint64_t parts[2] = {experiment_repeat_seed(e, repeat), prompt};
    unsigned char bytes[sizeof parts];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(parts[i / 8] >> (8 * (i % 8)));
    return XXH3_64bits(bytes, sizeof bytes);
}
