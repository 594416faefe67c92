#include "runtime/base/team.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "runtime/base/cpu.h"

/* Spins of the barrier before a thread goes to sleep: about 20 us, longer than the skew of one matrix-vector product and
 * far shorter than a scheduler's time slice. */
#define SPINS 4000

struct sg_team {
    uint32_t n;
    int spins;
    cpu_set_t cores; /* that this process may use */
    bool pin;
    /* Sense-counting barrier: `round` grows by one each time all n threads have arrived. */
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_uint next; /* of the range that is being handed out */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

sg_status sg_team_create(uint32_t n_threads, sg_team **out, sg_error *err) {
    *out = NULL;
    if (n_threads < 1 || n_threads > SG_TEAM_MAX)
        return sg_fail(err, SG_E_ARG, "number of threads %u is not between 1 and %u", n_threads, SG_TEAM_MAX);
    sg_team *t = NULL;
    if (posix_memalign((void **)&t, 64, sizeof *t) != 0) return sg_fail(err, SG_E_NOMEM, "out of memory for the thread team");
    t->n = n_threads;
    t->pin = false;
    CPU_ZERO(&t->cores);
    (void)sched_getaffinity(0, sizeof t->cores, &t->cores); /* a machine with more cores than the set holds: no pinning */
    /* With more threads than cores, whoever is awaited may need the core of the one who spins. */
    t->spins = n_threads > sg_cpu_count() ? 0 : SPINS;
    atomic_init(&t->arrived, 0);
    atomic_init(&t->round, 0);
    atomic_init(&t->next, 0);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    *out = t;
    return SG_OK;
}

void sg_team_destroy(sg_team **t) {
    if (!*t) return;
    pthread_cond_destroy(&(*t)->wake);
    pthread_mutex_destroy(&(*t)->lock);
    free(*t);
    *t = NULL;
}

uint32_t sg_team_size(const sg_team *t) { return t->n; }

void sg_team_barrier(sg_team *t) {
    if (t->n == 1) {
        atomic_store_explicit(&t->next, 0, memory_order_relaxed);
        return;
    }
    const unsigned round = atomic_load_explicit(&t->round, memory_order_relaxed);
    /* Release: my writes are visible to whoever sees my arrival; acquire: the last one sees everybody's. */
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == t->n) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->next, 0, memory_order_relaxed);
        pthread_mutex_lock(&t->lock); /* a sleeper tests `round` under this lock, so no wake-up is lost */
        atomic_store_explicit(&t->round, round + 1, memory_order_release);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
        return;
    }
    for (int i = 0; i < t->spins; i++) {
        if (atomic_load_explicit(&t->round, memory_order_acquire) != round) return;
        sg_cpu_relax();
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->round, memory_order_acquire) == round) pthread_cond_wait(&t->wake, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* Guided self-scheduling (Polychronopoulos and Kuck 1987), with half of each thread's even share at a time. */
bool sg_team_take(sg_team *t, uint32_t total, uint32_t least, uint32_t *lo, uint32_t *hi) {
    unsigned at = atomic_load_explicit(&t->next, memory_order_relaxed), n;
    do {
        if (at >= total) return false;
        const unsigned rest = total - at, share = t->n == 1 ? rest : rest / (2 * t->n);
        n = share > least ? share : least < rest ? least : rest;
    } while (!atomic_compare_exchange_weak_explicit(&t->next, &at, at + n, memory_order_relaxed, memory_order_relaxed));
    *lo = at;
    *hi = at + n;
    return true;
}

bool sg_team_next(sg_team *t, uint32_t total, uint32_t *i) {
    unsigned at = atomic_load_explicit(&t->next, memory_order_relaxed);
    do {
        if (at >= total) return false;
    } while (!atomic_compare_exchange_weak_explicit(&t->next, &at, at + 1, memory_order_relaxed, memory_order_relaxed));
    *i = at;
    return true;
}

void sg_team_pin(sg_team *t, bool pin) { t->pin = pin && (uint32_t)CPU_COUNT(&t->cores) >= t->n; }

/* The core that this thread was pinned to, or -1. OpenMP's threads outlive a team and may serve an unpinned one next. */
static _Thread_local int pinned_to = -1;

static int core_of(const sg_team *t, uint32_t thread) {
    int cpu = 0;
    for (uint32_t seen = 0; seen <= thread && cpu < CPU_SETSIZE; cpu++) seen += CPU_ISSET(cpu, &t->cores) != 0;
    return cpu - 1;
}

static void place(const sg_team *t, uint32_t thread, bool pin) {
    const int core = pin ? core_of(t, thread) : -1;
    if (core == pinned_to) return;
    cpu_set_t set = t->cores;
    if (pin) {
        CPU_ZERO(&set);
        CPU_SET(core, &set);
    }
    if (sched_setaffinity(0, sizeof set, &set) == 0) pinned_to = core;
}

void sg_team_run(sg_team *t, void (*job)(void *arg, uint32_t thread), void *arg) {
    if (t->n == 1) {
        place(t, 0, t->pin);
        job(arg, 0);
        place(t, 0, false);
        return;
    }
    /* The runtime may give fewer threads than asked for (OMP_THREAD_LIMIT, a dynamic adjustment); the barriers inside the job
     * count on every one, so the team shrinks to what it got. */
#pragma omp parallel num_threads((int)t->n)
    {
#pragma omp master
        if ((uint32_t)omp_get_num_threads() < t->n) t->n = (uint32_t)omp_get_num_threads();
#pragma omp barrier
        const uint32_t thread = (uint32_t)omp_get_thread_num();
        place(t, thread, t->pin);
        job(arg, thread);
        if (thread == 0) place(t, thread, false);
    }
}
