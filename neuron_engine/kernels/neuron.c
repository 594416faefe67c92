/* The forms of bundle rows, the same for every tier. */
#include "neuron_engine/kernels/neuron.h"

#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/quant.h"

static bool is_float(sg_dtype type) { return type == SG_DTYPE_F32 || type == SG_DTYPE_F16; }
static size_t float_bytes(sg_dtype type) { return type == SG_DTYPE_F32 ? 4 : 2; }

size_t sg_dot_row_bytes(sg_dtype type, uint32_t k) {
    const size_t padded = ((size_t)k + SG_LANES - 1) / SG_LANES * SG_LANES;
    if (is_float(type)) return padded * float_bytes(type);
    if (type != SG_DTYPE_Q8_0 && type != SG_DTYPE_Q4_0) return 0;
    return sg_tile_bytes(type, SG_LANES, k / SG_BLOCK, SG_BLOCK);
}

size_t sg_down_row_bytes(sg_dtype type, uint32_t k) {
    if (is_float(type)) return k * float_bytes(type);
    if (type != SG_DTYPE_Q8_0 && type != SG_DTYPE_Q4_0) return 0;
    return (size_t)k / SG_BLOCK * sg_block_bytes(type);
}

/* A quantised row is a matrix of one block a row to the tiles, the eight lanes of a group being a tile. */
void sg_dot_row_pack(sg_dtype type, void *dst, const void *src, uint32_t k) {
    if (!is_float(type)) {
        sg_tile_pack(type, SG_LANES, dst, src, k / SG_BLOCK, SG_BLOCK);
        return;
    }
    memset(dst, 0, sg_dot_row_bytes(type, k));
    memcpy(dst, src, k * float_bytes(type));
}

void sg_dot_row_unpack(sg_dtype type, float *out, const void *row, uint32_t k) {
    if (is_float(type)) sg_dequantize(type, row, out, k);
    else
        for (uint32_t b = 0; b < k / SG_BLOCK; b++) sg_tile_unpack_row(type, SG_LANES, out + b * SG_BLOCK, row, b, SG_BLOCK);
}

/* Word j of a block of GGUF's codes: the values j and j + 8 are the low nibbles of bytes j and j + 8, 16 and 24 more the high ones. */
static void put_words(uint8_t *codes, const uint8_t *block, uint32_t b, uint32_t n) {
    for (uint32_t j = 0; j < 8; j++) {
        uint8_t *word = codes + sg_down_word(b, n, j);
        word[0] = (uint8_t)((block[j] & 15) | block[j + 8] << 4);
        word[1] = (uint8_t)((block[j] >> 4 | (block[j + 8] & 0xf0)) ^ 0x80);
    }
}

static void get_words(uint8_t *block, const uint8_t *codes, uint32_t b, uint32_t n) {
    for (uint32_t j = 0; j < 8; j++) {
        const uint8_t *word = codes + sg_down_word(b, n, j), high = word[1] ^ 0x80;
        block[j] = (uint8_t)((word[0] & 15) | high << 4);
        block[j + 8] = (uint8_t)(word[0] >> 4 | (high & 0xf0));
    }
}

void sg_down_row_pack(sg_dtype type, void *dst, const void *src, uint32_t k) {
    if (is_float(type)) {
        memcpy(dst, src, k * float_bytes(type));
        return;
    }
    const uint32_t n = k / SG_BLOCK, size = sg_block_bytes(type), codes = size - 2;
    uint8_t *to = (uint8_t *)dst + 2 * (size_t)n;
    for (uint32_t b = 0; b < n; b++) {
        const uint8_t *block = (const uint8_t *)src + (size_t)b * size;
        memcpy((uint8_t *)dst + 2 * (size_t)b, block, 2);
        if (type == SG_DTYPE_Q4_0) put_words(to, block + 2, b, n);
        else memcpy(to + (size_t)b * codes, block + 2, codes);
    }
}

void sg_down_row_unpack(sg_dtype type, float *out, const void *row, uint32_t k) {
    if (is_float(type)) {
        sg_dequantize(type, row, out, k);
        return;
    }
    const uint32_t n = k / SG_BLOCK, codes = sg_block_bytes(type) - 2;
    const uint8_t *from = (const uint8_t *)row + 2 * (size_t)n;
    for (uint32_t b = 0; b < n; b++) {
        uint8_t block[sizeof(sg_q8_0)];
        memcpy(block, (const uint8_t *)row + 2 * (size_t)b, 2);
        if (type == SG_DTYPE_Q4_0) get_words(block + 2, from, b, n);
        else memcpy(block + 2, from + (size_t)b * codes, codes);
        sg_dequantize(type, block, out + (size_t)b * SG_BLOCK, SG_BLOCK);
    }
}

void sg_lane_acts_fill(sg_lane_acts *to, const sg_acts *from, uint32_t t) {
    const size_t at = (size_t)t * to->n_groups;
    const uint32_t blocks = to->n_groups * SG_LANES, n = from->n_blocks;
    const int8_t *q = from->q + (size_t)t * from->k;
    for (uint32_t b = 0; b < blocks; b++) {
        const size_t i = (size_t)t * n + b;
        int8_t *group = to->q + (at + b / SG_LANES) * (SG_LANES * SG_BLOCK) + 4 * (b % SG_LANES);
        for (uint32_t g = 0; g < 8; g++) {
            if (b < n) memcpy(group + 32 * g, q + b * SG_BLOCK + 4 * g, 4);
            else memset(group + 32 * g, 0, 4);
        }
        to->d[at * SG_LANES + b] = b < n ? from->d[i] : 0.0f;
        to->sum[at * SG_LANES + b] = b < n ? from->sums[2 * i] + from->sums[2 * i + 1] : 0;
    }
}
