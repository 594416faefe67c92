/* Damaged, hostile and unknown input of sg_convert: the right status, a sentence that says what and where, and nothing
 * left behind. */
#include "tests/unit/convert_fixture.h"

/* Replaces the first `from` in a file by `to` (of any length). */
static void edit(const char *name, const char *from, const char *to) {
    size_t n = 0;
    uint8_t *bytes = temp_read(in_dir(name), &n);
    ck_assert(bytes);
    uint8_t *at = memmem(bytes, n, from, strlen(from));
    ck_assert_msg(at != NULL, "%s does not hold %s", name, from);
    sg_str s = { 0 };
    sg_str_append(&s, (const char *)bytes, (size_t)(at - bytes));
    sg_str_puts(&s, to);
    const size_t rest = (size_t)(at - bytes) + strlen(from);
    sg_str_append(&s, (const char *)bytes + rest, n - rest);
    write_str(name, s);
    free(bytes);
}

/* The same inside the header of a safetensors file, whose length is kept right. */
static void edit_header(const char *from, const char *to) {
    edit("model.safetensors", from, to);
    size_t n = 0;
    uint8_t *bytes = temp_read(in_dir("model.safetensors"), &n);
    uint64_t len;
    memcpy(&len, bytes, 8);
    len += strlen(to) - strlen(from);
    memcpy(bytes, &len, 8);
    ck_assert(temp_write(in_dir("model.safetensors"), bytes, n));
    free(bytes);
}

static void expect_refused(const char *input, sg_status status, const char *file, const char *words) {
    const unsigned before = temp_count(&dir);
    sg_error err = { 0 };
    const sg_status got = convert(input, NULL, &err);
    ck_assert_msg(got == status && err.code == status, "status %d, not %d: %s", got, status, err.message);
    ck_assert_msg(strstr(err.message, file) != NULL, "does not name %s: %s", file, err.message);
    ck_assert_msg(strstr(err.message, words) != NULL, "does not say \"%s\": %s", words, err.message);
    ck_assert(!strchr(err.message, '\n'));
    ck_assert_uint_eq(temp_count(&dir), before);
}

/* ---- config.json --------------------------------------------------------------------------------------------------
 */

#define CLASS "\"architectures\":[\"LlamaForCausalLM\"],"
#define AS(name, more) more "\"architectures\":[\"" name "\"],"
#define MOE "\"num_experts\":4,\"num_experts_per_tok\":2,\"moe_intermediate_size\":8,"
#define MLA \
    "\"n_routed_experts\":4,\"num_experts_per_tok\":2,\"moe_intermediate_size\":8,\"kv_lora_rank\":8,\"qk_nope_head_dim\":4," \
    "\"qk_rope_head_dim\":4,\"v_head_dim\":4,"
static const struct {
    const char *from, *to;
    sg_status status;
    const char *words;
} configs[] = {
    { "LlamaForCausalLM", "FancyForCausalLM", SG_E_UNSUPPORTED,
      "FancyForCausalLM cannot be converted (LlamaForCausalLM, Mistral" },
    { "\"architectures\":[\"LlamaForCausalLM\"],", "", SG_E_FORMAT, "\"architectures\" is missing" },
    { "\"architectures\":[", "\"architectures\":[7,", SG_E_FORMAT, "\"architectures\" is missing" },
    { "\"hidden_size\":32,", "", SG_E_FORMAT, "\"hidden_size\" is missing" },
    { "\"hidden_size\":32", "\"hidden_size\":null", SG_E_FORMAT, "\"hidden_size\" is missing" },
    { "\"hidden_size\":32", "\"hidden_size\":\"32\"", SG_E_FORMAT, "\"hidden_size\" is no number" },
    { "\"hidden_size\":32", "\"hidden_size\":-32", SG_E_FORMAT, "\"hidden_size\" is -32" },
    { "\"hidden_size\":32", "\"hidden_size\":1e30", SG_E_FORMAT, "\"hidden_size\" is 1e+30" },
    { "\"hidden_size\":32", "\"hidden_size\":32.5", SG_E_FORMAT, "no whole number" },
    { "\"hidden_size\":32", "\"hidden_size\":30", SG_E_FORMAT, "no multiple of 4 heads" },
    { "\"hidden_size\":32", "\"hidden_size\":20", SG_E_FORMAT, "head size 5 is odd" },
    { "\"hidden_size\":32", "\"hidden_size\":64", SG_E_FORMAT,
      "model.embed_tokens.weight has the shape [16, 32], [16, 64] is needed" },
    { "\"num_attention_heads\":4", "\"num_attention_heads\":0", SG_E_FORMAT, "\"num_attention_heads\" is 0" },
    { "\"num_key_value_heads\":2", "\"num_key_value_heads\":3", SG_E_FORMAT, "no multiple of 3 key/value heads" },
    { "\"num_hidden_layers\":2", "\"num_hidden_layers\":3", SG_E_FORMAT,
      "model.layers.2.input_layernorm.weight is missing" },
    { "\"num_hidden_layers\":2", "\"num_hidden_layers\":1", SG_E_UNSUPPORTED, "model.layers.1." },
    { "\"num_hidden_layers\":2", "\"num_hidden_layers\":2000000000", SG_E_FORMAT, "\"num_hidden_layers\"" },
    { "\"vocab_size\":16", "\"vocab_size\":4294967295", SG_E_FORMAT, "\"vocab_size\"" },
    { "\"vocab_size\":16", "\"vocab_size\":15", SG_E_FORMAT, "[15, 32] is needed" },
    { "\"rms_norm_eps\":1e-06", "\"rms_norm_eps\":1e999", SG_E_FORMAT, "\"rms_norm_eps\"" },
    { "\"rms_norm_eps\":1e-06,", "", SG_E_FORMAT, "\"rms_norm_eps\" is missing" },
    { "\"rope_theta\":500.0", "\"rope_theta\":0", SG_E_FORMAT, "\"rope_theta\"" },
    { "\"hidden_act\":\"silu\"", "\"hidden_act\":\"fatrelu\"", SG_E_UNSUPPORTED, "activation fatrelu" },
    { "{", "{\"quantization_config\":{\"quant_method\":\"gptq\"},", SG_E_UNSUPPORTED, "quantised (gptq)" },
    { "{", "{\"mlp_bias\":true,", SG_E_UNSUPPORTED, "mlp_bias" },
    { "{", "{\"attention_bias\":true,", SG_E_FORMAT, "self_attn.q_proj.bias is missing" },
    { "{", "{\"attention_bias\":1,", SG_E_FORMAT, "neither true nor false" },
    { "{", "{\"rope_scaling\":{\"type\":\"longrope\"},", SG_E_UNSUPPORTED, "rotary scaling longrope" },
    { "{", "{\"rope_scaling\":{\"type\":\"linear\"},", SG_E_FORMAT, "\"factor\" is missing" },
    { "{", "{\"rope_scaling\":[],", SG_E_FORMAT, "rotary parameters" },
    { "{", "{\"partial_rotary_factor\":0.5,", SG_E_UNSUPPORTED, "partial_rotary_factor 0.5" },
    /* what single classes ask for; LlamaForCausalLM is replaced, and keys are added with it */
    { CLASS, AS("Qwen3MoeForCausalLM", ""), SG_E_FORMAT, "\"num_experts\" is missing" },
    { CLASS, AS("Qwen3MoeForCausalLM", MOE "\"norm_topk_prob\":false,"), SG_E_UNSUPPORTED, "\"norm_topk_prob\" is 0, only 1 is known" },
    { CLASS, AS("Qwen3MoeForCausalLM", MOE "\"mlp_only_layers\":[1],"), SG_E_UNSUPPORTED, "mlp_only_layers" },
    { CLASS, AS("OlmoeForCausalLM", MOE "\"clip_qkv\":8,"), SG_E_UNSUPPORTED, "\"clip_qkv\" is 8, only 0" },
    { CLASS, AS("Gemma2ForCausalLM", "\"layer_types\":[\"full_attention\",\"full_attention\"],"), SG_E_UNSUPPORTED,
      "layer 0 is of type full_attention" },
    { CLASS, AS("Gemma2ForCausalLM", "\"layer_types\":[\"sliding_attention\"],"), SG_E_FORMAT, "no list of 2 layers" },
    { CLASS, AS("LlamaForCausalLM", "\"layer_types\":[\"full_attention\",\"sliding_attention\"],"), SG_E_UNSUPPORTED,
      "layer 1 is of type sliding_attention" },
    { CLASS, AS("Gemma3ForCausalLM", "\"rope_local_base_freq\":500,"), SG_E_UNSUPPORTED, "rotary base 500" },
    { CLASS, AS("Gemma2ForCausalLM", "\"hidden_act\":\"gelu_10\",\"a\":{"), SG_E_FORMAT, "JSON" },
    { CLASS, AS("FalconForCausalLM", "\"alibi\":true,"), SG_E_UNSUPPORTED, "\"alibi\" is 1, only 0" },
    { CLASS, AS("FalconForCausalLM", "\"new_decoder_architecture\":true,\"num_kv_heads\":3,"), SG_E_FORMAT, "4 is no multiple of 3" },
    { CLASS, AS("OPTForCausalLM", "\"ffn_dim\":64,\"do_layer_norm_before\":false,"), SG_E_UNSUPPORTED, "do_layer_norm_before" },
    { CLASS, AS("OPTForCausalLM", "\"ffn_dim\":64,\"word_embed_proj_dim\":16,"), SG_E_UNSUPPORTED,
      "\"word_embed_proj_dim\" stands for 16, only 32" },
    { CLASS, AS("Ernie4_5_MoeForCausalLM", "\"moe_num_experts\":4,\"moe_k\":2,\"moe_intermediate_size\":8,\"moe_layer_end_index\":0,"),
      SG_E_UNSUPPORTED, "\"moe_layer_end_index\" stands for 1, only 2" },
    { CLASS, AS("DeepseekV3ForCausalLM", MLA "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":0},"),
      SG_E_UNSUPPORTED, "YaRN with mscale 1 and mscale_all_dim 0" },
    { CLASS, AS("DeepseekV3ForCausalLM", MLA "\"rope_interleave\":false,"), SG_E_UNSUPPORTED, "rope_interleave" },
    { CLASS, AS("GptOssForCausalLM", "\"num_local_experts\":4,\"num_experts_per_tok\":2,\"swiglu_limit\":5,"), SG_E_UNSUPPORTED,
      "\"swiglu_limit\" is 5, only 7" },
    { CLASS, AS("GptOssForCausalLM", "\"num_local_experts\":4,\"num_experts_per_tok\":2,\"quantization_config\":{\"quant_method\":\"fp8\"},"),
      SG_E_UNSUPPORTED, "quantised (fp8)" },
    { CLASS, AS("Phi3ForCausalLM", "\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2],\"short_factor\":[1]},"), SG_E_FORMAT,
      "\"long_factor\" is no list of 4 numbers" },
    { CLASS, AS("Phi3ForCausalLM", "\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,0,3],\"short_factor\":[1]},"), SG_E_FORMAT,
      "no positive number" },
    { CLASS, AS("SmallThinkerForCausalLM", "\"moe_ffn_hidden_size\":8,\"moe_num_primary_experts\":4,\"moe_num_active_primary_experts\":2,"
                                           "\"head_dim\":8,\"sliding_window_layout\":[1,1],\"rope_layout\":[1,1],"),
      SG_E_UNSUPPORTED, "arrangement of windows" },
    { CLASS, AS("Lfm2ForCausalLM", "\"norm_eps\":1e-5,\"conv_L_cache\":3,\"conv_bias\":true,"), SG_E_UNSUPPORTED, "conv_bias" },
    { CLASS, AS("GPT2LMHeadModel", "\"n_embd\":32,\"n_layer\":2,\"n_head\":4,\"n_positions\":8,\"scale_attn_by_inverse_layer_idx\":true,"),
      SG_E_UNSUPPORTED, "scale_attn_by_inverse_layer_idx" },
    { "{", "[", SG_E_FORMAT, "no valid JSON" },
    { "}", "} x", SG_E_FORMAT, "more after the end" },
    { "float32", "\xff\xfe", SG_E_FORMAT, "not valid UTF-8" },
};

START_TEST(bad_config) {
    write_llama_folder();
    edit("config.json", configs[_i].from, configs[_i].to);
    expect_refused(dir.path, configs[_i].status, dir.path, configs[_i].words);
}
END_TEST

/* ---- safetensors --------------------------------------------------------------------------------------------------
 */

#define FIRST "\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[16,32],\"data_offsets\":[0,2048]}"
static const struct {
    const char *from, *to;
    sg_status status;
    const char *words;
} headers[] = {
    { "\"dtype\":\"F32\"", "\"dtype\":\"I32\"", SG_E_UNSUPPORTED, "has dtype I32" },
    { "\"dtype\":\"F32\"", "\"dtype\":\"Q9\"", SG_E_UNSUPPORTED, "unknown dtype Q9" },
    { "\"dtype\":\"F32\",", "", SG_E_FORMAT, "no dtype" },
    { "\"dtype\":\"F32\"", "\"dtype\":\"F16\"", SG_E_FORMAT, "has 2048 bytes, its shape needs 1024" },
    { "[16,32]", "[32,32]", SG_E_FORMAT, "has 2048 bytes, its shape needs 4096" },
    { "[16,32]", "[16,-32]", SG_E_FORMAT, "impossible shape" },
    { "[16,32]", "[1e10,1e10]", SG_E_FORMAT, "impossible shape" },
    { "[16,32]", "[1.5]", SG_E_FORMAT, "impossible shape" },
    { "[16,32]", "[1,1,1,1,1,1,1,16,32]", SG_E_UNSUPPORTED, "more than 8 dimensions" },
    { "[16,32]", "[32,16]", SG_E_FORMAT, "has the shape [32, 16], [16, 32] is needed" },
    { "[16,32]", "7", SG_E_FORMAT, "no shape" },
    { "[0,2048]", "[2048,0]", SG_E_FORMAT, "no valid data_offsets" },
    { "[0,2048]", "[0]", SG_E_FORMAT, "no valid data_offsets" },
    { "[0,2048]", "[-4,2044]", SG_E_FORMAT, "no valid data_offsets" },
    { "[0,2048]", "[9007199254738000,9007199254740048]", SG_E_FORMAT, "the file has only" },
    { "[0,2048]", "[4,2052]", SG_E_FORMAT, "follows a hole" },
    { "[2048,2176]", "[2044,2172]", SG_E_FORMAT, "overlaps" },
    { FIRST ",", "", SG_E_FORMAT, "follows a hole" },
    { FIRST, FIRST "," FIRST, SG_E_FORMAT, "overlaps" },
    { "{\"model",
      "{\"__metadata__\":{\"format\":\"pt\"},\"extra\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
      "\"model",
      SG_E_UNSUPPORTED, "tensor extra is not part of LlamaForCausalLM" },
    { "{\"model", "{\"extra\":7,\"model", SG_E_FORMAT, "extra is no tensor" },
    { "lm_head.weight", "lm_head_weight", SG_E_UNSUPPORTED, "lm_head_weight is not part" },
    { "model.layers.1.mlp.up_proj", "model.layers.1.mlp.gate_proj", SG_E_FORMAT, "is there twice" },
};

START_TEST(bad_safetensors) {
    write_llama_folder();
    edit_header(headers[_i].from, headers[_i].to);
    expect_refused(dir.path, headers[_i].status, "model.safetensors", headers[_i].words);
}
END_TEST

static void set_header_length(uint64_t len) {
    size_t n = 0;
    uint8_t *bytes = temp_read(in_dir("model.safetensors"), &n);
    memcpy(bytes, &len, 8);
    ck_assert(temp_write(in_dir("model.safetensors"), bytes, n));
    free(bytes);
}

START_TEST(bad_header_length) {
    write_llama_folder();
    set_header_length(100000001);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "more than a safetensors file may have");
    set_header_length(UINT64_MAX);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "more than a safetensors file may have");
    set_header_length(99999999);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "the file is shorter");
    set_header_length(0);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "JSON");
}
END_TEST

/* Every length but the right one; whole numbers of KiB, and all short ones. */
START_TEST(cut_safetensors) {
    write_llama_folder();
    size_t n = 0;
    uint8_t *bytes = temp_read(in_dir("model.safetensors"), &n);
    for (size_t len = 0; len < n; len += len < 64 || len > n - 8 ? 1 : 911) {
        ck_assert(temp_write(in_dir("model.safetensors"), bytes, len));
        expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "");
    }
    sg_str longer = { 0 };
    sg_str_append(&longer, (const char *)bytes, n);
    sg_str_append(&longer, "x", 1);
    write_str("model.safetensors", longer);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors", "1 bytes after its last tensor");
    free(bytes);
}
END_TEST

static void write_value(const char *name, uint32_t bits) {
    size_t n = 0;
    uint8_t *bytes = temp_read(in_dir(name), &n);
    memcpy(bytes + n - 4, &bits, 4);
    ck_assert(temp_write(in_dir(name), bytes, n));
    free(bytes);
}

START_TEST(bad_values) {
    write_llama_folder();
    write_value("model.safetensors", 0x7fc00000);
    expect_refused(dir.path, SG_E_FORMAT, "model.safetensors",
                   "tensor output.weight holds values that are no finite numbers");
    write_value("model.safetensors", 0x47800000); /* 65536 */
    expect_refused(dir.path, SG_E_UNSUPPORTED, "model.safetensors", "output.weight holds 65536, too large for F16");
}
END_TEST

/* ---- shards and files ---------------------------------------------------------------------------------------------
 */

START_TEST(bad_shards) {
    write_config("LlamaForCausalLM", "");
    write_text("tokenizer.json", SPM_JSON);
    write_weights(&(hf_shape) { .dtype = "F32", .lm_head = true }, true);
    edit("model.safetensors.index.json", "model-2.safetensors", "model-1.safetensors");
    expect_refused(dir.path, SG_E_FORMAT, "index.json", "is not in model-1.safetensors");
    edit("model.safetensors.index.json", "\"model-1.safetensors\"", "\"../model-1.safetensors\"");
    expect_refused(dir.path, SG_E_FORMAT, "index.json", "no valid file name");
    edit("model.safetensors.index.json", "../model-1.safetensors", "gone.safetensors");
    expect_refused(dir.path, SG_E_NOT_FOUND, "gone.safetensors", "No such file");
    write_text("model.safetensors.index.json", "{\"weight_map\":{}}");
    expect_refused(dir.path, SG_E_FORMAT, "index.json", "has no weight_map");
}
END_TEST

START_TEST(missing_files) {
    expect_refused(in_dir("nothing"), SG_E_NOT_FOUND, "nothing", "No such file");
    expect_refused(dir.path, SG_E_NOT_FOUND, "config.json", "No such file");
    write_llama_folder();
    unlink(in_dir("tokenizer.json"));
    expect_refused(dir.path, SG_E_NOT_FOUND, dir.path, "neither tokenizer.json nor tokenizer.model");
    write_text("tokenizer.model", "IQ== 0\nIg== 1\n");
    expect_refused(dir.path, SG_E_UNSUPPORTED, "tokenizer.model", "is no SentencePiece model");
    unlink(in_dir("model.safetensors"));
    expect_refused(dir.path, SG_E_NOT_FOUND, dir.path, "neither model.safetensors");
    write_text("pytorch_model.bin", "x");
    expect_refused(dir.path, SG_E_UNSUPPORTED, dir.path, "pytorch_model.bin");
}
END_TEST

START_TEST(bad_arguments) {
    sg_error err = { 0 };
    write_str("m.bin", make_bin(0, true));
    write_str("tokenizer.bin", make_tokenizer_bin());
    ck_assert_int_eq(sg_convert(NULL, &err), SG_E_ARG);
    ck_assert_int_eq(convert(in_dir("m.bin"), "q5_k", &err), SG_E_ARG);
    ck_assert(strstr(err.message, "f32, f16, bf16, q8_0, q4_0") != NULL);
    ck_assert_int_eq(convert(in_dir("m.bin"), "nonsense", &err), SG_E_ARG);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = o.output = in_dir("m.bin");
    o.overwrite = true;
    ck_assert_int_eq(sg_convert(&o, &err), SG_E_ARG);
    o.output = dir.path;
    ck_assert_int_eq(sg_convert(&o, &err), SG_E_ACCESS);
    o.output = in_dir("no/such/folder.gguf");
    ck_assert_int_eq(sg_convert(&o, &err), SG_E_NOT_FOUND);
    ck_assert_uint_eq(temp_count(&dir), 2);
}
END_TEST

/* ---- tokenizer.json -----------------------------------------------------------------------------------------------
 */

static const struct {
    const char *json, *from, *to;
    sg_status status;
    const char *words;
} tokenizers[] = {
    { SPM_JSON, "\"BPE\"", "\"Unigram\"", SG_E_UNSUPPORTED, "Unigram" },
    { SPM_JSON, "\"byte_fallback\":true", "\"byte_fallback\":false", SG_E_UNSUPPORTED, "neither byte-level nor" },
    { SPM_JSON, "\"ab\":10", "\"ab\":-1", SG_E_FORMAT, "\"ab\" has no id" },
    { SPM_JSON, "\"ab\":10", "\"ab\":16", SG_E_FORMAT, "\"ab\" has no id below 16" },
    { SPM_JSON, "\"ab\":10", "\"ab\":9", SG_E_FORMAT, "two tokens have the id 9" },
    { SPM_JSON, "\"ab\":10", "\"ab\":\"x\"", SG_E_FORMAT, "\"ab\" has no id" },
    { SPM_JSON, "\"a b\"", "\"ab\"", SG_E_FORMAT, "merge 1 (\"ab\") does not have two parts" },
    { SPM_JSON, "\"a b\"", "\"a b c\"", SG_E_FORMAT, "does not have two parts" },
    { SPM_JSON, "\"a b\"", "\"c a\"", SG_E_FORMAT, "makes no token" },
    { SPM_JSON, "\"a b\"", "7", SG_E_FORMAT, "neither a string nor a pair" },
    { SPM_JSON, "\"merges\"", "\"merge\"", SG_E_FORMAT, "model.merges is missing" },
    { SPM_JSON, "\"vocab\":{", "\"vocab\":[],\"v\":{", SG_E_FORMAT, "model.vocab is missing" },
    { SPM_JSON, "\"model\"", "\"mode\"", SG_E_FORMAT, "has no \"model\"" },
    { SPM_JSON, "\"Prepend\"", "\"Lowercase\"", SG_E_UNSUPPORTED, "normalizer Lowercase" },
    { SPM_JSON, "\"id\":13", "\"id\":1.5", SG_E_FORMAT, "added token" },
    { BYTES_JSON, "\"add_prefix_space\":false", "\"add_prefix_space\":true", SG_E_UNSUPPORTED, "add_prefix_space" },
    { BYTES_JSON, "\"Split\"", "\"Whitespace\"", SG_E_UNSUPPORTED, "pre-tokenizer Whitespace" },
    { BYTES_JSON, "NFC", "NFKC", SG_E_UNSUPPORTED, "normalizer NFKC" },
};

START_TEST(bad_tokenizer) {
    write_llama_folder();
    write_text("tokenizer.json", tokenizers[_i].json);
    edit("tokenizer.json", tokenizers[_i].from, tokenizers[_i].to);
    expect_refused(dir.path, tokenizers[_i].status, "tokenizer.json", tokenizers[_i].words);
}
END_TEST

/* ---- llama2.c -----------------------------------------------------------------------------------------------------
 */

static const struct {
    unsigned version, at; /* int32 at this byte becomes `v` */
    int32_t v;
    sg_status status;
    const char *words;
} bins[] = {
    { 0, 0, 0, SG_E_FORMAT, "dim would be 0" },
    { 0, 0, INT32_MAX, SG_E_FORMAT, "dim would be" },
    { 0, 4, -1, SG_E_FORMAT, "hidden_dim" },
    { 0, 8, 100000, SG_E_FORMAT, "n_layers" },
    { 0, 12, 5, SG_E_FORMAT, "do not fit" },
    { 0, 12, 32, SG_E_FORMAT, "do not fit" }, /* heads of one value */
    { 0, 16, 3, SG_E_FORMAT, "do not fit" },
    { 0, 20, INT32_MIN, SG_E_FORMAT, "vocab_size" },
    { 0, 20, 17, SG_E_FORMAT, "a llama2.c checkpoint with this header has" },
    { 0, 24, 25, SG_E_FORMAT, "a llama2.c checkpoint with this header has" },
    { 1, 4, 3, SG_E_UNSUPPORTED, "version 3" },
    { 1, 28, -16, SG_E_FORMAT, "vocab_size" },
    { 2, 37, 0, SG_E_FORMAT, "group size 0" },
    { 2, 37, 7, SG_E_FORMAT, "group size 7 does not divide" },
    { 2, 37, -8, SG_E_FORMAT, "group size" },
};

START_TEST(bad_bin) {
    sg_str s = make_bin(bins[_i].version, true);
    memcpy(s.data + bins[_i].at, &bins[_i].v, 4);
    write_str("m.bin", s);
    write_str("tokenizer.bin", make_tokenizer_bin());
    expect_refused(in_dir("m.bin"), bins[_i].status, "m.bin", bins[_i].words);
}
END_TEST

START_TEST(cut_bin) {
    write_str("tokenizer.bin", make_tokenizer_bin());
    sg_str s = make_bin((unsigned)_i, false);
    for (size_t len = 0; len < s.len; len += len < 300 ? 1 : 997) {
        ck_assert(temp_write(in_dir("m.bin"), s.data, len));
        expect_refused(in_dir("m.bin"), SG_E_FORMAT, "m.bin", "");
    }
    free(s.data);
}
END_TEST

START_TEST(bad_tokenizer_bin) {
    write_str("m.bin", make_bin(0, true));
    expect_refused(in_dir("m.bin"), SG_E_NOT_FOUND, "m.bin",
                   "no tok16.bin, tokenizer.bin or tokenizer.model beside it");
    sg_str s = make_tokenizer_bin();
    for (size_t len = 0; len < s.len; len++) {
        ck_assert(temp_write(in_dir("tokenizer.bin"), s.data, len));
        expect_refused(in_dir("m.bin"), SG_E_FORMAT, "tokenizer.bin", "");
    }
    sg_str_append(&s, "12345678", 8);
    ck_assert(temp_write(in_dir("tokenizer.bin"), s.data, s.len));
    expect_refused(in_dir("m.bin"), SG_E_FORMAT, "tokenizer.bin", "holds more tokens than the 16");
    s.len -= 8;
    s.data[s.len - 1] = (char)0xff;
    ck_assert(temp_write(in_dir("tokenizer.bin"), s.data, s.len));
    expect_refused(in_dir("m.bin"), SG_E_UNSUPPORTED, "tokenizer.bin", "token 15 is not text");
    const int32_t len = -1;
    memcpy(s.data + 8, &len, 4);
    ck_assert(temp_write(in_dir("tokenizer.bin"), s.data, s.len));
    expect_refused(in_dir("m.bin"), SG_E_FORMAT, "tokenizer.bin", "token 0 is damaged (length -1");
    free(s.data);
}
END_TEST

/* ---- any bytes ----------------------------------------------------------------------------------------------------
 */

/* Some bytes changed at random places: whatever the answer, no crash, and a file only after a success. */
START_TEST(changed_bytes) {
    static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors" };
    write_llama_folder();
    if (_i == 3) write_text("tokenizer.json", BYTES_JSON);
    const char *name = files[_i % 3 == 0 && _i ? 1 : _i % 3];
    size_t n = 0;
    uint8_t *good = temp_read(in_dir(name), &n), *bad = malloc(n);
    const size_t span = _i == 2 ? 2600 : n; /* of the weights, the header */
    uint32_t state = 12345 + (uint32_t)_i;
    unsigned refused = 0;
    for (int round = 0; round < 400; round++) {
        memcpy(bad, good, n);
        for (int k = 0; k <= round % 4; k++) {
            state = state * 1664525u + 1013904223u;
            const uint32_t at = (state >> 8) % span;
            state = state * 1664525u + 1013904223u;
            bad[at] = round % 2 ? (uint8_t)(state >> 24) : (uint8_t) "0123456789-[]{}\",:e."[(state >> 24) % 20];
        }
        ck_assert(temp_write(in_dir(name), bad, n));
        sg_error err = { 0 };
        const sg_status status = convert(dir.path, NULL, &err);
        ck_assert(status == SG_OK || (err.code == status && err.message[0]));
        ck_assert_uint_eq(temp_count(&dir), status == SG_OK ? 4 : 3);
        if (status == SG_OK)
            unlink(in_dir(OUT));
        else
            refused++;
    }
    ck_assert_uint_gt(refused, 40);
    free(good);
    free(bad);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_refused");
    TCase *c = tcase_create("convert_refused");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_loop_test(c, bad_config, 0, sizeof configs / sizeof *configs);
    tcase_add_loop_test(c, bad_safetensors, 0, sizeof headers / sizeof *headers);
    tcase_add_test(c, bad_header_length);
    tcase_add_test(c, cut_safetensors);
    tcase_add_test(c, bad_values);
    tcase_add_test(c, bad_shards);
    tcase_add_test(c, missing_files);
    tcase_add_test(c, bad_arguments);
    tcase_add_loop_test(c, bad_tokenizer, 0, sizeof tokenizers / sizeof *tokenizers);
    tcase_add_loop_test(c, bad_bin, 0, sizeof bins / sizeof *bins);
    tcase_add_loop_test(c, cut_bin, 0, 3);
    tcase_add_test(c, bad_tokenizer_bin);
    tcase_add_loop_test(c, changed_bytes, 0, 4);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
