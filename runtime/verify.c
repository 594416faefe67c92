/* Checks a model.bin against the checksums that it carries (docs/model_bin.md): one pass in the order of the file. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "runtime/convert/bin_writer.h"
#include "runtime/convert/file.h"

#define CHUNK_BYTES ((size_t)1 << 20)

typedef struct check {
    const char *path;
    sg_verify_options o;
    sg_gguf *g;
    int fd;
    uint64_t size, done;
    const sg_tensor_info **tensors; /* by offset; the checksums are the last */
    size_t n_tensors;
    uint64_t *hashes; /* n_hashes, the last one of those before */
    uint64_t n_hashes, next;
    bool table_is_bad;
    uint8_t *chunk;
    XXH3_state_t *state;
    sg_verify_report report;
} check;

/* cluster: -1: none, NO_CHECKSUM: nor a checksum of its own. */
#define NO_CHECKSUM (-2)
static void report_bad(check *c, const char *what, uint64_t begin, uint64_t end, int64_t layer, int64_t cluster) {
    c->report.n_bad++;
    if (!c->o.on_bad) return;
    sg_str text = { 0 };
    sg_str_printf(&text, "%s%s (bytes %" PRIu64 " to %" PRIu64 ")", what, c->table_is_bad && cluster != NO_CHECKSUM ? " or its checksum" : "", begin,
                  end - 1);
    c->o.on_bad(c->o.user, &(sg_bad_part) { text.failed ? what : text.data, begin, end, layer, cluster < 0 ? -1 : cluster });
    free(text.data);
}

/* Feeds bytes begin .. end - 1 to `state`, or, when that is NULL, sees whether all are zero. */
static sg_status pass_over(check *c, uint64_t begin, uint64_t end, XXH3_state_t *state, bool *zero, sg_error *err) {
    while (begin < end) {
        const size_t n = end - begin < CHUNK_BYTES ? (size_t)(end - begin) : CHUNK_BYTES;
        SG_TRY(sg_file_read_at(c->fd, c->path, c->chunk, n, begin, err));
        if (n == CHUNK_BYTES) posix_fadvise(c->fd, (off_t)begin, (off_t)n, POSIX_FADV_DONTNEED);
        if (state) XXH3_64bits_update(state, c->chunk, n);
        for (size_t i = 0; !state && i < n; i++) *zero = *zero && c->chunk[i] == 0;
        begin += n;
        c->done += n;
        if (c->o.progress && !c->o.progress(c->o.user, c->done, c->size))
            return sg_fail(err, SG_E_CANCELLED, "%s: the check was cancelled", c->path);
    }
    return SG_OK;
}

/* One part against the next checksum. */
static sg_status check_part(check *c, const char *what, uint64_t begin, uint64_t end, int64_t layer, int64_t cluster, sg_error *err) {
    XXH3_64bits_reset(c->state);
    SG_TRY(pass_over(c, begin, end, c->state, NULL, err));
    c->report.n_parts++;
    if (XXH3_64bits_digest(c->state) != c->hashes[c->next++]) report_bad(c, what, begin, end, layer, cluster);
    return SG_OK;
}

static sg_status check_padding(check *c, const char *tensor, uint64_t begin, uint64_t end, sg_error *err) {
    bool zero = true;
    char what[128];
    SG_TRY(pass_over(c, begin, end, NULL, &zero, err));
    snprintf(what, sizeof what, "padding behind tensor %s", tensor);
    if (!zero) report_bad(c, what, begin, end, -1, NO_CHECKSUM);
    return SG_OK;
}

static sg_status check_tensor(check *c, const sg_tensor_info *t, sg_error *err) {
    char what[128];
    uint32_t layer;
    if (t->n_dims != 2 || !sg_bin_is_bundle(t->name, &layer)) {
        snprintf(what, sizeof what, "tensor %s", t->name);
        return check_part(c, what, t->offset, t->offset + t->n_bytes, -1, -1, err);
    }
    for (uint64_t i = 0; i < t->ne[1]; i++) {
        const uint64_t begin = t->offset + i * t->ne[0];
        snprintf(what, sizeof what, "layer %" PRIu32 ", %scluster %" PRIu64, layer, sg_bin_is_shexp(t->name) ? "shared experts, " : "", i);
        SG_TRY(check_part(c, what, begin, begin + t->ne[0], layer, (int64_t)i, err));
    }
    return SG_OK;
}

static int by_offset(const void *a, const void *b) {
    const sg_tensor_info *const *x = a, *const *y = b;
    return (*x)->offset < (*y)->offset ? -1 : (*x)->offset > (*y)->offset;
}

static sg_status bad_header(const check *c, const char *why, sg_error *err) {
    return sg_fail(err, SG_E_FORMAT, "%s: the header is damaged: %s", c->path, why);
}

/* Finds the checksums and sees that there is one for each part; without that nothing can be checked. */
static sg_status find_checksums(check *c, sg_error *err) {
    const sg_tensor_info *table = sg_gguf_tensor(c->g, SG_BIN_CHECKSUMS);
    const bool version = sg_gguf_find(c->g, SG_BIN_VERSION_KEY) != NULL;
    if (!table && !version)
        return sg_fail(err, SG_E_UNSUPPORTED,
                       "%s: holds no checksums, so there is nothing to check it against; a model.bin has them (sparsegen convert)",
                       c->path);
    if (!table || !version || sg_gguf_n_files(c->g) != 1 || sg_gguf_alignment(c->g) != SG_BIN_ALIGNMENT)
        return bad_header(c, "a part of what makes a model.bin is missing", err);
    c->n_tensors = sg_gguf_n_tensors(c->g);
    c->tensors = malloc(c->n_tensors * sizeof *c->tensors);
    if (!c->tensors) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", c->path);
    uint64_t n = 2;
    for (size_t i = 0; i < c->n_tensors; i++) {
        const sg_tensor_info *t = c->tensors[i] = sg_gguf_tensor_at(c->g, i);
        if (t != table) n += t->n_dims == 2 && sg_bin_is_bundle(t->name, NULL) ? t->ne[1] : 1;
        if (t->n_dims == 2 && sg_bin_is_bundle(t->name, NULL) && t->type != SG_DTYPE_I8)
            return bad_header(c, "a bundle is not of type I8", err);
    }
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_offset);
    if (c->tensors[c->n_tensors - 1] != table || table->type != SG_DTYPE_I32 || table->ne[0] != 2 || table->ne[1] != n ||
        table->n_values != 2 * n)
        return bad_header(c, "the checksums do not fit the tensors", err);
    c->n_hashes = n;
    return SG_OK;
}

/* The table of checksums comes first: whether it can be believed decides how a mismatch is named. */
static sg_status read_checksums(check *c, sg_error *err) {
    const sg_tensor_info *table = c->tensors[c->n_tensors - 1];
    c->hashes = malloc((size_t)table->n_bytes);
    c->chunk = malloc(CHUNK_BYTES);
    c->state = XXH3_createState();
    if (!c->hashes || !c->chunk || !c->state) return sg_fail(err, SG_E_NOMEM, "%s: no memory to check it", c->path);
    SG_TRY(sg_file_open(c->path, &c->fd, &c->size, err));
    posix_fadvise(c->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    SG_TRY(sg_file_read_at(c->fd, c->path, c->hashes, (size_t)table->n_bytes, table->offset, err));
    c->table_is_bad = XXH3_64bits(c->hashes, (size_t)(c->n_hashes - 1) * sizeof *c->hashes) != c->hashes[c->n_hashes - 1];
    return SG_OK;
}

static sg_status check_all(check *c, sg_error *err) {
    SG_TRY(check_part(c, "the header", 0, c->tensors[0]->offset, -1, -1, err));
    for (size_t i = 0; i < c->n_tensors; i++) {
        const sg_tensor_info *t = c->tensors[i];
        const uint64_t end = t->offset + t->n_bytes;
        if (i + 1 < c->n_tensors) {
            SG_TRY(check_tensor(c, t, err));
            SG_TRY(check_padding(c, t->name, end, c->tensors[i + 1]->offset, err));
            continue;
        }
        c->report.n_parts++;
        if (c->table_is_bad) report_bad(c, "the checksums", t->offset, end, -1, NO_CHECKSUM);
        const uint64_t padded = (end + SG_BIN_ALIGNMENT - 1) / SG_BIN_ALIGNMENT * SG_BIN_ALIGNMENT;
        SG_TRY(check_padding(c, t->name, end, padded < c->size ? padded : c->size, err));
        if (c->size < padded) report_bad(c, "the end of the file, which is missing", c->size, padded, -1, NO_CHECKSUM);
        if (c->size > padded) report_bad(c, "bytes behind the end of the file", padded, c->size, -1, NO_CHECKSUM);
    }
    c->report.n_bytes = c->size;
    if (c->report.n_bad == 0) return SG_OK;
    return sg_fail(err, SG_E_FORMAT, "%s: is damaged: %" PRIu64 " of %" PRIu64 " parts do not match their checksums", c->path,
                   c->report.n_bad, c->report.n_parts);
}

static sg_status check_version(const check *c, sg_error *err) {
    uint32_t version = 0;
    SG_TRY(sg_gguf_get_u32(c->g, SG_BIN_VERSION_KEY, &version, err));
    if (version == SG_BIN_VERSION) return SG_OK;
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: has version %" PRIu32 " of the format, or a damaged header; version %u is known", c->path,
                   version, SG_BIN_VERSION);
}

sg_status sg_verify(const char *path, const sg_verify_options *options, sg_verify_report *report, sg_error *err) {
    if (report) *report = (sg_verify_report) { 0 };
    if (!path) return sg_fail(err, SG_E_ARG, "verify needs a file");
    check c = { .path = path, .fd = -1, .o = SG_VERIFY_OPTIONS_INIT };
    if (options) memcpy(&c.o, options, options->struct_size < sizeof c.o ? options->struct_size : sizeof c.o);
    sg_status status = sg_gguf_open(path, &c.g, err);
    if (status == SG_OK) status = find_checksums(&c, err);
    if (status == SG_OK) status = check_version(&c, err);
    if (status == SG_OK) status = read_checksums(&c, err);
    if (status == SG_OK) status = check_all(&c, err);
    if (report) *report = c.report;
    if (c.fd >= 0) close(c.fd);
    if (c.state) XXH3_freeState(c.state);
    free(c.chunk);
    free(c.hashes);
    free(c.tensors);
    sg_gguf_close(&c.g);
    return status;
}
