#include "runtime/base/cpu.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

/* XCR0: which register state the operating system saves. Inline assembly, since the intrinsic wants -mxsave. */
static uint64_t xgetbv0(void) {
    uint32_t lo, hi;
    __asm__ __volatile__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint32_t sg_cpu_detect(void) {
    uint32_t a, b, c, d, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx) return 0;
    const uint64_t xcr0 = xgetbv0();
    if ((xcr0 & 0x06) != 0x06) return 0; /* XMM, YMM */
    uint32_t b7, c7, d7, max7;
    if (!__get_cpuid_count(7, 0, &max7, &b7, &c7, &d7)) return 0;
    if (!(b7 >> 5 & 1) || !fma || !f16c) return 0;
    flags |= SG_CPU_AVX2;
    if (max7 >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1)) flags |= SG_CPU_AVXVNNI;
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((xcr0 & 0xe6) == 0xe6 && (b7 & f_dq_bw_vl) == f_dq_bw_vl) { /* + opmask, upper ZMM halves, ZMM16..31 */
        flags |= SG_CPU_AVX512;
        if (c7 >> 11 & 1) flags |= SG_CPU_AVX512VNNI;
    }
    return flags;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* Bits of the kernel's hwcap words (asm/hwcap.h), named here since older C libraries lack the last ones. */
#define HWCAP_BIT_ASIMD (1ul << 1)
#define HWCAP_BIT_ASIMDDP (1ul << 20)
#define HWCAP2_BIT_I8MM (1ul << 13)

uint32_t sg_cpu_detect(void) {
    const unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(AT_HWCAP2);
    uint32_t flags = 0;
    if (!(cap & HWCAP_BIT_ASIMD)) return 0;
    flags |= SG_CPU_NEON;
    if (cap & HWCAP_BIT_ASIMDDP) flags |= SG_CPU_DOTPROD;
    if ((cap & HWCAP_BIT_ASIMDDP) && (cap2 & HWCAP2_BIT_I8MM)) flags |= SG_CPU_I8MM;
    return flags;
}
#else
uint32_t sg_cpu_detect(void) { return 0; }
#endif

/* `allow`: what the tier may use; the machine must have `need`. */
static const struct {
    const char *name;
    uint32_t need, allow;
} tiers[] = {
    { "ref", 0, 0 },
    { "avx2", SG_CPU_AVX2, SG_CPU_AVX2 },
    { "avxvnni", SG_CPU_AVXVNNI, SG_CPU_AVX2 | SG_CPU_AVXVNNI },
    { "avx512", SG_CPU_AVX512, SG_CPU_AVX2 | SG_CPU_AVX512 },
    { "avx512vnni", SG_CPU_AVX512VNNI, SG_CPU_AVX2 | SG_CPU_AVXVNNI | SG_CPU_AVX512 | SG_CPU_AVX512VNNI },
    { "neon", SG_CPU_NEON, SG_CPU_NEON },
    { "dotprod", SG_CPU_DOTPROD, SG_CPU_NEON | SG_CPU_DOTPROD },
    { "i8mm", SG_CPU_I8MM, SG_CPU_NEON | SG_CPU_DOTPROD | SG_CPU_I8MM },
};
#define TIER_NAMES "auto, ref, avx2, avxvnni, avx512, avx512vnni, neon, dotprod, i8mm"

sg_status sg_cpu_mask(uint32_t *flags, const char *mask, sg_error *err) {
    if (!mask || strcmp(mask, "auto") == 0) return SG_OK;
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        if (strcmp(mask, tiers[i].name) != 0) continue;
        if ((*flags & tiers[i].need) != tiers[i].need)
            return sg_fail(err, SG_E_ARG, "this processor lacks the instruction set %s (names: %s)", mask, TIER_NAMES);
        *flags &= tiers[i].allow;
        return SG_OK;
    }
    return sg_fail(err, SG_E_ARG, "unknown instruction set %s (names: %s)", mask, TIER_NAMES);
}

uint32_t sg_cpu_count(void) {
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
#endif
    /* More processors than cpu_set_t holds, or no such call. */
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}
