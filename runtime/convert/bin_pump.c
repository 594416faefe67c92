#include "runtime/convert/bin_pump.h"

#include <stdatomic.h>
#include <stdlib.h>

typedef struct failure {
    sg_error err; /* code SG_OK: none */
    uint32_t item;
} failure;

typedef struct batch {
    sg_bin_pump *p;
    sg_bin_make_fn make;
    void *arg;
    uint32_t first, n;
    size_t item_bytes;
    uint8_t *dst;              /* of the items; NULL: they write nothing */
    const uint8_t *ready;      /* the batch before, to be written */
    size_t ready_bytes;
    failure *failures;         /* [n_threads] */
    sg_error write_err;
    atomic_bool stop;
} batch;

size_t sg_bin_pump_bytes(const sg_bin_pump *p) {
    const size_t one = p->raw_bytes + p->n_values * sizeof(float) + p->packed_bytes;
    return 2 * p->buffer_bytes + p->n_threads * one;
}

sg_status sg_bin_pump_init(sg_bin_pump *p, sg_error *err) {
    SG_TRY(sg_team_create(p->n_threads, &p->team, err));
    p->n_threads = sg_team_size(p->team);
    bool ok = true;
    for (int i = 0; i < 2; i++) ok = (p->buffer[i] = sg_aligned_calloc(SG_BIN_ALIGNMENT, p->buffer_bytes, 1)) && ok;
    p->scratch = calloc(p->n_threads, sizeof *p->scratch);
    for (uint32_t t = 0; p->scratch && t < p->n_threads; t++) {
        sg_bin_scratch *s = &p->scratch[t];
        s->raw = sg_aligned_calloc(SG_CACHE_LINE, p->raw_bytes, 1);
        s->values = sg_aligned_calloc(SG_CACHE_LINE, p->n_values, sizeof(float));
        s->packed = sg_aligned_calloc(SG_CACHE_LINE, p->packed_bytes, 1);
        ok = ok && s->raw && s->values && s->packed;
    }
    return ok && p->scratch ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory for the buffers of the conversion", p->job->output);
}

void sg_bin_pump_finish(sg_bin_pump *p) {
    for (uint32_t t = 0; p->scratch && t < p->n_threads; t++) {
        free(p->scratch[t].raw);
        free(p->scratch[t].values);
        free(p->scratch[t].packed);
    }
    free(p->scratch);
    free(p->buffer[0]);
    free(p->buffer[1]);
    sg_team_destroy(&p->team);
    p->scratch = NULL;
    p->buffer[0] = p->buffer[1] = NULL;
}

sg_status sg_bin_pump_progress(const sg_bin_pump *p, uint64_t more, sg_error *err) {
    const sg_conv_job *job = p->job;
    if (!job->progress || job->progress(job->user, p->done + more, p->total)) return SG_OK;
    return sg_fail(err, SG_E_CANCELLED, "%s: the conversion was cancelled", job->output);
}

static sg_status write_ready(batch *b, sg_error *err) {
    if (b->ready_bytes == 0) return SG_OK;
    SG_TRY(sg_bin_writer_data(b->p->w, b->ready, b->ready_bytes, err));
    b->p->done += b->ready_bytes;
    return sg_bin_pump_progress(b->p, 0, err);
}

static void run_thread(void *arg, uint32_t thread) {
    batch *b = arg;
    if (thread == 0 && write_ready(b, &b->write_err) != SG_OK) atomic_store(&b->stop, true);
    uint32_t lo, hi;
    while (sg_team_take(b->p->team, b->n, 1, &lo, &hi)) {
        for (uint32_t i = lo; i < hi && !atomic_load(&b->stop); i++) {
            failure *f = &b->failures[thread];
            uint8_t *dst = b->dst ? b->dst + i * b->item_bytes : NULL;
            if (b->make(b->arg, &b->p->scratch[thread], b->first + i, dst, &f->err) == SG_OK) continue;
            f->item = i;
            atomic_store(&b->stop, true);
        }
    }
    sg_team_barrier(b->p->team); /* all is taken: the next run begins at the first item again */
}

/* A failure of writing first: it concerns what came before. */
static sg_status run(batch *b, sg_error *err) {
    const uint32_t n = b->p->n_threads;
    for (uint32_t t = 0; t < n; t++) b->failures[t] = (failure) { .item = UINT32_MAX };
    b->write_err.code = SG_OK;
    sg_team_run(b->p->team, run_thread, b);
    if (b->write_err.code != SG_OK) return sg_fail(err, b->write_err.code, "%s", b->write_err.message);
    const failure *worst = NULL;
    for (uint32_t t = 0; t < n; t++)
        if (b->failures[t].err.code != SG_OK && (!worst || b->failures[t].item < worst->item)) worst = &b->failures[t];
    return worst ? sg_fail(err, worst->err.code, "%s", worst->err.message) : SG_OK;
}

sg_status sg_bin_pump_write(sg_bin_pump *p, uint32_t first, uint32_t n, size_t item_bytes, size_t last_bytes, sg_bin_make_fn make,
                            void *arg, sg_error *err) {
    batch b = { .p = p, .make = make, .arg = arg, .item_bytes = item_bytes };
    b.failures = calloc(p->n_threads, sizeof *b.failures);
    if (!b.failures) return sg_fail(err, SG_E_NOMEM, "no memory to convert");
    const size_t fit = p->buffer_bytes / item_bytes;
    const uint32_t most = fit < n ? (uint32_t)fit : n;
    sg_status status = most ? SG_OK : sg_fail(err, SG_E_INTERNAL, "a piece of the output is larger than its buffer");
    uint32_t at = 0;
    for (int turn = 0; status == SG_OK && (at < n || b.ready_bytes > 0); turn ^= 1) {
        b.first = first + at;
        b.n = n - at < most ? n - at : most;
        b.dst = p->buffer[turn];
        status = run(&b, err);
        at += b.n;
        b.ready = b.dst;
        b.ready_bytes = b.n ? (b.n - 1) * item_bytes + (at == n ? last_bytes : item_bytes) : 0;
    }
    free(b.failures);
    return status;
}

sg_status sg_bin_pump_each(sg_bin_pump *p, uint32_t n, sg_bin_make_fn make, void *arg, sg_error *err) {
    batch b = { .p = p, .make = make, .arg = arg, .n = n };
    b.failures = calloc(p->n_threads, sizeof *b.failures);
    if (!b.failures) return sg_fail(err, SG_E_NOMEM, "no memory to convert");
    const sg_status status = run(&b, err);
    free(b.failures);
    return status;
}
