/* sparsegen -m FILE -p TEXT: continues a text; with -i it hands over to the chat. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/cli/sampling.h"

typedef struct written {
    bool any;
    char last;
} written;

static bool on_text(void *user, const char *text, size_t len) {
    written *w = user;
    w->any = true;
    w->last = text[len - 1];
    return cli_write(text, len);
}

sg_generate_options cli_generate_options(const cli_generate_args *a, sg_text_fn fn, void *user) {
    sg_generate_options o = SG_GENERATE_OPTIONS_INIT;
    o.max_tokens = a->n_predict;
    o.ignore_eog = a->ignore_eos;
    o.stop = a->stop.v;
    o.n_stop = a->stop.n;
    o.on_text = fn;
    o.user = user;
    return o;
}

static int make_sampler(cli_generate_args *a, sg_sampler **out) {
    if (!a->seed_given && a->temp > 0.0) {
        uint64_t seed;
        if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
            return cli_fail("no random numbers for a seed: %s", strerror(errno));
        a->seed = seed >> 32; /* short enough to be typed again */
        cli_note(a->m.quiet, "seed %llu", (unsigned long long)a->seed);
    }
    sg_sampler_options o = SG_SAMPLER_OPTIONS_INIT;
    o.seed = a->seed;
    o.temperature = (float)a->temp;
    o.top_k = (int32_t)a->top_k;
    o.top_p = (float)a->top_p;
    o.min_p = (float)a->min_p;
    o.repeat_penalty = (float)a->repeat_penalty;
    o.presence_penalty = (float)a->presence_penalty;
    o.frequency_penalty = (float)a->frequency_penalty;
    o.penalty_last_n = (int32_t)a->repeat_last_n;
    sg_error err;
    if (sg_sampler_create(&o, sg_model_get_info(a->m.model)->n_vocab, out, &err) != SG_OK) return cli_fail_error(&err);
    return CLI_OK;
}

/* Feeds the prompt: as it is, or as the question of a chat when there is a system text. */
static int feed(const cli_generate_args *a, const char *prompt, size_t len) {
    const sg_chat_message messages[2] = { { "system", a->system }, { "user", prompt } };
    char *text = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    int saved = CLI_OK;
    sg_error err;
    sg_status s = a->system ? sg_chat_format(a->m.model, messages, 2, true, &text, &err) : SG_OK;
    const char *from = a->system ? text : prompt;
    if (s == SG_OK)
        s = sg_tokenize(a->m.model, from, a->system ? strlen(text) : len, SG_TOKENIZE_BOS | (a->system ? SG_TOKENIZE_PARSE_SPECIAL : 0), &ids, &n, &err);
    /* an empty prompt of a model without a beginning token: feed_text says so */
    if (s == SG_OK) s = n > 0 ? cli_prompt_cache_feed(a, ids, n, &saved, &err) : sg_session_feed_text(a->m.session, prompt, len, &err);
    sg_free(text);
    sg_free(ids);
    return s != SG_OK ? cli_fail_error(&err) : saved;
}

static int generate(cli_generate_args *a, sg_sampler *sampler, const char *prompt, size_t len) {
    sg_error err;
    const int r = feed(a, prompt, len);
    if (r != CLI_OK) return r;
    const int32_t *tokens = sg_session_tokens(a->m.session);
    for (size_t i = 0; i < sg_session_length(a->m.session); i++) sg_sampler_accept(sampler, tokens[i]);

    written w = { 0 };
    const sg_generate_options o = cli_generate_options(a, on_text, &w);
    sg_generate_result result;
    const sg_status s = sg_generate(a->m.session, sampler, &o, &result, &err);
    if (w.any && w.last != '\n' && isatty(STDOUT_FILENO)) cli_write("\n", 1);
    if (s != SG_OK) return cli_fail_error(&err);
    if (result.reason == SG_STOP_CONTEXT) cli_note(a->m.quiet, "the context is full (-c makes it larger)");
    if (a->m.stats) cli_print_stats(&a->m);
    return result.reason == SG_STOP_CANCELLED ? CLI_INTERRUPTED : CLI_OK;
}

/* The prompt of -p, -f or "-", zero-terminated; NULL when there is none (only -i allows that). */
static int read_prompt(const cli_generate_args *a, const char *file, char **out, size_t *len) {
    *out = NULL;
    *len = 0;
    if (a->prompt) {
        *out = strdup(a->prompt);
        if (!*out) return cli_fail("out of memory");
        *len = strlen(*out);
        return CLI_OK;
    }
    if (!file) return CLI_OK;
    char *text;
    const int r = cli_read_file(file, &text, len);
    if (r != CLI_OK) return r;
    if (*len > 0 && text[*len - 1] == '\n') --*len; /* editors and echo put it there; it is not meant */
    *out = malloc(*len + 1);
    if (*out) memcpy(*out, text, *len);
    free(text);
    if (!*out) return cli_fail("out of memory");
    (*out)[*len] = '\0';
    if ((a->system || a->chat) && memchr(*out, '\0', *len))
        return cli_fail("%s: a zero byte cannot be part of a message", file);
    return CLI_OK;
}

static int run(cli_generate_args *a, const char *file) {
    char *prompt;
    size_t len;
    sg_sampler *sampler = NULL;
    int r = read_prompt(a, file, &prompt, &len);
    a->m.goes_back = a->chat;
    cli_catch_interrupts();
    if (r == CLI_OK) r = cli_open_model(&a->m, (uint64_t)a->n_ctx);
    if (r == CLI_OK) r = cli_open_session(&a->m, (uint64_t)a->n_ctx);
    if (r == CLI_OK) cli_prompt_cache_open(a);
    if (r == CLI_OK) r = make_sampler(a, &sampler);
    if (r == CLI_OK) r = a->chat ? cli_chat(a, sampler, prompt) : generate(a, sampler, prompt, len);
    if (r == CLI_OK) r = cli_write_trace(&a->m);
    free(prompt);
    sg_sampler_destroy(&sampler);
    cli_close(&a->m);
    return r;
}

static cli_generate_args defaults(void) {
    const sg_sampler_options s = SG_SAMPLER_OPTIONS_INIT;
    return (cli_generate_args) { .n_predict = -1,
                                 .temp = (double)s.temperature,
                                 .top_k = s.top_k,
                                 .top_p = (double)s.top_p,
                                 .min_p = (double)s.min_p,
                                 .repeat_penalty = (double)s.repeat_penalty,
                                 .repeat_last_n = s.penalty_last_n };
}

int cmd_generate(int argc, char **argv) {
    cli_generate_args a = defaults();
    const cli_opt opts[] = {
        { NULL, 0, CLI_FLAG, NULL, NULL, "text:" },
        { "prompt", 'p', CLI_STR, &a.prompt, "TEXT", "the text to continue; with -i the first message" },
        { "file", 'f', CLI_STR, &a.file, "FILE",
          "read the prompt from FILE (- is standard input); one newline at its end is dropped" },
        { "predict", 'n', CLI_INT, &a.n_predict, "N",
          "tokens to generate (default -1: until the model ends or the context is full)", -1, 1e15 },
        { "ctx-size", 'c', CLI_INT, &a.n_ctx, "N", "tokens of context (default: as trained, at most 4096)", 0,
          1 << 30 },
        { "interactive", 'i', CLI_FLAG, &a.chat, NULL, "chat" },
        { "system", 0, CLI_STR, &a.system, "TEXT",
          "system message of the chat; without -i the prompt becomes one question in the model's chat form" },
        { "stop", 0, CLI_LIST, &a.stop, "STR", "end the text before STR; may be repeated" },
        { "prompt-cache", 0, CLI_STR, &a.prompt_cache, "FILE",
          "take up the session in FILE as far as the prompt agrees with it, and save it there" },
        { "ignore-eos", 0, CLI_FLAG, &a.ignore_eos, NULL, "go on when the model ends its text" },
        { NULL, 0, CLI_FLAG, NULL, NULL, "sampling:" },
        { "seed", 's', CLI_U64, &a.seed, "N", "makes the text repeatable (default: drawn, and printed on stderr)", 0, 0,
          NULL, &a.seed_given },
        { "temp", 0, CLI_REAL, &a.temp, "X", "temperature, 0 takes the likeliest token (default 0.8)", 0, 1e6 },
        { "top-k", 0, CLI_INT, &a.top_k, "N", "keep the N likeliest tokens, 0: all (default 40)", 0, INT32_MAX },
        { "top-p", 0, CLI_REAL, &a.top_p, "X", "keep the likeliest tokens up to this probability (default 0.95)", 0,
          1 },
        { "min-p", 0, CLI_REAL, &a.min_p, "X", "keep tokens at least X times as likely as the likeliest (default 0.05)",
          0, 1 },
        { "repeat-penalty", 0, CLI_REAL, &a.repeat_penalty, "X", "weaken recent tokens, 1: off (default 1)", 1e-6,
          1e6 },
        { "repeat-last-n", 0, CLI_INT, &a.repeat_last_n, "N", "how many tokens are recent, -1: all (default 64)", -1,
          1 << 20 },
        { "presence-penalty", 0, CLI_REAL, &a.presence_penalty, "X", "taken off tokens that are recent (default 0)",
          -1e6, 1e6 },
        { "frequency-penalty", 0, CLI_REAL, &a.frequency_penalty, "X",
          "taken off tokens per recent occurrence (default 0)", -1e6, 1e6 },
        CLI_MODEL_OPTS(&a.m),
        CLI_SESSION_OPTS(&a.m),
        { "stats", 0, CLI_FLAG, &a.m.stats, NULL,
          "speed and memory on stderr at the end, and what was chosen at the start" },
        { "color", 0, CLI_FLAG, &a.color, NULL, "color notes even when stderr is no terminal" },
        { "version", 0, CLI_FLAG, &a.version, NULL, "show the version" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen",
        .synopsis = "-m FILE (-p TEXT | -f FILE | - | -i) [options]",
        .about = "Continues a text with a language model. Only the new text goes to standard output.\n"
                 "Other commands: info, tokenize, logits, perplexity, convert, calibrate, verify, bench, gpu (each with --help).",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .max_args = 1,
        .more = "Ctrl-C ends the text (exit status 130); in a chat it ends the answer. A second Ctrl-C quits at once.",
    };
    const char *args[1] = { NULL };
    int n_args = 0;
    const int r = cli_parse(&syntax, argc, argv, args, &n_args);
    if (r != CLI_GO) return r;
    if (a.version) {
        printf("sparsegen %s\n", sg_version());
        return CLI_OK;
    }
    if (n_args == 1 && strcmp(args[0], "-") != 0)
        return cli_usage_error(&syntax, "unexpected argument '%s' (a prompt needs -p)", args[0]);
    if (!a.m.path) return cli_usage_error(&syntax, "-m FILE is missing");
    const char *file = n_args == 1 ? "-" : a.file;
    if ((a.prompt != NULL) + (a.file != NULL) + n_args > 1)
        return cli_usage_error(&syntax, "-p, -f and - exclude each other");
    if (!a.prompt && !file && !a.chat)
        return cli_usage_error(&syntax, "a prompt is missing: -p TEXT, -f FILE, - or -i");
    if (a.chat && file && strcmp(file, "-") == 0)
        return cli_usage_error(&syntax, "-i reads messages from standard input, so - is not possible");
    for (size_t i = 0; i < a.stop.n; i++)
        if (!a.stop.v[i][0]) return cli_usage_error(&syntax, "--stop: the text is empty");
    if (a.color) cli_set_color(true);
    return run(&a, file);
}
