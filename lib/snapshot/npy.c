/**
 * The npy format, versions 1.0 to 3.0 (numpy.lib.format): a magic, a version, a header length, a Python dictionary,
 * the data. The dictionary is matched against a fixed grammar; nothing is evaluated.
 */
#include "snapshot.h"

#include <inttypes.h>
#include <string.h>

enum {
    MAGIC_SIZE = 6,
    /* NumPy refuses longer headers too. */
    DICTIONARY_LIMIT = 10000,
    DESCRIPTION_SIZE = 16,
    /* [pages, N, H, D] */
    PAGE_AXES = 4,
    /* 2^63 has 19 digits. */
    DIGITS_LIMIT = 18
};

static const unsigned char magic[MAGIC_SIZE] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

static const char tensor_name[] = "pages";

/* What a dictionary says. */
typedef struct array_facts {
    char description[DESCRIPTION_SIZE];
    bool fortran_order;
    int64_t shape[KVSIM__AXES_LIMIT];
    size_t ndim;
} array_facts;

/* Where the reader is. A copy of the header ends in NUL, so one character can always be looked at. */
typedef struct reader {
    const char *at;
    const char *wrong;
} reader;

static void skip_spaces(reader *in) {
    while (*in->at == ' ' || *in->at == '\n' || *in->at == '\t') {
        in->at++;
    }
}

static bool take(reader *in, char wanted) {
    skip_spaces(in);
    if (*in->at != wanted) {
        return false;
    }
    in->at++;
    return true;
}

/* A string without escapes, in either kind of quotes. */
static bool take_string(reader *in, char *out, size_t size) {
    skip_spaces(in);
    const char quote = *in->at;
    if (quote != '\'' && quote != '"') {
        in->wrong = "a string is missing";
        return false;
    }
    const char *begin = ++in->at;
    while (*in->at != '\0' && *in->at != quote && *in->at != '\\') {
        in->at++;
    }
    const size_t length = (size_t)(in->at - begin);
    if (*in->at != quote || length >= size) {
        in->wrong = "a string has no end, an escape, or too many characters";
        return false;
    }
    memcpy(out, begin, length);
    out[length] = '\0';
    in->at++;
    return true;
}

static bool take_description(reader *in, array_facts *facts) {
    skip_spaces(in);
    if (*in->at == '[' || *in->at == '(') {
        in->wrong = "a structured type; only plain <f2 and <f4 are supported";
        return false;
    }
    return take_string(in, facts->description, sizeof facts->description);
}

static bool take_order(reader *in, array_facts *facts) {
    skip_spaces(in);
    facts->fortran_order = strncmp(in->at, "True", 4) == 0;
    if (!facts->fortran_order && strncmp(in->at, "False", 5) != 0) {
        in->wrong = "'fortran_order' is neither True nor False";
        return false;
    }
    in->at += facts->fortran_order ? 4 : 5;
    return true;
}

static bool take_extent(reader *in, int64_t *out) {
    skip_spaces(in);
    const char *begin = in->at;
    int64_t value = 0;
    while (*in->at >= '0' && *in->at <= '9' && in->at - begin < DIGITS_LIMIT) {
        value = value * 10 + (*in->at - '0');
        in->at++;
    }
    *out = value;
    if (in->at == begin || (*in->at >= '0' && *in->at <= '9')) {
        in->wrong = "an axis of 'shape' is not a non-negative integer of at most 18 digits";
        return false;
    }
    return true;
}

static bool take_shape(reader *in, array_facts *facts) {
    if (!take(in, '(')) {
        in->wrong = "'shape' is not a tuple";
        return false;
    }
    facts->ndim = 0;
    while (!take(in, ')')) {
        if (facts->ndim == KVSIM__AXES_LIMIT) {
            in->wrong = "'shape' has too many axes";
            return false;
        }
        if (!take_extent(in, &facts->shape[facts->ndim])) {
            return false;
        }
        facts->ndim++;
        if (!take(in, ',')) {
            /* (3) is a number in parentheses; a tuple of one has a comma. */
            if (facts->ndim == 1 || !take(in, ')')) {
                in->wrong = "'shape' is not a tuple";
                return false;
            }
            break;
        }
    }
    return true;
}

/* { 'descr': ..., 'fortran_order': ..., 'shape': ..., } in any order, each once, then blanks. */
static bool take_dictionary(reader *in, array_facts *facts) {
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    static bool (*const takers[])(reader *, array_facts *) = {take_description, take_order, take_shape};
    enum { KEY_COUNT = sizeof keys / sizeof keys[0] };
    bool seen[KEY_COUNT] = {false};
    if (!take(in, '{')) {
        in->wrong = "not a dictionary";
        return false;
    }
    while (!take(in, '}')) {
        char key[DESCRIPTION_SIZE];
        if (!take_string(in, key, sizeof key)) {
            return false;
        }
        size_t index = 0;
        while (index < KEY_COUNT && strcmp(keys[index], key) != 0) {
            index++;
        }
        if (index == KEY_COUNT || seen[index]) {
            in->wrong = index == KEY_COUNT ? "a key other than 'descr', 'fortran_order', 'shape'" : "a key twice";
            return false;
        }
        seen[index] = true;
        if (!take(in, ':')) {
            in->wrong = "a ':' is missing";
            return false;
        }
        if (!takers[index](in, facts)) {
            return false;
        }
        if (!take(in, ',')) {
            if (!take(in, '}')) {
                in->wrong = "a ',' or '}' is missing";
                return false;
            }
            break;
        }
    }
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (!seen[i]) {
            in->wrong = "'descr', 'fortran_order' or 'shape' is missing";
            return false;
        }
    }
    skip_spaces(in);
    if (*in->at != '\0') {
        in->wrong = "text after the dictionary";
        return false;
    }
    return true;
}

bool kvsim__is_npy(const unsigned char *bytes, size_t size) {
    return size >= MAGIC_SIZE && memcmp(bytes, magic, MAGIC_SIZE) == 0;
}

/* Read the dictionary, and where the data begins. */
static kvsim_status read_header(kvsim__base *base, const kvsim__source *source, array_facts *facts, size_t *data_at) {
    const unsigned char *bytes = source->bytes;
    const size_t version_at = MAGIC_SIZE;
    const size_t length_at = MAGIC_SIZE + 2;
    if (source->size < length_at + 4) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: %zu bytes are too few for an npy file", source->shown,
                           source->size);
    }
    const int major = bytes[version_at];
    const int minor = bytes[version_at + 1];
    if (major < 1 || major > 3 || minor != 0) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "%s: npy version %d.%d; 1.0, 2.0 and 3.0 are supported",
                           source->shown, major, minor);
    }
    uint32_t length = 0;
    const size_t length_size = major == 1 ? 2 : 4;
    memcpy(&length, bytes + length_at, length_size);
    const size_t header_at = length_at + length_size;
    if (length > DICTIONARY_LIMIT || length > source->size - header_at) {
        return kvsim__fail(base, KVSIM_E_FORMAT,
                           "%s: an npy header of %" PRIu32 " bytes; at most %d are allowed, and the file has %zu",
                           source->shown, length, DICTIONARY_LIMIT, source->size);
    }
    char dictionary[DICTIONARY_LIMIT + 1];
    memcpy(dictionary, bytes + header_at, length);
    dictionary[length] = '\0';
    reader in = {.at = dictionary};
    const bool whole = strlen(dictionary) == length;
    if (!whole || !take_dictionary(&in, facts)) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: npy header: %s (byte %zu)", source->shown,
                           whole ? in.wrong : "a NUL byte", (size_t)(in.at - dictionary));
    }
    *data_at = header_at + length;
    return KVSIM_OK;
}

/* Element size of a supported type in *size, or a refusal that says what to do. */
static kvsim_status read_type(kvsim__base *base, const char *shown, const char *description, uint64_t *size) {
    static const struct {
        const char *type;
        const char *advice;
    } refused[] = {
        {"<f8", "64-bit floats are not what an engine stores; save as float32"},
        {">f2", "big-endian; save as little-endian"},
        {">f4", "big-endian; save as little-endian"},
        {"|V2", "npy has no code for bfloat16; save as safetensors"},
        {"<V2", "npy has no code for bfloat16; save as safetensors"},
        {"|V1", "npy has no code for 8-bit floats; save as safetensors"},
        {"<f1", "npy has no code for 8-bit floats; save as safetensors"},
        {"|i1", "8-bit integers need their scales, which npy cannot hold; add them with kvsim_add_pages"},
        {"|O", "pickled objects are never loaded; save an array of float16 or float32"},
    };
    if (strcmp(description, "<f2") == 0 || strcmp(description, "<f4") == 0) {
        *size = description[2] == '2' ? 2 : 4;
        return KVSIM_OK;
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (strcmp(description, refused[i].type) == 0) {
            return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "%s: npy type '%s': %s", shown, description,
                               refused[i].advice);
        }
    }
    return kvsim__fail(base, KVSIM_E_UNSUPPORTED, "%s: npy type '%s': only <f2 and <f4 are supported", shown,
                       description);
}

static kvsim_status append_tensor(kvsim_snapshot *snapshot, size_t file, const array_facts *facts,
                                  const kvsim__entry *entry) {
    kvsim__base *base = snapshot->base;
    kvsim__source *source = &snapshot->files[file];
    void *entries = snapshot->entries;
    const kvsim_status status =
        kvsim__grow(base, &entries, &snapshot->entry_capacity, snapshot->entry_count + 1, sizeof *snapshot->entries);
    snapshot->entries = entries;
    if (status != KVSIM_OK) {
        return status;
    }
    source->names_size = sizeof tensor_name;
    source->names = kvsim__allocate(base, source->names_size, 1);
    source->shapes_count = PAGE_AXES;
    source->shapes = kvsim__allocate(base, PAGE_AXES, sizeof *source->shapes);
    if (source->names == NULL || source->shapes == NULL) {
        return kvsim__fail_memory(base, source->names_size + PAGE_AXES * sizeof *source->shapes, "an npy file");
    }
    memcpy(source->names, tensor_name, sizeof tensor_name);
    memcpy(source->shapes, facts->shape, PAGE_AXES * sizeof *source->shapes);
    snapshot->entries[snapshot->entry_count] = *entry;
    snapshot->entries[snapshot->entry_count].name = source->names;
    snapshot->entries[snapshot->entry_count].shape = source->shapes;
    snapshot->entry_count++;
    return KVSIM_OK;
}

kvsim_status kvsim__read_npy(kvsim_snapshot *snapshot, size_t file) {
    kvsim__base *base = snapshot->base;
    const kvsim__source *source = &snapshot->files[file];
    array_facts facts = {.ndim = 0};
    size_t data_at = 0;
    uint64_t element_size = 0;
    kvsim_status status = read_header(base, source, &facts, &data_at);
    if (status == KVSIM_OK) {
        status = read_type(base, source->shown, facts.description, &element_size);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    if (facts.fortran_order) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s: the array is in Fortran order; save numpy.ascontiguousarray(array)", source->shown);
    }
    if (facts.ndim != PAGE_AXES) {
        return kvsim__fail(base, KVSIM_E_FORMAT,
                           "%s: %zu axes; an npy file of pages has the 4 axes [pages, tokens, heads, channels]",
                           source->shown, facts.ndim);
    }
    uint64_t room = element_size;
    uint64_t bytes = element_size;
    for (size_t axis = 0; axis < PAGE_AXES; axis++) {
        const uint64_t extent = (uint64_t)facts.shape[axis];
        bytes *= extent;
        if (!kvsim__multiply(room, extent > 0 ? extent : 1, &room) || room > INT64_MAX) {
            return kvsim__fail(base, KVSIM_E_FORMAT, "%s: the product of the shape overflows", source->shown);
        }
    }
    if (bytes != source->size - data_at) {
        return kvsim__fail(base, KVSIM_E_FORMAT, "%s: %zu bytes of data, type and shape make %" PRIu64, source->shown,
                           source->size - data_at, bytes);
    }
    const kvsim__entry entry = {.data = source->bytes + data_at,
                                .end = bytes,
                                .file = (uint32_t)file,
                                .ndim = PAGE_AXES,
                                .dtype_code = KVSIM_DTYPE_FLOAT,
                                .dtype_bits = (uint8_t)(8 * element_size)};
    return append_tensor(snapshot, file, &facts, &entry);
}
