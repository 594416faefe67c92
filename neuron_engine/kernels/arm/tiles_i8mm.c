#include "neuron_engine/kernels/arm/simd_neon.h"

#define TIER i8mm
#include "neuron_engine/kernels/arm/arm.h"
#include "neuron_engine/kernels/tile_tmpl.h"

#ifndef __ARM_FEATURE_MATMUL_INT8
#error "this file needs -march=armv8.2-a+dotprod+i8mm"
#endif

/* One token alone is dotprod's code; float kernels and vector functions gain nothing over NEON. */
void sg_kernels_i8mm(sg_kernels *out) {
    const sg_mat_kernel *const f32 = out->mat[SG_DTYPE_F32], *const f16 = out->mat[SG_DTYPE_F16],
                               *const bf16 = out->mat[SG_DTYPE_BF16];
    out->tier = "i8mm";
    set_tile_kernels(out->mat);
    out->mat[SG_DTYPE_F32] = f32;
    out->mat[SG_DTYPE_F16] = f16;
    out->mat[SG_DTYPE_BF16] = bf16;
}
