/* sparsegen bench: speed on token ids that are always the same, and how near it comes to the machine's limits. What the
 * ids are does not matter to a dense model; for one with experts or sparse layers that is not all in RAM they come from a file. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/bench.h"

static const char *const formats[] = { "table", "json", "csv", NULL };

typedef struct bench_args {
    cli_model m;
    cli_ints prompt, decode, depth, threads;
    int64_t repeats, warm;
    const char *ids_file;
    int format;
    bool no_limits, limits_only;
    int32_t *ids;         /* for the longest test; those of a file, and their beginning once more so that a test fits behind the last */
    size_t n_ids, next;   /* from a file: how many, and the one to be fed next */
    bench_printer printer;
    bench_row *rows; /* of one thread count */
    size_t n_rows;
} bench_args;

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int64_t largest(const cli_ints *list) {
    int64_t most = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i] > most) most = list->v[i];
    return most;
}

/* The n ids to feed behind the first `depth`: made-up ones are the same for each run, a file is read on. */
static const int32_t *take_ids(bench_args *a, size_t depth, size_t n) {
    if (!a->ids_file) return a->ids + depth;
    const int32_t *ids = a->ids + a->next;
    a->next = (a->next + n) % a->n_ids;
    return ids;
}

/* Evaluates n tokens behind the first `depth`: together, or one by one, each[n] then gets the time of each unless it is NULL. */
static sg_status evaluate(bench_args *a, size_t depth, size_t n, bool together, double *seconds, double *each, sg_error *err) {
    sg_session *s = a->m.session;
    const int32_t *ids = take_ids(a, depth, n);
    sg_status status = sg_session_rewind(s, depth, err);
    const double start = cli_now();
    double last = start;
    if (together) {
        if (status == SG_OK) status = sg_session_feed(s, ids, n, 1, err);
        last = cli_now();
    }
    for (size_t i = 0; i < n && !together && status == SG_OK; i++) {
        status = sg_session_feed(s, ids + i, 1, 1, err);
        const double now = cli_now();
        if (each) each[i] = now - last;
        last = now;
    }
    *seconds = last - start;
    return status;
}

/* What a token of the test costs, from the model and the session. */
static void set_work(const bench_args *a, bench_row *r, bool together) {
    const double n = (double)r->tokens;
    const sg_work work = sg_model_get_work(a->m.model, together ? r->tokens : 1, 1);
    r->int8_ops = (double)work.int8_ops / (together ? n : 1);
    r->f32_ops = (double)work.f32_ops / (together ? n : 1);
    if (together) return;
    const double position =
        (double)sg_session_get_stats(a->m.session).kv_bytes / (double)sg_session_capacity(a->m.session);
    r->weight_bytes = (double)work.weight_bytes;
    r->kv_bytes = position * ((double)r->depth + (n + 1) / 2); /* token i sees depth + i + 1 positions */
}

/* Bytes that the session has read while computing. */
static double bytes_read(const bench_args *a) {
    const sg_stats stats = sg_session_get_stats(a->m.session);
    return (double)(stats.demand_bytes + stats.prefetch_bytes);
}

/* Fills in the row of a test: times[k] of the runs, each[k * n] of their tokens or NULL. Sorts both. */
static void set_row(const bench_args *a, size_t depth, size_t n, double *times, double *each, double read, bench_row *r) {
    const size_t k = (size_t)a->repeats, count = k * n;
    qsort(times, k, sizeof *times, by_value);
    *r = (bench_row) { .n_threads = sg_session_get_stats(a->m.session).n_threads,
                       .tokens = n,
                       .depth = depth,
                       .repeats = a->repeats,
                       .read_bytes = read / (double)count };
    snprintf(r->test, sizeof r->test, "%s%zu", each ? "tg" : "pp", n);
    r->seconds = k % 2 ? times[k / 2] : (times[k / 2 - 1] + times[k / 2]) / 2.0;
    r->seconds_min = times[0];
    r->seconds_max = times[k - 1];
    if (each) {
        qsort(each, count, sizeof *each, by_value);
        r->token_p50 = each[(count - 1) * 50 / 100];
        r->token_p90 = each[(count - 1) * 90 / 100];
        r->token_p99 = each[(count - 1) * 99 / 100];
    }
    set_work(a, r, !each);
}

/* One test: a run to warm up, then the others. */
static int measure(bench_args *a, size_t depth, size_t n, bool together, bench_row *r) {
    const size_t k = (size_t)a->repeats, warm = a->warm > 0 ? (size_t)a->warm : 1;
    double *times = malloc(k * sizeof *times), *each = together ? NULL : malloc(k * n * sizeof *each), warm_up;
    if (!times || !(together || each)) {
        free(times);
        free(each);
        return cli_fail("out of memory");
    }
    sg_error err;
    sg_status s = evaluate(a, depth, together ? n : warm, together, &warm_up, NULL, &err);
    if (!together) depth += (size_t)a->warm;
    const double before = bytes_read(a);
    for (size_t i = 0; i < k && s == SG_OK; i++) s = evaluate(a, depth, n, together, &times[i], each ? each + i * n : NULL, &err);
    if (s == SG_OK) set_row(a, depth, n, times, each, bytes_read(a) - before, r);
    free(times);
    free(each);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}

/* Tokens of the longest test: before tokens that are fed one by one come those to warm up. */
static uint64_t longest(const bench_args *a, int64_t np, int64_t nd) {
    const int64_t one_by_one = nd > 0 ? nd + a->warm : 0;
    return (uint64_t)(np > one_by_one ? np : one_by_one);
}

/* All tests at one depth, in a context that is no longer than they need. */
static int run_depth(bench_args *a, int64_t threads, size_t depth) {
    a->m.threads = threads;
    const int64_t np = largest(&a->prompt), nd = largest(&a->decode);
    int r = cli_open_session(&a->m, depth + longest(a, np, nd));
    sg_error err;
    a->next = a->ids_file ? depth % a->n_ids : 0;
    if (r == CLI_OK && depth > 0 && sg_session_feed(a->m.session, a->ids, depth, 1, &err) != SG_OK)
        r = cli_fail_error(&err);
    for (size_t i = 0; i < a->prompt.n + a->decode.n && r == CLI_OK; i++) {
        const bool together = i < a->prompt.n;
        const int64_t n = together ? a->prompt.v[i] : a->decode.v[i - a->prompt.n];
        if (n > 0) r = measure(a, depth, (size_t)n, together, &a->rows[a->n_rows++]);
    }
    if (r == CLI_OK && a->m.stats) cli_print_stats(&a->m);
    if (r == CLI_OK) r = cli_write_trace(&a->m);
    cli_close_session(&a->m);
    return r;
}

/* Measures the limits and keeps the better ones of *best and these; of medians the mean. */
static int measure_limits(const bench_args *a, int64_t threads, sg_limits *best) {
    sg_limits l;
    sg_error err;
    const char *mask = a->m.cpu_mask > 0 ? cli_cpu_choices[a->m.cpu_mask] : NULL;
    if (sg_limits_measure(mask, (uint32_t)threads, &l, &err) != SG_OK) return cli_fail_error(&err);
    if (best->n_threads > 0) {
        l.read_median = (l.read_median + best->read_median) / 2;
        if (l.read < best->read) l.read = best->read;
        if (l.read_plain < best->read_plain) l.read_plain = best->read_plain;
        if (l.int8 < best->int8) l.int8 = best->int8;
        if (l.int8_sum < best->int8_sum) l.int8_sum = best->int8_sum;
        if (l.f32 < best->f32) l.f32 = best->f32;
    }
    *best = l;
    return cli_interrupted() ? CLI_INTERRUPTED : CLI_OK;
}

/* All tests with one thread count, between two measurements of the limits: other programs may take part of the machine.
 */
static int run_threads(bench_args *a, int64_t threads, sg_limits *limits) {
    int r = a->no_limits ? CLI_OK : measure_limits(a, threads, limits);
    a->n_rows = 0;
    for (size_t d = 0; d < a->depth.n && !a->limits_only && r == CLI_OK; d++)
        r = run_depth(a, threads, (size_t)a->depth.v[d]);
    if (r == CLI_OK && !a->no_limits && !a->limits_only) r = measure_limits(a, threads, limits);
    if (r == CLI_OK && a->limits_only) a->rows[a->n_rows++] = (bench_row) { .test = "limits" };
    for (size_t i = 0; i < a->n_rows && r == CLI_OK; i++) {
        a->rows[i].limits = *limits;
        bench_print(&a->printer, &a->rows[i]);
    }
    return r;
}

/* The ids of a file of numbers, and n more that are its beginning again. */
static int read_ids(bench_args *a, size_t n) {
    char *text, *save = NULL;
    size_t len, k = 0;
    const int r = cli_read_file(a->ids_file, &text, &len);
    if (r != CLI_OK) return r;
    const int64_t n_vocab = sg_model_get_info(a->m.model)->n_vocab;
    int code = CLI_OK;
    char *zero_ended = realloc(text, len + 1);
    a->ids = malloc((len / 2 + 1 + n) * sizeof *a->ids); /* a number and a blank are two bytes */
    if (zero_ended) (text = zero_ended)[len] = 0;
    if (!zero_ended || !a->ids) code = cli_fail("out of memory");
    for (char *word = code == CLI_OK ? strtok_r(text, " \t\r\n", &save) : NULL; word && code == CLI_OK; word = strtok_r(NULL, " \t\r\n", &save)) {
        int64_t id;
        if (cli_parse_int(word, &id) && id >= 0 && id < n_vocab) a->ids[k++] = (int32_t)id;
        else code = cli_fail("%s: '%.20s' is no token id of this model", a->ids_file, word);
    }
    free(text);
    if (code == CLI_OK && k == 0) code = cli_fail("%s: there are no token ids", a->ids_file);
    for (size_t i = k; code == CLI_OK && i < k + n; i++) a->ids[i] = a->ids[i - k];
    a->n_ids = k;
    return code;
}

/* Token ids for the longest test. */
static int make_ids(bench_args *a) {
    const int64_t np = largest(&a->prompt), nd = largest(&a->decode);
    const size_t n = (size_t)largest(&a->depth) + longest(a, np, nd);
    if (a->ids_file) return read_ids(a, n);
    a->ids = malloc(n * sizeof *a->ids);
    if (!a->ids) return cli_fail("out of memory");
    uint32_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u; /* Numerical Recipes, section 7.1 */
        a->ids[i] = (int32_t)((x >> 8) % sg_model_get_info(a->m.model)->n_vocab);
    }
    return CLI_OK;
}

static int run(bench_args *a) {
    sg_limits limits[CLI_INTS_MAX] = { 0 };
    cli_catch_interrupts();
    int r = CLI_OK;
    const int64_t np = largest(&a->prompt), nd = largest(&a->decode);
    if (!a->limits_only) r = cli_open_model(&a->m, (uint64_t)largest(&a->depth) + longest(a, np, nd));
    if (r == CLI_OK && !a->limits_only) r = make_ids(a);
    if (r != CLI_OK) return r;
    a->rows = malloc((1 + a->depth.n * (a->prompt.n + a->decode.n)) * sizeof *a->rows);
    if (!a->rows) return cli_fail("out of memory");
    a->printer = (bench_printer) { .format = a->format, .model = sg_model_get_info(a->m.model) };
    size_t done = 0;
    for (; done < a->threads.n && r == CLI_OK; done++) r = run_threads(a, a->threads.v[done], &limits[done]);
    if (r != CLI_OK) done--;
    bench_print_end(&a->printer, limits, a->no_limits ? 0 : done);
    return r;
}

/* A list that was not given. */
static void set_default(cli_ints *list, int64_t v) {
    if (list->n == 0) list->v[list->n++] = v;
}

int cmd_bench(int argc, char **argv) {
    bench_args a = { .repeats = 3 };
    const double most = 1 << 24;
    const cli_opt opts[] = {
        { "prompt-tokens", 'p', CLI_INTS, &a.prompt, "N,..",
          "tokens evaluated together (default 512, 0: leave this out)", 0, most },
        { "decode-tokens", 'n', CLI_INTS, &a.decode, "N,..",
          "tokens evaluated one by one (default 32, 0: leave this out)", 0, most },
        { "depth", 'd', CLI_INTS, &a.depth, "N,..", "tokens in the context before a test begins (default 0)", 0, most },
        { "threads", 't', CLI_INTS, &a.threads, "N,..", "threads (default: one per usable core)", 0, 1024 },
        { "warm", 0, CLI_INT, &a.warm, "N",
          "tokens fed one by one before those that are measured so (default: 1, fed again); fills the caches of a model larger than --ram", 0, most },
        { "ids", 0, CLI_STR, &a.ids_file, "FILE", "token ids to feed one after the other, numbers between blanks or lines, again from the beginning at the end (default: pseudo-random ones)" },
        { "repeats", 'r', CLI_INT, &a.repeats, "N", "runs of each, after one to warm up (default 3)", 1, 10000 },
        { "output", 'o', CLI_CHOICE, &a.format, "FORMAT", "table (default), json, csv", 0, 0, formats },
        { "no-limits", 0, CLI_FLAG, &a.no_limits, NULL, "do not measure the limits of the machine" },
        { "limits-only", 0, CLI_FLAG, &a.limits_only, NULL, "measure nothing else; no model is needed" },
        CLI_MODEL_OPTS(&a.m),
        CLI_BATCH_OPTS(&a.m),
        { "stats", 0, CLI_FLAG, &a.m.stats, NULL, "memory on stderr after each context" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen bench",
        .synopsis = "-m FILE [-p N,..] [-n N,..] [-d N,..] [-t N,..] [-r N] [-o FORMAT]",
        .about = "Measures evaluation speed on fixed pseudo-random token ids; sampling and text are left out.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .more =
            "Lists are separated by commas; every combination is measured. Shown is the median of the runs, with the\n"
            "slowest and the fastest. Logits are computed for the last token only.\n"
            "The share of the limit is, for tokens one by one, weights and KV cache read a second over what a plain\n"
            "loop reads; for a prompt, operations of the matrix products a second over those of the multiply\n"
            "instruction alone. Each limit is the better one of two measurements, before and after the tests; \"typical\"\n"
            "is the median pass of the read loop instead of the best.",
    };
    int n;
    const int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (a.no_limits && a.limits_only)
        return cli_usage_error(&syntax, "--no-limits and --limits-only exclude each other");
    if (!a.m.path && !a.limits_only) return cli_usage_error(&syntax, "-m FILE is missing");
    set_default(&a.prompt, 512);
    set_default(&a.decode, 32);
    set_default(&a.depth, 0);
    set_default(&a.threads, 0);
    if (largest(&a.prompt) == 0 && largest(&a.decode) == 0)
        return cli_usage_error(&syntax, "-p and -n are both 0: nothing to measure");
    const int code = run(&a);
    free(a.ids);
    free(a.rows);
    cli_close(&a.m);
    return code;
}
