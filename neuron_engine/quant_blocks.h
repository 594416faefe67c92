/* Block structs of the quantised GGUF types, as they lie on disk (ggml's ggml-common.h describes the same bytes; MXFP4
 * is the OCP Microscaling format). Packed: no padding and no alignment need. `h` fields are IEEE half bits,
 * little-endian. */
#ifndef SG_NE_QUANT_BLOCKS_H
#define SG_NE_QUANT_BLOCKS_H

#include <stdint.h>

#define SG_BLOCK 32  /* values per block of the simple types, and per activation block */
#define SG_SUPER 256 /* values per super-block of the K types */

#define SG_PACKED struct __attribute__((packed))

/* Nibble types: value j in 0..15 is the low nibble of qs[j], value j + 16 its high nibble. */
typedef SG_PACKED {
    uint16_t d;
    uint8_t qs[16];
}
sg_q4_0; /* d * (q - 8) */
typedef SG_PACKED {
    uint16_t d, m;
    uint8_t qs[16];
}
sg_q4_1; /* d * q + m */
/* Fifth bit of value j: bit j of the little-endian word qh. */
typedef SG_PACKED {
    uint16_t d;
    uint8_t qh[4], qs[16];
}
sg_q5_0; /* d * (q - 16) */
typedef SG_PACKED {
    uint16_t d, m;
    uint8_t qh[4], qs[16];
}
sg_q5_1; /* d * q + m */
typedef SG_PACKED {
    uint16_t d;
    int8_t qs[32];
}
sg_q8_0; /* d * q */
typedef SG_PACKED {
    uint16_t d;
    uint8_t qs[16];
}
sg_iq4_nl; /* d * sg_iq4_nl_values[q] */
typedef SG_PACKED { uint8_t e, qs[16]; }
sg_mxfp4; /* 2^(e - 128) * sg_mxfp4_values[q] */

/* K types. Values come in halves of 128; a 2-bit plane holds value 128 h + 32 j + l in bits 2j, 2j + 1 of byte 32 h +
 * l. */
typedef SG_PACKED {
    uint8_t scales[16]; /* sub-block of 16: scale in the low nibble, minimum in the high one */
    uint8_t qs[64];
    uint16_t d, dmin; /* d * scale * q - dmin * min */
}
sg_q2_k;
typedef SG_PACKED {
    uint8_t hmask[32]; /* bit j of byte l: 0 subtracts 4 from value 32 j + l */
    uint8_t qs[64];
    uint8_t scales[12]; /* 16 of 6 bits, see sg_q3_k_scale */
    uint16_t d;         /* d * (scale - 32) * q */
}
sg_q3_k;
typedef SG_PACKED {
    uint16_t d, dmin;   /* d * scale * q - dmin * min */
    uint8_t scales[12]; /* 8 scales and 8 minima of 6 bits for sub-blocks of 32, see sg_k4_scales */
    uint8_t qs[128];    /* values 64 p + l in the low nibbles of byte 32 p + l, 64 p + 32 + l in the high ones */
}
sg_q4_k;
typedef SG_PACKED {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32]; /* bit j of byte l: fifth bit of value 32 j + l */
    uint8_t qs[128];
}
sg_q5_k;
typedef SG_PACKED {
    uint8_t ql[128]; /* low 4 bits of value 128 h + 32 j + l: byte 64 h + 32 (j & 1) + l, nibble j >> 1 */
    uint8_t qh[64];  /* upper 2 bits, a 2-bit plane */
    int8_t scales[16];
    uint16_t d; /* d * scale * (q - 32) */
}
sg_q6_k;

static const int8_t sg_iq4_nl_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
/* E2M1 values doubled, so that they are integers. */
static const int8_t sg_mxfp4_values[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

/* Scale j and minimum j (0..7) of a Q4_K or Q5_K super-block. */
static inline void sg_k4_scales(const uint8_t s[12], int j, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6 << 4));
        *min = (uint8_t)(s[j + 4] >> 4 | (s[j] >> 6 << 4));
    }
}

/* Scale j (0..15) of a Q3_K super-block, -32..31. */
static inline int sg_q3_k_scale(const uint8_t s[12], int j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    const int high = s[8 + (j & 3)] >> (2 * (j >> 2)) & 3;
    return (low | high << 4) - 32;
}

/* 2^(e - 128): half of the E8M0 scale, since the codebook is doubled. e = 0 and 1 give subnormals. */
static inline float sg_e8m0_half(uint8_t e) {
    const union {
        uint32_t u;
        float f;
    } v = { .u = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23 };
    return v.f;
}

#endif
