/* Models that contradict their architecture, and what sessions promise. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sparsegen.h"
#include "tests/unit/tiny_model.h"

static char path[256];

static void setup(void) { snprintf(path, sizeof path, "%s/sg-model-%d.gguf", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid()); }
static void teardown(void) { unlink(path); }

/* A good model with one thing changed. */
#pragma GCC diagnostic ignored "-Woverride-init"
static const struct bad {
    const char *what, *word; /* `word` must be in the message */
    sg_status status;
    tiny_model t;
} bad[] = {
#define T(...) { .arch = "llama", .n_embd = 64, .n_layer = 2, .n_head = 4, .n_head_kv = 2, .n_ff = 96, .n_rot = 16, .eps = 1e-5f, \
                 .freq_base = 10000.0f, .n_tokens = TINY_VOCAB, __VA_ARGS__ }
    { "no architecture", "general.architecture", SG_E_FORMAT, T(.skip_key = "general.architecture") },
    { "unknown architecture", "\"mamba\"", SG_E_UNSUPPORTED, T(.arch = "mamba") },
    { "experts", "expert_used_count is missing", SG_E_FORMAT, T(.n_expert = 8) },
    { "no layers key", "llama.block_count", SG_E_FORMAT, T(.skip_key = "llama.block_count") },
    { "zero layers", "llama.block_count", SG_E_FORMAT, T(.n_layer = 0) },
    { "more layers than tensors", "blk.4.attn_norm.weight", SG_E_FORMAT, T(.n_layer = 5) },
    { "absurd layers", "llama.block_count", SG_E_FORMAT, T(.n_layer = 1u << 31) },
    { "zero heads", "attention.head_count", SG_E_FORMAT, T(.n_head = 0) },
    { "heads no multiple", "no multiple", SG_E_FORMAT, T(.n_head_kv = 3) },
    { "more kv heads than heads", "head_count_kv", SG_E_FORMAT, T(.n_head_kv = 8) },
    { "embedding no multiple of heads", "no multiple", SG_E_FORMAT, T(.n_head = 5, .n_head_kv = 5) },
    { "odd rotary", "odd", SG_E_FORMAT, T(.n_rot = 15) },
    { "rotary above the head", "rope.dimension_count", SG_E_FORMAT, T(.n_rot = 18) },
    { "NaN epsilon", "layer_norm_rms_epsilon", SG_E_FORMAT, T(.eps = NAN) },
    { "infinite base", "rope.freq_base", SG_E_FORMAT, T(.freq_base = INFINITY) },
    { "negative base", "rope.freq_base", SG_E_FORMAT, T(.freq_base = -1.0f) },
    { "unknown rope scaling", "\"su\"", SG_E_UNSUPPORTED, T(.rope_type = "su") },
    { "unknown activation", "\"swish9\"", SG_E_UNSUPPORTED, T(.activation = "swish9") },
    { "no embedding", "token_embd.weight", SG_E_FORMAT, T(.skip_tensor = "token_embd.weight") },
    { "no gate in layer 1", "blk.1.ffn_gate.weight is missing", SG_E_FORMAT, T(.skip_tensor = "blk.1.ffn_gate.weight") },
    { "odd matrix", "blk.0.attn_k.weight is 64 x 33", SG_E_FORMAT, T(.odd_tensor = "blk.0.attn_k.weight") },
    { "odd vector", "blk.1.ffn_norm.weight is 65 x 1", SG_E_FORMAT, T(.odd_tensor = "blk.1.ffn_norm.weight") },
    { "unknown tensor", "blk.0.attn_sinks", SG_E_UNSUPPORTED, T(.extra_tensor = "blk.0.attn_sinks.weight") },
    { "vocabulary missing", "tokenizer.ggml.tokens", SG_E_FORMAT, T(.skip_key = "tokenizer.ggml.tokens") },
    { "tokenizer missing", "tokenizer.ggml.model", SG_E_FORMAT, T(.skip_key = "tokenizer.ggml.model") },
#undef T
};

START_TEST(refuses) {
    const struct bad *b = &bad[_i];
    tiny_model_write(&b->t, path);
    sg_model *m = NULL;
    sg_error err = { 0 };
    const sg_status s = sg_model_open(path, NULL, &m, &err);
    ck_assert_msg(s == b->status, "%s: status %d (%s), expected %d", b->what, (int)s, err.message, (int)b->status);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.message, b->word) != NULL, "%s: \"%s\" does not say \"%s\"", b->what, err.message, b->word);
    ck_assert_msg(strstr(err.message, path) != NULL, "%s: \"%s\" does not name the file", b->what, err.message);
}
END_TEST

static sg_model *open_tiny(const char *activation) {
    tiny_model t = TINY_MODEL_INIT;
    t.activation = activation;
    tiny_model_write(&t, path);
    sg_model *m = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(path, NULL, &m, &err) == SG_OK, "%s", err.message);
    return m;
}

START_TEST(activations_differ) {
    float last[3] = { 0 };
    const char *const acts[3] = { "silu", "relu", "drelu" };
    for (int i = 0; i < 3; i++) {
        sg_model *m = open_tiny(acts[i]);
        sg_session *s = NULL;
        ck_assert_int_eq(sg_session_create(m, NULL, &s, NULL), SG_OK);
        const int32_t ids[] = { 1, 270, 280, 290 };
        ck_assert_int_eq(sg_session_feed(s, ids, 4, 1, NULL), SG_OK);
        last[i] = sg_session_logits(s, 0)[7];
        ck_assert(isfinite(last[i]));
        sg_session_destroy(&s);
        sg_model_close(&m);
    }
    ck_assert(last[0] != last[1] && last[1] != last[2] && last[0] != last[2]);
}
END_TEST

/* Last logits of a tiny model with these rotary keys. */
static float rope_logit(const char *type, float factor, float scale_linear) {
    tiny_model t = TINY_MODEL_INIT;
    t.rope_type = type;
    t.rope_factor = factor;
    t.scale_linear = scale_linear;
    tiny_model_write(&t, path);
    sg_model *m = NULL;
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(path, NULL, &m, &err) == SG_OK, "%s", err.message);
    ck_assert_int_eq(sg_session_create(m, NULL, &s, &err), SG_OK);
    const int32_t ids[] = { 1, 270, 280, 290, 265, 263, 281 };
    ck_assert_int_eq(sg_session_feed(s, ids, 7, 1, &err), SG_OK);
    const float logit = sg_session_logits(s, 0)[9];
    sg_session_destroy(&s);
    sg_model_close(&m);
    return logit;
}

/* As in llama.cpp: a factor without a type is linear, "none" switches every factor off. */
START_TEST(rope_scaling_keys) {
    const float plain = rope_logit(NULL, 0, 0), linear = rope_logit("linear", 4, 0);
    ck_assert(plain != linear);
    ck_assert(rope_logit(NULL, 4, 0) == linear);
    ck_assert(rope_logit(NULL, 0, 4) == linear);
    ck_assert(rope_logit("none", 4, 0) == plain);
    ck_assert(rope_logit("none", 0, 4) == plain);
    const float yarn = rope_logit("yarn", 4, 0);
    ck_assert(yarn != plain && yarn != linear);
}
END_TEST

/* Text that is to be continued must not end with the end token, whatever the file asks for. */
START_TEST(no_end_token_in_prompts) {
    tiny_model t = TINY_MODEL_INIT;
    t.add_eos = true;
    tiny_model_write(&t, path);
    sg_model *m = NULL;
    sg_session *s = NULL;
    ck_assert_int_eq(sg_model_open(path, NULL, &m, NULL), SG_OK);
    int32_t *ids = NULL;
    size_t n = 0;
    ck_assert_int_eq(sg_tokenize(m, "ab", 2, SG_TOKENIZE_SPECIAL, &ids, &n, NULL), SG_OK);
    ck_assert_int_eq(ids[n - 1], 2);
    sg_free(ids);
    ck_assert_int_eq(sg_session_create(m, NULL, &s, NULL), SG_OK);
    ck_assert_int_eq(sg_session_feed_text(s, "ab", 2, NULL), SG_OK);
    ck_assert_uint_eq(sg_session_length(s), n - 1);
    ck_assert_int_eq(sg_session_tokens(s)[0], 1);
    ck_assert_int_ne(sg_session_tokens(s)[n - 2], 2);
    ck_assert_int_eq(sg_session_sync(s, sg_session_tokens(s), n - 1, NULL), SG_OK); /* the timeline itself */
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

START_TEST(vocabulary_alone) {
    tiny_model t = TINY_MODEL_INIT;
    t.skip_tensor = "blk.0.attn_q.weight"; /* cannot run, but can tokenize */
    tiny_model_write(&t, path);
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    o.vocab_only = true;
    sg_model *m = NULL;
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_model_open(path, NULL, &m, &err), SG_E_FORMAT);
    ck_assert_msg(sg_model_open(path, &o, &m, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_eq(sg_model_get_info(m)->n_vocab, TINY_VOCAB);
    ck_assert_str_eq(sg_model_get_info(m)->architecture, "llama");
    ck_assert_uint_eq(sg_model_get_info(m)->n_bytes, 0);
    int32_t *ids = NULL;
    size_t n = 0;
    ck_assert_int_eq(sg_tokenize(m, "ab", 2, SG_TOKENIZE_SPECIAL, &ids, &n, NULL), SG_OK);
    ck_assert_int_eq(ids[0], 1);
    sg_free(ids);
    ck_assert_int_eq(sg_session_create(m, NULL, &s, &err), SG_E_ARG);
    ck_assert_ptr_null(s);
    sg_model_close(&m);
}
END_TEST

/* One model, two sessions on threads of their own with teams of their own. */
typedef struct pair {
    sg_model *m;
    float logits[TINY_VOCAB];
} pair;

static void *feed_alone(void *arg) {
    pair *p = arg;
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    o.n_threads = 4;
    sg_session *s = NULL;
    const int32_t ids[] = { 1, 270, 280, 290 };
    if (sg_session_create(p->m, &o, &s, NULL) != SG_OK) return NULL;
    for (int i = 0; i < 10; i++)
        if (sg_session_feed(s, ids, 4, 1, NULL) != SG_OK) return NULL;
    memcpy(p->logits, sg_session_logits(s, 0), sizeof p->logits);
    sg_session_destroy(&s);
    return p;
}

START_TEST(two_sessions) {
    sg_model *m = open_tiny("relu");
    static pair a, b;
    a.m = b.m = m;
    pthread_t t;
    void *done = NULL;
    ck_assert_int_eq(pthread_create(&t, NULL, feed_alone, &a), 0);
    ck_assert_ptr_eq(feed_alone(&b), &b);
    ck_assert_int_eq(pthread_join(t, &done), 0);
    ck_assert_ptr_eq(done, &a);
    ck_assert_mem_eq(a.logits, b.logits, sizeof a.logits);
    sg_model_close(&m);
}
END_TEST

START_TEST(session_edges) {
    sg_model *m = open_tiny(NULL);
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    o.n_ctx = 8;
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_session_create(m, &o, &s, &err), SG_OK);
    ck_assert_uint_eq(sg_session_capacity(s), 8);
    ck_assert_ptr_null(sg_session_logits(s, 0));
    const int32_t ids[9] = { 1, 260, 261, 262, 263, 264, 265, 266, 267 };
    const int32_t out_of_range[2] = { 1, TINY_VOCAB }, negative[1] = { -1 };
    ck_assert_int_eq(sg_session_feed(s, ids, 9, 1, &err), SG_E_CONTEXT);
    ck_assert_int_eq(sg_session_feed(s, out_of_range, 2, 1, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_feed(s, negative, 1, 1, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_feed(s, ids, 4, 0, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_feed(s, ids, 4, 5, &err), SG_E_ARG);
    ck_assert_uint_eq(sg_session_length(s), 0);
    ck_assert_int_eq(sg_session_feed(s, ids, 8, 1, &err), SG_OK);
    ck_assert_int_eq(sg_session_feed(s, ids, 1, 1, &err), SG_E_CONTEXT);
    ck_assert_int_eq(sg_session_rewind(s, 9, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_rewind(s, 3, &err), SG_OK);
    ck_assert_ptr_null(sg_session_logits(s, 0));
    sg_session_destroy(&s);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* Rewinding, syncing and feeding in pieces lead to the same bits as feeding at once. */
START_TEST(timelines_agree) {
    sg_model *m = open_tiny("drelu");
    sg_session *a = NULL, *b = NULL;
    ck_assert_int_eq(sg_session_create(m, NULL, &a, NULL), SG_OK);
    ck_assert_int_eq(sg_session_create(m, NULL, &b, NULL), SG_OK);
    const int32_t ids[6] = { 1, 260, 271, 262, 283, 264 }, other[5] = { 1, 260, 271, 299, 298 };
    ck_assert_int_eq(sg_session_feed(a, ids, 6, 1, NULL), SG_OK);
    ck_assert_int_eq(sg_session_sync(b, other, 5, NULL), SG_OK);
    ck_assert_int_eq(sg_session_sync(b, ids, 6, NULL), SG_OK);
    const size_t bytes = TINY_VOCAB * sizeof(float);
    ck_assert_mem_eq(sg_session_logits(a, 0), sg_session_logits(b, 0), bytes);
    ck_assert_mem_eq(sg_session_tokens(b), ids, sizeof ids);
    ck_assert_int_eq(sg_session_sync(b, ids, 6, NULL), SG_OK); /* nothing new: the last token again */
    ck_assert_mem_eq(sg_session_logits(a, 0), sg_session_logits(b, 0), bytes);
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&m);
}
END_TEST

START_TEST(cancel_before_feed) {
    sg_model *m = open_tiny(NULL);
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_session_create(m, NULL, &s, NULL), SG_OK);
    const int32_t ids[2] = { 1, 260 };
    sg_session_cancel(s);
    ck_assert_int_eq(sg_session_feed(s, ids, 2, 1, &err), SG_E_CANCELLED);
    ck_assert_uint_eq(sg_session_length(s), 0);
    ck_assert_int_eq(sg_session_feed(s, ids, 2, 1, &err), SG_OK);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("model");
    TCase *t = tcase_create("model");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, refuses, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, activations_differ);
    tcase_add_test(t, rope_scaling_keys);
    tcase_add_test(t, no_end_token_in_prompts);
    tcase_add_test(t, vocabulary_alone);
    tcase_add_test(t, two_sessions);
    tcase_add_test(t, session_edges);
    tcase_add_test(t, timelines_agree);
    tcase_add_test(t, cancel_before_feed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
