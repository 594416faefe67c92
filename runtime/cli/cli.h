/* What the commands of the sparsegen program share. */
#ifndef SG_CLI_CLI_H
#define SG_CLI_CLI_H

#include <stdio.h>

#include "runtime/cli/args.h"
#include "sparsegen.h"

/* Exit codes: 0, 1 after a failure, 2 after wrong usage, and as in shells 128 + SIGINT after Ctrl-C. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* ---- commands: argv[0] is the command's name; the result is the exit code ---- */
int cmd_generate(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_gpu(int argc, char **argv);

/* ---- messages (stderr) and results (stdout) ---- */

/* "sparsegen: ..." on stderr; returns CLI_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for an error of the library; CLI_INTERRUPTED and no message when it says that Ctrl-C was pressed. */
int cli_fail_error(const sg_error *err);
/* A sentence for people, in square brackets, unless quiet. */
void cli_note(bool quiet, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Whether stderr gets color: asked for, or a terminal and NO_COLOR (https://no-color.org) is not set. */
void cli_set_color(bool always);
extern const char *cli_dim, *cli_bold, *cli_plain; /* escape sequences, or "" */

/* Writes and flushes; false once stdout failed (cli_finish then says so). */
bool cli_write(const char *text, size_t len);
/* Flushes stdout; turns `code` into CLI_FAILED with a sentence when anything could not be written. */
int cli_finish(int code);

/* ---- Ctrl-C ---- */

/* From here on the first Ctrl-C cancels what runs and the second one quits. */
void cli_catch_interrupts(void);
/* The session that Ctrl-C cancels; NULL for none. */
void cli_set_session(sg_session *session);
bool cli_interrupted(void);
void cli_clear_interrupt(void);
/* While waiting for a line the first Ctrl-C quits, giving the terminal back as it was. */
void cli_at_prompt(bool waiting);

/* ---- model and session ---- */

typedef struct cli_model {
    const char *path;
    int64_t threads, batch;
    int kv, io;   /* indices of the choices, equal to sg_kv_type and sg_io_engine */
    int cpu_mask; /* index of the choice, 0: the best there is */
    int ffn;      /* index of the choice, equal to sg_ffn_mode */
    cli_list lossy;
    int64_t experts; /* of a token, 0: as the model says */
    bool quiet, stats, pin, no_prefetch, always_prefetch, no_cache, no_pipeline, precise;
    uint64_t ram;      /* bytes, 0: the library's choice */
    const char *trace, *route_log; /* files, or NULL */
    bool vocab_only; /* the command needs no weights */
    bool goes_back;  /* its session returns to earlier prompts: copies of recurrent states are worth their memory */
    sg_model *model;
    sg_session *session;
} cli_model;
extern const char *const cli_kv_choices[], *const cli_io_choices[], *const cli_cpu_choices[], *const cli_ffn_choices[];

/* Options that every command with a model has. */
/* clang-format off */
#define CLI_MODEL_OPTS(m)                                                                                              \
    { NULL, 0, CLI_FLAG, NULL, NULL, "model and machine:" },                                                           \
    { "model", 'm', CLI_STR, &(m)->path, "FILE", "GGUF file, or the first file of a split set" },                      \
    { "io", 0, CLI_CHOICE, &(m)->io, "ENGINE", "how the model is read: auto (default), uring, pread; fault: for tests", 0, 0, \
      cli_io_choices },                                                                                                \
    { "cpu-mask", 0, CLI_CHOICE, &(m)->cpu_mask, "TIER",                                                               \
      "highest kernel tier to use: ref, avx2, .. (default: auto, the best)", 0, 0, cli_cpu_choices },                  \
    { "quiet", 'q', CLI_FLAG, &(m)->quiet, NULL, "no notes, warnings or progress on stderr, only errors" }
#define CLI_SESSION_OPTS(m)                                                                                            \
    { "threads", 't', CLI_INT, &(m)->threads, "N", "threads (default: one per usable core)", 0, 1024 },                \
    CLI_BATCH_OPTS(m)
#define CLI_BATCH_OPTS(m)                                                                                              \
    { "ram", 0, CLI_SIZE, &(m)->ram, "SIZE",                                                                            \
      "the most memory to take, as 800M or 2G; what does not fit is read while computing (default: what is available)" }, \
    { "no-prefetch", 0, CLI_FLAG, &(m)->no_prefetch, NULL, "read neurons and experts only when they are known to be needed" },       \
    { "always-prefetch", 0, CLI_FLAG, &(m)->always_prefetch, NULL, "read ahead without finding out whether that pays (to measure what it brings)" }, \
    { "no-cache", 0, CLI_FLAG, &(m)->no_cache, NULL, "read neurons and experts again for every token (to measure what the caches bring)" }, \
    { "no-pipeline", 0, CLI_FLAG, &(m)->no_pipeline, NULL, "do not compute while a layer's neurons are read (to measure the same)" }, \
    { "trace", 0, CLI_STR, &(m)->trace, "FILE", "write reads, waits and steps as a Chrome trace (with a model larger than --ram)" }, \
    { "route-log", 0, CLI_STR, &(m)->route_log, "FILE", "write which experts each token uses (for scripts/replay_cache.py)" }, \
    { "pin", 0, CLI_FLAG, &(m)->pin, NULL, "ask for each thread to stay on a core of its own" },                         \
    { "batch", 'b', CLI_INT, &(m)->batch, "N", "prompt tokens evaluated together (default 128, more where experts are read)", 0, 65536 },           \
    { "kv", 0, CLI_CHOICE, &(m)->kv, "TYPE", "type of the KV cache: f16 (default), f32, q8_0", 0, 0, cli_kv_choices }, \
    { "precise", 0, CLI_FLAG, &(m)->precise, NULL, "multiply quantised weights with activations in 16 instead of 8 bits" }, \
    { "ffn", 0, CLI_CHOICE, &(m)->ffn, "WAY", "feed-forward layers of a model.bin: auto (default), sparse, dense; same result", 0, 0,  \
      cli_ffn_choices },                                                                                               \
    { "lossy", 0, CLI_LIST, &(m)->lossy, "WHAT=VALUE",                                                                \
      "leave out neurons of a model.bin (predict=RECALL, threshold=SHARE, topk=K) or experts that are not in memory (drop=SHARE, " \
      "cache-route=LAMBDA); may be repeated" },                                                                         \
    { "experts", 0, CLI_INT, &(m)->experts, "K", "use K experts for each token, fewer than the model says; lossy", 1, 65536 }
/* clang-format on */

/* Opens the model with a progress bar, so that a session of n_ctx tokens (0: the library's choice) fits into --ram; 0 or the exit code,
 * the error printed. */
int cli_open_model(cli_model *m, uint64_t n_ctx);
/* Makes the session and hands it to Ctrl-C. */
int cli_open_session(cli_model *m, uint64_t n_ctx);
void cli_close_session(cli_model *m);
void cli_close(cli_model *m); /* both */
void cli_print_stats(const cli_model *m);
int cli_write_trace(const cli_model *m); /* --trace, --route-log; 0 or the exit code, the error printed */

/* ---- files ---- */

/* The whole of a file, or of stdin for "-"; free() it. 0 or the exit code, the error printed. */
int cli_read_file(const char *path, char **text, size_t *len);

/* A file that appears under its name only when it is complete. Outputs that exist and are no regular file are written
 * in place. */
typedef struct cli_output {
    FILE *f;
    const char *path;
    char *temp; /* NULL: written in place */
} cli_output;
int cli_output_open(cli_output *o, const char *path);
/* Closes; keeps the file when `ok` and everything was written. 0 or the exit code, the error printed. */
int cli_output_close(cli_output *o, bool ok);

double cli_now(void); /* seconds of a clock that only goes forward */

/* ---- progress (stderr, only when it is a terminal) ---- */

typedef struct cli_progress {
    const char *what; /* "reading" */
    bool on, drawn;
    int permille; /* last drawn */
} cli_progress;
void cli_progress_start(cli_progress *p, const char *what, bool quiet);
bool cli_progress_step(void *progress, uint64_t done, uint64_t total); /* a sg_progress_fn; false after Ctrl-C */
void cli_progress_end(cli_progress *p);                                /* removes the bar */

#endif
