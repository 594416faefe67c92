/* A processor with every x86 tier, for the emulated build. cpu.c is built with its own function renamed. */
#include "runtime/base/cpu.h"

uint32_t sg_cpu_detect(void) { return SG_CPU_AVX2 | SG_CPU_AVXVNNI | SG_CPU_AVX512 | SG_CPU_AVX512VNNI; }
