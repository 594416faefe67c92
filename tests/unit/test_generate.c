/* sg_generate on a tiny model with random weights: stop strings, ends, cancelling, continuing. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "sparsegen.h"

static const char prompt[] = "They kept looking at it, hoping to see some";
/* greedy_ids of tests/data/goldens/llama-q8_0.json */
static const int32_t greedy_ids[16] = {
    312, 171, 510, 322, 262, 457, 315, 316, 246, 180, 253, 245, 249, 506, 245, 360
};

static sg_model *model;

typedef struct collected {
    char text[8192];
    size_t len;
    int calls, stop_after; /* return false at this call; 0: never */
    sg_session *cancel_at_first;
} collected;

static bool collect(void *user, const char *text, size_t len) {
    collected *c = user;
    ck_assert_uint_gt(len, 0);
    ck_assert_uint_eq(strlen(text), len);
    ck_assert_uint_eq(sg_utf8_check(text, len), len);
    ck_assert_uint_lt(c->len + len, sizeof c->text);
    memcpy(c->text + c->len, text, len + 1);
    c->len += len;
    if (c->cancel_at_first && c->calls == 0) sg_session_cancel(c->cancel_at_first);
    return ++c->calls != c->stop_after;
}

static void open_model(void) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/goldens/llama-q8_0.gguf", getenv("SG_SOURCE_ROOT"));
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(path, NULL, &model, &err) == SG_OK, "%s", err.message);
}
static void close_model(void) { sg_model_close(&model); }

static sg_session *open_session(uint32_t n_ctx) {
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    o.n_ctx = n_ctx;
    o.n_threads = 1;
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_session_create(model, &o, &s, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_session_feed_text(s, prompt, strlen(prompt), &err) == SG_OK, "%s", err.message);
    return s;
}

static sg_sampler *open_sampler(float temperature, uint64_t seed) {
    sg_sampler_options o = SG_SAMPLER_OPTIONS_INIT;
    o.temperature = temperature;
    o.seed = seed;
    o.top_k = 0;
    o.top_p = 1.0f;
    o.min_p = 0.0f;
    sg_sampler *s = NULL;
    ck_assert_int_eq(sg_sampler_create(&o, sg_model_get_info(model)->n_vocab, &s, NULL), SG_OK);
    return s;
}

static sg_generate_options greedy_options(collected *c, int64_t max_tokens) {
    sg_generate_options o = SG_GENERATE_OPTIONS_INIT;
    o.max_tokens = max_tokens;
    o.ignore_eog = true;
    o.on_text = collect;
    o.user = c;
    return o;
}

/* Greedy text after the prompt, with the given options. */
static sg_generate_result generate(const sg_generate_options *o) {
    sg_session *s = open_session(256);
    sg_sampler *g = open_sampler(0.0f, 0);
    sg_generate_result r;
    sg_error err = { 0 };
    ck_assert_msg(sg_generate(s, g, o, &r, &err) == SG_OK, "%s", err.message);
    sg_sampler_destroy(&g);
    sg_session_destroy(&s);
    return r;
}

START_TEST(greedy_tokens) {
    sg_session *s = open_session(256);
    sg_sampler *g = open_sampler(0.0f, 0);
    const size_t start = sg_session_length(s);
    collected c = { 0 };
    sg_generate_options o = greedy_options(&c, 6);
    sg_generate_result r;
    /* two calls that continue each other */
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
    ck_assert_int_eq(r.reason, SG_STOP_LENGTH);
    ck_assert_uint_eq(r.n_tokens, 6);
    ck_assert_uint_eq(sg_session_length(s), start + 6);
    o.max_tokens = 10;
    ck_assert_int_eq(sg_generate(s, g, &o, NULL, NULL), SG_OK);
    ck_assert_uint_eq(sg_session_length(s), start + 16);
    ck_assert_mem_eq(sg_session_tokens(s) + start, greedy_ids, sizeof greedy_ids);
    ck_assert_uint_gt(c.len, 10);
    sg_sampler_destroy(&g);
    sg_session_destroy(&s);
}
END_TEST

START_TEST(nothing_asked) {
    collected c = { 0 };
    const sg_generate_options o = greedy_options(&c, 0);
    const sg_generate_result r = generate(&o);
    ck_assert_int_eq(r.reason, SG_STOP_LENGTH);
    ck_assert_uint_eq(r.n_tokens, 0);
    ck_assert_int_eq(c.calls, 0);
}
END_TEST

/* Every short piece of the text as a stop string, however it lies across tokens. */
START_TEST(stop_strings) {
    collected whole = { 0 };
    sg_generate_options o = greedy_options(&whole, 24);
    generate(&o);
    ck_assert_uint_gt(whole.len, 20);
    int found = 0;
    for (size_t at = 0; at < whole.len; at++) {
        for (size_t len = 1; len <= 9 && at + len <= whole.len; len++) {
            char stop[32] = { 0 };
            memcpy(stop, whole.text + at, len);
            if (sg_utf8_check(stop, len) != len) continue; /* not cut between characters */
            const size_t first = (size_t)(strstr(whole.text, stop) - whole.text);
            const char *stops[] = { "never there", stop };
            collected c = { 0 };
            o = greedy_options(&c, 24);
            o.stop = stops;
            o.n_stop = 2;
            const sg_generate_result r = generate(&o);
            ck_assert_int_eq(r.reason, SG_STOP_STRING);
            ck_assert_msg(c.len == first && memcmp(c.text, whole.text, first) == 0, "stop '%s': got '%s'", stop,
                          c.text);
            found++;

            /* one more character that does not follow: held back, and let go in the end */
            strcat(stop, "\x01");
            c = (collected) { 0 };
            const sg_generate_result r2 = generate(&o);
            ck_assert_int_eq(r2.reason, SG_STOP_LENGTH);
            ck_assert_str_eq(c.text, whole.text);
        }
    }
    ck_assert_int_gt(found, 50);
}
END_TEST

START_TEST(first_of_two_stops) {
    collected whole = { 0 };
    sg_generate_options o = greedy_options(&whole, 24);
    generate(&o);
    size_t a = whole.len / 3;
    while (sg_utf8_next(whole.text + a, whole.len - a, NULL) == 0) a++;
    /* the long one begins earlier, the short one inside of it is complete first */
    char inner[8] = { 0 };
    const size_t l1 = sg_utf8_next(whole.text + a, whole.len - a, NULL),
                 l2 = sg_utf8_next(whole.text + a + l1, whole.len - a - l1, NULL);
    memcpy(inner, whole.text + a + l1, l2);
    const char *stops[] = { whole.text + a, inner };
    collected c = { 0 };
    o = greedy_options(&c, 24);
    o.stop = stops;
    o.n_stop = 2;
    ck_assert_int_eq(generate(&o).reason, SG_STOP_STRING);
    ck_assert_uint_eq(c.len, (size_t)(strstr(whole.text, inner) - whole.text));
}
END_TEST

START_TEST(context_full) {
    sg_session *s = open_session(40);
    sg_sampler *g = open_sampler(0.0f, 0);
    const size_t start = sg_session_length(s);
    collected c = { 0 };
    const sg_generate_options o = greedy_options(&c, -1);
    sg_generate_result r;
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
    ck_assert_int_eq(r.reason, SG_STOP_CONTEXT);
    ck_assert_uint_eq(r.n_tokens, 40 - start);
    ck_assert_uint_eq(sg_session_length(s), 40);
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
    ck_assert_int_eq(r.reason, SG_STOP_CONTEXT);
    ck_assert_uint_eq(r.n_tokens, 0);
    sg_sampler_destroy(&g);
    sg_session_destroy(&s);
}
END_TEST

START_TEST(end_of_text) {
    int ended = 0;
    for (uint64_t seed = 0; seed < 40 && ended < 3; seed++) {
        sg_session *s = open_session(256);
        sg_sampler *g = open_sampler(1000.0f, seed); /* nearly every token is as likely as any */
        const size_t start = sg_session_length(s);
        sg_generate_options o = SG_GENERATE_OPTIONS_INIT;
        sg_generate_result r;
        ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
        ck_assert_uint_eq(sg_session_length(s), start + r.n_tokens);
        for (size_t i = start; i < sg_session_length(s); i++)
            ck_assert(!sg_token_is_eog(model, sg_session_tokens(s)[i]));
        if (r.reason == SG_STOP_EOG) {
            ended++;
            sg_sampler_destroy(&g);
            sg_session_destroy(&s);
            s = open_session(256);
            g = open_sampler(1000.0f, seed);
            o.ignore_eog = true;
            o.max_tokens = (int64_t)r.n_tokens + 1;
            ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
            ck_assert_int_eq(r.reason, SG_STOP_LENGTH);
            ck_assert(sg_token_is_eog(model, sg_session_tokens(s)[sg_session_length(s) - 1]));
        } else {
            ck_assert_int_eq(r.reason, SG_STOP_CONTEXT);
        }
        sg_sampler_destroy(&g);
        sg_session_destroy(&s);
    }
    ck_assert_int_gt(ended, 0);
}
END_TEST

START_TEST(cancelled) {
    sg_session *s = open_session(256);
    sg_sampler *g = open_sampler(0.0f, 0);
    collected c = { 0 };
    sg_generate_options o = greedy_options(&c, 8);
    sg_generate_result r;
    sg_session_cancel(s);
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
    ck_assert_int_eq(r.reason, SG_STOP_CANCELLED);
    ck_assert_uint_eq(r.n_tokens, 0);
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK); /* the request was consumed */
    ck_assert_int_eq(r.reason, SG_STOP_LENGTH);
    ck_assert_uint_eq(r.n_tokens, 8);
    c = (collected) { .cancel_at_first = s };
    o.max_tokens = 50;
    ck_assert_int_eq(sg_generate(s, g, &o, &r, NULL), SG_OK);
    ck_assert_int_eq(r.reason, SG_STOP_CANCELLED);
    ck_assert_uint_lt(r.n_tokens, 50);
    ck_assert_int_ge(c.calls, 1);
    sg_sampler_destroy(&g);
    sg_session_destroy(&s);
}
END_TEST

START_TEST(callback_stops) {
    collected c = { .stop_after = 3 };
    const sg_generate_options o = greedy_options(&c, 50);
    const sg_generate_result r = generate(&o);
    ck_assert_int_eq(r.reason, SG_STOP_CALLBACK);
    ck_assert_int_eq(c.calls, 3);
    ck_assert_uint_lt(r.n_tokens, 50);
}
END_TEST

static void refused(sg_session *s, sg_sampler *g, const sg_generate_options *o, sg_status status, const char *word) {
    sg_error err = { 0 };
    ck_assert_int_eq(sg_generate(s, g, o, NULL, &err), status);
    ck_assert_msg(strstr(err.message, word) != NULL, "'%s' lacks '%s'", err.message, word);
}

START_TEST(misuse) {
    sg_session *s = open_session(256);
    sg_sampler *g = open_sampler(0.0f, 0), *wrong = NULL;
    ck_assert_int_eq(sg_sampler_create(NULL, 7, &wrong, NULL), SG_OK);
    sg_generate_options o = SG_GENERATE_OPTIONS_INIT;
    refused(NULL, g, &o, SG_E_ARG, "NULL");
    refused(s, NULL, &o, SG_E_ARG, "NULL");
    refused(s, wrong, &o, SG_E_ARG, "7 tokens");
    o.max_tokens = -2;
    refused(s, g, &o, SG_E_ARG, "max_tokens");
    o.max_tokens = 1;
    o.n_stop = 1;
    refused(s, g, &o, SG_E_ARG, "stop");
    o.stop = &(const char *) { "" };
    refused(s, g, &o, SG_E_ARG, "empty");
    o.stop = &(const char *) { NULL };
    refused(s, g, &o, SG_E_ARG, "empty");
    o.stop = &(const char *) { "\xC3" };
    refused(s, g, &o, SG_E_UTF8, "UTF-8");
    o.n_stop = 0;
    ck_assert_int_eq(sg_session_rewind(s, 3, NULL), SG_OK);
    refused(s, g, &o, SG_E_ARG, "fresh logits");
    sg_sampler_destroy(&wrong);
    sg_sampler_destroy(&g);
    sg_session_destroy(&s);
}
END_TEST

int main(void) {
    if (!getenv("SG_SOURCE_ROOT")) return 77;
    Suite *suite = suite_create("generate");
    TCase *t = tcase_create("generate");
    tcase_set_timeout(t, 300);
    /* in each forked child, so that OpenMP's threads belong to the process that uses them */
    tcase_add_checked_fixture(t, open_model, close_model);
    tcase_add_test(t, greedy_tokens);
    tcase_add_test(t, nothing_asked);
    tcase_add_test(t, stop_strings);
    tcase_add_test(t, first_of_two_stops);
    tcase_add_test(t, context_full);
    tcase_add_test(t, end_of_text);
    tcase_add_test(t, cancelled);
    tcase_add_test(t, callback_stops);
    tcase_add_test(t, misuse);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
