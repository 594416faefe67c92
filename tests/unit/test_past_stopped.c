/* Evaluations that are stopped or fail in the middle of a run, at a place that the test chooses: the linker leads the calls of the
 * executor and of barriers through the functions below (--wrap). Whatever was half written then, what follows has the bits of a session
 * that was never disturbed. */
#include <stdatomic.h>
#include <unistd.h>

#include "runtime/exec.h"
#include "tests/unit/past_fixture.h"

static sg_session *victim;
static atomic_int barriers_left; /* until victim is cancelled; negative: it is not */
static int runs_left = -1;       /* until a run fails; negative: none does */

/* clang-format off */
void __real_sg_team_barrier(sg_team *t);
void __wrap_sg_team_barrier(sg_team *t);
sg_status __real_sg_exec_run(sg_exec *e, sg_kv_cache *kv, sg_recurrent_state *state, const int32_t *tokens, uint32_t n, uint32_t pos, uint32_t n_keep, float *logits, atomic_bool *cancel, sg_error *err);
sg_status __wrap_sg_exec_run(sg_exec *e, sg_kv_cache *kv, sg_recurrent_state *state, const int32_t *tokens, uint32_t n, uint32_t pos, uint32_t n_keep, float *logits, atomic_bool *cancel, sg_error *err);
/* clang-format on */

void __wrap_sg_team_barrier(sg_team *t) {
    if (atomic_load(&barriers_left) >= 0 && atomic_fetch_sub(&barriers_left, 1) == 0) sg_session_cancel(victim);
    __real_sg_team_barrier(t);
}

/* A run that fails has done all of its work, with values that are of no use. */
sg_status __wrap_sg_exec_run(sg_exec *e, sg_kv_cache *kv, sg_recurrent_state *state, const int32_t *tokens, uint32_t n, uint32_t pos,
                             uint32_t n_keep, float *logits, atomic_bool *cancel, sg_error *err) {
    int32_t wrong[CTX];
    const bool fails = runs_left >= 0 && runs_left-- == 0;
    for (uint32_t i = 0; fails && i < n; i++) wrong[i] = (tokens[i] + 1) % VOCAB;
    const sg_status s = __real_sg_exec_run(e, kv, state, fails ? wrong : tokens, n, pos, n_keep, logits, cancel, err);
    return fails ? sg_fail(err, SG_E_IO, "the drive is gone") : s;
}

static void stop_after(sg_session *s, int barriers) {
    victim = s;
    atomic_store(&barriers_left, barriers);
}

/* A prompt that stops in its third portion, at many places. The portions before are there. */
START_TEST(in_a_prompt) {
    sg_model *m = open_model(models[_i]);
    sg_session *s = usual(m);
    int32_t tokens[CTX];
    sg_error err = { 0 };
    srand(11);
    random_tokens(tokens, CTX);
    int stopped = 0;
    for (int at = 0; at < 400; at += 37) {
        rewind_to(s, 0);
        feed(s, tokens, 21);
        stop_after(s, at);
        const sg_status status = sg_session_feed(s, tokens + 21, 30, 1, &err);
        atomic_store(&barriers_left, -1);
        stopped += status == SG_E_CANCELLED;
        ck_assert_msg(status == SG_OK || (status == SG_E_CANCELLED && sg_session_length(s) < 51), "%s", err.message);
        ck_assert_uint_ge(sg_session_length(s), 21);
        ck_assert_uint_eq(sg_session_logits_rows(s), status == SG_OK);
        (void)sg_session_take_cancel(s); /* one that came in the last steps */
        if (at % 2) rewind_to(s, sg_session_length(s) - 7);
        feed(s, tokens + 100, 3);
        expect_as_fresh(s, models[_i]);
    }
    ck_assert_int_ge(stopped, 4);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* The same where tokens are evaluated again because the model could not go back: the timeline stays, and what of it is there is known
 * wherever the session goes next. `fails`: the drive does it. */
static void again(const char *name, bool fails, uint32_t copies) {
    sg_model *m = open_model(name);
    int32_t tokens[CTX];
    sg_error err = { 0 };
    srand(12);
    random_tokens(tokens, CTX);
    int stopped = 0;
    static const size_t then[] = { 4, 8, 13, 20, 30, 31 }; /* in the piece that failed (the first one for 4), in what was never reached */
    for (size_t i = 0; i < sizeof then / sizeof *then; i++) {
        sg_session *s = create(m, CTX, i == 0 ? 3 : 1, 5, copies, SG_KV_F16);
        feed(s, tokens, 250); /* more than a ring holds */
        rewind_to(s, 31);
        if (fails) runs_left = then[i] == 4 ? 0 : 2;
        else stop_after(s, then[i] == 4 ? 20 : 90);
        const uint64_t before = evaluated(s);
        const sg_status status = sg_session_feed(s, tokens + 200, 2, 1, &err);
        const uint64_t done = evaluated(s) - before;
        atomic_store(&barriers_left, -1);
        runs_left = -1;
        (void)sg_session_take_cancel(s);
        stopped += status != SG_OK;
        if (status != SG_OK) {
            ck_assert_int_eq(status, fails ? SG_E_IO : SG_E_CANCELLED);
            ck_assert_uint_eq(sg_session_length(s), 31);
            ck_assert_uint_lt(done, 31);
        }
        rewind_to(s, then[i]);
        feed(s, tokens + 100, 2);
        expect_as_fresh(s, name);
        feed(s, tokens + 60, 40);
        expect_as_fresh(s, name);
        sg_session_destroy(&s);
    }
    /* models that keep everything have nothing to evaluate again: the prompt itself is too short for three runs */
    const bool keeps = strcmp(name, "deepseek2") == 0 || strcmp(name, "llama-q4_0") == 0;
    ck_assert_msg(keeps || stopped == 6, "%s: stopped %d times", name, stopped);
    sg_model_close(&m);
}

START_TEST(evaluating_again) { again(models[_i / 2], false, _i % 2 ? 1 : SG_NO_STATE_COPIES); }
END_TEST
START_TEST(evaluating_again_fails) { again(models[_i / 2], true, _i % 2 ? 1 : SG_NO_STATE_COPIES); }
END_TEST

/* What was evaluated before the stop is not evaluated a second time, where the model can go on from there. */
START_TEST(goes_on_where_it_was) {
    sg_model *m = open_model("gemma3");
    sg_session *s = usual(m);
    int32_t tokens[CTX];
    sg_error err = { 0 };
    srand(13);
    random_tokens(tokens, CTX);
    feed(s, tokens, 250);
    rewind_to(s, 40);
    runs_left = 5;
    const uint64_t before = evaluated(s);
    ck_assert_int_eq(sg_session_feed(s, tokens + 100, 2, 1, &err), SG_E_IO);
    ck_assert_uint_eq(evaluated(s) - before, 25);
    feed(s, tokens + 100, 2);
    ck_assert_uint_eq(evaluated(s) - before, 42);
    expect_as_fresh(s, "after a second try");
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* Saving has to evaluate too: stopped, it says so, leaves no file and can be done again. */
START_TEST(in_saving) {
    sg_model *m = open_model("qwen3next");
    sg_session *s = usual(m), *other = usual(m);
    int32_t tokens[CTX];
    sg_error err = { 0 };
    char path[64];
    snprintf(path, sizeof path, "/tmp/sg-past-stopped-%d", (int)getpid());
    srand(14);
    random_tokens(tokens, CTX);
    feed(s, tokens, 40);
    rewind_to(s, 20);
    stop_after(s, 30);
    ck_assert_int_eq(sg_session_save(s, path, &err), SG_E_CANCELLED);
    atomic_store(&barriers_left, -1);
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_msg(sg_session_save(s, path, &err) == SG_OK && sg_session_restore(other, path, &err) == SG_OK, "%s", err.message);
    feed(other, tokens + 100, 2);
    ck_assert_uint_eq(sg_session_length(other), 22);
    expect_as_fresh(other, "saved after a second try");
    unlink(path);
    sg_session_destroy(&s);
    sg_session_destroy(&other);
    sg_model_close(&m);
}
END_TEST

/* Time spent on tokens that are evaluated again is no time of the single token behind them. */
START_TEST(times_of_single_tokens) {
    sg_model *m = open_model("qwen3next");
    sg_session *s = create(m, CTX, 1, 5, SG_NO_STATE_COPIES, SG_KV_F16);
    int32_t tokens[CTX];
    srand(15);
    random_tokens(tokens, CTX);
    feed(s, tokens, 200);
    rewind_to(s, 190);
    const sg_stats before = sg_session_get_stats(s);
    feed(s, tokens, 1);
    const sg_stats after = sg_session_get_stats(s);
    ck_assert_uint_eq(after.decode_tokens - before.decode_tokens, 1);
    ck_assert_uint_eq(after.prompt_tokens - before.prompt_tokens, 190);
    /* no clock decides here: 190 tokens take longer than none */
    ck_assert_double_gt(after.prompt_seconds, before.prompt_seconds);
    ck_assert_double_eq_tol(after.token_p99, after.decode_seconds, 1e-6);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("past_stopped");
    TCase *t = tcase_create("past_stopped");
    tcase_set_timeout(t, 0);
    atomic_init(&barriers_left, -1);
    tcase_add_loop_test(t, in_a_prompt, 0, N_MODELS);
    tcase_add_loop_test(t, evaluating_again, 0, 2 * N_MODELS);
    tcase_add_loop_test(t, evaluating_again_fails, 0, 2 * N_MODELS);
    tcase_add_test(t, goes_on_where_it_was);
    tcase_add_test(t, in_saving);
    tcase_add_test(t, times_of_single_tokens);
    suite_add_tcase(s, t);
    return run_suite(s);
}
