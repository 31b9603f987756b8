/* Files in: safetensors, indexes, folders, npy; good ones, and every way to lie. */
#define _GNU_SOURCE
#include "snapshot_files.h"

#include <sys/stat.h>

#include "snapshot/snapshot.h"

/* ---- Good files ---- */

static const char two_tensors[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"a\\\"b\"},"
                                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[4,20]},"
                                  "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                  "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,3],\"data_offsets\":[4,4]},"
                                  "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]}}   ";

START_TEST(tensors_come_in_order_of_names) {
    static const char *const names[] = {"a", "b", "empty", "scalar"};
    static const int axes[] = {1, 2, 2, 0};
    write_safetensors("t.safetensors", two_tensors, 21);
    kvsim_snapshot *snapshot = open_good(path_of("t.safetensors"));
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 4);
    for (uint64_t i = 0; i < 4; i++) {
        kvsim_tensor tensor = KVSIM_TENSOR_INIT;
        const char *name = NULL;
        ck_assert_int_eq(kvsim_snapshot_tensor_at(snapshot, i, &name, &tensor), KVSIM_OK);
        ck_assert_str_eq(name, names[i]);
        ck_assert_int_eq(tensor.ndim, axes[i]);
    }
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_tensor_at(snapshot, 4, NULL, &tensor), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "c", &tensor), KVSIM_E_NOT_FOUND);
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, NULL, &tensor), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "b", &tensor), KVSIM_OK);
    ck_assert_int_eq(tensor.dtype_code, KVSIM_DTYPE_FLOAT);
    ck_assert_int_eq(tensor.dtype_bits, 32);
    ck_assert_int_eq(tensor.shape[0], 2);
    ck_assert_int_eq(((const unsigned char *)tensor.data)[0], 4);
    tensor.struct_size = 4;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "b", &tensor), KVSIM_E_INVALID);
    ck_assert_str_eq(kvsim_snapshot_metadata(snapshot, "note"), "a\"b");
    ck_assert_ptr_null(kvsim_snapshot_metadata(snapshot, "Note"));
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(a_file_without_tensors_is_good) {
    write_safetensors("t.safetensors", "{}", 0);
    kvsim_snapshot *snapshot = open_good(path_of("t.safetensors"));
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 0);
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "a", &tensor), KVSIM_E_NOT_FOUND);
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_int_eq(info.schema, KVSIM_SCHEMA_NONE);
    ck_assert_str_eq(info.model, "");
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(many_tensors_are_all_found) {
    enum { COUNT = 3000 };
    char *header = malloc(COUNT * 96);
    size_t length = 0;
    header[length++] = '{';
    for (int i = 0; i < COUNT; i++) {
        const int place = i * 7 % COUNT;
        length +=
            (size_t)snprintf(header + length, 96, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                             i == 0 ? "" : ",", place, place, place + 1);
    }
    memcpy(header + length, "}", 2);
    write_safetensors("t.safetensors", header, COUNT);
    free(header);
    kvsim_snapshot *snapshot = open_good(path_of("t.safetensors"));
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "t%d", i);
        kvsim_tensor tensor = KVSIM_TENSOR_INIT;
        ck_assert_int_eq(kvsim_snapshot_find(snapshot, name, &tensor), KVSIM_OK);
        ck_assert_int_eq(((const unsigned char *)tensor.data)[0], (unsigned char)i);
    }
    kvsim_snapshot_close(snapshot);
}
END_TEST

static const struct {
    const char *name;
    int code;
    int bits;
} types[] = {
    {"BOOL", KVSIM_DTYPE_UINT, 8},
    {"F4", KVSIM_DTYPE_OPAQUE, 4},
    {"F6_E2M3", KVSIM_DTYPE_OPAQUE, 6},
    {"F6_E3M2", KVSIM_DTYPE_OPAQUE, 6},
    {"U8", KVSIM_DTYPE_UINT, 8},
    {"I8", KVSIM_DTYPE_INT, 8},
    {"F8_E5M2", KVSIM_DTYPE_F8_E5M2, 8},
    {"F8_E4M3", KVSIM_DTYPE_F8_E4M3FN, 8},
    {"F8_E8M0", KVSIM_DTYPE_OPAQUE, 8},
    {"F8_E4M3FNUZ", KVSIM_DTYPE_OPAQUE, 8},
    {"F8_E5M2FNUZ", KVSIM_DTYPE_OPAQUE, 8},
    {"I16", KVSIM_DTYPE_INT, 16},
    {"U16", KVSIM_DTYPE_UINT, 16},
    {"F16", KVSIM_DTYPE_FLOAT, 16},
    {"BF16", KVSIM_DTYPE_BFLOAT, 16},
    {"I32", KVSIM_DTYPE_INT, 32},
    {"U32", KVSIM_DTYPE_UINT, 32},
    {"F32", KVSIM_DTYPE_FLOAT, 32},
    {"C64", KVSIM_DTYPE_OPAQUE, 64},
    {"F64", KVSIM_DTYPE_FLOAT, 64},
    {"I64", KVSIM_DTYPE_INT, 64},
    {"U64", KVSIM_DTYPE_UINT, 64},
};

START_TEST(every_element_type_is_known) {
    char header[256];
    (void)snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%d]}}",
                   types[_i].name, types[_i].bits * 4 / 8);
    write_safetensors("t.safetensors", header, (size_t)types[_i].bits * 4 / 8);
    kvsim_snapshot *snapshot = open_good(path_of("t.safetensors"));
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "x", &tensor), KVSIM_OK);
    ck_assert_int_eq(tensor.dtype_code, types[_i].code);
    ck_assert_int_eq(tensor.dtype_bits, types[_i].bits);
    kvsim_snapshot_close(snapshot);
}
END_TEST

/* ---- Hostile safetensors ---- */

#define TENSOR(NAME, TYPE, SHAPE, OFFSETS)                                                                             \
    "\"" NAME "\":{\"dtype\":\"" TYPE "\",\"shape\":" SHAPE ",\"data_offsets\":" OFFSETS "}"

static const struct {
    const char *header;
    size_t data;
    const char *error;
} lies[] = {
    {"", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{", 0, "header: "},
    {"{}x", 0, "header: "},
    {"{}{}", 0, "header: "},
    {"{\"x\":null}", 0, "tensor 'x': not an object"},
    {"{\"x\":[1]}", 0, "tensor 'x': not an object"},
    {"{\"\xff\":null}", 0, "header: "},
    {"{\"\xed\xa0\x80\":null}", 0, "header: "},
    {"{\"\\ud800\":null}", 0, "header: "},
    {"{\"a\\u0000b\":null}", 0, "header: "},
    {"{\"x\":{\"y\":{\"z\":{}}}}", 0, "nested too deeply"},
    {"{\"x\":{\"a\":1,\"b\":2,\"c\":3,\"d\":4},\"y\":{\"a\":1,\"b\":2,\"c\":3,\"d\":4}}", 0,
     "more than one object of more members than a tensor has"},
    {"{" TENSOR("x", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "a list is too long"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}}", 1, "nested too deeply"},
    {"{" TENSOR("x", "U8", "[1]", "[0,1]") "," TENSOR("x", "U8", "[1]", "[1,2]") "}", 2, "duplicate object key"},
    {"{" TENSOR("x", "U8", "[1]", "[0,1]") "," TENSOR("\\u0078", "U8", "[1]", "[1,2]") "}", 2, "duplicate object key"},
    {"{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "duplicate object key"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate object key"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":null}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "metadata 'k' is not a string"},
    {"{\"__metadata__\":{\"k\":{}}}", 0, "metadata 'k' is not a string"},
    {"{\"x\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor 'x': 'dtype' is missing"},
    {"{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor 'x': 'shape' is missing"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor 'x': 'data_offsets' is missing"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}}", 1, "tensor 'x': unknown key 'more'"},
    {"{\"x\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor 'x': dtype is not a string"},
    {"{" TENSOR("x", "F7", "[1]", "[0,1]") "}", 1, "tensor 'x': unknown dtype 'F7'"},
    {"{" TENSOR("x", "f32", "[1]", "[0,4]") "}", 4, "tensor 'x': unknown dtype 'f32'"},
    {"{" TENSOR("x", "U8", "1", "[0,1]") "}", 1, "tensor 'x': shape is not a list"},
    {"{" TENSOR("x", "U8", "[-1]", "[0,1]") "}", 1, "axis 0 of the shape is not a non-negative integer"},
    {"{" TENSOR("x", "U8", "[1,1.0]", "[0,1]") "}", 1, "axis 1 of the shape is not a non-negative integer"},
    {"{" TENSOR("x", "U8", "[\"1\"]", "[0,1]") "}", 1, "axis 0 of the shape is not a non-negative integer"},
    {"{" TENSOR("x", "U8", "[99999999999999999999]", "[0,1]") "}", 1, "header: "},
    {"{" TENSOR("x", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "9 axes; at most 8"},
    {"{" TENSOR("x", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0, "the product of the shape overflows"},
    {"{" TENSOR("x", "F32", "[4611686018427387904]", "[0,0]") "}", 0, "the product of the shape overflows"},
    {"{" TENSOR("x", "U8", "[0,4294967296,4294967296]", "[0,0]") "}", 0, "the product of the shape overflows"},
    {"{" TENSOR("x", "F4", "[3]", "[0,1]") "}", 1, "3 elements of 4 bits are not whole bytes"},
    {"{" TENSOR("x", "U8", "[1]", "[0]") "}", 1, "data_offsets is not a list of two"},
    {"{" TENSOR("x", "U8", "[1]", "[0,1,2]") "}", 1, "data_offsets is not a list of two"},
    {"{" TENSOR("x", "U8", "[1]", "{}") "}", 1, "data_offsets is not a list of two"},
    {"{" TENSOR("x", "U8", "[1]", "[-1,0]") "}", 1, "data_offsets is not a list of two"},
    {"{" TENSOR("x", "U8", "[1]", "[0.0,1]") "}", 1, "data_offsets is not a list of two"},
    {"{" TENSOR("x", "U8", "[1]", "[1,0]") "}", 1, "data_offsets [1, 0) end before they begin"},
    {"{" TENSOR("x", "U8", "[8]", "[8,16]") "}", 12, "data_offsets [8, 16) reach beyond the 12 bytes of data"},
    {"{" TENSOR("x", "U8", "[1]", "[9223372036854775806,9223372036854775807]") "}", 1, "reach beyond the 1 bytes"},
    {"{" TENSOR("x", "F32", "[2]", "[0,4]") "}", 4, "data_offsets [0, 4) hold 4 bytes, dtype and shape make 8"},
    {"{" TENSOR("x", "U8", "[1]", "[1,2]") "}", 2, "leave a hole at the begin of the data"},
    {"{" TENSOR("x", "U8", "[1]", "[0,1]") "," TENSOR("y", "U8", "[1]", "[2,3]") "}", 3,
     "tensor 'y': data_offsets [2, 3) leave a hole after tensor 'x'"},
    {"{" TENSOR("x", "U8", "[2]", "[0,2]") "," TENSOR("y", "U8", "[2]", "[1,3]") "}", 3,
     "tensor 'y': data_offsets [1, 3) overlap tensor 'x'"},
    {"{" TENSOR("x", "U8", "[2]", "[0,2]") "," TENSOR("y", "U8", "[2]", "[0,2]") "," TENSOR("z", "U8", "[2]",
                                                                                            "[0,2]") "}",
     2, "overlap tensor 'x'"},
    {"{" TENSOR("x", "U8", "[4]", "[0,4]") "," TENSOR("y", "U8", "[0]", "[2,2]") "}", 4, "overlap tensor 'x'"},
    {"{" TENSOR("x", "U8", "[1]", "[0,1]") "}", 4, "the last 3 bytes of the file belong to no tensor"},
    {"{}", 1, "the last 1 bytes of the file belong to no tensor"},
};

START_TEST(lying_headers_are_refused) {
    size_t size = 0;
    unsigned char *bytes = make_safetensors(lies[_i].header, lies[_i].data, &size);
    write_bytes("t.safetensors", bytes, size);
    expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, lies[_i].error);
    expect_error(path_of("t.safetensors"));
    /* Once more from memory of exactly that size, where a sanitizer sees a read past the end. */
    kvsim_snapshot *snapshot = NULL;
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, size, &snapshot), KVSIM_E_FORMAT);
    ck_assert_ptr_null(snapshot);
    free(bytes);
}
END_TEST

START_TEST(a_header_beyond_the_file_is_refused) {
    unsigned char bytes[16] = {0};
    const uint64_t lengths[] = {9, 100000000, 100000001, UINT64_MAX, (uint64_t)1 << 63};
    static const char *const errors[] = {"reaches beyond the 16 bytes", "reaches beyond the 16 bytes",
                                         "at most 100000000 are allowed", "at most 100000000 are allowed",
                                         "at most 100000000 are allowed"};
    memset(bytes + 8, '{', 8);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memcpy(bytes, &lengths[i], 8);
        write_bytes("t.safetensors", bytes, sizeof bytes);
        expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, errors[i]);
    }
}
END_TEST

START_TEST(a_truncated_file_is_refused_wherever_it_ends) {
    size_t size = 0;
    unsigned char *bytes = make_safetensors(two_tensors, 21, &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *part = malloc(cut > 0 ? cut : 1);
        memcpy(part, bytes, cut);
        kvsim_snapshot *snapshot = NULL;
        ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), part, cut, &snapshot), KVSIM_E_FORMAT);
        free(part);
    }
    free(bytes);
}
END_TEST

START_TEST(excess_never_reaches_the_parser) {
    enum { SIZE = 200000 };
    char *header = malloc(SIZE + 1);
    memset(header, '[', SIZE);
    header[0] = '{';
    header[SIZE] = '\0';
    write_safetensors("t.safetensors", header, 0);
    expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, "nested too deeply");
    int length = snprintf(header, SIZE, "{\"x\":{\"dtype\":\"U8\",\"shape\":[1");
    while (length < SIZE - 4) {
        header[length++] = ',';
        header[length++] = '1';
    }
    memcpy(header + length, "]}}", 4);
    write_safetensors("t.safetensors", header, 0);
    expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, "a list is too long");
    length = snprintf(header, SIZE, "{\"__metadata__\":{");
    for (int key = 0; key < 10001; key++) {
        length += snprintf(header + length, (size_t)(SIZE - length), "%s\"%d\":\"\"", key == 0 ? "" : ",", key);
    }
    memcpy(header + length, "}}", 3);
    write_safetensors("t.safetensors", header, 0);
    expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, "too much metadata");
    free(header);
}
END_TEST

START_TEST(long_and_strange_names_are_shortened_in_errors) {
    char header[2048] = "{\"";
    for (int i = 0; i < 300; i++) {
        strcat(header, "\xc3\xa9");
    }
    strcat(header, "\":{\"dtype\":\"\\u001b[31mF\\n\",\"shape\":[],\"data_offsets\":[0,0]}}");
    write_safetensors("t.safetensors", header, 0);
    expect_open(path_of("t.safetensors"), KVSIM_E_FORMAT, "...': unknown dtype '?[31mF?'");
    expect_error("\xc3\xa9...");
}
END_TEST

/* ---- Paths, folders, indexes ---- */

START_TEST(paths_that_hold_no_file_are_refused) {
    write_bytes("empty.safetensors", "", 0);
    expect_open(path_of("none.safetensors"), KVSIM_E_IO, "none.safetensors: cannot open: ");
    expect_open(path_of("empty.safetensors"), KVSIM_E_FORMAT, "the file is empty");
    expect_open("/dev/null", KVSIM_E_IO, "not a regular file");
    ck_assert_int_eq(mkfifo(path_of("pipe.safetensors"), 0600), 0);
    expect_open(path_of("pipe.safetensors"), KVSIM_E_IO, "not a regular file");
    write_bytes("zip.bin", "PK\003\004    ", 8);
    expect_open(path_of("zip.bin"), KVSIM_E_FORMAT, "a zip archive");
    write_bytes("gguf.bin", "GGUF    ", 8);
    expect_open(path_of("gguf.bin"), KVSIM_E_FORMAT, "a GGUF file");
    kvsim_snapshot *snapshot = NULL;
    ck_assert_int_eq(kvsim_snapshot_open(NULL, "x", &snapshot), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_open(ctx, NULL, &snapshot), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_open(ctx, "x", NULL), KVSIM_E_INVALID);
    kvsim_snapshot_close(NULL);
}
END_TEST

START_TEST(a_folder_is_opened_by_what_is_in_it) {
    expect_open(folder, KVSIM_E_IO, "no *.safetensors in this folder");
    write_bytes("notes.txt", "x", 1);
    write_bytes(".hidden.safetensors", "x", 1);
    expect_open(folder, KVSIM_E_IO, "no *.safetensors in this folder");
    write_safetensors("only.safetensors", "{" TENSOR("x", "U8", "[1]", "[0,1]") "}", 1);
    kvsim_snapshot *snapshot = open_good(folder);
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 1);
    kvsim_snapshot_close(snapshot);
    write_safetensors("other.safetensors", "{" TENSOR("y", "U8", "[1]", "[0,1]") "}", 1);
    expect_open(folder, KVSIM_E_IO, "2 files *.safetensors in this folder");
    write_text("model.safetensors.index.json",
               "{\"weight_map\":{\"x\":\"only.safetensors\",\"y\":\"other.safetensors\"}}");
    snapshot = open_good(folder);
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 2);
    kvsim_snapshot_close(snapshot);
    write_safetensors("model.safetensors", "{}", 0);
    char with_slash[80];
    (void)snprintf(with_slash, sizeof with_slash, "%s/", folder);
    snapshot = open_good(with_slash);
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 0);
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(shards_make_one_snapshot) {
    write_safetensors("1.safetensors", "{\"__metadata__\":{\"k\":\"first\"}," TENSOR("b", "U8", "[2]", "[0,2]") "}", 2);
    write_safetensors("2.safetensors",
                      "{\"__metadata__\":{\"k\":\"second\"}," TENSOR("a", "U8", "[1]",
                                                                     "[0,1]") "," TENSOR("c", "U8", "[1]", "[1,2]") "}",
                      2);
    static const char index[] = "{\"metadata\":{\"total_size\":4,\"more\":[{\"a\":[1,2]}]},\"weight_map\":"
                                "{\"b\":\"1.safetensors\",\"a\":\"2.safetensors\",\"c\":\"2.safetensors\"}}";
    write_text("m.safetensors.index.json", index);
    kvsim_snapshot *snapshot = open_good(path_of("m.safetensors.index.json"));
    ck_assert_uint_eq(kvsim_snapshot_tensor_count(snapshot), 3);
    ck_assert_str_eq(kvsim_snapshot_metadata(snapshot, "k"), "first");
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "c", &tensor), KVSIM_OK);
    ck_assert_int_eq(((const unsigned char *)tensor.data)[0], 1);
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    struct stat first;
    struct stat second;
    ck_assert_int_eq(stat(path_of("1.safetensors"), &first), 0);
    ck_assert_int_eq(stat(path_of("2.safetensors"), &second), 0);
    ck_assert_uint_eq(info.file_bytes, (uint64_t)(first.st_size + second.st_size));
    kvsim_snapshot_close(snapshot);
}
END_TEST

#define MAP(TEXT) "{\"weight_map\":{" TEXT "}}"

static const struct {
    const char *index;
    kvsim_status status;
    const char *error;
} index_lies[] = {
    {"", KVSIM_E_FORMAT, "the file is empty"},
    {"[]", KVSIM_E_FORMAT, "not a JSON object"},
    {"{}", KVSIM_E_FORMAT, "no object 'weight_map'"},
    {"{\"weight_map\":[]}", KVSIM_E_FORMAT, "no object 'weight_map'"},
    {MAP(""), KVSIM_E_FORMAT, "no object 'weight_map'"},
    {MAP("\"x\":1"), KVSIM_E_FORMAT, "tensor 'x': the index gives no file name"},
    {MAP("\"x\":\"1.safetensors\",\"x\":\"1.safetensors\""), KVSIM_E_FORMAT, "duplicate object key"},
    {MAP("\"x\":\"/etc/passwd\""), KVSIM_E_FORMAT, "'/etc/passwd' is not the plain name of a file"},
    {MAP("\"x\":\"../1.safetensors\""), KVSIM_E_FORMAT, "is not the plain name of a file"},
    {MAP("\"x\":\"a\\\\b\""), KVSIM_E_FORMAT, "is not the plain name of a file"},
    {MAP("\"x\":\"..\""), KVSIM_E_FORMAT, "is not the plain name of a file"},
    {MAP("\"x\":\".\""), KVSIM_E_FORMAT, "is not the plain name of a file"},
    {MAP("\"x\":\"\""), KVSIM_E_FORMAT, "is not the plain name of a file"},
    {MAP("\"x\":\"3.safetensors\""), KVSIM_E_IO, "3.safetensors: cannot open"},
    {MAP("\"z\":\"1.safetensors\""), KVSIM_E_FORMAT, "tensor 'z': not in '1.safetensors'"},
    {MAP("\"x\":\"2.safetensors\",\"y\":\"1.safetensors\""), KVSIM_E_FORMAT, "but the index has it in"},
    {MAP("\"x\":\"1.safetensors\",\"y\":\"twin.safetensors\""), KVSIM_E_FORMAT, "tensor 'x': also in"},
    {MAP("\"x\":\"array.npy\""), KVSIM_E_FORMAT, "an npy file cannot be a shard"},
    {"{\"a\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}", KVSIM_E_FORMAT, "nested too deeply"},
};

START_TEST(lying_indexes_are_refused) {
    write_safetensors("1.safetensors", "{" TENSOR("x", "U8", "[1]", "[0,1]") "}", 1);
    write_safetensors("2.safetensors", "{" TENSOR("y", "U8", "[1]", "[0,1]") "}", 1);
    write_safetensors("twin.safetensors",
                      "{" TENSOR("x", "U8", "[1]", "[0,1]") "," TENSOR("y", "U8", "[1]", "[1,2]") "}", 2);
    write_bytes("array.npy", "\x93NUMPY\1\0", 8);
    write_text("i.json", index_lies[_i].index);
    expect_open(path_of("i.json"), index_lies[_i].status, index_lies[_i].error);
}
END_TEST

/* ---- npy ---- */

static unsigned char *make_npy(int major, const char *dictionary, size_t data_size, size_t *size) {
    const size_t length = strlen(dictionary);
    const size_t head = major == 1 ? 10 : 12;
    *size = head + length + data_size;
    unsigned char *bytes = calloc(1, *size);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (unsigned char)major;
    bytes[8] = (unsigned char)length;
    bytes[9] = (unsigned char)(length >> 8);
    memcpy(bytes + head, dictionary, length);
    return bytes;
}

#define DICTIONARY(TYPE, ORDER, SHAPE) "{'descr': " TYPE ", 'fortran_order': " ORDER ", 'shape': " SHAPE ", }"

static const struct {
    int major;
    const char *dictionary;
    size_t data;
} arrays[] = {
    {1, DICTIONARY("'<f4'", "False", "(3, 2, 1, 4)") "          \n", 96},
    {2, DICTIONARY("'<f4'", "False", "(3, 2, 1, 4)") "\n", 96},
    {3, DICTIONARY("'<f2'", "False", "(3, 2, 1, 4)") "\n", 48},
    {1, "{\"shape\":(3,2,1,4,),\"descr\":\"<f2\",\"fortran_order\":False}", 48},
    {1, DICTIONARY("'<f4'", "False", "(0, 2, 1, 4)"), 0},
};

START_TEST(npy_arrays_are_read) {
    size_t size = 0;
    unsigned char *bytes = make_npy(arrays[_i].major, arrays[_i].dictionary, arrays[_i].data, &size);
    write_bytes("a.npy", bytes, size);
    free(bytes);
    kvsim_snapshot *snapshot = open_good(path_of("a.npy"));
    kvsim_tensor tensor = KVSIM_TENSOR_INIT;
    ck_assert_int_eq(kvsim_snapshot_find(snapshot, "pages", &tensor), KVSIM_OK);
    ck_assert_int_eq(tensor.ndim, 4);
    ck_assert_int_eq(tensor.shape[3], 4);
    ck_assert_ptr_null(kvsim_snapshot_metadata(snapshot, "format"));
    kvsim_snapshot_close(snapshot);
}
END_TEST

#define GOOD_SHAPE "(3, 2, 1, 4)"

static const struct {
    int major;
    const char *dictionary;
    size_t data;
    kvsim_status status;
    const char *error;
} array_lies[] = {
    {4, DICTIONARY("'<f4'", "False", GOOD_SHAPE), 96, KVSIM_E_UNSUPPORTED, "npy version 4.0"},
    {1, DICTIONARY("'<f8'", "False", GOOD_SHAPE), 192, KVSIM_E_UNSUPPORTED, "save as float32"},
    {1, DICTIONARY("'>f4'", "False", GOOD_SHAPE), 96, KVSIM_E_UNSUPPORTED, "save as little-endian"},
    {1, DICTIONARY("'|V2'", "False", GOOD_SHAPE), 48, KVSIM_E_UNSUPPORTED, "save as safetensors"},
    {1, DICTIONARY("'<V2'", "False", GOOD_SHAPE), 48, KVSIM_E_UNSUPPORTED, "save as safetensors"},
    {1, DICTIONARY("'|i1'", "False", GOOD_SHAPE), 24, KVSIM_E_UNSUPPORTED, "need their scales"},
    {1, DICTIONARY("'|O'", "False", GOOD_SHAPE), 24, KVSIM_E_UNSUPPORTED, "never loaded"},
    {1, DICTIONARY("'<i4'", "False", GOOD_SHAPE), 96, KVSIM_E_UNSUPPORTED, "only <f2 and <f4"},
    {1, DICTIONARY("[('a', '<f4')]", "False", GOOD_SHAPE), 96, KVSIM_E_FORMAT, "a structured type"},
    {1, DICTIONARY("'<f4'", "True", GOOD_SHAPE), 96, KVSIM_E_UNSUPPORTED, "ascontiguousarray"},
    {1, DICTIONARY("'<f4'", "0", GOOD_SHAPE), 96, KVSIM_E_FORMAT, "neither True nor False"},
    {1, DICTIONARY("'<f4'", "False", "(3, 8)"), 96, KVSIM_E_FORMAT, "2 axes"},
    {1, DICTIONARY("'<f4'", "False", "()"), 4, KVSIM_E_FORMAT, "0 axes"},
    {1, DICTIONARY("'<f4'", "False", "(24)"), 96, KVSIM_E_FORMAT, "'shape' is not a tuple"},
    {1, DICTIONARY("'<f4'", "False", "[3, 2, 1, 4]"), 96, KVSIM_E_FORMAT, "'shape' is not a tuple"},
    {1, DICTIONARY("'<f4'", "False", "(3, 2, 1, -4)"), 96, KVSIM_E_FORMAT, "not a non-negative integer"},
    {1, DICTIONARY("'<f4'", "False", "(3, 2, 1, 4.0)"), 96, KVSIM_E_FORMAT, "'shape' is not a tuple"},
    {1, DICTIONARY("'<f4'", "False", "(1,1,1,1,1,1,1,1,1)"), 4, KVSIM_E_FORMAT, "too many axes"},
    {1, DICTIONARY("'<f4'", "False", "(9999999999999999999, 1, 1, 1)"), 4, KVSIM_E_FORMAT, "at most 18 digits"},
    {1, DICTIONARY("'<f4'", "False", "(0, 4294967296, 4294967296, 4)"), 0, KVSIM_E_FORMAT, "overflows"},
    {1, DICTIONARY("'<f4'", "False", GOOD_SHAPE), 95, KVSIM_E_FORMAT, "95 bytes of data, type and shape make 96"},
    {1, DICTIONARY("'<f4'", "False", GOOD_SHAPE), 97, KVSIM_E_FORMAT, "97 bytes of data, type and shape make 96"},
    {1, DICTIONARY("'<f4'", "False", GOOD_SHAPE) "x", 96, KVSIM_E_FORMAT, "text after the dictionary"},
    {1, "", 96, KVSIM_E_FORMAT, "not a dictionary"},
    {1, "{}", 96, KVSIM_E_FORMAT, "is missing"},
    {1, "{'descr': '<f4', 'descr': '<f4'}", 96, KVSIM_E_FORMAT, "a key twice"},
    {1, "{'descr': '<f4', 'other': 1}", 96, KVSIM_E_FORMAT, "a key other than"},
    {1, "{'descr': '<f4'", 96, KVSIM_E_FORMAT, "a ',' or '}' is missing"},
    {1, "{'descr' '<f4'}", 96, KVSIM_E_FORMAT, "a ':' is missing"},
    {1, "{'descr': '<\\x664'}", 96, KVSIM_E_FORMAT, "an escape"},
    {1, "{'descr': '<f4", 96, KVSIM_E_FORMAT, "no end"},
    {1, "{'descr': __import__('os')}", 96, KVSIM_E_FORMAT, "a string is missing"},
};

START_TEST(lying_npy_files_are_refused) {
    size_t size = 0;
    unsigned char *bytes = make_npy(array_lies[_i].major, array_lies[_i].dictionary, array_lies[_i].data, &size);
    write_bytes("a.npy", bytes, size);
    expect_open(path_of("a.npy"), array_lies[_i].status, array_lies[_i].error);
    kvsim_snapshot *snapshot = NULL;
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, size, &snapshot), array_lies[_i].status);
    free(bytes);
}
END_TEST

START_TEST(npy_lengths_are_checked) {
    unsigned char bytes[64] = "\x93NUMPY\2\0";
    kvsim_snapshot *snapshot = NULL;
    bytes[8] = 53;
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, sizeof bytes, &snapshot), KVSIM_E_FORMAT);
    expect_error("an npy header of 53 bytes");
    bytes[11] = 0xff;
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, sizeof bytes, &snapshot), KVSIM_E_FORMAT);
    expect_error("at most 10000 are allowed");
    bytes[8] = 52;
    bytes[11] = 0;
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, sizeof bytes, &snapshot), KVSIM_E_FORMAT);
    expect_error("a NUL byte");
    ck_assert_int_eq(kvsim__snapshot_open_memory(kvsim__ctx_base(ctx), bytes, 7, &snapshot), KVSIM_E_FORMAT);
    expect_error("too few for an npy file");
}
END_TEST

/* ---- Memory ---- */

static kvsim_status open_index(kvsim_ctx *with) {
    kvsim_snapshot *snapshot = NULL;
    const kvsim_status status = kvsim_snapshot_open(with, folder, &snapshot);
    kvsim_snapshot_close(snapshot);
    return status;
}

START_TEST(opening_survives_every_failing_allocation) {
    write_safetensors("1.safetensors", two_tensors, 21);
    write_safetensors("2.safetensors", "{" TENSOR("y", "U8", "[1]", "[0,1]") "}", 1);
    static const char index[] = MAP("\"a\":\"1.safetensors\",\"y\":\"2.safetensors\"");
    write_text("model.safetensors.index.json", index);
    sweep_allocations(open_index);
}
END_TEST

static kvsim_status open_array(kvsim_ctx *with) {
    kvsim_snapshot *snapshot = NULL;
    const kvsim_status status = kvsim_snapshot_open(with, path_of("a.npy"), &snapshot);
    kvsim_snapshot_close(snapshot);
    return status;
}

START_TEST(opening_npy_survives_every_failing_allocation) {
    size_t size = 0;
    unsigned char *bytes = make_npy(1, arrays[0].dictionary, arrays[0].data, &size);
    write_bytes("a.npy", bytes, size);
    free(bytes);
    sweep_allocations(open_array);
}
END_TEST

#define COUNT_OF(ROWS) ((int)(sizeof(ROWS) / sizeof(ROWS)[0]))

int main(void) {
    Suite *suite = suite_create("snapshot");
    TCase *files = kvsim_check_case(suite, "files");
    tcase_add_checked_fixture(files, make_folder, remove_folder);
    tcase_add_test(files, tensors_come_in_order_of_names);
    tcase_add_test(files, a_file_without_tensors_is_good);
    tcase_add_test(files, many_tensors_are_all_found);
    tcase_add_loop_test(files, every_element_type_is_known, 0, COUNT_OF(types));
    tcase_add_loop_test(files, lying_headers_are_refused, 0, COUNT_OF(lies));
    tcase_add_test(files, a_header_beyond_the_file_is_refused);
    tcase_add_test(files, a_truncated_file_is_refused_wherever_it_ends);
    tcase_add_test(files, excess_never_reaches_the_parser);
    tcase_add_test(files, long_and_strange_names_are_shortened_in_errors);
    tcase_add_test(files, paths_that_hold_no_file_are_refused);
    tcase_add_test(files, a_folder_is_opened_by_what_is_in_it);
    tcase_add_test(files, shards_make_one_snapshot);
    tcase_add_loop_test(files, lying_indexes_are_refused, 0, COUNT_OF(index_lies));
    tcase_add_loop_test(files, npy_arrays_are_read, 0, COUNT_OF(arrays));
    tcase_add_loop_test(files, lying_npy_files_are_refused, 0, COUNT_OF(array_lies));
    tcase_add_test(files, npy_lengths_are_checked);
    tcase_add_test(files, opening_survives_every_failing_allocation);
    tcase_add_test(files, opening_npy_survives_every_failing_allocation);
    return kvsim_check_main(suite, "test_snapshot", 148);
}
