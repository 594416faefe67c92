/* GPUs: which devices there are. Nothing is linked: the OpenCL and Vulkan loaders are opened at run time, so that one binary
 * runs where there is neither. Every driver is first touched in a child process, because a broken one may crash or hang. */
#ifndef SG_GPU_GPU_H
#define SG_GPU_GPU_H

#include "runtime/base/error.h"

/* Fills out[cap] with the devices of one API and returns how many; 0 when the API is absent, with the reason in
 * why[why_size]. Runs driver code: call through sg_gpu_discover unless a crash is acceptable. Thread-safety: unsafe. */
typedef size_t (*sg_gpu_list_fn)(sg_gpu_device *out, size_t cap, char *why, size_t why_size);
size_t sg_gpu_cl_list(sg_gpu_device *out, size_t cap, char *why, size_t why_size);
size_t sg_gpu_vk_list(sg_gpu_device *out, size_t cap, char *why, size_t why_size);

/* Runs `list` in a forked child that gets `timeout_ms`; a child that crashes or hangs counts as no devices, with the reason. */
size_t sg_gpu_discover(sg_gpu_list_fn list, sg_gpu_device *out, size_t cap, int timeout_ms, char *why, size_t why_size);

/* First of the zero-terminated list of libraries that dlopen takes; NULL and the reason otherwise. */
void *sg_gpu_open_library(const char *const *names, char *why, size_t why_size);

#endif
