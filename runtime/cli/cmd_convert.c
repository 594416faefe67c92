#include "runtime/cli/cli.h"

typedef struct convert_state {
    cli_progress progress;
    bool quiet;
} convert_state;

static void log_line(void *user, sg_log_level level, const char *line) {
    const convert_state *s = user;
    cli_note(s->quiet, "%s", line);
}

static bool step(void *user, uint64_t done, uint64_t total) {
    convert_state *s = user;
    return cli_progress_step(&s->progress, done, total);
}

int cmd_convert(int argc, char **argv) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    static const char *const types[] = { "f32", "f16", "bf16", "q8_0", "q4_0", NULL };
    static const char *const formats[] = { "auto", "gguf", "bin", NULL }; /* as sg_convert_format */
    int type = -1, down_type = -1, format = 0;
    int64_t cluster = 0;
    bool overwrite = false;
    convert_state state = { 0 };
    const cli_opt opts[] = {
        { "output", 'o', CLI_STR, &o.output, "FILE", "the file to write; it appears when it is complete" },
        { "format", 0, CLI_CHOICE, &format, "FORMAT", "gguf or bin (default: gguf when FILE ends in .gguf, else bin)", 0, 0, formats },
        { "type", 0, CLI_CHOICE, &type, "TYPE",
          "f32, f16, bf16, q8_0 or q4_0 (default: f16 for folders, f32 for llama2.c, close to the input for GGUF)", 0, 0, types },
        { "down-type", 0, CLI_CHOICE, &down_type, "TYPE", "bin: type of the down weights, where it is another one", 0, 0, types },
        { "cluster", 0, CLI_INT, &cluster, "N", "bin: neurons per cluster, a multiple of 32 (default: 64 to 256 by their size)", 0, 256 },
        { "tokenizer", 0, CLI_STR, &o.tokenizer, "FILE", "tokenizer, where there is none beside the input" },
        { "ram", 0, CLI_SIZE, &o.ram_bytes, "SIZE", "bin: memory for buffers (default: 512M, or half of what is available)" },
        { "force", 'f', CLI_FLAG, &overwrite, NULL, "replace an output that is there already" },
        { "quiet", 'q', CLI_FLAG, &state.quiet, NULL, "no notes or progress on stderr, only errors" },
    };
    static const char *const names[] = { "IN" };
    const cli_syntax syntax = {
        .name = "sparsegen convert",
        .synopsis = "IN -o FILE [--type TYPE] [--format gguf|bin] [--ram SIZE] [--tokenizer FILE] [-f]",
        .about = "Makes a model.bin (feed-forward layers cut into neurons, checksums) from a GGUF file, a llama2.c .bin file or a\n"
                 "Hugging Face folder, or a GGUF file from the last two.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .arg_names = names,
    };
    int n;
    const int r = cli_parse(&syntax, argc, argv, &o.input, &n);
    if (r != CLI_GO) return r;
    if (!o.output) return cli_usage_error(&syntax, "-o FILE is missing");
    cli_catch_interrupts();
    cli_progress_start(&state.progress, "converting", state.quiet);
    if (type >= 0) o.type = types[type];
    if (down_type >= 0) o.down_type = types[down_type];
    o.format = (sg_convert_format)format;
    o.cluster = (uint32_t)cluster;
    o.overwrite = overwrite;
    o.log = log_line;
    o.progress = step;
    o.user = &state;
    sg_error err;
    const sg_status s = sg_convert(&o, &err);
    cli_progress_end(&state.progress);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}
