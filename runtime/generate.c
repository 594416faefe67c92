/* sg_generate: sample, turn into text, watch for stop strings, feed, again. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/mem.h"
#include "runtime/base/utf8.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

typedef struct generation {
    sg_session *session;
    sg_sampler *sampler;
    const sg_model *model;
    const sg_generate_options *o;
    sg_detok detok;
    sg_str
        held; /* whole characters that were made and not handed over yet: they may be the beginning of a stop string */
} generation;

static sg_status check(const sg_session *session, const sg_sampler *sampler, const sg_generate_options *o,
                       sg_error *err) {
    if (!session || !sampler) return sg_fail(err, SG_E_ARG, "sg_generate: session or sampler is NULL");
    if (o->max_tokens < -1) return sg_fail(err, SG_E_ARG, "max_tokens %lld is below -1", (long long)o->max_tokens);
    if (o->n_stop > 0 && !o->stop) return sg_fail(err, SG_E_ARG, "sg_generate: stop is NULL");
    for (size_t i = 0; i < o->n_stop; i++) {
        if (!o->stop[i] || !o->stop[i][0]) return sg_fail(err, SG_E_ARG, "stop string %zu is empty", i + 1);
        const size_t len = strlen(o->stop[i]);
        /* Text is cut where a stop string begins: only whole characters keep that cut between characters. */
        if (sg_utf8_check(o->stop[i], len) != len)
            return sg_fail(err, SG_E_UTF8, "stop string %zu is not valid UTF-8", i + 1);
    }
    const uint32_t n_vocab = sg_model_get_info(sg_session_model(session))->n_vocab;
    if (sg_sampler_n_vocab(sampler) != n_vocab)
        return sg_fail(err, SG_E_ARG, "the sampler was made for %u tokens, the model has %u",
                       sg_sampler_n_vocab(sampler), n_vocab);
    return SG_OK;
}

/* The space that SentencePiece puts before a first word is no part of the text; a timeline that shows no text yet (only
 * a beginning token) is still at the start of one. */
static bool at_start(const sg_session *session, const sg_model *model) {
    const int32_t *tokens = sg_session_tokens(session);
    const size_t n = sg_session_length(session);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        sg_tokenizer_piece(sg_model_tokenizer(model), tokens[i], false, &len);
        if (len > 0) return false;
    }
    return true;
}

/* Hands over the first n bytes of the held text. False when the callback wants no more. */
static bool emit(generation *g, size_t n) {
    if (n == 0) return true;
    bool more = true;
    if (g->o->on_text) {
        const char kept = g->held.data[n];
        g->held.data[n] = '\0';
        more = g->o->on_text(g->o->user, g->held.data, n);
        g->held.data[n] = kept;
    }
    g->held.len -= n;
    memmove(g->held.data, g->held.data + n, g->held.len + 1);
    return more;
}

/* Where the first stop string in the held text begins; held.len when there is none. */
static size_t find_stop(const generation *g) {
    size_t first = g->held.len;
    for (size_t i = 0; i < g->o->n_stop; i++) {
        const size_t len = strlen(g->o->stop[i]);
        for (size_t at = 0; at + len <= g->held.len && at < first; at++)
            if (memcmp(g->held.data + at, g->o->stop[i], len) == 0) first = at;
    }
    return first;
}

/* Length of the longest end of the held text that some stop string begins with. */
static size_t possible_stop(const generation *g) {
    size_t longest = 0;
    for (size_t i = 0; i < g->o->n_stop; i++) {
        size_t len = strlen(g->o->stop[i]) - 1;
        if (len > g->held.len) len = g->held.len;
        while (len > longest && memcmp(g->held.data + g->held.len - len, g->o->stop[i], len) != 0) len--;
        if (len > longest) longest = len;
    }
    return longest;
}

/* Text of one more token. True when it ends the generation, with *reason set. */
static bool add_text(generation *g, int32_t token, sg_stop_reason *reason) {
    sg_detok_feed(&g->detok, token, &g->held);
    if (g->held.failed || g->held.len == 0) return false;
    const size_t stop = find_stop(g);
    if (stop < g->held.len) {
        const bool more = emit(g, stop);
        g->held.len = 0;
        *reason = more ? SG_STOP_STRING : SG_STOP_CALLBACK;
        return true;
    }
    if (emit(g, g->held.len - possible_stop(g))) return false;
    g->held.len = 0;
    *reason = SG_STOP_CALLBACK;
    return true;
}

/* Everything that was held back, at an end that no stop string caused. */
static void flush(generation *g, sg_stop_reason *reason) {
    sg_detok_finish(&g->detok, &g->held);
    if (!g->held.failed && !emit(g, g->held.len)) *reason = SG_STOP_CALLBACK;
}

static sg_status run(generation *g, sg_generate_result *r, sg_error *err) {
    for (;;) {
        bool done = true;
        if (sg_session_take_cancel(g->session))
            r->reason = SG_STOP_CANCELLED;
        else if (g->o->max_tokens >= 0 && r->n_tokens == (uint64_t)g->o->max_tokens)
            r->reason = SG_STOP_LENGTH;
        else if (sg_session_length(g->session) >= sg_session_capacity(g->session))
            r->reason = SG_STOP_CONTEXT;
        else
            done = false;
        if (done) break;

        const size_t rows = sg_session_logits_rows(g->session);
        if (rows == 0) return sg_fail(err, SG_E_ARG, "the session has no fresh logits: feed it something first");
        const int32_t token = sg_sampler_sample(g->sampler, sg_session_logits(g->session, rows - 1));
        const bool eog = sg_token_is_eog(g->model, token);
        if (eog && !g->o->ignore_eog) {
            r->reason = SG_STOP_EOG;
            break;
        }
        r->n_tokens++;
        const bool stopped = !eog && add_text(g, token, &r->reason);
        if (g->held.failed) return sg_fail(err, SG_E_NOMEM, "out of memory for the generated text");
        /* Also after the last token: the timeline then holds all that was counted, and a second call goes on from
         * there. */
        const sg_status s = sg_session_feed(g->session, &token, 1, 1, err);
        if (s == SG_E_CANCELLED && !stopped) {
            r->reason = SG_STOP_CANCELLED;
            break;
        }
        if (s != SG_OK && s != SG_E_CANCELLED) return s;
        if (stopped) return SG_OK;
    }
    flush(g, &r->reason);
    return g->held.failed ? sg_fail(err, SG_E_NOMEM, "out of memory for the generated text") : SG_OK;
}

sg_status sg_generate(sg_session *session, sg_sampler *sampler, const sg_generate_options *options,
                      sg_generate_result *result, sg_error *err) {
    sg_generate_result r = { SG_STOP_LENGTH, 0 };
    if (result) *result = r;
    sg_generate_options o = SG_GENERATE_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    SG_TRY(check(session, sampler, &o, err));

    generation g = { .session = session, .sampler = sampler, .model = sg_session_model(session), .o = &o };
    sg_detok_init(&g.detok, sg_model_tokenizer(g.model), at_start(session, g.model), false);
    const sg_status s = run(&g, &r, err);
    free(g.held.data);
    if (result) *result = r;
    return s;
}
