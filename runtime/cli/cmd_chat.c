/* sparsegen -i: a conversation. The whole conversation is written in the model's chat form and tokenized anew for each
 * turn; sg_session_sync then keeps what the timeline already holds, so only new text is evaluated. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cli/line.h"
#include "runtime/cli/sampling.h"

typedef struct chat {
    cli_generate_args *a;
    sg_sampler *sampler;
    sg_chat_message *messages; /* texts are owned */
    size_t n, cap, n_system;   /* the first n_system (0 or 1) stay for good */
    char *answer;              /* text of the running answer */
    size_t answer_len, answer_cap;
    bool failed; /* out of memory for the answer */
    int unsaved; /* CLI_OK, or the exit code for a --prompt-cache that could not be written */
} chat;

static bool push(chat *c, const char *role, const char *text) {
    if (c->n == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 16;
        sg_chat_message *p = realloc(c->messages, cap * sizeof *p);
        if (!p) return false;
        c->messages = p;
        c->cap = cap;
    }
    char *copy = strdup(text);
    if (!copy) return false;
    c->messages[c->n++] = (sg_chat_message) { role, copy };
    return true;
}

/* Forgets messages [from, to). */
static void forget(chat *c, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) free((char *)c->messages[i].text);
    memmove(c->messages + from, c->messages + to, (c->n - to) * sizeof *c->messages);
    c->n -= to - from;
}

static bool on_text(void *user, const char *text, size_t len) {
    chat *c = user;
    if (c->answer_len + len + 1 > c->answer_cap) {
        const size_t cap = 2 * (c->answer_len + len + 1);
        char *p = realloc(c->answer, cap);
        if (!p) {
            c->failed = true;
            return false;
        }
        c->answer = p;
        c->answer_cap = cap;
    }
    memcpy(c->answer + c->answer_len, text, len);
    c->answer_len += len;
    c->answer[c->answer_len] = '\0';
    return cli_write(text, len);
}

static sg_status tokenize(const chat *c, int32_t **ids, size_t *n, sg_error *err) {
    char *text = NULL;
    sg_status s = sg_chat_format(c->a->m.model, c->messages, c->n, true, &text, err);
    if (s == SG_OK)
        s = sg_tokenize(c->a->m.model, text, strlen(text), SG_TOKENIZE_BOS | SG_TOKENIZE_PARSE_SPECIAL, ids, n,
                        err);
    sg_free(text);
    return s;
}

/* Tokens of the conversation, with its oldest turns forgotten until an answer of some length has room. */
static sg_status fit(chat *c, int32_t **ids, size_t *n, sg_error *err) {
    const size_t capacity = sg_session_capacity(c->a->m.session);
    size_t room = capacity / 4 < 256 ? capacity / 4 : 256;
    if (c->a->n_predict >= 0 && (uint64_t)c->a->n_predict < room) room = (size_t)c->a->n_predict;
    size_t forgotten = 0;
    for (;;) {
        const sg_status s = tokenize(c, ids, n, err);
        if (s != SG_OK) return s;
        const size_t old = c->n_system;
        if (*n + room <= capacity || old + 1 >= c->n) break;
        /* a turn: the message of the user and the answer after it */
        forget(c, old, old + 2 < c->n ? old + 2 : c->n - 1);
        forgotten++;
        sg_free(*ids);
        *ids = NULL; /* the caller frees it when the next round fails */
    }
    if (forgotten) cli_note(c->a->m.quiet, "the context is full: forgot the oldest %zu of the turns", forgotten);
    return SG_OK;
}

/* Brings the session to the conversation. A cancel that came too late for the last answer must not stop this one. */
static sg_status sync_session(const chat *c, const int32_t *ids, size_t n, sg_error *err) {
    sg_status s = sg_session_sync(c->a->m.session, ids, n, err);
    if (s == SG_E_CANCELLED && !cli_interrupted()) s = sg_session_sync(c->a->m.session, ids, n, err);
    return s;
}

static sg_status answer(chat *c, sg_generate_result *result, sg_error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    c->answer_len = 0;
    if (c->answer) c->answer[0] = '\0';
    sg_status s = fit(c, &ids, &n, err);
    if (s == SG_OK) s = sync_session(c, ids, n, err);
    sg_free(ids);
    if (s != SG_OK) return s;
    const sg_generate_options o = cli_generate_options(c->a, on_text, c);
    s = sg_generate(c->a->m.session, c->sampler, &o, result, err);
    if (c->answer_len > 0 && c->answer[c->answer_len - 1] != '\n') cli_write("\n", 1);
    return s;
}

/* One message and its answer. 0, or the exit code when the chat cannot go on. */
static int turn(chat *c, const char *text) {
    sg_generate_result result = { SG_STOP_EOG, 0 };
    sg_error err;
    cli_clear_interrupt();
    if (!push(c, "user", text)) return cli_fail("out of memory");
    const sg_status s = answer(c, &result, &err);
    if (c->failed || s == SG_E_NOMEM) return cli_fail("out of memory");
    if (result.reason == SG_STOP_CALLBACK) return CLI_FAILED; /* stdout is gone; cli_finish says so */
    if (s == SG_E_CANCELLED || (s == SG_OK && result.reason == SG_STOP_CANCELLED))
        cli_note(c->a->m.quiet, "interrupted");
    else if (s != SG_OK)
        cli_fail("%s", err.message);
    if (s != SG_OK) { /* this message had no answer: the conversation stays what it was */
        forget(c, c->n - 1, c->n);
        return s == SG_E_INTERNAL || s == SG_E_IO ? CLI_FAILED : CLI_OK;
    }
    if (result.reason == SG_STOP_CONTEXT)
        cli_note(c->a->m.quiet, "the context is full, so the answer ends here (-c makes it larger)");
    if (!push(c, "assistant", c->answer ? c->answer : "")) return cli_fail("out of memory");
    if (c->unsaved == CLI_OK && cli_prompt_cache_save(c->a) == CLI_FAILED) c->unsaved = CLI_FAILED; /* said once; the chat goes on */
    return CLI_OK;
}

static int loop(chat *c, const char *first) {
    char prompt[32];
    snprintf(prompt, sizeof prompt, "%s", "> ");
    cli_line *line = cli_line_create(prompt);
    if (!line) return cli_fail("out of memory");
    int r = first && *first ? turn(c, first) : CLI_OK;
    while (r == CLI_OK) {
        const char *text = cli_line_read(line);
        if (!text || strcmp(text, "/quit") == 0) break;
        if (strcmp(text, "/reset") == 0) {
            forget(c, c->n_system, c->n);
            cli_note(c->a->m.quiet, "the conversation starts anew");
        } else if (*text) {
            r = turn(c, text);
        }
    }
    cli_line_destroy(line);
    return r;
}

int cli_chat(cli_generate_args *a, sg_sampler *sampler, const char *first) {
    chat c = { .a = a, .sampler = sampler };
    const sg_model_info *info = sg_model_get_info(a->m.model);
    if (!info->chat_family) cli_note(a->m.quiet, "the model names no chat form that is known; using chatml");
    if (isatty(STDIN_FILENO)) cli_note(a->m.quiet, "/reset forgets the conversation, /quit or Ctrl-D ends it");
    int r = CLI_OK;
    if (a->system) {
        if (!push(&c, "system", a->system)) r = cli_fail("out of memory");
        c.n_system = 1;
    }
    if (r == CLI_OK) r = loop(&c, first);
    if (r == CLI_OK) r = c.unsaved;
    if (a->m.stats) cli_print_stats(&a->m);
    if (c.n > 0) forget(&c, 0, c.n);
    free(c.messages);
    free(c.answer);
    return r;
}
