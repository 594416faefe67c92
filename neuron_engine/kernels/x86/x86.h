/* The x86 tiers. Each function puts what its tier does better into a table that holds the tier below. */
#ifndef SG_KERNELS_X86_H
#define SG_KERNELS_X86_H

#include "neuron_engine/kernels/kernels.h"

void sg_kernels_avx2(sg_kernels *out);       /* AVX2, FMA, F16C */
void sg_kernels_avxvnni(sg_kernels *out);    /* + AVX-VNNI: 256-bit dot products without AVX-512 */
void sg_kernels_avx512(sg_kernels *out);     /* AVX-512 F, BW, DQ, VL */
void sg_kernels_avx512vnni(sg_kernels *out); /* + AVX-512 VNNI */

/* Their neuron kernels, called by the above. */
void sg_neuron_kernels_avx2(sg_kernels *out);
void sg_neuron_kernels_avxvnni(sg_kernels *out);
void sg_neuron_kernels_avx512vnni(sg_kernels *out);

extern const sg_vec_fns sg_vec_avx2, sg_vec_avx512;

#endif
