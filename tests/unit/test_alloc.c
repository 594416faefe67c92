/* No allocation per token: once a session runs, evaluating and sampling a token asks the C library for no memory. The linker
 * leads the project's calls through the functions below (--wrap). */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "sparsegen.h"

static atomic_uint calls;

/* clang-format off */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
void *__wrap_malloc(size_t n) { atomic_fetch_add(&calls, 1); return __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { atomic_fetch_add(&calls, 1); return __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { atomic_fetch_add(&calls, 1); return __real_realloc(p, n); }
int __wrap_posix_memalign(void **p, size_t align, size_t n) { atomic_fetch_add(&calls, 1); return __real_posix_memalign(p, align, n); }
/* clang-format on */

START_TEST(tokens_need_no_memory) {
    char path[1024];
    snprintf(path, sizeof path, "%s/models/demo/stories-drelu-5M.gguf", getenv("SG_SOURCE_ROOT"));
    sg_error err = { 0 };
    sg_model *m = NULL;
    sg_session *s = NULL;
    sg_sampler *sampler = NULL;
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    o.n_threads = (uint32_t)_i + 1;
    ck_assert_msg(sg_model_open(path, NULL, &m, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_session_create(m, &o, &s, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_sampler_create(NULL, sg_model_get_info(m)->n_vocab, &sampler, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_session_feed_text(s, "Once upon a time", 16, &err) == SG_OK, "%s", err.message);
    unsigned before = 0;
    sg_status status = SG_OK; /* no check inside the loop: it would allocate */
    for (int i = 0; i < 100 && status == SG_OK; i++) {
        if (i == 1) before = atomic_load(&calls);
        const int32_t id = sg_sampler_sample(sampler, sg_session_logits(s, 0));
        sg_sampler_accept(sampler, id);
        status = sg_session_feed(s, &id, 1, 1, &err);
    }
    const unsigned after = atomic_load(&calls);
    ck_assert_msg(status == SG_OK, "%s", err.message);
    ck_assert_uint_gt(before, 0); /* else the calls are not counted */
    ck_assert_uint_eq(after, before);
    sg_sampler_destroy(&sampler);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("alloc");
    TCase *t = tcase_create("alloc");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, tokens_need_no_memory, 0, 3);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
