/* Golden models with one thing changed: what is not known or contradicts itself is refused by name, whatever the architecture. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/gguf.h"
#include "sparsegen.h"

static char path[256];

static void setup(void) { snprintf(path, sizeof path, "/tmp/sg-refused-%d.gguf", (int)getpid()); }
static void teardown(void) { unlink(path); }

static const struct change {
    const char *model;
    const char *key;             /* that is left out, or gets `value` */
    int64_t value;               /* -1: left out */
    const char *tensor, *rename; /* that is left out, or gets another name */
    sg_status status;
    const char *word;            /* must be in the message; NULL: the model runs */
} changes[] = {
    { "qwen3moe-q4_0", "qwen3moe.expert_gating_func", 4, NULL, NULL, SG_E_UNSUPPORTED, "expert_gating_func 4 is not a known form of router (1 softmax, 2 sigmoid" },
    { "qwen3moe-q4_0", "qwen3moe.expert_gating_func", 2, NULL, NULL, SG_OK, NULL },
    { "qwen3moe-q4_0", "qwen3moe.expert_used_count", -1, NULL, NULL, SG_E_FORMAT, "qwen3moe.expert_used_count is missing" },
    { "qwen3moe-q4_0", "qwen3moe.expert_used_count", 9, NULL, NULL, SG_E_FORMAT, "expert_used_count = 9 is not between 1 and 8" },
    { "qwen3moe-q4_0", "qwen3moe.expert_count", 7, NULL, NULL, SG_E_FORMAT, "ffn_gate_inp.weight is 64 x 8 x 1, expected 64 x 7 x 1" },
    { "qwen3moe-q4_0", "qwen3moe.expert_count", 0, NULL, NULL, SG_E_FORMAT, "qwen3moe.expert_count" },
    { "qwen3moe-q4_0", "qwen3moe.expert_group_count", 3, NULL, NULL, SG_E_FORMAT, "groups" },
    { "qwen3moe-q4_0", NULL, 0, "blk.0.ffn_up_exps.weight", NULL, SG_E_FORMAT, "blk.0.ffn_up_exps.weight is missing" },
    { "qwen3moe-q4_0", NULL, 0, "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_tid2eid.weight", SG_E_FORMAT, "ffn_gate_inp.weight is missing" },
    { "qwen2", "qwen2.expert_count", 4, NULL, NULL, SG_E_UNSUPPORTED, "qwen2 with 4 experts" },
    { "glm4moe", NULL, 0, "blk.1.ffn_up_shexp.weight", NULL, SG_E_FORMAT, "blk.1.ffn_up_shexp.weight is missing" },
    { "glm4moe", NULL, 0, "blk.1.exp_probs_b.bias", "blk.1.exp_probs_c.bias", SG_E_UNSUPPORTED, "tensor blk.1.exp_probs_c.bias is not part of architecture glm4moe" },
    { "glm4moe", "glm4moe.leading_dense_block_count", 0, NULL, NULL, SG_E_FORMAT, "blk.0.ffn_gate_exps.weight is missing" },
    { "olmoe-q", NULL, 0, "output.weight", "sparsegen.pregate.weight", SG_E_FORMAT, "tensor sparsegen.pregate.weight is 64 x " },
    { "olmoe-q", NULL, 0, "output.weight", "blk.1.sparsegen.ahead.weight", SG_E_FORMAT, "tensor blk.1.sparsegen.ahead.weight is 64 x " },
    { "olmoe-q", NULL, 0, "blk.1.ffn_gate_inp.weight", "blk.1.sparsegen.ahead.weight", SG_E_FORMAT, "blk.1.ffn_gate_inp.weight is missing" },
    { "deepseek2", NULL, 0, "blk.1.exp_probs_b.bias", "blk.1.sparsegen.ahead.bias", SG_E_FORMAT, "blk.1.sparsegen.ahead.weight is missing" },
    { "deepseek2", NULL, 0, "blk.1.exp_probs_b.bias", "blk.0.sparsegen.ahead.bias", SG_E_UNSUPPORTED, "blk.0.sparsegen.ahead.bias is not part of" },
    { "gpt-oss", NULL, 0, "blk.1.ffn_gate_inp.bias", "blk.1.sparsegen.ahead.bias", SG_E_FORMAT, "blk.1.ffn_gate_inp.bias is missing" },
    { "glm4moe", NULL, 0, "blk.1.exp_probs_b.bias", "sparsegen.pregate.bias", SG_E_FORMAT, "sparsegen.pregate.weight is missing" },
    { "gpt-oss", NULL, 0, "output.weight", "sparsegen.pregate.bias", SG_E_FORMAT, "sparsegen.pregate.bias is " },
    { "qwen2", NULL, 0, "blk.0.attn_q.bias", "sparsegen.pregate.bias", SG_E_UNSUPPORTED, "sparsegen.pregate.bias is not part of" },
    { "glm4moe", "glm4moe.nextn_predict_layers", 1, NULL, NULL, SG_OK, NULL }, /* its last layer is left out */
    { "gpt-oss", NULL, 0, "blk.0.attn_sinks.weight", NULL, SG_E_FORMAT, "blk.0.attn_sinks.weight is missing" },
    { "deepseek2", NULL, 0, "blk.0.attn_v_b.weight", NULL, SG_E_FORMAT, "blk.0.attn_v_b.weight is missing" },
    { "deepseek2", NULL, 0, "blk.2.attn_q_b.weight", NULL, SG_E_FORMAT, "blk.2.attn_q_b.weight is missing" },
    { "deepseek2", "deepseek2.attention.kv_lora_rank", -1, NULL, NULL, SG_E_FORMAT, "kv_lora_rank is missing" },
    { "deepseek2", "deepseek2.rope.dimension_count", 48, NULL, NULL, SG_E_FORMAT, "rotary" },
    { "qwen3next", "qwen3next.full_attention_interval", 3, NULL, NULL, SG_E_FORMAT, "blk.2.attn_q.weight is missing" },
    { "qwen3next", "qwen3next.ssm.group_count", 3, NULL, NULL, SG_E_FORMAT, "no delta net" },
    { "qwen3next", "qwen3next.ssm.conv_kernel", 65, NULL, NULL, SG_E_FORMAT, "ssm.conv_kernel = 65" },
    { "gemma2", "general.architecture", -1, NULL, NULL, SG_E_FORMAT, "general.architecture is missing" },
    { "gemma2", NULL, 0, "blk.1.post_ffw_norm.weight", NULL, SG_E_FORMAT, "blk.1.post_ffw_norm.weight is missing" },
    { "phi3-long", NULL, 0, "blk.0.ffn_up.weight", NULL, SG_E_FORMAT, "blk.0.ffn_up.weight is missing" },
    { "gpt2", NULL, 0, "position_embd.weight", NULL, SG_E_FORMAT, "position_embd.weight is missing" },
};

static void copy_data(sg_gguf_writer *w, const char *file, const sg_tensor_info *t, sg_error *err) {
    char *data = malloc((size_t)t->n_bytes);
    const int fd = open(file, O_RDONLY);
    ck_assert(fd >= 0 && pread(fd, data, (size_t)t->n_bytes, (off_t)t->offset) == (ssize_t)t->n_bytes);
    close(fd);
    ck_assert_msg(sg_gguf_writer_data(w, data, (size_t)t->n_bytes, err) == SG_OK, "%s", err->message);
    free(data);
}

static void write_keys(sg_gguf_writer *w, const sg_gguf *g, const struct change *c) {
    bool there = false;
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++) {
        const sg_gguf_kv *kv = sg_gguf_kv_at(g, i);
        if (!c->key || strcmp(kv->key, c->key) != 0) sg_gguf_writer_copy(w, kv);
        else there = true;
    }
    ck_assert_msg(!c->key || there || c->value >= 0, "%s has no key %s", c->model, c->key);
    if (c->key && c->value >= 0) sg_gguf_writer_u32(w, c->key, (uint32_t)c->value);
}

static void write_changed(const struct change *c) {
    char source[1024];
    sg_error err = { 0 };
    sg_gguf *g = NULL;
    sg_gguf_writer *w = NULL;
    bool there = c->tensor == NULL;
    snprintf(source, sizeof source, "%s/tests/data/goldens/%s.gguf", getenv("SG_SOURCE_ROOT"), c->model);
    ck_assert_msg(sg_gguf_open(source, &g, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_gguf_writer_create(path, 32, true, &w, &err) == SG_OK, "%s", err.message);
    write_keys(w, g, c);
    for (int data = 0; data < 2; data++) {
        for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
            const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
            const bool it = c->tensor && strcmp(t->name, c->tensor) == 0;
            there = there || it;
            if (it && !c->rename) continue;
            if (data) copy_data(w, source, t, &err);
            else sg_gguf_writer_tensor(w, it ? c->rename : t->name, t->type, t->n_dims, t->ne);
        }
        if (!data) ck_assert_msg(sg_gguf_writer_begin_data(w, &err) == SG_OK, "%s", err.message);
    }
    ck_assert_msg(there, "%s has no tensor %s", c->model, c->tensor);
    ck_assert_msg(sg_gguf_writer_finish(w, &err) == SG_OK, "%s", err.message);
    sg_gguf_writer_abort(&w);
    sg_gguf_close(&g);
}

START_TEST(changed) {
    const struct change *c = &changes[_i];
    write_changed(c);
    sg_model *m = NULL;
    sg_error err = { 0 };
    const sg_status s = sg_model_open(path, NULL, &m, &err);
    ck_assert_msg(s == c->status, "%s, %s: status %d (%s), expected %d", c->model, c->key ? c->key : c->tensor, (int)s, err.message, (int)c->status);
    if (c->word) ck_assert_msg(strstr(err.message, c->word) && strstr(err.message, path), "\"%s\" does not say \"%s\" and the file", err.message, c->word);
    sg_model_close(&m);
}
END_TEST

/* An architecture that is not known: the message lists all that are. */
START_TEST(unknown_architecture) {
    char source[1024];
    sg_error err = { 0 };
    sg_gguf *g = NULL;
    sg_gguf_writer *w = NULL;
    snprintf(source, sizeof source, "%s/tests/data/goldens/qwen2.gguf", getenv("SG_SOURCE_ROOT"));
    ck_assert(sg_gguf_open(source, &g, &err) == SG_OK && sg_gguf_writer_create(path, 32, true, &w, &err) == SG_OK);
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++)
        if (strcmp(sg_gguf_kv_at(g, i)->key, "general.architecture") != 0) sg_gguf_writer_copy(w, sg_gguf_kv_at(g, i));
    sg_gguf_writer_str(w, "general.architecture", "rwkv7");
    ck_assert(sg_gguf_writer_begin_data(w, &err) == SG_OK && sg_gguf_writer_finish(w, &err) == SG_OK);
    sg_gguf_writer_abort(&w);
    sg_gguf_close(&g);
    sg_model *m = NULL;
    ck_assert_int_eq(sg_model_open(path, NULL, &m, &err), SG_E_UNSUPPORTED);
    static const char *const words[] = { path, "\"rwkv7\" is not known (arcee, ", ", qwen3next, ", ", smallthinker)" };
    for (int i = 0; i < 4; i++) ck_assert_msg(strstr(err.message, words[i]), "\"%s\" does not say %s", err.message, words[i]);
}
END_TEST

/* Experts are chosen by their router: a predictor of their neurons is refused where it is named. */
START_TEST(predictor_of_experts) {
    char source[1024], bin[300];
    sg_error err = { 0 };
    sg_gguf *g = NULL;
    sg_gguf_writer *w = NULL;
    snprintf(source, sizeof source, "%s/tests/data/goldens/qwen3moe-q4_0.gguf", getenv("SG_SOURCE_ROOT"));
    snprintf(bin, sizeof bin, "%s.bin", path);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = source;
    o.output = bin;
    o.format = SG_CONVERT_BIN;
    ck_assert_msg(sg_convert(&o, &err) == SG_OK && sg_gguf_open(bin, &g, &err) == SG_OK, "%s", err.message);
    for (int with = 0; with < 2; with++) {
        const sg_gguf_string kinds[] = { { "none", 4 }, { "sign", 4 } };
        ck_assert(sg_gguf_writer_create(path, (uint32_t)sg_gguf_alignment(g), true, &w, &err) == SG_OK);
        for (size_t i = 0; i < sg_gguf_n_kv(g); i++) sg_gguf_writer_copy(w, sg_gguf_kv_at(g, i));
        if (with) sg_gguf_writer_strings(w, "sparsegen.predictor.kind", kinds, 2);
        for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
            const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
            sg_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne);
        }
        ck_assert(sg_gguf_writer_begin_data(w, &err) == SG_OK);
        for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) copy_data(w, bin, sg_gguf_tensor_at(g, i), &err);
        ck_assert(sg_gguf_writer_finish(w, &err) == SG_OK);
        sg_gguf_writer_abort(&w);
        sg_model *m = NULL;
        const sg_status s = sg_model_open(path, NULL, &m, &err);
        sg_model_close(&m);
        ck_assert_msg(s == (with ? SG_E_UNSUPPORTED : SG_OK), "%s", err.message);
    }
    ck_assert_msg(strstr(err.message, "layer 1 has a predictor for neurons of experts"), "%s", err.message);
    sg_gguf_close(&g);
    unlink(bin);
}
END_TEST

int main(void) {
    Suite *s = suite_create("refused");
    TCase *t = tcase_create("refused");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, changed, 0, sizeof changes / sizeof *changes);
    tcase_add_test(t, unknown_architecture);
    tcase_add_test(t, predictor_of_experts);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
