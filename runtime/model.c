/* Opening a model: header, description, tokenizer, weights, plan. */
#include "runtime/base/memavail.h"
#include "runtime/model.h"

#include <stdlib.h>
#include <string.h>

static sg_status open_rope(sg_model *m, sg_rope_kind kind, const float *factors, sg_error *err) {
    const sg_hparams *hp = &m->desc.hp;
    const sg_rope_params *r = &hp->rope;
    const bool window = kind == SG_ROPES_WINDOW; /* plain, with a base of its own */
    const sg_rope_config c = {
        .n_rot = r->n_rot,
        .adjacent = r->pairing == SG_ROPE_ADJACENT,
        .freq_base = window ? hp->window_rope_base : r->freq_base,
        .scale = window || r->scaling == SG_ROPE_PLAIN ? 1.0 : r->factor,
        .yarn = !window && r->scaling == SG_ROPE_YARN,
        .beta_fast = r->beta_fast,
        .beta_slow = r->beta_slow,
        .ext_factor = r->ext_factor,
        .magnitude = window ? 1 : r->magnitude,
        .n_ctx_orig = r->n_ctx_orig,
        .factors = factors,
    };
    return sg_rope_init(&m->ropes[kind], &c, err);
}

sg_status sg_model_open_ropes(sg_model *m, sg_error *err) {
    const sg_hparams *hp = &m->desc.hp;
    const sg_weight *w = m->weights.globals;
    if (hp->rope.pairing == SG_ROPE_NONE) return SG_OK;
    SG_TRY(open_rope(m, SG_ROPES_MAIN, w[SG_T_ROPE_FREQS].v ? w[SG_T_ROPE_FREQS].v : w[SG_T_ROPE_SHORT].v, err));
    if (w[SG_T_ROPE_LONG].v) SG_TRY(open_rope(m, SG_ROPES_LONG, w[SG_T_ROPE_LONG].v, err));
    return hp->window_rope_base > 0 ? open_rope(m, SG_ROPES_WINDOW, NULL, err) : SG_OK;
}

static sg_status open_text(sg_model *m, const sg_gguf *g, const sg_log *log, sg_error *err) {
    SG_TRY(sg_tokenizer_create(g, log, &m->tokenizer, err));
    if (m->vocab_only) m->desc.hp.n_vocab = sg_tokenizer_n_vocab(m->tokenizer);
    if (sg_tokenizer_n_vocab(m->tokenizer) > m->desc.hp.n_vocab)
        return sg_fail(err, SG_E_FORMAT, "%s: the vocabulary has %u tokens, the embedding only %u rows", sg_gguf_path(g, 0),
                       sg_tokenizer_n_vocab(m->tokenizer), m->desc.hp.n_vocab);
    const char *jinja = NULL, *name = "", *arch = "";
    SG_TRY(sg_gguf_get_str(g, "tokenizer.chat_template", &jinja, err));
    SG_TRY(sg_gguf_get_str(g, "general.name", &name, err));
    m->chat = sg_chat_recognise(jinja);
    SG_TRY(sg_gguf_get_str(g, "general.architecture", &arch, err));
    m->name = strdup(name);
    m->arch = strdup(arch);
    return m->name && m->arch ? SG_OK : sg_fail(err, SG_E_NOMEM, "out of memory");
}

static void fill_info(sg_model *m, const sg_gguf *g) {
    uint64_t params = 0;
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) params += sg_gguf_tensor_at(g, i)->n_values;
    const sg_hparams *hp = &m->desc.hp;
    m->info = (sg_model_info){
        .architecture = m->arch,
        .name = m->name,
        .chat_family = sg_chat_family_name(m->chat),
        .kernel_tier = m->kernels.tier,
        .n_params = params,
        .n_bytes = sg_weights_bytes(&m->weights),
        .ram = m->ram,
        .away_bytes = m->away_bytes,
        .n_ctx = m->n_ctx,
        .n_batch = m->n_batch,
        .n_vocab = hp->n_vocab,
        .n_ctx_train = hp->n_ctx_train,
        .n_embd = hp->n_embd,
        .n_layer = hp->n_layer,
        .bos = sg_tokenizer_bos(m->tokenizer),
        .eos = sg_tokenizer_eos(m->tokenizer),
        .adds_bos = sg_tokenizer_adds_bos(m->tokenizer),
    };
}

static sg_status open_model(sg_model *m, const sg_gguf *g, const sg_model_options *o, uint64_t base, sg_error *err) {
    const sg_log log = { o->log, o->user };
    uint32_t flags = sg_cpu_detect();
    SG_TRY(sg_cpu_mask(&flags, o->cpu_mask, err));
    sg_kernels_init(&m->kernels, flags);
    m->vocab_only = o->vocab_only;
    if (!m->vocab_only && sg_gguf_is_powerinfer(g))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: a PowerInfer file has to become a model.bin first (sparsegen convert)", sg_gguf_path(g, 0));
    if (!m->vocab_only) SG_TRY(sg_model_describe(g, &m->desc, err));
    SG_TRY(open_text(m, g, &log, err));
    if (m->vocab_only) {
        fill_info(m, g);
        return SG_OK;
    }
    SG_TRY(sg_model_identify(g, m->arch, &m->id, err));
    SG_TRY(sg_model_open_weights(m, g, o, base, err));
    fill_info(m, g);
    return SG_OK;
}

sg_status sg_model_open(const char *path, const sg_model_options *options, sg_model **out, sg_error *err) {
    if (!out) return sg_fail(err, SG_E_ARG, "sg_model_open: out is NULL");
    *out = NULL;
    if (!path) return sg_fail(err, SG_E_ARG, "sg_model_open: path is NULL");
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);

    const uint64_t base = sg_mem_resident();
    sg_gguf *g = NULL;
    SG_TRY(sg_gguf_open(path, &g, err));
    sg_model *m = calloc(1, sizeof *m);
    sg_status s = m ? open_model(m, g, &o, base, err) : sg_fail(err, SG_E_NOMEM, "out of memory");
    if (m) { /* these point into the file's header, which goes now */
        free(m->desc.layers);
        m->desc.layers = NULL;
        free(m->desc.bundles);
        free(m->desc.bundles_shexp);
        m->desc.bundles = m->desc.bundles_shexp = NULL;
        memset(m->desc.globals, 0, sizeof m->desc.globals);
    }
    sg_gguf_close(&g);
    if (s != SG_OK) sg_model_close(&m);
    *out = m;
    return s;
}

void sg_model_close(sg_model **model) {
    if (!model || !*model) return;
    sg_model *m = *model;
    sg_plan_finish(&m->plan);
    for (int i = 0; i < SG_ROPES; i++) sg_rope_finish(&m->ropes[i]);
    sg_weights_finish(&m->weights);
    sg_model_desc_finish(&m->desc);
    sg_tokenizer_destroy(&m->tokenizer);
    free(m->name);
    free(m->arch);
    free(m);
    *model = NULL;
}

const sg_model_info *sg_model_get_info(const sg_model *model) { return model ? &model->info : NULL; }

/* `used` of the matrices of a tensor take part in a token, and at most all of them in a batch. */
static void add_work(sg_work *work, const sg_matrix *m, uint64_t tokens, uint64_t used) {
    if (!m->kernel || tokens == 0) return;
    const uint64_t all = m->n ? m->n : 1, read = used * tokens < all ? used * tokens : all;
    work->weight_bytes += read * m->rows * sg_dtype_bytes(sg_dtype_get((uint32_t)m->kernel->type), m->k);
    *(m->kernel->acts_q8 ? &work->int8_ops : &work->f32_ops) += 2 * tokens * used * m->rows * m->k;
}

static void add_bundle_work(sg_work *work, const sg_ffn_layer *unit, uint64_t tokens) {
    const sg_bundle *b = &unit->bundle;
    const sg_bundle_layout *l = &b->l;
    const uint64_t all = l->n_expert ? l->n_expert : 1, used = l->n_expert ? unit->n_used : 1, read = used * tokens < all ? used * tokens : all;
    const uint64_t products = 2 * tokens * used * l->n_neurons * l->k;
    if (tokens == 0) return;
    work->weight_bytes += read * l->n_neurons * (l->gate_row + l->record);
    *(b->gate->quantised ? &work->int8_ops : &work->f32_ops) += products;
    if (l->gated) *(b->up->quantised ? &work->int8_ops : &work->f32_ops) += products;
    *(b->down->quantised ? &work->int8_ops : &work->f32_ops) += products;
}

static uint64_t used_of(const sg_hparams *hp, int slot, const sg_matrix *m) {
    const bool experts = slot == SG_L_GATE_EXPS || slot == SG_L_UP_EXPS || slot == SG_L_DOWN_EXPS;
    return experts ? hp->n_expert_used : m->n ? m->n : 1;
}

sg_work sg_model_get_work(const sg_model *model, size_t n, size_t n_keep) {
    sg_work work = { 0 };
    if (!model || !model->weights.layers) return work;
    const sg_weights *w = &model->weights;
    for (uint32_t l = 0; l < model->desc.hp.n_layer; l++)
        for (int slot = 0; slot < SG_L_SLOTS; slot++)
            if (slot != SG_L_AHEAD) add_work(&work, &w->layers[l][slot].m, n, used_of(&model->desc.hp, slot, &w->layers[l][slot].m));
    for (uint32_t i = 0; i < w->n_units; i++) add_bundle_work(&work, &w->ffn[i], n);
    if (model->desc.pregate_routes) add_work(&work, &w->globals[SG_T_PREGATE].m, n, 1);
    const sg_matrix *output = &w->globals[SG_T_OUTPUT].m; /* the embedding table where a model has none */
    add_work(&work, output->kernel ? output : &w->globals[SG_T_TOKEN_EMBD].m, n_keep, 1);
    return work;
}

const sg_tokenizer *sg_model_tokenizer(const sg_model *model) { return model->tokenizer; }

sg_status sg_tokenize(const sg_model *model, const char *text, size_t len, unsigned flags, int32_t **out, size_t *n_out,
                      sg_error *err) {
    if (!model || !out || !n_out || (!text && len)) return sg_fail(err, SG_E_ARG, "sg_tokenize: an argument is NULL");
    *out = NULL;
    *n_out = 0;
    sg_ids ids = { 0 };
    sg_status s = sg_tokenizer_encode(model->tokenizer, text, len, flags, &ids, err);
    if (s == SG_OK && ids.failed) s = sg_fail(err, SG_E_NOMEM, "out of memory for the tokens");
    if (s == SG_OK && !ids.data && !(ids.data = calloc(1, sizeof *ids.data))) s = sg_fail(err, SG_E_NOMEM, "out of memory");
    if (s != SG_OK) {
        free(ids.data);
        return s;
    }
    *out = ids.data;
    *n_out = ids.len;
    return SG_OK;
}

sg_status sg_detokenize(const sg_model *model, const int32_t *tokens, size_t n, char **out, size_t *len, sg_error *err) {
    if (!model || !out || (!tokens && n)) return sg_fail(err, SG_E_ARG, "sg_detokenize: an argument is NULL");
    *out = NULL;
    sg_str s = { 0 };
    for (size_t i = 0; i < n; i++) {
        size_t piece_len;
        const char *piece = sg_tokenizer_piece(model->tokenizer, tokens[i], false, &piece_len);
        sg_str_append(&s, piece, piece_len);
    }
    sg_str_append(&s, "", 0);
    if (s.failed) {
        free(s.data);
        return sg_fail(err, SG_E_NOMEM, "out of memory for the text");
    }
    *out = s.data;
    if (len) *len = s.len;
    return SG_OK;
}

bool sg_token_is_eog(const sg_model *model, int32_t token) { return model && sg_tokenizer_is_eog(model->tokenizer, token); }

sg_status sg_chat_format(const sg_model *model, const sg_chat_message *messages, size_t n, bool open_assistant, char **out,
                         sg_error *err) {
    if (!model || !out || (!messages && n)) return sg_fail(err, SG_E_ARG, "sg_chat_format: an argument is NULL");
    *out = NULL;
    sg_str text = { 0 };
    sg_status s = sg_chat_write(model->chat, messages, n, open_assistant, &text, err);
    if (s == SG_OK) sg_str_append(&text, "", 0);
    if (s == SG_OK && text.failed) s = sg_fail(err, SG_E_NOMEM, "out of memory for the chat text");
    if (s != SG_OK) {
        free(text.data);
        return s;
    }
    *out = text.data;
    return SG_OK;
}
