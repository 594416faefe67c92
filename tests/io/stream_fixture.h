/* Files with known bytes, and fetches with room around their destinations, for the tests of streams. */
#ifndef SG_TESTS_IO_STREAM_FIXTURE_H
#define SG_TESTS_IO_STREAM_FIXTURE_H

#include "io/stream.h"

#include "tests/io/expect.h"
#include "tests/io/temp.h"

#include <check.h>

#define GUARD 0x5a

static inline uint8_t byte_at(uint32_t file, uint64_t offset) { return (uint8_t)((offset * 2654435761u >> 13) ^ file * 37); }

static inline uint64_t rnd(uint64_t *state) { /* xorshift64, Marsaglia 2003 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static inline void make_file(const char *path, uint32_t file, size_t size) {
    uint8_t *bytes = malloc(size + 1);
    for (size_t i = 0; i < size; i++) bytes[i] = byte_at(file, i);
    ck_assert(temp_write(path, bytes, size));
    free(bytes);
}

static inline uint64_t round_down(uint64_t n, uint64_t align) { return n / align * align; }
static inline uint64_t round_up(uint64_t n, uint64_t align) { return round_down(n + align - 1, align); }

/* A fetch whose destination has a block of GUARD on both sides; `offset` differs from a whole block as it likes. */
static inline sg_fetch make_fetch(const sg_stream *s, uint32_t file, uint64_t offset, size_t size) {
    const uint64_t align = sg_stream_align(s), at = round_down(offset, align);
    const size_t room = (size_t)(round_up(offset + size, align) - at);
    uint8_t *p = NULL;
    ck_assert_int_eq(posix_memalign((void **)&p, SG_STREAM_BLOCK, room + 2 * SG_STREAM_BLOCK), 0);
    memset(p, GUARD, room + 2 * SG_STREAM_BLOCK);
    return (sg_fetch){ .file = file, .offset = offset, .size = (uint32_t)size, .dst = p + SG_STREAM_BLOCK };
}

static inline void free_fetch(sg_fetch *f) {
    free((uint8_t *)f->dst - SG_STREAM_BLOCK);
    f->dst = NULL;
}

/* The wanted bytes are there, and nothing outside the rounded range was touched. */
static inline void check_fetch(const sg_stream *s, const sg_fetch *f) {
    const uint64_t align = sg_stream_align(s), at = round_down(f->offset, align), end = round_up(f->offset + f->size, align);
    ck_assert_int_eq(sg_fetch_get(f), SG_FETCH_DONE);
    const uint8_t *p = f->dst;
    for (uint32_t i = 0; i < f->size; i++)
        if (p[f->offset - at + i] != byte_at(f->file, f->offset + i))
            ck_abort_msg("file %u: byte %u of %u at offset %llu is wrong", f->file, i, f->size, (unsigned long long)f->offset);
    for (uint32_t i = 1; i <= 64; i++)
        if (p[-(int)i] != GUARD || p[end - at + i - 1] != GUARD)
            ck_abort_msg("%u bytes at offset %llu: something was written outside", f->size, (unsigned long long)f->offset);
}

static inline void submit_one(sg_stream *s, sg_fetch *f, bool prefetch) { sg_stream_submit(s, &f, 1, prefetch); }

/* Submits n fetches of an array with one call. */
static inline void submit_all(sg_stream *s, sg_fetch *f, size_t n, bool prefetch) {
    sg_fetch **list = malloc(n * sizeof *list);
    for (size_t i = 0; i < n; i++) list[i] = &f[i];
    sg_stream_submit(s, list, n, prefetch);
    free(list);
}

#endif
