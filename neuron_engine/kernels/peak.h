/* What one core can do at most: loops of a tier's own multiply instructions on registers, and a plain read loop. They
 * are what kernels are measured against; nothing else calls them. No state, no threads: limits.c runs them on a team.
 */
#ifndef SG_KERNELS_PEAK_H
#define SG_KERNELS_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum sg_peak {
    SG_PEAK_INT8,     /* the 8-bit multiply instruction alone: vpmaddubsw, vpdpbusd, smlal, sdot, smmla */
    SG_PEAK_INT8_SUM, /* with what it takes to sum in 32 bits: vpmaddubsw + vpmaddwd + vpaddd, smull + smlal2 + sadalp;
                       * the others sum in 32 bits by themselves */
    SG_PEAK_F32,      /* fused multiply-add */
    SG_PEAKS
} sg_peak;

/* Runs the loop of a tier (sg_kernels.tier) `rounds` times, some nanoseconds each; the processor must have the tier.
 * Returns the operations done, 2 per multiply-accumulate. "ref", and a tier without loops of its own: plain C. */
uint64_t sg_peak_run(const char *tier, sg_peak what, uint64_t rounds);

/* Sum of n words by the widest loads that `flags` (sg_cpu_detect) allow, as one stream from the first to the last, or
 * as four, a quarter of the words each. Processors read several streams faster than one, some by a quarter: kernels
 * that walk through several tiles at a time would pass a limit measured with one. */
uint64_t sg_read_words(const uint64_t *p, size_t n, bool four, uint32_t flags);

#endif
