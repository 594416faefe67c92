/* Loading weights in small pieces gives the same bytes as loading them at once. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/weights_private.h"

static void load(sg_weights *w, const char *name, size_t chunk) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/data/goldens/%s.gguf", getenv("SG_SOURCE_ROOT"), name);
    sg_gguf *g = NULL;
    sg_model_desc d;
    sg_kernels kernels;
    sg_error err = { 0 };
    ck_assert_msg(sg_gguf_open(path, &g, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_model_describe(g, &d, &err) == SG_OK, "%s", err.message);
    sg_kernels_init(&kernels, sg_cpu_detect());
    const sg_weights_options o = { .chunk_bytes = chunk };
    sg_loader l;
    ck_assert_msg(sg_loader_init(&l, w, g, &d, &kernels, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_weights_load(w, &l, &o, &err) == SG_OK, "%s", err.message);
    sg_loader_finish(&l);
    sg_model_desc_finish(&d);
    sg_gguf_close(&g);
}

START_TEST(pieces) {
    static const char *const names[] = { "llama-k-mix", "llama-odd", "llama-mxfp4", "llama-q8_0", "qwen2" };
    static const size_t chunks[] = { 1, 1000, 5000 };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sg_weights whole;
        load(&whole, names[i], 0);
        for (size_t k = 0; k < sizeof chunks / sizeof *chunks; k++) {
            sg_weights w;
            load(&w, names[i], chunks[k]);
            ck_assert_uint_eq(w.region.size, whole.region.size);
            ck_assert_msg(memcmp(w.region.data, whole.region.data, w.region.size) == 0, "%s differs in pieces of %zu bytes",
                          names[i], chunks[k]);
            sg_weights_finish(&w);
        }
        sg_weights_finish(&whole);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("weights");
    TCase *t = tcase_create("weights");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, pieces);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
