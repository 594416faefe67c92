#include "models/model.h"

#include <string.h>

/* Every architecture, in the order of their names: SG_ARCHS is expanded to pointers and to the text of error messages. */
#define SG_ARCHS(X)                                                                                                                       \
    X(arcee, "arcee") X(deepseek2, "deepseek2") X(ernie4_5_moe, "ernie4_5-moe") X(falcon, "falcon") X(gemma, "gemma") X(gemma2, "gemma2")  \
    X(gemma3, "gemma3") X(glm4moe, "glm4moe") X(gpt_oss, "gpt-oss") X(gpt2, "gpt2") X(granite, "granite") X(granitemoe, "granitemoe")      \
    X(lfm2, "lfm2") X(lfm2moe, "lfm2moe") X(llama, "llama") X(nemotron, "nemotron") X(olmo2, "olmo2") X(olmoe, "olmoe") X(opt, "opt") X(phi3, "phi3")        \
    X(qwen2, "qwen2") X(qwen2moe, "qwen2moe") X(qwen3, "qwen3") X(qwen35moe, "qwen35moe") X(qwen3moe, "qwen3moe")                          \
    X(qwen3next, "qwen3next") X(smallthinker, "smallthinker")

#define DECLARE(id, name) extern const sg_arch sg_arch_##id;
#define POINTER(id, name) &sg_arch_##id,
#define NAME(id, name) ", " name
SG_ARCHS(DECLARE)

static const sg_arch *const archs[] = { SG_ARCHS(POINTER) };
static const char names[] = SG_ARCHS(NAME);

const sg_arch *sg_arch_find(const char *name) {
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(archs[i]->name, name) == 0) return archs[i];
    return NULL;
}

const char *sg_arch_names(void) { return names + 2; }

const sg_tensor_rule *sg_arch_rule(const sg_arch *arch, bool per_layer, uint32_t slot) {
    for (size_t i = 0; i < arch->n_tensors; i++) {
        const sg_tensor_rule *r = &arch->tensors[i];
        if (r->slot == slot && (strstr(r->name, "%u") != NULL) == per_layer) return r;
    }
    return NULL;
}
