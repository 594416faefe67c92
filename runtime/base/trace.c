#include "runtime/base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Lanes below this number get a name and a place in the picture. */
#define NAMED_LANES (2 * SG_TRACE_READS)

typedef struct span {
    const char *name;
    double begin, end;
    uint64_t arg;
    uint32_t lane;
    sg_trace_kind kind;
} span;

struct sg_trace {
    size_t cap;
    atomic_size_t n; /* spans asked for; those from `cap` on were left out */
    span spans[];
};

static const char *const kind_names[SG_TRACE_KINDS] = { "token", "step", "wait", "read", "prefetch" };
static const char *const arg_names[SG_TRACE_KINDS] = { "position", "layer", "layer", "bytes", "bytes" };

sg_trace *sg_trace_create(size_t events) {
    if (events > (SIZE_MAX - sizeof(sg_trace)) / sizeof(span)) return NULL;
    sg_trace *const t = malloc(sizeof *t + events * sizeof(span));
    if (!t) return NULL;
    t->cap = events;
    atomic_init(&t->n, 0);
    return t;
}

void sg_trace_destroy(sg_trace **t) {
    free(*t);
    *t = NULL;
}

size_t sg_trace_bytes(const sg_trace *t) { return t ? sizeof *t + t->cap * sizeof(span) : 0; }

void sg_trace_clear(sg_trace *t) {
    if (t) atomic_store(&t->n, 0);
}

double sg_trace_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

void sg_trace_add(sg_trace *t, sg_trace_kind kind, const char *name, uint32_t lane, double begin, double end, uint64_t arg) {
    if (!t) return;
    const size_t i = atomic_fetch_add_explicit(&t->n, 1, memory_order_relaxed);
    if (i < t->cap) t->spans[i] = (span){ name ? name : kind_names[kind], begin, end, arg, lane, kind };
}

/* Microseconds with three digits, in integers: the decimal point of printf depends on the locale. */
static void put_time(FILE *f, const char *key, double seconds) {
    const uint64_t ns = seconds > 0 ? (uint64_t)(seconds * 1e9 + 0.5) : 0;
    fprintf(f, "\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
}

static void put_name(FILE *f, const char *name) {
    fputs("\"name\":\"", f);
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') fputc('\\', f);
        if ((unsigned char)*name >= 0x20) fputc(*name, f);
    }
    fputc('"', f);
}

static void put_span(FILE *f, const span *e, double zero) {
    fputs(",\n{\"ph\":\"X\",\"pid\":1,", f);
    put_name(f, e->name);
    fprintf(f, ",\"cat\":\"%s\",\"tid\":%u,", kind_names[e->kind], e->lane);
    put_time(f, "ts", e->begin - zero);
    fputc(',', f);
    put_time(f, "dur", e->end - e->begin);
    fprintf(f, ",\"args\":{\"%s\":%" PRIu64 "}}", arg_names[e->kind], e->arg);
}

static void put_all(FILE *f, const sg_trace *t) {
    const size_t asked = atomic_load(&t->n), n = asked < t->cap ? asked : t->cap;
    bool seen[NAMED_LANES] = { false };
    double zero = n ? t->spans[0].begin : 0;
    for (size_t i = 0; i < n; i++) {
        if (t->spans[i].begin < zero) zero = t->spans[i].begin;
        if (t->spans[i].lane < NAMED_LANES) seen[t->spans[i].lane] = true;
    }
    fprintf(f, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"left_out\":%zu},\"traceEvents\":[\n", asked - n);
    fputs("{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"sparsegen\"}}", f);
    for (uint32_t lane = 0; lane < NAMED_LANES; lane++) {
        if (!seen[lane]) continue;
        const bool read = lane >= SG_TRACE_READS;
        fprintf(f, ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"%s %u\"}}", lane,
                read ? "read" : "thread", read ? lane - SG_TRACE_READS : lane);
        fprintf(f, ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":%u}}", lane, lane);
    }
    for (size_t i = 0; i < n; i++) put_span(f, &t->spans[i], zero);
    fputs("\n]}\n", f);
}

sg_status sg_trace_write(const sg_trace *t, const char *path, sg_error *err) {
    if (!t) return SG_OK;
    FILE *const f = fopen(path, "w");
    if (!f) return sg_fail(err, SG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    put_all(f, t);
    const bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) return sg_fail(err, SG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    return SG_OK;
}
