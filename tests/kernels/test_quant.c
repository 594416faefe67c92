/* Block formats against vectors made by an independent implementation (scripts/make_quant_vectors.py), and the
 * properties of the conversions. Usage: test_quant [VECTORS.bin] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "tests/kernels/harness.h"

static uint32_t u32_at(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = h_alloc(*size, 0);
    if (fread(p, 1, *size, f) != *size) *size = 0;
    fclose(f);
    return p;
}

static void one_record(uint32_t kind, uint32_t type, const uint8_t *floats, uint32_t n, const uint8_t *raw,
                       uint32_t bytes) {
    const sg_dtype_info *info = sg_dtype_get(type);
    if (!h_check(info && sg_dtype_bytes(info, n) == bytes, "record of type %u: %u values in %u bytes", type, n, bytes))
        return;
    float *want = h_alloc(n * sizeof *want, 0);
    memcpy(want, floats, n * sizeof *want);
    if (kind == 0) {
        float *got = h_alloc(n * sizeof *got, 4);
        uint8_t *src = h_alloc(bytes, 1); /* no alignment is needed */
        memcpy(src, raw, bytes);
        sg_dequantize((sg_dtype)type, src, got, n);
        const size_t i = h_differ(got, want, n);
        h_check(i == n, "%s: value %zu of %u dequantises to %a, not %a", info->name, i, n, i < n ? got[i] : 0,
                i < n ? want[i] : 0);
        h_free(got, 4);
        h_free(src, 1);
    } else {
        uint8_t *got = h_alloc(bytes, 1);
        sg_quantize((sg_dtype)type, want, got, n);
        size_t i = 0;
        while (i < bytes && got[i] == raw[i]) i++;
        h_check(i == bytes, "%s: byte %zu of %u quantises to %d, not %d", info->name, i, bytes, i < bytes ? got[i] : 0,
                i < bytes ? raw[i] : 0);
        h_free(got, 1);
    }
    h_free(want, 0);
}

static void vectors(const char *path) {
    size_t size = 0, at = 0;
    unsigned seen[2] = { 0 };
    uint8_t *p = read_file(path, &size);
    while (p && at + 16 <= size) {
        const uint32_t kind = u32_at(p + at), type = u32_at(p + at + 4), n = u32_at(p + at + 8),
                       bytes = u32_at(p + at + 12);
        at += 16;
        if (!h_check(kind < 2 && (size_t)n * 4 + bytes <= size - at, "%s: broken at byte %zu", path, at)) break;
        one_record(kind, type, p + at, n, p + at + 4 * (size_t)n, bytes);
        seen[kind]++;
        at += 4 * (size_t)n + bytes;
    }
    h_check(p && at == size && seen[0] >= 15 && seen[1] >= 5, "%s: only %u + %u records read", path, seen[0], seen[1]);
    h_free(p, 0);
}

/* Every half goes to F32 and back; rounding of the midpoints between halves goes to the even one. */
static void halves(void) {
    unsigned bad = 0;
    for (uint32_t i = 0; i < 0x10000; i++) {
        const float f = sg_f16_to_f32((uint16_t)i);
        const bool nan = (i & 0x7fff) > 0x7c00;
        bad += sg_f32_to_f16(f) != (nan ? i | 0x200 : i) || nan != (f != f);
        if ((i & 0x7fff) >= 0x7c00) continue;
        const float next = (i & 0x7fff) == 0x7bff ? copysignf(65536, f) : sg_f16_to_f32((uint16_t)(i + 1));
        const float mid = (f + next) / 2;
        bad += sg_f32_to_f16(mid) != i + (i & 1);
        bad += sg_f32_to_f16(nextafterf(mid, f)) != i;
        bad += sg_f32_to_f16(nextafterf(mid, next)) != i + 1;
    }
    h_check(bad == 0, "F16: %u conversions are wrong", bad);
    bad = 0;
    for (uint32_t i = 0; i < 0x10000; i++) {
        const float f = sg_bf16_to_f32((uint16_t)i);
        const bool nan = (i & 0x7fff) > 0x7f80;
        bad += sg_f32_to_bf16(f) != (nan ? i | 64 : i) || nan != (f != f);
        if ((i & 0x7fff) >= 0x7f7f) continue;
        const float next = sg_bf16_to_f32((uint16_t)(i + 1)), mid = f + (next - f) / 2;
        bad += sg_f32_to_bf16(mid) != i + (i & 1);
    }
    h_check(bad == 0, "BF16: %u conversions are wrong", bad);
}

/* Error of one round trip at most half a step (Q4_0: one whole step at the far end), and no surprises from odd input.
 */
static void round_trip(sg_dtype type, float steps, float half_step) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)type);
    for (int round = 0; round < 200; round++) {
        float x[32], y[32], peak = 0;
        uint8_t b[64];
        for (int j = 0; j < 32; j++) {
            x[j] = h_normal();
            peak = fmaxf(peak, fabsf(x[j]));
        }
        sg_quantize(type, x, b, 32);
        sg_dequantize(type, b, y, 32);
        float worst = 0;
        for (int j = 0; j < 32; j++) worst = fmaxf(worst, fabsf(x[j] - y[j]));
        h_check(worst <= peak / steps * half_step + peak * 0x1p-10f, "%s: error %g of peak %g", info->name, worst,
                peak);
    }
    const float odd[32] = { NAN, -NAN, INFINITY, -INFINITY, 1e38f, 1e-45f, -0.0f, 1 };
    float y[32];
    uint8_t b[64];
    sg_quantize(type, odd, b, 32);
    sg_dequantize(type, b, y, 32);
    h_check(y[0] == 0 && y[1] == 0, "%s: NaN becomes %g", info->name, y[0]);
    bool is_finite = true;
    for (int j = 0; j < 32; j++) is_finite &= isfinite(y[j]);
    h_check(is_finite && y[2] > 1000 && y[3] < -1000, "%s: infinities become %g and %g", info->name, y[2], y[3]);
    for (int j = 0; j < 32; j++) y[j] = (float)(j - 20) * 1e-45f;
    sg_quantize(type, y, b, 32);
    sg_dequantize(type, b, y, 32);
    bool zero = true;
    for (int j = 0; j < 32; j++) zero &= y[j] == 0;
    h_check(zero, "%s: subnormal values do not vanish", info->name);
}

/* Types whose blocks Q8_0 can hold without loss keep every value; others and scales that are no half say no. */
static void exact_q8_0(void) {
    static const sg_dtype types[] = { SG_DTYPE_Q4_0, SG_DTYPE_Q5_0, SG_DTYPE_IQ4_NL, SG_DTYPE_MXFP4 };
    uint8_t src[4 * 64], dst[4 * 64];
    float want[128], got[128];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (int mode = 0; mode < H_BLOCK_MODES; mode++) {
            h_blocks(types[i], src, 128, mode);
            if (types[i] == SG_DTYPE_MXFP4) /* scales of 2^-12 .. 2^11 */
                for (int b = 0; b < 4; b++) src[17 * b] = (uint8_t)(116 + h_below(24));
            sg_dequantize(types[i], src, want, 128);
            const bool done = sg_to_q8_0_exact(types[i], src, dst, 128);
            if (done) sg_dequantize(SG_DTYPE_Q8_0, dst, got, 128);
            h_check(done && h_differ(want, got, 128) == 128, "%s as Q8_0 (mode %d)", sg_dtype_get((uint32_t)types[i])->name, mode);
        }
    }
    src[0] = 200;
    h_check(!sg_to_q8_0_exact(SG_DTYPE_MXFP4, src, dst, 32), "MXFP4 with a scale of 2^72 cannot be Q8_0");
    h_check(!sg_to_q8_0_exact(SG_DTYPE_Q4_1, src, dst, 32), "Q4_1 cannot be Q8_0");
}

int main(int argc, char **argv) {
    h_init("quant");
    char path[4096];
    const char *root = getenv("SG_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/tests/data/quant_vectors.bin", root ? root : ".");
    vectors(argc > 1 ? argv[1] : path);
    halves();
    round_trip(SG_DTYPE_Q8_0, 127, 0.5f);
    round_trip(SG_DTYPE_Q4_0, 8, 1);
    exact_q8_0();
    h_check(sg_can_quantize(SG_DTYPE_Q4_0) && !sg_can_quantize(SG_DTYPE_Q6_K), "sg_can_quantize");
    return h_finish();
}
