/* Weight block formats and their reference conversions. The layouts are those of GGUF files (ggml's block types), so a
 * tensor can be used as it lies on disk. All multi-byte fields are little-endian. F16 scales are stored as uint16_t.
 *
 * One row is n_in values, n_in a multiple of the type's block size; rows follow each other without padding. */
#ifndef SG_NE_QUANT_H
#define SG_NE_QUANT_H

#include "runtime/base/dtype.h"

/* y[n] = the values that the blocks at `src` stand for, exactly as the format defines them (F32 arithmetic).
 * n % block_values == 0. src needs no alignment. Thread-safe, cannot fail. */
void sg_dequantize(sg_dtype type, const void *src, float *y, size_t n);

/* True for the types that sg_quantize writes: F32, F16, BF16, Q8_0, Q4_0. */
bool sg_can_quantize(sg_dtype type);
/* Blocks of `type` from x[n]. Rounding as in ggml's reference quantisers (round to nearest, away from zero in Q8_0; Q4_0 scale
 * from the value of largest magnitude, -8). n % block_values == 0. NaN becomes 0 in quantised types. */
void sg_quantize(sg_dtype type, const float *x, void *dst, size_t n);

/* Blocks of Q8_0 that stand for exactly the values of the blocks at src, for the types whose codes are integers of 8 bits and whose
 * scales are halves: Q4_0, Q5_0, IQ4_NL, and MXFP4 as long as its scales are in the range of a half. False, and dst undefined,
 * when that cannot be. n % 32 == 0. */
bool sg_to_q8_0_exact(sg_dtype type, const void *src, void *dst, size_t n);

float sg_f16_to_f32(uint16_t h);
uint16_t sg_f32_to_f16(float f); /* round to nearest even */
float sg_bf16_to_f32(uint16_t h);
uint16_t sg_f32_to_bf16(float f); /* round to nearest even, NaN stays NaN */

#endif
