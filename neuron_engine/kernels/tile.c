#include "neuron_engine/kernels/tile.h"

#include <stddef.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "neuron_engine/quant_blocks.h"

/* `count` granules of `size` bytes at `offset` of the GGUF block; count 0 ends the list. */
typedef struct field {
    uint8_t offset, size, count;
    enum { AS_IT_IS, TRANSPOSED, WOVEN } order; /* TRANSPOSED: 4 x 8 bits of a word, WOVEN: Q6_K, see tile.h */
} field;
#define MAX_FIELDS 5

#define D(type, member)                                                                                                \
    { offsetof(type, member), 2, 1, AS_IT_IS }
#define WORDS(type, member, n)                                                                                         \
    { offsetof(type, member), 4, n, AS_IT_IS }
static const field fields[SG_DTYPE_LIMIT][MAX_FIELDS + 1] = {
    [SG_DTYPE_F32] = { { 0, 4, 1, AS_IT_IS } },
    [SG_DTYPE_F16] = { { 0, 2, 1, AS_IT_IS } },
    [SG_DTYPE_BF16] = { { 0, 2, 1, AS_IT_IS } },
    [SG_DTYPE_Q8_0] = { D(sg_q8_0, d), WORDS(sg_q8_0, qs, 8) },
    [SG_DTYPE_Q4_0] = { D(sg_q4_0, d), WORDS(sg_q4_0, qs, 4) },
    [SG_DTYPE_Q4_1] = { D(sg_q4_1, d), D(sg_q4_1, m), WORDS(sg_q4_1, qs, 4) },
    [SG_DTYPE_Q5_0] = { D(sg_q5_0, d), { offsetof(sg_q5_0, qh), 4, 1, TRANSPOSED }, WORDS(sg_q5_0, qs, 4) },
    [SG_DTYPE_Q5_1] = { D(sg_q5_1, d), D(sg_q5_1, m), { offsetof(sg_q5_1, qh), 4, 1, TRANSPOSED }, WORDS(sg_q5_1, qs, 4) },
    [SG_DTYPE_IQ4_NL] = { D(sg_iq4_nl, d), WORDS(sg_iq4_nl, qs, 4) },
    [SG_DTYPE_MXFP4] = { { 0, 1, 1, AS_IT_IS }, WORDS(sg_mxfp4, qs, 4) },
    [SG_DTYPE_Q2_K] = { D(sg_q2_k, d), D(sg_q2_k, dmin), WORDS(sg_q2_k, scales, 4), WORDS(sg_q2_k, qs, 16) },
    [SG_DTYPE_Q3_K] = { D(sg_q3_k, d), WORDS(sg_q3_k, scales, 3), WORDS(sg_q3_k, hmask, 8), WORDS(sg_q3_k, qs, 16) },
    [SG_DTYPE_Q4_K] = { D(sg_q4_k, d), D(sg_q4_k, dmin), WORDS(sg_q4_k, scales, 3), WORDS(sg_q4_k, qs, 32) },
    [SG_DTYPE_Q5_K] = { D(sg_q5_k, d), D(sg_q5_k, dmin), WORDS(sg_q5_k, scales, 3), WORDS(sg_q5_k, qh, 8),
                        WORDS(sg_q5_k, qs, 32) },
    [SG_DTYPE_Q6_K] = { D(sg_q6_k, d), WORDS(sg_q6_k, scales, 4), { 0, 4, 48, WOVEN } },
};

size_t sg_tile_bytes(sg_dtype type, uint32_t mr, uint32_t rows, uint32_t k) {
    const size_t tiles = ((size_t)rows + mr - 1) / mr;
    return tiles * mr * (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)type), k);
}

/* Byte i bit g of the result is bit 4g + i of `w`. */
static uint32_t transpose_bits(uint32_t w) {
    uint32_t r = 0;
    for (int i = 0; i < 4; i++)
        for (int g = 0; g < 8; g++) r |= (w >> (4 * g + i) & 1) << (8 * i + g);
    return r;
}

static uint32_t transpose_bits_back(uint32_t w) {
    uint32_t r = 0;
    for (int i = 0; i < 4; i++)
        for (int g = 0; g < 8; g++) r |= (w >> (8 * i + g) & 1) << (4 * g + i);
    return r;
}

static uint32_t word_at(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }

static void put_word(uint8_t *p, uint32_t w) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(w >> 8 * i);
}

/* Where granule i of a field lies in the GGUF block. */
static size_t granule_at(const field *f, uint32_t i) {
    if (f->order != WOVEN) return f->offset + (size_t)i * f->size;
    const uint32_t half = i / 24, g = i % 24 / 3, kind = i % 3;
    return kind == 0 ? offsetof(sg_q6_k, qh) + 4 * (half * 8 + g) : offsetof(sg_q6_k, ql) + 4 * (half * 16 + (kind - 1) * 8 + g);
}

/* One block of one row into the group at `group`, lane `lane`. */
static void pack_block(const field *f, uint32_t mr, uint32_t lane, uint8_t *group, const uint8_t *block) {
    for (; f->count; group += (size_t)f->count * f->size * mr, f++) {
        uint8_t *d = group + (size_t)lane * f->size;
        if (f->order == TRANSPOSED) {
            put_word(d, transpose_bits(word_at(block + f->offset)));
        } else if (f->size == 4) {
            for (uint32_t i = 0; i < f->count; i++) memcpy(d + (size_t)i * 4 * mr, block + granule_at(f, i), 4);
        } else {
            for (uint32_t i = 0; i < f->count; i++) memcpy(d + (size_t)i * f->size * mr, block + granule_at(f, i), f->size);
        }
    }
}

static void unpack_block(const field *f, uint32_t mr, uint32_t lane, const uint8_t *group, uint8_t *block) {
    for (; f->count; group += (size_t)f->count * f->size * mr, f++) {
        const uint8_t *s = group + (size_t)lane * f->size;
        if (f->order == TRANSPOSED)
            put_word(block + f->offset, transpose_bits_back(word_at(s)));
        else
            for (uint32_t i = 0; i < f->count; i++) memcpy(block + granule_at(f, i), s + (size_t)i * f->size * mr, f->size);
    }
}

typedef uint32_t words4 __attribute__((vector_size(16)));
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* GCC has the other one only from version 12 on */
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (words4) { __VA_ARGS__ })
#endif

/* Four words of four rows, from s on, to four granules of four lanes, from d on. */
static inline void turn_words(uint8_t *d, size_t granule, const uint8_t *s, size_t row_bytes) {
    words4 a, b, c, e;
    memcpy(&a, s, sizeof a);
    memcpy(&b, s + row_bytes, sizeof b);
    memcpy(&c, s + 2 * row_bytes, sizeof c);
    memcpy(&e, s + 3 * row_bytes, sizeof e);
    const words4 ab = SHUFFLE(a, b, 0, 4, 1, 5), ce = SHUFFLE(c, e, 0, 4, 1, 5);
    const words4 ab2 = SHUFFLE(a, b, 2, 6, 3, 7), ce2 = SHUFFLE(c, e, 2, 6, 3, 7);
    a = SHUFFLE(ab, ce, 0, 1, 4, 5);
    b = SHUFFLE(ab, ce, 2, 3, 6, 7);
    c = SHUFFLE(ab2, ce2, 0, 1, 4, 5);
    e = SHUFFLE(ab2, ce2, 2, 3, 6, 7);
    memcpy(d, &a, sizeof a);
    memcpy(d + granule, &b, sizeof b);
    memcpy(d + 2 * granule, &c, sizeof c);
    memcpy(d + 3 * granule, &e, sizeof e);
}

/* The words of a field that are neighbours in the block, four at a time; how many that were. mr is a multiple of 4. */
static inline uint32_t pack_by_four(const field *f, uint32_t mr, uint8_t *d, const uint8_t *block, size_t row_bytes) {
    uint32_t i = 0;
    for (; f->order == AS_IT_IS && i + 4 <= f->count; i += 4)
        for (uint32_t lane = 0; lane < mr; lane += 4)
            turn_words(d + 4 * ((size_t)i * mr + lane), 4 * (size_t)mr, block + f->offset + 4 * i + lane * row_bytes, row_bytes);
    return i;
}

static inline void pack_words(const field *f, uint32_t mr, uint32_t size, uint8_t *d, const uint8_t *block, size_t row_bytes) {
    uint32_t i = size == 4 && mr % 4 == 0 ? pack_by_four(f, mr, d, block, row_bytes) : 0;
    for (d += (size_t)i * size * mr; i < f->count; i++, d += (size_t)size * mr) {
        const uint8_t *s = block + granule_at(f, i);
        for (uint32_t lane = 0; lane < mr; lane++) memcpy(d + (size_t)lane * size, s + lane * row_bytes, size);
    }
}

/* A block of every row of a whole tile: granule by granule, the lanes inside, so that the writes go straight on. With mr and the size as
 * constants this is a few instructions for each word; streamed matrices are packed again for every token. */
static inline void pack_group(const field *f, uint32_t mr, uint8_t *group, const uint8_t *block, size_t row_bytes) {
    for (; f->count; group += (size_t)f->count * f->size * mr, f++) {
        if (f->order == TRANSPOSED)
            for (uint32_t lane = 0; lane < mr; lane++) put_word(group + 4 * (size_t)lane, transpose_bits(word_at(block + lane * row_bytes + f->offset)));
        else if (f->size == 4) pack_words(f, mr, 4, group, block, row_bytes);
        else if (f->size == 2) pack_words(f, mr, 2, group, block, row_bytes);
        else pack_words(f, mr, 1, group, block, row_bytes);
    }
}

static void pack_tile(sg_dtype type, uint32_t mr, uint8_t *tile, const uint8_t *src, size_t row_bytes, size_t n_blocks) {
    const size_t bytes = sg_dtype_get((uint32_t)type)->block_bytes, step = mr * bytes;
    for (size_t b = 0; b < n_blocks; b++, tile += step, src += bytes) switch (mr) {
        case 8: pack_group(fields[type], 8, tile, src, row_bytes); break;
        case 16: pack_group(fields[type], 16, tile, src, row_bytes); break;
        default: pack_group(fields[type], mr, tile, src, row_bytes);
        }
}

void sg_tile_pack(sg_dtype type, uint32_t mr, void *dst, const void *src, uint32_t rows, uint32_t k) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)type);
    const size_t row_bytes = (size_t)sg_dtype_bytes(info, k), n_blocks = k / info->block_values;
    uint8_t *tile = dst;
    const uint8_t *row = src;
    for (; rows >= mr; rows -= mr, tile += mr * row_bytes, row += mr * row_bytes) pack_tile(type, mr, tile, row, row_bytes, n_blocks);
    if (rows == 0) return;
    memset(tile, 0, mr * row_bytes);
    for (uint32_t r = 0; r < rows; r++) sg_tile_put_row(type, mr, tile, row + r * row_bytes, r, k, 0, k);
}

void sg_tile_put_row(sg_dtype type, uint32_t mr, void *dst, const void *src, uint32_t row, uint32_t k, uint32_t at, uint32_t n) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)type);
    const size_t row_bytes = (size_t)sg_dtype_bytes(info, k), step = (size_t)mr * info->block_bytes;
    uint8_t *group = (uint8_t *)dst + row / mr * mr * row_bytes + at / info->block_values * step;
    const uint8_t *block = src;
    for (uint32_t b = 0; b < n / info->block_values; b++, group += step, block += info->block_bytes)
        pack_block(fields[type], mr, row % mr, group, block);
}

void sg_tile_unpack_row(sg_dtype type, uint32_t mr, float *out, const void *w, uint32_t row, uint32_t k) {
    const sg_dtype_info *info = sg_dtype_get((uint32_t)type);
    const uint8_t *tile = (const uint8_t *)w + (size_t)(row / mr) * mr * (size_t)sg_dtype_bytes(info, k);
    uint8_t block[256];
    for (uint32_t b = 0; b < k / info->block_values; b++) {
        unpack_block(fields[type], mr, row % mr, tile + (size_t)b * mr * info->block_bytes, block);
        sg_dequantize(type, block, out + (size_t)b * info->block_values, info->block_values);
    }
}
