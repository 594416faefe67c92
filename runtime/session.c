#include "runtime/session_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Times of single tokens that are kept, the last ones. */
#define TIMES 4096u
/* Of the scores for which thresholds are kept: neurons are read ahead as if this share of the active ones was to be named. */
#define AHEAD_RECALL 0.8f
#define FEW_TOKENS 8u
#define MAX_BATCH 65536u /* keeps token x head counts within 64 bits and buffers sane */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The thresholds of all layers at x: between the points of the grid on a straight line, from 0 at 0 on when `from_zero`. */
static sg_status thresholds_at(const sg_threshold_grid *g, float x, uint32_t n_layer, bool from_zero, const char *what, float **out,
                               sg_error *err) {
    if (g->n == 0) return sg_fail(err, SG_E_UNSUPPORTED, "%s needs a model.bin that was calibrated (sparsegen calibrate)", what);
    const float low = from_zero ? 0 : g->x[0], high = g->x[g->n - 1];
    const bool unmeasured = g->n == 1 && g->x[0] == 0; /* one threshold, from somebody else's training: its recall is not known */
    if (!unmeasured && !(x >= low && x <= high)) return sg_fail(err, SG_E_ARG, "%s is %g, this model's calibration covers %g to %g", what, x, low, high);
    *out = malloc(n_layer * sizeof **out);
    if (!*out) return sg_fail(err, SG_E_NOMEM, "out of memory");
    uint32_t i = 0;
    while (i + 1 < g->n && g->x[i] < x) i++;
    const float x0 = i > 0 ? g->x[i - 1] : 0, part = g->x[i] > x0 ? (x - x0) / (g->x[i] - x0) : 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        const float *t = g->thresholds + (size_t)l * g->n + i, t0 = i > 0 ? t[-1] : 0;
        (*out)[l] = unmeasured || g->x[i] == x ? t[0] : t0 + part * (t[0] - t0);
    }
    return SG_OK;
}

/* A threshold per layer as one per unit. */
static sg_status for_units(const sg_model *m, float **thresholds, sg_error *err) {
    const sg_weights *w = &m->weights;
    if (!*thresholds) return SG_OK;
    float *out = malloc((w->n_units + 1) * sizeof *out);
    if (!out) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t l = 0; l < m->desc.hp.n_layer; l++) {
        if (w->units[l].main != SG_NO_UNIT) out[w->units[l].main] = (*thresholds)[l];
        if (w->units[l].shared != SG_NO_UNIT) out[w->units[l].shared] = (*thresholds)[l];
    }
    free(*thresholds);
    *thresholds = out;
    return SG_OK;
}

static sg_status set_policy(sg_session *s, const sg_session_options *o, sg_ffn_policy *p, sg_error *err) {
    const sg_model *m = s->model;
    const uint32_t n_layer = m->desc.hp.n_layer;
    *p = (sg_ffn_policy){ .mode = o->ffn, .predict = o->lossy_predict != 0, .top_k = o->lossy_top_k };
    if ((unsigned)o->ffn > SG_FFN_DENSE) return sg_fail(err, SG_E_ARG, "unknown way %d to compute feed-forward layers", (int)o->ffn);
    if ((p->predict || p->top_k || o->lossy_threshold != 0) && !m->weights.ffn)
        return sg_fail(err, SG_E_UNSUPPORTED, "lossy choices need a model.bin (sparsegen convert)");
    if (p->predict)
        SG_TRY(thresholds_at(&m->desc.recalls, o->lossy_predict, n_layer, false, "the recall of lossy prediction", &s->score_cut, err));
    if (o->lossy_threshold != 0)
        SG_TRY(thresholds_at(&m->desc.shares, o->lossy_threshold, n_layer, true, "the share of the lossy threshold", &s->cut, err));
    SG_TRY(for_units(m, &s->score_cut, err));
    SG_TRY(for_units(m, &s->cut, err));
    p->score_cut = s->score_cut;
    p->cut = s->cut;
    return SG_OK;
}

/* What is given up of the routes of experts. */
static sg_status set_routes(const sg_session *s, const sg_session_options *o, sg_exec_options *eo, sg_error *err) {
    const sg_hparams *hp = &s->model->desc.hp;
    if (o->n_experts == 0 && o->lossy_drop == 0 && o->lossy_cache_route == 0) return SG_OK;
    if (hp->n_expert == 0) return sg_fail(err, SG_E_UNSUPPORTED, "the model has no experts: there is nothing to choose fewer or others of");
    if (o->n_experts > hp->n_expert_used)
        return sg_fail(err, SG_E_ARG, "%u experts for each token: the model uses %u", o->n_experts, hp->n_expert_used);
    if (!(o->lossy_drop >= 0 && o->lossy_drop < 1)) return sg_fail(err, SG_E_ARG, "the share of dropped experts is %g, not between 0 and 1", (double)o->lossy_drop);
    if (!(o->lossy_cache_route >= 0 && o->lossy_cache_route <= 1))
        return sg_fail(err, SG_E_ARG, "the preference for experts in memory is %g, not between 0 and 1", (double)o->lossy_cache_route);
    eo->n_experts = o->n_experts;
    eo->route_drop = o->lossy_drop;
    eo->route_prefer = o->lossy_cache_route;
    return SG_OK;
}

/* Scores above which neurons are read ahead: those of the recall that is nearest to AHEAD_RECALL among the ones measured. */
static sg_status set_ahead(sg_session *s, sg_error *err) {
    const sg_threshold_grid *g = &s->model->desc.recalls;
    const uint32_t n_layer = s->model->desc.hp.n_layer;
    uint32_t best = 0;
    if (!s->model->weights.streaming || !s->model->prefetch || g->n == 0) return SG_OK;
    for (uint32_t i = 1; i < g->n; i++)
        if (fabsf(g->x[i] - AHEAD_RECALL) < fabsf(g->x[best] - AHEAD_RECALL)) best = i;
    s->ahead_cut = malloc(n_layer * sizeof *s->ahead_cut);
    if (!s->ahead_cut) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t l = 0; l < n_layer; l++) s->ahead_cut[l] = g->thresholds[(size_t)l * g->n + best];
    return SG_OK;
}

/* Under a budget the sessions of a model share what was kept free for them. */
static sg_status take_memory(sg_session *s, sg_error *err) {
    sg_model *m = s->model;
    const uint64_t need = s->exec.memory.size + sg_past_bytes(&s->past);
    if (m->session_bytes == 0) return SG_OK;
    if (atomic_fetch_add(&m->sessions, need) + need <= m->session_bytes) {
        s->taken = need;
        return SG_OK;
    }
    const uint64_t others = atomic_fetch_sub(&m->sessions, need) - need;
    return sg_fail(err, SG_E_NOMEM, "a session of %.1f MiB does not fit the memory budget, which leaves %.1f MiB for sessions (%.1f MiB are taken); open the "
                   "model for this session", (double)need / (1 << 20), (double)m->session_bytes / (1 << 20), (double)others / (1 << 20));
}

static sg_status init(sg_session *s, const sg_session_options *o, sg_error *err) {
    const sg_model *m = s->model;
    if (m->vocab_only) return sg_fail(err, SG_E_ARG, "the model was opened without its weights (vocab_only)");
    const uint32_t n_ctx = sg_session_n_ctx(m, o), n_batch = sg_session_n_batch(m, o), n_threads = sg_session_n_threads(o);
    if (n_batch > MAX_BATCH) return sg_fail(err, SG_E_ARG, "a batch of %u tokens is more than %u", n_batch, MAX_BATCH);
    if ((unsigned)o->kv_type >= SG_KV_TYPES) return sg_fail(err, SG_E_ARG, "unknown KV cache type %d", (int)o->kv_type);
    if (m->weights.globals[SG_T_POS_EMBD].m.kernel && n_ctx > m->desc.hp.n_ctx_train)
        return sg_fail(err, SG_E_ARG, "a context of %u tokens: this model has learned positions for %u", n_ctx, m->desc.hp.n_ctx_train);
    s->n_ctx = n_ctx;
    s->tokens = malloc((size_t)n_ctx * sizeof *s->tokens);
    if (!s->tokens) return sg_fail(err, SG_E_NOMEM, "out of memory for a context of %u tokens", n_ctx);
    if (!(s->times = malloc(TIMES * sizeof *s->times))) return sg_fail(err, SG_E_NOMEM, "out of memory");
    const sg_exec_model em = sg_model_for_exec(m);
    sg_exec_options eo = { .n_threads = n_threads, .n_batch = n_batch, .n_ctx = n_ctx, .precise = o->precise };
    SG_TRY(set_policy(s, o, &eo.policy, err));
    SG_TRY(set_routes(s, o, &eo, err));
    SG_TRY(set_ahead(s, err));
    eo.ahead_cut = s->ahead_cut;
    SG_TRY(sg_exec_init(&s->exec, &em, &eo, err));
    if (o->lossy_top_k > 0 && m->weights.streaming && !sg_ffn_by_neurons(&s->exec.ffn) && m->weights.streaming->store.homes &&
        m->weights.streaming->store.homes[0].round > 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "lossy top-k of layers that are computed as a whole (ffn dense, or down rows of floats) needs a memory budget that "
                       "holds the gates of a layer and what is read of it");
    s->settings = sg_session_settings(s, o);
    sg_team_pin(s->exec.team, o->pin_threads);
    SG_TRY(sg_past_init(&s->past, &em, o->kv_type, n_ctx, n_batch, sg_session_n_copies(o), err));
    SG_TRY(take_memory(s, err));
    s->stats = (sg_stats){ .weight_bytes = sg_weights_bytes(&m->weights),
                           .kv_bytes = sg_past_bytes(&s->past),
                           .buffer_bytes = s->exec.memory.size };
    return SG_OK;
}

sg_status sg_session_create(sg_model *model, const sg_session_options *options, sg_session **out, sg_error *err) {
    if (!model || !out) return sg_fail(err, SG_E_ARG, "sg_session_create: an argument is NULL");
    *out = NULL;
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    sg_session *s = calloc(1, sizeof *s);
    if (!s) return sg_fail(err, SG_E_NOMEM, "out of memory");
    s->model = model;
    atomic_init(&s->cancel, false);
    const sg_status status = init(s, &o, err);
    if (status != SG_OK) sg_session_destroy(&s);
    *out = s;
    return status;
}

void sg_session_destroy(sg_session **session) {
    if (!session || !*session) return;
    sg_session *s = *session;
    sg_exec_finish(&s->exec);
    sg_past_finish(&s->past);
    free(s->tokens);
    free(s->logits);
    free(s->cut);
    free(s->score_cut);
    free(s->ahead_cut);
    free(s->times);
    atomic_fetch_sub(&s->model->sessions, s->taken);
    free(s->observed);
    (void)!sg_route_log_close(&s->routes, NULL);
    free(s);
    *session = NULL;
}

/* Room for `rows` rows of logits. */
static sg_status reserve_logits(sg_session *s, size_t rows, sg_error *err) {
    s->logits_rows = 0;
    if (rows <= s->logits_cap) return SG_OK;
    uint64_t bytes;
    free(s->logits);
    s->logits = NULL;
    s->logits_cap = 0;
    if (sg_mul_add(rows, (uint64_t)s->model->desc.hp.n_vocab * sizeof(float), 0, &bytes) && bytes < SIZE_MAX)
        s->logits = malloc((size_t)bytes);
    if (!s->logits) return sg_fail(err, SG_E_NOMEM, "out of memory for %zu rows of logits", rows);
    s->logits_cap = rows;
    return SG_OK;
}

static sg_status check_tokens(const sg_session *s, const int32_t *tokens, size_t n, sg_error *err) {
    const uint32_t n_vocab = s->model->desc.hp.n_vocab;
    if (n > s->n_ctx - s->n)
        return sg_fail(err, SG_E_CONTEXT, "%zu tokens do not fit: the context holds %u tokens and %u are used", n, s->n_ctx, s->n);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= n_vocab)
            return sg_fail(err, SG_E_ARG, "token %d is outside the vocabulary of %u", (int)tokens[i], n_vocab);
    return SG_OK;
}

/* Few tokens of a model that is not all in RAM are faster one by one, each with the neurons that it needs, than together with all of
 * them. */
static uint32_t batch_of(const sg_session *s, size_t left) {
    const bool by_neurons = s->model->weights.streaming && s->model->weights.ffn && sg_ffn_by_neurons(&s->exec.ffn);
    if (by_neurons && left < FEW_TOKENS) return 1;
    return left < s->exec.n_batch ? (uint32_t)left : s->exec.n_batch;
}

/* Evaluates tokens at the end of the timeline, whose positions from s->n on they take; the logits of the last n_keep go to `rows`. *done:
 * those that were evaluated. n_after: tokens behind them that are to be evaluated next. */
static sg_status evaluate(sg_session *s, const int32_t *tokens, size_t n, size_t n_after, size_t n_keep, float *rows, size_t *done, sg_error *err) {
    const size_t n_vocab = s->model->desc.hp.n_vocab, skip = n - n_keep;
    sg_status status = SG_OK;
    for (*done = 0; status == SG_OK && *done < n;) {
        const uint32_t batch = batch_of(s, n - *done);
        /* Of this batch, the tokens at or after `skip` keep their logits. */
        const size_t end = *done + batch;
        const uint32_t keep = end <= skip ? 0 : (uint32_t)(end - (*done > skip ? *done : skip));
        if (s->routes) sg_route_log_begin(s->routes, batch);
        const size_t left = end < n ? n - end : n_after;
        s->exec.next = tokens + end;
        s->exec.n_next = left > 0 ? batch_of(s, left) : 0;
        status = sg_exec_run(&s->exec, &s->past.kv, &s->past.state, tokens + *done, batch, s->n, keep,
                             keep ? rows + (end - keep - skip) * n_vocab : NULL, &s->cancel, err);
        sg_past_wrote(&s->past, s->n + batch, status == SG_OK);
        if (s->routes && status == SG_OK) status = sg_route_log_end(s->routes, err);
        if (status != SG_OK) break;
        /* The caller may have handed in the timeline itself. */
        memmove(s->tokens + s->n, tokens + *done, batch * sizeof *tokens);
        s->n += batch;
        *done = end;
    }
    s->exec.n_next = 0;
    if (status != SG_OK) atomic_store(&s->cancel, false);
    return status;
}

/* What the model cannot remember of the timeline is evaluated again. */
sg_status sg_session_catch_up(sg_session *s, sg_error *err) {
    const uint32_t n = s->n, from = sg_past_go_to(&s->past, n);
    const double start = now();
    size_t done = 0;
    if (from == n) return SG_OK;
    s->n = from;
    const sg_status status = evaluate(s, s->tokens + from, n - from, 0, 0, NULL, &done, err);
    s->stats.prompt_tokens += done;
    s->stats.prompt_seconds += now() - start;
    s->n = n; /* the timeline stays also after a failure; the past says what is missing */
    return status;
}

/* Of a prompt a copy of the state is kept from before its last token: who comes back to it wants the logits of that one again. */
static sg_status evaluate_prompt(sg_session *s, const int32_t *tokens, size_t n, size_t n_keep, size_t *done, sg_error *err) {
    size_t last = 0;
    if (s->past.n_copies == 0) return evaluate(s, tokens, n, 0, n_keep, s->logits, done, err);
    SG_TRY(evaluate(s, tokens, n - 1, 1, n_keep - 1, s->logits, done, err));
    sg_past_keep(&s->past);
    const sg_status status = evaluate(s, tokens + n - 1, 1, 0, 1, s->logits + (n_keep - 1) * s->model->desc.hp.n_vocab, &last, err);
    *done += last;
    return status;
}

sg_status sg_session_feed(sg_session *s, const int32_t *tokens, size_t n, size_t n_keep, sg_error *err) {
    if (!s || !tokens || n == 0) return sg_fail(err, SG_E_ARG, "sg_session_feed: no session or no tokens");
    if (n_keep < 1 || n_keep > n) return sg_fail(err, SG_E_ARG, "sg_session_feed: n_keep %zu is not between 1 and %zu", n_keep, n);
    SG_TRY(check_tokens(s, tokens, n, err));
    SG_TRY(reserve_logits(s, n_keep, err));
    SG_TRY(sg_session_catch_up(s, err));
    const double start = now();
    size_t done = 0;
    const sg_status status = n > 1 ? evaluate_prompt(s, tokens, n, n_keep, &done, err) : evaluate(s, tokens, 1, 0, 1, s->logits, &done, err);
    const double seconds = now() - start;
    if (status == SG_OK) s->logits_rows = n_keep;
    if (n == 1 && done == 1) s->times[s->stats.decode_tokens % TIMES] = (float)seconds;
    (n > 1 ? (s->stats.prompt_tokens += done) : (s->stats.decode_tokens += done));
    *(n > 1 ? &s->stats.prompt_seconds : &s->stats.decode_seconds) += seconds;
    return status;
}

sg_status sg_session_sync(sg_session *s, const int32_t *tokens, size_t n, sg_error *err) {
    if (!s || !tokens || n == 0) return sg_fail(err, SG_E_ARG, "sg_session_sync: no session or no tokens");
    size_t same = 0;
    while (same < n && same < s->n && tokens[same] == s->tokens[same]) same++;
    /* The last token is always evaluated again: its logits are what the caller wants. */
    if (same == n) same--;
    SG_TRY(sg_session_rewind(s, same, err));
    return sg_session_feed(s, tokens + same, n - same, 1, err);
}

sg_status sg_session_feed_text(sg_session *s, const char *text, size_t len, sg_error *err) {
    if (!s) return sg_fail(err, SG_E_ARG, "sg_session_feed_text: session is NULL");
    int32_t *ids = NULL;
    size_t n = 0;
    SG_TRY(sg_tokenize(s->model, text, len, s->n == 0 ? SG_TOKENIZE_BOS : 0, &ids, &n, err));
    sg_status status = SG_OK;
    if (n > 0) status = sg_session_feed(s, ids, n, 1, err);
    else if (s->n == 0) status = sg_fail(err, SG_E_ARG, "the prompt is empty and the model has no beginning token");
    sg_free(ids);
    return status;
}

sg_status sg_session_rewind(sg_session *s, size_t n, sg_error *err) {
    if (!s) return sg_fail(err, SG_E_ARG, "sg_session_rewind: session is NULL");
    if (n > s->n) return sg_fail(err, SG_E_ARG, "cannot rewind to %zu tokens, only %u are there", n, s->n);
    if (n != s->n) s->logits_rows = 0;
    s->n = (uint32_t)n;
    return SG_OK;
}

const float *sg_session_logits(const sg_session *s, size_t i) {
    return s && i < s->logits_rows ? s->logits + i * s->model->desc.hp.n_vocab : NULL;
}

size_t sg_session_logits_rows(const sg_session *s) { return s ? s->logits_rows : 0; }
size_t sg_session_length(const sg_session *s) { return s ? s->n : 0; }
size_t sg_session_capacity(const sg_session *s) { return s ? s->n_ctx : 0; }
const int32_t *sg_session_tokens(const sg_session *s) { return s ? s->tokens : NULL; }
sg_model *sg_session_model(const sg_session *s) { return s->model; }

void sg_session_cancel(sg_session *s) {
    if (s) atomic_store(&s->cancel, true);
}

bool sg_session_take_cancel(sg_session *s) { return atomic_exchange(&s->cancel, false); }

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The times of single tokens that 50, 90 and 99 of 100 stay below. */
static void set_percentiles(const sg_session *s, sg_stats *stats) {
    const size_t n = s->stats.decode_tokens < TIMES ? (size_t)s->stats.decode_tokens : TIMES;
    float *sorted = n > 0 ? malloc(n * sizeof *sorted) : NULL;
    if (!sorted) return;
    memcpy(sorted, s->times, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    stats->token_p50 = (double)sorted[(n - 1) * 50 / 100];
    stats->token_p90 = (double)sorted[(n - 1) * 90 / 100];
    stats->token_p99 = (double)sorted[(n - 1) * 99 / 100];
    free(sorted);
}

static void add_experts(const sg_expert_finds *f, sg_expert_stats *sum) {
    sum->in_ram += f->slots;
    sum->ahead += f->ahead;
    sum->late += f->late;
    sum->missed += f->missed;
    sum->guessed += f->guessed;
    sum->right += f->right;
    sum->foreseen += f->foreseen;
    sum->came += f->came;
    sum->expected += f->expected;
    sum->unused += f->unused;
}

bool sg_session_get_expert_stats(const sg_session *s, uint32_t layer, sg_expert_stats *out) {
    if (out) *out = (sg_expert_stats) { 0 };
    if (!s || !out || !s->model->weights.experts || layer >= s->model->desc.hp.n_layer || !s->model->weights.experts[layer]) return false;
    pthread_mutex_lock(&s->model->weights.streaming->runs);
    add_experts(&s->model->weights.experts[layer]->finds, out);
    pthread_mutex_unlock(&s->model->weights.streaming->runs);
    return true;
}

/* What was read and found while computing. */
static void set_streaming(const sg_session *s, sg_stats *stats) {
    sg_streaming *st = s->model->weights.streaming;
    if (!st) return;
    for (uint32_t i = 0; i < stats->n_threads; i++) stats->wait_seconds += s->exec.waited[i].seconds;
    pthread_mutex_lock(&st->store.lock);
    const sg_ffn_finds *f = &st->store.finds;
    stats->found_hot = f->hot;
    stats->found_cold = f->cold;
    stats->found_ahead = f->ahead;
    stats->found_late = f->late;
    stats->found_missed = f->missed;
    stats->found_passed = f->passed;
    stats->predicted = f->predicted;
    pthread_mutex_unlock(&st->store.lock);
    const sg_stream_counts c = sg_stream_get_counts(st->stream);
    stats->demand_bytes = c.demand_bytes - st->filled.demand_bytes;
    stats->demand_reads = c.demand_reads - st->filled.demand_reads;
    stats->prefetch_bytes = c.prefetch_bytes;
    stats->prefetch_reads = c.prefetch_reads;
    pthread_mutex_lock(&st->runs);
    for (uint32_t i = 0; st->experts && i < st->experts->n_homes; i++) add_experts(&st->experts->homes[i].finds, &stats->experts);
    pthread_mutex_unlock(&st->runs);
}

sg_status sg_session_trace(sg_session *s, size_t events, sg_error *err) {
    if (!s) return sg_fail(err, SG_E_ARG, "sg_session_trace: session is NULL");
    sg_streaming *st = s->model->weights.streaming;
    if (!st) return sg_fail(err, SG_E_UNSUPPORTED, "all of the model is in memory: there are no reads to trace");
    return sg_streaming_trace(st, events, err);
}

sg_status sg_session_write_trace(sg_session *s, const char *path, sg_error *err) {
    if (!s || !path) return sg_fail(err, SG_E_ARG, "sg_session_write_trace: an argument is NULL");
    sg_streaming *st = s->model->weights.streaming;
    if (!st || !st->trace) return sg_fail(err, SG_E_ARG, "sg_session_write_trace: nothing is being traced");
    return sg_streaming_write_trace(st, path, err);
}

sg_stats sg_session_get_stats(const sg_session *s) {
    if (!s) return (sg_stats){ 0 };
    sg_stats stats = s->stats;
    stats.n_threads = sg_team_size(s->exec.team); /* OpenMP may have granted fewer than asked for */
    if (s->model->weights.ffn) {
        const sg_ffn_count sum = sg_ffn_total(&s->exec.ffn);
        stats.neurons = sum.neurons;
        stats.neuron_gates = sum.gates;
        stats.neuron_ups = sum.ups;
        stats.neurons_active = sum.active;
    }
    set_percentiles(s, &stats);
    set_streaming(s, &stats);
    return stats;
}

sg_status sg_session_observe(sg_session *s, sg_ffn_observe_fn fn, void *user, sg_error *err) {
    sg_ffn *f = &s->exec.ffn;
    if (!s->model->weights.ffn) return sg_fail(err, SG_E_UNSUPPORTED, "the model has no neuron bundles (sparsegen convert makes them)");
    if (fn && !s->observed && !(s->observed = malloc((size_t)f->n_batch * f->ld * sizeof *s->observed)))
        return sg_fail(err, SG_E_NOMEM, "out of memory to observe feed-forward layers");
    f->observed = s->observed;
    f->observe = fn;
    f->observe_user = user;
    return SG_OK;
}

void sg_session_observe_rows(sg_session *s, sg_rows_observe_fn fn, void *user) {
    s->exec.on_rows = fn;
    s->exec.on_rows_user = user;
}

static void on_route(void *user, uint32_t layer, const sg_ffn_route *route) { sg_route_log_add(user, layer, route, NULL); }

/* Bytes of one expert of a layer as they lie in the file. */
static uint64_t expert_bytes(const sg_weights *w, const sg_hparams *hp, uint32_t layer) {
    const sg_unit_of u = w->n_units > 0 ? w->units[layer] : SG_NO_UNITS;
    if (u.main != SG_NO_UNIT) return (uint64_t)w->ffn[u.main].bundle.l.per_expert * w->ffn[u.main].bundle.l.cluster_bytes;
    uint64_t bytes = 0;
    static const sg_layer_slot slots[] = { SG_L_GATE_EXPS, SG_L_UP_EXPS, SG_L_DOWN_EXPS };
    for (int i = 0; i < 3; i++) {
        const sg_matrix *m = &w->layers[layer][slots[i]].m;
        if (m->kernel) bytes += m->rows * sg_dtype_bytes(sg_dtype_get((uint32_t)m->kernel->type), m->k);
    }
    return bytes;
}

sg_status sg_session_log_routes(sg_session *s, const char *path, sg_error *err) {
    if (!s) return sg_fail(err, SG_E_ARG, "sg_session_log_routes: session is NULL");
    const sg_model *m = s->model;
    const sg_hparams *hp = &m->desc.hp;
    s->exec.on_route = NULL;
    SG_TRY(sg_route_log_close(&s->routes, err));
    if (!path) return SG_OK;
    if (hp->n_expert == 0) return sg_fail(err, SG_E_UNSUPPORTED, "the model has no experts: there are no routes to log");
    uint64_t *bytes = calloc(hp->n_layer, sizeof *bytes);
    if (!bytes) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t l = 0; l < hp->n_layer; l++) bytes[l] = expert_bytes(&m->weights, hp, l);
    const sg_status status = sg_route_log_open(&s->routes, path, m->name, m->arch, hp, bytes, err);
    free(bytes);
    if (status != SG_OK) {
        (void)!sg_route_log_close(&s->routes, NULL);
        return status;
    }
    s->exec.on_route = on_route;
    s->exec.on_route_user = s->routes;
    return SG_OK;
}
