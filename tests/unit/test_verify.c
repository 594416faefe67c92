/* sg_verify: whichever bit of a model.bin changes, it is found, and the right part is named. */
#include "tests/unit/bin_fixture.h"

static struct {
    unsigned n;
    char text[256];
    uint64_t begin, end;
    int64_t layer, cluster;
    bool names_table;
} bad; /* of the last check; the first part */

static void on_bad(void *user, const sg_bad_part *part) {
    if (bad.n++ == 0) {
        snprintf(bad.text, sizeof bad.text, "%s", part->text);
        bad.begin = part->begin;
        bad.end = part->end;
        bad.layer = part->layer;
        bad.cluster = part->cluster;
    }
    bad.names_table = bad.names_table || strncmp(part->text, "the checksums (", 15) == 0;
}

static sg_status verify(const char *path, sg_error *err) {
    sg_verify_options o = SG_VERIFY_OPTIONS_INIT;
    o.on_bad = on_bad;
    memset(&bad, 0, sizeof bad);
    sg_verify_report r = { 1, 1, 1 };
    const sg_status status = sg_verify(path, &o, &r, err);
    ck_assert_uint_eq(r.n_bad, bad.n);
    return status;
}

static void flip(int fd, uint64_t at, unsigned bit) {
    uint8_t b;
    ck_assert(pread(fd, &b, 1, (off_t)at) == 1);
    b ^= (uint8_t)(1u << bit);
    ck_assert(pwrite(fd, &b, 1, (off_t)at) == 1);
}

static const shape small = { 64, 100, 3, SG_DTYPE_Q4_0, SG_DTYPE_Q8_0, SG_DTYPE_F16 };

static void make_good(void) {
    make_gguf("in.gguf", &small);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    o.cluster = 32;
    ok(sg_convert(&o, err));
    ok(verify(in_dir(BIN), err));
}

static uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

/* What lies at `at`: the tensor, NULL for header and padding. */
static const sg_tensor_info *tensor_at(const sg_gguf *g, uint64_t at) {
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
        if (at >= t->offset && at < t->offset + t->n_bytes) return t;
    }
    return NULL;
}

static void expect_named(const sg_gguf *g, uint64_t at) {
    const sg_tensor_info *t = tensor_at(g, at);
    uint32_t layer;
    char want[128];
    if (t && strcmp(t->name, "sparsegen.checksums") == 0) {
        ck_assert_msg(bad.names_table, "byte %llu of the checksums: %s", (unsigned long long)at, bad.text);
        return;
    }
    ck_assert_msg(bad.n == 1 && at >= bad.begin && at < bad.end, "byte %llu: %u parts, %s", (unsigned long long)at, bad.n, bad.text);
    if (!t) {
        ck_assert_ptr_nonnull(strstr(bad.text, "padding behind tensor "));
    } else if (sg_bin_is_bundle(t->name, &layer)) {
        const int64_t cluster = (int64_t)((at - t->offset) / t->ne[0]);
        snprintf(want, sizeof want, "layer %u, cluster %d (bytes ", layer, (int)cluster);
        ck_assert_msg(strncmp(bad.text, want, strlen(want)) == 0, "%s is not %s", bad.text, want);
        ck_assert(bad.layer == layer && bad.cluster == cluster);
        ck_assert_uint_eq(bad.end - bad.begin, t->ne[0]);
    } else {
        snprintf(want, sizeof want, "tensor %s (", t->name);
        ck_assert_msg(strncmp(bad.text, want, strlen(want)) == 0, "%s is not %s", bad.text, want);
        ck_assert(bad.layer == -1 && bad.cluster == -1);
    }
}

START_TEST(every_flipped_bit) {
    make_good();
    sg_gguf *g = open_bin();
    const uint64_t size = sg_gguf_file_size(g, 0), header = sg_gguf_data_offset(g, 0);
    const int fd = open(in_dir(BIN), O_RDWR);
    uint64_t seed = 88172645463325252u;
    unsigned in_header = 0, kinds[3] = { 0 };
    for (unsigned i = 0; i < 4000; i++) {
        /* the header's padding is long, what is before it short */
        const uint64_t at = i < 1500 ? i : draw(&seed) % size;
        const unsigned bit = (unsigned)(draw(&seed) % 8);
        flip(fd, at, bit);
        sg_error err;
        const sg_status status = verify(in_dir(BIN), &err);
        ck_assert_msg(status == SG_E_FORMAT || (status == SG_E_UNSUPPORTED && at < header), "byte %llu: %s",
                      (unsigned long long)at, sg_status_str(status));
        if (at >= header) {
            const sg_tensor_info *t = tensor_at(g, at);
            expect_named(g, at);
            kinds[!t ? 0 : sg_bin_is_bundle(t->name, NULL) ? 1 : 2]++;
        } else if (bad.n > 0) {
            in_header++;
            ck_assert_msg(strncmp(bad.text, "the header (bytes 0 to ", 23) == 0, "byte %llu: %s", (unsigned long long)at, bad.text);
        }
        flip(fd, at, bit);
    }
    ok(verify(in_dir(BIN), err));
    ck_assert(in_header > 100 && kinds[0] > 100 && kinds[1] > 100 && kinds[2] > 5);
    close(fd);
    sg_gguf_close(&g);
}
END_TEST

/* Several damaged parts are all named. */
START_TEST(many_parts) {
    make_good();
    sg_gguf *g = open_bin();
    const sg_tensor_info *b = sg_gguf_tensor(g, "blk.1.ffn_bundle"), *n = sg_gguf_tensor(g, "blk.2.attn_norm.weight");
    const int fd = open(in_dir(BIN), O_RDWR);
    flip(fd, b->offset + b->ne[0] + 5, 0);
    flip(fd, b->offset + b->ne[0] + 500, 1);
    flip(fd, b->offset + 3 * b->ne[0], 2);
    flip(fd, n->offset, 3);
    close(fd);
    fails(verify(in_dir(BIN), err), SG_E_FORMAT, "3 of ");
    ck_assert_uint_eq(bad.n, 3);
    sg_gguf_close(&g);
}
END_TEST

START_TEST(wrong_length) {
    make_good();
    size_t n = 0;
    uint8_t *file = temp_read(in_dir(BIN), &n);
    ck_assert(file && n > 4096);
    file = realloc(file, n + 4096);
    memset(file + n, 0, 4096);
    const char *path = in_dir("other.bin");
    static const size_t lengths[] = { 1, 4096 };
    for (int i = 0; i < 2; i++) {
        ck_assert(temp_write(path, file, n + lengths[i]));
        fails(verify(path, err), SG_E_FORMAT, "damaged");
        ck_assert_ptr_nonnull(strstr(bad.text, "behind the end"));
    }
    ck_assert(temp_write(path, file, n - 1));
    fails(verify(path, err), SG_E_FORMAT, "damaged");
    ck_assert_ptr_nonnull(strstr(bad.text, "missing"));
    for (size_t cut = 0; cut < n - 4096; cut += 997) {
        ck_assert(temp_write(path, file, cut));
        fails(verify(path, err), SG_E_FORMAT, "other.bin");
    }
    free(file);
}
END_TEST

static bool stop_half_way(void *user, uint64_t done, uint64_t total) {
    ck_assert_uint_le(done, total);
    return done < total / 2;
}

START_TEST(not_checked) {
    make_good();
    fails(verify(in_dir("in.gguf"), err), SG_E_UNSUPPORTED, "holds no checksums");
    fails(verify(in_dir("missing"), err), SG_E_NOT_FOUND, "missing");
    fails(verify(dir.path, err), SG_E_ACCESS, "directory");
    fails(verify(NULL, err), SG_E_ARG, "file");
    sg_verify_options o = SG_VERIFY_OPTIONS_INIT;
    o.progress = stop_half_way;
    sg_verify_report r;
    fails(sg_verify(in_dir(BIN), &o, &r, err), SG_E_CANCELLED, "cancelled");
    ck_assert(r.n_bytes == 0 && r.n_bad == 0);
    ok(sg_verify(in_dir(BIN), NULL, NULL, err));
}
END_TEST

/* A later version, with checksums that are right, is refused for what it is. */
START_TEST(later_version) {
    sg_gguf_writer *w;
    const uint64_t ne[2] = { 2, 2 };
    static const uint8_t data[16];
    ok(sg_gguf_writer_create(in_dir(BIN), 4096, true, &w, err));
    sg_gguf_writer_u32(w, "sparsegen.format_version", 2);
    sg_gguf_writer_tensor(w, "sparsegen.checksums", SG_DTYPE_I32, 2, ne);
    ok(sg_gguf_writer_begin_data(w, err));
    ok(sg_gguf_writer_data(w, data, sizeof data, err));
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    fails(verify(in_dir(BIN), err), SG_E_UNSUPPORTED, "version 2");
}
END_TEST

int main(void) {
    Suite *s = suite_create("verify");
    TCase *c = tcase_create("verify");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_test(c, every_flipped_bit);
    tcase_add_test(c, many_parts);
    tcase_add_test(c, wrong_length);
    tcase_add_test(c, not_checked);
    tcase_add_test(c, later_version);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
