/* The C reference: it defines the result of every function in kernels.h. */
#ifndef SG_KERNELS_REF_H
#define SG_KERNELS_REF_H

#include "neuron_engine/kernels/kernels.h"

/* All functions of the table. */
void sg_kernels_ref(sg_kernels *out);

extern const sg_vec_fns sg_vec_ref;
/* Matrix kernels of all 15 types, layout 0, mr 1, by sg_dtype. */
extern const sg_mat_kernel *const sg_mat_ref[SG_DTYPE_LIMIT];
/* Neuron kernels of F32, F16, Q8_0 and Q4_0. */
extern const sg_neuron_kernel *const sg_neuron_ref[SG_DTYPE_LIMIT];

#endif
