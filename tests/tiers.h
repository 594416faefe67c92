/* Names of all kernel tiers, rising within a family (sg_cpu_mask); a machine has some of them. */
#ifndef SG_TEST_TIERS_H
#define SG_TEST_TIERS_H

static const char *const tier_names[] = { "ref", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "dotprod", "i8mm" };
#define N_TIER_NAMES (sizeof tier_names / sizeof *tier_names)

#endif
