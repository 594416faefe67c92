#include "tests/kernels/harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "neuron_engine/quant.h"
#include "neuron_engine/quant_blocks.h"
#include "tests/tiers.h"

static struct {
    const char *program;
    uint64_t seed, state;
    unsigned long checks, failures;
} h;

void h_init(const char *program) {
    const char *s = getenv("SG_SEED");
    h.program = program;
    h.seed = s ? strtoull(s, NULL, 0) : 20240607;
    h.state = h.seed;
}

int h_finish(void) {
    printf("%s: %lu checks, %lu failures\n", h.program, h.checks, h.failures);
    return h.failures ? 1 : 0;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
uint64_t h_random(void) {
    uint64_t z = h.state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t h_below(uint32_t n) { return (uint32_t)((h_random() >> 32) * n >> 32); }
float h_uniform(float lo, float hi) { return lo + (hi - lo) * (float)(h_random() >> 40) * 0x1p-24f; }

float h_normal(void) {
    float s = 0;
    for (int i = 0; i < 6; i++) s += h_uniform(-1, 1);
    return s * 0.70710678f;
}

void h_bytes(void *p, size_t n) {
    uint8_t *b = p;
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t r = h_random();
        memcpy(b + i, &r, n - i < 8 ? n - i : 8);
    }
}

bool h_check(bool ok, const char *fmt, ...) {
    h.checks++;
    if (ok) return true;
    if (h.failures++ == 0) printf("%s: SG_SEED=%llu\n", h.program, (unsigned long long)h.seed);
    if (h.failures > 40) return false;
    va_list ap;
    va_start(ap, fmt);
    printf("  FAIL ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    return false;
}

size_t h_differ(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        if (x != y && !((x & 0x7fffffff) > 0x7f800000 && (y & 0x7fffffff) > 0x7f800000)) return i;
    }
    return n;
}

double h_ulps(float got, double want) {
    const float w = (float)want;
    if (got == w) return 0;
    const double unit = fmax(ldexp(1, ilogb(want) - 23), 0x1p-149);
    return fabs((double)got - want) / unit;
}

void *h_alloc(size_t n, size_t misalign) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n + misalign + (n + misalign == 0)) != 0) {
        fprintf(stderr, "out of memory\n");
        exit(99);
    }
    return (char *)p + misalign;
}

void h_free(void *p, size_t misalign) {
    if (p) free((char *)p - misalign);
}

int h_tiers(sg_kernels out[H_MAX_TIERS]) {
    int n = 0;
    for (size_t i = 0; i < N_TIER_NAMES; i++) {
        uint32_t flags = sg_cpu_detect();
        if (sg_cpu_mask(&flags, tier_names[i], NULL) != SG_OK) continue;
        sg_kernels k;
        memset(&k, 0, sizeof k);
        sg_kernels_init(&k, flags);
        bool known = false; /* a tier that this build lacks falls back to one seen before */
        for (int j = 0; j < n; j++) known |= strcmp(k.tier, out[j].tier) == 0;
        if (!known) out[n++] = k;
    }
    return n;
}

double h_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double h_peak(const char *tier, sg_peak what) {
    uint64_t rounds = 256;
    double best = 0, start = h_seconds();
    while (sg_peak_run(tier, what, rounds *= 2) > 0 && h_seconds() - start < 4e-3) start = h_seconds();
    for (int i = 0; i < 20; i++) {
        start = h_seconds();
        best = fmax(best, (double)sg_peak_run(tier, what, rounds) / (h_seconds() - start));
    }
    return best;
}

double h_read_rate(bool four) {
    enum { PARTS = 8, WORDS = 1 << 22, CHUNK = 1 << 17 }; /* parts of 32 MiB; all go by before one comes again */
    uint64_t *words = h_alloc((size_t)PARTS * WORDS * sizeof *words, 0);
    const uint32_t flags = sg_cpu_detect();
    double best = 0;
    memset(words, 1, (size_t)PARTS * WORDS * sizeof *words);
    for (size_t i = 0; i < 8 * PARTS; i++) {
        const double start = h_seconds();
        uint64_t sum = 0;
        for (size_t at = 0; at < WORDS; at += CHUNK)
            sum += sg_read_words(words + i % PARTS * WORDS + at, CHUNK, four, flags);
        best = fmax(best, WORDS * sizeof *words / (h_seconds() - start));
        h_check(sum == (uint64_t)WORDS * 0x0101010101010101u, "reading memory");
    }
    h_free(words, 0);
    return best;
}

/* Offsets of the half fields of a block, -1 ends. */
static const int *half_fields(sg_dtype type) {
    static const int none[] = { -1 }, first[] = { 0, -1 }, two[] = { 0, 2, -1 };
    static const int q2_k[] = { 80, 82, -1 }, q3_k[] = { 108, -1 }, q6_k[] = { 208, -1 };
    switch (type) {
    case SG_DTYPE_Q8_0:
    case SG_DTYPE_Q4_0:
    case SG_DTYPE_Q5_0:
    case SG_DTYPE_IQ4_NL: return first;
    case SG_DTYPE_Q4_1:
    case SG_DTYPE_Q5_1:
    case SG_DTYPE_Q4_K:
    case SG_DTYPE_Q5_K: return two;
    case SG_DTYPE_Q2_K: return q2_k;
    case SG_DTYPE_Q3_K: return q3_k;
    case SG_DTYPE_Q6_K: return q6_k;
    default: return none;
    }
}

static void float_values(sg_dtype type, uint8_t *dst, size_t n, int mode) {
    const size_t size = sg_dtype_get((uint32_t)type)->block_bytes;
    for (size_t i = 0; i < n; i++) {
        float v = mode == 1 ? 0 : mode == 2 ? 1 : h_normal();
        if (mode == 3) v *= ldexpf(1, (int)h_below(40) - 28); /* halves from subnormal to large */
        sg_quantize(type, &v, dst + i * size, 1);
    }
}

void h_blocks(sg_dtype type, void *dst, size_t n, int mode) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)type);
    if (info->block_values == 1) {
        float_values(type, dst, n, mode);
        return;
    }
    uint8_t *p = dst;
    const size_t bytes = sg_dtype_bytes(info, n);
    if (mode == 1 || mode == 2)
        memset(p, mode == 1 ? 0 : 255, bytes);
    else
        h_bytes(p, bytes);
    if (mode == 3)
        for (size_t i = 0; i < bytes; i++) p[i] = p[i] & 1 ? 0xff : p[i] & 2 ? 0x80 : p[i] & 4 ? 0x0f : 0;
    if (mode == 1) return;
    for (size_t i = 0; i < n / info->block_values; i++, p += info->block_bytes) {
        if (type == SG_DTYPE_MXFP4) p[0] = (uint8_t)(mode == 3 ? h_below(140) : 115 + h_below(20));
        for (const int *f = half_fields(type); *f >= 0; f++) {
            const uint16_t d = sg_f32_to_f16(mode == 3 ? ldexpf(h_normal(), (int)h_below(30) - 22) : h_normal() * 0.1f);
            memcpy(p + *f, &d, sizeof d);
        }
    }
}

sg_acts h_acts(uint32_t n, uint32_t k, int mode, const sg_vec_fns *vec) {
    sg_acts a = { .n = n, .k = k, .n_blocks = k / 32 };
    const size_t values = (size_t)n * k, blocks = (size_t)n * a.n_blocks;
    float *x = h_alloc(values * sizeof *x, 0);
    for (size_t i = 0; i < values; i++) {
        if (mode == 0)
            x[i] = h_normal();
        else if (mode == 1)
            x[i] = 0;
        else if (mode == 2)
            x[i] = h_random() & 1u << 20 ? 127 : -127;
        else
            x[i] = ldexpf(h_normal(), (int)(i / 32 * 29 % 60) * 3 - 148);
    }
    a.x = x;
    a.q = h_alloc(values, 0);
    a.d = h_alloc(blocks * sizeof *a.d, 0);
    a.sums = h_alloc(2 * blocks * sizeof *a.sums, 0);
    a.dsum = h_alloc(blocks * sizeof *a.dsum, 0);
    if (k % 32 == 0)
        for (uint32_t t = 0; t < n; t++) vec->quantize_acts(&a, t);
    return a;
}

void h_acts_free(sg_acts *a) {
    h_free((void *)a->x, 0);
    h_free(a->q, 0);
    h_free(a->d, 0);
    h_free(a->sums, 0);
    h_free(a->dsum, 0);
    memset(a, 0, sizeof *a);
}
