/* Tiled weight layouts: mr rows side by side, so that a SIMD lane holds one row.
 *
 * A tile is mr consecutive rows; tiles follow each other, the last one padded with zero rows. Inside a tile the blocks
 * (sg_dtype_info) of the rows come in ascending k, block b of all mr rows together. The bytes of such a group are only
 * permuted: the block is cut into granules of 1, 2 or 4 bytes, and granule i of row 0, 1, .. mr-1 are neighbours. So
 * the size stays that of the rows, and the GGUF bytes can be had back. The granules of a block, in this order, where
 * the type has them:
 *
 *   - the scales d, then m or dmin: 2 bytes each (e of MXFP4: 1 byte)
 *   - the packed scales of the K types: 4 bytes each
 *   - the upper bit planes: 4 bytes each
 *   - the codes: 4 bytes each
 *
 * F32, F16 and BF16 have one granule, the value. Two changes besides: the word qh of Q5_0 and Q5_1 is transposed, so
 * that bit g of byte i belongs to value 4g + i (bit 4g + i of the word in GGUF); and in Q6_K each word of the upper bits is
 * followed by the two words of lower bits that need it, so that a kernel reads straight on, as the memory likes it.
 *
 * The identity of the layout (sg_mat_kernel.layout) is mr. */
#ifndef SG_KERNELS_TILE_H
#define SG_KERNELS_TILE_H

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/quant_blocks.h"

/* Bytes of `rows` rows of k values in tiles of mr. */
size_t sg_tile_bytes(sg_dtype type, uint32_t mr, uint32_t rows, uint32_t k);
/* dst = tiles of the GGUF rows at src. */
void sg_tile_pack(sg_dtype type, uint32_t mr, void *dst, const void *src, uint32_t rows, uint32_t k);
/* Writes values at .. at + n-1 (whole blocks) of one row into tiles of rows of k values; src: these values as in GGUF. */
void sg_tile_put_row(sg_dtype type, uint32_t mr, void *dst, const void *src, uint32_t row, uint32_t k, uint32_t at, uint32_t n);
/* out[k] = row `row` as sg_dequantize gives it. */
void sg_tile_unpack_row(sg_dtype type, uint32_t mr, float *out, const void *w, uint32_t row, uint32_t k);

/* sg_dtype_info as constants, which the compiler folds. */
static inline uint32_t sg_block_values(int type) {
    switch (type) {
    case SG_DTYPE_F32:
    case SG_DTYPE_F16:
    case SG_DTYPE_BF16: return 1;
    default: return type >= SG_DTYPE_Q2_K && type <= SG_DTYPE_Q6_K ? SG_SUPER : SG_BLOCK;
    }
}
static inline uint32_t sg_block_bytes(int type) {
    switch (type) {
    case SG_DTYPE_F32: return 4;
    case SG_DTYPE_F16:
    case SG_DTYPE_BF16: return 2;
    case SG_DTYPE_Q8_0: return sizeof(sg_q8_0);
    case SG_DTYPE_Q4_0: return sizeof(sg_q4_0);
    case SG_DTYPE_Q4_1: return sizeof(sg_q4_1);
    case SG_DTYPE_Q5_0: return sizeof(sg_q5_0);
    case SG_DTYPE_Q5_1: return sizeof(sg_q5_1);
    case SG_DTYPE_Q2_K: return sizeof(sg_q2_k);
    case SG_DTYPE_Q3_K: return sizeof(sg_q3_k);
    case SG_DTYPE_Q4_K: return sizeof(sg_q4_k);
    case SG_DTYPE_Q5_K: return sizeof(sg_q5_k);
    case SG_DTYPE_Q6_K: return sizeof(sg_q6_k);
    case SG_DTYPE_IQ4_NL: return sizeof(sg_iq4_nl);
    default: return sizeof(sg_mxfp4);
    }
}

/* Offset of a field in a group of mr blocks is mr times these (bytes before it in the permuted block). */
enum {
    SG_T_Q4_0_QS = 2,
    SG_T_Q8_0_QS = 2,
    SG_T_IQ4_NL_QS = 2,
    SG_T_MXFP4_QS = 1,
    SG_T_Q4_1_M = 2,
    SG_T_Q4_1_QS = 4,
    SG_T_Q5_0_QH = 2,
    SG_T_Q5_0_QS = 6,
    SG_T_Q5_1_M = 2,
    SG_T_Q5_1_QH = 4,
    SG_T_Q5_1_QS = 8,
    SG_T_Q2_K_DMIN = 2,
    SG_T_Q2_K_SCALES = 4,
    SG_T_Q2_K_QS = 20,
    SG_T_Q3_K_SCALES = 2,
    SG_T_Q3_K_QH = 14,
    SG_T_Q3_K_QS = 46,
    SG_T_Q4_K_DMIN = 2, /* Q5_K too */
    SG_T_Q4_K_SCALES = 4,
    SG_T_Q4_K_QS = 16,
    SG_T_Q5_K_QH = 16,
    SG_T_Q5_K_QS = 48,
    SG_T_Q6_K_SCALES = 2,
    SG_T_Q6_K_Q = 18 /* 16 times: a word of qh, one of ql, one of ql 32 bytes further */
};

#endif
