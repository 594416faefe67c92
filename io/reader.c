#include "io/reader.h"

#include "io/input.h"
#include "io/reader_engine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sg_reader {
    const sg_reader_engine *engine;
    void *impl;
    sg_io_file *files;
    uint32_t n_files, cap_files;
};

/* ---- what engines call ------------------------------------------------------------------------------------------- */

bool sg_io_batch_next(sg_io_batch *b, sg_io_piece *out) {
    while (b->next_read < b->n && b->next_byte == b->reads[b->next_read].size) {
        b->next_read++;
        b->next_byte = 0;
    }
    if (b->next_read == b->n) return false;
    const sg_read *r = &b->reads[b->next_read];
    const uint64_t offset = r->offset + b->next_byte;
    const size_t to_boundary = SG_IO_PIECE - (size_t)(offset % SG_IO_PIECE), left = r->size - b->next_byte;
    *out = (sg_io_piece){
        .read = b->next_read,
        .fd = b->files[r->file].fd,
        .offset = offset,
        .dst = (char *)r->dst + b->next_byte,
        .size = left < to_boundary ? left : to_boundary,
    };
    b->next_byte += out->size;
    return true;
}

void sg_io_batch_fault(sg_io_batch *b, const sg_io_piece *at, int errno_value) {
    sg_io_fault *f = &b->fault;
    if (f->set && (f->at.read < at->read || (f->at.read == at->read && f->at.offset <= at->offset))) return;
    *f = (sg_io_fault){ .set = true, .at = *at, .errno_value = errno_value };
}

bool sg_io_batch_progress(const sg_io_batch *b, uint64_t done) {
    return !b->progress || b->progress(b->user, done, b->total);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

sg_status sg_reader_create(sg_io_engine engine, const sg_log *log, sg_reader **out, sg_error *err) {
    *out = NULL;
    if (engine == SG_IO_FAULT) engine = SG_IO_PREAD; /* faults are for what streams */
    if (engine != SG_IO_AUTO && engine != SG_IO_URING && engine != SG_IO_PREAD)
        return sg_fail(err, SG_E_ARG, "I/O engine %d does not exist", (int)engine);
    sg_reader *r = calloc(1, sizeof *r);
    if (!r) return sg_fail(err, SG_E_NOMEM, "out of memory for a file reader");

    r->engine = &sg_reader_pread;
    char why[256] = "";
    if (engine != SG_IO_PREAD && sg_reader_uring_probe(why, sizeof why)) {
        sg_error e;
        if (sg_reader_uring.create(&r->impl, &e) == SG_OK)
            r->engine = &sg_reader_uring;
        else
            memcpy(why, e.message, sizeof why - 1); /* `why` stays terminated: its last byte is zero */
    }
    if (r->engine == &sg_reader_pread) {
        const sg_status s = sg_reader_pread.create(&r->impl, err);
        if (s != SG_OK) {
            free(r);
            return s;
        }
    }
    if (*why)
        sg_log_line(log, engine == SG_IO_URING ? SG_LOG_WARN : SG_LOG_INFO, "reading with pread: io_uring: %s", why);
    else
        sg_log_line(log, SG_LOG_INFO, "reading with %s", r->engine->name);
    *out = r;
    return SG_OK;
}

void sg_reader_destroy(sg_reader **reader) {
    sg_reader *r = *reader;
    if (!r) return;
    r->engine->destroy(r->impl);
    for (uint32_t i = 0; i < r->n_files; i++) {
        close(r->files[i].fd);
        free(r->files[i].path);
    }
    free(r->files);
    free(r);
    *reader = NULL;
}

const char *sg_reader_engine_name(const sg_reader *r) { return r->engine->name; }

sg_status sg_reader_add_file(sg_reader *r, const char *path, uint32_t *file, sg_error *err) {
    if (r->n_files == r->cap_files) {
        const uint32_t cap = r->cap_files ? 2 * r->cap_files : 8;
        sg_io_file *p = realloc(r->files, cap * sizeof *p);
        if (!p) return sg_fail(err, SG_E_NOMEM, "%s: out of memory", path);
        r->files = p;
        r->cap_files = cap;
    }
    sg_io_file f = { .fd = -1, .path = strdup(path) };
    if (!f.path) return sg_fail(err, SG_E_NOMEM, "%s: out of memory", path);
    const sg_status s = sg_input_open(path, 0, &f.fd, err);
    if (s != SG_OK) {
        free(f.path);
        return s;
    }
    *file = r->n_files;
    r->files[r->n_files++] = f;
    return SG_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static sg_status fail_fault(const sg_io_batch *b, sg_error *err) {
    const sg_io_piece *at = &b->fault.at;
    const sg_read *r = &b->reads[at->read];
    const sg_io_file *f = &b->files[r->file];
    /* the piece that noticed the end of the file first need not be the one in which it ends */
    if (b->fault.errno_value == 0) return sg_input_truncated(f->fd, f->path, r->offset, r->size, at->offset, err);
    return sg_input_failed(f->path, at->offset, at->size, b->fault.errno_value, err);
}

sg_status sg_reader_read_all(sg_reader *r, const sg_read *reads, size_t n, sg_progress_fn progress, void *user,
                             sg_error *err) {
    sg_io_batch b = { .files = r->files, .reads = reads, .n = n, .progress = progress, .user = user };
    for (size_t i = 0; i < n; i++) {
        uint64_t end;
        if (reads[i].file >= r->n_files)
            return sg_fail(err, SG_E_ARG, "read %zu: file number %u was never added", i, reads[i].file);
        /* off_t is signed: what lies beyond cannot be asked for */
        if (__builtin_add_overflow(reads[i].offset, reads[i].size, &end) || end > INT64_MAX)
            return sg_fail(err, SG_E_ARG, "%s: %zu bytes at offset %" PRIu64 " lie beyond every file",
                           r->files[reads[i].file].path, reads[i].size, reads[i].offset);
        if (!reads[i].dst && reads[i].size) return sg_fail(err, SG_E_ARG, "read %zu has no destination", i);
        if (__builtin_add_overflow(b.total, reads[i].size, &b.total))
            return sg_fail(err, SG_E_ARG, "read %zu: the sum of all sizes overflows", i);
    }
    if (b.total == 0) return SG_OK;
    if (!sg_io_batch_progress(&b, 0)) return sg_fail(err, SG_E_CANCELLED, "reading was cancelled");
    const sg_status s = r->engine->run(r->impl, &b, err);
    if (b.fault.set) return fail_fault(&b, err);
    if (s == SG_E_CANCELLED) return sg_fail(err, s, "reading was cancelled");
    return s;
}
