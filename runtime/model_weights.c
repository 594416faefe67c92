/* Opening a model: what of it stays in RAM. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/memavail.h"
#include "runtime/model.h"
#include "runtime/past.h"
#include "runtime/streaming_private.h"
#include "runtime/weights_private.h"

#define DEFAULT_CTX 4096u
#define DEFAULT_BATCH 128u
#define DEFAULT_COPIES 2u
/* Batches where experts are read while computing, if their buffers take no more than this part of the budget. */
#define EXPERT_BATCH 512u
#define EXPERT_BATCH_PART 16u
/* Without a budget from the caller: what is left to others, a part of what is available and at least so much. */
#define RESERVE_PART 16u
#define RESERVE_LEAST ((uint64_t)64 << 20)
/* Defaults shrink until a session takes no more than this part of the budget, down to these. */
#define SESSION_PART 4u
#define LEAST_CTX 512u
#define LEAST_BATCH 16u

/* Bytes of rows of a matrix that come together: enough for the drive, few enough that several threads have work, and for small models
 * a small part of them. */
#define ITEM_MOST ((uint64_t)384 << 10)
#define ITEM_LEAST ((uint64_t)16 << 10)
#define ITEM_PART 256u

#define MIB(x) ((double)(x) / (1 << 20))

uint32_t sg_session_n_ctx(const sg_model *m, const sg_session_options *o) { return o->n_ctx ? o->n_ctx : m->n_ctx; }
uint32_t sg_session_n_batch(const sg_model *m, const sg_session_options *o) {
    const uint32_t n_ctx = sg_session_n_ctx(m, o), n = o->n_batch ? o->n_batch : m->n_batch;
    /* the gates of a whole layer have to be known before its first up product */
    if (o->lossy_top_k > 0 && m->weights.streaming) return 1;
    return n > n_ctx ? n_ctx : n;
}
uint32_t sg_session_n_copies(const sg_session_options *o) {
    return o->n_state_copies == 0 ? DEFAULT_COPIES : o->n_state_copies == SG_NO_STATE_COPIES ? 0 : o->n_state_copies;
}
uint32_t sg_session_n_threads(const sg_session_options *o) {
    if (o->n_threads) return o->n_threads;
    return sg_cpu_count() < SG_TEAM_MAX ? sg_cpu_count() : SG_TEAM_MAX;
}

sg_exec_model sg_model_for_exec(const sg_model *m) {
    const sg_arch *arch = m->desc.arch;
    return (sg_exec_model) { .hp = &m->desc.hp, .layer = m->desc.layer, .weights = &m->weights, .plan = &m->plan, .kernels = &m->kernels,
                             .ropes = m->ropes, .norm = arch->norm, .gated_attention = arch->gated_attention,
                             .value_heads_mod = arch->value_heads_mod, .pred_residual = m->desc.pred_residual,
                             .ffn_threshold = m->desc.ffn_threshold, .streaming = m->weights.streaming };
}

static bool act_is_sparse(const sg_model *m, const sg_session_options *o) {
    return sg_neuron_sparse(sg_plan_act(m->desc.hp.ffn_act)) || o->lossy_predict != 0 || o->lossy_threshold != 0 || o->lossy_top_k != 0;
}

/* KV cache and buffers of a session. */
static sg_status session_need(const sg_model *m, const sg_session_options *o, bool streams, uint64_t *kv, uint64_t *buffers, sg_error *err) {
    sg_exec_model em = sg_model_for_exec(m);
    sg_streaming none = { 0 };
    if (streams) em.streaming = &none;
    const sg_exec_options eo = { .n_threads = sg_session_n_threads(o), .n_batch = sg_session_n_batch(m, o), .n_ctx = sg_session_n_ctx(m, o), .precise = o->precise };
    *buffers = sg_exec_bytes(&em, &eo) + 2 * (uint64_t)m->desc.hp.n_vocab * sizeof(float);
    SG_TRY(sg_past_need(&em, o->kv_type, eo.n_ctx, eo.n_batch, sg_session_n_copies(o), kv, err));
    *kv += (uint64_t)eo.n_ctx * sizeof(int32_t);
    return SG_OK;
}

/* Smaller defaults where the budget is small; what the caller asked for stays. Where experts come from the file, a prompt is read in larger batches:
 * each reads almost every expert once. */
static sg_status shrink(sg_model *m, const sg_session_options *o, uint64_t ram, bool experts, const sg_log *log, sg_error *err) {
    uint64_t kv, buffers;
    if (experts && !o->n_batch) {
        m->n_batch = EXPERT_BATCH;
        for (; m->n_batch > DEFAULT_BATCH; m->n_batch /= 2) {
            SG_TRY(session_need(m, o, true, &kv, &buffers, err));
            if (buffers <= ram / EXPERT_BATCH_PART) break;
        }
    }
    for (;;) {
        SG_TRY(session_need(m, o, true, &kv, &buffers, err));
        if (kv + buffers <= ram / SESSION_PART) break;
        if (!o->n_batch && m->n_batch > LEAST_BATCH && buffers > ram / (4 * SESSION_PART)) m->n_batch /= 2;
        else if (!o->n_ctx && m->n_ctx > LEAST_CTX) m->n_ctx /= 2;
        else if (!o->n_batch && m->n_batch > LEAST_BATCH) m->n_batch /= 2;
        else break;
    }
    if (m->n_ctx < m->desc.hp.n_ctx_train && m->n_ctx < DEFAULT_CTX && !o->n_ctx)
        sg_log_line(log, SG_LOG_WARN, "a context of %u tokens, to leave memory for the model", m->n_ctx);
    return SG_OK;
}

static void describe_need(const sg_model *m, const sg_loader *l, const sg_session_options *o, uint64_t *matrices, sg_residency_need *n) {
    const bool tied = m->weights.globals[SG_T_OUTPUT].m.kernel == NULL;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        switch (j->part) {
        case SG_LOAD_FIXED:
        case SG_LOAD_VECTOR: n->vectors += j->bytes; break;
        case SG_LOAD_PREDICTOR: n->predictors += j->bytes; break;
        case SG_LOAD_EXPERTS:
        case SG_LOAD_BUNDLE: break;
        case SG_LOAD_EMBEDDING:
            if (!tied) n->embedding = j->bytes;
            else matrices[n->n_matrices++] = j->bytes;
            break;
        case SG_LOAD_MATRIX: matrices[n->n_matrices++] = j->bytes; break;
        }
        if (j->part != SG_LOAD_MATRIX && !(j->part == SG_LOAD_EMBEDDING && tied)) continue;
        const size_t row = (size_t)(j->info->n_bytes / j->info->ne[1]), item = row * sg_streaming_item_rows(&m->weights, row);
        if (item > n->largest_item) n->largest_item = (uint32_t)item;
    }
    for (uint32_t i = 0; i < l->n_layer; i++) {
        sg_expert_home h;
        size_t land;
        if (!sg_streaming_expert_home(&m->weights, l, i, &h, &land)) continue;
        n->n_expert_layer++;
        n->expert_slots += h.slot_bytes;
        n->experts_together = n->experts_together || h.in_place;
        if (land > n->expert_land) n->expert_land = land;
    }
    if (n->experts_together) n->expert_slots = n->n_expert_layer * n->expert_land;
    n->n_expert = n->n_expert_layer > 0 ? m->desc.hp.n_expert : 0;
    n->n_expert_used = m->desc.hp.n_expert_used;
    n->matrices = matrices;
    n->keep_predictors = o->lossy_predict != 0;
}

static void mark(sg_loader *l, const sg_residency *r, bool tied) {
    size_t matrix = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        sg_load_job *j = &l->jobs[i];
        const bool counts = j->part == SG_LOAD_MATRIX || (j->part == SG_LOAD_EMBEDDING && tied);
        if (counts) j->away = r->away[matrix++];
        else if (j->part == SG_LOAD_EMBEDDING) j->away = r->embedding_away;
        else if (j->part == SG_LOAD_BUNDLE || j->part == SG_LOAD_EXPERTS) j->away = true;
        else if (j->part == SG_LOAD_PREDICTOR) j->away = !r->predictors;
    }
}

static sg_status decide(sg_model *m, sg_loader *l, const sg_session_options *so, uint64_t outside, uint64_t budget, sg_residency *r,
                        const sg_log *log, sg_error *err) {
    const sg_weights *w = &m->weights;
    uint64_t *matrices = calloc(l->n_jobs + 1, sizeof *matrices);
    sg_bundle_layout *layouts = calloc(w->n_units + 1, sizeof *layouts);
    sg_residency_need need = { .ram = budget, .outside = outside, .layouts = layouts, .by_neurons = act_is_sparse(m, so) };
    sg_status s = SG_OK;
    if (!matrices || !layouts) s = sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t i = 0; s == SG_OK && i < w->n_units; i++) {
        const sg_bundle_layout *layout = &w->ffn[i].bundle.l;
        if (!sg_unit_streams(w, i)) {
            need.vectors += (uint64_t)layout->n_clusters * layout->per_cluster * sizeof(float); /* beside the bundles, which are fixed parts */
            continue;
        }
        layouts[need.n_layer++] = *layout;
        const size_t slot = sg_ffn_slot_bytes(layout, sg_unit_bundle(w, &m->desc, i)->clusters->offset, 512);
        if (slot > need.slot_bytes) need.slot_bytes = slot;
        need.by_neurons = need.by_neurons && w->ffn[i].bundle.down->quantised;
    }
    if (s == SG_OK) {
        describe_need(m, l, so, matrices, &need);
        need.by_neurons = need.by_neurons && need.n_layer > 0;
        s = session_need(m, so, false, &need.kv, &need.buffers, err);
        if (s == SG_OK) s = sg_residency_decide(&need, r, err);
        if (r->streams) {
            sg_residency_finish(r);
            s = shrink(m, so, budget, need.n_expert_layer > 0, log, err);
            if (s == SG_OK) s = session_need(m, so, true, &need.kv, &need.buffers, err);
            if (s == SG_OK) s = sg_residency_decide(&need, r, err);
        }
        m->session_bytes = need.kv + need.buffers;
    }
    free(matrices);
    free(layouts);
    return s;
}

static void report(const sg_model *m, const sg_residency *r, uint64_t budget, bool chosen, const sg_log *log) {
    if (!r->streams) return;
    sg_log_line(log, chosen ? SG_LOG_WARN : SG_LOG_INFO, "%.0f MiB of weights are read while computing, within %s of %.0f MiB",
                MIB(r->away_bytes), chosen ? "the available memory" : "a budget", MIB(budget));
    if (r->n_expert_reads > 0)
        sg_log_line(log, SG_LOG_INFO, "of each layer %u of %u experts are in memory", r->n_expert_slots, m->desc.hp.n_expert);
    if (r->n_gates + r->n_slots > 0)
        sg_log_line(log, SG_LOG_INFO, "of each layer %u gate parts and %u whole clusters of %u are in memory, and %u neurons", r->n_gates,
                    r->n_hot, m->weights.ffn[0].bundle.l.n_clusters, r->n_slots);
}

static sg_status load(sg_model *m, sg_loader *l, const sg_model_options *o, const sg_session_options *so, uint64_t base, sg_residency *r,
                      sg_error *err) {
    const sg_log log = { o->log, o->user };
    const uint64_t resident = sg_mem_resident(), available = sg_mem_available("");
    const uint64_t reserve = available / RESERVE_PART > RESERVE_LEAST ? available / RESERVE_PART : RESERVE_LEAST;
    const uint64_t budget = o->ram ? o->ram : available == UINT64_MAX ? available : available > 2 * reserve ? available - reserve : available / 2;
    SG_TRY(decide(m, l, so, resident > base ? resident - base : 0, budget, r, &log, err));
    if (r->streams || o->ram) m->ram = budget;
    else m->session_bytes = 0;
    if (r->streams) {
        mark(l, r, m->weights.globals[SG_T_OUTPUT].m.kernel == NULL);
        m->away_bytes = r->away_bytes;
    }
    report(m, r, budget, !o->ram, &log);
    sg_weights_options wo = { .io = o->io, .log = &log, .progress = o->progress, .user = o->user, .faults = o->faults };
    if (r->streams) wo.chunk_bytes = (size_t)1 << 20;
    SG_TRY(sg_weights_load(&m->weights, l, &wo, err));
    if (!r->streams) return SG_OK;
    SG_TRY(sg_streaming_create(&m->weights.streaming, r, &m->weights, l, &m->desc, &wo, err));
    m->weights.streaming->store.no_cache = o->no_cache;
    m->weights.streaming->store.no_pipeline = o->no_pipeline;
    m->weights.streaming->store.always_ahead = o->always_prefetch;
    if (m->weights.streaming->experts) {
        m->weights.streaming->experts->no_cache = o->no_cache;
        m->weights.streaming->experts->no_ahead = o->no_prefetch;
        m->weights.streaming->experts->always_ahead = o->always_prefetch;
    }
    return SG_OK;
}

sg_status sg_model_open_weights(sg_model *m, const sg_gguf *g, const sg_model_options *o, uint64_t base, sg_error *err) {
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    if (o->session) memcpy(&so, o->session, o->session->struct_size < sizeof so ? o->session->struct_size : sizeof so);
    const sg_hparams *hp = &m->desc.hp;
    m->n_ctx = hp->n_ctx_train < DEFAULT_CTX ? hp->n_ctx_train : DEFAULT_CTX;
    m->n_batch = DEFAULT_BATCH;
    m->prefetch = !o->no_prefetch;
    atomic_init(&m->sessions, 0);
    if (o->no_prefetch && o->always_prefetch) return sg_fail(err, SG_E_ARG, "reading ahead cannot be asked for both always and never");
    if ((unsigned)so.kv_type >= SG_KV_TYPES) return sg_fail(err, SG_E_ARG, "unknown KV cache type %d", (int)so.kv_type);
    if (sg_session_n_threads(&so) > SG_TEAM_MAX) return sg_fail(err, SG_E_ARG, "too many threads");
    sg_loader l;
    sg_residency r = { 0 };
    sg_status s = sg_loader_init(&l, &m->weights, g, &m->desc, &m->kernels, err);
    uint64_t item = 0;
    for (size_t i = 0; s == SG_OK && i < l.n_jobs; i++) item += l.jobs[i].info->n_bytes / ITEM_PART;
    m->weights.item_bytes = (size_t)(item > ITEM_MOST ? ITEM_MOST : item < ITEM_LEAST ? ITEM_LEAST : item);
    /* widths and layouts are known, which is enough to say what a session takes */
    m->ropes[SG_ROPES_MAIN].n_rot = hp->rope.n_rot;
    m->ropes[SG_ROPES_WINDOW].n_rot = hp->window_rope_base > 0 ? hp->rope.n_rot : 0;
    if (s == SG_OK) s = sg_plan_create(&m->plan, &m->desc, &m->weights, err);
    if (s == SG_OK) s = load(m, &l, o, &so, base, &r, err);
    sg_plan_finish(&m->plan);
    sg_residency_finish(&r);
    sg_loader_finish(&l);
    memset(m->ropes, 0, sizeof m->ropes);
    SG_TRY(s);
    SG_TRY(sg_model_open_ropes(m, err));
    SG_TRY(sg_plan_create(&m->plan, &m->desc, &m->weights, err));
    return m->weights.streaming ? sg_streaming_program(m->weights.streaming, &m->plan, &m->weights, err) : SG_OK;
}
