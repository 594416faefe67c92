/* Published vectors: the texts and ids of llama.cpp's vocabulary tests, and the prompts of the golden models. */
#include "tests/unit/text_fixture.h"

#include <check.h>
#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

static const char *shared;

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    sg_str s = { 0 };
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) sg_str_append(&s, buf, n);
    fclose(f);
    ck_assert(!s.failed);
    return s.data;
}

static sg_tokenizer *open_tokenizer(const char *path) {
    sg_error err;
    sg_gguf *g = NULL;
    sg_tokenizer *t = NULL;
    ck_assert_msg(sg_gguf_open(path, &g, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_tokenizer_create(g, NULL, &t, &err) == SG_OK, "%s: %s", path, err.message);
    sg_gguf_close(&g);
    return t;
}

static bool decodes_to(const sg_tokenizer *t, const sg_ids *ids, const char *text, size_t len) {
    sg_detok d;
    sg_str s = { 0 };
    sg_detok_init(&d, t, true, false);
    for (size_t i = 0; i < ids->len; i++) sg_detok_feed(&d, ids->data[i], &s);
    sg_detok_finish(&d, &s);
    const bool same = s.len == len && (len == 0 || memcmp(s.data, text, len) == 0);
    free(s.data);
    return same;
}

/* Ids of one line of an .out file. */
static sg_ids read_ids(char **line) {
    sg_ids ids = { 0 };
    char *end = strchr(*line, '\n');
    if (end) *end = 0;
    for (char *p = *line, *next;; p = next) {
        const long id = strtol(p, &next, 10);
        if (next == p) break;
        sg_ids_push(&ids, (int32_t)id);
    }
    *line = end ? end + 1 : *line + strlen(*line);
    return ids;
}

static bool same_ids(const sg_ids *a, const sg_ids *b) {
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len * sizeof *a->data) == 0);
}

static void show(const char *name, size_t i, const sg_ids *ids) {
    printf("%s text %zu:", name, i);
    for (size_t k = 0; k < ids->len; k++) printf(" %d", ids->data[k]);
    printf("\n");
}

/* Runs the vectors of `name` on the vocabulary `gguf`. */
static void run_vectors(const char *name, const char *gguf) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[1024];
    snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s.gguf.inp", shared, name);
    char *inp = read_file(path);
    snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s.gguf.out", shared, name);
    char *out = read_file(path);
    ck_assert(inp && out);
    sg_tokenizer *t = open_tokenizer(gguf);
    size_t n = 0, encoded = 0, decoded = 0;
    char *line = out;
    for (char *text = inp; text; n++) {
        char *end = strstr(text, separator);
        const size_t len = end ? (size_t)(end - text) : strlen(text);
        sg_ids want = read_ids(&line), got = { 0 };
        sg_error err;
        ck_assert_msg(sg_tokenizer_encode(t, text, len, 0, &got, &err) == SG_OK, "%s", err.message);
        if (same_ids(&want, &got)) {
            encoded++;
        } else {
            show("wanted", n, &want);
            show("got", n, &got);
        }
        if (decodes_to(t, &want, text, len))
            decoded++;
        else
            show("does not decode", n, &want);
        free(want.data);
        free(got.data);
        text = end ? end + sizeof separator - 1 : NULL;
    }
    printf("%s encode %zu/%zu decode %zu/%zu\n", name, encoded, n, decoded, n);
    fflush(stdout);
    ck_assert_uint_eq(n, 47); /* the last one is the empty text after the last separator */
    ck_assert_uint_eq(encoded, n);
    ck_assert_uint_eq(decoded, n);
    sg_tokenizer_destroy(&t);
    free(inp);
    free(out);
}

static const char *const ready[] = { "llama-spm", "phi-3", "gpt-2" };

START_TEST(vectors) {
    char path[1024];
    snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s.gguf", shared, ready[_i]);
    run_vectors(ready[_i], path);
}
END_TEST

static const struct {
    const char *name, *files[2];
} built[] = {
    { "qwen2", { "qwen2/vocab.json", "qwen2/merges.txt" } },
    { "llama-bpe", { "llama3/tokenizer.model", NULL } },
};

START_TEST(vectors_built) {
    const char *root = getenv("SG_SOURCE_ROOT"), *tmp = getenv("TMPDIR");
    char path[1024], command[4096];
    if (!root || system("python3 -c pass") != 0) {
        printf("%s skipped: no python3\n", built[_i].name);
        return;
    }
    snprintf(path, sizeof path, "%s/sg-vocab-XXXXXX", tmp ? tmp : "/tmp");
    const int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    int n = snprintf(command, sizeof command, "python3 '%s/scripts/make_vocab_gguf.py' %s", root, built[_i].name);
    for (int i = 0; i < 2 && built[_i].files[i]; i++)
        n += snprintf(command + n, sizeof command - (size_t)n, " '%s/data/vocab/%s'", shared, built[_i].files[i]);
    snprintf(command + n, sizeof command - (size_t)n, " '%s' >&2", path);
    const int rc = system(command);
    if (rc == 0) run_vectors(built[_i].name, path);
    unlink(path);
    ck_assert_int_eq(rc, 0);
}
END_TEST

/* True when the golden's prompt becomes its ids and back. */
static bool check_golden(const char *folder, const char *file) {
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    char *text = read_file(path);
    cJSON *json = cJSON_Parse(text);
    ck_assert(json);
    const char *prompt = cJSON_GetStringValue(cJSON_GetObjectItem(json, "prompt"));
    const cJSON *ids = cJSON_GetObjectItem(json, "prompt_ids"), *id;
    const cJSON *models = cJSON_GetObjectItem(json, "model");
    const char *model = cJSON_GetStringValue(cJSON_IsArray(models) ? cJSON_GetArrayItem(models, 0) : models);
    ck_assert(prompt && model && cJSON_IsArray(ids));
    sg_ids want = { 0 }, got = { 0 };
    cJSON_ArrayForEach(id, ids) sg_ids_push(&want, id->valueint);
    snprintf(path, sizeof path, "%s/%s", folder, model);
    sg_tokenizer *t = open_tokenizer(path);
    sg_error err;
    ck_assert(sg_tokenizer_encode(t, prompt, strlen(prompt), SG_TOKENIZE_SPECIAL, &got, &err) == SG_OK);
    const bool good = same_ids(&want, &got) && decodes_to(t, &got, prompt, strlen(prompt));
    if (!good) show(file, 0, &got);
    sg_tokenizer_destroy(&t);
    cJSON_Delete(json);
    free(text);
    free(want.data);
    free(got.data);
    return good;
}

static void check_goldens(const char *folder, size_t at_least) {
    DIR *dir = opendir(folder);
    if (!dir) {
        printf("%s is not there: goldens skipped\n", folder);
        return;
    }
    size_t n = 0, good = 0;
    for (const struct dirent *e; (e = readdir(dir));) {
        const size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".json") != 0) continue;
        n++;
        good += check_golden(folder, e->d_name);
    }
    closedir(dir);
    printf("goldens: %zu of %zu prompts\n", good, n);
    fflush(stdout);
    ck_assert_uint_eq(good, n);
    ck_assert_uint_ge(n, at_least);
}

START_TEST(goldens) {
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/data/goldens", shared);
    check_goldens(folder, 62);
}
END_TEST

int main(void) {
    shared = getenv("SG_SHARED");
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/data/vocab", shared ? shared : "");
    if (!shared || access(folder, R_OK) != 0) {
        printf("SG_SHARED has no vocabularies: skipped\n");
        return 77;
    }
    Suite *s = suite_create("tokenizer_vectors");
    TCase *tc = tcase_create("vectors");
    tcase_set_timeout(tc, 240);
    tcase_add_loop_test(tc, vectors, 0, 3);
    tcase_add_loop_test(tc, vectors_built, 0, 2);
    tcase_add_test(tc, goldens);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
