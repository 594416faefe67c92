/* Saved sessions: restored they go on as if nothing had been, and whatever else a file holds is refused. */
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/past_fixture.h"

enum { HEADER = 48 };

static char folder[64], path[128];

static void setup(void) {
    strcpy(folder, "/tmp/sg-session-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/saved", folder);
}

static void teardown(void) {
    unlink(path);
    ck_assert_msg(rmdir(folder) == 0, "something was left in %s", folder);
}

static size_t files(void) {
    size_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)); ) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void save(sg_session *s) {
    sg_error err = { 0 };
    ck_assert_msg(sg_session_save(s, path, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_eq(files(), 1);
}

static void restore(sg_session *s) {
    sg_error err = { 0 };
    ck_assert_msg(sg_session_restore(s, path, &err) == SG_OK, "%s", err.message);
}

static char *read_file(const char *p, size_t *n) {
    struct stat st;
    FILE *f = fopen(p, "rb");
    ck_assert(f && fstat(fileno(f), &st) == 0);
    char *data = malloc((size_t)st.st_size);
    ck_assert_uint_eq(fread(data, 1, *n = (size_t)st.st_size, f), *n);
    fclose(f);
    return data;
}

static void write_file(const char *p, const char *data, size_t n) {
    FILE *f = fopen(p, "wb");
    ck_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

/* ---- going on ---- */

/* Restored into sessions of other contexts, batches (rings of windows have other sizes then) and threads. */
START_TEST(goes_on) {
    static const struct { uint32_t n_ctx, threads, batch, copies; } others[] = {
        { CTX + 700, 3, 128, SG_NO_STATE_COPIES }, { CTX, 1, 1, 0 }, { 100, 1, 100, 1 }
    };
    static const size_t lengths[] = { 1, 7, 64, 90 };
    sg_model *m = open_model(models[_i]);
    int32_t tokens[CTX];
    srand(9);
    random_tokens(tokens, CTX);
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 3; k++) {
            sg_session *s = usual(m), *other = create(m, others[k].n_ctx, others[k].threads, others[k].batch, others[k].copies, SG_KV_F16);
            feed(s, tokens, 95);
            rewind_to(s, lengths[i]); /* the file is of the timeline, not of what was */
            save(s);
            feed(other, tokens + 50, 20);
            restore(other);
            ck_assert_uint_eq(sg_session_length(other), lengths[i]);
            ck_assert_mem_eq(sg_session_tokens(other), tokens, lengths[i] * sizeof *tokens);
            ck_assert_uint_eq(sg_session_logits_rows(other), 0);
            feed(other, tokens + 30, 5);
            expect_as_fresh(other, models[_i]);
            rewind_to(other, lengths[i]);
            feed(other, tokens + 40, 2);
            expect_as_fresh(other, models[_i]);
            rewind_to(other, lengths[i] / 2);
            feed(other, tokens, 2);
            expect_as_fresh(other, models[_i]);
            sg_session_destroy(&s);
            sg_session_destroy(&other);
        }
    sg_model_close(&m);
}
END_TEST

/* A long timeline, whose rings went round; what was restored is saved and restored again. */
START_TEST(twice) {
    sg_model *m = open_model(models[_i]);
    int32_t tokens[CTX];
    srand(10);
    random_tokens(tokens, CTX);
    sg_session *a = create(m, CTX, 1, 5, 2, SG_KV_F16), *b = create(m, 2 * CTX, 1, 50, 1, SG_KV_F16), *c = create(m, CTX, 1, 9, 2, SG_KV_F16);
    feed(a, tokens, 230);
    for (int i = 230; i < 240; i++) feed(a, tokens + i, 1);
    save(a);
    restore(b);
    rewind_to(b, 235);
    save(b);
    restore(c);
    const uint64_t before = evaluated(c);
    feed(c, tokens, 1);
    ck_assert_uint_eq(evaluated(c) - before, 1);
    expect_as_fresh(c, models[_i]);
    static const size_t back[] = { 200, 172, 100 }; /* in what a has put into the file, not in it for b, before it */
    for (int i = 0; i < 3; i++) {
        rewind_to(c, back[i]);
        feed(c, tokens, 1);
        expect_as_fresh(c, models[_i]);
    }
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_session_destroy(&c);
    sg_model_close(&m);
}
END_TEST

/* Of a timeline that was longer, rings lack the beginning of what would be saved. */
START_TEST(after_a_longer_one) {
    sg_model *m = open_model(models[_i]);
    int32_t tokens[CTX];
    srand(13);
    random_tokens(tokens, CTX);
    sg_session *a = create(m, CTX, 1, 5, 2, SG_KV_F16), *b = create(m, CTX, 1, 5, 2, SG_KV_F16);
    feed(a, tokens, 250);
    rewind_to(a, 100);
    save(a);
    restore(b);
    rewind_to(b, 50);
    feed(b, tokens + 7, 1);
    expect_as_fresh(b, models[_i]);
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&m);
}
END_TEST

/* The same prompt once more: a copy of the state from before its last token is in the file, and window layers reach back. */
START_TEST(same_prompt) {
    sg_model *m = open_model(models[_i]);
    int32_t tokens[CTX];
    sg_error err = { 0 };
    srand(11);
    random_tokens(tokens, CTX);
    sg_session *a = usual(m), *b = usual(m);
    feed(a, tokens, 120);
    save(a);
    restore(b);
    ck_assert_msg(sg_session_sync(b, tokens, 120, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_eq(evaluated(b), 1);
    expect_as_fresh(b, models[_i]);
    feed(a, tokens + 200, 1);
    feed(a, tokens + 201, 1);
    save(a);
    restore(b);
    ck_assert_int_eq(sg_session_sync(b, tokens, 120, &err), SG_OK); /* behind it is an answer now */
    ck_assert_uint_eq(evaluated(b), 2);
    expect_as_fresh(b, models[_i]);
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&m);
}
END_TEST

START_TEST(cache_types) {
    sg_model *m = open_model("qwen3next");
    int32_t tokens[CTX];
    random_tokens(tokens, CTX);
    sg_session *a = create(m, CTX, 1, 5, 0, (sg_kv_type)_i), *b = create(m, CTX, 1, 7, 0, (sg_kv_type)_i);
    feed(a, tokens, 77);
    save(a);
    restore(b);
    feed(b, tokens + 100, 3);
    ck_assert(as_fresh(b, (sg_kv_type)_i));
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&m);
}
END_TEST

START_TEST(empty_timeline) {
    sg_model *m = open_model(models[_i]);
    sg_session *a = usual(m), *b = usual(m);
    const int32_t tokens[] = { 5, 6, 7 };
    save(a);
    feed(b, tokens, 3);
    restore(b);
    ck_assert_uint_eq(sg_session_length(b), 0);
    feed(b, tokens, 3);
    expect_as_fresh(b, models[_i]);
    rewind_to(b, 0);
    save(b);
    restore(a);
    ck_assert_uint_eq(sg_session_length(a), 0);
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&m);
}
END_TEST

/* ---- refused ---- */

/* begun: the file is as it should be but for its contents, and the timeline is gone. Either way the session can be used. */
static void refuses(sg_session *s, bool begun, const char *file, sg_status want, const char *word) {
    sg_error err = { 0 };
    rewind_to(s, 0);
    feed(s, (const int32_t[]){ 9, 8, 7, 6 }, 4);
    const sg_status got = sg_session_restore(s, file, &err);
    ck_assert_msg(got == want && strstr(err.message, word) && strstr(err.message, file), "status %d (%s), expected %d and \"%s\"", (int)got, err.message,
                  (int)want, word);
    ck_assert_uint_eq(sg_session_length(s), begun ? 0 : 4);
    ck_assert_uint_eq(sg_session_logits_rows(s), begun ? 0 : 1);
    feed(s, (const int32_t[]){ 5, 6, 7 }, 3);
    if (!strstr(word, "KV cache type")) expect_as_fresh(s, word); /* which has another type */
}

START_TEST(other_sessions) {
    sg_model *m = open_model("qwen3next"), *m2 = open_model("lfm2moe");
    sg_session *s = usual(m), *small = create(m, 32, 1, 5, 0, SG_KV_F16), *f32 = create(m, CTX, 1, 5, 0, SG_KV_F32), *s2 = usual(m2);
    int32_t tokens[60];
    random_tokens(tokens, 60);
    feed(s, tokens, 60);
    save(s);
    refuses(s2, false, path, SG_E_UNSUPPORTED, "another model");
    refuses(f32, false, path, SG_E_UNSUPPORTED, "KV cache type");
    refuses(small, false, path, SG_E_CONTEXT, "holds 60 tokens, the context 32");
    refuses(s, false, "/nonexistent/x", SG_E_NOT_FOUND, "cannot be opened");
    refuses(s, false, folder, SG_E_ACCESS, "not a regular file");
    refuses(s, false, "/dev/null", SG_E_ACCESS, "not a regular file");
    ck_assert_int_eq(sg_session_restore(s, NULL, NULL), SG_E_ARG);
    ck_assert_int_eq(sg_session_restore(NULL, path, NULL), SG_E_ARG);
    sg_session_destroy(&s);
    sg_session_destroy(&small);
    sg_session_destroy(&f32);
    sg_session_destroy(&s2);
    sg_model_close(&m);
    sg_model_close(&m2);
}
END_TEST

/* Choices that change results; and a rotary embedding that depends on the length of the context. */
START_TEST(other_settings) {
    sg_model *m = open_model("llama-q4_0"), *phi = open_model("phi3-long");
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    sg_session *plain = usual(m), *precise = NULL, *shorter = create(phi, 8, 1, 5, 0, SG_KV_F16), *longer = create(phi, CTX, 1, 5, 0, SG_KV_F16);
    o.precise = true;
    o.n_ctx = CTX;
    ck_assert_int_eq(sg_session_create(m, &o, &precise, NULL), SG_OK);
    feed(precise, (const int32_t[]){ 5, 6, 7 }, 3);
    save(precise);
    refuses(plain, false, path, SG_E_UNSUPPORTED, "other choices");
    feed(shorter, (const int32_t[]){ 5, 6, 7 }, 3);
    save(shorter);
    refuses(longer, false, path, SG_E_UNSUPPORTED, "other choices");
    sg_session_destroy(&plain);
    sg_session_destroy(&precise);
    sg_session_destroy(&shorter);
    sg_session_destroy(&longer);
    sg_model_close(&m);
    sg_model_close(&phi);
}
END_TEST

static sg_session *open_copy(const char *file, sg_model **m) {
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(file, NULL, m, &err) == SG_OK, "%s", err.message);
    return usual(*m);
}

/* A copy of the file is the same model; one with equal names and shapes but other weights is not. */
START_TEST(a_twin) {
    char twin[128];
    size_t n;
    snprintf(twin, sizeof twin, "%s/twin", folder);
    char *data = read_file(golden_path("llama-q4_0"), &n);
    sg_model *m = open_model("llama-q4_0"), *m2 = NULL;
    sg_session *s = usual(m), *s2;
    feed(s, (const int32_t[]){ 5, 6, 7 }, 3);
    save(s);
    write_file(twin, data, n);
    s2 = open_copy(twin, &m2);
    restore(s2);
    sg_session_destroy(&s2);
    sg_model_close(&m2);
    for (size_t i = n / 2; i < n / 2 + n / 16; i++) data[i] ^= 1; /* of some matrix */
    write_file(twin, data, n);
    s2 = open_copy(twin, &m2);
    refuses(s2, false, path, SG_E_UNSUPPORTED, "another model");
    sg_session_destroy(&s2);
    sg_model_close(&m2);
    free(data);
    unlink(twin);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

START_TEST(damaged) {
    sg_model *m = open_model(models[_i]);
    sg_session *s = usual(m);
    int32_t tokens[60];
    size_t n;
    srand(12);
    random_tokens(tokens, 60);
    feed(s, tokens, 60);
    save(s);
    char *data = read_file(path, &n);
    const size_t rest = HEADER + sizeof tokens;
    const size_t cuts[] = { 0, 7, 8, HEADER - 1, HEADER, HEADER + 4, rest - 1, rest, rest + 1, n / 2, n - 9, n - 8, n - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        write_file(path, data, cuts[i]);
        refuses(s, false, path, SG_E_FORMAT, "ends too early");
    }
    char *longer = malloc(n + 1);
    memcpy(longer, data, n);
    longer[n] = 0;
    write_file(path, longer, n + 1);
    free(longer);
    refuses(s, false, path, SG_E_FORMAT, "is damaged");
    for (size_t i = 0; i < 24; i++) { /* a bit of each part behind the header, the checksum included */
        const size_t at = i == 0 ? HEADER : i == 1 ? rest : i == 2 ? n - 1 : HEADER + (size_t)rand() % (n - HEADER);
        data[at] ^= 4;
        write_file(path, data, n);
        refuses(s, true, path, SG_E_FORMAT, "is damaged");
        data[at] ^= 4;
    }
    memset(data + rest, 0xff, n - rest); /* not a number, wherever it is looked at */
    write_file(path, data, n);
    refuses(s, true, path, SG_E_FORMAT, "is damaged");
    free(data);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* Every byte of the header: refused without harm, whatever its neighbours say about sizes. */
START_TEST(damaged_header) {
    sg_model *m = open_model(models[_i]);
    sg_session *s = create(m, CTX, 1, 5, 0, SG_KV_F16);
    const bool keeps_all = strcmp(models[_i], "deepseek2") == 0 || strcmp(models[_i], "llama-q4_0") == 0;
    int32_t tokens[60];
    size_t n;
    random_tokens(tokens, 60);
    feed(s, tokens, 60);
    save(s);
    char *data = read_file(path, &n);
    for (size_t at = 0; at < HEADER; at++)
        for (int bit = 0; bit < 8; bit += 3) {
            sg_error err = { 0 };
            data[at] ^= (char)(1 << bit);
            write_file(path, data, n);
            ck_assert_int_ne(sg_session_restore(s, path, &err), SG_OK);
            ck_assert_ptr_nonnull(strstr(err.message, path));
            if (keeps_all) ck_assert_msg(sg_session_length(s) == 60, "byte %zu: %s", at, err.message); /* no number but n means anything there */
            data[at] ^= (char)(1 << bit);
        }
    rewind_to(s, 0);
    feed(s, tokens, 7);
    expect_as_fresh(s, models[_i]);
    free(data);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* ---- places that cannot be written ---- */

START_TEST(unwritable) {
    sg_model *m = open_model("llama-q4_0");
    sg_session *s = usual(m);
    sg_error err = { 0 };
    int32_t tokens[200];
    size_t n, n2;
    random_tokens(tokens, 200);
    feed(s, tokens, 3);
    ck_assert_int_eq(sg_session_save(s, "/nonexistent/x", &err), SG_E_NOT_FOUND);
    ck_assert_int_eq(sg_session_save(s, "/dev/null", &err), SG_E_ACCESS);
    ck_assert_int_eq(sg_session_save(s, folder, &err), SG_E_ACCESS);
    ck_assert_int_eq(sg_session_save(s, NULL, &err), SG_E_ARG);
    ck_assert_uint_eq(files(), 0);
    save(s);
    char *before = read_file(path, &n);
    /* A drive that is full: what was there stays. */
    feed(s, tokens, 200);
    const struct rlimit small = { 20000, RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    ck_assert_int_eq(sg_session_save(s, path, &err), SG_E_IO);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
    ck_assert_uint_eq(files(), 1);
    char *after = read_file(path, &n2);
    ck_assert_uint_eq(n, n2);
    ck_assert_mem_eq(before, after, n);
    free(before);
    free(after);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

static void *save_often(void *arg) {
    for (int i = 0; i < 20; i++)
        if (sg_session_save(arg, path, NULL) != SG_OK) return NULL;
    return arg;
}

/* Two sessions under one name: one of them is there in the end, whole. */
START_TEST(two_at_once) {
    sg_model *m = open_model("lfm2moe");
    sg_session *a = usual(m), *b = usual(m), *c = usual(m);
    int32_t tokens[80];
    void *done = NULL;
    pthread_t t;
    random_tokens(tokens, 80);
    feed(a, tokens, 80);
    feed(b, tokens + 20, 40);
    ck_assert_int_eq(pthread_create(&t, NULL, save_often, a), 0);
    ck_assert_ptr_eq(save_often(b), b);
    ck_assert_int_eq(pthread_join(t, &done), 0);
    ck_assert_ptr_eq(done, a);
    ck_assert_uint_eq(files(), 1);
    restore(c);
    feed(c, tokens, 2);
    expect_as_fresh(c, "one of two");
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_session_destroy(&c);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("session_file");
    TCase *t = tcase_create("session_file");
    tcase_set_timeout(t, 0);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, goes_on, 0, N_MODELS);
    tcase_add_loop_test(t, twice, 0, N_MODELS);
    tcase_add_loop_test(t, after_a_longer_one, 0, N_MODELS);
    tcase_add_loop_test(t, same_prompt, 0, N_MODELS);
    tcase_add_loop_test(t, cache_types, 0, 3);
    tcase_add_loop_test(t, empty_timeline, 0, N_MODELS);
    tcase_add_test(t, other_sessions);
    tcase_add_test(t, other_settings);
    tcase_add_test(t, a_twin);
    tcase_add_loop_test(t, damaged, 0, N_MODELS);
    tcase_add_loop_test(t, damaged_header, 0, N_MODELS);
    tcase_add_test(t, unwritable);
    tcase_add_test(t, two_at_once);
    suite_add_tcase(s, t);
    return run_suite(s);
}
