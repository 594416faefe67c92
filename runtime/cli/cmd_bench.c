/* sparsegen bench: speed on token ids that are always the same. What the ids are does not matter to a dense model. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/cli.h"

enum { FORMAT_TEXT, FORMAT_JSON, FORMAT_CSV };
static const char *const formats[] = { "text", "json", "csv", NULL };

typedef struct bench_args {
    cli_model m;
    int64_t n_prompt, n_decode, repeats;
    int format;
} bench_args;

typedef struct bench_result {
    char test[32];
    size_t tokens;
    double median, min, max; /* seconds */
} bench_result;

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Evaluates n tokens from an empty timeline: together, or one by one. */
static sg_status evaluate(sg_session *s, const int32_t *ids, size_t n, bool together, double *seconds, sg_error *err) {
    sg_status status = sg_session_rewind(s, 0, err);
    const double start = cli_now();
    if (together) {
        if (status == SG_OK) status = sg_session_feed(s, ids, n, 1, err);
    } else {
        for (size_t i = 0; i < n && status == SG_OK; i++) status = sg_session_feed(s, ids + i, 1, 1, err);
    }
    *seconds = cli_now() - start;
    return status;
}

static int measure(const bench_args *a, const int32_t *ids, size_t n, bool together, bench_result *r) {
    double *times = malloc((size_t)a->repeats * sizeof *times);
    if (!times) return cli_fail("out of memory");
    sg_error err;
    double warm_up;
    sg_status s = evaluate(a->m.session, ids, together ? n : 1, together, &warm_up, &err);
    for (int64_t i = 0; i < a->repeats && s == SG_OK; i++)
        s = evaluate(a->m.session, ids, n, together, &times[i], &err);
    if (s == SG_OK) {
        const size_t k = (size_t)a->repeats;
        qsort(times, k, sizeof *times, by_value);
        snprintf(r->test, sizeof r->test, "%s%zu", together ? "pp" : "tg", n);
        r->tokens = n;
        r->median = k % 2 ? times[k / 2] : (times[k / 2 - 1] + times[k / 2]) / 2.0;
        r->min = times[0];
        r->max = times[k - 1];
    }
    free(times);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}

static void print_json(const bench_result *r, uint32_t threads, int64_t repeats) {
    printf("{\"test\": \"%s\", \"n_threads\": %u, \"tokens\": %zu, \"seconds\": %.9g, \"tokens_per_second\": %.9g, "
           "\"seconds_min\": %.9g, \"seconds_max\": %.9g, \"repeats\": %" PRId64 "}",
           r->test, threads, r->tokens, r->median, (double)r->tokens / r->median, r->min, r->max, repeats);
}

static void print_csv(const bench_result *r, uint32_t threads, int64_t repeats) {
    printf("%s,%u,%zu,%.9g,%.9g,%.9g,%.9g,%" PRId64 "\n", r->test, threads, r->tokens, r->median,
           (double)r->tokens / r->median, r->min, r->max, repeats);
}

static void print_text(const bench_result *r, uint32_t threads, int64_t repeats) {
    printf("%-10s %3u threads %6zu tokens %10.4f s %10.2f tokens/s   (%.4f to %.4f s in %" PRId64 " runs)\n", r->test, threads,
           r->tokens, r->median, (double)r->tokens / r->median, r->min, r->max, repeats);
}

static void print_results(const bench_args *a, const bench_result *r, size_t n) {
    const uint32_t threads = sg_session_get_stats(a->m.session).n_threads;
    if (a->format == FORMAT_CSV)
        printf("test,n_threads,tokens,seconds,tokens_per_second,seconds_min,seconds_max,repeats\n");
    for (size_t i = 0; i < n; i++) {
        if (a->format == FORMAT_JSON) {
            fputs(i ? ",\n " : "[", stdout);
            print_json(&r[i], threads, a->repeats);
        } else if (a->format == FORMAT_CSV) {
            print_csv(&r[i], threads, a->repeats);
        } else {
            print_text(&r[i], threads, a->repeats);
        }
    }
    if (a->format == FORMAT_JSON) puts("]");
}

static int run(bench_args *a) {
    const size_t np = (size_t)a->n_prompt, nd = (size_t)a->n_decode, most = np > nd ? np : nd;
    cli_catch_interrupts();
    int r = cli_open_model(&a->m);
    if (r == CLI_OK) r = cli_open_session(&a->m, most);
    if (r != CLI_OK) return r;
    int32_t *ids = malloc(most * sizeof *ids);
    if (!ids) return cli_fail("out of memory");
    uint32_t x = 1;
    for (size_t i = 0; i < most; i++) {
        x = x * 1664525u + 1013904223u; /* Numerical Recipes, section 7.1 */
        ids[i] = (int32_t)((x >> 8) % sg_model_get_info(a->m.model)->n_vocab);
    }
    bench_result results[2];
    size_t n = 0;
    if (np > 0) r = measure(a, ids, np, true, &results[n++]);
    if (nd > 0 && r == CLI_OK) r = measure(a, ids, nd, false, &results[n++]);
    if (r == CLI_OK) print_results(a, results, n);
    if (r == CLI_OK && a->m.stats) cli_print_stats(&a->m);
    free(ids);
    return r;
}

int cmd_bench(int argc, char **argv) {
    bench_args a = { .n_prompt = 512, .n_decode = 32, .repeats = 3 };
    const cli_opt opts[] = {
        { "prompt-tokens", 'p', CLI_INT, &a.n_prompt, "N", "tokens evaluated together (default 512, 0: leave this out)",
          0, 1 << 24 },
        { "decode-tokens", 'n', CLI_INT, &a.n_decode, "N",
          "tokens evaluated one by one (default 32, 0: leave this out)", 0, 1 << 24 },
        { "repeats", 'r', CLI_INT, &a.repeats, "N", "runs of each, after one to warm up (default 3)", 1, 10000 },
        { "output", 'o', CLI_CHOICE, &a.format, "FORMAT", "text (default), json, csv", 0, 0, formats },
        CLI_MODEL_OPTS(&a.m),
        CLI_SESSION_OPTS(&a.m),
        { "stats", 0, CLI_FLAG, &a.m.stats, NULL, "memory on stderr at the end" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen bench",
        .synopsis = "-m FILE [-p N] [-n N] [-t N] [-r N] [-o FORMAT]",
        .about = "Measures evaluation speed on fixed pseudo-random token ids; sampling and text are left out.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .more = "Shown is the median of the runs. Every run starts with an empty context; logits are computed for the "
                "last token only.",
    };
    int n;
    const int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (!a.m.path) return cli_usage_error(&syntax, "-m FILE is missing");
    if (a.n_prompt == 0 && a.n_decode == 0) return cli_usage_error(&syntax, "-p and -n are both 0: nothing to measure");
    const int code = run(&a);
    cli_close(&a.m);
    return code;
}
