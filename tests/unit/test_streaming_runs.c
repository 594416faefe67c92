/* Runs of a model that is not all in RAM, from several threads: the same bits, and a read that fails between two runs never gives a run
 * that succeeds with a piece missing. Linked with --wrap, so that reads can be held up and what happens in which order be seen. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "io/stream_engine.h"
#include "runtime/model.h"
#include "runtime/streaming.h"
#include "tests/io/expect.h"
#include "tests/io/temp.h"

/* ---- reads that are held up -------------------------------------------------------------------------------------- */

ssize_t __real_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset);

#define SEEN 65536u
#define LEAST 4096u /* a neuron's record is smaller, and may be read twice in a run */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static bool holding;        /* pieces of the belt that were read before, which are read ahead for the next run, are held */
static off_t seen[SEEN];
static unsigned n_seen, held;
static off_t dead;          /* this held read fails, again and again; -1: none was chosen */

static bool seen_before(off_t offset) {
    for (unsigned i = 0; i < n_seen; i++)
        if (seen[i] == offset) return true;
    ck_assert_uint_lt(n_seen, SEEN);
    seen[n_seen++] = offset;
    return false;
}

ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset) {
    pthread_mutex_lock(&lock);
    if (holding && p->iov_len >= LEAST && seen_before(offset)) {
        if (dead < 0) dead = offset;
        held++;
        pthread_cond_broadcast(&moved);
        while (holding) pthread_cond_wait(&moved, &lock);
        held--;
    }
    const bool fails = dead == offset;
    pthread_mutex_unlock(&lock);
    if (!fails) return __real_preadv(fd, p, n, offset);
    errno = EIO;
    return -1;
}

ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset) { return __wrap_preadv(fd, p, n, offset); }

/* ---- what a run does about a failure ----------------------------------------------------------------------------- */

void __real_sg_stream_recover(sg_stream *s);
void __wrap_sg_stream_recover(sg_stream *s);

static atomic_uint recoveries, too_early;

void __wrap_sg_stream_recover(sg_stream *s) {
    const uint32_t before = sg_stream_count(s);
    const sg_stream_counts c = sg_stream_get_counts(s);
    /* every fetch that was started or dropped has ended when nothing is under way */
    if (c.demand_fetches + c.prefetch_fetches + c.dropped > before) atomic_fetch_add(&too_early, 1);
    atomic_fetch_add(&recoveries, 1);
    __real_sg_stream_recover(s);
}

/* ---- a model ----------------------------------------------------------------------------------------------------- */

static temp_dir dir;
static char bin[600];

static void setup(void) {
    temp_open(&dir);
    snprintf(bin, sizeof bin, "%s/m.bin", dir.path);
    char source[1024];
    snprintf(source, sizeof source, "%s/models/demo/stories-drelu-5M.gguf", getenv("SG_SOURCE_ROOT"));
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = source;
    o.output = bin;
    o.cluster = 32; /* many in a layer */
    ok(sg_convert(&o, err));
    holding = false;
    n_seen = held = 0;
    dead = -1;
    atomic_store(&recoveries, 0);
    atomic_store(&too_early, 0);
}

static void teardown(void) { temp_close(&dir); }

/* As little of it in RAM as possible, and `above` bytes; with everything when above is 0. */
static sg_model *open_model(sg_io_engine io, const sg_session_options *so, uint64_t above) {
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    sg_model *m = NULL;
    o.io = io;
    o.session = so;
    o.faults = "seed=3,delay=30,reorder=6,short=15,eio=5";
    double floor = 0;
    for (int i = 0; above > 0 && i < 8 && !m; i++) { /* the floor holds memory that is measured */
        o.ram = 1 + (uint64_t)(floor * (1 << 20)) + (i > 0 ? above : 0);
        sg_error refused;
        if (sg_model_open(bin, &o, &m, &refused) == SG_OK) break;
        const char *at = strstr(refused.message, "at least ");
        ck_assert_msg(at != NULL, "%s", refused.message);
        floor = strtod(at + 9, NULL);
    }
    if (above == 0) ok(sg_model_open(bin, &o, &m, err));
    ck_assert_ptr_nonnull(m);
    ck_assert_int_eq(m->weights.streaming != NULL, above > 0);
    return m;
}

static sg_session *open_session(sg_model *m, const sg_session_options *so) {
    sg_session *s = NULL;
    ok(sg_session_create(m, so, &s, err));
    return s;
}

static const int32_t tokens[] = { 1, 400, 37, 512, 260, 999, 12, 71, 305, 44 };
#define N (sizeof tokens / sizeof *tokens)

static sg_session_options session_options(uint32_t threads, uint32_t batch) {
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    so.n_ctx = 64;
    so.n_threads = threads;
    so.n_batch = batch;
    return so;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

/* Values as a bias of every layer. */
static float bias[3][1024];

static void add_biases(sg_model *m) {
    for (uint32_t i = 0; i < m->desc.hp.n_layer; i++) {
        sg_ffn_layer *l = &m->weights.ffn[i];
        ck_assert(l->bundle.l.n_neurons <= 1024 && l->bundle.l.k <= 1024);
        l->gate_bias = bias[0];
        l->up_bias = bias[1];
        l->down_bias = bias[2];
    }
}

/* Biases of neurons and outputs, which files of this kind do not have. */
START_TEST(same_bits_with_biases) {
    const sg_session_options so = session_options(2, _i ? 16 : 1);
    sg_model *whole = open_model(SG_IO_AUTO, &so, 0), *part = open_model(SG_IO_PREAD, &so, (uint64_t)200 << 10);
    const size_t bytes = N * sg_model_get_info(whole)->n_vocab * sizeof(float);
    for (uint32_t i = 0; i < 3 * 1024; i++) bias[i / 1024][i % 1024] = (float)(i * 37 % 255) / 255 - 0.5f;
    sg_session *plain = open_session(whole, &so);
    ok(sg_session_feed(plain, tokens, N, N, err));
    float *was = malloc(bytes);
    memcpy(was, sg_session_logits(plain, 0), bytes);
    sg_session_destroy(&plain);
    add_biases(whole);
    add_biases(part);
    sg_session *a = open_session(whole, &so), *b = open_session(part, &so);
    ok(sg_session_feed(a, tokens, N, N, err));
    ok(sg_session_feed(b, tokens, N, N, err));
    ck_assert(memcmp(sg_session_logits(a, 0), was, bytes) != 0);
    ck_assert(memcmp(sg_session_logits(a, 0), sg_session_logits(b, 0), bytes) == 0);
    free(was);
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&whole);
    sg_model_close(&part);
}
END_TEST

/* Loop variable: threads, batch and engine. */
START_TEST(same_bits) {
    const uint32_t threads = 1 + (uint32_t)_i % 3, batch = _i / 3 % 2 ? 16 : 1;
    const sg_session_options so = session_options(threads, batch);
    sg_model *whole = open_model(SG_IO_AUTO, &so, 0), *part = open_model(_i / 6 ? SG_IO_FAULT : SG_IO_PREAD, &so, (uint64_t)200 << 10);
    sg_session *a = open_session(whole, &so), *b = open_session(part, &so);
    const size_t bytes = N * sg_model_get_info(whole)->n_vocab * sizeof(float);
    for (int i = 0; i < 3; i++) {
        ok(sg_session_feed(a, tokens, N, N, err));
        ok(sg_session_feed(b, tokens, N, N, err));
        ck_assert(memcmp(sg_session_logits(a, 0), sg_session_logits(b, 0), bytes) == 0);
    }
    sg_session_destroy(&a);
    sg_session_destroy(&b);
    sg_model_close(&whole);
    sg_model_close(&part);
}
END_TEST

typedef struct feeding {
    sg_session *s;
    sg_status status;
    sg_error err;
    atomic_bool done;
} feeding;

static void *feed(void *arg) {
    feeding *f = arg;
    f->status = sg_session_feed(f->s, &tokens[1], 1, 1, &f->err);
    atomic_store(&f->done, true);
    return NULL;
}

/* Two reads ahead are held until the run that started them is over. One fails, the other is still under way when the next run begins. */
START_TEST(failure_between_runs) {
    const sg_session_options so = session_options(2, 1);
    sg_model *m = open_model(SG_IO_PREAD, &so, (uint64_t)200 << 10);
    sg_session *s = open_session(m, &so);
    sg_stream *stream = m->weights.streaming->stream;
    pthread_mutex_lock(&lock);
    holding = true;
    pthread_mutex_unlock(&lock);
    ok(sg_session_feed(s, tokens, 1, 1, err));
    pthread_mutex_lock(&lock);
    while (held < 2) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
    /* as if the one had failed: the others are under way */
    pthread_mutex_lock(&stream->lock);
    sg_fail(&stream->failure, SG_E_IO, "a read that failed between the runs");
    pthread_mutex_unlock(&stream->lock);

    feeding f = { .s = s };
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, feed, &f), 0);
    /* It must wait for them. What would be wrong, forgetting at once, happens within these looks. */
    for (int i = 0; i < 20000 && atomic_load(&recoveries) == 0; i++) sched_yield();
    ck_assert_uint_eq(atomic_load(&recoveries), 0);
    pthread_mutex_lock(&lock);
    holding = false; /* the first of them fails now */
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(atomic_load(&recoveries), 1);
    ck_assert_uint_eq(atomic_load(&too_early), 0);
    ck_assert_int_eq(f.status, SG_E_IO); /* it is needed, and dead */

    dead = -1; /* the drive is well again: so is the next run */
    sg_model *whole = open_model(SG_IO_AUTO, &so, 0);
    sg_session *right = open_session(whole, &so);
    ok(sg_session_feed(right, tokens, 1, 1, err));
    ok(sg_session_feed(right, &tokens[1], 1, 1, err));
    ok(sg_session_feed(s, &tokens[1], 1, 1, err));
    ck_assert(memcmp(sg_session_logits(s, 0), sg_session_logits(right, 0), sg_model_get_info(m)->n_vocab * sizeof(float)) == 0);
    sg_session_destroy(&s);
    sg_session_destroy(&right);
    sg_model_close(&m);
    sg_model_close(&whole);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("streaming_runs");
    TCase *tc = tcase_create("runs");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 200);
    tcase_add_loop_test(tc, same_bits, 0, 12);
    tcase_add_loop_test(tc, same_bits_with_biases, 0, 2);
    tcase_add_test(tc, failure_between_runs);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
