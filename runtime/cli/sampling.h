/* Options of sampling, shared by generating and chatting. */
#ifndef SG_CLI_SAMPLING_H
#define SG_CLI_SAMPLING_H

#include "runtime/cli/cli.h"

typedef struct cli_generate_args {
    cli_model m;
    const char *prompt, *file, *system, *prompt_cache;
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

/* The session as --prompt-cache has it; a file that does not fit is told of and not used. */
void cli_prompt_cache_open(const cli_generate_args *a);
/* Brings the session to ids[n], n >= 1, with the logits of the last; what is saved ends before that one, since whoever comes with the same
 * prompt needs its logits again. *saved: CLI_OK, or the exit code, the error printed. */
sg_status cli_prompt_cache_feed(const cli_generate_args *a, const int32_t *ids, size_t n, int *saved, sg_error *err);
/* The session as it is. */
int cli_prompt_cache_save(const cli_generate_args *a);

#endif
