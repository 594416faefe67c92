/* Sessions in files: a header, the tokens, what the model remembers, a checksum (XXH3-64) of all before. Little-endian. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "io/gguf_file.h"
#include "runtime/session_private.h"

static const char magic[8] = "SGSESS1";

typedef struct header {
    char magic[8];
    uint64_t model;    /* sg_model_identify */
    uint64_t layout;   /* sg_past_layout */
    uint64_t settings; /* sg_session_settings */
    sg_past_mark mark; /* mark.n tokens */
    uint32_t zero;
} header;

/* A file being written or read. */
typedef struct flow {
    const char *path;
    sg_out_file out; /* when it is written */
    int fd;          /* when it is read */
    XXH3_state_t *hash;
    sg_status status; /* of the first failure, whose sentence is in err */
    sg_error *err;
} flow;

static sg_status begin(flow *f, const char *path, sg_error *err) {
    *f = (flow) { .path = path, .out = { .fd = -1 }, .fd = -1, .hash = XXH3_createState(), .err = err };
    if (!f->hash) return sg_fail(err, SG_E_NOMEM, "out of memory");
    XXH3_64bits_reset(f->hash);
    return SG_OK;
}

static void end(flow *f) {
    sg_out_file_release(&f->out);
    if (f->fd >= 0) close(f->fd);
    XXH3_freeState(f->hash);
}

/* The choices that keys, values and states depend on besides the model: results are the same to the bit only among equal ones. */
uint64_t sg_session_settings(const sg_session *s, const sg_session_options *o) {
    struct { float predict, threshold; uint32_t top_k, precise, is_long; } c = { o->lossy_predict, o->lossy_threshold, o->lossy_top_k, o->precise, 0 };
    struct { uint32_t n; float drop, cache_route; } experts = { o->n_experts, o->lossy_drop, o->lossy_cache_route };
    c.is_long = s->exec.rope[0] == &s->model->ropes[SG_ROPES_LONG];
    if (experts.n == s->model->desc.hp.n_expert_used) experts.n = 0; /* what the model says */
    if (experts.n == 0 && experts.drop == 0 && experts.cache_route == 0) return XXH3_64bits(&c, sizeof c);
    return XXH3_64bits(&c, sizeof c) ^ XXH3_64bits(&experts, sizeof experts);
}

/* ---- saving ---- */

static bool put(void *user, void *bytes, size_t n) {
    flow *f = user;
    XXH3_64bits_update(f->hash, bytes, n);
    f->status = sg_out_file_write(&f->out, bytes, n, f->err);
    return f->status == SG_OK;
}

static sg_status write_all(sg_session *s, flow *f, sg_error *err) {
    header h = { .model = s->model->id, .layout = sg_past_layout(&s->past), .settings = s->settings, .mark = sg_past_get_mark(&s->past, s->n) };
    memcpy(h.magic, magic, sizeof h.magic);
    SG_TRY(sg_out_file_create(&f->out, f->path, true, err));
    if (!put(f, &h, sizeof h) || !put(f, s->tokens, s->n * sizeof *s->tokens) || !sg_past_save(&s->past, &h.mark, put, f)) return f->status;
    uint64_t sum = XXH3_64bits_digest(f->hash);
    if (!put(f, &sum, sizeof sum)) return f->status;
    return sg_out_file_finish(&f->out, err);
}

sg_status sg_session_save(sg_session *s, const char *path, sg_error *err) {
    if (!s || !path) return sg_fail(err, SG_E_ARG, "sg_session_save: an argument is NULL");
    SG_TRY(sg_session_catch_up(s, err));
    flow f;
    sg_status status = begin(&f, path, err);
    if (status == SG_OK) status = write_all(s, &f, err);
    end(&f);
    return status;
}

/* ---- restoring ---- */

static bool get(void *user, void *bytes, size_t n) {
    flow *f = user;
    for (size_t at = 0; at < n;) {
        const ssize_t k = read(f->fd, (char *)bytes + at, n - at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            f->status = k < 0 ? sg_fail_errno(f->err, errno, f->path, "cannot be read")
                              : sg_fail(f->err, SG_E_FORMAT, "%s: ends too early to be a saved session", f->path);
            return false;
        }
        at += (size_t)k;
    }
    XXH3_64bits_update(f->hash, bytes, n);
    return true;
}

/* The size of the file must be what the header asks for, before anything is given up for it. */
static sg_status check_size(const sg_session *s, const flow *f, const header *h, uint64_t size, sg_error *err) {
    const uint64_t want = sizeof *h + h->mark.n * sizeof *s->tokens + sg_past_mark_bytes(&s->past, &h->mark) + sizeof(uint64_t);
    if (size < want) return sg_fail(err, SG_E_FORMAT, "%s: ends too early to be a saved session", f->path);
    if (size > want) return sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
    return SG_OK;
}

static sg_status read_header(const sg_session *s, flow *f, header *h, sg_error *err) {
    struct stat st;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* else a pipe would wait for its other end */
    if (f->fd < 0) return sg_fail_errno(err, errno, f->path, "cannot be opened");
    if (fstat(f->fd, &st) != 0) return sg_fail_errno(err, errno, f->path, "cannot be read");
    if (!S_ISREG(st.st_mode)) return sg_fail(err, SG_E_ACCESS, "%s: is not a regular file", f->path);
    if (!get(f, h, sizeof *h)) return f->status;
    if (memcmp(h->magic, magic, sizeof magic) != 0) return sg_fail(err, SG_E_FORMAT, "%s: is no saved session", f->path);
    if (h->model != s->model->id) return sg_fail(err, SG_E_UNSUPPORTED, "%s: is a session of another model", f->path);
    if (h->layout != sg_past_layout(&s->past))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: was saved with another KV cache type or kernel tier", f->path);
    if (h->settings != s->settings)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: was saved with other choices that change results (precise, lossy ones, a context longer than the "
                       "original one)", f->path);
    if (h->mark.n > s->n_ctx) return sg_fail(err, SG_E_CONTEXT, "%s: holds %u tokens, the context %u", f->path, h->mark.n, s->n_ctx);
    if (h->zero != 0 || !sg_past_mark_is_valid(&s->past, &h->mark)) return sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
    return check_size(s, f, h, (uint64_t)st.st_size, err);
}

static sg_status read_rest(sg_session *s, flow *f, const header *h, sg_error *err) {
    const uint32_t n = h->mark.n;
    if (!get(f, s->tokens, n * sizeof *s->tokens)) return f->status;
    for (uint32_t i = 0; i < n; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= s->model->desc.hp.n_vocab) return sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
    if (!sg_past_load(&s->past, &h->mark, get, f)) return f->status;
    const uint64_t sum = XXH3_64bits_digest(f->hash);
    uint64_t stored;
    if (!get(f, &stored, sizeof stored)) return f->status;
    return stored == sum ? SG_OK : sg_fail(err, SG_E_FORMAT, "%s: is damaged", f->path);
}

sg_status sg_session_restore(sg_session *s, const char *path, sg_error *err) {
    if (!s || !path) return sg_fail(err, SG_E_ARG, "sg_session_restore: an argument is NULL");
    flow f;
    header h;
    sg_status status = begin(&f, path, err);
    if (status == SG_OK) status = read_header(s, &f, &h, err);
    if (status == SG_OK) { /* from here on what the session had is gone */
        s->n = 0;
        s->logits_rows = 0;
        (void)sg_past_go_to(&s->past, 0);
        status = read_rest(s, &f, &h, err);
        if (status == SG_OK) s->n = h.mark.n;
        else (void)sg_past_go_to(&s->past, 0);
    }
    end(&f);
    return status;
}
