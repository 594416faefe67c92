/* What tells one model file from another: a number from its description and from samples of its weights. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "runtime/model.h"

/* Places at equal distances where weights are looked at. Files that differ in few tensors only (a fine-tuned model beside its origin) have
 * equal names, shapes and types. */
#define SAMPLES 64u
#define SAMPLE_BYTES 64u

/* Names and prompts for chats may be edited without changing what is computed. */
static bool matters(const char *key, const char *arch) {
    const size_t n = strlen(arch);
    return (strncmp(key, arch, n) == 0 && key[n] == '.') || strncmp(key, "sparsegen.", 10) == 0;
}

static void add_entry(XXH3_state_t *h, const sg_gguf_kv *kv) {
    XXH3_64bits_update(h, kv->key, strlen(kv->key) + 1);
    for (uint64_t i = 0; i < kv->n; i++) {
        const double x = kv->strings ? 0 : sg_gguf_kv_number(kv, i);
        if (kv->strings) XXH3_64bits_update(h, kv->strings[i].text, kv->strings[i].len);
        else XXH3_64bits_update(h, &x, sizeof x);
    }
}

static void add_tensor(XXH3_state_t *h, const sg_tensor_info *t) {
    const uint64_t numbers[] = { (uint64_t)t->type, t->ne[0], t->ne[1], t->ne[2], t->ne[3] };
    XXH3_64bits_update(h, t->name, strlen(t->name) + 1);
    XXH3_64bits_update(h, numbers, sizeof numbers);
}

/* What cannot be read counts as zeros: whoever loads the model will say so. */
static void add_samples(XXH3_state_t *h, const sg_gguf *g, uint64_t total) {
    int fd = -1;
    uint32_t file = 0;
    uint64_t before = 0; /* bytes of the tensors before i */
    size_t i = 0;
    for (uint64_t k = 0; k < SAMPLES; k++) {
        const uint64_t at = total / SAMPLES * k + total / (2 * SAMPLES);
        while (i + 1 < sg_gguf_n_tensors(g) && at - before >= sg_gguf_tensor_at(g, i)->n_bytes) before += sg_gguf_tensor_at(g, i++)->n_bytes;
        const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
        uint8_t bytes[SAMPLE_BYTES] = { 0 };
        const uint64_t left = t->n_bytes - (at - before);
        if (fd >= 0 && t->file != file) {
            close(fd);
            fd = -1;
        }
        if (fd < 0) fd = open(sg_gguf_path(g, t->file), O_RDONLY | O_CLOEXEC);
        file = t->file;
        if (fd >= 0 && pread(fd, bytes, left < sizeof bytes ? (size_t)left : sizeof bytes, (off_t)(t->offset + at - before)) < 0) memset(bytes, 0, sizeof bytes);
        XXH3_64bits_update(h, bytes, sizeof bytes);
    }
    if (fd >= 0) close(fd);
}

sg_status sg_model_identify(const sg_gguf *g, const char *arch, uint64_t *id, sg_error *err) {
    XXH3_state_t *h = XXH3_createState();
    if (!h) return sg_fail(err, SG_E_NOMEM, "out of memory");
    uint64_t total = 0;
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, arch, strlen(arch) + 1);
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++)
        if (matters(sg_gguf_kv_at(g, i)->key, arch)) add_entry(h, sg_gguf_kv_at(g, i));
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        add_tensor(h, sg_gguf_tensor_at(g, i));
        total += sg_gguf_tensor_at(g, i)->n_bytes;
    }
    if (total > 0) add_samples(h, g, total);
    *id = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return SG_OK;
}
