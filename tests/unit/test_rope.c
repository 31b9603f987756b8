/* How keys were rotated: facts from config.json and dumps, angles against Hugging Face's, the self-test. */
#define _GNU_SOURCE
#include "snapshot_files.h"

#include <math.h>

#include "pages/rope.h"

enum { MOST_FREQUENCIES = 16 };

/* Where the log of a context goes. */
static char logged[1024];

static void keep_log(void *user, int32_t level, const char *message) {
    (void)user;
    (void)level;
    (void)snprintf(logged, sizeof logged, "%s", message);
}

static void make_logging_folder(void) {
    make_folder();
    kvsim_ctx_destroy(ctx);
    kvsim_options options = KVSIM_OPTIONS_INIT;
    options.log = keep_log;
    logged[0] = '\0';
    ck_assert_int_eq(kvsim_ctx_create(&options, &ctx), KVSIM_OK);
}

static kvsim_rope read_good(const char *json) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    write_text("config.json", json);
    const kvsim_status status = kvsim_rope_read_config(ctx, folder, &rope);
    ck_assert_msg(status == KVSIM_OK, "%s: %s", json, kvsim_ctx_error(ctx));
    /* What it says can be told to a context. */
    ck_assert_int_eq(kvsim_set_rope(ctx, &rope), KVSIM_OK);
    return rope;
}

/*
 * inv_freq of Hugging Face transformers 5.24.0 (with torch 2.13.0), which computes in float32: the rotary embedding of
 * LlamaConfig with hidden_size 128 and 4 heads, of GPTNeoXConfig, PhiConfig and HunYuanDenseV1Config as in the text.
 */
static const struct {
    const char *json;
    int count;
    double frequencies[MOST_FREQUENCIES];
} goldens[] = {
    {"{\"model_type\": \"llama\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"rope_theta\": 500000.0}",
     16,
     {1, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508, 0.00321144611,
      0.00141421345, 0.000622772437, 0.000274248188, 0.000120769742, 5.31829573e-05, 2.34199979e-05, 1.03133852e-05,
      4.54167048e-06}},
    {"{\"model_type\": \"llama\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"rope_theta\": 10000.0,"
     " \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}",
     16,
     {0.25, 0.140585333, 0.079056941, 0.0444569848, 0.0250000004, 0.0140585322, 0.00790569466, 0.00444569858,
      0.00249999994, 0.00140585331, 0.000790569466, 0.000444569858, 0.000250000012, 0.000140585325, 7.90569466e-05,
      4.44569851e-05}},
    {"{\"model_type\": \"llama\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"rope_theta\": 500000.0,"
     " \"max_position_embeddings\": 131072, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0,"
     " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}",
     16,
     {1, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508, 0.00321144611,
      0.000524846022, 7.78465546e-05, 3.42810235e-05, 1.50962178e-05, 6.64786967e-06, 2.92749974e-06, 1.28917316e-06,
      5.6770881e-07}},
    {"{\"model_type\": \"llama\", \"head_dim\": 32, \"max_position_embeddings\": 131072, \"rope_parameters\":"
     " {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0,"
     " \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}",
     16,
     {1, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508, 0.00321144611,
      0.000429556705, 1.94616387e-05, 8.57025589e-06, 3.77405445e-06, 1.66196742e-06, 7.31874934e-07, 3.22293289e-07,
      1.41927202e-07}},
    {"{\"model_type\": \"llama\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"rope_theta\": 1000000.0,"
     " \"max_position_embeddings\": 32768, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}}",
     16,
     {1, 0.421696514, 0.177827939, 0.0749894157, 0.0316227786, 0.0133352149, 0.00477990136, 0.00165996165,
      0.000549999997, 0.000168678584, 4.44569851e-05, 1.87473561e-05, 7.90569356e-06, 3.33380353e-06, 1.40585337e-06,
      5.92843435e-07}},
    {"{\"model_type\": \"llama\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"rope_theta\": 10000.0,"
     " \"max_position_embeddings\": 65536, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 16.0,"
     " \"original_max_position_embeddings\": 4096, \"beta_fast\": 16.0, \"beta_slow\": 2.0}}",
     16,
     {1, 0.562341332, 0.316227764, 0.177827939, 0.100000001, 0.0562341288, 0.0316227786, 0.0144485207, 0.00625000009,
      0.00246024318, 0.000790569407, 0.000111142464, 6.2500003e-05, 3.51463314e-05, 1.97642366e-05, 1.11142463e-05}},
    {"{\"model_type\": \"gpt_neox\", \"hidden_size\": 256, \"num_attention_heads\": 4, \"rotary_pct\": 0.25,"
     " \"rotary_emb_base\": 10000}",
     8,
     {1, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786}},
    {"{\"model_type\": \"phi\", \"hidden_size\": 256, \"num_attention_heads\": 4, \"rope_theta\": 10000.0,"
     " \"max_position_embeddings\": 8192, \"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"rope_type\": \"yarn\","
     " \"factor\": 4.0, \"original_max_position_embeddings\": 2048}}",
     16,
     {1, 0.562341332, 0.316227764, 0.177827939, 0.100000001, 0.0502090417, 0.02484647, 0.0120668961, 0.00571428565,
      0.0026108704, 0.00112938497, 0.000444569858, 0.000250000012, 0.000140585325, 7.90569466e-05, 4.44569851e-05}},
    {"{\"model_type\": \"hunyuan_v1_dense\", \"hidden_size\": 128, \"num_attention_heads\": 4, \"head_dim\": 32,"
     " \"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"dynamic\", \"alpha\": 1000.0, \"factor\": 1.0,"
     " \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 1.0}}",
     16,
     {1, 0.354813397, 0.12589255, 0.0446683615, 0.0158489328, 0.00562341325, 0.00199526246, 0.000707945786,
      0.000251188641, 8.91250966e-05, 3.16227743e-05, 1.12201842e-05, 3.98107159e-06, 1.41253747e-06, 5.0118723e-07,
      1.77827928e-07}},
};

START_TEST(angles_are_those_of_transformers) {
    double frequencies[MOST_FREQUENCIES];
    double worst = 0.0;
    kvsim_rope rope = read_good(goldens[_i].json);
    ck_assert_int_eq(rope.style, KVSIM_ROPE_HALF);
    ck_assert_int_eq(rope.rotary_dims, 2 * goldens[_i].count);
    ck_assert_int_eq(kvsim__rope_check(kvsim__ctx_base(ctx), &rope), KVSIM_OK);
    kvsim__rope_frequencies(&rope, rope.rotary_dims, frequencies);
    for (int i = 0; i < goldens[_i].count; i++) {
        worst = fmax(worst, fabs(frequencies[i] / goldens[_i].frequencies[i] - 1.0));
    }
    ck_assert_msg(worst < 1e-6, "%s: off by %g", goldens[_i].json, worst);
    ck_assert_str_eq(logged, "");
}
END_TEST

#define BASIC "\"hidden_size\": 64, \"num_attention_heads\": 2"

static const struct {
    const char *json;
    int style;
    double theta;
    int rotary_dims;
    const char *log; /* part of the last line */
} configs[] = {
    {"{\"model_type\": \"mistral\", " BASIC "}", KVSIM_ROPE_HALF, 10000.0, 32, ""},
    {"{\"model_type\": \"llama\", " BASIC ", \"rope_scaling\": null, \"rope_parameters\": {\"rope_theta\": 7.0,"
     " \"rope_type\": \"default\"}, \"rope_theta\": 9.0}",
     KVSIM_ROPE_HALF, 7.0, 32, ""},
    {"{\"model_type\": \"qwen3\", " BASIC ", \"head_dim\": 128, \"rope_theta\": 1000000}", KVSIM_ROPE_HALF, 1e6, 128,
     ""},
    {"{\"model_type\": \"gpt_neox\", " BASIC "}", KVSIM_ROPE_HALF, 10000.0, 8, ""},
    {"{\"model_type\": \"phi\", " BASIC "}", KVSIM_ROPE_HALF, 10000.0, 16, ""},
    {"{\"model_type\": \"gptj\", \"n_embd\": 4096, \"n_head\": 16, \"rotary_dim\": 64}", KVSIM_ROPE_INTERLEAVED,
     10000.0, 64, ""},
    {"{\"model_type\": \"gptj\", \"n_embd\": 4096, \"n_head\": 16}", KVSIM_ROPE_INTERLEAVED, 10000.0, 64, ""},
    {"{\"model_type\": \"gptj\", \"n_embd\": 4096, \"n_head\": 16, \"rotary_dim\": null}", KVSIM_ROPE_INTERLEAVED,
     10000.0, 256, ""},
    {"{\"model_type\": \"cohere\", " BASIC "}", KVSIM_ROPE_INTERLEAVED, 500000.0, 32, ""},
    {"{\"model_type\": \"glm4\", " BASIC ", \"rope_theta\": 10000.0}", KVSIM_ROPE_INTERLEAVED, 10000.0, 16, ""},
    {"{\"model_type\": \"llama\", " BASIC ", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 1.0}}",
     KVSIM_ROPE_HALF, 10000.0, 32, ""},
    {"{\"model_type\": \"llama\"}", KVSIM_ROPE_HALF, 10000.0, 0, ""},
    {"{\"vision_config\": {}, \"text_config\": {\"model_type\": \"qwen2\", " BASIC ", \"rope_theta\": 5.5}}",
     KVSIM_ROPE_HALF, 5.5, 32, ""},
    {"{\"model_type\": \"newest\", " BASIC "}", KVSIM_ROPE_HALF, 10000.0, 32, "model_type 'newest' is not one"},
    {"{" BASIC "}", KVSIM_ROPE_HALF, 10000.0, 32, "model_type '' is not one"},
    {"{\"model_type\": \"gpt2\", \"n_embd\": 768, \"n_head\": 12}", KVSIM_ROPE_NONE, 0.0, 0, "no RoPE"},
    {"{\"model_type\": \"opt\"}", KVSIM_ROPE_NONE, 0.0, 0, "no RoPE"},
    {"{\"model_type\": \"bloom\"}", KVSIM_ROPE_NONE, 0.0, 0, "no RoPE"},
    {"{\"model_type\": \"falcon\", \"alibi\": true}", KVSIM_ROPE_NONE, 0.0, 0, "alibi"},
    {"{\"model_type\": \"falcon\", \"alibi\": false, " BASIC "}", KVSIM_ROPE_HALF, 10000.0, 32, ""},
    {"{\"model_type\": \"granite\", \"position_embedding_type\": \"nope\"}", KVSIM_ROPE_NONE, 0.0, 0,
     "position_embedding_type"},
    {"{\"model_type\": \"deepseek_v3\", \"kv_lora_rank\": 512, \"qk_rope_head_dim\": 64, \"rope_theta\": 10000}",
     KVSIM_ROPE_NONE, 0.0, 0, "latents are left as they are"},
};

START_TEST(config_files_say_how_keys_are_rotated) {
    const kvsim_rope rope = read_good(configs[_i].json);
    ck_assert_uint_eq(rope.struct_size, sizeof rope);
    ck_assert_int_eq(rope.style, configs[_i].style);
    ck_assert_double_eq(rope.theta, configs[_i].theta);
    ck_assert_int_eq(rope.rotary_dims, configs[_i].rotary_dims);
    ck_assert_int_eq(rope.scaling, KVSIM_ROPE_SCALING_NONE);
    ck_assert_msg(strstr(logged, configs[_i].log) != NULL && (logged[0] == '\0') == (configs[_i].log[0] == '\0'),
                  "%s: logged '%s'", configs[_i].json, logged);
}
END_TEST

START_TEST(the_context_beside_a_scaling_comes_first) {
    const kvsim_rope rope = read_good(
        "{\"model_type\": \"llama\", " BASIC ", \"original_max_position_embeddings\": 1000, \"rope_scaling\":"
        " {\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 2000, \"beta_slow\": 3}}");
    ck_assert_int_eq(rope.scaling, KVSIM_ROPE_SCALING_YARN);
    ck_assert_double_eq(rope.original_max_position, 1000.0);
    ck_assert_double_eq(rope.factor, 2.0);
    ck_assert_double_eq(rope.beta_slow, 3.0);
}
END_TEST

#define SCALED(SCALING) "{\"model_type\": \"llama\", " BASIC ", \"rope_scaling\": " SCALING "}"

static const struct {
    const char *json;
    kvsim_status status;
    const char *error;
} wrong_configs[] = {
    {"", KVSIM_E_FORMAT, "config.json: the file is empty"},
    {"[]", KVSIM_E_FORMAT, "config.json: not a JSON object"},
    {"{", KVSIM_E_FORMAT, "config.json: config.json: "},
    {"{\"rope_theta\": 1, \"rope_theta\": 2}", KVSIM_E_FORMAT, "duplicate"},
    {"{\"a\": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}", KVSIM_E_FORMAT, "config.json"},
    {"{\"model_type\": 3}", KVSIM_E_FORMAT, "'model_type' is not a text"},
    {"{\"model_type\": \"llama\", \"rope_theta\": \"10000\"}", KVSIM_E_FORMAT, "'rope_theta' is not a number above 0"},
    {"{\"model_type\": \"llama\", \"rope_theta\": -1}", KVSIM_E_FORMAT, "'rope_theta' is not a number above 0"},
    {"{\"model_type\": \"llama\", \"rope_theta\": {}}", KVSIM_E_FORMAT, "'rope_theta' is not a number above 0"},
    {"{\"model_type\": \"llama\", \"rope_theta\": 1e999}", KVSIM_E_FORMAT, "config.json"},
    {"{\"model_type\": \"llama\", \"head_dim\": 0}", KVSIM_E_FORMAT, "'head_dim' is not a whole number above 0"},
    {"{\"model_type\": \"llama\", \"head_dim\": 99999999999}", KVSIM_E_FORMAT, "'head_dim' is not a whole number"},
    {"{\"model_type\": \"llama\", \"head_dim\": 1000000}", KVSIM_E_FORMAT, "'head_dim' is not a number of channels"},
    {"{\"model_type\": \"llama\", \"head_dim\": 33}", KVSIM_E_FORMAT, "33 of 33 channels"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_attention_heads\": 0}", KVSIM_E_FORMAT,
     "'num_attention_heads' is not a whole number"},
    {"{\"model_type\": \"phi\"}", KVSIM_E_FORMAT, "0.5 of the channels are rotated, but neither 'head_dim'"},
    {"{\"model_type\": \"phi\", " BASIC ", \"partial_rotary_factor\": 1.5}", KVSIM_E_FORMAT,
     "'partial_rotary_factor' is not a number above 0 and up to 1"},
    {"{\"model_type\": \"phi\", " BASIC ", \"partial_rotary_factor\": 0.01}", KVSIM_E_FORMAT, "0 of 32 channels"},
    {"{\"model_type\": \"gptj\", " BASIC ", \"rotary_dim\": 34}", KVSIM_E_FORMAT, "34 of 32 channels"},
    {"{\"model_type\": \"gptj\", " BASIC ", \"rotary_dim\": 7}", KVSIM_E_FORMAT, "7 of 32 channels"},
    {SCALED("[]"), KVSIM_E_FORMAT, "'rope_scaling' is not an object"},
    {SCALED("\"linear\""), KVSIM_E_FORMAT, "'rope_scaling' is not an object"},
    {SCALED("{\"type\": 4}"), KVSIM_E_FORMAT, "rope_scaling: 'rope_type' is not a text"},
    {SCALED("{\"factor\": 4}"), KVSIM_E_FORMAT, "rope_scaling: 'rope_type' is missing"},
    {SCALED("{\"type\": \"linear\"}"), KVSIM_E_FORMAT, "rope_scaling: 'factor' is missing"},
    {SCALED("{\"type\": \"linear\", \"factor\": 0.5}"), KVSIM_E_FORMAT, "factor 0.5 must be at least 1"},
    {SCALED("{\"type\": \"linear\", \"factor\": \"4\"}"), KVSIM_E_FORMAT, "'factor' is not a number above 0"},
    {SCALED("{\"type\": \"yarn\", \"factor\": 4}"), KVSIM_E_FORMAT, "'original_max_position_embeddings' is missing"},
    {SCALED("{\"type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 9, \"beta_fast\": 1,"
            " \"beta_slow\": 2}"),
     KVSIM_E_FORMAT, "beta_fast be no less than beta_slow"},
    {SCALED("{\"rope_type\": \"llama3\", \"factor\": 8, \"original_max_position_embeddings\": 8192}"), KVSIM_E_FORMAT,
     "'low_freq_factor' is missing"},
    {SCALED("{\"rope_type\": \"llama3\", \"factor\": 8, \"original_max_position_embeddings\": 8192,"
            " \"low_freq_factor\": 4, \"high_freq_factor\": 1}"),
     KVSIM_E_FORMAT, "high_freq_factor must exceed low_freq_factor"},
    {SCALED("{\"type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 9, \"truncate\": false}"),
     KVSIM_E_UNSUPPORTED, "\"truncate\": false"},
    {SCALED("{\"type\": \"dynamic\", \"factor\": 2.0}"), KVSIM_E_UNSUPPORTED, "rope_type 'dynamic': its angles depend"},
    {SCALED("{\"type\": \"su\", \"long_factor\": [1], \"short_factor\": [1]}"), KVSIM_E_UNSUPPORTED, "rope_type 'su'"},
    {SCALED("{\"rope_type\": \"longrope\"}"), KVSIM_E_UNSUPPORTED, "rope_type 'longrope'"},
    {SCALED("{\"rope_type\": \"proportional\"}"), KVSIM_E_UNSUPPORTED, "rope_type 'proportional': not one of"},
    {"{\"model_type\": \"newest\", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e6},"
     " \"sliding_attention\": {\"rope_theta\": 1e4}}}",
     KVSIM_E_UNSUPPORTED, "'rope_parameters' has a rotation of its own for each type of layer ('full_attention')"},
    {"{\"model_type\": \"gemma3_text\"}", KVSIM_E_UNSUPPORTED, "model_type 'gemma3_text'"},
    {"{\"model_type\": \"cohere2\"}", KVSIM_E_UNSUPPORTED, "model_type 'cohere2'"},
    {"{\"model_type\": \"chatglm\"}", KVSIM_E_UNSUPPORTED, "model_type 'chatglm'"},
    {"{\"model_type\": \"newest\", \"rope_local_base_freq\": 10000.0}", KVSIM_E_UNSUPPORTED, "'rope_local_base_freq'"},
    {"{\"model_type\": \"newest\", \"no_rope_layers\": [1, 1, 0]}", KVSIM_E_UNSUPPORTED, "'no_rope_layers'"},
};

START_TEST(wrong_config_files_are_refused) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    rope.theta = 42.0;
    write_text("config.json", wrong_configs[_i].json);
    const kvsim_status status = kvsim_rope_read_config(ctx, path_of("config.json"), &rope);
    ck_assert_msg(status == wrong_configs[_i].status, "%s: status %d: %s", wrong_configs[_i].json, status,
                  kvsim_ctx_error(ctx));
    expect_error(wrong_configs[_i].error);
    expect_error("config.json");
    ck_assert_double_eq(rope.theta, 42.0);
    ck_assert_int_eq(rope.style, KVSIM_ROPE_NONE);
}
END_TEST

START_TEST(paths_and_arguments_are_checked) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    ck_assert_int_eq(kvsim_rope_read_config(ctx, path_of("absent"), &rope), KVSIM_E_IO);
    expect_error("absent: cannot open");
    ck_assert_int_eq(kvsim_rope_read_config(ctx, folder, &rope), KVSIM_E_IO);
    expect_error("config.json: cannot open");
    ck_assert_int_eq(kvsim_rope_read_config(ctx, "/dev/null", &rope), KVSIM_E_IO);
    ck_assert_int_eq(kvsim_rope_read_config(ctx, NULL, &rope), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_rope_read_config(ctx, folder, NULL), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_rope_read_config(NULL, folder, &rope), KVSIM_E_INVALID);
    rope.struct_size = 4;
    ck_assert_int_eq(kvsim_rope_read_config(ctx, folder, &rope), KVSIM_E_INVALID);
    expect_error("struct_size 4");
}
END_TEST

static kvsim_status read_config(kvsim_ctx *with) {
    kvsim_rope rope = KVSIM_ROPE_INIT;
    return kvsim_rope_read_config(with, folder, &rope);
}

START_TEST(reading_survives_every_failing_allocation) {
    write_text("config.json", goldens[2].json);
    sweep_allocations(read_config);
}
END_TEST

/* ---- Dumps ---- */

enum { HEADS = 2, DIM = 16, SEQUENCES = 3, LENGTH = 400, TOKENS = 60 };

static int32_t token_ids[SEQUENCES][LENGTH];
static const int64_t lengths[SEQUENCES] = {LENGTH, LENGTH, LENGTH};
static const int32_t *const tokens[SEQUENCES] = {token_ids[0], token_ids[1], token_ids[2]};

/* How keys are made: rotation as told, of DIM channels or fewer. */
typedef struct planted {
    kvsim_rope rope;
    bool narrow; /* bf16 */
    bool distinct;
} planted;

/* A channel of a token's key before RoPE. */
static double channel_of(int32_t token, int head, int channel) {
    return sin(1.0 + 12.9898 * token + 78.233 * head + 37.719 * channel * (1 + token % 7));
}

static uint16_t to_bf16(float value) {
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* The rotation written apart from the library's, with complex numbers in mind; only plain and linear scaling. */
static double rotated(const kvsim_rope *rope, int32_t token, int head, int channel, int64_t position) {
    const int rotary = rope->rotary_dims > 0 ? rope->rotary_dims : DIM;
    if (channel >= rotary) {
        return channel_of(token, head, channel);
    }
    const bool interleaved = rope->style == KVSIM_ROPE_INTERLEAVED;
    const int pair = interleaved ? channel / 2 : channel % (rotary / 2);
    const bool second = interleaved ? channel % 2 != 0 : channel >= rotary / 2;
    const int partner = interleaved ? channel ^ 1 : second ? channel - rotary / 2 : channel + rotary / 2;
    const double stretch = rope->scaling == KVSIM_ROPE_SCALING_LINEAR ? rope->factor : 1.0;
    const double angle = (double)position / stretch / pow(rope->theta, 2.0 * pair / rotary);
    const double own = channel_of(token, head, channel);
    const double other = channel_of(token, head, partner);
    return second ? own * cos(angle) + other * sin(angle) : own * cos(angle) - other * sin(angle);
}

static int read_planted(void *user, int64_t sequence, int32_t layer, int32_t kind, void *out) {
    const planted *how = user;
    for (int64_t i = 0; i < LENGTH * HEADS * DIM; i++) {
        const int64_t position = i / (HEADS * DIM);
        const int head = (int)(i / DIM % HEADS);
        const double value =
            rotated(&how->rope, token_ids[sequence][position], head, (int)(i % DIM), position) + layer + kind;
        const float key = (float)(value - 1.0);
        if (how->narrow) {
            ((uint16_t *)out)[i] = to_bf16(key);
        } else {
            ((float *)out)[i] = key;
        }
    }
    return 0;
}

static kvsim_snapshot *plant(planted *how) {
    for (int s = 0; s < SEQUENCES; s++) {
        for (int i = 0; i < LENGTH; i++) {
            token_ids[s][i] = how->distinct ? s * LENGTH + i : (i * 7 + s * 13 + i * i) % TOKENS;
        }
    }
    kvsim_dump dump = KVSIM_DUMP_INIT;
    dump.layers = 1;
    dump.kv_heads = HEADS;
    dump.head_dim = DIM;
    dump.page_tokens = 16;
    dump.dtype_code = how->narrow ? KVSIM_DTYPE_BFLOAT : KVSIM_DTYPE_FLOAT;
    dump.dtype_bits = how->narrow ? 16 : 32;
    dump.rope = how->rope;
    dump.sequences = SEQUENCES;
    dump.lengths = lengths;
    dump.tokens = tokens;
    dump.read = read_planted;
    dump.read_user = how;
    ck_assert_msg(kvsim_dump_write(ctx, path_of("d"), &dump) == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    return open_good(path_of("d"));
}

static double check(const kvsim_snapshot *snapshot, const kvsim_rope *rope, int64_t *pairs) {
    double residual = -1.0;
    ck_assert_int_eq(kvsim_set_rope(ctx, rope), KVSIM_OK);
    const kvsim_status status = kvsim_snapshot_check_rope(ctx, snapshot, &residual, pairs);
    ck_assert_msg(status == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    return residual;
}

static const struct {
    int style;
    int rotary_dims;
    int scaling;
    bool narrow;
} plans[] = {
    {KVSIM_ROPE_HALF, 0, KVSIM_ROPE_SCALING_NONE, false},        {KVSIM_ROPE_HALF, 0, KVSIM_ROPE_SCALING_NONE, true},
    {KVSIM_ROPE_INTERLEAVED, 0, KVSIM_ROPE_SCALING_NONE, false}, {KVSIM_ROPE_HALF, 8, KVSIM_ROPE_SCALING_NONE, false},
    {KVSIM_ROPE_INTERLEAVED, 8, KVSIM_ROPE_SCALING_NONE, true},  {KVSIM_ROPE_HALF, 0, KVSIM_ROPE_SCALING_LINEAR, true},
};

START_TEST(a_wrong_rotation_is_seen) {
    planted how = {.rope = KVSIM_ROPE_INIT, .narrow = plans[_i].narrow};
    how.rope.style = plans[_i].style;
    how.rope.theta = 5000.0;
    how.rope.rotary_dims = plans[_i].rotary_dims;
    how.rope.scaling = plans[_i].scaling;
    how.rope.factor = plans[_i].scaling == KVSIM_ROPE_SCALING_LINEAR ? 4.0 : 0.0;
    kvsim_snapshot *snapshot = plant(&how);
    int64_t pairs = 0;
    ck_assert_double_lt(check(snapshot, &how.rope, &pairs), how.narrow ? 0.005 : 1e-6);
    ck_assert_int_gt(pairs, SEQUENCES * LENGTH / 2);
    kvsim_rope wrong = how.rope;
    wrong.theta = 20000.0;
    ck_assert_double_gt(check(snapshot, &wrong, &pairs), 0.2);
    wrong = how.rope;
    wrong.style = how.rope.style == KVSIM_ROPE_HALF ? KVSIM_ROPE_INTERLEAVED : KVSIM_ROPE_HALF;
    ck_assert_double_gt(check(snapshot, &wrong, &pairs), 0.2);
    wrong = how.rope;
    wrong.scaling = how.rope.scaling == KVSIM_ROPE_SCALING_NONE ? KVSIM_ROPE_SCALING_LINEAR : KVSIM_ROPE_SCALING_NONE;
    wrong.factor = 4.0;
    ck_assert_double_gt(check(snapshot, &wrong, &pairs), 0.2);
    wrong = how.rope;
    wrong.rotary_dims = how.rope.rotary_dims == 0 ? 8 : 0;
    ck_assert_double_gt(check(snapshot, &wrong, &pairs), 0.2);
    /* What the file says is what it was made with. */
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    ck_assert_double_lt(check(snapshot, &info.rope, &pairs), how.narrow ? 0.005 : 1e-6);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static planted plain_plan(void) {
    planted how = {.rope = KVSIM_ROPE_INIT};
    how.rope.style = KVSIM_ROPE_HALF;
    how.rope.theta = 10000.0;
    return how;
}

START_TEST(nothing_to_compare_is_no_failure) {
    planted how = plain_plan();
    how.distinct = true;
    kvsim_snapshot *snapshot = plant(&how);
    int64_t pairs = -1;
    ck_assert_double_eq(check(snapshot, &how.rope, &pairs), 0.0);
    ck_assert_int_eq(pairs, 0);
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(checks_that_cannot_be_made_are_refused) {
    planted how = plain_plan();
    kvsim_snapshot *snapshot = plant(&how);
    double residual = 0.0;
    int64_t pairs = 0;
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, snapshot, &residual, &pairs), KVSIM_E_UNSUPPORTED);
    expect_error("no rotation to check");
    kvsim_rope wide = how.rope;
    wide.rotary_dims = 2 * DIM;
    ck_assert_int_eq(kvsim_set_rope(ctx, &wide), KVSIM_OK);
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, snapshot, &residual, &pairs), KVSIM_E_INVALID);
    expect_error("RoPE over 32 channels does not fit keys of 16");
    ck_assert_int_eq(kvsim_snapshot_check_rope(NULL, snapshot, &residual, &pairs), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, NULL, &residual, &pairs), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, snapshot, NULL, &pairs), KVSIM_E_INVALID);
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, snapshot, &residual, NULL), KVSIM_E_INVALID);
    kvsim_snapshot_close(snapshot);
    write_safetensors("w", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    snapshot = open_good(path_of("w"));
    ck_assert_int_eq(kvsim_snapshot_check_rope(ctx, snapshot, &residual, &pairs), KVSIM_E_UNSUPPORTED);
    expect_error("only kvsim.dump.v1");
    kvsim_snapshot_close(snapshot);
}
END_TEST

static kvsim_status check_dump(kvsim_ctx *with) {
    kvsim_snapshot *snapshot = NULL;
    double residual = 0.0;
    int64_t pairs = 0;
    const planted how = plain_plan();
    kvsim_status status = kvsim_snapshot_open(with, path_of("d"), &snapshot);
    if (status == KVSIM_OK) {
        status = kvsim_set_rope(with, &how.rope);
    }
    if (status == KVSIM_OK) {
        status = kvsim_snapshot_check_rope(with, snapshot, &residual, &pairs);
    }
    kvsim_snapshot_close(snapshot);
    return status;
}

START_TEST(checking_survives_every_failing_allocation) {
    planted how = plain_plan();
    kvsim_snapshot_close(plant(&how));
    sweep_allocations(check_dump);
}
END_TEST

static const struct {
    kvsim_rope rope;
    const char *text;
} scalings[] = {
    {{sizeof(kvsim_rope), KVSIM_ROPE_HALF, 1e4, 0, KVSIM_ROPE_SCALING_LINEAR, 2.5, 0, 0, 0, 0, 0},
     "{\"rope_type\":\"linear\",\"factor\":2.5}"},
    {{sizeof(kvsim_rope), KVSIM_ROPE_HALF, 1e4, 0, KVSIM_ROPE_SCALING_NTK, 8, 0, 0, 0, 0, 0},
     "{\"rope_type\":\"ntk\",\"factor\":8}"},
    {{sizeof(kvsim_rope), KVSIM_ROPE_HALF, 1e4, 0, KVSIM_ROPE_SCALING_YARN, 4, 32768, 0, 0, 16, 2},
     "{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":32768,\"beta_fast\":16,"
     "\"beta_slow\":2}"},
    {{sizeof(kvsim_rope), KVSIM_ROPE_INTERLEAVED, 5e5, 8, KVSIM_ROPE_SCALING_LLAMA3, 8, 8192, 1, 4, 0, 0},
     "{\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":8192,\"low_freq_factor\":1,"
     "\"high_freq_factor\":4}"},
};

START_TEST(a_scaling_reads_back_as_it_was_written) {
    planted how = {.rope = scalings[_i].rope};
    kvsim_snapshot *snapshot = plant(&how);
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_str_eq(kvsim_snapshot_metadata(snapshot, "rope_scaling"), scalings[_i].text);
    ck_assert_msg(kvsim_snapshot_get_info(ctx, snapshot, &info) == KVSIM_OK, "%s", kvsim_ctx_error(ctx));
    ck_assert_int_eq(info.rope.style, how.rope.style);
    ck_assert_double_eq(info.rope.theta, how.rope.theta);
    ck_assert_int_eq(info.rope.rotary_dims, how.rope.rotary_dims);
    ck_assert_int_eq(info.rope.scaling, how.rope.scaling);
    ck_assert_double_eq(info.rope.factor, how.rope.factor);
    ck_assert_double_eq(info.rope.original_max_position, how.rope.original_max_position);
    ck_assert_double_eq(info.rope.low_freq_factor, how.rope.low_freq_factor);
    ck_assert_double_eq(info.rope.high_freq_factor, how.rope.high_freq_factor);
    ck_assert_double_eq(info.rope.beta_fast, how.rope.beta_fast);
    ck_assert_double_eq(info.rope.beta_slow, how.rope.beta_slow);
    kvsim_snapshot_close(snapshot);
}
END_TEST

static const struct {
    const char *text; /* as JSON inside JSON */
    kvsim_status status;
    const char *error;
} wrong_scalings[] = {
    {"linear", KVSIM_E_FORMAT, "metadata 'rope_scaling'"},
    {"[1]", KVSIM_E_FORMAT, "metadata 'rope_scaling': not a JSON object"},
    {"", KVSIM_E_FORMAT, "metadata 'rope_scaling'"},
    {"{\\\"a\\\":[[[[1]]]]}", KVSIM_E_FORMAT, "metadata 'rope_scaling'"},
    {"{\\\"rope_type\\\":1}", KVSIM_E_FORMAT, "'rope_type' is not a text"},
    {"{\\\"rope_type\\\":\\\"linear\\\"}", KVSIM_E_FORMAT, "'factor' is missing"},
    {"{\\\"rope_type\\\":\\\"linear\\\",\\\"factor\\\":-4}", KVSIM_E_FORMAT, "'factor' is not a number above 0"},
    {"{\\\"rope_type\\\":\\\"ntk\\\",\\\"factor\\\":0.1}", KVSIM_E_FORMAT, "factor 0.1 must be at least 1"},
    {"{\\\"rope_type\\\":\\\"yarn\\\",\\\"factor\\\":4}", KVSIM_E_FORMAT, "original_max_position_embeddings"},
    {"{\\\"rope_type\\\":\\\"dynamic\\\",\\\"factor\\\":4}", KVSIM_E_UNSUPPORTED, "rope_type 'dynamic'"},
    {"{\\\"rope_type\\\":\\\"longrope\\\"}", KVSIM_E_UNSUPPORTED, "rope_type 'longrope'"},
};

START_TEST(wrong_scalings_of_dumps_are_refused) {
    char header[1024];
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    (void)snprintf(header, sizeof header,
                   "{\"__metadata__\":{\"format\":\"kvsim.dump.v1\",\"layers\":\"1\",\"kv_heads\":\"1\","
                   "\"head_dim\":\"4\",\"page_tokens\":\"2\",\"rope_applied\":\"true\",\"rope_style\":\"half\","
                   "\"rope_theta\":\"10000\",\"rope_scaling\":\"%s\"}}",
                   wrong_scalings[_i].text);
    write_safetensors("d", header, 0);
    kvsim_snapshot *snapshot = open_good(path_of("d"));
    const kvsim_status status = kvsim_snapshot_get_info(ctx, snapshot, &info);
    ck_assert_msg(status == wrong_scalings[_i].status, "%s: status %d: %s", header, status, kvsim_ctx_error(ctx));
    expect_error(wrong_scalings[_i].error);
    kvsim_snapshot_close(snapshot);
}
END_TEST

START_TEST(wrong_scalings_are_not_written) {
    planted how = plain_plan();
    kvsim_dump dump = KVSIM_DUMP_INIT;
    dump.layers = dump.kv_heads = dump.page_tokens = 1;
    dump.head_dim = DIM;
    dump.dtype_code = KVSIM_DTYPE_FLOAT;
    dump.dtype_bits = 32;
    dump.read = read_planted;
    dump.rope = how.rope;
    dump.rope.scaling = 9;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_E_INVALID);
    expect_error("kvsim_dump: rope scaling 9");
    dump.rope.scaling = KVSIM_ROPE_SCALING_YARN;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_E_INVALID);
    expect_error("original_max_position");
    dump.rope.scaling = KVSIM_ROPE_SCALING_LINEAR;
    dump.rope.factor = (double)NAN;
    ck_assert_int_eq(kvsim_dump_write(ctx, path_of("d"), &dump), KVSIM_E_INVALID);
    expect_error("factor");
    ck_assert_int_eq(count_files(false), 0);
}
END_TEST

/* ---- Keys of a real model ---- */

static const struct {
    const char *file;
    double rounding; /* residual of its true rotation is below this */
} data_sets[] = {
    {"kv/stories24.safetensors", 0.005},
    {"kv/shared_prefix.safetensors", 0.005},
    {"kv/repetitive_bf16.safetensors", 0.005},
};

START_TEST(a_wrong_rotation_of_a_real_model_is_seen) {
    char path[PATH_MAX];
    if (!kvsim_check_data(path, sizeof path, data_sets[_i].file)) {
        kvsim_check_skip("%s: no test data", path);
    }
    kvsim_snapshot *snapshot = open_good(path);
    kvsim_snapshot_info info = KVSIM_SNAPSHOT_INFO_INIT;
    ck_assert_int_eq(kvsim_snapshot_get_info(ctx, snapshot, &info), KVSIM_OK);
    int64_t pairs = 0;
    double residual = check(snapshot, &info.rope, &pairs);
    printf("%s: residual %.3g of %d pairs", data_sets[_i].file, residual, (int)pairs);
    ck_assert_double_lt(residual, data_sets[_i].rounding);
    ck_assert_int_gt(pairs, 1000);
    kvsim_rope wrong = info.rope;
    wrong.theta = 500000.0;
    residual = check(snapshot, &wrong, &pairs);
    printf(", wrong theta %.3g", residual);
    ck_assert_double_gt(residual, 0.1);
    wrong = info.rope;
    wrong.style = KVSIM_ROPE_INTERLEAVED;
    residual = check(snapshot, &wrong, &pairs);
    printf(", wrong style %.3g\n", residual);
    ck_assert_double_gt(residual, 0.3);
    kvsim_snapshot_close(snapshot);
}
END_TEST

#define COUNT_OF(ROWS) ((int)(sizeof(ROWS) / sizeof(ROWS)[0]))

int main(void) {
    Suite *suite = suite_create("rope");
    TCase *config = kvsim_check_case(suite, "config");
    tcase_add_checked_fixture(config, make_logging_folder, remove_folder);
    tcase_add_loop_test(config, angles_are_those_of_transformers, 0, COUNT_OF(goldens));
    tcase_add_loop_test(config, config_files_say_how_keys_are_rotated, 0, COUNT_OF(configs));
    tcase_add_test(config, the_context_beside_a_scaling_comes_first);
    tcase_add_loop_test(config, wrong_config_files_are_refused, 0, COUNT_OF(wrong_configs));
    tcase_add_test(config, paths_and_arguments_are_checked);
    tcase_add_test(config, reading_survives_every_failing_allocation);
    TCase *dumps = kvsim_check_case(suite, "dumps");
    tcase_add_checked_fixture(dumps, make_folder, remove_folder);
    tcase_add_loop_test(dumps, a_scaling_reads_back_as_it_was_written, 0, COUNT_OF(scalings));
    tcase_add_loop_test(dumps, wrong_scalings_of_dumps_are_refused, 0, COUNT_OF(wrong_scalings));
    tcase_add_test(dumps, wrong_scalings_are_not_written);
    tcase_add_loop_test(dumps, a_wrong_rotation_is_seen, 0, COUNT_OF(plans));
    tcase_add_test(dumps, nothing_to_compare_is_no_failure);
    tcase_add_test(dumps, checks_that_cannot_be_made_are_refused);
    tcase_add_test(dumps, checking_survives_every_failing_allocation);
    tcase_add_loop_test(dumps, a_wrong_rotation_of_a_real_model_is_seen, 0, COUNT_OF(data_sets));
    return kvsim_check_main(suite, "test_rope", 104);
}
