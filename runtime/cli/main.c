/* The sparsegen program: chooses the command. Without a command's name it generates. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "runtime/cli/cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    { "info", cmd_info, "what a model file holds" },
    { "tokenize", cmd_tokenize, "token ids of a text" },
    { "logits", cmd_logits, "logits of each position, to a file" },
    { "perplexity", cmd_perplexity, "perplexity of a model on a text" },
    { "convert", cmd_convert, "make a model.bin, or a GGUF file, from other formats" },
    { "calibrate", cmd_calibrate, "learn from text which neurons of a model.bin are active" },
    { "verify", cmd_verify, "check a model.bin against its checksums" },
    { "bench", cmd_bench, "speed of prompt and decode" },
    { "gpu", cmd_gpu, "GPUs that OpenCL and Vulkan report" },
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int short_help(void) {
    fputs("usage: sparsegen -m FILE -p TEXT          continue a text\n"
          "       sparsegen -m FILE -i               chat\n",
          stderr);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "       sparsegen %-10s ..           %s\n", commands[i].name, commands[i].about);
    fputs("'sparsegen --help' lists the options, 'sparsegen COMMAND --help' those of a command\n", stderr);
    return CLI_USAGE;
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, "");  /* line editing needs to know what a character is; numbers stay in the C locale */
    signal(SIGPIPE, SIG_IGN); /* a closed stdout becomes an error with a sentence */
    cli_set_color(false);
    if (argc < 2) return short_help();
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return cli_finish(commands[i].run(argc - 1, argv + 1));
    if (argv[1][0] != '-') {
        cli_fail("unknown command '%s'", argv[1]);
        return short_help();
    }
    if (strcmp(argv[1], "--version") == 0 && argc == 2) {
        printf("sparsegen %s\n", sg_version());
        return cli_finish(CLI_OK);
    }
    return cli_finish(cmd_generate(argc, argv));
}
