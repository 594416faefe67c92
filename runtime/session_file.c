/* Sessions in files: a header, the tokens, what the model remembers, a checksum (XXH3-64) of all before. Little-endian. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "runtime/session_private.h"

static const char magic[8] = "SGSESS1";

typedef struct header {
    char magic[8];
    uint64_t model;  /* see model_id */
    uint64_t layout; /* sg_past_layout */
    uint64_t n;      /* tokens */
} header;

/* A file being written or read. */
typedef struct flow {
    const char *path;
    int fd;
    bool write;
    XXH3_state_t *hash;
    int error; /* errno; -1: the file ended */
} flow;

static bool move(void *user, void *bytes, size_t n) {
    flow *f = user;
    for (size_t at = 0; at < n;) {
        const ssize_t k = f->write ? write(f->fd, (char *)bytes + at, n - at) : read(f->fd, (char *)bytes + at, n - at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            f->error = k < 0 ? errno : -1;
            return false;
        }
        at += (size_t)k;
    }
    XXH3_64bits_update(f->hash, bytes, n);
    return true;
}

/* What tells models apart: names, sizes, shapes. */
static uint64_t model_id(const sg_model *m) {
    XXH3_state_t *h = XXH3_createState();
    if (!h) return 0;
    const sg_hparams *hp = &m->desc.hp;
    const uint64_t numbers[] = { m->info.n_params, hp->n_vocab, hp->n_embd, hp->n_layer, hp->n_head, hp->n_ff, hp->n_expert };
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, m->arch, strlen(m->arch));
    XXH3_64bits_update(h, m->name, strlen(m->name));
    XXH3_64bits_update(h, numbers, sizeof numbers);
    const uint64_t id = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return id;
}

static sg_status failure(const flow *f, sg_error *err) {
    if (f->error == -1) return sg_fail(err, SG_E_FORMAT, "%s: ends too early to be a saved session", f->path);
    return sg_fail_errno(err, f->error, f->path, f->write ? "cannot be written" : "cannot be read");
}

static sg_status begin(flow *f, sg_error *err) {
    f->hash = XXH3_createState();
    if (!f->hash) return sg_fail(err, SG_E_NOMEM, "out of memory");
    XXH3_64bits_reset(f->hash);
    return SG_OK;
}

static sg_status write_all(sg_session *s, flow *f, sg_error *err) {
    header h = { .model = model_id(s->model), .layout = sg_past_layout(&s->past), .n = s->n };
    memcpy(h.magic, magic, sizeof h.magic);
    SG_TRY(begin(f, err));
    if (!move(f, &h, sizeof h) || !move(f, s->tokens, s->n * sizeof *s->tokens) || !sg_past_walk(&s->past, s->n, move, f)) return failure(f, err);
    uint64_t sum = XXH3_64bits_digest(f->hash);
    if (!move(f, &sum, sizeof sum)) return failure(f, err);
    if (fsync(f->fd) != 0) return sg_fail_errno(err, errno, f->path, "cannot be written");
    return SG_OK;
}

sg_status sg_session_save(sg_session *s, const char *path, sg_error *err) {
    if (!s || !path) return sg_fail(err, SG_E_ARG, "sg_session_save: an argument is NULL");
    SG_TRY(sg_session_catch_up(s, err));
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part-%ld", path, (long)getpid()) >= (int)sizeof part) return sg_fail(err, SG_E_ARG, "%s: is too long a name", path);
    flow f = { .path = path, .write = true, .fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) };
    if (f.fd < 0) return sg_fail_errno(err, errno, part, "cannot be created");
    sg_status status = write_all(s, &f, err);
    XXH3_freeState(f.hash);
    if (close(f.fd) != 0 && status == SG_OK) status = sg_fail_errno(err, errno, part, "cannot be written");
    if (status == SG_OK && rename(part, path) != 0) status = sg_fail_errno(err, errno, path, "cannot be given its name");
    if (status != SG_OK) unlink(part);
    return status;
}

static sg_status read_header(sg_session *s, flow *f, header *h, sg_error *err) {
    SG_TRY(begin(f, err));
    if (!move(f, h, sizeof *h)) return failure(f, err);
    if (memcmp(h->magic, magic, sizeof magic) != 0) return sg_fail(err, SG_E_FORMAT, "%s: is no saved session", f->path);
    if (h->model != model_id(s->model)) return sg_fail(err, SG_E_UNSUPPORTED, "%s: is a session of another model", f->path);
    if (h->layout != sg_past_layout(&s->past))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: was saved with another KV cache type, batch or processor", f->path);
    if (h->n > s->n_ctx) return sg_fail(err, SG_E_CONTEXT, "%s: holds %llu tokens, the context %u", f->path, (unsigned long long)h->n, s->n_ctx);
    return SG_OK;
}

/* *begun: what the session had is gone. */
static sg_status read_all(sg_session *s, flow *f, bool *begun, sg_error *err) {
    header h;
    SG_TRY(read_header(s, f, &h, err));
    *begun = true;
    s->n = 0;
    s->logits_rows = 0;
    (void)sg_past_go_to(&s->past, 0);
    if (!move(f, s->tokens, h.n * sizeof *s->tokens)) return failure(f, err);
    for (uint64_t i = 0; i < h.n; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= s->model->desc.hp.n_vocab) return sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
    if (!sg_past_walk(&s->past, (uint32_t)h.n, move, f)) return failure(f, err);
    const uint64_t sum = XXH3_64bits_digest(f->hash);
    uint64_t stored;
    if (!move(f, &stored, sizeof stored)) return failure(f, err);
    if (stored != sum) return sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
    sg_past_restored(&s->past, (uint32_t)h.n);
    s->n = (uint32_t)h.n;
    return SG_OK;
}

sg_status sg_session_restore(sg_session *s, const char *path, sg_error *err) {
    if (!s || !path) return sg_fail(err, SG_E_ARG, "sg_session_restore: an argument is NULL");
    flow f = { .path = path, .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) };
    if (f.fd < 0) return sg_fail_errno(err, errno, path, "cannot be opened");
    bool begun = false;
    const sg_status status = read_all(s, &f, &begun, err);
    if (status != SG_OK && begun) (void)sg_past_go_to(&s->past, 0);
    XXH3_freeState(f.hash);
    close(f.fd);
    return status;
}
