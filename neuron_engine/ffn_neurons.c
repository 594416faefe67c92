/* A sparse layer that is not all in RAM, one token: neuron by neuron.
 *
 * The threads help themselves from one range: first the gates of all groups of clusters, then, group by group again, what had to be
 * read. Who finds missing neurons starts their reads at once and goes on with the next group, so reads of early groups run while the gates
 * of later ones are computed (the pipeline of PowerInfer-2, arXiv 2406.06282 section 4.3, with records that hold up and down row in the
 * place of its second and third step). The clusters come in the order in which they miss most: in a sorted file that is from the first ones
 * for which there are no slots on, and the hottest, which miss nothing, come last. */
#include <sched.h>
#include <string.h>

#include "neuron_engine/ffn_home.h"

/* Rows of a list. */
#define LIST 256u
/* A group that has been waiting for others' gates for so many looks lets others have the core. */
#define LOOKS 2000

/* One thread in one layer. */
typedef struct turn {
    sg_ffn *f;
    const sg_ffn_task *k;
    const sg_ffn_layer *l;
    sg_ffn_home *home;
    sg_ffn_store *store;
    uint32_t align;
} turn;

static uint32_t group_clusters(const sg_ffn *f, const sg_bundle_layout *l) {
    const uint32_t share = l->n_clusters / (4 * f->n_threads);
    return share < 1 ? 1 : share > SG_FFN_GROUP ? SG_FFN_GROUP : share;
}

/* ---- gates ---- */

/* The gates of clusters c0 .. c1 - 1. False when a read failed. */
static bool gates(turn *t, const sg_acts *seen, uint32_t c0, uint32_t c1) {
    sg_ffn *f = t->f;
    const sg_bundle_layout *l = &t->l->bundle.l;
    const uint32_t in_ram = c1 <= t->home->n_gates ? c1 : t->home->n_gates;
    bool good = true;
    for (uint32_t c = c0; c < c1; c++) f->places[c] = sg_ffn_home_place(t->home, l, c);
    if (c0 < in_ram) sg_ffn_gates(f, t->k, seen, c0, in_ram);
    for (uint32_t c = c0 > t->home->n_gates ? c0 : t->home->n_gates; c < c1; c++) {
        const uint32_t item = t->home->item + c - t->home->n_gates;
        f->places[c].gates = sg_ffn_get(f, t->store, t->k->unit, t->k->thread, item);
        if (f->places[c].gates) sg_ffn_gates(f, t->k, seen, c, c + 1);
        else good = false;
        sg_belt_release(t->store->belt, item);
    }
    return good;
}

/* ---- where live neurons are ---- */

typedef struct sorted {
    uint32_t ready[SG_FFN_GROUP * SG_CLUSTER_MAX], n_ready;   /* positions in the lists */
    sg_fetch *start[SG_FFN_GROUP * SG_CLUSTER_MAX];
    uint32_t n_start, hot;
} sorted;

/* One live neuron, of which there is none in the hot clusters. */
static void find_cold(turn *t, uint32_t p, uint32_t place, sorted *out, uint32_t *pending) {
    sg_ffn *f = t->f;
    sg_ffn_home *home = t->home;
    sg_ffn_store *s = t->store;
    const sg_bundle_layout *l = &t->l->bundle.l;
    uint32_t slot = sg_neuron_cache_find(&home->cache, place);
    sg_fetch *fetch = NULL;
    if (slot != SG_SLOT_NONE) {
        sg_neuron_cache_use(&home->cache, slot, s->run);
        const uint32_t flight = home->cache.flight[slot];
        if (flight == 0) s->finds.cold++;
        else fetch = &s->fetches[flight];
        const sg_fetch_state state = fetch ? sg_fetch_get(fetch) : SG_FETCH_DONE;
        if (state == SG_FETCH_DROPPED || state == SG_FETCH_FAILED) {
            out->start[out->n_start++] = fetch;
            s->finds.missed++;
        } else if (fetch) {
            *(state == SG_FETCH_DONE ? &s->finds.ahead : &s->finds.late) += 1;
            if (state == SG_FETCH_QUEUED) sg_stream_promote(s->stream, fetch);
        }
        if (state == SG_FETCH_DONE) fetch = NULL;
    } else {
        if (s->n_spare > 0) slot = sg_neuron_cache_take(&home->cache, place, s->run, true);
        if (slot == SG_SLOT_NONE) {
            s->finds.passed++;
        } else {
            fetch = &s->fetches[sg_ffn_store_fetch(s, home, l, place, slot)];
            out->start[out->n_start++] = fetch;
            s->finds.missed++;
        }
    }
    f->wait_for[p] = fetch;
    f->up_at[p] = slot == SG_SLOT_NONE ? SG_AWAY : sg_ffn_slot_at(home, l, place, slot, t->align);
    f->down_at[p] = slot == SG_SLOT_NONE ? SG_AWAY : f->up_at[p] + (uint32_t)l->up_row;
    if (fetch || slot == SG_SLOT_NONE) f->pending[(*pending)++] = p;
    else out->ready[out->n_ready++] = p;
}

/* The live neurons of clusters c0 .. c1 - 1: which are there, which are awaited (f->pending, from the first position of c0 on). */
static uint32_t find(turn *t, uint32_t c0, uint32_t c1, sorted *out) {
    sg_ffn *f = t->f;
    const sg_bundle_layout *l = &t->l->bundle.l;
    const uint32_t first = c0 * l->per_cluster;
    uint32_t pending = first;
    out->n_ready = out->n_start = out->hot = 0;
    sg_stream_poll(t->store->stream);
    pthread_mutex_lock(&t->store->lock);
    for (uint32_t c = c0; c < c1; c++) {
        const sg_cluster_place *place = &f->places[c];
        for (uint32_t i = 0; i < f->live[c]; i++) {
            const uint32_t p = c * l->per_cluster + i;
            if (c >= t->home->n_hot) {
                find_cold(t, p, c * l->per_cluster + f->at[p], out, &pending);
                continue;
            }
            f->up_at[p] = place->ups + f->at[p] * place->up_stride;
            f->down_at[p] = place->downs + f->at[p] * place->down_stride;
            out->ready[out->n_ready++] = p;
            out->hot++;
        }
    }
    t->store->finds.hot += out->hot;
    pthread_mutex_unlock(&t->store->lock);
    if (out->n_start > 0) sg_stream_submit(t->store->stream, out->start, out->n_start, false);
    return pending - first;
}

/* ---- up products ---- */

/* u and the largest scale of the down row for the positions of a list, rows from `base`. */
static void ups(turn *t, const uint8_t *base, const uint32_t *list, uint32_t n) {
    sg_ffn *f = t->f;
    const sg_bundle *b = &t->l->bundle;
    uint32_t rows[LIST];
    float u[LIST];
    for (uint32_t from = 0; from < n; from += LIST) {
        const uint32_t m = n - from < LIST ? n - from : LIST;
        for (uint32_t i = 0; i < m; i++) rows[i] = f->up_at[list[from + i]];
        if (b->l.gated) sg_lane_dot(b->up, u, base, 1, rows, m, &f->x, 0);
        for (uint32_t i = 0; i < m; i++) {
            const uint32_t p = list[from + i];
            if (b->l.gated) f->u[p] = u[i];
            f->row_max[p] = b->down->down_max(base + f->down_at[p], b->l.k);
        }
    }
    if (b->l.gated) sg_ffn_counts(f, t->k)->ups += n;
}

/* Waits for the reads of pending neurons and computes their up products as they arrive. False when a read failed. */
static bool await(turn *t, uint32_t *pending, uint32_t n) {
    sg_ffn *f = t->f;
    bool good = true;
    double begin = 0;
    while (n > 0) {
        uint32_t there[LIST], m = 0, left = 0;
        const uint32_t seen = sg_stream_count(t->store->stream);
        for (uint32_t i = 0; i < n; i++) {
            if (!f->wait_for[pending[i]]) continue; /* without a slot: pass_ups reads it */
            const sg_fetch_state s = sg_fetch_get(f->wait_for[pending[i]]);
            if (s == SG_FETCH_DONE && m < LIST) there[m++] = pending[i];
            else if (s == SG_FETCH_FAILED) good = false;
            else pending[left++] = pending[i];
        }
        n = left;
        if (m > 0) {
            if (begin != 0) sg_ffn_waited(f, t->store, t->k->unit, t->k->thread, begin);
            begin = 0;
            ups(t, t->home->arena, there, m);
        } else if (n > 0) {
            if (begin == 0) begin = sg_trace_now();
            sg_stream_wait_news(t->store->stream, seen);
        }
    }
    if (begin != 0) sg_ffn_waited(f, t->store, t->k->unit, t->k->thread, begin);
    return good;
}

/* ---- neurons for which there is no slot ---- */

/* Reads the records of n <= SG_FFN_PASS places into the thread's own buffer; at[i]: where record i is in it. */
static bool pass(turn *t, const uint32_t *places, uint32_t n, uint32_t *at) {
    const sg_bundle_layout *l = &t->l->bundle.l;
    sg_fetch fetches[SG_FFN_PASS], *list[SG_FFN_PASS] = { NULL };
    bool good = true;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t from = sg_ffn_record_offset(t->home, l, places[i]);
        const size_t room = i * t->home->slot_bytes;
        fetches[i] = (sg_fetch) { .offset = from, .dst = t->f->pass + t->k->thread * t->f->pass_bytes + room, .size = (uint32_t)l->record,
                                  .file = t->home->file };
        at[i] = (uint32_t)(room + from % t->align);
        list[i] = &fetches[i];
    }
    sg_stream_submit(t->store->stream, list, n, false);
    const double begin = sg_trace_now();
    for (uint32_t i = 0; i < n; i++) {
        sg_stream_wait(t->store->stream, list[i]);
        good = good && sg_fetch_get(list[i]) == SG_FETCH_DONE;
    }
    sg_ffn_waited(t->f, t->store, t->k->unit, t->k->thread, begin);
    return good;
}

/* The positions of a group that have no slot, some at a time, from *from on; 0: no more. */
static uint32_t next_passed(const turn *t, uint32_t c0, uint32_t c1, uint32_t *c, uint32_t *i, uint32_t positions[SG_FFN_PASS], const uint32_t *mark) {
    uint32_t n = 0;
    for (; *c < c1; ++*c, *i = 0)
        for (; *i < t->f->live[*c]; ++*i) {
            const uint32_t p = *c * t->l->bundle.l.per_cluster + *i;
            if (n == SG_FFN_PASS) return n;
            if (mark[p] == SG_AWAY) positions[n++] = p;
        }
    return n;
}

static bool pass_ups(turn *t, uint32_t c0, uint32_t c1) {
    sg_ffn *f = t->f;
    const uint32_t per = t->l->bundle.l.per_cluster;
    uint32_t c = c0, i = 0, n, list[SG_FFN_PASS], places[SG_FFN_PASS], at[SG_FFN_PASS];
    while ((n = next_passed(t, c0, c1, &c, &i, list, f->up_at)) > 0) {
        for (uint32_t j = 0; j < n; j++) places[j] = list[j] / per * per + f->at[list[j]];
        if (!pass(t, places, n, at)) return false;
        for (uint32_t j = 0; j < n; j++) {
            f->up_at[list[j]] = at[j];
            f->down_at[list[j]] = at[j] + (uint32_t)t->l->bundle.l.up_row;
        }
        ups(t, f->pass + t->k->thread * f->pass_bytes, list, n);
        for (uint32_t j = 0; j < n; j++) f->down_at[list[j]] = SG_AWAY;
    }
    return true;
}

/* Their down rows, into the thread's sum. */
static bool pass_downs(turn *t, uint32_t c0, uint32_t c1) {
    sg_ffn *f = t->f;
    const sg_bundle *b = &t->l->bundle;
    uint32_t c = c0, i = 0, n, list[SG_FFN_PASS], places[SG_FFN_PASS], at[SG_FFN_PASS];
    float hs[SG_FFN_PASS];
    while ((n = next_passed(t, c0, c1, &c, &i, list, f->at)) > 0) {
        for (uint32_t j = 0; j < n; j++) places[j] = f->down_at[list[j]]; /* sg_ffn_finish left the place there */
        if (!pass(t, places, n, at)) return false;
        for (uint32_t j = 0; j < n; j++) {
            at[j] += (uint32_t)b->l.up_row;
            hs[j] = f->h[list[j]] * f->unit[0];
        }
        if (f->unit[0] > 0) b->down->down_add(f->sums + t->k->thread * f->sum_words, f->pass + t->k->thread * f->pass_bytes, 1, at, hs, n, b->l.k);
    }
    return true;
}

/* ---- a layer ---- */

/* First visit of a group: gates (unless they are there), reads, what can be computed now. */
static void first_visit(turn *t, const sg_acts *seen, bool with_gates, uint32_t g, uint32_t c0, uint32_t c1) {
    sg_ffn *f = t->f;
    sorted found;
    uint32_t state = SG_FFN_GROUP_DONE;
    f->n_pending[g] = 0;
    if (with_gates && !gates(t, seen, c0, c1)) {
        for (uint32_t c = c0; c < c1; c++) f->live[c] = 0;
        state = SG_FFN_GROUP_BROKEN;
    } else {
        for (uint32_t c = c0; c < c1; c++) sg_ffn_choose(f, t->k, 0, c);
        f->n_pending[g] = find(t, c0, c1, &found);
        ups(t, t->home->arena, found.ready, found.n_ready);
        if (f->n_pending[g] > 0) state = SG_FFN_GROUP_OPEN;
        else for (uint32_t c = c0; c < c1; c++) sg_ffn_finish_found(f, t->k, c);
    }
    atomic_store_explicit(&f->group_state[g], state, memory_order_release);
}

/* Second visit: what had to be read. */
static void second_visit(turn *t, uint32_t g, uint32_t c0, uint32_t c1) {
    sg_ffn *f = t->f;
    uint32_t state;
    for (int looks = 0; (state = atomic_load_explicit(&f->group_state[g], memory_order_acquire)) == SG_FFN_GROUP_NEW; looks++)
        if (looks > LOOKS) sched_yield();
    if (state != SG_FFN_GROUP_OPEN) return;
    bool good = await(t, f->pending + c0 * t->l->bundle.l.per_cluster, f->n_pending[g]);
    good = good && pass_ups(t, c0, c1);
    for (uint32_t c = c0; c < c1; c++) {
        if (good) sg_ffn_finish_found(f, t->k, c);
        else f->live[c] = 0; /* the run ends with an error, see sg_stream_failure */
    }
}

void sg_ffn_run_neurons(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const sg_acts *seen, const float *residual, float *y, size_t ldy,
                        sg_team *team) {
    const sg_ffn_layer *l = k->l;
    const uint32_t thread = k->thread;
    turn t = { f, k, l, l->home, l->home->store, sg_stream_align(l->home->store->stream) };
    const uint32_t n = l->bundle.l.n_clusters, per = group_clusters(f, &l->bundle.l), groups = (n + per - 1) / per;
    const uint32_t begin = sg_ffn_first_cluster(l->home, &l->bundle.l) / per;
    const uint64_t passed = t.store->finds.passed; /* nobody looks for neurons before the barrier */
    uint32_t i;
    for (uint32_t g = 0; thread == 0 && g < groups; g++) atomic_store_explicit(&f->group_state[g], SG_FFN_GROUP_NEW, memory_order_relaxed);
    sg_team_barrier(team);
    const bool top_k = f->policy.top_k > 0, gates_first = top_k || t.store->no_pipeline;
    if (gates_first) {
        while (sg_team_next(team, groups, &i)) {
            const uint32_t g = (begin + i) % groups;
            if (!gates(&t, seen, g * per, (g + 1) * per < n ? (g + 1) * per : n)) memset(f->gate, 0, n * l->bundle.l.per_cluster * sizeof *f->gate);
        }
        sg_team_barrier(team);
        if (top_k) sg_ffn_top_k(f, k, team);
    }
    while (sg_team_next(team, t.store->no_pipeline ? groups : 2 * groups, &i)) {
        const uint32_t g = (begin + i) % groups, c0 = g * per, c1 = c0 + per < n ? c0 + per : n;
        if (i < groups) first_visit(&t, seen, !gates_first, g, c0, c1);
        if (i >= groups || t.store->no_pipeline) second_visit(&t, g, c0, c1);
    }
    sg_team_barrier(team);
    if (thread == 0) { /* what was predicted and not needed; not before the barrier, since somebody may just be about to wait for it */
        sg_stream_drop(t.store->stream);
        sg_belt_renew(t.store->belt);
        pthread_mutex_lock(&t.store->lock);
        sg_ffn_store_sweep(t.store);
        pthread_mutex_unlock(&t.store->lock);
    }
    sg_ffn_observe(f, k, x, residual, team);
    sg_ffn_down_begin(f, k, team);
    sg_ffn_down_clusters(f, k, 0, n, y, ldy, team);
    if (t.store->finds.passed != passed) {
        sg_team_barrier(team);
        while (sg_team_next(team, groups, &i)) {
            const uint32_t c0 = i * per, c1 = c0 + per < n ? c0 + per : n;
            if (!pass_downs(&t, c0, c1)) break;
        }
    }
    sg_ffn_down_end(f, k, y, ldy, team);
}

/* ---- looking ahead ---- */

void sg_ffn_look_ahead(sg_ffn *f, uint32_t layer, const sg_acts *x, float cut, sg_team *team, uint32_t thread) {
    const sg_ffn_layer *l = &f->layers[layer];
    const sg_bundle_layout *lay = &l->bundle.l;
    sg_ffn_home *home = l->home;
    sg_ffn_store *s = home->store;
    const sg_acts *seen = sg_ffn_project(f, l, x, x->x, team, thread);
    uint32_t c;
    while (sg_team_next(team, lay->n_clusters - home->n_hot, &c)) {
        const uint32_t first = (home->n_hot + c) * lay->per_cluster;
        const uint32_t n = lay->n_neurons - first < lay->per_cluster ? lay->n_neurons - first : lay->per_cluster;
        float scores[SG_CLUSTER_MAX];
        sg_fetch *start[SG_CLUSTER_MAX];
        uint32_t n_start = 0;
        sg_acts z = sg_acts_rows(&f->z, 0, 1);
        z.k = l->predictor.rank;
        z.n_blocks = z.k / 32;
        sg_predictor_scores(&l->predictor, seen, &z, scores, first, first + n);
        pthread_mutex_lock(&s->lock);
        for (uint32_t i = 0; i < n; i++) {
            if (!(scores[i] > cut) || sg_neuron_cache_find(&home->cache, first + i) != SG_SLOT_NONE || s->n_spare <= s->n_fetches / 2) continue;
            const uint32_t slot = sg_neuron_cache_take(&home->cache, first + i, s->run, false);
            if (slot == SG_SLOT_NONE) continue;
            start[n_start++] = &s->fetches[sg_ffn_store_fetch(s, home, lay, first + i, slot)];
        }
        s->finds.predicted += n_start;
        pthread_mutex_unlock(&s->lock);
        if (n_start > 0) sg_stream_submit(s->stream, start, n_start, true);
    }
}
