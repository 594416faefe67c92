#include "models/hf.h"

#include <string.h>

static const sg_hf_family *const families[] = { &sg_hf_llama, &sg_hf_qwen };

const sg_hf_arch *sg_hf_at(size_t i) {
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        if (i < families[f]->n) return &families[f]->archs[i];
        i -= families[f]->n;
    }
    return NULL;
}

const sg_hf_arch *sg_hf_find(const char *name) {
    const sg_hf_arch *a;
    for (size_t i = 0; (a = sg_hf_at(i)); i++)
        if (strcmp(a->name, name) == 0) return a;
    return NULL;
}
