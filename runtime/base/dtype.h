/* Tensor element types: GGUF's numbers, names and block sizes. The block layouts themselves are in
 * neuron_engine/quant.h; this table is what the file reader needs to check sizes. */
#ifndef SG_BASE_DTYPE_H
#define SG_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are those of the GGUF specification (ggml_type). */
typedef enum sg_dtype {
    SG_DTYPE_F32 = 0,
    SG_DTYPE_F16 = 1,
    SG_DTYPE_Q4_0 = 2,
    SG_DTYPE_Q4_1 = 3,
    SG_DTYPE_Q5_0 = 6,
    SG_DTYPE_Q5_1 = 7,
    SG_DTYPE_Q8_0 = 8,
    SG_DTYPE_Q2_K = 10,
    SG_DTYPE_Q3_K = 11,
    SG_DTYPE_Q4_K = 12,
    SG_DTYPE_Q5_K = 13,
    SG_DTYPE_Q6_K = 14,
    SG_DTYPE_IQ4_NL = 20,
    SG_DTYPE_I8 = 24, /* bytes and indices, no weights */
    SG_DTYPE_I32 = 26,
    SG_DTYPE_BF16 = 30,
    SG_DTYPE_MXFP4 = 39
} sg_dtype;
#define SG_DTYPE_LIMIT 40 /* one more than the largest number in use */

typedef struct sg_dtype_info {
    const char *name;      /* "Q4_0" */
    uint32_t block_values; /* values per block */
    uint32_t block_bytes;  /* bytes per block */
} sg_dtype_info;

/* NULL when the number is no type that sparsegen reads. */
const sg_dtype_info *sg_dtype_get(uint32_t type);

/* Type by name, case-insensitive ("q4_0"). False when unknown. */
bool sg_dtype_by_name(const char *name, sg_dtype *out);

/* Bytes of n values (n must be a multiple of block_values). */
static inline uint64_t sg_dtype_bytes(const sg_dtype_info *t, uint64_t n) { return n / t->block_values * t->block_bytes; }

#endif
