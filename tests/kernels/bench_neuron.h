/* What test_neuron and its --bench share, and the bench itself: neuron kernels from memory that no cache holds, beside what the
 * kernels of whole matrices reach in the same run. */
#ifndef SG_BENCH_NEURON_H
#define SG_BENCH_NEURON_H

#include "neuron_engine/kernels/kernels.h"

/* Activations as dot products of rows want them; x stays that of `from`. */
sg_lane_acts bench_lanes(const sg_acts *from);
void bench_lanes_free(sg_lane_acts *a);

/* Prints rates of one core for each type (`only`: its name) of a tier. Returns the exit status. */
int bench_neuron(const sg_kernels *tier, const char *only);

#endif
