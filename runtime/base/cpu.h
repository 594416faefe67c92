/* Which instruction-set tiers this processor and its operating system support. */
#ifndef SG_BASE_CPU_H
#define SG_BASE_CPU_H

#include "runtime/base/error.h"

enum {
    SG_CPU_AVX2 = 1 << 0,       /* AVX2, FMA, F16C; the OS saves YMM state */
    SG_CPU_AVX512 = 1 << 1,     /* F, BW, DQ, VL; the OS saves ZMM state */
    SG_CPU_AVX512VNNI = 1 << 2, /* + AVX512_VNNI */
    SG_CPU_AVXVNNI = 1 << 3,    /* AVX2 + AVX-VNNI (256 bit) */
    SG_CPU_NEON = 1 << 8,       /* aarch64 baseline */
    SG_CPU_DOTPROD = 1 << 9,
    SG_CPU_I8MM = 1 << 10
};

/* Flags of the machine. Cheap; no state is kept. */
uint32_t sg_cpu_detect(void);

/* Narrows `flags` to what the tier named by `mask` may use: "ref" (nothing), "avx2", "avxvnni", "avx512", "avx512vnni", "neon",
 * "dotprod", "i8mm". NULL or "auto" leaves them. SG_E_ARG with the list of names when unknown, or when the machine lacks it. */
SG_NODISCARD sg_status sg_cpu_mask(uint32_t *flags, const char *mask, sg_error *err);

/* Cores that this process may run on (affinity), at least 1. */
uint32_t sg_cpu_count(void);

/* In a loop that waits for another core. */
static inline void sg_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
