/* Matrix kernels: every tier of this machine against the reference bit by bit, and the reference against double
 * precision. Usage: test_matmul [--bench [TYPE]] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/quant.h"
#include "tests/kernels/harness.h"

#define GUARD 12345.0f /* what results hold before; rows outside the range must keep it */

static const uint32_t type_list[] = { SG_DTYPE_F32,  SG_DTYPE_F16,  SG_DTYPE_BF16, SG_DTYPE_Q8_0,   SG_DTYPE_Q4_0,
                                      SG_DTYPE_Q4_1, SG_DTYPE_Q5_0, SG_DTYPE_Q5_1, SG_DTYPE_Q2_K,   SG_DTYPE_Q3_K,
                                      SG_DTYPE_Q4_K, SG_DTYPE_Q5_K, SG_DTYPE_Q6_K, SG_DTYPE_IQ4_NL, SG_DTYPE_MXFP4 };
#define N_TYPES (sizeof type_list / sizeof *type_list)

/* A matrix in both forms. */
typedef struct matrix {
    const sg_mat_kernel *kernel;
    uint32_t rows, k;
    void *raw, *packed;
    size_t packed_bytes;
} matrix;

static matrix make_matrix(const sg_mat_kernel *kernel, uint32_t rows, uint32_t k, int mode) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)kernel->type);
    const size_t bytes = (size_t)rows * sg_dtype_bytes(info, k);
    matrix m = { kernel, rows, k, h_alloc(bytes, 1), NULL, bytes };
    h_blocks(kernel->type, m.raw, (size_t)rows * k, mode);
    if (kernel->packed_bytes) m.packed_bytes = kernel->packed_bytes(rows, k);
    m.packed = h_alloc(m.packed_bytes, 0);
    if (kernel->pack)
        kernel->pack(m.packed, m.raw, rows, k);
    else
        memcpy(m.packed, m.raw, bytes);
    return m;
}

static void free_matrix(matrix *m) {
    h_free(m->raw, 1);
    h_free(m->packed, 0);
}

/* One product in full and in two row ranges, against the reference. */
static void compare(const matrix *m, const sg_acts *a, int wmode, int amode) {
    const sg_mat_kernel *ref = sg_mat_ref[m->kernel->type], *kernel = m->kernel;
    const size_t ldy = m->rows + 3, n = ldy * a->n;
    float *want = h_alloc(n * sizeof *want, 4), *got = h_alloc(n * sizeof *got, 4);
    for (size_t i = 0; i < n; i++) want[i] = got[i] = GUARD;
    ref->gemm(want, ldy, m->raw, a, 0, m->rows);
    kernel->gemm(got, ldy, m->packed, a, 0, m->rows);
    size_t i = h_differ(want, got, n);
    h_check(i == n, "%s gemm %ux%u n %u (modes %d, %d): token %zu row %zu is %a, not %a", kernel->name, m->rows, m->k,
            a->n, wmode, amode, i / ldy, i % ldy, i < n ? got[i] : 0, i < n ? want[i] : 0);
    if (a->n == 1) {
        for (i = 0; i < n; i++) got[i] = GUARD;
        kernel->gemv(got, ldy, m->packed, a, 0, m->rows);
        i = h_differ(want, got, n);
        h_check(i == n, "%s gemv %ux%u (modes %d, %d): row %zu is %a, not %a", kernel->name, m->rows, m->k, wmode,
                amode, i, i < n ? got[i] : 0, i < n ? want[i] : 0);
    }
    /* a range in the middle: the other rows keep what they held */
    const uint32_t tiles = (m->rows + kernel->mr - 1) / kernel->mr, from = h_below(tiles),
                   count = 1 + h_below(tiles - from);
    const uint32_t row0 = from * kernel->mr;
    const uint32_t row1 = row0 + count * kernel->mr < m->rows ? row0 + count * kernel->mr : m->rows;
    for (i = 0; i < n; i++) got[i] = GUARD;
    (a->n == 1 ? kernel->gemv : kernel->gemm)(got, ldy, m->packed, a, row0, row1);
    for (i = 0; i < n; i++)
        if (i % ldy < row0 || i % ldy >= row1) want[i] = GUARD;
    i = h_differ(want, got, n);
    h_check(i == n, "%s %ux%u n %u rows %u..%u: token %zu row %zu is %a, not %a", kernel->name, m->rows, m->k, a->n,
            row0, row1, i / ldy, i % ldy, i < n ? got[i] : 0, i < n ? want[i] : 0);
    h_free(want, 4);
    h_free(got, 4);
}

static void check_unpack(const matrix *m) {
    if (m->kernel->layout == 0) return;
    const size_t row_bytes = sg_dtype_bytes(sg_dtype_get((uint32_t)m->kernel->type), m->k);
    float *want = h_alloc(m->k * sizeof *want, 4), *got = h_alloc(m->k * sizeof *got, 4);
    for (uint32_t r = 0; r < m->rows; r++) {
        sg_dequantize(m->kernel->type, (const char *)m->raw + r * row_bytes, want, m->k);
        m->kernel->unpack_row(got, m->packed, r, m->k);
        const size_t i = h_differ(want, got, m->k);
        if (!h_check(i == m->k, "%s: row %u of %u unpacks wrongly at %zu", m->kernel->name, r, m->rows, i)) break;
    }
    h_free(want, 4);
    h_free(got, 4);
}

/* k of a test shape: odd ones where the type allows, few super-blocks else. */
static uint32_t random_k(sg_dtype type) {
    const uint32_t unit = sg_dtype_get((uint32_t)type)->block_values;
    return unit == 1 ? 1 + h_below(300) : unit * (1 + h_below(unit == 32 ? 20 : 4));
}

static void check_kernel(const sg_mat_kernel *kernel) {
    static const uint32_t rows[] = { 1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 70 };
    static const uint32_t tokens[] = { 1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 70 };
    for (uint32_t i = 0; i < 48; i++) {
        const int wmode = (int)(i % H_BLOCK_MODES), amode = (int)(i / H_BLOCK_MODES % H_ACT_MODES);
        /* The last two: more tokens than the kernels lay out at a time (x86/panel_avx2.h has the largest numbers), and more than
         * 8 blocks, so that sums wait in y. */
        const bool many = i >= 46;
        const uint32_t r = i < 16 ? rows[h_below(11)] : 1 + h_below(many ? 40 : 70);
        const uint32_t n = i < 13 ? tokens[i] : many ? (i == 46 ? 153 : 257) + h_below(60) : 1 + h_below(70);
        const uint32_t unit = sg_dtype_get((uint32_t)kernel->type)->block_values;
        const uint32_t k = many ? unit * (unit == 32 ? 9 : 2) : random_k(kernel->type);
        matrix m = make_matrix(kernel, r, k, wmode);
        sg_acts a = h_acts(n, k, amode, &sg_vec_ref);
        check_unpack(&m);
        compare(&m, &a, wmode, amode);
        h_acts_free(&a);
        a = h_acts(1, k, amode, &sg_vec_ref);
        compare(&m, &a, wmode, amode);
        h_acts_free(&a);
        free_matrix(&m);
    }
}

/* The reference by another way: dequantised weights times dequantised activations in double. The bound allows for one
 * F32 rounding per block and operation, relative to the largest products of each block. */
static void check_reference(sg_dtype type) {
    const sg_mat_kernel *ref = sg_mat_ref[type];
    for (int round = 0; round < 20; round++) {
        const uint32_t k = random_k(type), rows = 5;
        matrix m = make_matrix(ref, rows, k, 0);
        sg_acts a = h_acts(3, k, 0, &sg_vec_ref);
        float y[3][5], *w = h_alloc(k * sizeof *w, 0);
        ref->gemm(&y[0][0], 5, m.raw, &a, 0, rows);
        for (uint32_t r = 0; r < rows; r++) {
            sg_dequantize(type, (const char *)m.raw + r * sg_dtype_bytes(sg_dtype_get((uint32_t)type), k), w, k);
            for (uint32_t t = 0; t < 3; t++) {
                double exact = 0, size = 0, wmax = 0, xmax = 0;
                for (uint32_t i = 0; i < k; i++) {
                    const double x = ref->acts_q8 ? (double)a.q[t * k + i] * (double)a.d[t * a.n_blocks + i / 32]
                                                  : (double)a.x[t * k + i];
                    exact += (double)w[i] * x;
                    wmax = fmax(wmax, fabs((double)w[i]));
                    xmax = fmax(xmax, fabs(x));
                    if (i % 32 == 31 || i + 1 == k) {
                        size += 32 * wmax * xmax;
                        wmax = xmax = 0;
                    }
                }
                const double bound = size * 0x1p-24 * (ref->acts_q8 ? (double)a.n_blocks + 8 : (double)k);
                h_check(fabs((double)y[t][r] - exact) <= bound, "%s: %.9g is not %.9g within %.2g", ref->name,
                        (double)y[t][r], exact, bound);
                h_check(ref->acts_q8 ? bound < 1e-3 * size : true, "%s: the bound is too wide to show anything",
                        ref->name);
            }
        }
        h_free(w, 0);
        h_acts_free(&a);
        free_matrix(&m);
    }
}

static double time_product(const matrix *m, const sg_acts *a, float *y) {
    double best = 1e9;
    const double end = h_seconds() + 0.4;
    int runs = 0;
    while (runs < 3 || h_seconds() < end) {
        const double t0 = h_seconds();
        (a->n == 1 ? m->kernel->gemv : m->kernel->gemm)(y, m->rows, m->packed, a, 0, m->rows);
        const double t = h_seconds() - t0;
        best = t < best ? t : best;
        runs++;
    }
    return best;
}

/* The limits of one core. */
typedef struct limits {
    double read, peak[SG_PEAKS]; /* bytes, operations a second */
} limits;

static void bench(const sg_mat_kernel *kernel, const limits *l) {
    /* one token: 256 MiB, so that they come from memory and not from a cache; many: a matrix that a cache holds */
    const bool slow = kernel->layout == 0;
    const uint32_t k = 4096, small = 512, n = slow ? 4 : 64;
    const uint32_t rows =
        slow ? small : (uint32_t)((256u << 20) / sg_dtype_bytes(sg_dtype_get((uint32_t)kernel->type), k));
    sg_acts one = h_acts(1, k, 0, &sg_vec_ref), many = h_acts(n, k, 0, &sg_vec_ref);
    matrix m = make_matrix(kernel, rows, k, 0), s = make_matrix(kernel, small, k, 0);
    float *y = h_alloc((size_t)(rows > small * n ? rows : small * n) * sizeof *y, 0);
    const double bytes = (double)m.packed_bytes / time_product(&m, &one, y),
                 ops = 2.0 * small * k * n / time_product(&s, &many, y);
    printf("%-20s gemv %7.2f GB/s %5.1f %%  gemm n=%-3u %8.1f GOP/s %5.1f %%\n", kernel->name, bytes * 1e-9,
           100 * bytes / l->read, n, ops * 1e-9, 100 * ops / l->peak[kernel->acts_q8 ? SG_PEAK_INT8 : SG_PEAK_F32]);
    fflush(stdout);
    h_free(y, 0);
    free_matrix(&m);
    free_matrix(&s);
    h_acts_free(&one);
    h_acts_free(&many);
}

/* The limits that the shares of `bench` refer to. */
static limits measure_limits(const char *tier, double plain, double four) {
    const double read = fmax(plain, four);
    limits l = { .read = read };
    for (sg_peak what = 0; what < SG_PEAKS; what++) l.peak[what] = h_peak(tier, what);
    printf("%-12s limits: read %.2f GB/s (%.2f by one stream), int8 %.1f GOP/s (%.1f summed in 32 bits), F32 %.1f "
           "GFLOP/s\n",
           tier, read * 1e-9, plain * 1e-9, l.peak[SG_PEAK_INT8] * 1e-9, l.peak[SG_PEAK_INT8_SUM] * 1e-9,
           l.peak[SG_PEAK_F32] * 1e-9);
    return l;
}

int main(int argc, char **argv) {
    h_init("matmul");
    sg_kernels tiers[H_MAX_TIERS];
    const int n_tiers = h_tiers(tiers);
    const bool benching = argc > 1 && strcmp(argv[1], "--bench") == 0;
    const char *only = argc > 2 ? argv[2] : NULL;
    limits limit[H_MAX_TIERS];
    const double plain = benching ? h_read_rate(false) : 0, four = benching ? h_read_rate(true) : 0;
    for (int t = 0; t < n_tiers && benching; t++) limit[t] = measure_limits(tiers[t].tier, plain, four);
    for (size_t i = 0; i < N_TYPES; i++) {
        const sg_dtype type = (sg_dtype)type_list[i];
        if (only && strcmp(only, sg_dtype_get(type)->name) != 0) continue;
        h_check(tiers[0].mat[type] == sg_mat_ref[type], "the first tier is not the reference");
        if (!benching) check_reference(type);
        for (int t = 0; t < n_tiers; t++) {
            if (t > 0 && tiers[t].mat[type] == tiers[t - 1].mat[type]) continue;
            if (benching)
                bench(tiers[t].mat[type], &limit[t]);
            else
                check_kernel(tiers[t].mat[type]);
        }
    }
    for (int t = 0; t < n_tiers; t++) printf("tier %s\n", tiers[t].tier);
    return h_finish();
}
