/* The aarch64 tiers. Each function puts what its tier does better into a table that holds the tier below. */
#ifndef SG_KERNELS_ARM_H
#define SG_KERNELS_ARM_H

#include "neuron_engine/kernels/kernels.h"

void sg_kernels_neon(sg_kernels *out);
void sg_kernels_dotprod(sg_kernels *out); /* + the dot product instructions of Armv8.2 */
void sg_kernels_i8mm(sg_kernels *out);    /* + the 8-bit matrix products of Armv8.6 */

/* Their neuron kernels, called by the above. */
void sg_neuron_kernels_neon(sg_kernels *out);
void sg_neuron_kernels_dotprod(sg_kernels *out);

extern const sg_vec_fns sg_vec_neon;

#endif
