/* Messages, Ctrl-C, models and sessions for the commands. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "runtime/cli/cli.h"

const char *const cli_kv_choices[] = { "f16", "f32", "q8_0", NULL };
const char *const cli_io_choices[] = { "auto", "uring", "pread", "fault", NULL };
const char *const cli_ffn_choices[] = { "auto", "sparse", "dense", NULL };
/* The names that sg_model_options.cpu_mask takes; a test compares them with the library's own list. */
const char *const cli_cpu_choices[] = { "auto",       "ref",  "avx2",    "avxvnni", "avx512",
                                        "avx512vnni", "neon", "dotprod", "i8mm",    NULL };

/* ---- messages and results ---- */

const char *cli_dim = "", *cli_bold = "", *cli_plain = "";
static int stdout_errno; /* why stdout failed first; 0: it did not */

int cli_fail(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("sparsegen: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return CLI_FAILED;
}

int cli_fail_error(const sg_error *err) {
    if (err->code == SG_E_CANCELLED) return CLI_INTERRUPTED;
    return cli_fail("%s", err->message);
}

void cli_note(bool quiet, const char *fmt, ...) {
    if (quiet) return;
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s[", cli_dim);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "]%s\n", cli_plain);
    va_end(ap);
}

void cli_set_color(bool always) {
    const char *no_color = getenv("NO_COLOR");
    if (!always && ((no_color && *no_color) || !isatty(STDERR_FILENO))) return;
    cli_dim = "\033[2m";
    cli_bold = "\033[1;32m";
    cli_plain = "\033[0m";
}

bool cli_write(const char *text, size_t len) {
    if (stdout_errno) return false;
    if (fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0) return true;
    stdout_errno = errno ? errno : EIO;
    return false;
}

int cli_finish(int code) {
    if (!stdout_errno && (ferror(stdout) || fflush(stdout) != 0)) stdout_errno = errno ? errno : EIO;
    if (!stdout_errno || code == CLI_INTERRUPTED) return code;
    return cli_fail("standard output cannot be written: %s", strerror(stdout_errno));
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupts, at_prompt;
static sg_session *volatile running;
static struct termios terminal; /* stdin's settings before line editing changed them */
static bool have_terminal;

static void on_interrupt(int sig) {
    (void)sig;
    interrupts = interrupts + 1;
    if (interrupts > 1 || at_prompt) {
        if (have_terminal) tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
        if (at_prompt && write(STDERR_FILENO, "\n", 1) < 0) _exit(CLI_FAILED);
        _exit(CLI_INTERRUPTED);
    }
    if (running) sg_session_cancel(running);
}

void cli_catch_interrupts(void) {
    have_terminal = tcgetattr(STDIN_FILENO, &terminal) == 0;
    struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void cli_set_session(sg_session *session) {
    running = session;
    if (session && interrupts > 0) sg_session_cancel(session); /* it came before there was anything to cancel */
}

bool cli_interrupted(void) { return interrupts > 0; }
void cli_clear_interrupt(void) { interrupts = 0; }
void cli_at_prompt(bool waiting) { at_prompt = waiting; }

/* ---- model and session ---- */

/* What sg_model_options.user points to while a model is being opened. */
typedef struct open_state {
    cli_progress progress;
    bool quiet, verbose;
} open_state;

static void log_line(void *user, sg_log_level level, const char *line) {
    const open_state *s = user;
    if (level == SG_LOG_WARN ? !s->quiet : s->verbose) cli_note(false, "%s", line);
}

static bool step(void *user, uint64_t done, uint64_t total) {
    open_state *s = user;
    return cli_progress_step(&s->progress, done, total);
}

/* One --lossy: sets the field that it names. */
static int set_lossy(const char *text, sg_session_options *o) {
    enum { PREDICT, THRESHOLD, DROP, CACHE_ROUTE, TOP_K, N };
    static const char *const names[N] = { "predict=", "threshold=", "drop=", "cache-route=", "topk=" };
    float *const shares[TOP_K] = { &o->lossy_predict, &o->lossy_threshold, &o->lossy_drop, &o->lossy_cache_route };
    for (size_t i = 0; i < N; i++) {
        const size_t len = strlen(names[i]);
        if (strncmp(text, names[i], len) != 0) continue;
        double share;
        int64_t k;
        if (i == TOP_K && cli_parse_int(text + len, &k) && k > 0 && k <= UINT32_MAX) o->lossy_top_k = (uint32_t)k;
        else if (i < TOP_K && cli_parse_real(text + len, &share) && share > 0 && ((float)share < 1 || (i == CACHE_ROUTE && share == 1))) *shares[i] = (float)share;
        else return cli_fail("--lossy %s: '%s' is not %s", text, text + len, i == TOP_K ? "a number of neurons" : "a number between 0 and 1");
        return CLI_OK;
    }
    return cli_fail("--lossy %s: predict=RECALL, threshold=SHARE, topk=K, drop=SHARE and cache-route=LAMBDA are known", text);
}

static int session_options(const cli_model *m, uint64_t n_ctx, sg_session_options *o) {
    if (n_ctx > UINT32_MAX) return cli_fail("a context of %llu tokens is too large", (unsigned long long)n_ctx);
    *o = (sg_session_options) SG_SESSION_OPTIONS_INIT;
    o->n_ctx = (uint32_t)n_ctx;
    o->n_threads = (uint32_t)m->threads;
    o->n_batch = (uint32_t)m->batch;
    o->kv_type = (sg_kv_type)m->kv;
    o->pin_threads = m->pin;
    o->n_state_copies = m->goes_back ? 0 : SG_NO_STATE_COPIES;
    o->ffn = (sg_ffn_mode)m->ffn;
    o->precise = m->precise;
    o->n_experts = (uint32_t)m->experts;
    for (size_t i = 0; i < m->lossy.n; i++)
        if (set_lossy(m->lossy.v[i], o) != CLI_OK) return CLI_FAILED;
    return CLI_OK;
}

int cli_open_model(cli_model *m, uint64_t n_ctx) {
    open_state state = { .quiet = m->quiet, .verbose = m->stats && !m->quiet };
    cli_progress_start(&state.progress, "reading", m->quiet);
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    sg_session_options session;
    if (session_options(m, n_ctx, &session) != CLI_OK) return CLI_FAILED;
    o.io = (sg_io_engine)m->io;
    o.cpu_mask = m->cpu_mask > 0 ? cli_cpu_choices[m->cpu_mask] : NULL;
    o.vocab_only = m->vocab_only;
    o.log = log_line;
    o.progress = step;
    o.user = &state;
    o.ram = m->ram;
    o.session = &session;
    o.no_prefetch = m->no_prefetch;
    o.always_prefetch = m->always_prefetch;
    o.no_cache = m->no_cache;
    o.no_pipeline = m->no_pipeline;
    sg_error err;
    const sg_status s = sg_model_open(m->path, &o, &m->model, &err);
    cli_progress_end(&state.progress);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}

/* Spans of a trace at most: 10 MiB, which no budget knows of, and some ten tokens of a large model. */
#define TRACE_EVENTS ((size_t)1 << 18)

int cli_open_session(cli_model *m, uint64_t n_ctx) {
    sg_session_options o;
    if (session_options(m, n_ctx, &o) != CLI_OK) return CLI_FAILED;
    sg_error err;
    if (sg_session_create(m->model, &o, &m->session, &err) != SG_OK) return cli_fail_error(&err);
    if (m->route_log && sg_session_log_routes(m->session, m->route_log, &err) != SG_OK) return cli_fail("--route-log: %s", err.message);
    if (m->trace && sg_session_trace(m->session, TRACE_EVENTS, &err) != SG_OK) return cli_fail("--trace: %s", err.message);
    cli_set_session(m->session);
    return CLI_OK;
}

int cli_write_trace(const cli_model *m) {
    sg_error err;
    if (m->session && m->route_log && sg_session_log_routes(m->session, NULL, &err) != SG_OK) return cli_fail_error(&err);
    if (!m->trace || !m->session) return CLI_OK;
    return sg_session_write_trace(m->session, m->trace, &err) == SG_OK ? CLI_OK : cli_fail_error(&err);
}

void cli_close_session(cli_model *m) {
    cli_set_session(NULL);
    sg_session_destroy(&m->session);
}

void cli_close(cli_model *m) {
    cli_close_session(m);
    sg_model_close(&m->model);
}

/* Highest resident memory of this process in KiB. VmHWM where there is one: ru_maxrss of a process also counts what its
 * parent had before exec. */
static long peak_kib(void) {
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
    if (f) fclose(f);
    if (kib >= 0) return kib;
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss : 0;
}

static double rate(uint64_t tokens, double seconds) { return seconds > 0.0 ? (double)tokens / seconds : 0.0; }

/* How many of the experts that were named were used, in all and by layer: by look-ahead, or by the pre-gate. */
static void print_named(const cli_model *m, const sg_expert_stats *all, const char *who, bool pregate) {
    const uint64_t named = pregate ? all->foreseen : all->guessed, right = pregate ? all->came : all->right;
    if (named == 0) return;
    fprintf(stderr, "%-8s %.1f %% of the experts named right; by layer", who, 100 * (double)right / (double)named);
    for (uint32_t l = 0; l < sg_model_get_info(m->model)->n_layer; l++) {
        sg_expert_stats e;
        if (!sg_session_get_expert_stats(m->session, l, &e)) continue;
        const uint64_t n = pregate ? e.foreseen : e.guessed, good = pregate ? e.came : e.right;
        if (n > 0) fprintf(stderr, " %.0f", 100 * (double)good / (double)n);
        else fprintf(stderr, " -");
    }
    fputc('\n', stderr);
}

/* Where experts were found, and of each layer how good those were who named them. */
static void print_experts(const cli_model *m, const sg_expert_stats *e) {
    const double used = (double)(e->in_ram + e->ahead + e->late + e->missed), not_here = used - (double)e->in_ram;
    if (used == 0) return;
    fprintf(stderr, "experts  %.1f %% in memory, %.1f %% missing", 100 * (double)e->in_ram / used, 100 * not_here / used);
    if (e->guessed + e->expected > 0)
        fprintf(stderr, ": of these look-ahead had %.1f %% there and %.1f %% on the way; %.1f %% of what it read was not needed",
                not_here > 0 ? 100 * (double)e->ahead / not_here : 0, not_here > 0 ? 100 * (double)e->late / not_here : 0,
                e->expected > 0 ? 100 * (double)e->unused / (double)e->expected : 0);
    fputc('\n', stderr);
    print_named(m, e, "ahead", false);
    print_named(m, e, "pre-gate", true);
}

/* What was found and read, of a model that is not all in RAM. */
static void print_streaming(const sg_stats *s, const sg_model_info *info) {
    const double mib = 1024.0 * 1024.0, tokens = (double)(s->decode_tokens ? s->decode_tokens : 1);
    const double found = (double)(s->found_hot + s->found_cold + s->found_ahead + s->found_late + s->found_missed + s->found_passed);
    if (info->away_bytes == 0) return;
    if (found > 0)
        fprintf(stderr,
                "cache    of the neurons that fired %.1f %% were in hot clusters, %.1f %% in the cache, %.1f %% read ahead (%.1f %% late), "
                "%.1f %% missed, %.1f %% without room; %.0f predicted a token\n",
                100.0 * (double)s->found_hot / found, 100.0 * (double)s->found_cold / found,
                100.0 * (double)(s->found_ahead + s->found_late) / found, 100.0 * (double)s->found_late / found,
                100.0 * (double)s->found_missed / found, 100.0 * (double)s->found_passed / found, (double)s->predicted / tokens);
    const double seconds = s->prompt_seconds + s->decode_seconds;
    fprintf(stderr, "reads    %.1f MiB in %llu demands, %.1f MiB in %llu ahead; %.2f MiB and %.0f reads a token; waiting %.1f %% of the time\n",
            (double)s->demand_bytes / mib, (unsigned long long)s->demand_reads, (double)s->prefetch_bytes / mib,
            (unsigned long long)s->prefetch_reads, (double)(s->demand_bytes + s->prefetch_bytes) / mib / (double)(s->decode_tokens + s->prompt_tokens),
            (double)(s->demand_reads + s->prefetch_reads) / (double)(s->decode_tokens + s->prompt_tokens),
            seconds > 0 ? 100.0 * s->wait_seconds / seconds / s->n_threads : 0.0);
}

void cli_print_stats(const cli_model *m) {
    const double mib = 1024.0 * 1024.0;
    const sg_stats s = sg_session_get_stats(m->session);
    const sg_model_info *info = sg_model_get_info(m->model);
    fprintf(stderr, "prompt   %8llu tokens %10.3f s %10.2f tokens/s\n", (unsigned long long)s.prompt_tokens,
            s.prompt_seconds, rate(s.prompt_tokens, s.prompt_seconds));
    fprintf(stderr, "decode   %8llu tokens %10.3f s %10.2f tokens/s", (unsigned long long)s.decode_tokens,
            s.decode_seconds, rate(s.decode_tokens, s.decode_seconds));
    if (s.decode_tokens > 0)
        fprintf(stderr, "; ms a token: P50 %.1f, P90 %.1f, P99 %.1f", 1e3 * s.token_p50, 1e3 * s.token_p90, 1e3 * s.token_p99);
    fprintf(stderr, "\nmemory   weights %.1f MiB, KV cache %.1f MiB, buffers %.1f MiB; peak resident %.1f MiB",
            (double)s.weight_bytes / mib, (double)s.kv_bytes / mib, (double)s.buffer_bytes / mib,
            (double)peak_kib() / 1024.0);
    if (info->ram) fprintf(stderr, " of a budget of %.1f MiB", (double)info->ram / mib);
    fputc('\n', stderr);
    if (s.neurons > 0)
        fprintf(stderr, "neurons  gates %.1f %%, ups %.1f %% computed; active %.1f %%\n", 100.0 * (double)s.neuron_gates / (double)s.neurons,
                100.0 * (double)s.neuron_ups / (double)s.neurons, 100.0 * (double)s.neurons_active / (double)s.neurons);
    print_experts(m, &s.experts);
    print_streaming(&s, info);
    fprintf(stderr, "machine  %u threads, %s kernels\n", s.n_threads, info->kernel_tier);
}

double cli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
