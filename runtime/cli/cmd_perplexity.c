/* sparsegen perplexity, by the method of llama.cpp's perplexity tool, so that figures can be compared: the text is cut
 * into windows of n_ctx tokens that do not overlap; each is evaluated alone, its first token replaced by the beginning
 * token if the model adds one; only the predictions in the second half count, where every token sees at least half a
 * window. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/cli.h"

#define MAX_KEPT_BYTES ((size_t)64 << 20)

typedef struct score {
    double sum, sum_squares; /* of -log p(token) */
    size_t n;
} score;

/* -log softmax(row)[token] */
static double loss(const float *row, size_t n, int32_t token) {
    double max = -INFINITY, sum = 0.0;
    for (size_t i = 0; i < n; i++) max = fmax(max, (double)row[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)row[i] - max);
    return log(sum) + max - (double)row[token];
}

static double perplexity(const score *s) { return exp(s->sum / (double)s->n); }

/* Standard error of the perplexity: that of the mean loss, carried through exp. */
static double standard_error(const score *s) {
    if (s->n < 2) return 0.0;
    const double mean = s->sum / (double)s->n, variance = s->sum_squares / (double)s->n - mean * mean;
    return variance > 0.0 ? sqrt(variance / (double)(s->n - 1)) * perplexity(s) : 0.0;
}

/* Evaluates one window and adds the losses of its second half. */
static sg_status score_window(const cli_model *m, int32_t *ids, size_t n_ctx, score *s, sg_error *err) {
    const sg_model_info *info = sg_model_get_info(m->model);
    const int32_t first = ids[0];
    const size_t skip = n_ctx / 2;
    size_t chunk = MAX_KEPT_BYTES / (info->n_vocab * sizeof(float)), at = skip;
    if (chunk == 0) chunk = 1;
    sg_status status = sg_session_rewind(m->session, 0, err);
    if (status != SG_OK) return status;
    if (info->adds_bos && info->bos >= 0) ids[0] = info->bos;
    status = sg_session_feed(m->session, ids, skip, 1, err);
    ids[0] = first;
    /* the prediction of the last position has no answer inside the window */
    while (status == SG_OK && at + 1 < n_ctx) {
        const size_t now = n_ctx - 1 - at < chunk ? n_ctx - 1 - at : chunk;
        status = sg_session_feed(m->session, ids + at, now, now, err);
        for (size_t i = 0; status == SG_OK && i < now; i++) {
            const double x = loss(sg_session_logits(m->session, i), info->n_vocab, ids[at + i + 1]);
            s->sum += x;
            s->sum_squares += x * x;
            s->n++;
        }
        at += now;
    }
    return status;
}

static int score_text(const cli_model *m, int32_t *ids, size_t n, size_t n_ctx, size_t max_windows) {
    size_t windows = n / n_ctx;
    if (windows == 0)
        return cli_fail("the text has %zu tokens, a window of %zu needs more (-c makes it smaller)", n, n_ctx);
    if (max_windows && windows > max_windows) windows = max_windows;
    score s = { 0 };
    sg_error err;
    for (size_t i = 0; i < windows; i++) {
        if (score_window(m, ids + i * n_ctx, n_ctx, &s, &err) != SG_OK) return cli_fail_error(&err);
        if (!m->quiet) fprintf(stderr, "[%zu/%zu] %.4f +- %.4f\n", i + 1, windows, perplexity(&s), standard_error(&s));
    }
    printf("perplexity %.4f +- %.4f (%zu windows of %zu tokens, %zu predictions)\n", perplexity(&s), standard_error(&s),
           windows, n_ctx, s.n);
    return CLI_OK;
}

static int run(cli_model *m, const char *text, size_t len, size_t n_ctx, size_t max_windows) {
    int32_t *ids = NULL;
    size_t n = 0;
    sg_error err;
    cli_catch_interrupts();
    int r = cli_open_model(m, n_ctx);
    if (r == CLI_OK && sg_tokenize(m->model, text, len, SG_TOKENIZE_SPECIAL, &ids, &n, &err) != SG_OK)
        r = cli_fail_error(&err);
    if (r == CLI_OK) r = cli_open_session(m, n_ctx);
    if (r == CLI_OK) r = score_text(m, ids, n, n_ctx, max_windows);
    if (r == CLI_OK && m->stats) cli_print_stats(m);
    sg_free(ids);
    return r;
}

int cmd_perplexity(int argc, char **argv) {
    cli_model m = { 0 };
    const char *file = NULL;
    int64_t n_ctx = 512, chunks = 0;
    const cli_opt opts[] = {
        { "file", 'f', CLI_STR, &file, "FILE", "the text (- is standard input)" },
        { "ctx-size", 'c', CLI_INT, &n_ctx, "N", "tokens of a window (default 512)", 4, 1 << 24 },
        { "chunks", 0, CLI_INT, &chunks, "N", "evaluate only the first N windows", 1, 1e9 },
        CLI_MODEL_OPTS(&m),
        CLI_SESSION_OPTS(&m),
        { "stats", 0, CLI_FLAG, &m.stats, NULL, "speed and memory on stderr at the end" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen perplexity",
        .synopsis = "-m FILE -f FILE [options]",
        .about = "Measures how well a model predicts a text; lower is better. The last line, on stdout, is the result "
                 "with its\n"
                 "standard error; the value after each window goes to stderr.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .more =
            "Method (that of llama.cpp): windows of -c tokens that do not overlap, each evaluated alone, its first "
            "token\n"
            "replaced by the beginning token if the model adds one; the predictions in the second half of each count.",
    };
    int n;
    int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (!m.path) return cli_usage_error(&syntax, "-m FILE is missing");
    if (!file) return cli_usage_error(&syntax, "-f FILE is missing");
    char *text = NULL;
    size_t len = 0;
    r = cli_read_file(file, &text, &len);
    if (r == CLI_OK) r = run(&m, text, len, (size_t)n_ctx, (size_t)chunks);
    free(text);
    cli_close(&m);
    return r;
}
