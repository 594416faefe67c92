/* Misuse of the public functions that needs no model: NULL handles, wrong sizes, repeated release. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparsegen.h"

START_TEST(fixed_texts) {
    static const sg_status all[] = { SG_OK,          SG_E_NOMEM,  SG_E_INTERNAL, SG_E_CANCELLED,   SG_E_ARG,
                                     SG_E_CONTEXT,   SG_E_UTF8,   SG_E_FORMAT,   SG_E_UNSUPPORTED, SG_E_IO,
                                     SG_E_NOT_FOUND, SG_E_ACCESS, SG_E_EXISTS };
    enum { N_ALL = sizeof all / sizeof all[0] };
    for (int i = 0; i < N_ALL; i++) {
        ck_assert_ptr_nonnull(sg_status_str(all[i]));
        ck_assert_str_ne(sg_status_str(all[i]), sg_status_str((sg_status)-9999));
        for (int j = 0; j < i; j++) ck_assert_str_ne(sg_status_str(all[i]), sg_status_str(all[j]));
    }
    int major, minor, patch;
    char rest;
    ck_assert_int_eq(sscanf(sg_version(), "%d.%d.%d%c", &major, &minor, &patch, &rest), 3);
    sg_free(NULL);
}
END_TEST

START_TEST(releasing_nothing) {
    sg_model *model = NULL;
    sg_session *session = NULL;
    sg_sampler *sampler = NULL;
    for (int i = 0; i < 2; i++) {
        sg_model_close(&model);
        sg_session_destroy(&session);
        sg_sampler_destroy(&sampler);
    }
    sg_model_close(NULL);
    sg_session_destroy(NULL);
    sg_sampler_destroy(NULL);
    sg_session_cancel(NULL);
}
END_TEST

START_TEST(models) {
    sg_error err = { 0 };
    sg_model *model = (sg_model *)&err; /* must become NULL */
    ck_assert_int_eq(sg_model_open(NULL, NULL, &model, &err), SG_E_ARG);
    ck_assert_ptr_null(model);
    ck_assert_int_eq(err.code, SG_E_ARG);
    ck_assert_uint_gt(strlen(err.message), 0);
    ck_assert_int_eq(sg_model_open("/nowhere/at/all.gguf", NULL, NULL, NULL), SG_E_ARG);
    ck_assert_int_eq(sg_model_open("/nowhere/at/all.gguf", NULL, &model, &err), SG_E_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.message, "/nowhere/at/all.gguf"));
    ck_assert_int_eq(sg_model_open("/nowhere/at/all.gguf", NULL, &model, NULL), SG_E_NOT_FOUND); /* err may be NULL */
    ck_assert_int_eq(sg_model_open("/", NULL, &model, &err), SG_E_ACCESS);
    ck_assert_ptr_null(model);
    ck_assert_ptr_null(sg_model_get_info(NULL));
    ck_assert(!sg_token_is_eog(NULL, 1));
}
END_TEST

START_TEST(texts) {
    int32_t *ids = NULL;
    size_t n = 0;
    char *text = NULL;
    const sg_chat_message message = { "user", "hello" };
    ck_assert_int_eq(sg_tokenize(NULL, "a", 1, 0, &ids, &n, NULL), SG_E_ARG);
    ck_assert_int_eq(sg_detokenize(NULL, (const int32_t[]) { 1 }, 1, &text, &n, NULL), SG_E_ARG);
    ck_assert_int_eq(sg_chat_format(NULL, &message, 1, true, &text, NULL), SG_E_ARG);
}
END_TEST

START_TEST(sessions) {
    sg_error err = { 0 };
    sg_session *session = (sg_session *)&err;
    const int32_t id = 1;
    ck_assert_int_eq(sg_session_create(NULL, NULL, &session, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_feed(NULL, &id, 1, 1, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_sync(NULL, &id, 1, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_feed_text(NULL, "a", 1, &err), SG_E_ARG);
    ck_assert_int_eq(sg_session_rewind(NULL, 0, &err), SG_E_ARG);
    ck_assert_ptr_null(sg_session_logits(NULL, 0));
    ck_assert_ptr_null(sg_session_tokens(NULL));
    ck_assert_uint_eq(sg_session_logits_rows(NULL), 0);
    ck_assert_uint_eq(sg_session_length(NULL), 0);
    ck_assert_uint_eq(sg_session_capacity(NULL), 0);
    ck_assert_uint_eq(sg_session_get_stats(NULL).weight_bytes, 0);
    ck_assert_int_eq(sg_generate(NULL, NULL, NULL, NULL, &err), SG_E_ARG);
}
END_TEST

START_TEST(files) {
    sg_error err = { 0 };
    sg_file_info *info = NULL;
    ck_assert_int_eq(sg_file_info_open("/nowhere/at/all.gguf", &info, &err), SG_E_NOT_FOUND);
    ck_assert_ptr_null(info);
    sg_file_info_close(&info);
    sg_file_info_close(NULL);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    ck_assert_int_eq(sg_convert(&o, &err), SG_E_ARG); /* neither input nor output */
    ck_assert_int_eq(sg_convert(NULL, &err), SG_E_ARG);
}
END_TEST

START_TEST(limits) {
    sg_error err = { 0 };
    sg_limits l = { .n_threads = 7 };
    ck_assert_int_eq(sg_limits_measure(NULL, 1, NULL, &err), SG_E_ARG);
    ck_assert_int_eq(sg_limits_measure("zap", 1, &l, &err), SG_E_ARG);
    ck_assert_uint_eq(l.n_threads, 0);
    ck_assert_int_eq(sg_limits_measure(NULL, 100000, &l, &err), SG_E_ARG);
    ck_assert_int_eq(sg_limits_measure(NULL, 100000, &l, NULL), SG_E_ARG);
    const sg_work none = sg_model_get_work(NULL, 1, 1);
    ck_assert(none.weight_bytes == 0 && none.int8_ops == 0 && none.f32_ops == 0);
}
END_TEST

/* Options from a program that was built with a newer header: what lies behind our struct is ignored. */
START_TEST(longer_structs) {
    struct {
        sg_sampler_options o;
        char more[64];
    } big = { SG_SAMPLER_OPTIONS_INIT, { 0 } };
    memset(big.more, 0x5a, sizeof big.more);
    big.o.struct_size = sizeof big;
    sg_sampler *sampler = NULL;
    ck_assert_int_eq(sg_sampler_create(&big.o, 10, &sampler, NULL), SG_OK);
    sg_sampler_destroy(&sampler);
    big.o.struct_size = 0; /* nothing is taken from it */
    big.o.temperature = -1.0f;
    ck_assert_int_eq(sg_sampler_create(&big.o, 10, &sampler, NULL), SG_OK);
    sg_sampler_destroy(&sampler);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("api");
    TCase *t = tcase_create("api");
    tcase_add_test(t, fixed_texts);
    tcase_add_test(t, releasing_nothing);
    tcase_add_test(t, models);
    tcase_add_test(t, texts);
    tcase_add_test(t, sessions);
    tcase_add_test(t, files);
    tcase_add_test(t, limits);
    tcase_add_test(t, longer_structs);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
