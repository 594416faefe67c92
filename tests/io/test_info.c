/* sg_file_info: figures of files made here, counted by hand, as text and as JSON. */
#include "io/gguf.h"
#include "tests/io/temp.h"

#include <cjson/cJSON.h>
#include <check.h>

static temp_dir tmp;
static void setup(void) { temp_open(&tmp); }
static void teardown(void) { temp_close(&tmp); }

typedef struct tensor {
    const char *name;
    sg_dtype type;
    uint64_t ne[3]; /* zeros at the end: unused */
} tensor;

static void add_tensors(sg_gguf_writer *w, const tensor *list, size_t n) {
    sg_error err = { 0 };
    for (size_t i = 0; i < n; i++) {
        const uint32_t dims = list[i].ne[2] ? 3 : list[i].ne[1] ? 2 : 1;
        sg_gguf_writer_tensor(w, list[i].name, list[i].type, dims, list[i].ne);
    }
    ck_assert_msg(sg_gguf_writer_begin_data(w, &err) == SG_OK, "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        uint64_t values = list[i].ne[0];
        if (list[i].ne[1]) values *= list[i].ne[1];
        if (list[i].ne[2]) values *= list[i].ne[2];
        const size_t bytes = (size_t)sg_dtype_bytes(sg_dtype_get(list[i].type), values);
        void *zeros = calloc(1, bytes);
        ck_assert_msg(sg_gguf_writer_data(w, zeros, bytes, &err) == SG_OK, "%s", err.message);
        free(zeros);
    }
    ck_assert_msg(sg_gguf_writer_finish(w, &err) == SG_OK, "%s", err.message);
    sg_gguf_writer_abort(&w);
}

static sg_gguf_writer *begin(const char *path, const char *arch) {
    sg_gguf_writer *w = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_gguf_writer_create(path, 0, true, &w, &err) == SG_OK, "%s", err.message);
    sg_gguf_writer_str(w, "general.architecture", arch);
    return w;
}

static char *describe(const char *path, bool json) {
    sg_file_info *info = NULL;
    sg_error err = { 0 };
    char *text = NULL;
    ck_assert_msg(sg_file_info_open(path, &info, &err) == SG_OK, "%s", err.message);
    ck_assert_int_eq(sg_file_info_text(info, json, &text, &err), SG_OK);
    sg_file_info_close(&info);
    ck_assert_ptr_null(info);
    return text;
}

/* Number at "a.b.c"; -1 for null. */
static double number(const cJSON *json, const char *where) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", where);
    for (char *save, *part = strtok_r(copy, ".", &save); part && json; part = strtok_r(NULL, ".", &save))
        json = cJSON_GetObjectItemCaseSensitive(json, part);
    ck_assert_msg(json != NULL, "%s is not there", where);
    ck_assert_msg(cJSON_IsNumber(json) || cJSON_IsNull(json), "%s is no number", where);
    return cJSON_IsNull(json) ? -1 : json->valuedouble;
}

typedef struct expected {
    const char *where;
    double value;
} expected;

static void check_json(const char *path, const expected *list, size_t n) {
    char *text = describe(path, true);
    cJSON *json = cJSON_Parse(text);
    ck_assert(cJSON_IsObject(json));
    for (size_t i = 0; i < n; i++) {
        const double v = number(json, list[i].where);
        ck_assert_msg(v == list[i].value, "%s is %g, not %g", list[i].where, v, list[i].value);
    }
    cJSON_Delete(json);
    sg_free(text);
}

static void check_text(const char *path, const char *const *lines, size_t n) {
    char *text = describe(path, false);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(strstr(text, lines[i]) != NULL, "\"%s\" is not in\n%s", lines[i], text);
    sg_free(text);
}

START_TEST(dense_model) {
    static const tensor tensors[] = {
        { "token_embd.weight", SG_DTYPE_F16, { 64, 10 } },    { "blk.0.attn_norm.weight", SG_DTYPE_F32, { 64 } },
        { "blk.0.attn_q.weight", SG_DTYPE_Q8_0, { 64, 64 } }, { "blk.0.attn_k.weight", SG_DTYPE_Q8_0, { 64, 32 } },
        { "blk.0.attn_q_norm.weight", SG_DTYPE_F32, { 16 } }, { "blk.1.attn_k.weight", SG_DTYPE_Q8_0, { 64, 32 } },
        { "blk.0.ffn_up.weight", SG_DTYPE_Q4_0, { 64, 96 } }, { "output.weight", SG_DTYPE_F16, { 64, 10 } },
        { "output_norm.weight", SG_DTYPE_F32, { 64 } },
    };
    static const sg_gguf_string vocab[] = { { "a", 1 }, { "<s>\x1b[31m", 8 }, { "\xff", 1 } };
    static const expected numbers[] = {
        { "gguf_version", 3 },
        { "parameters", 640 + 64 + 4096 + 2048 + 16 + 2048 + 6144 + 640 + 64 },
        { "active_parameters", 640 + 64 + 4096 + 2048 + 16 + 2048 + 6144 + 640 + 64 },
        { "weight_bytes", 1280 + 256 + 4352 + 2176 + 64 + 2176 + 3456 + 1280 + 256 },
        { "kv_bytes_per_token_f16", 2 * 2 * (2 * 16 + 2 * 16) }, /* layers, bytes, heads of 16 */
        { "attention_layers", 2 },
        { "hyperparameters.context", 100 },
        { "hyperparameters.kv_heads", 2 },
        { "hyperparameters.sliding_window", -1 },
        { "hyperparameters.rope_base", 5e5 },
        { "experts", -1 },
        { "tokenizer.vocabulary", 3 },
        { "tokenizer.bos", 1 },
        { "tokenizer.eos", -1 },
        { "tensors_by_type.F16.tensors", 2 },
        { "tensors_by_type.Q8_0.bytes", 4352 + 2176 + 2176 },
        { "tensors_by_part.embedding.bytes", 1280 },
        { "tensors_by_part.attention.tensors", 3 },
        { "tensors_by_part.ffn.bytes", 3456 },
        { "tensors_by_part.norms.tensors", 3 },
        { "tensors_by_part.output.bytes", 1280 },
        { "tensors_by_part.other.tensors", 0 },
    };
    static const char *const lines[] = {
        "architecture         llama\n",
        "name                 evil ?[0m name\n",
        "context            100\n",
        "BOS                1 \"<s>?[31m\"\n",
        "256 bytes per token in F16, 2 layers; 0.02 MiB for 100 tokens",
        "rope base          500000\n",
        "chat template      chatml\n",
    };
    const char *path = temp_path(&tmp, "dense.gguf");
    sg_gguf_writer *w = begin(path, "llama");
    sg_gguf_writer_str(w, "general.name", "evil \x1b[0m name");
    sg_gguf_writer_u32(w, "llama.context_length", 100);
    sg_gguf_writer_u32(w, "llama.embedding_length", 64);
    sg_gguf_writer_u32(w, "llama.block_count", 2);
    sg_gguf_writer_u32(w, "llama.attention.head_count", 4);
    sg_gguf_writer_u32(w, "llama.attention.head_count_kv", 2);
    sg_gguf_writer_f32(w, "llama.rope.freq_base", 5e5f);
    sg_gguf_writer_str(w, "tokenizer.ggml.model", "llama");
    sg_gguf_writer_strings(w, "tokenizer.ggml.tokens", vocab, 3);
    sg_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    sg_gguf_writer_str(w, "tokenizer.chat_template", "{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}");
    add_tensors(w, tensors, sizeof tensors / sizeof tensors[0]);
    check_json(path, numbers, sizeof numbers / sizeof numbers[0]);
    check_text(path, lines, sizeof lines / sizeof lines[0]);
    char *text = describe(path, false);
    for (const char *p = text; *p; p++) ck_assert(*p == '\n' || (unsigned char)*p >= 0x20);
    ck_assert_ptr_null(strstr(text, "experts"));
    sg_free(text);
}
END_TEST

START_TEST(mixture_of_experts) {
    static const tensor tensors[] = {
        { "token_embd.weight", SG_DTYPE_F16, { 32, 10 } },
        { "blk.0.attn_kv_a_mqa.weight", SG_DTYPE_F16, { 32, 20 } },
        { "blk.0.ffn_down.weight", SG_DTYPE_F16, { 32, 32 } },
        { "blk.1.attn_kv_a_mqa.weight", SG_DTYPE_F16, { 32, 20 } },
        { "blk.1.ffn_gate_inp.weight", SG_DTYPE_F32, { 32, 8 } },
        { "blk.1.exp_probs_b.bias", SG_DTYPE_F32, { 8 } },
        { "blk.1.ffn_up_exps.weight", SG_DTYPE_Q8_0, { 32, 64, 8 } },   /* 2176 bytes an expert */
        { "blk.1.ffn_down_exps.weight", SG_DTYPE_Q4_0, { 64, 32, 8 } }, /* 1152 */
        { "blk.1.ffn_up_shexp.weight", SG_DTYPE_F16, { 32, 64 } },
        { "blk.2.attn_kv_a_mqa.weight", SG_DTYPE_F16, { 32, 20 } }, /* layer 2 predicts a further token: not used */
        { "blk.2.ffn_gate_inp.weight", SG_DTYPE_F32, { 32, 8 } },
        { "blk.2.ffn_up_exps.weight", SG_DTYPE_Q8_0, { 32, 64, 8 } },
    };
    static const expected numbers[] = {
        { "parameters", 320 + 640 + 1024 + 640 + 256 + 8 + 2 * 16384 + 2048 + 640 + 256 + 16384 },
        { "active_parameters", 320 + 640 + 1024 + 640 + 256 + 8 + 2 * 16384 / 8 * 3 + 2048 },
        { "kv_bytes_per_token_f16", 2 * 2 * (16 + 4 + 16) }, /* layers, bytes, latent and rotary key, latent value: what the cache takes */
        { "attention_layers", 2 },
        { "experts.count", 8 },
        { "experts.used", 3 },
        { "experts.shared", 1 },
        { "experts.layers", 1 },
        { "experts.bytes_of_one", 2176 + 1152 },
        { "experts.routed_bytes_per_token", 3 * (2176 + 1152) },
        { "tensors_by_part.experts.tensors", 3 },
        { "tensors_by_part.router.tensors", 3 },
        { "tensors_by_part.shared_experts.bytes", 4096 },
        { "tensors_by_part.ffn.bytes", 2048 },
    };
    static const char *const lines[] = { "active per token   17224\n", "count              8\n",
                                         "= 1 (layers) x 3 (experts) x 0.003 MiB\n",
                                         "the output matrix is the embedding\n", "(latent vectors)" };
    const char *path = temp_path(&tmp, "moe.gguf");
    sg_gguf_writer *w = begin(path, "deepseek2");
    sg_gguf_writer_u32(w, "deepseek2.block_count", 3);
    sg_gguf_writer_u32(w, "deepseek2.nextn_predict_layers", 1);
    sg_gguf_writer_u32(w, "deepseek2.expert_count", 8);
    sg_gguf_writer_u32(w, "deepseek2.expert_used_count", 3);
    sg_gguf_writer_u32(w, "deepseek2.expert_shared_count", 1);
    sg_gguf_writer_u32(w, "deepseek2.attention.kv_lora_rank", 16);
    sg_gguf_writer_u32(w, "deepseek2.rope.dimension_count", 4);
    add_tensors(w, tensors, sizeof tensors / sizeof tensors[0]);
    check_json(path, numbers, sizeof numbers / sizeof numbers[0]);
    check_text(path, lines, sizeof lines / sizeof lines[0]);
}
END_TEST

/* Numbers that differ by layer; layers without attention; a linear-attention layer. */
START_TEST(hybrid_layers) {
    static const tensor tensors[] = {
        { "blk.0.shortconv.conv.weight", SG_DTYPE_F32, { 8 } }, { "blk.1.attn_k.weight", SG_DTYPE_F32, { 8 } },
        { "blk.2.attn_qkv.weight", SG_DTYPE_F32, { 8 } },       { "blk.2.ssm_out.weight", SG_DTYPE_F32, { 8 } },
        { "blk.3.attn_qkv.weight", SG_DTYPE_F32, { 8 } },
    };
    static const int32_t kv_heads[] = { 0, 2, 5, 3 };
    static const expected numbers[] = {
        { "kv_bytes_per_token_f16", 2 * (2 + 3) * (10 + 6) },
        { "attention_layers", 2 },
        { "tensors_by_part.recurrent.tensors", 2 },
        { "tensors_by_part.attention.tensors", 3 },
    };
    static const char *const lines[] = { "KV heads           0 to 5 by layer\n" };
    const char *path = temp_path(&tmp, "hybrid.gguf");
    sg_gguf_writer *w = begin(path, "lfm2");
    sg_gguf_writer_array(w, "lfm2.attention.head_count_kv", SG_GGUF_I32, kv_heads, 4);
    sg_gguf_writer_u32(w, "lfm2.attention.key_length", 10);
    sg_gguf_writer_u32(w, "lfm2.attention.value_length", 6);
    add_tensors(w, tensors, sizeof tensors / sizeof tensors[0]);
    check_json(path, numbers, sizeof numbers / sizeof numbers[0]);
    check_text(path, lines, 1);
    char *text = describe(path, true);
    ck_assert_ptr_nonnull(strstr(text, "\"kv_heads\":\t[0, 5]"));
    sg_free(text);
}
END_TEST

START_TEST(bad_files) {
    const char *path = temp_path(&tmp, "x.gguf");
    sg_file_info *info = NULL;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_file_info_open(temp_path(&tmp, "absent"), &info, &err), SG_E_NOT_FOUND);
    ck_assert_int_eq(sg_file_info_open(NULL, &info, &err), SG_E_ARG);
    sg_gguf_writer *w = begin(path, "llama");
    sg_gguf_writer_str(w, "llama.block_count", "many");
    add_tensors(w, NULL, 0);
    ck_assert_int_eq(sg_file_info_open(path, &info, &err), SG_E_FORMAT);
    ck_assert_msg(strstr(err.message, "llama.block_count") && strstr(err.message, "string"), "%s", err.message);
    ck_assert_ptr_null(info);
    w = begin(path, "llama");
    add_tensors(w, NULL, 0);
    char *text = describe(path, false); /* a file with next to nothing in it */
    ck_assert_ptr_nonnull(strstr(text, "no tensors"));
    ck_assert_ptr_nonnull(strstr(text, "tokenizer\n  none"));
    sg_free(text);
    sg_file_info_close(&info);
    sg_file_info_close(NULL);
}
END_TEST

int main(void) {
    Suite *s = suite_create("info");
    TCase *t = tcase_create("info");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, dense_model);
    tcase_add_test(t, mixture_of_experts);
    tcase_add_test(t, hybrid_layers);
    tcase_add_test(t, bad_files);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
