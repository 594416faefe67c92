/* Neuron kernels in NEON: the eight lanes of the rule (neuron.h) are two vectors of four. Included once per tier after TIER is
 * defined; with __ARM_FEATURE_DOTPROD the integer products of the dot rows are SDOT's. */
#include <arm_neon.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/quant.h"

#define INL static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define GROUP ((size_t)SG_LANES * SG_BLOCK) /* activation bytes of a group of blocks */
#define ROWS 4                              /* computed together, or tokens */

typedef struct lanes_f {
    float32x4_t v[2];
} lanes_f;
typedef struct lanes_i {
    int32x4_t v[2];
} lanes_i;

/* Loads of any alignment. */
INL int8x16_t load_codes(const void *p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
INL float32x4_t load_floats(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
INL float32x4_t load_halves(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
INL lanes_f halves(const uint8_t *p) { return (lanes_f) { { load_halves(p), load_halves(p + 8) } }; }
INL lanes_f float_lanes(sg_dtype type, const uint8_t *row, size_t k) {
    if (type == SG_DTYPE_F16) return halves(row + 2 * k);
    return (lanes_f) { { load_floats(row + 4 * k), load_floats(row + 4 * k + 16) } };
}
INL float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return sg_f16_to_f32(h);
}
INL const uint8_t *row_at(const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i) {
    return w + (rows ? rows[i] : i) * stride;
}
INL bool is_float(sg_dtype type) { return type == SG_DTYPE_F32 || type == SG_DTYPE_F16; }

#include "neuron_engine/kernels/arm/neuron_arm_dot.h"
#include "neuron_engine/kernels/arm/neuron_arm_down.h"

#ifdef __ARM_FEATURE_DOTPROD
#define FLOATS 0
#else
#define FLOATS 1
#endif
#include "neuron_engine/kernels/neuron_records.h"
