#include "runtime/convert/bin_writer.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

/* What one checksum covers: `bytes` bytes of tensor data, `count` times. */
typedef struct span {
    uint64_t bytes, count;
} span;

struct sg_bin_writer {
    sg_gguf_writer *gguf;
    span *spans; /* one per tensor */
    size_t n_spans, cap_spans;
    uint64_t n_hashes, n_done;
    uint64_t *hashes; /* header, tensors and clusters in file order, the hashes before; as in the file */
    bool in_header;
    size_t span;             /* being hashed, */
    uint64_t left, repeated; /* bytes left of its current part, parts done */
    XXH3_state_t *state;
};

bool sg_bin_is_bundle(const char *tensor, uint32_t *layer) {
    uint64_t n = 0;
    const char *p = tensor + 4;
    if (strncmp(tensor, "blk.", 4) != 0 || *p < '0' || *p > '9') return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        n = n * 10 + (uint64_t)(*p - '0');
        if (n > UINT32_MAX) return false;
    }
    if (layer) *layer = (uint32_t)n;
    return strcmp(p, ".ffn_bundle") == 0 || strcmp(p, ".ffn_bundle_shexp") == 0;
}

bool sg_bin_is_shexp(const char *tensor) { return sg_bin_is_bundle(tensor, NULL) && strstr(tensor, "_shexp") != NULL; }

static void begin_part(sg_bin_writer *w) {
    XXH3_64bits_reset(w->state);
    w->left = w->span < w->n_spans ? w->spans[w->span].bytes : 0;
}

static void end_part(sg_bin_writer *w) {
    w->hashes[w->n_done++] = XXH3_64bits_digest(w->state);
    if (w->span < w->n_spans && ++w->repeated == w->spans[w->span].count) {
        w->span++;
        w->repeated = 0;
    }
    begin_part(w);
}

/* The checksums themselves come behind the last span and are passed over. */
static void hash(void *user, const void *bytes, size_t n) {
    sg_bin_writer *w = user;
    const uint8_t *p = bytes;
    if (w->in_header) {
        XXH3_64bits_update(w->state, p, n);
        return;
    }
    while (n > 0 && w->span < w->n_spans) {
        const size_t part = n < w->left ? n : (size_t)w->left;
        XXH3_64bits_update(w->state, p, part);
        p += part;
        n -= part;
        w->left -= part;
        if (w->left == 0) end_part(w);
    }
}

sg_status sg_bin_writer_create(const char *path, bool overwrite, sg_bin_writer **out, sg_error *err) {
    *out = NULL;
    sg_bin_writer *w = calloc(1, sizeof *w);
    if (!w) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the writer", path);
    w->in_header = true;
    w->state = XXH3_createState();
    sg_status status = w->state ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory for the writer", path);
    if (status == SG_OK) status = sg_gguf_writer_create(path, SG_BIN_ALIGNMENT, overwrite, &w->gguf, err);
    if (status != SG_OK) {
        sg_bin_writer_abort(&w);
        return status;
    }
    XXH3_64bits_reset(w->state);
    sg_gguf_writer_tap(w->gguf, hash, w);
    sg_gguf_writer_u32(w->gguf, SG_BIN_VERSION_KEY, SG_BIN_VERSION);
    *out = w;
    return SG_OK;
}

void sg_bin_writer_abort(sg_bin_writer **writer) {
    sg_bin_writer *w = *writer;
    *writer = NULL;
    if (!w) return;
    sg_gguf_writer_abort(&w->gguf);
    XXH3_freeState(w->state);
    free(w->spans);
    free(w->hashes);
    free(w);
}

sg_gguf_writer *sg_bin_writer_gguf(sg_bin_writer *w) { return w->gguf; }

sg_status sg_bin_writer_tensor(sg_bin_writer *w, const char *name, sg_dtype type, uint32_t n_dims, const uint64_t *ne,
                               sg_error *err) {
    if (w->n_spans == w->cap_spans) {
        const size_t cap = w->cap_spans ? 2 * w->cap_spans : 256;
        span *p = realloc(w->spans, cap * sizeof *p);
        if (!p) return sg_fail(err, SG_E_NOMEM, "no memory for the list of tensors");
        w->spans = p;
        w->cap_spans = cap;
    }
    /* values that the writer below refuses may wrap around here: it says so in begin_data */
    const sg_dtype_info *info = sg_dtype_get(type);
    uint64_t n = 1;
    for (uint32_t d = 0; d < n_dims && d < 4; d++) n *= ne[d];
    const bool bundle = n_dims == 2 && sg_bin_is_bundle(name, NULL);
    w->spans[w->n_spans++] = bundle ? (span) { ne[0], ne[1] } : (span) { info ? sg_dtype_bytes(info, n) : 0, 1 };
    sg_gguf_writer_tensor(w->gguf, name, type, n_dims, ne);
    return SG_OK;
}

sg_status sg_bin_writer_begin_data(sg_bin_writer *w, sg_error *err) {
    w->n_hashes = 2; /* of the header, and of the hashes before */
    for (size_t i = 0; i < w->n_spans; i++) w->n_hashes += w->spans[i].count;
    const uint64_t ne[2] = { 2, w->n_hashes };
    sg_gguf_writer_tensor(w->gguf, SG_BIN_CHECKSUMS, SG_DTYPE_I32, 2, ne);
    SG_TRY(sg_gguf_writer_begin_data(w->gguf, err));
    w->hashes = calloc(w->n_hashes, sizeof *w->hashes);
    if (!w->hashes) return sg_fail(err, SG_E_NOMEM, "no memory for the checksums");
    w->hashes[w->n_done++] = XXH3_64bits_digest(w->state);
    w->in_header = false;
    begin_part(w);
    return SG_OK;
}

sg_status sg_bin_writer_data(sg_bin_writer *w, const void *bytes, size_t n, sg_error *err) {
    return sg_gguf_writer_data(w->gguf, bytes, n, err);
}

sg_status sg_bin_writer_finish(sg_bin_writer *w, sg_error *err) {
    if (w->in_header) SG_TRY(sg_bin_writer_begin_data(w, err));
    if (w->n_done != w->n_hashes - 1) return sg_gguf_writer_finish(w->gguf, err); /* data is missing: it says where */
    w->hashes[w->n_done] = XXH3_64bits(w->hashes, w->n_done * sizeof *w->hashes);
    SG_TRY(sg_gguf_writer_data(w->gguf, w->hashes, w->n_hashes * sizeof *w->hashes, err));
    return sg_gguf_writer_finish(w->gguf, err);
}
