/* Calibration is the only part that wants LAPACK, and OpenBLAS starts threads when it is loaded, so it is opened when needed and not
 * linked: the program runs as well without it. */
#include <dlfcn.h>
#include <string.h>

#include "runtime/calibrate/calibrate.h"

/* A function of that name in one of the libraries; through memcpy, since C has no conversion from void * to a function. */
static bool find(const sg_linalg *l, const char *name, void *fn) {
    void *p = dlsym(l->lib, name);
    if (!p && l->lib2) p = dlsym(l->lib2, name);
    memcpy(fn, &p, sizeof p);
    return p != NULL;
}

static bool find_all(sg_linalg *l) {
    return find(l, "ssyrk_", &l->ssyrk) && find(l, "strmm_", &l->strmm) && find(l, "strsm_", &l->strsm) &&
           find(l, "sgemm_", &l->sgemm) && find(l, "spotrf_", &l->spotrf) && find(l, "ssyevr_", &l->ssyevr);
}

bool sg_linalg_open(sg_linalg *l, uint32_t threads) {
    /* OpenBLAS by its own name, then whatever the system calls LAPACK and BLAS. */
    static const char *const names[][2] = { { "libopenblas.so.0", NULL },
                                            { "libopenblas.so", NULL },
                                            { "liblapack.so.3", "libblas.so.3" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *l = (sg_linalg){ 0 };
        l->lib = dlopen(names[i][0], RTLD_NOW | RTLD_LOCAL);
        if (l->lib && names[i][1]) l->lib2 = dlopen(names[i][1], RTLD_NOW | RTLD_LOCAL);
        if (l->lib && find_all(l)) {
            void (*set_threads)(int);
            if (find(l, "openblas_set_num_threads", &set_threads)) set_threads((int)threads);
            return true;
        }
        sg_linalg_close(l);
    }
    return false;
}

void sg_linalg_close(sg_linalg *l) {
    if (l->lib2) dlclose(l->lib2);
    if (l->lib) dlclose(l->lib);
    *l = (sg_linalg){ 0 };
}
