/* Touches all that an open GGUF handle offers and checks what its header promises. For corruption tests and fuzzing. */
#ifndef SG_TESTS_IO_GGUF_WALK_H
#define SG_TESTS_IO_GGUF_WALK_H

#include "io/gguf.h"
#include "runtime/base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALK_CHECK(cond)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static inline uint64_t walk_kv(const sg_gguf *g, const sg_gguf_kv *kv) {
    uint64_t sum = 0;
    uint32_t u;
    float f;
    bool b;
    const char *s = NULL;
    WALK_CHECK(sg_gguf_find(g, kv->key) == kv && kv->key[0] != 0);
    WALK_CHECK(sg_utf8_check(kv->key, strlen(kv->key)) == strlen(kv->key));
    WALK_CHECK((kv->strings == NULL) != (kv->data == NULL) && (kv->is_array || kv->n == 1));
    for (uint64_t i = 0; i < kv->n; i++) {
        if (kv->strings) {
            WALK_CHECK(kv->strings[i].text[kv->strings[i].len] == 0);
            for (uint64_t k = 0; k < kv->strings[i].len; k++) sum += (unsigned char)kv->strings[i].text[k];
        } else {
            sum += sg_gguf_kv_number(kv, i) != 0;
        }
    }
    sum += sg_gguf_get_u32(g, kv->key, &u, NULL) == SG_OK;
    sum += sg_gguf_get_f32(g, kv->key, &f, NULL) == SG_OK;
    sum += sg_gguf_get_bool(g, kv->key, &b, NULL) == SG_OK;
    if (sg_gguf_get_str(g, kv->key, &s, NULL) == SG_OK) WALK_CHECK(s && sg_utf8_check(s, strlen(s)) == strlen(s));
    return sum;
}

static inline uint64_t walk_gguf(const sg_gguf *g) {
    uint64_t sum = 0;
    for (size_t i = 0; i < sg_gguf_n_kv(g); i++) sum += walk_kv(g, sg_gguf_kv_at(g, i));
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(g, i);
        const sg_dtype_info *type = sg_dtype_get(t->type);
        WALK_CHECK(sg_gguf_tensor(g, t->name) == t && type && t->n_dims >= 1 && t->n_dims <= 4);
        WALK_CHECK(t->n_values == t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3] && t->n_values > 0);
        WALK_CHECK(t->ne[0] % type->block_values == 0 && t->n_bytes == sg_dtype_bytes(type, t->n_values));
        WALK_CHECK(t->file < sg_gguf_n_files(g) && t->offset >= sg_gguf_data_offset(g, t->file));
        WALK_CHECK(t->offset + t->n_bytes <= sg_gguf_file_size(g, t->file) && t->offset % 8 == 0);
        sum += t->n_bytes;
    }
    return sum;
}

#endif
