#include "neuron_engine/kernels/peak.h"

#include <string.h>

#include "runtime/base/cpu.h"
#include "sg_config.h"

/* A loop, and the operations of one round. */
typedef struct peak_loop {
    void (*run)(uint64_t rounds);
    uint32_t ops;
} peak_loop;

typedef struct tier_loops {
    const char *tier;
    peak_loop loop[SG_PEAKS];
} tier_loops;

/* The loops are assembly: a compiler might keep some of the registers in memory, and this file is built for the
 * baseline. A round goes twice through 14 (12) sums, more than the 10 that an instruction of 5 cycles started twice a
 * cycle needs. The operands are no zeros, which would cost less power. */
static const uint8_t codes[4] = { 1, 2, 3, 4 };
static const float half = 0.5f;
#define REGS_12(I, v) I(v, 0) I(v, 1) I(v, 2) I(v, 3) I(v, 4) I(v, 5) I(v, 6) I(v, 7) I(v, 8) I(v, 9) I(v, 10) I(v, 11)
#define REGS_14(I, v) REGS_12(I, v) I(v, 12) I(v, 13)
#define TWICE_12(I, v) REGS_12(I, v) REGS_12(I, v)
#define TWICE_14(I, v) REGS_14(I, v) REGS_14(I, v)

#if defined(__x86_64__)
/* Operands in registers 14 and 15. Compilers know all but the VNNI instructions, whatever tiers are built. */
#define CLOBBERS                                                                                                       \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15", "cc"
#define LOOP(name, isa, v, value, body)                                                                                \
    __attribute__((target(isa))) static void name(uint64_t rounds) {                                                   \
        __asm__ volatile("vbroadcastss %1, %%" v "14\n\tvbroadcastss %1, %%" v "15\n\t.p2align 4\n"                    \
                         "1:\n\t" body "dec %0\n\tjnz 1b\n\tvzeroupper"                                                \
                         : "+r"(rounds)                                                                                \
                         : "m"(value)                                                                                  \
                         : CLOBBERS);                                                                                  \
    }
#define OP(name, v, a, b, out) name " %%" v #a ", %%" v #b ", %%" v #out "\n\t"
#define MUL(v, i) OP("vpmaddubsw", v, 14, 15, i)
/* The codes also serve as the ones of vpmaddwd, whose time does not depend on values. */
#define SUM(v, i) OP("vpmaddubsw", v, 14, 15, 12) OP("vpmaddwd", v, 12, 14, 13) OP("vpaddd", v, 13, i, i)
#define FMA(v, i) OP("vfmadd231ps", v, 14, 15, i)
#define DOT(v, i) OP("vpdpbusd", v, 14, 15, i)
#define DOT_VEX(v, i) "%{vex%} " DOT(v, i)

LOOP(mul_avx2, "avx2", "ymm", codes, TWICE_14(MUL, "ymm"))
LOOP(sum_avx2, "avx2", "ymm", codes, TWICE_12(SUM, "ymm"))
LOOP(fma_avx2, "avx2,fma", "ymm", half, TWICE_14(FMA, "ymm"))
#if SG_ISA_AVXVNNI
LOOP(dot_avxvnni, "avx2,avxvnni", "ymm", codes, TWICE_14(DOT_VEX, "ymm"))
#endif
LOOP(mul_avx512, "avx512f,avx512bw", "zmm", codes, TWICE_14(MUL, "zmm"))
LOOP(sum_avx512, "avx512f,avx512bw", "zmm", codes, TWICE_12(SUM, "zmm"))
LOOP(fma_avx512, "avx512f", "zmm", half, TWICE_14(FMA, "zmm"))
#if SG_ISA_AVX512VNNI
LOOP(dot_avx512vnni, "avx512f,avx512vnni", "zmm", codes, TWICE_14(DOT, "zmm"))
#endif

static const tier_loops loops[] = {
    { "avx2", { { mul_avx2, 28 * 32 * 2 }, { sum_avx2, 24 * 32 * 2 }, { fma_avx2, 28 * 8 * 2 } } },
#if SG_ISA_AVXVNNI
    { "avxvnni", { { dot_avxvnni, 28 * 32 * 2 }, { dot_avxvnni, 28 * 32 * 2 }, { fma_avx2, 28 * 8 * 2 } } },
#endif
    { "avx512", { { mul_avx512, 28 * 64 * 2 }, { sum_avx512, 24 * 64 * 2 }, { fma_avx512, 28 * 16 * 2 } } },
#if SG_ISA_AVX512VNNI
    { "avx512vnni", { { dot_avx512vnni, 28 * 64 * 2 }, { dot_avx512vnni, 28 * 64 * 2 }, { fma_avx512, 28 * 16 * 2 } } },
#endif
};
#define N_LOOPS (sizeof loops / sizeof *loops)

#elif defined(__aarch64__)
/* Operands in v30 and v31. The newer instructions by their encoding, which every assembler takes. */
#define CLOBBERS                                                                                                       \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v29", "v30", "v31", "cc"
#define LOOP(name, value, body)                                                                                        \
    static void name(uint64_t rounds) {                                                                                \
        __asm__ volatile("ld1r {v30.4s}, [%1]\n\tmov v31.16b, v30.16b\n"                                               \
                         "1:\n\t" body "subs %0, %0, #1\n\tb.ne 1b"                                                    \
                         : "+r"(rounds)                                                                                \
                         : "r"(value), "m"(*(value))                                                                   \
                         : CLOBBERS);                                                                                  \
    }
#define MUL(v, i) "smlal v" #i ".8h, v30.8b, v31.8b\n\t"
#define SUM(v, i) "smull v29.8h, v30.8b, v31.8b\n\tsmlal2 v29.8h, v30.16b, v31.16b\n\tsadalp v" #i ".4s, v29.8h\n\t"
#define DOT(v, i) ".inst 0x4e9f97c0 + " #i "\n\t"  /* sdot v_i.4s, v30.16b, v31.16b */
#define MMLA(v, i) ".inst 0x4e9fa7c0 + " #i "\n\t" /* smmla v_i.4s, v30.16b, v31.16b */
#define FMA(v, i) "fmla v" #i ".4s, v30.4s, v31.4s\n\t"

LOOP(mul_neon, codes, TWICE_14(MUL, ))
LOOP(sum_neon, codes, TWICE_12(SUM, ))
LOOP(dot_dotprod, codes, TWICE_14(DOT, ))
LOOP(mmla_i8mm, codes, TWICE_14(MMLA, ))
LOOP(fma_neon, &half, TWICE_14(FMA, ))

static const tier_loops loops[] = {
    { "neon", { { mul_neon, 28 * 8 * 2 }, { sum_neon, 24 * 16 * 2 }, { fma_neon, 28 * 4 * 2 } } },
    { "dotprod", { { dot_dotprod, 28 * 16 * 2 }, { dot_dotprod, 28 * 16 * 2 }, { fma_neon, 28 * 4 * 2 } } },
    { "i8mm", { { mmla_i8mm, 28 * 32 * 2 }, { mmla_i8mm, 28 * 32 * 2 }, { fma_neon, 28 * 4 * 2 } } },
};
#define N_LOOPS (sizeof loops / sizeof *loops)

#else
static const tier_loops loops[1];
#define N_LOOPS 0
#endif

/* Plain C for the reference, as the compiler makes it for the baseline. The empty assembly lets the values change. */
#define MAYBE_CHANGED(a, b) __asm__ volatile("" : : "r"(a), "r"(b) : "memory")
#define USED(s) __asm__ volatile("" : : "r"(s) : "memory")

static void mul_ref(uint64_t rounds) {
    int8_t a[64], b[64];
    uint32_t sum = 0;
    memset(a, codes[1], sizeof a);
    memset(b, codes[2], sizeof b);
    for (; rounds > 0; rounds--) {
        MAYBE_CHANGED(a, b);
        for (int i = 0; i < 64; i++) sum += (uint32_t)(a[i] * b[i]);
    }
    USED(sum);
}

static void fma_ref(uint64_t rounds) {
    float a[32], b[32], sum[32] = { 0 };
    for (int i = 0; i < 32; i++) a[i] = b[i] = half;
    for (; rounds > 0; rounds--) {
        MAYBE_CHANGED(a, b);
        for (int i = 0; i < 32; i++) sum[i] += a[i] * b[i];
    }
    USED(sum);
}

static const tier_loops ref = { "ref", { { mul_ref, 64 * 2 }, { mul_ref, 64 * 2 }, { fma_ref, 32 * 2 } } };

uint64_t sg_peak_run(const char *tier, sg_peak what, uint64_t rounds) {
    const tier_loops *t = &ref;
    for (size_t i = 0; i < N_LOOPS; i++)
        if (strcmp(tier, loops[i].tier) == 0) t = &loops[i];
    if (rounds > 0) t->loop[what].run(rounds);
    return rounds * t->loop[what].ops;
}

/* Four vectors at a time: the fewer instructions a byte takes, the more cache lines are under way. */
#define READER(name, attribute, bytes)                                                                                 \
    attribute static uint64_t name(const uint64_t *p, size_t n, bool four) {                                           \
        typedef uint64_t vec __attribute__((vector_size(bytes), aligned(8), may_alias));                               \
        enum { LANES = bytes / 8 };                                                                                    \
        const size_t steps = n / (4 * LANES), next = four ? LANES : 4 * LANES, apart = four ? steps * LANES : LANES;   \
        vec s0 = { 0 }, s1 = s0, s2 = s0, s3 = s0;                                                                     \
        const uint64_t *q = p;                                                                                         \
        for (size_t i = 0; i < steps; i++, q += next) {                                                                \
            s0 += *(const vec *)q;                                                                                     \
            s1 += *(const vec *)(q + apart);                                                                           \
            s2 += *(const vec *)(q + 2 * apart);                                                                       \
            s3 += *(const vec *)(q + 3 * apart);                                                                       \
        }                                                                                                              \
        s0 += s1 + s2 + s3;                                                                                            \
        uint64_t sum = 0;                                                                                              \
        for (size_t i = steps * 4 * LANES; i < n; i++) sum += p[i];                                                    \
        for (int j = 0; j < LANES; j++) sum += s0[j];                                                                  \
        return sum;                                                                                                    \
    }

READER(read_16, , 16)
#if defined(__x86_64__)
READER(read_32, __attribute__((target("avx2"))), 32)
READER(read_64, __attribute__((target("avx512f"))), 64)
#endif

uint64_t sg_read_words(const uint64_t *p, size_t n, bool four, uint32_t flags) {
#if defined(__x86_64__)
    if (flags & SG_CPU_AVX512) return read_64(p, n, four);
    if (flags & SG_CPU_AVX2) return read_32(p, n, four);
#endif
    return read_16(p, n, four);
}
