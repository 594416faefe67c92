/* sg_convert: what comes out for llama2.c checkpoints and Hugging Face folders, tensor by tensor and key by key. */
#include "runtime/convert/convert.h"
#include "tests/unit/convert_fixture.h"

static size_t permuted(size_t r) { return r / HD * HD + r % HD % 2 * (HD / 2) + r % HD / 2; }

/* ---- llama2.c -----------------------------------------------------------------------------------------------------
 */

static void expect_layers(const sg_gguf *g, bool permute, float tolerance) {
    char name[64];
    for (unsigned l = 0; l < LAYERS; l++) {
#define EXPECT(gguf, ne0, ne1, seed, row)                                                                              \
    snprintf(name, sizeof name, "blk.%u." gguf ".weight", l);                                                          \
    expect_rows(g, name, ne0, ne1, (seed) + 100 * l, row, tolerance)
        EXPECT("attn_norm", EMBD, 0, S_ANORM, NULL);
        EXPECT("attn_q", EMBD, QDIM, S_Q, permute ? permuted : NULL);
        EXPECT("attn_k", EMBD, KDIM, S_K, permute ? permuted : NULL);
        EXPECT("attn_v", EMBD, KDIM, S_V, NULL);
        EXPECT("attn_output", QDIM, EMBD, S_O, NULL);
        EXPECT("ffn_norm", EMBD, 0, S_FNORM, NULL);
        EXPECT("ffn_gate", EMBD, FF, S_GATE, NULL);
        EXPECT("ffn_up", EMBD, FF, S_UP, NULL);
        EXPECT("ffn_down", FF, EMBD, S_DOWN, NULL);
#undef EXPECT
    }
}

static void expect_dims(const sg_gguf *g, const char *arch) {
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {
        { "context_length", CTX },      { "embedding_length", EMBD },      { "feed_forward_length", FF },
        { "block_count", LAYERS },      { "attention.head_count", HEADS }, { "attention.head_count_kv", KV },
        { "attention.key_length", HD }, { "attention.value_length", HD },  { "rope.dimension_count", HD },
        { "vocab_size", VOCAB },
    };
    ck_assert_str_eq(str_of(g, "general.architecture"), arch);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char key[96];
        snprintf(key, sizeof key, "%s.%s", arch, keys[i].key);
        ck_assert_msg(u32_of(g, key) == keys[i].value, "%s = %u", key, u32_of(g, key));
    }
}

static void expect_bin_vocab(const sg_gguf *g) {
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), "llama");
    ck_assert_str_eq(token_of(g, 1), "<s>");
    ck_assert_str_eq(token_of(g, 2), "</s>");
    ck_assert_str_eq(token_of(g, 5), "\u2581");
    ck_assert_str_eq(token_of(g, 11), "\u2581ab");
    ck_assert_str_eq(token_of(g, 12), "\u00e9");
    static const int types[VOCAB] = { 2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    for (unsigned i = 0; i < VOCAB; i++) {
        ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", i), types[i]);
        ck_assert(number_of(g, "tokenizer.ggml.scores", i) == -(double)i);
    }
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.bos_token_id"), 1);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 2);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.unknown_token_id"), 0);
    ck_assert(bool_of(g, "tokenizer.ggml.add_bos_token"));
    ck_assert(bool_of(g, "tokenizer.ggml.add_space_prefix"));
}

/* Versions 0 and 1, tied and not. */
START_TEST(llama2c_float) {
    const unsigned version = (unsigned)_i / 2;
    const bool tied = _i % 2;
    write_str("m.bin", make_bin(version, tied));
    write_str("tokenizer.bin", make_tokenizer_bin());
    sg_gguf *g = converted(in_dir("m.bin"), NULL);
    expect_dims(g, "llama");
    ck_assert(f32_of(g, "llama.rope.freq_base") == 10000.0f &&
              f32_of(g, "llama.attention.layer_norm_rms_epsilon") == 1e-5f);
    ck_assert_uint_eq(u32_of(g, "general.file_type"), 0);
    ck_assert_str_eq(str_of(g, "general.name"), "m");
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 2 + 9 * LAYERS + !tied);
    expect_rows(g, "token_embd.weight", EMBD, VOCAB, S_EMBD, NULL, 0);
    expect_rows(g, "output_norm.weight", EMBD, 0, S_NORM, NULL, 0);
    if (!tied) expect_rows(g, "output.weight", EMBD, VOCAB, S_OUT, NULL, 0);
    expect_layers(g, false, 0);
    expect_bin_vocab(g);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(llama2c_int8) {
    write_str("m.bin", make_bin(2, _i));
    write_str("tok16.bin", make_tokenizer_bin());
    sg_gguf *g = converted(in_dir("m.bin"), NULL);
    expect_dims(g, "llama");
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 2 + 9 * LAYERS + !_i);
    expect_rows(g, "blk.1.ffn_norm.weight", EMBD, 0, S_FNORM + 100, NULL, 0);
    const sg_tensor_info *t;
    static const struct {
        const char *name;
        unsigned seed;
    } some[] = { { "token_embd.weight", S_EMBD },
                 { "blk.0.attn_q.weight", S_Q },
                 { "blk.1.attn_v.weight", S_V + 100 },
                 { "blk.1.ffn_up.weight", S_UP + 100 },
                 { "output.weight", S_OUT } };
    for (size_t k = 0; k < (_i ? 4 : 5); k++) {
        float *v = tensor_values(g, some[k].name, &t);
        for (size_t i = 0; i < t->n_values; i++) {
            const float want = value(some[k].seed, i) * 64 * ((float)(i / 16 + 1) / 8);
            ck_assert_msg(v[i] == want, "%s value %zu: %g, not %g", some[k].name, i, v[i], want);
        }
        free(v);
    }
    sg_gguf_close(&g);
}
END_TEST

/* ---- Hugging Face -------------------------------------------------------------------------------------------------
 */

START_TEST(hf_llama) {
    static const char *const dtypes[] = { "F32", "F16", "BF16" };
    write_config(_i == 2 ? "MistralForCausalLM" : "LlamaForCausalLM", "\"tie_word_embeddings\":false,");
    write_weights(&(hf_shape) { .dtype = dtypes[_i], .lm_head = true }, false);
    write_text("tokenizer.json", SPM_JSON);
    write_text("tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"chat_template\":\"T\"}");
    sg_gguf *g = converted(dir.path, "f32");
    expect_dims(g, "llama");
    ck_assert(f32_of(g, "llama.rope.freq_base") == 500.0f &&
              f32_of(g, "llama.attention.layer_norm_rms_epsilon") == 1e-6f);
    ck_assert(!sg_gguf_find(g, "llama.rope.scaling.type") && !sg_gguf_find(g, "sparsegen.ffn_activation"));
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 3 + 9 * LAYERS);
    expect_rows(g, "token_embd.weight", EMBD, VOCAB, S_EMBD, NULL, 0);
    expect_rows(g, "output_norm.weight", EMBD, 0, S_NORM, NULL, 0);
    expect_rows(g, "output.weight", EMBD, VOCAB, S_OUT, NULL, 0);
    expect_layers(g, true, 0);
    ck_assert_str_eq(str_of(g, "tokenizer.chat_template"), "T");
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 2);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(hf_llama_biases) {
    write_config("LlamaForCausalLM", "\"attention_bias\":true,\"num_hidden_layers\":1,");
    st_file f = { 0 };
    st_add(&f, "model.embed_tokens.weight", "F32", VOCAB, EMBD, S_EMBD);
    st_add_layer(&f, 0, &(hf_shape) { .dtype = "F32", .bias = true });
    st_add(&f, "model.layers.0.self_attn.o_proj.bias", "F32", 0, EMBD, 77);
    st_add(&f, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 0, HD / 2, 78);
    st_add(&f, "model.norm.weight", "F32", 0, EMBD, S_NORM);
    st_write(&f, "model.safetensors");
    write_text("tokenizer.json", SPM_JSON);
    sg_gguf *g = converted(dir.path, "q8_0");
    expect_rows(g, "blk.0.attn_q.bias", QDIM, 0, S_QB, permuted, 0);
    expect_rows(g, "blk.0.attn_k.bias", KDIM, 0, S_KB, permuted, 0);
    expect_rows(g, "blk.0.attn_v.bias", KDIM, 0, S_VB, NULL, 0);
    expect_rows(g, "blk.0.attn_output.bias", EMBD, 0, 77, NULL, 0);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(hf_qwen2_in_shards) {
    write_config("Qwen2ForCausalLM", "\"tie_word_embeddings\":true,");
    write_weights(&(hf_shape) { .dtype = "BF16", .bias = true, .lm_head = true }, true);
    write_text("tokenizer.json", BYTES_JSON);
    sg_gguf *g = converted(dir.path, NULL);
    expect_dims(g, "qwen2");
    ck_assert_uint_eq(u32_of(g, "general.file_type"), 1);
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 2 + 12 * LAYERS); /* tied: lm_head.weight is left out */
    expect_layers(g, false, 0);
    expect_rows(g, "blk.1.attn_q.bias", QDIM, 0, S_QB + 100, NULL, 0);
    expect_rows(g, "blk.1.attn_v.bias", KDIM, 0, S_VB + 100, NULL, 0);
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.attn_q.weight")->type, SG_DTYPE_F16);
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.attn_q.bias")->type, SG_DTYPE_F32);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(hf_qwen3) {
    char more[64];
    snprintf(more, sizeof more, "\"head_dim\":%d,", HD);
    write_config("Qwen3ForCausalLM", more);
    write_weights(&(hf_shape) { .dtype = "F16", .qk_norm = true, .lm_head = true }, false);
    write_text("tokenizer.json", BYTES_JSON);
    sg_gguf *g = converted(dir.path, "bf16");
    expect_dims(g, "qwen3");
    expect_layers(g, false, 0);
    expect_rows(g, "blk.1.attn_q_norm.weight", HD, 0, S_QN + 100, NULL, 0);
    expect_rows(g, "blk.0.attn_k_norm.weight", HD, 0, S_KN, NULL, 0);
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.attn_q.weight")->type, SG_DTYPE_BF16);
    ck_assert_uint_eq(u32_of(g, "general.file_type"), 32);
    sg_gguf_close(&g);
}
END_TEST

/* ---- types --------------------------------------------------------------------------------------------------------
 */

START_TEST(quantised_types) {
    write_llama_folder();
    sg_gguf *g = converted(dir.path, _i ? "Q4_0" : "q8_0");
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.ffn_down.weight")->type, _i ? SG_DTYPE_Q4_0 : SG_DTYPE_Q8_0);
    ck_assert_int_eq(sg_gguf_tensor(g, "token_embd.weight")->type, _i ? SG_DTYPE_Q4_0 : SG_DTYPE_Q8_0);
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.ffn_norm.weight")->type, SG_DTYPE_F32);
    ck_assert_uint_eq(u32_of(g, "general.file_type"), _i ? 2 : 7);
    expect_layers(g, true,
                  _i ? 0.26f
                     : 0.009f); /* the largest magnitude is 127/64: half a step of 1/8, of 1/127, and F16 scales */
    sg_gguf_close(&g);
}
END_TEST

/* Rows that are no whole blocks: F16, one line in the log. */
START_TEST(odd_rows_become_f16) {
    const int32_t p[7] = { 12, 20, 1, 2, 2, VOCAB, 4 };
    sg_str s = { 0 };
    sg_str_append(&s, (const char *)p, sizeof p);
    put_values(&s, 1, VOCAB * 12 + 12 + 4 * 12 * 12 + 12 + 3 * 12 * 20 + 12 + 4 * 6);
    write_str("odd.bin", s);
    write_str("tokenizer.bin", make_tokenizer_bin());
    sg_gguf *g = converted(in_dir("odd.bin"), "q4_0");
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.ffn_down.weight")->type, SG_DTYPE_F16);
    ck_assert_int_eq(sg_gguf_tensor(g, "blk.0.attn_q.weight")->type, SG_DTYPE_F16);
    expect_rows(g, "token_embd.weight", 12, VOCAB, 1, NULL, 0);
    const char *line = strstr(logged.data, "F16");
    ck_assert_msg(line && !strstr(line + 1, "F16"), "log: %s", logged.data);
    ck_assert_msg(strstr(logged.data, "8 tensors (token_embd.weight first)") != NULL, "log: %s", logged.data);
    sg_gguf_close(&g);
}
END_TEST

/* ---- rotary, window, activation -----------------------------------------------------------------------------------
 */

static sg_gguf *with_config(const char *arch, const char *more) {
    write_llama_folder();
    write_config(arch, more);
    return converted(dir.path, "f32");
}

/* Wavelengths for base 500 and 8 values: 6.3, 29.7, 140.5, 664.3. */
START_TEST(rope_llama3) {
    sg_gguf *g =
        with_config("LlamaForCausalLM",
                    _i ? "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
                         "\"high_freq_factor\":4,\"original_max_position_embeddings\":64},"
                       : "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500.0,\"factor\":8,"
                         "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64},");
    const sg_tensor_info *t;
    float *v = tensor_values(g, "rope_freqs.weight", &t);
    ck_assert(t->type == SG_DTYPE_F32 && t->n_dims == 1 && t->ne[0] == HD / 2);
    const double smooth = (64 / (2 * M_PI * pow(500, 0.25)) - 1) / 3;
    ck_assert(v[0] == 1.0f && v[2] == 8.0f && v[3] == 8.0f);
    ck_assert_float_eq_tol(v[1], (float)(1 / ((1 - smooth) / 8 + smooth)), 1e-6);
    ck_assert(!sg_gguf_find(g, "llama.rope.scaling.type"));
    free(v);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(rope_scalings) {
    sg_gguf *g = with_config("LlamaForCausalLM", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5},");
    ck_assert_str_eq(str_of(g, "llama.rope.scaling.type"), "linear");
    ck_assert(f32_of(g, "llama.rope.scaling.factor") == 2.5f);
    sg_gguf_close(&g);
    unlink(in_dir(OUT));
    g = with_config("LlamaForCausalLM",
                    "\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":700,\"factor\":4,"
                    "\"original_max_position_embeddings\":6,\"beta_fast\":16,\"attention_factor\":2.5},");
    ck_assert_str_eq(str_of(g, "llama.rope.scaling.type"), "yarn");
    ck_assert(f32_of(g, "llama.rope.scaling.factor") == 4.0f && f32_of(g, "llama.rope.freq_base") == 700.0f);
    ck_assert_uint_eq(u32_of(g, "llama.rope.scaling.original_context_length"), 6);
    ck_assert(f32_of(g, "llama.rope.scaling.yarn_beta_fast") == 16.0f &&
              !sg_gguf_find(g, "llama.rope.scaling.yarn_beta_slow"));
    ck_assert_float_eq_tol(f32_of(g, "llama.rope.scaling.attn_factor"), 2.5f / (1 + 0.1f * logf(4)), 1e-6);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(window_and_activation) {
    sg_gguf *g = with_config("MistralForCausalLM", "\"sliding_window\":7,\"hidden_act\":\"relu\",");
    ck_assert_uint_eq(u32_of(g, "llama.context_length"), 7);
    ck_assert_str_eq(str_of(g, "sparsegen.ffn_activation"), "relu");
    ck_assert(strstr(logged.data, "window of 7") != NULL);
    sg_gguf_close(&g);
}
END_TEST

/* ---- output file --------------------------------------------------------------------------------------------------
 */

START_TEST(output_is_not_overwritten) {
    write_llama_folder();
    write_text(OUT, "precious");
    sg_error err = { 0 };
    ck_assert_int_eq(convert(dir.path, NULL, &err), SG_E_EXISTS);
    ck_assert(strstr(err.message, OUT) != NULL);
    size_t n;
    uint8_t *bytes = temp_read(in_dir(OUT), &n);
    ck_assert(n == 8 && memcmp(bytes, "precious", 8) == 0);
    free(bytes);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = dir.path;
    o.output = in_dir(OUT);
    o.overwrite = true;
    ck_assert_int_eq(sg_convert(&o, &err), SG_OK);
    sg_gguf *g = NULL;
    ck_assert_int_eq(sg_gguf_open(in_dir(OUT), &g, &err), SG_OK);
    sg_gguf_close(&g);
    ck_assert_uint_eq(temp_count(&dir), 4);
}
END_TEST

typedef struct watch {
    uint64_t calls, stop_at, last, total;
} watch;
static bool on_progress(void *user, uint64_t done, uint64_t total) {
    watch *w = user;
    ck_assert(done >= w->last && done <= total);
    w->last = done;
    w->total = total;
    return ++w->calls != w->stop_at;
}

START_TEST(cancelled) {
    write_llama_folder();
    watch w = { 0 };
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = dir.path;
    o.output = in_dir(OUT);
    o.progress = on_progress;
    o.user = &w;
    ck_assert_int_eq(sg_convert(&o, NULL), SG_OK);
    ck_assert(w.last == w.total && w.calls == 1 + 3 + 9 * LAYERS);
    unlink(in_dir(OUT));
    const uint64_t calls = w.calls;
    for (uint64_t i = 1; i <= calls; i++) {
        w = (watch) { .stop_at = i };
        sg_error err = { 0 };
        ck_assert_int_eq(sg_convert(&o, &err), SG_E_CANCELLED);
        ck_assert_uint_eq(temp_count(&dir), 3); /* only the input */
    }
}
END_TEST

/* ---- real files ---------------------------------------------------------------------------------------------------
 */

/* The folders whose logits the integration test compares: here only that they convert. */
START_TEST(stored_folders) {
    static const char *const names[] = { "llama", "qwen2", "qwen3" };
    char path[512];
    snprintf(path, sizeof path, "%s/tests/data/hf/%s", getenv("SG_SOURCE_ROOT"), names[_i]);
    sg_gguf *g = converted(path, "f32");
    ck_assert_str_eq(str_of(g, "general.architecture"), names[_i]);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), _i == 0 ? "llama" : "gpt2");
    ck_assert(!sg_gguf_tensor(g, "output.weight") == (_i != 1));
    ck_assert(!sg_gguf_tensor(g, "rope_freqs.weight") == (_i != 0));
    sg_gguf_close(&g);
}
END_TEST

START_TEST(stories260k) {
    char path[512];
    static const char *const names[] = { "stories260K", "stories260K_v1" };
    snprintf(path, sizeof path, "%s/data/models/stories260K/%s.bin", getenv("SG_SHARED"), names[_i]);
    sg_gguf *g = converted(path, NULL);
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 47);
    ck_assert_uint_eq(u32_of(g, "llama.embedding_length"), 64);
    ck_assert_uint_eq(u32_of(g, "llama.attention.head_count_kv"), 4);
    ck_assert_uint_eq(sg_gguf_find(g, "tokenizer.ggml.tokens")->n, 512);
    ck_assert(!sg_gguf_tensor(g, "output.weight"));
    /* first values of two tensors, read off the checkpoint */
    snprintf(path, sizeof path, "%s/data/models/stories260K/stories260K.bin", getenv("SG_SHARED"));
    size_t n;
    uint8_t *bin = temp_read(path, &n);
    const sg_tensor_info *t;
    float *v = tensor_values(g, "token_embd.weight", &t);
    ck_assert(memcmp(v, bin + 28, t->n_values * 4) == 0);
    free(v);
    v = tensor_values(g, "blk.0.attn_norm.weight", &t);
    ck_assert(memcmp(v, bin + 28 + 512 * 64 * 4, t->n_values * 4) == 0);
    free(v);
    free(bin);
    sg_gguf_close(&g);
}
END_TEST

static bool have_shared(void) {
    char path[512];
    const char *root = getenv("SG_SHARED");
    snprintf(path, sizeof path, "%s/data/models/stories260K/tok512.bin", root ? root : "");
    if (root && access(path, R_OK) == 0) return true;
    printf("stories260K is not there, its test is left out\n");
    return false;
}

int main(void) {
    Suite *s = suite_create("convert");
    TCase *c = tcase_create("convert");
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_loop_test(c, llama2c_float, 0, 4);
    tcase_add_loop_test(c, llama2c_int8, 0, 2);
    tcase_add_loop_test(c, hf_llama, 0, 3);
    tcase_add_test(c, hf_llama_biases);
    tcase_add_test(c, hf_qwen2_in_shards);
    tcase_add_test(c, hf_qwen3);
    tcase_add_loop_test(c, quantised_types, 0, 2);
    tcase_add_test(c, odd_rows_become_f16);
    tcase_add_loop_test(c, rope_llama3, 0, 2);
    tcase_add_test(c, rope_scalings);
    tcase_add_test(c, window_and_activation);
    tcase_add_test(c, output_is_not_overwritten);
    tcase_add_test(c, cancelled);
    tcase_add_loop_test(c, stored_folders, 0, 3);
    if (have_shared()) tcase_add_loop_test(c, stories260k, 0, 2);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
