/* A team of threads that walks one job together: an OpenMP parallel region plus a barrier that spins briefly, then sleeps
 * (OpenMP's own barriers spin for long, which on a busy or two-speed machine wastes the core that others wait for). */
#ifndef SG_BASE_TEAM_H
#define SG_BASE_TEAM_H

#include "runtime/base/error.h"

typedef struct sg_team sg_team;
#define SG_TEAM_MAX 1024u /* threads */

/* n_threads: 1 .. SG_TEAM_MAX. */
SG_NODISCARD sg_status sg_team_create(uint32_t n_threads, sg_team **out, sg_error *err);
void sg_team_destroy(sg_team **t);
uint32_t sg_team_size(const sg_team *t);

/* Runs job(arg, i) on threads i = 0 .. n-1 at the same time (0 is the caller) and returns when all have returned. One run at
 * a time per team. OpenMP may grant fewer threads than asked for; from then on the team has that many. */
void sg_team_run(sg_team *t, void (*job)(void *arg, uint32_t thread), void *arg);

/* Inside a job: returns when every thread of the team has called it; what was written before is visible after. */
void sg_team_barrier(sg_team *t);

/* Part `i` of `n` of the range [0, total) in steps of `step`: the same for every caller, contiguous, near equal. */
static inline void sg_share(uint32_t total, uint32_t step, uint32_t i, uint32_t n, uint32_t *lo, uint32_t *hi) {
    const uint64_t units = ((uint64_t)total + step - 1) / step;
    const uint64_t a = units * i / n * step, b = units * (i + 1) / n * step;
    *lo = (uint32_t)(a < total ? a : total);
    *hi = (uint32_t)(b < total ? b : total);
}

#endif
