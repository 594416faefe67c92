/* What a session keeps of the past: whatever way it came to its tokens, it continues as one that never did anything else. */
#include <pthread.h>
#include <unistd.h>

#include "tests/unit/past_fixture.h"

/* Any order of feeding, going back, changing one's mind, and being interrupted. */
START_TEST(any_way) {
    srand(100 + (unsigned)_i);
    const char *name = models[_i % (int)N_MODELS];
    sg_model *m = open_model(name);
    sg_session *s = create(m, CTX, _i % 4 ? 1 : 3, 5, _i < (int)N_MODELS ? 0 : SG_NO_STATE_COPIES, SG_KV_F16);
    for (int step = 0; step < 60; step++) {
        int32_t tokens[CTX];
        sg_error err = { 0 };
        const size_t length = sg_session_length(s), room = CTX - length;
        const int what = rand() % 10;
        if (room < 12 || what < 3) {
            const size_t back = rand() % 3 == 0 ? (size_t)rand() % (length + 1) : (size_t)rand() % 4;
            ck_assert_int_eq(sg_session_rewind(s, length > back ? length - back : 0, &err), SG_OK);
            ck_assert_uint_eq(sg_session_logits_rows(s), back && length ? 0 : sg_session_logits_rows(s));
        }
        if (what == 4 && length > 2) { /* the same beginning, another end */
            const size_t same = (size_t)rand() % length;
            memcpy(tokens, sg_session_tokens(s), same * sizeof *tokens);
            random_tokens(tokens + same, 6);
            const size_t n = same + 6 < CTX ? same + 6 : CTX;
            ck_assert_msg(sg_session_sync(s, tokens, n, &err) == SG_OK, "%s", err.message);
            ck_assert_uint_eq(sg_session_length(s), n);
        } else {
            const size_t n = what == 7 ? 80 : 1 + (size_t)rand() % (what == 5 ? 12 : 3), left = CTX - sg_session_length(s);
            random_tokens(tokens, n);
            if (n > left) continue;
            if (what == 6) { /* nothing is evaluated */
                const size_t before = sg_session_length(s);
                sg_session_cancel(s);
                ck_assert_int_eq(sg_session_feed(s, tokens, n, 1, &err), SG_E_CANCELLED);
                ck_assert_uint_eq(sg_session_length(s), before);
                continue;
            }
            feed(s, tokens, n);
        }
        expect_as_fresh(s, name);
    }
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

static void *cancel_soon(void *arg) {
    usleep(300);
    sg_session_cancel(arg);
    return NULL;
}

/* Cancelled somewhere in the middle, many times: what was evaluated stays, and it goes on from there. */
START_TEST(interrupted) {
    sg_model *m = open_model(models[_i]);
    sg_session *s = usual(m);
    srand(7);
    for (int round = 0; round < 20; round++) {
        int32_t tokens[CTX];
        pthread_t thread;
        sg_error err = { 0 };
        random_tokens(tokens, CTX);
        ck_assert_int_eq(sg_session_rewind(s, 0, &err), SG_OK);
        feed(s, tokens, 30);
        ck_assert(pthread_create(&thread, NULL, cancel_soon, s) == 0);
        const sg_status status = sg_session_feed(s, tokens + 30, 100, 1, &err);
        pthread_join(thread, NULL);
        ck_assert(status == SG_OK || status == SG_E_CANCELLED);
        (void)sg_session_take_cancel(s); /* one that came too late */
        const size_t n = sg_session_length(s);
        ck_assert_msg(n >= 30 && n <= 130, "%zu tokens", n);
        ck_assert_int_eq(sg_session_rewind(s, n > 60 ? 55 : n, &err), SG_OK);
        feed(s, tokens + 130, 3);
        expect_as_fresh(s, models[_i]);
    }
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* A prompt at once, in sevens, one by one: every row of logits has the same bits, for every type of the cache. */
START_TEST(portions) {
    sg_model *m = open_model(models[_i]);
    int32_t tokens[90];
    srand(5);
    random_tokens(tokens, 90);
    for (int kv = 0; kv < 3; kv++) {
        if (kv == SG_KV_Q8_0 && strcmp(models[_i], "gpt-oss") != 0 && strcmp(models[_i], "qwen3next") != 0) continue; /* wants heads of 32 values */
        float *rows[3];
        static const uint32_t batches[] = { 90, 7, 1 };
        for (int way = 0; way < 3; way++) {
            sg_session *s = create(m, CTX, 1 + (uint32_t)way, batches[way], 0, (sg_kv_type)kv);
            sg_error err = { 0 };
            rows[way] = malloc(sizeof(float) * VOCAB * 90);
            for (size_t at = 0; at < 90; at += batches[way]) {
                const size_t n = 90 - at < batches[way] ? 90 - at : batches[way];
                ck_assert_msg(sg_session_feed(s, tokens + at, n, n, &err) == SG_OK, "%s", err.message);
                memcpy(rows[way] + at * VOCAB, sg_session_logits(s, 0), n * VOCAB * sizeof(float));
            }
            sg_session_destroy(&s);
        }
        for (int way = 1; way < 3; way++)
            ck_assert_msg(memcmp(rows[0], rows[way], sizeof(float) * VOCAB * 90) == 0, "%s, cache %d, portions of %u", models[_i], kv, batches[way]);
        for (int way = 0; way < 3; way++) free(rows[way]);
    }
    sg_model_close(&m);
}
END_TEST

/* ---- memory ---- */

static uint64_t past_bytes(const char *name, uint32_t n_ctx, uint32_t copies) {
    sg_model *m = open_model(name);
    sg_session *s = create(m, n_ctx, 1, 32, copies, SG_KV_F16);
    const uint64_t bytes = sg_session_get_stats(s).kv_bytes;
    sg_session_destroy(&s);
    sg_model_close(&m);
    return bytes;
}

/* Six of gemma3's seven layers keep only a ring of window + batch + slack; a state costs as much as its copies. */
START_TEST(memory) {
    const uint64_t per_position = 2 * 2 * 16; /* keys and values of one head of 16 halves */
    const uint64_t ring = (8 + 32 + 128 + 63) / 64 * 64, want = per_position * (32768 + 6 * ring), got = past_bytes("gemma3", 32768, 0);
    ck_assert_msg(got >= want && got < want + 65536, "%llu bytes, expected %llu", (unsigned long long)got, (unsigned long long)want);
    const uint64_t none = past_bytes("qwen3next", 256, SG_NO_STATE_COPIES), one = past_bytes("qwen3next", 256, 1), three = past_bytes("qwen3next", 256, 3);
    const uint64_t state = 3 * (4 * 32 * 32 + 3 * 256) * sizeof(float);
    ck_assert_msg(one - none >= state && one - none < state + 8192, "a copy takes %llu bytes, expected %llu", (unsigned long long)(one - none),
                  (unsigned long long)state);
    ck_assert_msg(three - one >= 2 * state && three - one < 2 * state + 8192, "two copies take %llu bytes", (unsigned long long)(three - one));
    ck_assert_uint_eq(past_bytes("llama-q4_0", 256, 9), past_bytes("llama-q4_0", 256, 0)); /* nothing to copy */
}
END_TEST

static sg_status open_with(const char *name, uint64_t ram, const sg_session_options *so, sg_model **m, sg_error *err) {
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    o.ram = ram;
    o.session = so;
    return sg_model_open(golden_path(name), &o, m, err);
}

/* Under a budget the copies count: the session that the model was opened for fits, one with more copies does not. */
START_TEST(budget) {
    static const uint32_t copies[] = { SG_NO_STATE_COPIES, 1, 2, 50 };
    const char *name = models[_i];
    const bool recurrent = strcmp(name, "lfm2moe") == 0 || strcmp(name, "qwen3next") == 0;
    for (int i = 0; i < 4; i++) {
        sg_session_options o = SG_SESSION_OPTIONS_INIT;
        sg_model *m = NULL;
        sg_session *s = NULL, *more = NULL;
        sg_error err = { 0 };
        o.n_ctx = 256;
        o.n_threads = 1;
        o.n_state_copies = copies[i];
        ck_assert_msg(open_with(name, 64 << 20, &o, &m, &err) == SG_OK, "%s", err.message);
        ck_assert_msg(sg_session_create(m, &o, &s, &err) == SG_OK, "%s, %u copies: %s", name, copies[i], err.message);
        sg_session_destroy(&s);
        o.n_state_copies = 60;
        ck_assert_int_eq(sg_session_create(m, &o, &more, &err), recurrent ? SG_E_NOMEM : SG_OK);
        sg_session_destroy(&more);
        sg_model_close(&m);
    }
    /* more than there is: refused, and nothing is lost */
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    sg_model *m = open_model(name);
    sg_session *s = NULL;
    sg_error err = { 0 };
    o.n_state_copies = UINT32_MAX - 1;
    ck_assert_int_eq(sg_session_create(m, &o, &s, &err), recurrent ? SG_E_NOMEM : SG_OK);
    sg_session_destroy(&s);
    sg_model_close(&m);
    m = NULL;
    ck_assert_int_eq(open_with(name, 64 << 20, &o, &m, &err), recurrent ? SG_E_NOMEM : SG_OK);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("past");
    TCase *t = tcase_create("past");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, any_way, 0, 2 * N_MODELS);
    tcase_add_loop_test(t, interrupted, 0, N_MODELS);
    tcase_add_loop_test(t, portions, 0, N_MODELS);
    tcase_add_test(t, memory);
    tcase_add_loop_test(t, budget, 0, N_MODELS);
    suite_add_tcase(s, t);
    return run_suite(s);
}
