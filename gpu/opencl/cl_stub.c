/* Takes the place of cl_devices.c where the headers of OpenCL were absent at build time. */
#include <stdio.h>

#include "gpu/gpu.h"

size_t sg_gpu_cl_list(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    (void)out;
    (void)cap;
    snprintf(why, why_size, "sparsegen was built without OpenCL");
    return 0;
}
