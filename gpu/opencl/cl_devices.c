/* Devices of OpenCL, through whichever loader or vendor library can be opened. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "gpu/gpu.h"

/* Desktops have the ICD loader. On Android the vendor's library is opened by its path: it is not on the search path of every
 * process, and putting its folder on LD_LIBRARY_PATH breaks other vendor libraries. */
static const char *const libraries[] = { "libOpenCL.so.1", "libOpenCL.so", "/vendor/lib64/libOpenCL.so",
                                         "/system/vendor/lib64/libOpenCL.so", "/vendor/lib64/egl/libGLES_mali.so", NULL };

typedef struct cl_fns {
    cl_int (*platforms)(cl_uint, cl_platform_id *, cl_uint *);
    cl_int (*devices)(cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *);
    cl_int (*info)(cl_device_id, cl_device_info, size_t, void *, size_t *);
} cl_fns;

static bool load(void *lib, cl_fns *f) {
    *(void **)&f->platforms = dlsym(lib, "clGetPlatformIDs");
    *(void **)&f->devices = dlsym(lib, "clGetDeviceIDs");
    *(void **)&f->info = dlsym(lib, "clGetDeviceInfo");
    return f->platforms && f->devices && f->info;
}

static void describe(const cl_fns *f, cl_device_id id, sg_gpu_device *d) {
    *d = (sg_gpu_device){ .api = SG_GPU_OPENCL, .kind = SG_GPU_OTHER };
    cl_device_type type = 0;
    cl_bool unified = CL_FALSE;
    cl_ulong memory = 0, largest = 0;
    char version[64] = "", driver[64] = "";
    f->info(id, CL_DEVICE_NAME, sizeof d->name - 1, d->name, NULL);
    f->info(id, CL_DEVICE_VERSION, sizeof version - 1, version, NULL);
    f->info(id, CL_DRIVER_VERSION, sizeof driver - 1, driver, NULL);
    f->info(id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    f->info(id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof unified, &unified, NULL);
    f->info(id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    f->info(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, NULL);
    snprintf(d->driver, sizeof d->driver, "%s, driver %s", version, driver);
    if (type & CL_DEVICE_TYPE_CPU) d->kind = SG_GPU_SOFTWARE;
    else if (type & CL_DEVICE_TYPE_GPU) d->kind = unified ? SG_GPU_INTEGRATED : SG_GPU_DISCRETE;
    d->memory = memory;
    d->max_buffer = largest;
}

size_t sg_gpu_cl_list(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    cl_fns f;
    void *lib = sg_gpu_open_library(libraries, why, why_size);
    if (!lib) return 0;
    if (!load(lib, &f)) {
        snprintf(why, why_size, "the loader library lacks functions of OpenCL 1.2");
        return 0;
    }
    cl_platform_id platforms[8];
    cl_uint n_platforms = 0;
    const cl_int rc = f.platforms(8, platforms, &n_platforms);
    if (rc != CL_SUCCESS || n_platforms == 0) {
        snprintf(why, why_size, "the loader finds no driver (error %d)", (int)rc);
        return 0;
    }
    if (n_platforms > 8) n_platforms = 8;
    size_t n = 0;
    for (cl_uint p = 0; p < n_platforms; p++) {
        cl_device_id ids[8];
        cl_uint n_ids = 0;
        if (f.devices(platforms[p], CL_DEVICE_TYPE_ALL, 8, ids, &n_ids) != CL_SUCCESS) continue;
        for (cl_uint i = 0; i < n_ids && i < 8 && n < cap; i++) describe(&f, ids[i], &out[n++]);
    }
    return n; /* the library stays open: drivers keep threads that outlive a dlclose */
}
