#include "neuron_engine/kernels/arm/simd_neon.h"

#define TIER dotprod
#include "neuron_engine/kernels/arm/arm.h"
#include "neuron_engine/kernels/tile_tmpl.h"

#ifndef __ARM_FEATURE_DOTPROD
#error "this file needs -march=armv8.2-a+dotprod"
#endif

/* Float kernels and vector functions gain nothing over NEON. */
void sg_kernels_dotprod(sg_kernels *out) {
    const sg_mat_kernel *const f32 = out->mat[SG_DTYPE_F32], *const f16 = out->mat[SG_DTYPE_F16],
                               *const bf16 = out->mat[SG_DTYPE_BF16];
    out->tier = "dotprod";
    set_tile_kernels(out->mat);
    sg_neuron_kernels_dotprod(out);
    out->mat[SG_DTYPE_F32] = f32;
    out->mat[SG_DTYPE_F16] = f16;
    out->mat[SG_DTYPE_BF16] = bf16;
}
