/* Options of sampling, shared by generating and chatting. */
#ifndef SG_CLI_SAMPLING_H
#define SG_CLI_SAMPLING_H

#include "runtime/cli/cli.h"

typedef struct cli_generate_args {
    cli_model m;
    const char *prompt, *file, *system;
    int64_t n_predict, n_ctx;
    uint64_t seed;
    bool seed_given, chat, ignore_eos, color, version;
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, repeat_last_n;
    cli_list stop;
} cli_generate_args;

/* The chat of -i, with model and session open. `first` (may be NULL) is the first message of the user. */
int cli_chat(cli_generate_args *a, sg_sampler *sampler, const char *first);

/* Options of sg_generate from the arguments; on_text writes to stdout. */
sg_generate_options cli_generate_options(const cli_generate_args *a, sg_text_fn on_text, void *user);

#endif
