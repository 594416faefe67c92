/* Sessions over the golden models, and a session that never did anything else to compare with. */
#ifndef SG_TESTS_PAST_FIXTURE_H
#define SG_TESTS_PAST_FIXTURE_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/session.h"
#include "sparsegen.h"

enum { CTX = 260, VOCAB = 512 };

/* Windows of 8 tokens, latent vectors, convolutions, a delta net, and none of all that. */
static const char *const models[] = { "gemma3", "gpt-oss", "deepseek2", "lfm2moe", "qwen3next", "llama-q4_0" };
#define N_MODELS (sizeof models / sizeof *models)

static inline const char *golden_path(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/goldens/%s.gguf", getenv("SG_SOURCE_ROOT"), name);
    return path;
}

static inline sg_model *open_model(const char *name) {
    sg_model *m = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(golden_path(name), NULL, &m, &err) == SG_OK, "%s", err.message);
    return m;
}

static inline sg_session *create(sg_model *m, uint32_t n_ctx, uint32_t threads, uint32_t batch, uint32_t copies, sg_kv_type kv) {
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    sg_session *s = NULL;
    sg_error err = { 0 };
    o.n_ctx = n_ctx;
    o.n_threads = threads;
    o.n_batch = batch;
    o.n_state_copies = copies;
    o.kv_type = kv;
    ck_assert_msg(sg_session_create(m, &o, &s, &err) == SG_OK, "%s", err.message);
    return s;
}

static inline sg_session *usual(sg_model *m) { return create(m, CTX, 3, 5, 0, SG_KV_F16); }

static inline void feed(sg_session *s, const int32_t *tokens, size_t n) {
    sg_error err = { 0 };
    ck_assert_msg(sg_session_feed(s, tokens, n, 1, &err) == SG_OK, "%s", err.message);
}

static inline void rewind_to(sg_session *s, size_t n) {
    sg_error err = { 0 };
    ck_assert_msg(sg_session_rewind(s, n, &err) == SG_OK, "%s", err.message);
}

static inline bool as_fresh(sg_session *s, sg_kv_type kv) {
    sg_session *f = create(sg_session_model(s), CTX, 1, CTX, SG_NO_STATE_COPIES, kv);
    feed(f, sg_session_tokens(s), sg_session_length(s));
    const bool same = memcmp(sg_session_logits(s, sg_session_logits_rows(s) - 1), sg_session_logits(f, 0), VOCAB * sizeof(float)) == 0;
    sg_session_destroy(&f);
    return same;
}

/* The last logits of s are those of a session that got its tokens at once. */
static inline void expect_as_fresh(sg_session *s, const char *what) {
    ck_assert_msg(as_fresh(s, SG_KV_F16), "%s, %zu tokens: other logits", what, sg_session_length(s));
}

static inline void random_tokens(int32_t *tokens, size_t n) {
    for (size_t i = 0; i < n; i++) tokens[i] = 3 + rand() % (VOCAB - 10);
}

/* Tokens evaluated since the session was made. */
static inline uint64_t evaluated(const sg_session *s) {
    const sg_stats st = sg_session_get_stats(s);
    return st.prompt_tokens + st.decode_tokens;
}

/* Runs a suite of one case without forks: OpenMP teams do not survive one. */
static inline int run_suite(Suite *s) {
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
