#include <inttypes.h>
#include <stdlib.h>

#include "runtime/cli/cli.h"

static void note(void *user, sg_log_level level, const char *line) {
    (void)user;
    (void)level;
    cli_note(false, "%s", line);
}

int cmd_gpu(int argc, char **argv) {
    static const char *const apis[] = { "OpenCL", "Vulkan" }, *const kinds[] = { "other", "discrete", "integrated", "software" };
    const cli_opt none[] = { { NULL, 0, CLI_FLAG, NULL, NULL, "" } };
    const cli_syntax syntax = {
        .name = "sparsegen gpu",
        .synopsis = "",
        .about = "Lists the GPUs that OpenCL and Vulkan report, a line each: API, kind, memory, largest buffer, name, driver.\n"
                 "Every driver runs in a child process, so a broken one costs a line on stderr. This version computes on the CPU only.",
        .opts = none,
        .n_opts = 0,
    };
    int n;
    const int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    sg_gpu_device *devices = NULL;
    size_t count = 0;
    sg_error err;
    if (sg_gpu_list(&devices, &count, note, NULL, &err) != SG_OK) return cli_fail_error(&err);
    for (size_t i = 0; i < count; i++) {
        const sg_gpu_device *d = &devices[i];
        printf("%s  %-10s  %8.1f MiB  %8.1f MiB  %s  (%s)\n", apis[d->api], kinds[d->kind], (double)d->memory / (1 << 20),
               (double)d->max_buffer / (1 << 20), d->name, d->driver);
    }
    if (count == 0) cli_note(false, "no GPU found");
    sg_free(devices);
    return CLI_OK;
}
