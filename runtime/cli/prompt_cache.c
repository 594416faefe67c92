/* --prompt-cache FILE: a session is taken up where another run of the program left it. */
#include <unistd.h>

#include "runtime/cli/sampling.h"

void cli_prompt_cache_open(const cli_generate_args *a) {
    sg_error err;
    if (!a->prompt_cache || access(a->prompt_cache, F_OK) != 0) return;
    if (sg_session_restore(a->m.session, a->prompt_cache, &err) != SG_OK) cli_note(a->m.quiet, "the prompt cache is not used: %s", err.message);
    else if (a->m.stats) cli_note(a->m.quiet, "%zu tokens from the prompt cache", sg_session_length(a->m.session));
}

int cli_prompt_cache_save(const cli_generate_args *a) {
    sg_error err;
    if (!a->prompt_cache) return CLI_OK;
    sg_status s = sg_session_save(a->m.session, a->prompt_cache, &err);
    /* a cancel that came too late for what was before */
    if (s == SG_E_CANCELLED && !cli_interrupted()) s = sg_session_save(a->m.session, a->prompt_cache, &err);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}

sg_status cli_prompt_cache_feed(const cli_generate_args *a, const int32_t *ids, size_t n, int *saved, sg_error *err) {
    *saved = CLI_OK;
    const int32_t *there = sg_session_tokens(a->m.session);
    size_t same = 0;
    while (same + 1 < n && same < sg_session_length(a->m.session) && there[same] == ids[same]) same++;
    sg_status s = SG_OK;
    if (a->prompt_cache && (same + 1 < n || sg_session_length(a->m.session) > n)) {
        s = sg_session_rewind(a->m.session, same, err);
        if (s == SG_OK && same + 1 < n) s = sg_session_feed(a->m.session, ids + same, n - 1 - same, 1, err);
        if (s == SG_OK) *saved = cli_prompt_cache_save(a);
    }
    return s == SG_OK ? sg_session_sync(a->m.session, ids, n, err) : s;
}
