#include "neuron_engine/kernels/x86/simd_avx2.h"

#include "neuron_engine/kernels/tile_tmpl.h"
#include "neuron_engine/kernels/x86/x86.h"

#ifndef __AVXVNNI__
#error "this file needs -mavxvnni"
#endif

/* Float kernels and vector functions gain nothing over AVX2. */
void sg_kernels_avxvnni(sg_kernels *out) {
    const sg_mat_kernel *const f32 = out->mat[SG_DTYPE_F32], *const f16 = out->mat[SG_DTYPE_F16],
                               *const bf16 = out->mat[SG_DTYPE_BF16];
    out->tier = "avxvnni";
    set_tile_kernels(out->mat);
    sg_neuron_kernels_avxvnni(out);
    out->mat[SG_DTYPE_F32] = f32;
    out->mat[SG_DTYPE_F16] = f16;
    out->mat[SG_DTYPE_BF16] = bf16;
}
