#include "neuron_engine/kernels/x86/simd_avx512.h"

#include "neuron_engine/kernels/tile_tmpl.h"
#include "neuron_engine/kernels/x86/x86.h"

#ifndef __AVX512VNNI__
#error "this file needs -mavx512vnni"
#endif

/* Float kernels and vector functions gain nothing over AVX-512. */
void sg_kernels_avx512vnni(sg_kernels *out) {
    const sg_mat_kernel *const f32 = out->mat[SG_DTYPE_F32], *const f16 = out->mat[SG_DTYPE_F16],
                               *const bf16 = out->mat[SG_DTYPE_BF16];
    out->tier = "avx512vnni";
    set_tile_kernels(out->mat);
    sg_neuron_kernels_avx512vnni(out);
    out->mat[SG_DTYPE_F32] = f32;
    out->mat[SG_DTYPE_F16] = f16;
    out->mat[SG_DTYPE_BF16] = bf16;
}
