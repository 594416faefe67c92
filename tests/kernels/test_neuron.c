/* Neuron kernels: every tier of this machine against the reference bit by bit, the reference against double precision, the
 * forms of bundle rows, and what the rule promises about the order of neurons. Usage: test_neuron [--bench [TYPE]] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/quant.h"
#include "tests/kernels/bench_neuron.h"
#include "tests/kernels/harness.h"

#define GUARD 12345.0f /* what results hold before; what is not asked for must keep it */
#define LISTS 6        /* kinds of lists of rows */

static const sg_dtype types[] = { SG_DTYPE_F32, SG_DTYPE_F16, SG_DTYPE_Q8_0, SG_DTYPE_Q4_0 };
#define N_TYPES (sizeof types / sizeof *types)

/* Rows of bundles, unaligned and apart from each other; raw: the same as in GGUF. */
typedef struct row_set {
    uint32_t rows, k;
    size_t stride, raw_bytes; /* of a row */
    uint8_t *raw, *w;
} row_set;

static row_set make_rows(sg_dtype type, bool down, uint32_t rows, uint32_t k, int mode) {
    const size_t bytes = down ? sg_down_row_bytes(type, k) : sg_dot_row_bytes(type, k);
    row_set s = { .rows = rows, .k = k, .stride = bytes + (h_below(2) ? h_below(200) : 0) };
    s.raw_bytes = (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)type), k);
    s.raw = h_alloc(rows * s.raw_bytes, 1);
    h_blocks(type, s.raw, (size_t)rows * k, mode);
    s.w = h_alloc((rows - 1) * s.stride + bytes, 1);
    memset(s.w, 0xff, (rows - 1) * s.stride + bytes);
    for (uint32_t r = 0; r < rows; r++)
        (down ? sg_down_row_pack : sg_dot_row_pack)(type, s.w + r * s.stride, s.raw + r * s.raw_bytes, k);
    return s;
}

static void free_rows(row_set *s) {
    h_free(s->raw, 1);
    h_free(s->w, 1);
}

/* A list of at most `most` rows of some kind; *list is NULL for all in order. Returns its length. */
static uint32_t make_list(int kind, uint32_t rows, uint32_t most, uint32_t **list) {
    uint32_t n = 0, *l = h_alloc((most + 1) * sizeof *l, 0);
    *list = l;
    if (kind == 1) l[n++] = h_below(rows);
    if (kind == 2) /* scattered */
        for (uint32_t r = 0; r < rows && n < most; r++)
            if (h_below(3) == 0) l[n++] = r;
    if (kind == 3) /* any order, some twice */
        while (n < most) l[n++] = h_below(rows);
    if (kind < 4) return n;
    for (n = 0; n < rows && n < most; n++) l[n] = n;
    if (kind == 4) return n;
    h_free(l, 0);
    *list = NULL;
    return n;
}

static const uint32_t ks[] = { 32, 64, 96, 256, 288, 512, 1024 + 32, 4096 };

static uint32_t some_k(const sg_neuron_kernel *kernel, uint32_t i) {
    return !kernel->quantised && i % 2 ? 1 + h_below(600) : ks[i / 2 % (sizeof ks / sizeof *ks)];
}

static void check_dot(const sg_neuron_kernel *kernel) {
    const sg_neuron_kernel *ref = sg_neuron_ref[kernel->type];
    for (uint32_t i = 0; i < 64; i++) {
        const uint32_t k = some_k(kernel, i), rows = 1 + h_below(24), tokens = 1 + i % 9;
        const int wmode = (int)(i % 7 % H_BLOCK_MODES), amode = (int)(i % 5 % H_ACT_MODES);
        row_set s = make_rows(kernel->type, false, rows, k, wmode);
        sg_acts acts = h_acts(tokens, k, amode, &sg_vec_ref);
        sg_lane_acts a = bench_lanes(&acts);
        const size_t ldy = rows + 3, size = ldy * (tokens + 1);
        float *want = h_alloc(size * sizeof *want, 4), *got = h_alloc(size * sizeof *got, 4);
        for (int kind = 0; kind < LISTS; kind++) {
            uint32_t *list;
            const uint32_t n = make_list(kind, rows, rows, &list), t = h_below(tokens);
            for (size_t j = 0; j < size; j++) want[j] = got[j] = GUARD;
            ref->dot(want, s.w, s.stride, list, n, &a, t);
            kernel->dot(got, s.w, s.stride, list, n, &a, t);
            const size_t at = h_differ(want, got, size);
            h_check(at == size, "%s dot k %u list %d of %u (modes %d, %d): %zu is %a, not %a", kernel->name, k, kind, n,
                    wmode, amode, at, at < size ? got[at] : 0, at < size ? want[at] : 0);
            h_free(list, 0);
        }
        for (size_t j = 0; j < size; j++) want[j] = got[j] = GUARD;
        ref->dot_tokens(want, ldy, s.w, s.stride, rows, &a);
        kernel->dot_tokens(got, ldy, s.w, s.stride, rows, &a);
        const size_t at = h_differ(want, got, size);
        h_check(at == size, "%s dot_tokens k %u rows %u tokens %u (modes %d, %d): token %zu row %zu is %a, not %a",
                kernel->name, k, rows, tokens, wmode, amode, at / ldy, at % ldy, at < size ? got[at] : 0,
                at < size ? want[at] : 0);
        h_free(want, 4);
        h_free(got, 4);
        bench_lanes_free(&a);
        h_acts_free(&acts);
        free_rows(&s);
    }
}

/* Float rows whose k leaves a rest of every length: the values behind it are the next token's, here NaN, and stay out. */
static void check_token_ends(const sg_neuron_kernel *kernel) {
    for (uint32_t k = 1; k <= 40; k++) {
        const uint32_t rows = 5, tokens = 5;
        row_set s = make_rows(kernel->type, false, rows, k, 0);
        sg_acts acts = h_acts(tokens + 1, k, 0, &sg_vec_ref);
        for (uint32_t t = 1; t <= tokens; t += 2) /* token 0, 2, 4 are numbers */
            for (uint32_t i = 0; i < k; i++) ((float *)(uintptr_t)acts.x)[t * k + i] = NAN;
        sg_lane_acts a = bench_lanes(&acts);
        a.n = tokens;
        float want[5], got[5], all[5 * 5];
        kernel->dot_tokens(all, rows, s.w, s.stride, rows, &a);
        for (uint32_t t = 0; t < tokens; t += 2) {
            sg_neuron_ref[kernel->type]->dot(want, s.w, s.stride, NULL, rows, &a, t);
            kernel->dot(got, s.w, s.stride, NULL, rows, &a, t);
            const bool one = h_differ(want, got, rows) == rows, many = h_differ(want, all + t * rows, rows) == rows;
            h_check(one && many && !isnan(want[0]), "%s k %u: the next token takes part (dot %d, dot_tokens %d)", kernel->name, k,
                    !one, !many);
        }
        bench_lanes_free(&a);
        h_acts_free(&acts);
        free_rows(&s);
    }
}

/* More tokens and rows than a walk holds, and spans of a row that wait for each other. */
static void check_many_tokens(const sg_neuron_kernel *kernel) {
    const sg_neuron_kernel *ref = sg_neuron_ref[kernel->type];
    for (int i = 0; i < 3; i++) {
        const uint32_t k = i == 2 ? 4096 + 288 : 32 + 256 * (uint32_t)i, rows = 30 + h_below(50), tokens = 63 + h_below(80);
        row_set s = make_rows(kernel->type, false, rows, k, 0);
        sg_acts acts = h_acts(tokens, k, 0, &sg_vec_ref);
        sg_lane_acts a = bench_lanes(&acts);
        const size_t size = (size_t)rows * tokens;
        float *want = h_alloc(size * sizeof *want, 4), *got = h_alloc(size * sizeof *got, 4);
        ref->dot_tokens(want, rows, s.w, s.stride, rows, &a);
        kernel->dot_tokens(got, rows, s.w, s.stride, rows, &a);
        const size_t at = h_differ(want, got, size);
        h_check(at == size, "%s dot_tokens k %u rows %u tokens %u: token %zu row %zu is wrong", kernel->name, k, rows, tokens,
                at / rows, at % rows);
        h_free(want, 4);
        h_free(got, 4);
        bench_lanes_free(&a);
        h_acts_free(&acts);
        free_rows(&s);
    }
}

/* Sums of `parts` threads, each with some of the list, and their end in two ranges of blocks. y: [k]. */
static void down(const sg_neuron_kernel *kernel, float *y, const row_set *s, const uint32_t *list, const float *hs, uint32_t n,
                 uint32_t parts, float scale) {
    const size_t apart = (s->k + s->k / 32 + 15) / 16 * 16 + 16 * h_below(3);
    const uint32_t blocks = s->k / 32, cut = h_below(blocks / 2 + 1) * 2;
    int32_t *sum = h_alloc(parts * apart * sizeof *sum, 0);
    memset(sum, 0, parts * apart * sizeof *sum);
    for (uint32_t p = 0, from = 0; p < parts; p++) {
        const uint32_t to = p + 1 == parts ? n : from + h_below(n - from + 1);
        kernel->down_add(sum + p * apart, s->w + (list ? 0 : from * s->stride), s->stride, list ? list + from : NULL, hs + from,
                         to - from, s->k);
        from = to;
    }
    for (uint32_t i = 0; i < s->k; i++) y[i] = GUARD;
    kernel->down_end(y, sum, apart, parts, s->k, cut, blocks, scale);
    size_t same = 0;
    while (same < cut * 32 && y[same] == GUARD) same++;
    h_check(same == cut * 32, "%s down_end: wrote before its blocks", kernel->name);
    kernel->down_end(y, sum, apart, parts, s->k, 0, cut, scale);
    h_free(sum, 0);
}

static float *some_h(uint32_t n) {
    float *h = h_alloc((n + 1) * sizeof *h, 4);
    for (uint32_t i = 0; i < n; i++) h[i] = h_below(5) ? h_normal() : 0;
    return h;
}

/* Largest |h| * |d| of the list: what `unit` may be at most. */
static float down_unit(const sg_neuron_kernel *kernel, const row_set *s, const uint32_t *list, const float *h, uint32_t n) {
    float most = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = s->w + (list ? list[i] : i) * s->stride;
        const float max = kernel->down_max(row, s->k);
        h_check(max == sg_neuron_ref[kernel->type]->down_max(row, s->k), "%s down_max is %g", kernel->name, (double)max);
        most = fmaxf(most, fabsf(h[i]) * max);
    }
    return most > 0 ? 32767.0f / most * (1 - 0x1p-20f) : 1;
}

/* Scales +-1 and odd halves of integers as hs: every product is a tie. */
static void make_ties(row_set *s, float *hs, uint32_t n) {
    for (uint32_t r = 0; r < s->rows; r++)
        for (uint32_t b = 0; b < s->k / 32; b++) memcpy(s->w + r * s->stride + 2 * b, h_below(2) ? "\0\x3c" : "\0\xbc", 2);
    for (uint32_t i = 0; i < n; i++) hs[i] = (float)h_below(65534) / 2 - 16383;
}

static void check_down(const sg_neuron_kernel *kernel) {
    const sg_neuron_kernel *ref = sg_neuron_ref[kernel->type];
    for (uint32_t i = 0; i < 96; i++) {
        const uint32_t k = some_k(kernel, i), rows = 1 + h_below(40), parts = 1 + h_below(4);
        const int mode = (int)(i % 7 % H_BLOCK_MODES), kind = (int)(i % LISTS);
        row_set s = make_rows(kernel->type, true, rows, k, mode);
        uint32_t *list;
        const uint32_t n = make_list(kind, rows, i < 90 ? 30 : 1000, &list);
        float *h = some_h(n), *want = h_alloc(k * sizeof *want, 4), *got = h_alloc(k * sizeof *got, 4), unit = 1;
        if (i % 4 == 3) {
            make_ties(&s, h, n);
        } else {
            unit = down_unit(kernel, &s, list, h, n);
            for (uint32_t j = 0; j < n; j++) h[j] *= unit;
        }
        down(ref, want, &s, list, h, n, 1, 1 / unit);
        down(kernel, got, &s, list, h, n, parts, 1 / unit);
        const size_t at = h_differ(want, got, k);
        h_check(at == k, "%s down k %u list %d of %u in %u (mode %d): %zu is %a, not %a", kernel->name, k, kind, n, parts, mode,
                at, at < k ? got[at] : 0, at < k ? want[at] : 0);
        h_free(list, 0);
        h_free(h, 4);
        h_free(want, 4);
        h_free(got, 4);
        free_rows(&s);
    }
}

static void check_down_float(const sg_neuron_kernel *kernel) {
    for (uint32_t i = 0; i < 96; i++) {
        const uint32_t k = some_k(kernel, i), rows = 1 + h_below(30), i0 = h_below(3) ? h_below(k) : 0;
        const uint32_t i1 = h_below(3) ? i0 + h_below(k - i0 + 1) : k;
        const int mode = (int)(i % 7 % H_BLOCK_MODES), kind = (int)(i % LISTS);
        row_set s = make_rows(kernel->type, true, rows, k, mode);
        uint32_t *list;
        const uint32_t n = make_list(kind, rows, 30, &list);
        float *h = some_h(n), *want = h_alloc(k * sizeof *want, 4), *got = h_alloc(k * sizeof *got, 4);
        for (uint32_t j = 0; j < k; j++) want[j] = got[j] = j < i0 || j >= i1 ? GUARD : 0;
        sg_neuron_ref[kernel->type]->down_float(want, s.w, s.stride, list, h, n, i0, i1);
        kernel->down_float(got, s.w, s.stride, list, h, n, i0, i1);
        const size_t at = h_differ(want, got, k);
        h_check(at == k, "%s down k %u (%u..%u) list %d of %u (mode %d): %zu is %a, not %a", kernel->name, k, i0, i1, kind, n,
                mode, at, at < k ? got[at] : 0, at < k ? want[at] : 0);
        h_free(list, 0);
        h_free(h, 4);
        h_free(want, 4);
        h_free(got, 4);
        free_rows(&s);
    }
}

/* Rows with h == 0 are left out, and of quantised types the list is turned round: no bit may change. */
static void check_list_freedom(const sg_neuron_kernel *kernel) {
    for (uint32_t i = 0; i < 12; i++) {
        const uint32_t k = some_k(kernel, 2 * i), rows = 25;
        row_set s = make_rows(kernel->type, true, rows, k, 0);
        uint32_t *list, live[25], m = 0;
        const uint32_t n = make_list(3, rows, rows, &list);
        float *h = some_h(n), live_h[25], *all = h_alloc(k * sizeof *all, 4), *some = h_alloc(k * sizeof *some, 4);
        const float unit = kernel->quantised ? down_unit(kernel, &s, list, h, n) : 1;
        for (uint32_t j = 0; j < n; j++) {
            h[j] *= unit;
            if (h[j] == 0) continue;
            live[m] = list[j];
            live_h[m++] = h[j];
        }
        h_check(m < n, "no neuron to leave out");
        for (uint32_t j = 0; j < m / 2 && kernel->quantised; j++) {
            const uint32_t r = live[j];
            const float x = live_h[j];
            live[j] = live[m - 1 - j], live_h[j] = live_h[m - 1 - j];
            live[m - 1 - j] = r, live_h[m - 1 - j] = x;
        }
        if (kernel->quantised) {
            down(kernel, all, &s, list, h, n, 2, 1 / unit);
            down(kernel, some, &s, live, live_h, m, 3, 1 / unit);
        } else {
            memset(all, 0, k * sizeof *all);
            memset(some, 0, k * sizeof *some);
            kernel->down_float(all, s.w, s.stride, list, h, n, 0, k);
            kernel->down_float(some, s.w, s.stride, live, live_h, m, 0, k);
        }
        const size_t at = h_differ(all, some, k);
        h_check(at == k, "%s down k %u: without zeros %zu is %a, not %a", kernel->name, k, at, at < k ? some[at] : 0,
                at < k ? all[at] : 0);
        h_free(list, 0);
        h_free(h, 4);
        h_free(all, 4);
        h_free(some, 4);
        free_rows(&s);
    }
}

/* Packed rows hold the values of the GGUF rows and zeros behind them; their sizes are those of docs/model_bin.md. */
static void check_forms(sg_dtype type) {
    const bool quantised = sg_neuron_ref[type]->quantised;
    for (uint32_t i = 0; i < 24; i++) {
        const uint32_t k = some_k(sg_neuron_ref[type], i), groups = (k / 32 + 7) / 8;
        const size_t block = type == SG_DTYPE_Q8_0 ? 34 : 18, value = type == SG_DTYPE_F32 ? 4 : 2;
        float *want = h_alloc(k * sizeof *want, 0), *got = h_alloc(k * sizeof *got, 0);
        for (int down = 0; down < 2; down++) {
            const size_t bytes = down ? sg_down_row_bytes(type, k) : sg_dot_row_bytes(type, k);
            const size_t expected = quantised ? block * (down ? k / 32 : 8 * groups) : value * (down ? k : (k + 7) / 8 * 8);
            h_check(bytes == expected, "type %d: a row of %u values has %zu bytes, not %zu", (int)type, k, bytes, expected);
            row_set s = make_rows(type, down, 1, k, (int)(i % H_BLOCK_MODES));
            sg_dequantize(type, s.raw, want, k);
            (down ? sg_down_row_unpack : sg_dot_row_unpack)(type, got, s.w, k);
            const size_t at = h_differ(want, got, k);
            h_check(at == k, "type %d: value %zu of a %s row of %u differs", (int)type, at, down ? "down" : "dot", k);
            /* nothing but zeros is added */
            size_t ones = 0, ones_raw = 0;
            for (size_t j = 0; j < bytes; j++) { /* every fourth code of a Q4_0 down row has its highest bit turned */
                const bool turned = down && type == SG_DTYPE_Q4_0 && j >= k / 16 && j % 2;
                ones += (size_t)__builtin_popcount(s.w[j] ^ (turned ? 0x80 : 0));
            }
            for (size_t j = 0; j < s.raw_bytes; j++) ones_raw += (size_t)__builtin_popcount(s.raw[j]);
            h_check(ones == ones_raw, "type %d: a row of %u values has %zu bits set, not %zu", (int)type, k, ones, ones_raw);
            free_rows(&s);
        }
        h_free(want, 0);
        h_free(got, 0);
    }
    h_check(sg_dot_row_bytes(SG_DTYPE_Q4_K, 256) == 0 && sg_down_row_bytes(SG_DTYPE_BF16, 256) == 0, "too many types");
}

/* The rule by another way: values times values in double. The bounds allow for an F32 rounding per block and operation. */
static void check_reference_dot(sg_dtype type) {
    const sg_neuron_kernel *ref = sg_neuron_ref[type];
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t k = some_k(ref, i), rows = 4;
        row_set s = make_rows(type, false, rows, k, 0);
        sg_acts acts = h_acts(2, k, 0, &sg_vec_ref);
        sg_lane_acts a = bench_lanes(&acts);
        float y[4], *w = h_alloc(k * sizeof *w, 0);
        ref->dot(y, s.w, s.stride, NULL, rows, &a, 1);
        for (uint32_t r = 0; r < rows; r++) {
            double exact = 0, size = 0;
            sg_dequantize(type, s.raw + r * s.raw_bytes, w, k);
            for (uint32_t j = 0; j < k; j++) {
                const size_t at = (size_t)k + j;
                const double x = ref->quantised ? (double)acts.q[at] * (double)acts.d[at / 32] : (double)acts.x[at];
                exact += (double)w[j] * x;
                size += fabs((double)w[j] * x);
            }
            const double bound = size * 0x1p-24 * (k / (ref->quantised ? 256.0 : 8.0) + 8);
            h_check(fabs((double)y[r] - exact) <= bound, "%s dot k %u: %.9g is not %.9g within %.2g", ref->name, k, (double)y[r],
                    exact, bound);
        }
        h_free(w, 0);
        bench_lanes_free(&a);
        h_acts_free(&acts);
        free_rows(&s);
    }
}

static void check_reference_down(sg_dtype type) {
    const sg_neuron_kernel *ref = sg_neuron_ref[type];
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t k = some_k(ref, i), rows = 20;
        row_set s = make_rows(type, true, rows, k, 0);
        float *h = some_h(rows), *hs = h_alloc(rows * sizeof *hs, 0);
        float *y = h_alloc(k * sizeof *y, 0), *w = h_alloc(k * sizeof *w, 0);
        double *exact = h_alloc(k * sizeof *exact, 0), *size = h_alloc(k * sizeof *size, 0);
        const float unit = ref->quantised ? down_unit(ref, &s, NULL, h, rows) : 1;
        for (uint32_t j = 0; j < k; j++) exact[j] = size[j] = y[j] = 0;
        for (uint32_t r = 0; r < rows; r++) {
            sg_dequantize(type, s.raw + r * s.raw_bytes, w, k);
            hs[r] = h[r] * unit;
            for (uint32_t j = 0; j < k; j++) {
                exact[j] += (double)w[j] * (double)h[r];
                size[j] += fabs((double)w[j] * (double)h[r]);
            }
        }
        if (ref->quantised) down(ref, y, &s, NULL, hs, rows, 2, 1 / unit);
        else ref->down_float(y, s.w, s.stride, NULL, hs, rows, 0, k);
        for (uint32_t j = 0; j < k; j++) {
            /* quantised: half a step of a, times a code of 8 or 128 at most */
            const double step = ref->quantised ? 0.51 * rows * (type == SG_DTYPE_Q8_0 ? 128 : 8) / (double)unit : 0;
            const double bound = step + size[j] * 0x1p-24 * (rows + 4.0);
            h_check(fabs((double)y[j] - exact[j]) <= bound, "%s down k %u: %.9g is not %.9g within %.2g", ref->name, k,
                    (double)y[j], exact[j], bound);
        }
        h_free(h, 4);
        h_free(hs, 0);
        h_free(y, 0);
        h_free(w, 0);
        h_free(exact, 0);
        h_free(size, 0);
        free_rows(&s);
    }
}

/* What no finite unit serves must not go unseen. */
static void check_down_max(const sg_neuron_kernel *kernel) {
    static const char *const bad[] = { "\x00\x7c", "\x00\xfc", "\x01\x7c", "\xff\xff" };
    for (int i = 0; i < 4; i++) {
        row_set s = make_rows(kernel->type, true, 1, 32 * (1 + h_below(40)), 0);
        memcpy(s.w + 2 * h_below(s.k / 32), bad[i], 2);
        const float max = kernel->down_max(s.w, s.k);
        h_check(i < 2 ? isinf(max) : isnan(max), "%s down_max of a row with an infinity or NaN is %g", kernel->name, (double)max);
        free_rows(&s);
    }
}

int main(int argc, char **argv) {
    h_init("neuron");
    sg_kernels tiers[H_MAX_TIERS];
    const int n_tiers = h_tiers(tiers);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench_neuron(&tiers[n_tiers - 1], argc > 2 ? argv[2] : NULL);
    for (size_t i = 0; i < N_TYPES; i++) {
        const sg_dtype type = types[i];
        h_check(tiers[0].neuron[type] == sg_neuron_ref[type], "the first tier is not the reference");
        check_forms(type);
        check_reference_dot(type);
        check_reference_down(type);
        for (int t = 0; t < n_tiers; t++) {
            const sg_neuron_kernel *kernel = tiers[t].neuron[type];
            if (t > 0 && kernel == tiers[t - 1].neuron[type]) continue;
            check_dot(kernel);
            check_many_tokens(kernel);
            if (kernel->quantised) check_down(kernel), check_down_max(kernel);
            else check_down_float(kernel), check_token_ends(kernel);
            check_list_freedom(kernel);
        }
    }
    for (int t = 0; t < n_tiers; t++) printf("tier %s\n", tiers[t].tier);
    return h_finish();
}
