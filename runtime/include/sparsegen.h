/* sparsegen: run language models that are larger than the RAM of the device.
 *
 * Two nouns carry the API:
 *   sg_model    one loaded model: weights and tokenizer, read-only once open, shared by any number of sessions.
 *   sg_session  one mutable timeline of tokens over a model: KV cache, logits, statistics.
 *
 * From simple to detailed:
 *   sg_model_open, sg_session_create, sg_session_feed_text, sg_generate      text in, text out
 *   sg_tokenize, sg_session_feed, sg_session_logits, sg_sampler_*            one token at a time
 *   sg_file_info_*, sg_convert, sg_calibrate, sg_verify                      files
 *   sg_limits_measure, sg_model_get_work                                     what speed is measured against
 *
 * Rules that hold everywhere:
 *  - Handles are opaque; `x_close`/`x_destroy` take the address of the handle, accept NULL in it and set it to NULL.
 *  - Option structs start from their INIT macro (or pass NULL: all defaults). Pointers in them need live only during the call.
 *  - Functions return SG_OK (0) or a negative sg_status; `err` may be NULL and else receives one sentence.
 *  - The library never prints, never exits and holds no global state.
 *  - Threads: an sg_model may be used from several threads at once. A session, a sampler or a detokenizer belongs to one
 *    thread at a time; the one exception is sg_session_cancel, callable from any thread and from signal handlers.
 */
#ifndef SPARSEGEN_H
#define SPARSEGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SG_API __attribute__((visibility("default")))
#define SG_NODISCARD __attribute__((warn_unused_result))
#else
#define SG_API
#define SG_NODISCARD
#endif

/* ---- status and errors ------------------------------------------------------------------------------------------- */

typedef enum sg_status {
    SG_OK = 0,
    SG_E_NOMEM = -1,     /* an allocation failed */
    SG_E_INTERNAL = -2,  /* a bug in sparsegen */
    SG_E_CANCELLED = -3, /* sg_session_cancel was called, or a progress callback returned false */

    SG_E_ARG = -10,     /* an argument is outside what its comment allows */
    SG_E_CONTEXT = -11, /* the tokens do not fit into the session's context */
    SG_E_UTF8 = -12,    /* text is not valid UTF-8 */

    SG_E_FORMAT = -20,      /* a file contradicts its format */
    SG_E_UNSUPPORTED = -21, /* a well-formed file that this version cannot run: architecture, tensor type, tokenizer */

    SG_E_IO = -30,        /* reading or writing failed */
    SG_E_NOT_FOUND = -31, /* no such file */
    SG_E_ACCESS = -32,    /* no permission, or not a regular file */
    SG_E_EXISTS = -33     /* the output is there already and may not be replaced */
} sg_status;

#define SG_ERROR_MESSAGE_SIZE 512

/* Filled on failure: the code that was returned and one sentence that says what and where. */
typedef struct sg_error {
    sg_status code;
    char message[SG_ERROR_MESSAGE_SIZE];
} sg_error;

/* Short fixed text for a status ("out of memory"). Never NULL. */
SG_API const char *sg_status_str(sg_status status);

/* Version of the library, "MAJOR.MINOR.PATCH". */
SG_API const char *sg_version(void);

/* Frees memory that a function of this header handed over. NULL is fine. */
SG_API void sg_free(void *p);

typedef enum sg_log_level { SG_LOG_INFO = 0, SG_LOG_WARN = 1 } sg_log_level;

/* Receives one line without newline: fallbacks taken, choices made. */
typedef void (*sg_log_fn)(void *user, sg_log_level level, const char *line);

/* Progress of long work, `done` of `total` units. Return false to cancel. */
typedef bool (*sg_progress_fn)(void *user, uint64_t done, uint64_t total);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct sg_model sg_model;

typedef enum sg_io_engine {
    SG_IO_AUTO = 0, /* io_uring where a probe in a child process survives, pread workers elsewhere */
    SG_IO_URING = 1,
    SG_IO_PREAD = 2,
    SG_IO_FAULT = 3 /* for tests of what streams: pread with delays and reordering, and what SPARSEGEN_FAULTS asks for */
} sg_io_engine;

typedef struct sg_model_options {
    size_t struct_size;
    sg_io_engine io;
    const char *cpu_mask; /* highest kernel tier to use ("ref", "avx2", "avx512vnni", "neon", ..); NULL: the best there is */
    sg_log_fn log;
    sg_progress_fn progress; /* bytes of weights read; called from the opening thread */
    void *user;              /* handed to log and progress; neither is called after sg_model_open returned */
    bool vocab_only;         /* read the tokenizer and nothing else: no weights in RAM, no sessions */
    /* The most memory that the model and one session may take, in bytes: weights, caches, KV cache, buffers, tokenizer. What does not
     * fit is read from the file while computing; results are the same to the bit. 0: what is available (of the machine, and of the
     * process's cgroup), less a reserve. SG_E_NOMEM when it is too small; the message says what is needed. */
    uint64_t ram;
    const struct sg_session_options *session; /* the session that is to fit; NULL: one with default options */
    bool no_prefetch; /* read neurons and experts only when they are known to be needed; changes no result */
    const char *faults; /* of SG_IO_FAULT, see io/stream.h */
    /* For measuring what each brings; neither changes a result. no_cache: every token reads the neurons that it needs again (and nothing is
     * read from predictions); no_pipeline: a layer's reads start when all its gates are computed, and nothing is computed meanwhile. */
    bool no_cache, no_pipeline;
    bool always_prefetch; /* read ahead whatever is named by who is mostly right, without finding out first whether that makes tokens faster;
                           * changes no result. Not together with no_prefetch */
} sg_model_options;
#define SG_MODEL_OPTIONS_INIT { sizeof(sg_model_options), SG_IO_AUTO, NULL, NULL, NULL, NULL, false, 0, NULL, false, NULL, false, false, false }

/* Facts about an open model. Strings live as long as the model. */
typedef struct sg_model_info {
    const char *architecture; /* "llama" */
    const char *name;         /* general.name, or "" */
    const char *chat_family;  /* "chatml", "llama-3", .. or NULL when the file names no template that is known */
    const char *kernel_tier;  /* tier in use, "avx2" */
    uint64_t n_params;        /* weights, all tensors */
    uint64_t n_bytes;         /* bytes of weights in RAM, caches of weights included */
    uint32_t n_vocab, n_ctx_train, n_embd, n_layer;
    int32_t bos, eos; /* -1 when the vocabulary has none */
    bool adds_bos;
    uint64_t ram;        /* the budget; 0: everything is in RAM and no budget was asked for */
    uint64_t away_bytes; /* bytes of weights that are read while computing; 0: everything is in RAM */
    uint32_t n_ctx, n_batch; /* what sessions get by default: smaller than usual where the budget asks for it */
} sg_model_info;

/* Opens a GGUF file (the first one of a split set) and reads its weights into RAM, as far as the budget allows.
 * Errors: SG_E_NOT_FOUND, SG_E_ACCESS, SG_E_FORMAT, SG_E_UNSUPPORTED, SG_E_IO, SG_E_NOMEM; SG_E_ARG when cpu_mask
 * names no tier or one that this machine lacks, or io no engine; SG_E_CANCELLED when progress returned false. */
SG_API SG_NODISCARD sg_status sg_model_open(const char *path, const sg_model_options *options, sg_model **out,
                                            sg_error *err);
/* Every session of the model must be destroyed first. */
SG_API void sg_model_close(sg_model **model);
SG_API const sg_model_info *sg_model_get_info(const sg_model *model);

/* ---- text and tokens --------------------------------------------------------------------------------------------- */

enum {
    SG_TOKENIZE_SPECIAL = 1,       /* add BOS and EOS as the model's metadata asks */
    SG_TOKENIZE_PARSE_SPECIAL = 2, /* text such as "<|im_end|>" becomes that control token instead of plain characters */
    SG_TOKENIZE_BOS = 4            /* add BOS as the metadata asks, never EOS: for text that is to be continued */
};

/* Tokens of text[0..len). *out is allocated (sg_free), *n_out its length.
 * SG_E_UTF8 when the text is not valid UTF-8; the message names the byte. */
SG_API SG_NODISCARD sg_status sg_tokenize(const sg_model *model, const char *text, size_t len, unsigned flags,
                                          int32_t **out, size_t *n_out, sg_error *err);

/* Text of tokens, allocated and zero-terminated (*len without the zero). Control tokens give "". Bytes that do not form
 * UTF-8 are kept as they are. */
SG_API SG_NODISCARD sg_status sg_detokenize(const sg_model *model, const int32_t *tokens, size_t n, char **out,
                                            size_t *len, sg_error *err);

/* True for tokens that end a generation (EOS, end of turn). */
SG_API bool sg_token_is_eog(const sg_model *model, int32_t token);

typedef struct sg_chat_message {
    const char *role; /* "system", "user" or "assistant" */
    const char *text;
} sg_chat_message;

/* Writes messages in the model's chat template family (chatml when the file names none), ready for
 * sg_tokenize(SG_TOKENIZE_PARSE_SPECIAL). `open_assistant` appends what starts an answer. *out: sg_free. */
SG_API SG_NODISCARD sg_status sg_chat_format(const sg_model *model, const sg_chat_message *messages, size_t n,
                                             bool open_assistant, char **out, sg_error *err);

/* ---- session ----------------------------------------------------------------------------------------------------- */

typedef struct sg_session sg_session;

/* How keys and values of past tokens are kept. Q8_0 (8-bit codes, a scale per 32 values) takes about half of F16's memory, at
 * a small loss; it needs heads of a multiple of 32 values. */
typedef enum sg_kv_type { SG_KV_F16 = 0, SG_KV_F32 = 1, SG_KV_Q8_0 = 2 } sg_kv_type;

/* How feed-forward layers of a model.bin are computed. Every way gives the same bits. */
typedef enum sg_ffn_mode {
    SG_FFN_AUTO = 0, /* what inactive neurons would add is left out; whole clusters where that was measured to be faster */
    SG_FFN_SPARSE,   /* always neuron by neuron */
    SG_FFN_DENSE     /* everything, as if nothing was sparse: to compare with */
} sg_ffn_mode;

typedef struct sg_session_options {
    size_t struct_size;
    uint32_t n_ctx;     /* tokens of context; 0: what the model was trained for, 4096 at most */
    uint32_t n_threads; /* 0: one per usable core */
    uint32_t n_batch;   /* tokens evaluated together when a prompt is fed; 0: 128, or up to 512 where experts are read while computing. Does not change any result. */
    sg_kv_type kv_type;
    bool pin_threads; /* ask the system to keep each thread on a core of its own while it evaluates; a hint */
    sg_ffn_mode ffn;
    /* Lossy choices, for model.bin files that were calibrated (top_k: any model.bin); 0: off. They can be combined. */
    float lossy_predict;   /* neurons that the predictor does not name are left out; the share of the active ones that it should name */
    float lossy_threshold; /* this share of the neurons, those with the smallest activated gates, is left out */
    uint32_t lossy_top_k;  /* all but the K neurons of a layer with the largest activated gates are left out */
    /* Models with recurrent layers cannot go back but to a copy of their state. Copies are kept from just before the last token of the last prompts;
     * 0: two, SG_NO_STATE_COPIES: none (a rewind then evaluates everything again). Other models need none. */
    uint32_t n_state_copies;
    /* Where weights are quantised they are multiplied with activations in 16 instead of 8 bits: closer to the exact product (in mixtures of
     * experts fewer routes differ from the exact ones), and slower. Does not touch the KV cache's type and the down rows of a model.bin. */
    bool precise;
    /* Lossy choices for mixtures of experts; 0: off. They can be combined, also with those above. The second and the third only change anything while not
     * all experts are in memory, and then the result depends on which are: on the budget, on what came before in any session of the model, and on
     * n_batch, for the tokens of a batch all see what was in memory when a layer began. */
    uint32_t n_experts;        /* experts of a token, if fewer than the model says: the best ones */
    float lossy_drop;          /* share, below 1: a token's experts that are not in memory are left out, those of the least weight first, as long as their
                                * weights sum to at most this share of all the token's. Where a model makes the weights of the chosen experts sum to
                                * one, those that are left still do */
    float lossy_cache_route;   /* up to 1: experts in memory are preferred, but for the best one of a token: that times the usual range of the router's
                                * products is added to theirs for the choice (not for the weights) */
} sg_session_options;
#define SG_NO_STATE_COPIES UINT32_MAX
#define SG_SESSION_OPTIONS_INIT { sizeof(sg_session_options), 0, 0, 0, SG_KV_F16, false, SG_FFN_AUTO, 0.0f, 0.0f, 0, 0, false, 0, 0.0f, 0.0f }

/* The model must outlive the session. SG_E_UNSUPPORTED when a lossy choice is not possible with this model. */
SG_API SG_NODISCARD sg_status sg_session_create(sg_model *model, const sg_session_options *options, sg_session **out,
                                                sg_error *err);
SG_API void sg_session_destroy(sg_session **session);

/* Appends tokens to the timeline and evaluates them. The logits of the last `n_keep` of them (1 .. n) are kept.
 * On failure the timeline holds the tokens evaluated so far (see sg_session_length). */
SG_API SG_NODISCARD sg_status sg_session_feed(sg_session *session, const int32_t *tokens, size_t n, size_t n_keep,
                                              sg_error *err);

/* Makes the timeline equal to tokens[0..n): keeps the common beginning, drops the rest, evaluates what is new. The
 * rest is dropped before anything can fail for what is new: after SG_E_CONTEXT the timeline is the common beginning. */
SG_API SG_NODISCARD sg_status sg_session_sync(sg_session *session, const int32_t *tokens, size_t n, sg_error *err);

/* Tokenizes (BOS only at the beginning of the timeline) and feeds. */
SG_API SG_NODISCARD sg_status sg_session_feed_text(sg_session *session, const char *text, size_t len, sg_error *err);

/* Row `i` of the logits kept by the last feed, float[n_vocab]; valid until the next call on the session. NULL outside. */
SG_API const float *sg_session_logits(const sg_session *session, size_t i);
SG_API size_t sg_session_logits_rows(const sg_session *session);

/* Tokens on the timeline, and the most it can hold. */
SG_API size_t sg_session_length(const sg_session *session);
SG_API size_t sg_session_capacity(const sg_session *session);
SG_API const int32_t *sg_session_tokens(const sg_session *session);

/* Shortens the timeline to its first n tokens; logits become invalid. Where the model cannot go back as far as that (recurrent layers,
 * windows shorter than what was dropped), the next feed evaluates what it needs again, with the same result. */
SG_API SG_NODISCARD sg_status sg_session_rewind(sg_session *session, size_t n, sg_error *err);

/* Writes the timeline and what the model remembers of it to PATH (which appears whole or not at all), and reads it back into a session of
 * the same model, KV cache type and kernel tier, with the same lossy and precise choices; contexts (as long as the tokens fit), batches and
 * threads may differ. After a restore the logits are invalid: sg_session_sync with the same tokens evaluates the last one again. What the
 * model has forgotten is evaluated before saving, which sg_session_cancel stops. Errors: those of files; SG_E_FORMAT when PATH is damaged,
 * SG_E_UNSUPPORTED when it is of another model or other choices, SG_E_CONTEXT. A restore that is refused by the file's beginning or its size
 * changes nothing; one that fails later leaves an empty timeline. */
SG_API SG_NODISCARD sg_status sg_session_save(sg_session *session, const char *path, sg_error *err);
SG_API SG_NODISCARD sg_status sg_session_restore(sg_session *session, const char *path, sg_error *err);

/* Makes the running or the next feed or generate stop with SG_E_CANCELLED (feed) or SG_STOP_CANCELLED (generate).
 * Async-signal-safe; the request is consumed by the call that it stops. */
SG_API void sg_session_cancel(sg_session *session);

/* Experts of a model that is not all in RAM, since it was opened, all sessions together. An expert that several tokens of a batch use counts once:
 * it was in RAM; or was there, or on its way, because it was expected; or had to be read. */
typedef struct sg_expert_stats {
    uint64_t in_ram, ahead, late, missed;
    uint64_t guessed, right;   /* named by look-ahead, and those of them that were used; of the tokens for which it looked ahead */
    uint64_t expected, unused; /* reads that were started because something was named, and those that nobody needed */
    uint64_t foreseen, came;   /* as guessed and right, of the pre-gate; in batches of their first token */
} sg_expert_stats;

typedef struct sg_stats {
    uint64_t prompt_tokens, decode_tokens; /* fed in batches of two and more / one by one */
    double prompt_seconds, decode_seconds; /* wall time spent evaluating them */
    uint64_t weight_bytes, kv_bytes, buffer_bytes;
    uint32_t n_threads;
    /* Neurons of all layers and tokens of a model.bin: all; those whose gate, whose up product was computed; the active ones. */
    uint64_t neurons, neuron_gates, neuron_ups, neurons_active;
    /* Of a model that is not all in RAM, since it was opened, all sessions together. Neurons that fired were found: in hot clusters; in the
     * cache; there, or on the way, thanks to a prediction; or had to be read (missed; passed: and there was no room to keep them). */
    uint64_t found_hot, found_cold, found_ahead, found_late, found_missed, found_passed, predicted;
    uint64_t demand_bytes, demand_reads, prefetch_bytes, prefetch_reads; /* read while computing */
    double wait_seconds; /* of this session's threads, waiting for reads, summed over the threads */
    double token_p50, token_p90, token_p99; /* seconds of the tokens that were fed one by one */
    struct sg_expert_stats experts; /* of all layers */
} sg_stats;
SG_API sg_stats sg_session_get_stats(const sg_session *session);

/* Of one layer. False, and all zero: it has no experts that are read while computing. */
SG_API bool sg_session_get_expert_stats(const sg_session *session, uint32_t layer, sg_expert_stats *out);

/* Writes the experts that every token from now on uses, with their weights, to PATH: a row per token, layer and expert, as
 * scripts/replay_cache.py reads it. NULL: ends the log, and says whether all of it could be written. SG_E_UNSUPPORTED for models without
 * experts. */
SG_API SG_NODISCARD sg_status sg_session_log_routes(sg_session *session, const char *path, sg_error *err);

/* Keeps what happens from now on in memory (up to `events` spans of 40 bytes, besides the budget; 0: stops) and writes it as a Chrome trace. For models that are not all in
 * RAM, SG_E_UNSUPPORTED for others. The spans of all sessions of the model go into one trace. */
SG_API SG_NODISCARD sg_status sg_session_trace(sg_session *session, size_t events, sg_error *err);
SG_API SG_NODISCARD sg_status sg_session_write_trace(sg_session *session, const char *path, sg_error *err);

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

typedef struct sg_sampler sg_sampler;

/* The steps run in this order: penalties, top-k, temperature, top-p, min-p, draw. */
typedef struct sg_sampler_options {
    size_t struct_size;
    uint64_t seed;
    float temperature;    /* 0: greedy */
    int32_t top_k;        /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1: off; divides positive and multiplies negative logits of recent tokens */
    float presence_penalty, frequency_penalty; /* 0: off */
    int32_t penalty_last_n;                    /* how many tokens count as recent; -1: all */
} sg_sampler_options;
#define SG_SAMPLER_OPTIONS_INIT { sizeof(sg_sampler_options), 0, 0.8f, 40, 0.95f, 0.05f, 1.0f, 0.0f, 0.0f, 64 }

SG_API SG_NODISCARD sg_status sg_sampler_create(const sg_sampler_options *options, uint32_t n_vocab, sg_sampler **out,
                                                sg_error *err);
SG_API void sg_sampler_destroy(sg_sampler **sampler);
/* Picks a token from logits[n_vocab] (unchanged) and remembers it for the penalties. Same options, same seed and same
 * logits give the same tokens on every machine. Never fails: NaN counts as minus infinity. */
SG_API int32_t sg_sampler_sample(sg_sampler *sampler, const float *logits);
/* Lets the penalties know a token that was not sampled (the prompt). */
SG_API void sg_sampler_accept(sg_sampler *sampler, int32_t token);

/* ---- generation -------------------------------------------------------------------------------------------------- */

typedef enum sg_stop_reason {
    SG_STOP_LENGTH = 0, /* max_tokens reached */
    SG_STOP_EOG,        /* the model ended its text */
    SG_STOP_STRING,     /* one of `stop` appeared; it is not part of the text */
    SG_STOP_CONTEXT,    /* the context is full */
    SG_STOP_CANCELLED,
    SG_STOP_CALLBACK /* on_text returned false */
} sg_stop_reason;

/* Receives text as it is made: whole UTF-8 characters, never a half, zero-terminated. Return false to stop. */
typedef bool (*sg_text_fn)(void *user, const char *text, size_t len);

typedef struct sg_generate_options {
    size_t struct_size;
    int64_t max_tokens; /* -1: until the model ends or the context is full */
    bool ignore_eog;    /* end tokens are fed like any other and give no text */
    const char *const *stop;
    size_t n_stop;
    sg_text_fn on_text; /* may be NULL */
    void *user;
} sg_generate_options;
#define SG_GENERATE_OPTIONS_INIT { sizeof(sg_generate_options), -1, false, NULL, 0, NULL, NULL }

typedef struct sg_generate_result {
    sg_stop_reason reason;
    uint64_t n_tokens; /* sampled, the end token not counted */
} sg_generate_result;

/* Continues the timeline, which must have fresh logits (a feed came before). `result` may be NULL. */
SG_API SG_NODISCARD sg_status sg_generate(sg_session *session, sg_sampler *sampler, const sg_generate_options *options,
                                          sg_generate_result *result, sg_error *err);

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct sg_file_info sg_file_info;

/* Reads the header of a GGUF file or split set, no weights. */
SG_API SG_NODISCARD sg_status sg_file_info_open(const char *path, sg_file_info **out, sg_error *err);
SG_API void sg_file_info_close(sg_file_info **info);

/* The whole description as text for people, or as one JSON object; sg_free. Contents: docs/cli.md, `info`. */
SG_API SG_NODISCARD sg_status sg_file_info_text(const sg_file_info *info, bool json, char **out, sg_error *err);

typedef enum sg_convert_format {
    SG_CONVERT_AUTO = 0, /* by the ending of the output: .gguf is plain GGUF, everything else model.bin */
    SG_CONVERT_GGUF = 1, /* one GGUF file that other programs run too; not from GGUF */
    SG_CONVERT_BIN = 2   /* model.bin (docs/model_bin.md): feed-forward layers cut into neurons, checksums */
} sg_convert_format;

/* "Types" are "f32", "f16", "bf16", "q8_0" and "q4_0"; bundles hold all but bf16. */
typedef struct sg_convert_options {
    size_t struct_size;
    const char *input;     /* llama2.c .bin, or a Hugging Face folder; for model.bin also GGUF, split or not, or PowerInfer's GGUF */
    const char *output;    /* written under a temporary name, renamed when complete */
    const char *type;      /* NULL: f16 for folders, f32 for .bin; of GGUF only the bundles change, NULL: close to what they were */
    const char *tokenizer; /* tokenizer file where the input has none beside it; NULL: look beside the input */
    bool overwrite;
    sg_log_fn log;
    sg_progress_fn progress; /* bytes written */
    void *user;
    sg_convert_format format;
    const char *down_type; /* model.bin: type of the down rows; NULL: `type`, or by the source */
    uint32_t cluster;      /* model.bin: neurons per cluster, a multiple of 32 up to 256; 0: by the size of their rows */
    uint64_t ram_bytes;    /* model.bin: memory for buffers; 0: 512 MiB, or half of what is available if that is less */
} sg_convert_options;
#define SG_CONVERT_OPTIONS_INIT                                                                                        \
    { sizeof(sg_convert_options), NULL, NULL, NULL, NULL, false, NULL, NULL, NULL, SG_CONVERT_AUTO, NULL, 0, 0 }

/* SG_E_ARG also when ram_bytes is too little for the model; the message says how much it needs. */
SG_API SG_NODISCARD sg_status sg_convert(const sg_convert_options *options, sg_error *err);

/* A part of a model.bin that does not match its checksum, or is not what it should be. */
typedef struct sg_bad_part {
    const char *text;    /* "layer 7, cluster 12 (bytes 4096 to 8191)", "tensor output.weight (..)", "the header (..)" */
    uint64_t begin, end; /* bytes begin .. end - 1 of the file */
    int64_t layer, cluster; /* of a cluster of neurons, else -1 */
} sg_bad_part;

typedef struct sg_verify_options {
    size_t struct_size;
    sg_progress_fn progress;                                /* bytes read */
    void (*on_bad)(void *user, const sg_bad_part *part);    /* once per damaged part, in the order of the file; valid during the call */
    void *user;
} sg_verify_options;
#define SG_VERIFY_OPTIONS_INIT { sizeof(sg_verify_options), NULL, NULL, NULL }

typedef struct sg_verify_report {
    uint64_t n_parts; /* checksums compared */
    uint64_t n_bytes; /* of the file; 0 when the check did not get to its end */
    uint64_t n_bad;
} sg_verify_report;

/* Compares every byte of a model.bin with the checksums in it, in a few MiB of memory. SG_OK: all is well. SG_E_FORMAT: damaged,
 * each part having been reported to on_bad, or so damaged that the header cannot be read; SG_E_UNSUPPORTED: an ordinary GGUF file,
 * which has no checksums, or a later version. `report` may be NULL and is filled in any case. */
SG_API SG_NODISCARD sg_status sg_verify(const char *path, const sg_verify_options *options, sg_verify_report *report,
                                        sg_error *err);

/* ---- calibration ------------------------------------------------------------------------------------------------ */

typedef struct sg_calibrate_options {
    size_t struct_size;
    const char *model;  /* a model.bin */
    const char *output; /* written under a temporary name, renamed when complete; NULL: takes the place of `model` */
    const char *text;   /* UTF-8, text[0..len): what the model is meant to be used for */
    size_t len;
    bool overwrite;      /* `output` may be there already */
    bool dry_run;        /* write no model */
    bool no_predictors;  /* counts, order and thresholds only */
    const char *only;    /* "sign", "lowrank" or "mlp": no other kind of predictor; NULL: the best */
    uint32_t n_ctx;      /* tokens of a window; 0: 512, or what the model was trained for if that is less */
    uint64_t max_tokens; /* of the text; 0: all */
    uint32_t n_threads;  /* 0: one per usable core */
    double budget;       /* bytes of the predictors at most, as a share of the bytes of the neurons; 0: 0.05 */
    uint64_t ram_bytes;  /* for samples, besides the model and what the fit of one layer takes; 0: 1 GiB */
    sg_io_engine io;
    const char *cpu_mask; /* as in sg_model_options */
    sg_log_fn log;
    sg_progress_fn progress;
    void *user;
    bool no_ahead; /* nothing that names the experts of a layer before its turn: neither corrections of routers nor a pre-gate */
} sg_calibrate_options;
#define SG_CALIBRATE_OPTIONS_INIT                                                                                      \
    { sizeof(sg_calibrate_options), NULL, NULL, NULL, 0, false, false, false, NULL, 0, 0, 0, 0, 0, SG_IO_AUTO, NULL, NULL, NULL, NULL, false }

/* Runs a model.bin over a text and writes it anew: neurons sorted by how often they were active, counts, thresholds, and for each
 * layer the predictor that was measured to be the best within the budget (docs/model_bin.md). What the model computes without a
 * lossy choice stays the same, see docs/cli.md. report: the figures as text for people; plot: an SVG picture; both sg_free, or
 * NULL when not wanted. Errors: SG_E_UNSUPPORTED for a file without neurons; SG_E_ARG also when ram_bytes is too little, the message
 * says how much is needed; SG_E_EXISTS. */
SG_API SG_NODISCARD sg_status sg_calibrate(const sg_calibrate_options *options, char **report, char **plot, sg_error *err);

/* ---- speed ------------------------------------------------------------------------------------------------------- */

/* What this machine can do at most, measured: what a speed is to be compared with. */
typedef struct sg_limits {
    const char *kernel_tier; /* whose instructions were measured, "avx2" */
    uint32_t n_threads;      /* that measured: OpenMP may grant fewer than asked for */
    double read;             /* bytes a second from memory that no cache holds: the best of one and of four streams a thread */
    double read_plain;       /* of one stream, a plain loop */
    double read_median;      /* median instead of best of the passes that gave `read`: what a machine shared with others gives */
    double int8;             /* operations a second (2 per multiply-accumulate) of the tier's 8-bit multiply instruction alone */
    double int8_sum;         /* the same with what it takes to sum the products in 32 bits */
    double f32;              /* operations a second of fused multiply-adds */
} sg_limits;

/* Measures with n_threads at the same time (0: one per usable core), the best of several passes. cpu_mask as in
 * sg_model_options: the tier whose instructions count. Takes a second or two and 512 MiB (64 MiB a thread if that is more), at
 * most a quarter of the memory that is available: SG_E_NOMEM when that is less than 128 MiB. */
SG_API SG_NODISCARD sg_status sg_limits_measure(const char *cpu_mask, uint32_t n_threads, sg_limits *out, sg_error *err);

/* What the products with the model's matrices ask of the machine. */
typedef struct sg_work {
    uint64_t weight_bytes; /* read once; without the embedding table, unless it is the output matrix too */
    uint64_t int8_ops;     /* operations of matrices that are multiplied in 8 bits, 2 per multiply-accumulate */
    uint64_t f32_ops;      /* of the others */
} sg_work;

/* Work of a feed of n tokens that keeps n_keep rows of logits, if no weight is read twice. */
SG_API sg_work sg_model_get_work(const sg_model *model, size_t n, size_t n_keep);

/* ---- devices ----------------------------------------------------------------------------------------------------- */

typedef enum sg_gpu_api { SG_GPU_OPENCL = 0, SG_GPU_VULKAN = 1 } sg_gpu_api;
typedef enum sg_gpu_kind { SG_GPU_OTHER = 0, SG_GPU_DISCRETE, SG_GPU_INTEGRATED, SG_GPU_SOFTWARE } sg_gpu_kind;

typedef struct sg_gpu_device {
    sg_gpu_api api;
    sg_gpu_kind kind;
    char name[128], driver[160];
    uint64_t memory;     /* bytes of device memory */
    uint64_t max_buffer; /* largest single buffer in bytes */
} sg_gpu_device;

/* GPUs that OpenCL and Vulkan report. Drivers run in a child process, so a broken one is a log line and not a crash. This
 * version computes on the CPU only. *out: sg_free. Forks: call it before the program has threads of its own. */
SG_API SG_NODISCARD sg_status sg_gpu_list(sg_gpu_device **out, size_t *n, sg_log_fn log, void *user, sg_error *err);

#ifdef __cplusplus
}
#endif
#endif /* SPARSEGEN_H */
