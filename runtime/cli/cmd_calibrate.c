#include <stdlib.h>
#include <string.h>

#include "runtime/cli/cli.h"

typedef struct calibrate_state {
    cli_progress progress;
    bool quiet;
} calibrate_state;

static void log_line(void *user, sg_log_level level, const char *line) {
    const calibrate_state *s = user;
    if (level == SG_LOG_WARN) cli_note(s->quiet, "%s", line);
}

static bool step(void *user, uint64_t done, uint64_t total) {
    calibrate_state *s = user;
    return cli_progress_step(&s->progress, done, total);
}

static int write_plot(const char *path, const char *svg) {
    cli_output out;
    int r = cli_output_open(&out, path);
    if (r != CLI_OK) return r;
    const bool ok = fwrite(svg, 1, strlen(svg), out.f) == strlen(svg);
    return cli_output_close(&out, ok);
}

static int run(sg_calibrate_options *o, calibrate_state *state, bool want_report, const char *plot_path) {
    char *report = NULL, *plot = NULL;
    sg_error err;
    cli_catch_interrupts();
    cli_progress_start(&state->progress, "calibrating", state->quiet);
    const sg_status s = sg_calibrate(o, want_report ? &report : NULL, plot_path ? &plot : NULL, &err);
    cli_progress_end(&state->progress);
    int r = s == SG_OK ? CLI_OK : cli_fail_error(&err);
    if (r == CLI_OK && report && !cli_write(report, strlen(report))) r = CLI_FAILED;
    if (r == CLI_OK && plot) r = write_plot(plot_path, plot);
    sg_free(report);
    sg_free(plot);
    return r;
}

int cmd_calibrate(int argc, char **argv) {
    sg_calibrate_options o = SG_CALIBRATE_OPTIONS_INIT;
    calibrate_state state = { 0 };
    const char *file = NULL, *plot = NULL;
    int64_t tokens = 0, threads = 0, n_ctx = 0;
    int io = 0, cpu_mask = 0, kind = 0;
    static const char *const kinds[] = { "auto", "sign", "lowrank", "mlp", NULL };
    double share = 5;
    bool report = false, overwrite = false;
    const cli_opt opts[] = {
        { "model", 'm', CLI_STR, &o.model, "FILE", "the model.bin" },
        { "file", 'f', CLI_STR, &file, "FILE", "the text (- is standard input)" },
        { "output", 'o', CLI_STR, &o.output, "FILE", "the file to write (default: the model.bin itself is replaced)" },
        { "force", 0, CLI_FLAG, &overwrite, NULL, "replace an output that is there already" },
        { "dry-run", 0, CLI_FLAG, &o.dry_run, NULL, "write no model" },
        { "report", 0, CLI_FLAG, &report, NULL, "tables on stdout: activity, magnitudes, predictors, experts named ahead" },
        { "plot", 0, CLI_STR, &plot, "FILE", "diagrams of the activity as SVG" },
        { "tokens", 0, CLI_INT, &tokens, "N", "use only the first N tokens of the text", 1, 1e12 },
        { "ctx-size", 'c', CLI_INT, &n_ctx, "N", "tokens of a window (default 512, or what the model was trained for)", 4, 1 << 24 },
        { "predictor", 0, CLI_CHOICE, &kind, "KIND", "no other kind of predictor than sign, lowrank or mlp (default: auto, the best)", 0, 0, kinds },
        { "no-predictors", 0, CLI_FLAG, &o.no_predictors, NULL, "counts, order and thresholds only" },
        { "no-ahead", 0, CLI_FLAG, &o.no_ahead, NULL, "nothing that names experts before their layer" },
        { "budget", 0, CLI_REAL, &share, "PERCENT", "what predictors may take, of the bytes of the neurons (default 5)", 0.01, 100 },
        { "ram", 0, CLI_SIZE, &o.ram_bytes, "SIZE", "memory for samples, besides the model (default 1G)" },
        { "threads", 't', CLI_INT, &threads, "N", "threads (default: one per usable core)", 0, 1024 },
        { "io", 0, CLI_CHOICE, &io, "ENGINE", "how the model is read: auto (default), uring, pread", 0, 0, cli_io_choices },
        { "cpu-mask", 0, CLI_CHOICE, &cpu_mask, "TIER", "highest kernel tier to use: ref, avx2, .. (default: auto, the best)", 0, 0,
          cli_cpu_choices },
        { "quiet", 'q', CLI_FLAG, &state.quiet, NULL, "no notes or progress on stderr, only errors" },
    };
    const cli_syntax syntax = {
        .name = "sparsegen calibrate",
        .synopsis = "-m FILE -f TEXT [-o OUT] [options]",
        .about = "Learns from a text which neurons of a model.bin fire how often, sorts them by it, and adds thresholds and predictors.\n"
                 "What the model computes stays the same.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
    };
    int n;
    int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (!o.model) return cli_usage_error(&syntax, "-m FILE is missing");
    if (!file) return cli_usage_error(&syntax, "-f FILE is missing");
    char *text = NULL;
    r = cli_read_file(file, &text, &o.len);
    if (r != CLI_OK) return r;
    o.text = text;
    o.overwrite = overwrite;
    o.max_tokens = (uint64_t)tokens;
    o.n_ctx = (uint32_t)n_ctx;
    o.n_threads = (uint32_t)threads;
    o.only = kind > 0 ? kinds[kind] : NULL;
    o.budget = share / 100;
    o.io = (sg_io_engine)io;
    o.cpu_mask = cpu_mask > 0 ? cli_cpu_choices[cpu_mask] : NULL;
    o.log = log_line;
    o.progress = step;
    o.user = &state;
    r = run(&o, &state, report, plot);
    free(text);
    return r;
}
