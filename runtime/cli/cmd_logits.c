/* sparsegen logits: for comparing engines bit by bit. */
#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/cli.h"

#define MAX_KEPT_BYTES ((size_t)64 << 20) /* of logits at a time */

static bool write_row(FILE *f, const float *row, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        bits = htole32(bits);
        if (fwrite(&bits, sizeof bits, 1, f) != 1) return false;
    }
    return true;
}

/* Feeds ids and writes the rows of the last `last` of them. */
static int write_logits(const cli_model *m, const int32_t *ids, size_t n, size_t last, FILE *f, const char *path) {
    const size_t n_vocab = sg_model_get_info(m->model)->n_vocab;
    size_t chunk = MAX_KEPT_BYTES / (n_vocab * sizeof(float));
    if (chunk == 0) chunk = 1;
    sg_error err;
    size_t at = n - last;
    if (at > 0 && sg_session_feed(m->session, ids, at, 1, &err) != SG_OK) return cli_fail_error(&err);
    while (at < n) {
        const size_t now = n - at < chunk ? n - at : chunk;
        if (sg_session_feed(m->session, ids + at, now, now, &err) != SG_OK) return cli_fail_error(&err);
        for (size_t i = 0; i < now; i++)
            if (!write_row(f, sg_session_logits(m->session, i), n_vocab))
                return cli_fail("%s: cannot be written: %s", path, strerror(errno));
        at += now;
    }
    return CLI_OK;
}

/* "1 5 7": ids separated by blanks or commas; free() them. CLI_GO, or the exit code, the error printed. */
static int parse_ids(const cli_syntax *syntax, const char *text, int32_t **out, size_t *n) {
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    *n = 0;
    if (!ids) return cli_fail("out of memory");
    for (const char *p = text;;) {
        while (isspace((unsigned char)*p) || *p == ',') p++;
        if (!*p) break;
        char *end;
        errno = 0;
        const long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || (*end && !isspace((unsigned char)*end) && *end != ',')) {
            free(ids);
            return cli_usage_error(syntax, "--tokens: '%.20s' is not a token id", p);
        }
        ids[(*n)++] = (int32_t)v;
        p = end;
    }
    *out = ids;
    return CLI_GO;
}

typedef struct logits_args {
    cli_model m;
    const char *prompt, *tokens, *out;
    int32_t *ids; /* of --tokens */
    size_t n_ids;
    int64_t last;
} logits_args;

static int run(logits_args *a) {
    int32_t *tokenized = NULL;
    size_t n = a->n_ids;
    sg_error err;
    cli_catch_interrupts();
    /* a token has at least one byte, the beginning aside */
    int r = cli_open_model(&a->m, a->tokens ? a->n_ids : strlen(a->prompt) + 2);
    if (r != CLI_OK) return r;
    if (!a->tokens &&
        sg_tokenize(a->m.model, a->prompt, strlen(a->prompt), SG_TOKENIZE_SPECIAL, &tokenized, &n, &err) != SG_OK)
        r = cli_fail_error(&err);
    if (r == CLI_OK && n == 0) r = cli_fail("there are no tokens to evaluate");
    if (r == CLI_OK) r = cli_open_session(&a->m, n);
    cli_output out = { 0 };
    if (r == CLI_OK) r = cli_output_open(&out, a->out);
    if (r == CLI_OK) {
        const size_t last = a->last > 0 && (uint64_t)a->last < n ? (size_t)a->last : n;
        r = write_logits(&a->m, a->tokens ? a->ids : tokenized, n, last, out.f, a->out);
        const int closed = cli_output_close(&out, r == CLI_OK);
        if (r == CLI_OK) r = closed;
    }
    if (r == CLI_OK && a->m.stats) cli_print_stats(&a->m);
    sg_free(tokenized);
    return r;
}

int cmd_logits(int argc, char **argv) {
    logits_args a = { 0 };
    const cli_opt opts[] = {
        { "prompt", 'p', CLI_STR, &a.prompt, "TEXT",
          "the text; tokenized with the beginning token if the model asks for one" },
        { "tokens", 0, CLI_STR, &a.tokens, "IDS", "token ids instead, separated by blanks" },
        { "output", 'o', CLI_STR, &a.out, "FILE", "float32, little-endian, a row of the vocabulary per position" },
        { "last", 0, CLI_INT, &a.last, "N", "only the last N positions (default: all)", 1, 1e9 },
        CLI_MODEL_OPTS(&a.m),
        CLI_SESSION_OPTS(&a.m),
        { "stats", 0, CLI_FLAG, &a.m.stats, NULL, "speed and memory on stderr" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen logits",
        .synopsis = "-m FILE (-p TEXT | --tokens IDS) -o FILE [options]",
        .about = "Writes the logits of each position of a text. The file appears when it is complete.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
    };
    int n;
    int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (!a.m.path) return cli_usage_error(&syntax, "-m FILE is missing");
    if (!a.out) return cli_usage_error(&syntax, "-o FILE is missing");
    if (!a.prompt == !a.tokens) return cli_usage_error(&syntax, "one of -p TEXT and --tokens IDS is needed");
    if (a.tokens) r = parse_ids(&syntax, a.tokens, &a.ids, &a.n_ids);
    if (r != CLI_GO) return r;
    r = run(&a);
    free(a.ids);
    cli_close(&a.m);
    return r;
}
