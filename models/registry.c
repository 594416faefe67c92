#include "models/model.h"

#include <string.h>

static const sg_arch *const archs[] = { &sg_arch_arcee, &sg_arch_llama, &sg_arch_qwen2, &sg_arch_qwen3 };

const sg_arch *sg_arch_find(const char *name) {
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(archs[i]->name, name) == 0) return archs[i];
    return NULL;
}

const char *sg_arch_names(void) { return "arcee, llama, qwen2, qwen3"; }
