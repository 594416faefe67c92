#include "tests/kernels/bench_neuron.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "neuron_engine/kernels/tile.h"
#include "tests/kernels/harness.h"

#define BENCH_K 4096u
#define PATTERN 256u /* rows with random content; the rest repeats them */

sg_lane_acts bench_lanes(const sg_acts *from) {
    sg_lane_acts a = { .n = from->n, .k = from->k, .n_groups = (from->k / 32 + 7) / 8, .x = from->x };
    const size_t lanes = (size_t)a.n * a.n_groups * SG_LANES;
    a.q = h_alloc(lanes * 32, 0);
    a.d = h_alloc(lanes * sizeof *a.d, 0);
    a.sum = h_alloc(lanes * sizeof *a.sum, 0);
    if (a.k % 32 == 0)
        for (uint32_t t = 0; t < a.n; t++) sg_lane_acts_fill(&a, from, t);
    return a;
}

void bench_lanes_free(sg_lane_acts *a) {
    h_free(a->q, 0);
    h_free(a->d, 0);
    h_free(a->sum, 0);
}

/* Everything the timed functions need. */
typedef struct bench {
    const sg_neuron_kernel *kernel;
    const sg_mat_kernel *mat; /* NULL unless its tiles are what dot rows look like */
    uint8_t *w;
    size_t row_bytes;
    uint32_t rows, n_list, *list;
    const sg_acts *acts;
    const sg_lane_acts *a;
    float *y, *h;
    int32_t *sum;
} bench;

static void run_gemv(const bench *b) { b->mat->gemv(b->y, b->rows, b->w, b->acts, 0, b->rows); }
static void run_gemm(const bench *b) { b->mat->gemm(b->y, b->rows, b->w, b->acts, 0, b->rows); }
static void run_all(const bench *b) { b->kernel->dot(b->y, b->w, b->row_bytes, NULL, b->rows, b->a, 0); }
static void run_list(const bench *b) { b->kernel->dot(b->y, b->w, b->row_bytes, b->list, b->n_list, b->a, 0); }
static void run_tokens(const bench *b) { b->kernel->dot_tokens(b->y, b->rows, b->w, b->row_bytes, b->rows, b->a); }
static void run_down(const bench *b) {
    if (b->kernel->quantised) b->kernel->down_add(b->sum, b->w, b->row_bytes, b->list, b->h, b->n_list, BENCH_K);
    else b->kernel->down_float(b->y, b->w, b->row_bytes, b->list, b->h, b->n_list, 0, BENCH_K);
}

/* Best seconds of a run, taken in turns so that all see the same machine. */
static void best_of(const bench *b, void (*const runs[])(const bench *), int n, double best[]) {
    for (int i = 0; i < n; i++) best[i] = INFINITY;
    const double end = h_seconds() + 1.0 * n;
    for (int round = 0; round < 5 || h_seconds() < end; round++)
        for (int i = 0; i < n; i++) {
            const double start = h_seconds();
            runs[i](b);
            best[i] = fmin(best[i], h_seconds() - start);
        }
}

static void fill(bench *b, bool down) {
    const sg_dtype type = b->kernel->type;
    uint8_t *raw = h_alloc((size_t)BENCH_K * 4, 0);
    for (uint32_t r = 0; r < b->rows; r++) {
        uint8_t *to = b->w + r * b->row_bytes;
        if (r >= PATTERN) {
            memcpy(to, to - PATTERN * b->row_bytes, b->row_bytes);
            continue;
        }
        h_blocks(type, raw, BENCH_K, 0);
        (down ? sg_down_row_pack : sg_dot_row_pack)(type, to, raw, BENCH_K);
    }
    h_free(raw, 0);
}

static void bench_memory(bench b, double read) {
    static void (*const dots[])(const bench *) = { run_all, run_list, run_gemv };
    static void (*const downs[])(const bench *) = { run_down };
    double s[3], down;
    b.row_bytes = sg_dot_row_bytes(b.kernel->type, BENCH_K);
    b.rows = (uint32_t)((500u << 20) / b.row_bytes) / 32 * 32;
    b.w = h_alloc(b.rows * b.row_bytes, 0);
    b.list = h_alloc(b.rows * sizeof *b.list, 0);
    b.y = h_alloc(b.rows * sizeof *b.y, 0);
    b.h = h_alloc(b.rows * sizeof *b.h, 0);
    b.sum = h_alloc(BENCH_K * 2 * sizeof *b.sum, 0);
    memset(b.sum, 0, BENCH_K * 2 * sizeof *b.sum);
    for (uint32_t r = 0; r < b.rows; r++) {
        b.h[r] = h_normal() * 100;
        if (h_below(10) == 0) b.list[b.n_list++] = r;
    }
    const double bytes = (double)b.rows * (double)b.row_bytes, listed = (double)b.n_list * (double)b.row_bytes;
    fill(&b, false);
    best_of(&b, dots, b.mat ? 3 : 2, s);
    fill(&b, true);
    best_of(&b, downs, 1, &down);
    printf("%-16s read %6.2f GB/s  dot of all rows %6.2f  of 10 %% %6.2f  down of 10 %% %6.2f", b.kernel->name, read * 1e-9,
           bytes / s[0] * 1e-9, listed / s[1] * 1e-9, listed / down * 1e-9);
    if (b.mat) printf("  gemv %6.2f (dot %.0f %%)", bytes / s[2] * 1e-9, 100 * s[2] / s[0]);
    printf("\n");
    h_free(b.w, 0);
    h_free(b.list, 0);
    h_free(b.y, 0);
    h_free(b.h, 0);
    h_free(b.sum, 0);
}

static void bench_tokens(bench b, double peak) {
    static void (*const runs[])(const bench *) = { run_tokens, run_gemm };
    double s[2];
    b.rows = 256;
    b.row_bytes = sg_dot_row_bytes(b.kernel->type, BENCH_K);
    b.w = h_alloc(b.rows * b.row_bytes, 0);
    b.y = h_alloc((size_t)b.rows * b.a->n * sizeof *b.y, 0);
    fill(&b, false);
    best_of(&b, runs, b.mat ? 2 : 1, s);
    const double ops = 2.0 * b.rows * BENCH_K * b.a->n;
    printf("%-16s %u tokens %8.1f GOP/s, %4.1f %% of the peak", b.kernel->name, b.a->n, ops / s[0] * 1e-9,
           100 * ops / s[0] / peak);
    if (b.mat) printf("  gemm %8.1f (dot_tokens %.0f %%)", ops / s[1] * 1e-9, 100 * s[1] / s[0]);
    printf("\n");
    h_free(b.w, 0);
    h_free(b.y, 0);
}

int bench_neuron(const sg_kernels *tier, const char *only) {
    static const sg_dtype order[] = { SG_DTYPE_Q4_0, SG_DTYPE_Q8_0, SG_DTYPE_F16, SG_DTYPE_F32 };
    const double read = fmax(h_read_rate(false), h_read_rate(true));
    sg_acts one = h_acts(1, BENCH_K, 0, &tier->vec), many = h_acts(64, BENCH_K, 0, &tier->vec);
    sg_lane_acts one_lanes = bench_lanes(&one), many_lanes = bench_lanes(&many);
    for (int i = 0; i < 4; i++) {
        const sg_neuron_kernel *kernel = tier->neuron[order[i]];
        if (only && strcmp(only, sg_dtype_get(order[i])->name) != 0) continue;
        const sg_mat_kernel *mat = kernel->quantised && tier->mat[order[i]]->layout == SG_LANES ? tier->mat[order[i]] : NULL;
        bench b = { .kernel = kernel, .mat = mat, .acts = &one, .a = &one_lanes };
        bench_memory(b, read);
        b.acts = &many;
        b.a = &many_lanes;
        bench_tokens(b, h_peak(tier->tier, kernel->quantised ? SG_PEAK_INT8 : SG_PEAK_F32));
    }
    bench_lanes_free(&one_lanes);
    bench_lanes_free(&many_lanes);
    h_acts_free(&one);
    h_acts_free(&many);
    return h_finish();
}
