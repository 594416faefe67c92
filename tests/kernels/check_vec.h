/* Parts of test_vec.c: functions computed from e^x, norms, and what recurrent layers need. */
#ifndef SG_TEST_CHECK_VEC_H
#define SG_TEST_CHECK_VEC_H

#include "neuron_engine/kernels/kernels.h"

/* The reference against double precision. */
void check_functions(const sg_vec_fns *v);
void check_sums(const sg_vec_fns *v);
/* conv and delta of a tier: against the reference to the bit; that one against double precision. */
void check_recurrent(const sg_vec_fns *ref, const sg_vec_fns *v, const char *tier);

#endif
