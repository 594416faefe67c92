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

/* Inside a job, between two barriers: the next piece [lo, hi) of the range [0, total) that nobody has taken yet; false when all
 * is taken. All threads give the same total. Pieces shrink from a share of the rest down to `least`, so a core that is slow, or
 * that somebody else uses, holds nobody up for longer than a small piece takes, and a fast one reads long stretches. */
bool sg_team_take(sg_team *t, uint32_t total, uint32_t least, uint32_t *lo, uint32_t *hi);

/* The same, one at a time and in order: what has to arrive in order is worked on as it arrives. */
bool sg_team_next(sg_team *t, uint32_t total, uint32_t *i);

/* Asks for each thread to stay on a core of its own while a job runs, the cores in the order in which the system offers them.
 * A hint: refused by the system, or with more threads than cores, it does nothing. The caller's thread is set back after. */
void sg_team_pin(sg_team *t, bool pin);

#endif
