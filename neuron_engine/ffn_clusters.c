/* A layer that is not all in RAM, cluster by cluster: prompts, and layers that leave nothing out. */
#include "neuron_engine/ffn_home.h"

/* A thread in one layer. */
typedef struct turn {
    sg_ffn *f;
    const sg_ffn_task *k;
    const sg_ffn_layer *l;
    sg_ffn_home *home;
    sg_belt *belt;
} turn;

static const uint8_t *get(turn *t, uint32_t item) { return sg_ffn_get(t->f, t->home->store, t->k->unit, t->k->thread, item); }

/* Records as they lie in the file; base: what down rows count from. */
static sg_cluster_place in_file_form(const sg_bundle_layout *l, const uint8_t *gates, const uint8_t *base, const uint8_t *records) {
    const uint32_t at = (uint32_t)(records - base);
    return (sg_cluster_place) { gates, base, at, at + (uint32_t)l->up_row, (uint32_t)l->record, (uint32_t)l->record };
}

/* Gets cluster c and says where it is. Held until the down sums, it counts from the belt's memory, so that lists may go over several
 * clusters; else from its own beginning, so that the numbers hold when it comes again. */
static bool fetch(turn *t, uint32_t c) {
    const sg_bundle_layout *l = &t->l->bundle.l;
    const sg_ffn_home *home = t->home;
    const sg_cluster_place in_arena = sg_ffn_home_place(home, l, c);
    if (c < home->n_hot) {
        t->f->places[c] = in_arena;
        return true;
    }
    const uint8_t *data = get(t, home->whole_item + c - home->n_hot);
    if (!data) return false;
    const uint8_t *records = c < home->n_gates ? data : data + l->records_at;
    t->f->places[c] = in_file_form(l, c < home->n_gates ? in_arena.gates : data, home->round ? records : home->store->belt_memory, records);
    return true;
}

static void release(turn *t, uint32_t first, uint32_t from, uint32_t to) {
    for (uint32_t c = from; c < to; c++) sg_belt_release(t->belt, first + c - t->home->n_hot);
}

/* The clusters come again for the down sums, as many as the belt holds at a time. */
static void downs_again(turn *t, float *y, size_t ldy, sg_team *team) {
    const sg_bundle_layout *l = &t->l->bundle.l;
    sg_ffn_down_clusters(t->f, t->k, 0, t->home->n_hot, y, ldy, team);
    for (uint32_t c0 = t->home->n_hot; c0 < l->n_clusters; c0 += t->home->round) {
        const uint32_t c1 = l->n_clusters - c0 < t->home->round ? l->n_clusters : c0 + t->home->round;
        sg_team_barrier(team);
        for (uint32_t c = c0; t->k->thread == 0 && c < c1; c++) {
            const uint8_t *records = get(t, t->home->again_item + c - t->home->n_hot);
            if (records) t->f->places[c] = in_file_form(l, NULL, records, records);
            else for (uint32_t i = 0; i < t->k->n; i++) t->f->live[(size_t)i * t->f->ld_cluster + c] = 0; /* the run ends with an error */
        }
        sg_team_barrier(team);
        sg_ffn_down_clusters(t->f, t->k, c0, c1, y, ldy, team);
        sg_team_barrier(team);
        if (t->k->thread == 0) release(t, t->home->again_item, c0, c1);
    }
}

void sg_ffn_run_clusters(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const sg_acts *seen, const float *residual, float *y, size_t ldy,
                         sg_team *team) {
    const sg_ffn_layer *l = k->l;
    turn t = { f, k, l, l->home, l->home->store->belt };
    const uint32_t n = l->bundle.l.n_clusters, n_hot = t.home->n_hot;
    const bool top_k = f->policy.top_k > 0;
    uint32_t c;
    for (int visit = top_k ? 0 : 1; visit < 2; visit++) { /* top_k needs all gates before the first up product */
        while (sg_team_next(team, n, &c)) {
            const bool good = fetch(&t, c);
            if (good && visit == (top_k ? 0 : 1)) sg_ffn_gates(f, k, seen, c, c + 1);
            if (good && visit == 1) {
                for (uint32_t i = 0; i < k->n; i++) sg_ffn_choose(f, k, i, c);
                sg_ffn_ups(f, k, c, c + 1);
            }
            if (!good) for (uint32_t i = 0; i < k->n; i++) f->live[(size_t)i * f->ld_cluster + c] = 0;
            if (visit == 1 && t.home->round && c >= n_hot) release(&t, t.home->whole_item, c, c + 1);
        }
        sg_team_barrier(team);
        if (visit == 0) sg_ffn_top_k(f, k, team);
    }
    sg_ffn_observe(f, k, x, residual, team);
    sg_ffn_down_begin(f, k, team);
    if (t.home->round) {
        downs_again(&t, y, ldy, team);
    } else {
        sg_ffn_down_clusters(f, k, 0, n, y, ldy, team);
        sg_team_barrier(team);
        if (k->thread == 0) release(&t, t.home->whole_item, n_hot, n);
    }
    sg_ffn_down_end(f, k, y, ldy, team);
}
