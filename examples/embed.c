/* The smallest program around sparsegen: continue a text with a model.
 *
 *     cc embed.c $(pkg-config --cflags --libs sparsegen) -o embed
 *     ./embed model.gguf "Once upon a time"
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sparsegen.h>

static sg_session *volatile running; /* for the signal handler */

/* Text arrives while it is made, in whole UTF-8 characters. Returning false would end the generation. */
static bool on_text(void *user, const char *text, size_t len) {
    FILE *out = user;
    return fwrite(text, 1, len, out) == len && fflush(out) == 0;
}

/* sg_session_cancel is the one function that may be called from a signal handler or from another thread. */
static void on_interrupt(int sig) {
    (void)sig;
    sg_session_cancel(running);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.gguf TEXT\n", argv[0]);
        return 2;
    }
    sg_error err;
    sg_model *model = NULL;
    sg_session *session = NULL;
    sg_sampler *sampler = NULL;
    int exit_code = EXIT_FAILURE;

    /* A model is read-only once it is open; many sessions may use it at the same time. NULL: default options. */
    if (sg_model_open(argv[1], NULL, &model, &err) != SG_OK) goto failed;

    /* A session is one timeline of tokens. Option structs start from their INIT macro. */
    sg_session_options session_options = SG_SESSION_OPTIONS_INIT;
    session_options.n_ctx = 1024;
    if (sg_session_create(model, &session_options, &session, &err) != SG_OK) goto failed;
    running = session;
    signal(SIGINT, on_interrupt);

    /* The sampler chooses tokens: same options and same seed, same text. */
    sg_sampler_options sampler_options = SG_SAMPLER_OPTIONS_INIT;
    sampler_options.seed = 1;
    if (sg_sampler_create(&sampler_options, sg_model_get_info(model)->n_vocab, &sampler, &err) != SG_OK) goto failed;

    if (sg_session_feed_text(session, argv[2], strlen(argv[2]), &err) != SG_OK) goto failed;

    sg_generate_options options = SG_GENERATE_OPTIONS_INIT;
    options.max_tokens = 100;
    options.on_text = on_text;
    options.user = stdout;
    sg_generate_result result;
    if (sg_generate(session, sampler, &options, &result, &err) != SG_OK) goto failed;
    printf("\n");
    fprintf(stderr, "%llu tokens\n", (unsigned long long)result.n_tokens);
    exit_code = EXIT_SUCCESS;
    goto done;

failed:
    fprintf(stderr, "%s: %s\n", sg_status_str(err.code), err.message);
done: /* each accepts NULL; sessions go before their model */
    sg_sampler_destroy(&sampler);
    running = NULL; /* first: Ctrl-C may come at any moment */
    sg_session_destroy(&session);
    sg_model_close(&model);
    return exit_code;
}
