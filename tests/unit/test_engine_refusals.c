/* What the example engine refuses: model folders that are damaged or of another kind, and wrong arguments. */
#include "engine_tools.h"

/* ---- Folders that are no models ---- */

#define SIZES                                                                                                          \
    "\"vocab_size\": 61, \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 1, \"head_dim\": 8, \"max_position_embeddings\": 512, "      \
    "\"sliding_window\": null"
#define MISTRAL_CONFIG "{\"architectures\": [\"MistralForCausalLM\"], " SIZES

typedef struct bad_config {
    const char *text;
    const char *error;
} bad_config;

static const bad_config bad_configs[] = {
    {NULL, "config.json"},
    {"{\"architectures\": [", "line 1"},
    {"[1, 2]", "not a JSON object"},
    {"{}", "'architectures' does not name a model; supported: LlamaForCausalLM"},
    {"{\"architectures\": \"LlamaForCausalLM\"}", "'architectures' does not name"},
    {"{\"architectures\": [\"FalconForCausalLM\"]}", "'FalconForCausalLM' is not supported; supported: Llama"},
    {"{\"architectures\": [\"LlamaForCausalLM\"]}", "'vocab_size' is missing"},
    {"{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": -5}", "'vocab_size' must be a whole number"},
    {"{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 1e99}", "'vocab_size' must be a whole number"},
    {MISTRAL_CONFIG ", \"num_key_value_heads\": 3}", "duplicate"},
    {MISTRAL_CONFIG ", \"rope_scaling\": {\"rope_type\": \"llama3\"}}", "rope_scaling 'llama3' is not supported"},
    {MISTRAL_CONFIG ", \"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling 'linear' is not supported"},
    {MISTRAL_CONFIG ", \"rope_parameters\": {\"rope_type\": \"yarn\"}}", "rope_parameters 'yarn' is not supported"},
    {MISTRAL_CONFIG ", \"rope_theta\": -1}", "'rope_theta' must be a number above 0"},
    {MISTRAL_CONFIG ", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor 0.5 is not supported"},
    {MISTRAL_CONFIG ", \"hidden_act\": \"gelu\"}", "hidden_act 'gelu' is not supported"},
    {MISTRAL_CONFIG ", \"mlp_bias\": true}", "mlp_bias is not supported"},
    {MISTRAL_CONFIG ", \"quantization_config\": {}}", "quantised weights"},
    {MISTRAL_CONFIG ", \"layer_types\": [\"sliding_attention\"]}", "'sliding_attention'"},
    {MISTRAL_CONFIG "}", "lacks its weights"},
};
enum { BAD_CONFIGS = sizeof bad_configs / sizeof *bad_configs };

static void write_file(const char *folder, const char *name, const void *bytes, size_t size) {
    char path[PATH_SIZE + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

/* A file of the small model. [owned] */
static char *read_file(const char *name, size_t *size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", SMALL, name);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
    long length = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)length + 1);
    ck_assert_ptr_nonnull(bytes);
    *size = fread(bytes, 1, (size_t)length, file);
    bytes[*size] = '\0';
    fclose(file);
    return bytes;
}

static void expect_failure(const char *folder, const char *error) {
    engine_options options = options_for(folder);
    engine *e;
    ck_assert_int_eq(engine_create(&options, &e), ENGINE_E_MODEL);
    ck_assert_msg(strstr(engine_error(e), error) != NULL, "\"%s\" does not say \"%s\"", engine_error(e), error);
    ck_assert_ptr_null(strchr(engine_error(e), '\n'));
    engine_destroy(e);
}

START_TEST(bad_configurations_are_refused) {
    const bad_config *bad = &bad_configs[_i];
    char folder[PATH_SIZE];
    make_folder(folder);
    if (bad->text) {
        write_file(folder, "config.json", bad->text, strlen(bad->text));
    }
    expect_failure(folder, _i == BAD_CONFIGS - 1 ? folder : bad->error);
    remove_folder(folder);
}
END_TEST

START_TEST(a_folder_that_is_not_there_is_refused) {
    expect_failure("/nowhere/at/all", "/nowhere/at/all/config.json");
    engine_options options = options_for(NULL);
    engine *e;
    ck_assert_int_eq(engine_create(&options, &e), ENGINE_E_INVALID);
    engine_destroy(e);
}
END_TEST

/* Write the small model with one text of its config.json replaced. */
static void write_changed(const char *folder, const char *from, const char *to) {
    size_t size;
    char *config = read_file("config.json", &size);
    char changed[4096];
    char *place = strstr(config, from);
    ck_assert_ptr_nonnull(place);
    *place = '\0';
    snprintf(changed, sizeof changed, "%s%s%s", config, to, place + strlen(from));
    write_file(folder, "config.json", changed, strlen(changed));
    free(config);
}

START_TEST(weights_that_do_not_fit_are_named) {
    static const char *const changes[][3] = {
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
         "tensor 'model.layers.2.input_layernorm.weight' is missing"},
        {"\"hidden_size\": 24", "\"hidden_size\": 32",
         "tensor 'model.embed_tokens.weight' has shape [61, 24], config.json asks for [61, 32]"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2",
         "tensor 'model.layers.0.self_attn.k_proj.weight' has shape [8, 24], config.json asks for [16, 24]"},
        {"MistralForCausalLM", "Qwen2ForCausalLM", "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 1048576", "'num_attention_heads' must be"},
        {"\"head_dim\": 8", "\"head_dim\": 7", "head_dim 7 is odd"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3",
         "num_attention_heads 4 is no multiple of num_key_value_heads 3"},
        {"\"sliding_window\": null", "\"sliding_window\": 100", "sliding_window 100 below max_position_embeddings"},
    };
    char folder[PATH_SIZE];
    size_t size;
    char *weights = read_file("model.safetensors", &size);
    make_folder(folder);
    write_file(folder, "model.safetensors", weights, size);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        write_changed(folder, changes[i][0], changes[i][1]);
        expect_failure(folder, changes[i][2]);
    }
    write_changed(folder, "\"use_cache\"", "\"use_cache\"");
    write_file(folder, "model.safetensors", weights, size - 1);
    expect_failure(folder, "model.safetensors");
    free(weights);
    remove_folder(folder);
}
END_TEST

START_TEST(weights_of_another_type_are_named) {
    char folder[PATH_SIZE];
    enum { DATA = 61 * 24 * 4 };
    static char file[8 + 256 + DATA];
    int length = snprintf(file + 8, 256,
                          "{\"model.embed_tokens.weight\": {\"dtype\": \"I32\", \"shape\": [61, 24], "
                          "\"data_offsets\": [0, %d]}}",
                          DATA);
    file[0] = (char)length;
    make_folder(folder);
    write_changed(folder, "\"use_cache\"", "\"use_cache\"");
    write_file(folder, "model.safetensors", file, 8 + (size_t)length + DATA);
    expect_failure(folder, "tensor 'model.embed_tokens.weight' has element type 0 of 32 bits");
    remove_folder(folder);
}
END_TEST

/* ---- Arguments ---- */

START_TEST(wrong_arguments_are_refused) {
    engine_options options = options_for(SMALL);
    engine *e = start(&options);
    int32_t ids[2] = {1, 61};
    float logits[61];
    engine_sampling bad = {.temperature = -1.0};
    char text[4];
    int64_t count;
    ck_assert_int_eq(engine_add_sequence(e, ids, 2, NULL, 1, NULL), ENGINE_E_INVALID);
    ck_assert_ptr_nonnull(strstr(engine_error(e), "token 1 is 61"));
    ids[1] = -1;
    ck_assert_int_eq(engine_add_sequence(e, ids, 2, NULL, 1, NULL), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_add_sequence(e, ids, 0, NULL, 1, NULL), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_add_sequence(e, ids, 1, NULL, -1, NULL), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_add_sequence(e, ids, 1, &bad, 1, NULL), ENGINE_E_INVALID);
    bad.temperature = NAN;
    ck_assert_int_eq(engine_add_sequence(e, ids, 1, &bad, 1, NULL), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_fork(e, 0, NULL, 1, NULL), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_release(e, 0), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_release(e, -1), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_logits(e, ids, 1, 1, logits), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_tokenize(e, "a", 1, ids, &count), ENGINE_E_INVALID);
    ck_assert_int_eq(engine_detokenize(e, ids, 1, text, NULL), ENGINE_E_INVALID);
    ck_assert_ptr_null(engine_tokens(e, 0, NULL));
    ck_assert_int_eq(engine_cached_length(e, 0), -1);
    ck_assert_int_eq(engine_run(e, NULL, NULL), ENGINE_OK);
    engine_destroy(e);
    engine_options *o = &options;
    const engine_options good = options;
    for (int i = 0; i < 6; i++) {
        *o = good;
        o->page_tokens = i == 0 ? 0 : i == 1 ? 1025 : 16;
        o->batch_tokens = i == 2 ? 0 : 512;
        o->kv_dtype = i == 3 ? 3 : 0;
        o->max_bytes = i == 4 ? 100 : 1 << 20;
        o->source = i == 5 ? 0 : 1;
        ck_assert_int_eq(engine_create(o, &e), ENGINE_E_INVALID);
        ck_assert_int_eq(engine_add_sequence(e, ids, 1, NULL, 1, NULL), ENGINE_E_INVALID);
        ck_assert_int_eq(engine_run(e, NULL, NULL), ENGINE_E_INVALID);
        ck_assert_ptr_null(engine_get_config(e));
        engine_destroy(e);
    }
    engine_destroy(NULL);
}
END_TEST

START_TEST(bytes_are_the_tokens_of_a_byte_level_model) {
    engine_options options = options_for(KVSIM_TEST_SOURCE "/examples/models/tiny");
    engine *e = start(&options);
    ck_assert(engine_get_config(e)->byte_level);
    const char text[] = "a\0\xff";
    int32_t ids[4];
    int64_t count;
    ck_assert_int_eq(engine_tokenize(e, text, 3, ids, &count), ENGINE_OK);
    ck_assert_int_eq(count, 4);
    const int32_t expected[] = {256, 'a', 0, 255};
    ck_assert_mem_eq(ids, expected, sizeof expected);
    char back[5];
    size_t size;
    ck_assert_int_eq(engine_detokenize(e, ids, 4, back, &size), ENGINE_OK);
    ck_assert_uint_eq(size, 3);
    ck_assert_mem_eq(back, text, 4);
    engine_destroy(e);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("engine_refusals");
    TCase *folders = kvsim_check_case(suite, "bad folders");
    tcase_add_loop_test(folders, bad_configurations_are_refused, 0, BAD_CONFIGS);
    tcase_add_test(folders, a_folder_that_is_not_there_is_refused);
    tcase_add_test(folders, weights_that_do_not_fit_are_named);
    tcase_add_test(folders, weights_of_another_type_are_named);
    TCase *arguments = kvsim_check_case(suite, "arguments");
    tcase_add_test(arguments, wrong_arguments_are_refused);
    tcase_add_test(arguments, bytes_are_the_tokens_of_a_byte_level_model);
    return kvsim_check_main(suite, "engine_refusals", 25);
}
