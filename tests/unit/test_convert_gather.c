/* Rows gathered from pieces of files: every value against a computation of its place. */
#include <fcntl.h>
#include <stdio.h>

#include "runtime/convert/bin_gather.h"
#include "runtime/convert/bin_matrix.h"
#include "tests/io/expect.h"
#include "tests/unit/convert_fixture.h"

enum { FILES = 2, FILE_VALUES = 40000 };

/* Value i of file f. */
static float stored(unsigned f, uint64_t i) { return value(3 + 5 * f, i); }

static int fds[FILES][3]; /* as F32, F16, BF16 */
static char paths[FILES][3][1024];

static void make_files(void) {
    static const sg_dtype types[] = { SG_DTYPE_F32, SG_DTYPE_F16, SG_DTYPE_BF16 };
    float *v = malloc(FILE_VALUES * sizeof *v);
    uint8_t *raw = malloc(FILE_VALUES * 4);
    for (unsigned f = 0; f < FILES; f++) {
        for (size_t i = 0; i < FILE_VALUES; i++) v[i] = stored(f, i);
        for (int t = 0; t < 3; t++) {
            char name[16];
            snprintf(name, sizeof name, "v%u.%d", f, t);
            snprintf(paths[f][t], sizeof paths[f][t], "%s", in_dir(name));
            sg_quantize(types[t], v, raw, FILE_VALUES);
            ck_assert(temp_write(paths[f][t], raw, FILE_VALUES * (t ? 2 : 4)));
            fds[f][t] = open(paths[f][t], O_RDONLY);
            ck_assert(fds[f][t] >= 0);
        }
    }
    free(v);
    free(raw);
}

static void close_files(void) {
    for (unsigned f = 0; f < FILES; f++)
        for (int t = 0; t < 3; t++) close(fds[f][t]);
}

/* One part of a tensor: where value (column c, row r) of matrix e lies is first + c * stride[0] + r * stride[1] + e * stride[2]. */
typedef struct piece {
    unsigned file, first, n[3], stride[3];
    sg_conv_src src;
} piece;

static const struct {
    unsigned cols, rows, experts, n_pieces;
    piece p[3];
    sg_dtype type;
    bool turned, as_turned;
} cases[] = {
    /* second halves of fused matrices: rows that follow each other, expert by expert */
    { 24, 10, 4, 1, { { 0, 240, { 24, 10, 4 }, { 1, 24, 480 }, SG_CONV_SRC_BF16 } }, SG_DTYPE_BF16, false, false },
    /* every second row */
    { 24, 10, 4, 1, { { 0, 24, { 24, 10, 4 }, { 1, 48, 480 }, SG_CONV_SRC_F32 } }, SG_DTYPE_F32, false, false },
    /* an expert in each file */
    { 40, 7, 3, 3, { { 0, 11, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F16 }, { 1, 99, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F16 },
                     { 0, 900, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F16 } }, SG_DTYPE_F16, false, false },
    /* of types of their own */
    { 40, 7, 3, 3, { { 0, 11, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F16 }, { 1, 99, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_BF16 },
                     { 0, 900, { 40, 7, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F32 } }, SG_DTYPE_F32, false, false },
    { 40, 300, 2, 2, { { 0, 11, { 40, 300, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F32 }, { 1, 99, { 40, 300, 1 }, { 1, 40, 0 }, SG_CONV_SRC_F16 } },
      SG_DTYPE_F32, false, false },
    /* stored the other way round, of experts too, every second one of their columns, of two types, read in several pieces */
    { 30, 50, 1, 1, { { 1, 7, { 30, 50, 1 }, { 50, 1, 0 }, SG_CONV_SRC_BF16 } }, SG_DTYPE_BF16, true, true },
    { 30, 50, 3, 1, { { 1, 0, { 30, 50, 3 }, { 50, 1, 1500 }, SG_CONV_SRC_F32 } }, SG_DTYPE_F32, true, true },
    { 30, 50, 3, 1, { { 1, 1, { 30, 50, 3 }, { 100, 2, 3000 }, SG_CONV_SRC_F16 } }, SG_DTYPE_F16, true, true },
    { 30, 50, 2, 2, { { 1, 1, { 30, 50, 1 }, { 100, 2, 0 }, SG_CONV_SRC_F16 }, { 0, 4, { 30, 50, 1 }, { 50, 1, 0 }, SG_CONV_SRC_F32 } },
      SG_DTYPE_F32, true, true },
    { 3, 6000, 1, 1, { { 0, 5, { 3, 6000, 1 }, { 12000, 2, 0 }, SG_CONV_SRC_F32 } }, SG_DTYPE_F32, true, true },
    /* rows in another order: the halves of a row of blocks change places */
    { 8, 6, 1, 2, { { 0, 24, { 8, 3, 1 }, { 1, 8, 0 }, SG_CONV_SRC_F32 }, { 0, 0, { 8, 3, 1 }, { 1, 8, 0 }, SG_CONV_SRC_F32 } }, SG_DTYPE_F32,
      false, false },
};

static sg_conv_tensor *make_tensor(sg_conv_model *m, int i) {
    sg_conv_tensor *t = sg_conv_add_tensor(m, cases[i].cols, cases[i].rows, cases[i].experts, "t");
    sg_conv_part *parts = sg_conv_set_parts(t, cases[i].n_pieces);
    for (unsigned k = 0; k < cases[i].n_pieces; k++) {
        const piece *p = &cases[i].p[k];
        parts[k] = (sg_conv_part) { .path = paths[p->file][p->src], .offset = p->first * (p->src == SG_CONV_SRC_F32 ? 4u : 2u), .src = p->src,
                                    .n_axes = 3 };
        for (int a = 0; a < 3; a++) {
            parts[k].axis[a].n = p->n[a];
            parts[k].axis[a].stride = p->stride[a];
        }
        sg_conv_part_merge(&parts[k]);
    }
    return t;
}

/* Value c of row r, counted through all pieces. */
static float expected(int i, uint64_t r, uint64_t c) {
    const piece *p = cases[i].p;
    while (r >= p->n[1] * p->n[2]) {
        r -= p->n[1] * p->n[2];
        p++;
    }
    return stored(p->file, p->first + c * p->stride[0] + r % p->n[1] * p->stride[1] + r / p->n[1] * p->stride[2]);
}

static void set_files(sg_bin_gather *g, int i) {
    for (unsigned k = 0; k < g->n_pieces; k++) g->pieces[k].fd = fds[cases[i].p[k].file][cases[i].p[k].src];
}

/* Loads a rectangle. `turned`: of the matrices as they lie, whose rows are the columns of the others. */
static void expect_rectangle(const sg_bin_gather *g, int i, bool turned, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols) {
    const size_t bytes = (size_t)n_rows * n_cols * (g->type == SG_DTYPE_F32 ? 4 : 2), cols = cases[i].cols;
    uint8_t *raw = malloc(bytes + 1);
    float *v = malloc((size_t)n_rows * n_cols * sizeof *v);
    raw[bytes] = 77;
    ok(sg_bin_gather_load(g, row, n_rows, col, n_cols, raw, err));
    ck_assert_uint_eq(raw[bytes], 77);
    sg_dequantize(g->type, raw, v, (size_t)n_rows * n_cols);
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t c = 0; c < n_cols; c++) {
            const uint64_t at = row + r, e = at / cols;
            const float want = turned ? expected(i, e * cases[i].rows + col + c, at % cols) : expected(i, at, col + c);
            if (v[(size_t)r * n_cols + c] != want)
                ck_abort_msg("row %u column %u: %g, not %g", row + r, col + c, v[(size_t)r * n_cols + c], want);
        }
    }
    free(raw);
    free(v);
}

static void expect_all(const sg_conv_tensor *t, int i, bool turned) {
    sg_bin_gather g;
    ok(sg_bin_gather_init(&g, t, turned, err));
    set_files(&g, i);
    ck_assert_int_eq(g.type, cases[i].type);
    ck_assert_uint_eq(g.rows, turned ? cases[i].cols * cases[i].experts : cases[i].rows * cases[i].experts);
    ck_assert_uint_eq(g.cols, turned ? cases[i].rows : cases[i].cols);
    expect_rectangle(&g, i, turned, 0, g.rows, 0, g.cols);
    for (unsigned k = 0; k < 200; k++) {
        const uint32_t row = k * 7919 % g.rows, col = k * 104729 % g.cols;
        expect_rectangle(&g, i, turned, row, 1 + k * 31 % (g.rows - row), col, 1 + k * 17 % (g.cols - col));
    }
    const sg_bin_matrix m = { .name = "t", .gather = &g, .type = g.type, .rows = g.rows, .cols = g.cols, .fd = -1 };
    ck_assert_uint_eq(sg_bin_matrix_batch(&m), g.turned ? g.rows < 32 ? g.rows : 32 : 1);
    ck_assert(g.turned == (cases[i].turned && !turned) || cases[i].p[0].stride[1] == 2);
    sg_bin_gather_drop(&g);
    sg_bin_gather_finish(&g);
}

START_TEST(every_value) {
    sg_conv_model m = { 0 };
    make_files();
    const sg_conv_tensor *t = make_tensor(&m, _i);
    ck_assert(sg_bin_gather_is_turned(t) == cases[_i].as_turned);
    expect_all(t, _i, false);
    if (cases[_i].as_turned) expect_all(t, _i, true);
    sg_conv_model_finish(&m);
    close_files();
}
END_TEST

/* Rows first .. of a matrix, as gate and up of one, and its columns. */
START_TEST(part_of_the_rows) {
    sg_conv_model m = { 0 };
    make_files();
    sg_bin_gather g;
    ok(sg_bin_gather_init(&g, make_tensor(&m, 1), false, err));
    set_files(&g, 1);
    sg_bin_matrix whole = { .name = "t", .gather = &g, .type = g.type, .rows = g.rows, .cols = g.cols };
    const sg_bin_matrix part = sg_bin_matrix_rows(&whole, 9, 12);
    float v[3 * 5];
    ok(sg_bin_matrix_load(&part, 2, 3, 4, 5, (uint8_t *)v, err));
    for (unsigned r = 0; r < 3; r++)
        for (unsigned c = 0; c < 5; c++) ck_assert(v[r * 5 + c] == expected(1, 11 + r, 4 + c));
    ck_assert_uint_eq(part.rows, 12);
    whole = (sg_bin_matrix) { .name = "t", .path = paths[0][1], .fd = fds[0][1], .type = SG_DTYPE_F16, .offset = 6, .rows = 9, .cols = 10 };
    const sg_bin_matrix plain = sg_bin_matrix_rows(&whole, 3, 2);
    uint16_t h[2];
    ok(sg_bin_matrix_load(&plain, 1, 1, 5, 2, (uint8_t *)h, err));
    ck_assert(sg_f16_to_f32(h[0]) == stored(0, 3 + 4 * 10 + 5) && sg_f16_to_f32(h[1]) == stored(0, 3 + 4 * 10 + 6));
    sg_bin_gather_finish(&g);
    sg_conv_model_finish(&m);
    close_files();
}
END_TEST

/* MXFP4: rows 0, 2, 4, .. of two experts; codes and scales in two files; longer than what is read at once. */
START_TEST(blocks) {
    enum { COLS = 64, ROWS = 700, N = COLS * ROWS * 2 * 2 };
    uint8_t *codes = malloc(N / 2), *scales = malloc(N / 32), *all = malloc(N / 32 * 17), *raw = malloc(N / 32 * 17);
    for (size_t i = 0; i < N / 2; i++) codes[i] = (uint8_t)(i * 151 + i / 256);
    for (size_t i = 0; i < N / 32; i++) scales[i] = (uint8_t)(100 + i % 50);
    ok(sg_conv_pack_mxfp4("", "", codes, scales, N, all, err));
    ck_assert(temp_write(in_dir("codes"), codes, N / 2) && temp_write(in_dir("scales"), scales, N / 32));
    for (int whole = 0; whole < 2; whole++) {
        sg_conv_model m = { 0 };
        sg_conv_tensor *t = sg_conv_add_tensor(&m, COLS, whole ? 2 * ROWS : ROWS, 2, "t");
        char c[1024], s[1024];
        snprintf(c, sizeof c, "%s", in_dir("codes"));
        snprintf(s, sizeof s, "%s", in_dir("scales"));
        t->one = (sg_conv_part) { .path = c, .scale_path = s, .src = SG_CONV_SRC_MXFP4, .n_axes = 3,
                                  .axis = { { COLS, 1 }, { t->ne[1], whole ? COLS : 2 * COLS }, { 2, COLS * ROWS * 2 } } };
        sg_conv_part_merge(&t->one);
        sg_bin_gather g;
        ok(sg_bin_gather_init(&g, t, false, err));
        ck_assert(g.type == SG_DTYPE_MXFP4 && !g.turned);
        g.pieces[0].fd = open(c, O_RDONLY);
        g.pieces[0].scale_fd = open(s, O_RDONLY);
        ok(sg_bin_gather_load(&g, 0, g.rows, 0, COLS, raw, err));
        for (uint32_t r = 0; r < g.rows; r++) ck_assert(memcmp(raw + r * 34, all + r * (whole ? 34u : 68u), 34) == 0);
        ok(sg_bin_gather_load(&g, 5, 3, 32, 32, raw, err));
        for (uint32_t r = 0; r < 3; r++) ck_assert(memcmp(raw + r * 17, all + (5 + r) * (whole ? 34u : 68u) + 17, 17) == 0);
        const int fd = open(s, O_WRONLY);
        ck_assert(pwrite(fd, "\xff", 1, 4 * 3 + 1) == 1);
        fails(sg_bin_gather_load(&g, 0, g.rows, 0, COLS, raw, err), SG_E_FORMAT, "no finite");
        ck_assert(pwrite(fd, scales + 13, 1, 13) == 1);
        close(fd);
        close(g.pieces[0].fd);
        close(g.pieces[0].scale_fd);
        sg_bin_gather_finish(&g);
        sg_conv_model_finish(&m);
    }
    free(codes);
    free(scales);
    free(all);
    free(raw);
}
END_TEST

/* What no table of a family asks for, and a file that has become shorter. */
START_TEST(refused) {
    sg_conv_model m = { 0 };
    sg_bin_gather g;
    make_files();
    sg_conv_tensor *t = make_tensor(&m, 0);
    t->op = SG_CONV_PLUS_ONE;
    fails(sg_bin_gather_init(&g, t, false, err), SG_E_INTERNAL, "cannot be cut");
    sg_bin_gather_finish(&g);
    t->op = SG_CONV_COPY;
    t->ne[0] = 23; /* rows would begin in the middle of a row */
    fails(sg_bin_gather_init(&g, t, false, err), SG_E_INTERNAL, "cannot be cut");
    sg_bin_gather_finish(&g);
    t->ne[0] = 64; /* rows would go from one run into the next */
    t->ne[1] = 5;
    t->ne[2] = 3;
    fails(sg_bin_gather_init(&g, t, false, err), SG_E_INTERNAL, "cannot be cut");
    sg_bin_gather_finish(&g);
    t->ne[0] = 24;
    t->ne[1] = 10;
    t->ne[2] = 5;
    fails(sg_bin_gather_init(&g, t, false, err), SG_E_INTERNAL, "cannot be cut");
    sg_bin_gather_finish(&g);
    t->ne[2] = 4;
    ok(sg_bin_gather_init(&g, t, false, err));
    set_files(&g, 0);
    ck_assert(truncate(paths[0][2], (240 + 480 * 3 + 23) * 2) == 0);
    uint8_t raw[480];
    ok(sg_bin_gather_load(&g, 29, 1, 0, 24, raw, err));
    fails(sg_bin_gather_load(&g, 29, 2, 0, 24, raw, err), SG_E_FORMAT, "");
    sg_bin_gather_finish(&g);
    sg_conv_model_finish(&m);
    close_files();
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_gather");
    TCase *c = tcase_create("convert_gather");
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_loop_test(c, every_value, 0, sizeof cases / sizeof *cases);
    tcase_add_test(c, part_of_the_rows);
    tcase_add_test(c, blocks);
    tcase_add_test(c, refused);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
