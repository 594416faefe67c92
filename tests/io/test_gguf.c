/* GGUF: what the writer writes the reader reads; typed look-ups; split sets; places that are no files. */
#include "io/gguf.h"
#include "tests/io/expect.h"
#include "tests/io/temp.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>

static temp_dir tmp;
static void setup(void) { temp_open(&tmp); }
static void teardown(void) { temp_close(&tmp); }

static void scalar(sg_gguf_writer *w, const char *key, sg_gguf_type type, const void *value) {
    const sg_gguf_kv kv = { .key = key, .type = type, .n = 1, .data = value };
    sg_gguf_writer_copy(w, &kv);
}

static const uint8_t u8v[] = { 0, 200, 255 };
static const int8_t i8v[] = { -128, 0, 127 };
static const uint16_t u16v[] = { 0, 40000, 65535 };
static const int16_t i16v[] = { -32768, 5, 32767 };
static const uint32_t u32v[] = { 0, 7, 4294967295u };
static const int32_t i32v[] = { INT32_MIN, -1, INT32_MAX };
static const float f32v[] = { -1.5f, 0.0f, 3.0e38f };
static const uint8_t boolv[] = { 1, 0, 1 };
static const uint64_t u64v[] = { 0, 1, UINT64_MAX };
static const int64_t i64v[] = { INT64_MIN, 2, INT64_MAX };
static const double f64v[] = { -1e300, 0.5, 1e-300 };

static const struct {
    const char *key;
    sg_gguf_type type;
    size_t size;
    const void *values; /* three of them */
} kinds[] = {
    { "u8", SG_GGUF_U8, 1, u8v },    { "i8", SG_GGUF_I8, 1, i8v },       { "u16", SG_GGUF_U16, 2, u16v },
    { "i16", SG_GGUF_I16, 2, i16v }, { "u32", SG_GGUF_U32, 4, u32v },    { "i32", SG_GGUF_I32, 4, i32v },
    { "f32", SG_GGUF_F32, 4, f32v }, { "bool", SG_GGUF_BOOL, 1, boolv }, { "u64", SG_GGUF_U64, 8, u64v },
    { "i64", SG_GGUF_I64, 8, i64v }, { "f64", SG_GGUF_F64, 8, f64v },
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* Every type as scalar "KIND" (its last value) and array "KIND.array", strings, and an empty array. */
static void add_all_kinds(sg_gguf_writer *w) {
    static const sg_gguf_string list[] = { { "", 0 }, { "h\xc3\xa9", 3 }, { "a\0b", 3 }, { "\xff\xfe", 2 } };
    for (size_t i = 0; i < N_KINDS; i++) {
        char key[32];
        scalar(w, kinds[i].key, kinds[i].type, (const char *)kinds[i].values + 2 * kinds[i].size);
        snprintf(key, sizeof key, "%s.array", kinds[i].key);
        sg_gguf_writer_array(w, key, kinds[i].type, kinds[i].values, 3);
    }
    sg_gguf_writer_str(w, "text", "na\xc3\xafve");
    sg_gguf_writer_strings(w, "list", list, 4);
    sg_gguf_writer_array(w, "empty", SG_GGUF_F32, NULL, 0);
}

static void check_all_kinds(const sg_gguf *g) {
    for (size_t i = 0; i < N_KINDS; i++) {
        char key[32];
        const sg_gguf_kv *one = sg_gguf_find(g, kinds[i].key);
        snprintf(key, sizeof key, "%s.array", kinds[i].key);
        const sg_gguf_kv *three = sg_gguf_find(g, key);
        ck_assert_ptr_nonnull(one);
        ck_assert_ptr_nonnull(three);
        ck_assert(!one->is_array && one->n == 1 && one->type == kinds[i].type && one->strings == NULL);
        ck_assert(three->is_array && three->n == 3 && three->type == kinds[i].type);
        ck_assert_mem_eq(one->data, (const char *)kinds[i].values + 2 * kinds[i].size, kinds[i].size);
        ck_assert_mem_eq(three->data, kinds[i].values, 3 * kinds[i].size);
    }
    const sg_gguf_kv *list = sg_gguf_find(g, "list");
    ck_assert(list && list->is_array && list->type == SG_GGUF_STRING && list->n == 4 && list->data == NULL);
    ck_assert_uint_eq(list->strings[0].len, 0);
    ck_assert_str_eq(list->strings[1].text, "h\xc3\xa9");
    ck_assert_uint_eq(list->strings[2].len, 3);
    ck_assert_mem_eq(list->strings[2].text, "a\0b", 4);
    ck_assert_mem_eq(list->strings[3].text, "\xff\xfe", 3);
    const sg_gguf_kv *empty = sg_gguf_find(g, "empty");
    ck_assert(empty && empty->is_array && empty->n == 0);
    ck_assert_ptr_null(sg_gguf_find(g, "absent"));
    ck_assert_ptr_null(sg_gguf_find(g, ""));
}

START_TEST(round_trip_metadata) {
    const char *first = temp_path(&tmp, "a.gguf"), *second = temp_path(&tmp, "b.gguf");
    sg_gguf_writer *w = NULL;
    sg_gguf *g = NULL, *h = NULL;
    ok(sg_gguf_writer_create(first, 0, false, &w, err));
    add_all_kinds(w);
    ok(sg_gguf_writer_begin_data(w, err));
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    ck_assert_ptr_null(w);
    ok(sg_gguf_open(first, &g, err));
    ck_assert_uint_eq(sg_gguf_version(g), 3);
    ck_assert_uint_eq(sg_gguf_alignment(g), 32);
    ck_assert_uint_eq(sg_gguf_n_kv(g), 2 * N_KINDS + 3);
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 0);
    ck_assert_str_eq(sg_gguf_path(g, 0), first);
    check_all_kinds(g);

    /* copied entry by entry, the file is the same byte for byte */
    ok(sg_gguf_writer_create(second, 0, false, &w, err));
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++) sg_gguf_writer_copy(w, sg_gguf_kv_at(g, i));
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    size_t n1, n2;
    uint8_t *b1 = temp_read(first, &n1), *b2 = temp_read(second, &n2);
    ck_assert_uint_eq(n1, n2);
    ck_assert_mem_eq(b1, b2, n1);

    /* from memory, which is not needed afterwards */
    ok(sg_gguf_open_memory(b1, n1, "mem", &h, err));
    memset(b1, 0xee, n1);
    free(b1);
    free(b2);
    check_all_kinds(h);
    sg_gguf_close(&h);
    sg_gguf_close(&g);
    sg_gguf_close(&g);
}
END_TEST

/* A file with all kinds and some values that do not fit everywhere, opened. */
static sg_gguf *open_awkward_values(void) {
    const char *path = temp_path(&tmp, "a.gguf");
    static const float nanv = NAN, infv = -INFINITY;
    static const uint64_t big = 1ull << 32, fits = 4294967295u;
    static const double huge = 1e300;
    static const int64_t five = 5;
    sg_gguf_writer *w = NULL;
    sg_gguf *g = NULL;
    ok(sg_gguf_writer_create(path, 0, false, &w, err));
    add_all_kinds(w);
    scalar(w, "nan", SG_GGUF_F32, &nanv);
    scalar(w, "inf", SG_GGUF_F32, &infv);
    scalar(w, "big", SG_GGUF_U64, &big);
    scalar(w, "fits", SG_GGUF_U64, &fits);
    scalar(w, "five", SG_GGUF_I64, &five);
    scalar(w, "huge", SG_GGUF_F64, &huge);
    scalar(w, "negative", SG_GGUF_I32, &i32v[1]);
    sg_gguf_writer_bool(w, "no", false);
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    ok(sg_gguf_open(path, &g, err));
    return g;
}

START_TEST(absent_keys) {
    sg_gguf *g = open_awkward_values();
    uint32_t u = 77;
    float f = 77;
    bool b = true;
    const char *s = "kept";
    ok(sg_gguf_get_u32(g, "absent", &u, err));
    ok(sg_gguf_get_f32(g, "absent", &f, err));
    ok(sg_gguf_get_bool(g, "absent", &b, err));
    ok(sg_gguf_get_str(g, "absent", &s, err));
    ck_assert(u == 77 && f == 77 && b && strcmp(s, "kept") == 0);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(integer_lookups) {
    sg_gguf *g = open_awkward_values();
    uint32_t u = 77;
    float f = 77;
    static const struct {
        const char *key;
        uint32_t value;
    } integers[] = { { "u8", 255 },         { "i8", 127 },        { "u16", 65535 },       { "i16", 32767 },
                     { "u32", UINT32_MAX }, { "i32", INT32_MAX }, { "fits", UINT32_MAX }, { "five", 5 } };
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        ok(sg_gguf_get_u32(g, integers[i].key, &u, err));
        ck_assert_uint_eq(u, integers[i].value);
        ok(sg_gguf_get_f32(g, integers[i].key, &f, err));
        ck_assert_float_eq(f, (float)integers[i].value);
    }
    u = 77;
    fails(sg_gguf_get_u32(g, "negative", &u, err), SG_E_FORMAT, "negative (int32) is negative: -1");
    fails(sg_gguf_get_u32(g, "big", &u, err), SG_E_FORMAT, "out of range: 4294967296");
    fails(sg_gguf_get_u32(g, "f32", &u, err), SG_E_FORMAT, "float32");
    fails(sg_gguf_get_u32(g, "bool", &u, err), SG_E_FORMAT, "bool");
    fails(sg_gguf_get_u32(g, "text", &u, err), SG_E_FORMAT, "string");
    fails(sg_gguf_get_u32(g, "u32.array", &u, err), SG_E_FORMAT, "array of uint32");
    ck_assert_uint_eq(u, 77);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(other_lookups) {
    sg_gguf *g = open_awkward_values();
    float f = 77;
    bool b = true;
    const char *s = "kept";
    ok(sg_gguf_get_f32(g, "f32", &f, err));
    ck_assert_float_eq(f, 3.0e38f);
    ok(sg_gguf_get_f32(g, "f64", &f, err));
    ck_assert_float_eq(f, (float)1e-300);
    f = 77;
    fails(sg_gguf_get_f32(g, "nan", &f, err), SG_E_FORMAT, "nan");
    fails(sg_gguf_get_f32(g, "inf", &f, err), SG_E_FORMAT, "inf");
    fails(sg_gguf_get_f32(g, "huge", &f, err), SG_E_FORMAT, "1e+300");
    fails(sg_gguf_get_f32(g, "text", &f, err), SG_E_FORMAT, "text");
    fails(sg_gguf_get_f32(g, "bool", &f, err), SG_E_FORMAT, "bool");
    fails(sg_gguf_get_f32(g, "f32.array", &f, err), SG_E_FORMAT, "array");
    ck_assert_float_eq(f, 77);
    ok(sg_gguf_get_bool(g, "no", &b, err));
    ck_assert(!b);
    fails(sg_gguf_get_bool(g, "u8", &b, err), SG_E_FORMAT, "uint8");
    ok(sg_gguf_get_str(g, "text", &s, err));
    ck_assert_str_eq(s, "na\xc3\xafve");
    fails(sg_gguf_get_str(g, "list", &s, err), SG_E_FORMAT, "array of string");
    fails(sg_gguf_get_str(g, "u8", &s, err), SG_E_FORMAT, "uint8");

    ck_assert_double_eq(sg_gguf_kv_number(sg_gguf_find(g, "i64.array"), 0), (double)INT64_MIN);
    ck_assert_double_eq(sg_gguf_kv_number(sg_gguf_find(g, "i16.array"), 0), -32768);
    ck_assert_double_eq(sg_gguf_kv_number(sg_gguf_find(g, "u64.array"), 2), (double)UINT64_MAX);
    ck_assert_double_eq(sg_gguf_kv_number(sg_gguf_find(g, "f64.array"), 1), 0.5);
    ck_assert_double_eq(sg_gguf_kv_number(sg_gguf_find(g, "bool.array"), 2), 1);
    ck_assert_double_nan(sg_gguf_kv_number(sg_gguf_find(g, "list"), 0));
    sg_gguf_close(&g);
}
END_TEST

/* Writes three tensors whose bytes are a counter; `part` of `count` when count > 1. */
static void write_tensors(const char *path, uint32_t alignment, const char *prefix, uint32_t part, uint32_t count,
                          uint32_t total) {
    static const sg_dtype types[] = { SG_DTYPE_F32, SG_DTYPE_Q4_0, SG_DTYPE_Q6_K };
    static const uint64_t ne[3][4] = { { 5 }, { 64, 3 }, { 256, 2, 1, 2 } };
    static const uint32_t dims[] = { 1, 2, 4 };
    static const size_t bytes[] = { 20, 108, 840 };
    uint8_t data[840];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7 + part);
    sg_gguf_writer *w = NULL;
    ok(sg_gguf_writer_create(path, alignment, true, &w, err));
    if (count > 1) {
        sg_gguf_writer_u32(w, "split.no", part);
        sg_gguf_writer_u32(w, "split.count", count);
        sg_gguf_writer_u32(w, "split.tensors.count", total);
    }
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s.%d", prefix, i);
        sg_gguf_writer_tensor(w, name, types[i], dims[i], ne[i]);
    }
    ok(sg_gguf_writer_begin_data(w, err));
    for (int i = 0; i < 3; i++) { /* in pieces */
        ok(sg_gguf_writer_data(w, data, bytes[i] / 3, err));
        ok(sg_gguf_writer_data(w, data + bytes[i] / 3, bytes[i] - bytes[i] / 3, err));
    }
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
}

START_TEST(round_trip_tensors) {
    const uint32_t alignment = _i == 0 ? 32 : _i == 1 ? 8 : 4096;
    const char *path = temp_path(&tmp, "t.gguf");
    write_tensors(path, alignment, "t", 0, 1, 0);
    sg_gguf *g = NULL;
    ok(sg_gguf_open(path, &g, err));
    ck_assert_uint_eq(sg_gguf_alignment(g), alignment);
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 3);
    const sg_tensor_info *a = sg_gguf_tensor(g, "t.0"), *b = sg_gguf_tensor(g, "t.1"), *c = sg_gguf_tensor(g, "t.2");
    ck_assert(a && b && c && a == sg_gguf_tensor_at(g, 0) && !sg_gguf_tensor(g, "t.3") && !sg_gguf_tensor(g, "t"));
    ck_assert(a->type == SG_DTYPE_F32 && a->n_dims == 1 && a->ne[0] == 5 && a->ne[1] == 1 && a->n_bytes == 20);
    ck_assert(b->type == SG_DTYPE_Q4_0 && b->n_dims == 2 && b->ne[1] == 3 && b->n_values == 192 && b->n_bytes == 108);
    ck_assert(c->type == SG_DTYPE_Q6_K && c->n_dims == 4 && c->ne[3] == 2 && c->n_values == 1024 && c->n_bytes == 840);
    size_t n;
    uint8_t *bytes = temp_read(path, &n);
    ck_assert_uint_eq(n, sg_gguf_file_size(g, 0));
    for (size_t i = 0; i < 3; i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
        ck_assert_uint_eq(t->offset % alignment, 0);
        ck_assert(t->offset >= sg_gguf_data_offset(g, 0) && t->offset + t->n_bytes <= n);
        for (size_t k = 0; k < t->n_bytes; k++) ck_assert_uint_eq(bytes[t->offset + k], (uint8_t)(k * 7));
    }
    free(bytes);
    /* a copy has the alignment it was created with, not the one of its source */
    sg_gguf_writer *w = NULL;
    const char *copy = temp_path(&tmp, "copy.gguf");
    ok(sg_gguf_writer_create(copy, 128, false, &w, err));
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++) sg_gguf_writer_copy(w, sg_gguf_kv_at(g, i));
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    sg_gguf_close(&g);
    ok(sg_gguf_open(copy, &g, err));
    ck_assert_uint_eq(sg_gguf_alignment(g), 128);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(split_set) {
    const char *first = temp_path(&tmp, "m-00001-of-00003.gguf"), *second = temp_path(&tmp, "m-00002-of-00003.gguf"),
               *third = temp_path(&tmp, "m-00003-of-00003.gguf"), *other = temp_path(&tmp, "other.gguf");
    write_tensors(first, 32, "a", 0, 3, 9);
    write_tensors(second, 64, "b", 1, 3, 9);
    sg_gguf *g = NULL;
    fails(sg_gguf_open(first, &g, err), SG_E_NOT_FOUND, "m-00003-of-00003.gguf");
    ck_assert_ptr_null(g);
    write_tensors(third, 32, "c", 2, 3, 9);
    ok(sg_gguf_open(first, &g, err));
    ck_assert_uint_eq(sg_gguf_n_files(g), 3);
    ck_assert_uint_eq(sg_gguf_n_tensors(g), 9);
    ck_assert_str_eq(sg_gguf_path(g, 2), third);
    ck_assert_uint_eq(sg_gguf_tensor(g, "b.1")->file, 1);
    ck_assert_uint_eq(sg_gguf_tensor(g, "b.1")->offset % 64, 0);
    ck_assert_uint_eq(sg_gguf_tensor(g, "c.2")->file, 2);
    /* split keys describe the other file: they are not copied */
    sg_gguf_writer *w = NULL;
    ok(sg_gguf_writer_create(other, 0, false, &w, err));
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++) sg_gguf_writer_copy(w, sg_gguf_kv_at(g, i));
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    sg_gguf_close(&g);
    ok(sg_gguf_open(other, &g, err));
    ck_assert_uint_eq(sg_gguf_n_kv(g), 0);
    sg_gguf_close(&g);

    fails(sg_gguf_open(second, &g, err), SG_E_UNSUPPORTED, "m-00001-of-00003.gguf");
    write_tensors(other, 32, "a", 0, 3, 9);
    fails(sg_gguf_open(other, &g, err), SG_E_FORMAT, "-00001-of-00003.gguf");
    write_tensors(other, 32, "a", 1, 3, 9); /* misnamed part: no guess at the first */
    fails(sg_gguf_open(other, &g, err), SG_E_UNSUPPORTED, "open the first part");
    write_tensors(third, 32, "a", 2, 3, 9);
    fails(sg_gguf_open(first, &g, err), SG_E_FORMAT, "duplicate tensor a.");
    write_tensors(third, 32, "c", 1, 3, 9);
    fails(sg_gguf_open(first, &g, err), SG_E_FORMAT, "part 2 of 3, the name part 3");
    write_tensors(third, 32, "c", 2, 4, 9);
    fails(sg_gguf_open(first, &g, err), SG_E_FORMAT, "part 3 of 4");
    write_tensors(third, 32, "c", 2, 3, 9);
    write_tensors(first, 32, "a", 0, 3, 10);
    fails(sg_gguf_open(first, &g, err), SG_E_FORMAT, "split.tensors.count is 10");
    write_tensors(first, 32, "a", 3, 3, 9);
    fails(sg_gguf_open(first, &g, err), SG_E_FORMAT, "split.no is 3");
}
END_TEST

START_TEST(reader_refuses_places) {
    sg_gguf *g = NULL;
    const char *empty = temp_path(&tmp, "empty"), *fifo = temp_path(&tmp, "fifo"), *closed = temp_path(&tmp, "closed");
    fails(sg_gguf_open(temp_path(&tmp, "absent.gguf"), &g, err), SG_E_NOT_FOUND, "absent.gguf");
    fails(sg_gguf_open(tmp.path, &g, err), SG_E_ACCESS, "directory");
    ck_assert(temp_write(empty, "", 0));
    fails(sg_gguf_open(empty, &g, err), SG_E_FORMAT, "empty: the file is empty");
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    fails(sg_gguf_open(fifo, &g, err), SG_E_ACCESS, "not a regular file"); /* and does not wait for a writer */
    fails(sg_gguf_open("/dev/zero", &g, err), SG_E_ACCESS, "not a regular file");
    ck_assert(temp_write(closed, "GGUF", 4));
    ck_assert_int_eq(chmod(closed, 0), 0);
    if (geteuid() != 0) fails(sg_gguf_open(closed, &g, err), SG_E_ACCESS, "Permission denied");
    ck_assert_ptr_null(g);
}
END_TEST

/* Files of other writers, where the material is there: all must open, and every name be found. */
START_TEST(foreign_files) {
    static const char *const folders[] = { "data/goldens", "data/vocab" };
    const char *shared = getenv("SG_SHARED");
    unsigned opened = 0;
    for (size_t i = 0; shared && i < 2; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s/%s", shared, folders[i]);
        DIR *d = opendir(folder);
        for (struct dirent *e; d && (e = readdir(d));) {
            const size_t n = strlen(e->d_name);
            if (n < 5 || strcmp(e->d_name + n - 5, ".gguf") != 0 || strstr(e->d_name, "-00002-of")) continue;
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            sg_gguf *g = NULL;
            ok(sg_gguf_open(path, &g, err));
            for (size_t k = 0; k < sg_gguf_n_kv(g); k++)
                ck_assert_ptr_eq(sg_gguf_find(g, sg_gguf_kv_at(g, k)->key), sg_gguf_kv_at(g, k));
            for (size_t k = 0; k < sg_gguf_n_tensors(g); k++)
                ck_assert_ptr_eq(sg_gguf_tensor(g, sg_gguf_tensor_at(g, k)->name), sg_gguf_tensor_at(g, k));
            sg_gguf_close(&g);
            opened++;
        }
        if (d) closedir(d);
    }
    if (opened == 0) printf("foreign_files: skipped, no material in SG_SHARED\n");
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, round_trip_metadata);
    tcase_add_test(t, absent_keys);
    tcase_add_test(t, integer_lookups);
    tcase_add_test(t, other_lookups);
    tcase_add_loop_test(t, round_trip_tensors, 0, 3);
    tcase_add_test(t, split_set);
    tcase_add_test(t, reader_refuses_places);
    tcase_add_test(t, foreign_files);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
