/* Damaged GGUF files: each kind of damage gets its own sentence, and no bytes whatever crash the reader. */
#include "tests/io/gguf_walk.h"
#include "tests/io/temp.h"

#include <check.h>

/* A file made byte by byte, apart from the project's writer, with places to damage. */
typedef struct image {
    uint8_t bytes[2048];
    size_t n, header;
    struct {
        const char *name;
        size_t at;
    } marks[64];
    size_t n_marks;
} image;

static void mark(image *m, const char *name) {
    m->marks[m->n_marks].name = name;
    m->marks[m->n_marks++].at = m->n;
}

static size_t at(const image *m, const char *name) {
    for (size_t i = 0; i < m->n_marks; i++)
        if (strcmp(m->marks[i].name, name) == 0) return m->marks[i].at;
    ck_abort_msg("no mark %s", name);
    return 0;
}

static void put(image *m, uint64_t v, size_t size) { /* little-endian */
    for (size_t i = 0; i < size; i++) m->bytes[m->n++] = (uint8_t)(v >> 8 * i);
}

static void put_str(image *m, const char *s) {
    put(m, strlen(s), 8);
    for (; *s; s++) put(m, (uint8_t)*s, 1);
}

static void put_tensor(image *m, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                       uint64_t offset) {
    put_str(m, name);
    put(m, n_dims, 4);
    for (uint32_t d = 0; d < n_dims; d++) put(m, ne[d], 8);
    put(m, type, 4);
    put(m, offset, 8);
}

static void make_entries(image *m) {
    mark(m, "key");
    put_str(m, "general.architecture");
    mark(m, "str.type");
    put(m, 8, 4);
    mark(m, "str");
    put_str(m, "llama");
    put_str(m, "general.alignment");
    mark(m, "align.type");
    put(m, 4, 4);
    mark(m, "align");
    put(m, 32, 4);
    mark(m, "one");
    put_str(m, "k.one");
    mark(m, "bool.type");
    put(m, 7, 4);
    mark(m, "bool");
    put(m, 1, 1);
    mark(m, "two");
    put_str(m, "k.two");
    put(m, 9, 4);
    mark(m, "arr.type");
    put(m, 4, 4);
    mark(m, "arr.n");
    put(m, 3, 8);
    mark(m, "arr");
    put(m, 0x0000000200000001, 8);
    put(m, 3, 4);
    put_str(m, "k.names");
    put(m, 9, 4);
    mark(m, "list.type");
    put(m, 8, 4);
    mark(m, "list.n");
    put(m, 2, 8);
    mark(m, "list");
    put_str(m, "abc");
    put_str(m, "");
    put_str(m, "k.f");
    mark(m, "f.type");
    put(m, 6, 4);
    mark(m, "f");
    put(m, 0x3f800000, 4);
    put_str(m, "split.count");
    put(m, 2, 4);
    mark(m, "split");
    put(m, 1, 2);
}

static void make(image *m) {
    static const uint64_t a[] = { 4, 2 }, b[] = { 32, 1, 2 };
    memset(m, 0, sizeof *m);
    mark(m, "magic");
    for (const char *s = "GGUF"; *s; s++) put(m, (uint8_t)*s, 1);
    mark(m, "version");
    put(m, 3, 4);
    mark(m, "n_tensors");
    put(m, 2, 8);
    mark(m, "n_kv");
    put(m, 7, 8);
    make_entries(m);
    mark(m, "a");
    put_tensor(m, "a", 2, a, 0, 0);
    mark(m, "b");
    put_tensor(m, "b", 3, b, 8, 32);
    mark(m, "end");
    m->header = m->n;
    m->n = (m->n + 31) / 32 * 32 + 32 + 68; /* a: 8 floats; b: 2 blocks of 34 bytes */
}

static sg_status parse(const uint8_t *bytes, size_t n, sg_error *err) {
    sg_gguf *g = NULL;
    uint8_t *exact = malloc(n ? n : 1); /* so that ASan sees a read beyond the end */
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, bytes, n);
    const sg_status status = sg_gguf_open_memory(exact, n, "image", &g, err);
    ck_assert((status == SG_OK) == (g != NULL));
    if (g) (void)walk_gguf(g);
    sg_gguf_close(&g);
    free(exact);
    return status;
}

#define CUT 0 /* width: the file ends at the place */

/* At `place` + delta, `width` bytes become `value`. */
static const struct {
    const char *name, *place;
    int delta, width;
    uint64_t value;
    sg_status status;
    const char *word;
} damages[] = {
    { "no damage", "version", 0, 4, 3, SG_OK, "" },
    { "version 2", "version", 0, 4, 2, SG_OK, "" },
    { "empty file", "magic", 0, CUT, 0, SG_E_FORMAT, "empty" },
    { "three bytes", "magic", 3, CUT, 0, SG_E_FORMAT, "byte 0: truncated inside the magic number" },
    { "other magic", "magic", 0, 4, 0x46554747 + 1, SG_E_FORMAT, "not a GGUF file: it begins with 48 47 55 46" },
    { "version 0", "version", 0, 4, 0, SG_E_UNSUPPORTED, "GGUF version 0" },
    { "version 1", "version", 0, 4, 1, SG_E_UNSUPPORTED, "GGUF version 1" },
    { "version 4", "version", 0, 4, 4, SG_E_UNSUPPORTED, "GGUF version 4" },
    { "big-endian 3", "version", 0, 4, 0x03000000, SG_E_UNSUPPORTED, "big-endian GGUF file (version 3)" },
    { "cut in the version", "version", 1, CUT, 0, SG_E_FORMAT, "byte 4: truncated inside the version" },
    { "cut in the counts", "n_kv", 0, CUT, 0, SG_E_FORMAT, "the key count" },
    { "too many tensors", "n_tensors", 0, 8, 1000, SG_E_FORMAT, "1000 tensors cannot fit" },
    { "most tensors", "n_tensors", 0, 8, UINT64_MAX, SG_E_FORMAT, "18446744073709551615 tensors cannot fit" },
    { "one tensor more", "n_tensors", 0, 8, 3, SG_E_FORMAT, "a tensor name is empty" },
    { "too many keys", "n_kv", 0, 8, 100000, SG_E_FORMAT, "100000 keys cannot fit" },
    { "most keys", "n_kv", 0, 8, UINT64_MAX, SG_E_FORMAT, "keys cannot fit" },
    { "a key more", "n_kv", 0, 8, 8, SG_E_FORMAT, "a tensor name has a length" },
    { "a key less", "n_kv", 0, 8, 6, SG_E_FORMAT, "tensor split.count has too many values" },
    { "empty key", "key", 0, 8, 0, SG_E_FORMAT, "a key is empty" },
    { "key beyond the end", "key", 0, 8, 5000, SG_E_FORMAT, "truncated inside a key" },
    { "longest key", "key", 0, 8, UINT64_MAX, SG_E_FORMAT, "a key has a length" },
    { "key too long by rule", "key", 0, 8, 65536, SG_E_FORMAT, "65535" },
    { "zero in a key", "key", 10, 1, 0, SG_E_FORMAT, "zero byte" },
    { "no UTF-8 in a key", "key", 10, 1, 0xff, SG_E_FORMAT, "a key is not valid UTF-8" },
    { "half a character in a key", "key", 27, 1, 0xc3, SG_E_FORMAT, "a key is not valid UTF-8" },
    { "control character in a key", "key", 10, 1, 27, SG_E_FORMAT, "control character" },
    { "duplicate key", "two", 10, 3, 0x656e6f, SG_E_FORMAT, "duplicate key k.one" },
    { "unknown value type", "str.type", 0, 4, 13, SG_E_FORMAT, "unknown type 13" },
    { "huge value type", "str.type", 0, 4, UINT32_MAX, SG_E_FORMAT, "unknown type 4294967295" },
    { "string beyond the end", "str", 0, 8, 4000, SG_E_FORMAT, "truncated inside a string value" },
    { "longest string", "str", 0, 8, UINT64_MAX, SG_E_FORMAT, "truncated inside a string value" },
    { "longest signed string", "str", 0, 8, INT64_MAX, SG_E_FORMAT, "truncated inside a string value" },
    { "zero in a string", "str", 9, 1, 0, SG_E_FORMAT, "zero byte" },
    { "no UTF-8 in a string", "str", 9, 1, 0x80, SG_E_FORMAT, "string value is not valid UTF-8" },
    { "alignment 0", "align", 0, 4, 0, SG_E_FORMAT, "general.alignment is 0" },
    { "alignment 48", "align", 0, 4, 48, SG_E_FORMAT, "general.alignment is 48" },
    { "alignment 4", "align", 0, 4, 4, SG_E_FORMAT, "power of two of at least 8" },
    { "alignment 64", "align", 0, 4, 64, SG_E_FORMAT, "no multiple of the alignment 64" },
    { "alignment 2^31", "align", 0, 4, 1u << 31, SG_E_FORMAT, "no multiple" },
    { "alignment a float", "align.type", 0, 4, 6, SG_E_FORMAT, "general.alignment is not a uint32" },
    { "no bool", "bool", 0, 1, 2, SG_E_FORMAT, "k.one: 2 is no bool" },
    { "nested array", "arr.type", 0, 4, 9, SG_E_UNSUPPORTED, "nested" },
    { "array of nothing known", "arr.type", 0, 4, 77, SG_E_FORMAT, "k.two has the unknown type 77" },
    { "array beyond the end", "arr.n", 0, 8, 400, SG_E_FORMAT, "k.two has 400 values of uint32" },
    { "longest array", "arr.n", 0, 8, UINT64_MAX, SG_E_FORMAT, "truncated: key k.two" },
    { "array size wraps to 4", "arr.n", 0, 8, (1ull << 62) + 1, SG_E_FORMAT, "truncated: key k.two" },
    { "strings beyond the end", "list.n", 0, 8, 500, SG_E_FORMAT, "k.names has 500 strings" },
    { "strings wrap", "list.n", 0, 8, (1ull << 60) + 1, SG_E_FORMAT, "truncated: key k.names" },
    { "any bytes in a list", "list", 8, 2, 0x00ff, SG_OK, "" },
    { "string in a list too long", "list", 0, 8, 1ull << 40, SG_E_FORMAT, "truncated inside a string value" },
    { "NaN", "f", 0, 4, 0x7fc00000, SG_OK, "" },
    { "infinity", "f", 0, 4, 0xff800000, SG_OK, "" },
    { "part of a set", "split", 0, 2, 2, SG_E_UNSUPPORTED, "cannot be opened from memory" },
    { "empty tensor name", "a", 0, 8, 0, SG_E_FORMAT, "a tensor name is empty" },
    { "tensor name too long", "a", 0, 8, 65, SG_E_FORMAT, "a tensor name has a length of 65" },
    { "zero in a tensor name", "a", 8, 1, 0, SG_E_FORMAT, "a tensor name has a zero byte" },
    { "no UTF-8 in a tensor name", "a", 8, 1, 0xfe, SG_E_FORMAT, "a tensor name is not valid UTF-8" },
    { "duplicate tensor", "b", 8, 1, 'a', SG_E_FORMAT, "duplicate tensor a" },
    { "no dimensions", "a", 9, 4, 0, SG_E_FORMAT, "tensor a has 0 dimensions" },
    { "five dimensions", "a", 9, 4, 5, SG_E_FORMAT, "tensor a has 5 dimensions" },
    { "most dimensions", "a", 9, 4, UINT32_MAX, SG_E_FORMAT, "4294967295 dimensions" },
    { "dimension of zero", "a", 13, 8, 0, SG_E_FORMAT, "tensor a has a dimension of zero" },
    { "last dimension zero", "a", 21, 8, 0, SG_E_FORMAT, "tensor a has a dimension of zero" },
    { "dimensions overflow", "a", 13, 8, 1ull << 63, SG_E_FORMAT, "overflow" },
    { "bytes overflow", "a", 13, 8, 1ull << 61, SG_E_FORMAT, "overflow" },
    { "bytes wrap to zero", "a", 21, 8, 1ull << 60, SG_E_FORMAT, "overflow" },
    { "half a block", "b", 13, 8, 33, SG_E_FORMAT, "tensor b has rows that are no whole blocks" },
    { "type not read", "a", 29, 4, 16, SG_E_UNSUPPORTED, "type 16" },
    { "removed type", "a", 29, 4, 4, SG_E_UNSUPPORTED, "type 4" },
    { "no type", "a", 29, 4, UINT32_MAX, SG_E_UNSUPPORTED, "type 4294967295" },
    { "offset not aligned", "a", 33, 8, 8, SG_E_FORMAT, "offset 8" },
    { "offset beyond the end", "a", 33, 8, 1 << 20, SG_E_FORMAT, "tensor a ends at" },
    { "offset wraps", "a", 33, 8, UINT64_MAX - 31, SG_E_FORMAT, "offset of tensor a is too large" },
    { "overlap", "b", 41, 8, 0, SG_E_FORMAT, "overlap" },
    { "larger than its place", "a", 21, 8, 3, SG_E_FORMAT, "tensors a and b overlap" },
    { "larger than the file", "b", 29, 8, 3, SG_E_FORMAT, "tensor b ends at" },
    { "cut before the tensors", "a", 0, CUT, 0, SG_E_FORMAT, "truncated" },
    { "cut in a tensor", "b", 15, CUT, 0, SG_E_FORMAT, "truncated" },
    { "no data", "end", 0, CUT, 0, SG_E_FORMAT, "tensor a ends at" },
};
#define N_DAMAGES (sizeof damages / sizeof damages[0])

START_TEST(damage) {
    image m;
    sg_error err = { 0 };
    make(&m);
    const size_t place = at(&m, damages[_i].place) + (size_t)damages[_i].delta;
    if (damages[_i].width == CUT) m.n = place;
    for (int i = 0; i < damages[_i].width; i++) m.bytes[place + (size_t)i] = (uint8_t)(damages[_i].value >> 8 * i);
    const sg_status status = parse(m.bytes, m.n, &err);
    ck_assert_msg(status == damages[_i].status, "%s: %s: %s", damages[_i].name, sg_status_str(status), err.message);
    ck_assert_msg(strstr(err.message, damages[_i].word) != NULL, "%s: \"%s\" lacks \"%s\"", damages[_i].name,
                  err.message, damages[_i].word);
    ck_assert_msg(status == SG_OK || strncmp(err.message, "image: ", 7) == 0, "%s: \"%s\"", damages[_i].name,
                  err.message);
}
END_TEST

START_TEST(truncation_at_every_byte) {
    image m;
    make(&m);
    for (size_t n = 0; n < m.n; n++) {
        sg_error err = { 0 };
        const sg_status status = parse(m.bytes, n, &err);
        ck_assert_msg(status == SG_E_FORMAT, "%zu bytes: %s", n, err.message);
        ck_assert_msg(n == 0 || strstr(err.message, "truncated"), "%zu bytes: %s", n, err.message);
    }
    ck_assert_int_eq(parse(m.bytes, m.n, NULL), SG_OK);
}
END_TEST

START_TEST(every_byte_changed) {
    static const uint8_t changes[] = { 1, 2, 4, 8, 16, 32, 64, 128, 255, 0x7f };
    image m;
    make(&m);
    unsigned refused = 0, read = 0;
    for (size_t i = 0; i < m.header; i++) {
        for (size_t k = 0; k < sizeof changes; k++) {
            sg_error err = { 0 };
            m.bytes[i] ^= changes[k];
            if (parse(m.bytes, m.n, &err) == SG_OK)
                read++;
            else if (++refused)
                ck_assert_msg(strncmp(err.message, "image: ", 7) == 0, "byte %zu: %s", i, err.message);
            m.bytes[i] ^= changes[k];
        }
    }
    ck_assert(refused > 0 && read > 0);
    ck_assert_int_eq(parse(m.bytes, m.n, NULL), SG_OK);
}
END_TEST

/* Through the file system the same sentences come out, and the path is in them. */
START_TEST(through_a_file) {
    image m;
    temp_dir tmp;
    temp_open(&tmp);
    make(&m);
    const char *path = temp_path(&tmp, "m.gguf");
    for (size_t n = 1; n <= m.n; n++) {
        sg_gguf *g = NULL;
        sg_error err = { 0 };
        ck_assert(temp_write(path, m.bytes, n));
        const sg_status status = sg_gguf_open(path, &g, &err);
        ck_assert_int_eq(status, n == m.n ? SG_OK : SG_E_FORMAT);
        ck_assert(status == SG_OK || (strstr(err.message, "m.gguf: ") && strstr(err.message, "truncated")));
        sg_gguf_close(&g);
    }
    temp_close(&tmp);
}
END_TEST

/* A sparse file of 4 TiB makes every length plausible: the header limit has to hold before memory is taken. */
START_TEST(sparse_giant) {
    static const struct {
        const char *place;
        uint64_t value;
    } cases[] = { { "str", 1ull << 41 }, { "arr.n", 1ull << 39 }, { "list.n", 1ull << 38 } };
    image m;
    temp_dir tmp;
    temp_open(&tmp);
    make(&m);
    const char *path = temp_path(&tmp, "m.gguf");
    const size_t place = at(&m, cases[_i].place);
    for (size_t i = 0; i < 8; i++) m.bytes[place + i] = (uint8_t)(cases[_i].value >> 8 * i);
    ck_assert(temp_write(path, m.bytes, m.n));
    if (truncate(path, (off_t)1 << 42) == 0) {
        sg_gguf *g = NULL;
        sg_error err = { 0 };
        ck_assert_int_eq(sg_gguf_open(path, &g, &err), SG_E_UNSUPPORTED);
        ck_assert_msg(strstr(err.message, "larger than 512 MiB") != NULL, "%s", err.message);
    } else {
        printf("sparse_giant: skipped, no such large files here\n");
    }
    temp_close(&tmp);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf_corrupt");
    TCase *t = tcase_create("corrupt");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, damage, 0, N_DAMAGES);
    tcase_add_test(t, truncation_at_every_byte);
    tcase_add_test(t, every_byte_changed);
    tcase_add_test(t, through_a_file);
    tcase_add_loop_test(t, sparse_giant, 0, 3);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
