/* sg_file_info for people. */
#include "runtime/info.h"

#include <inttypes.h>
#include <string.h>

#define MIB (1024.0 * 1024.0)
#define LABEL "%-20s "

static void line_text(sg_str *s, const char *label, const char *text) {
    if (!*text) return;
    sg_str_printf(s, LABEL, label);
    sg_info_put_clean(s, text, 200);
    sg_str_puts(s, "\n");
}

static void line_int(sg_str *s, const char *label, const sg_info_int *v) {
    if (!v->present) return;
    if (v->lo == v->hi)
        sg_str_printf(s, LABEL "%" PRIu32 "\n", label, v->lo);
    else
        sg_str_printf(s, LABEL "%" PRIu32 " to %" PRIu32 " by layer\n", label, v->lo, v->hi);
}

static void line_count(sg_str *s, const char *label, uint64_t n) {
    if (n >= 1000000000)
        sg_str_printf(s, LABEL "%" PRIu64 " (%.2f billion)\n", label, n, (double)n / 1e9);
    else if (n >= 1000000)
        sg_str_printf(s, LABEL "%" PRIu64 " (%.2f million)\n", label, n, (double)n / 1e6);
    else
        sg_str_printf(s, LABEL "%" PRIu64 "\n", label, n);
}

static void write_files(const sg_file_info *info, sg_str *s) {
    const sg_gguf *g = info->g;
    for (uint32_t i = 0; i < sg_gguf_n_files(g); i++) {
        sg_str_printf(s, LABEL, i == 0 ? "file" : "");
        sg_info_put_clean(s, sg_gguf_path(g, i), 4096);
        sg_str_printf(s, " (%.2f MiB)\n", (double)sg_gguf_file_size(g, i) / MIB);
    }
    sg_str_printf(s, LABEL "%s v%" PRIu32 ", alignment %" PRIu64 "\n", "format",
                  sg_gguf_is_powerinfer(g) ? "PowerInfer's GGUF (convert it to model.bin)" : "GGUF", sg_gguf_version(g),
                  sg_gguf_alignment(g));
    line_text(s, "architecture", info->architecture);
    line_text(s, "name", info->name);
}

static void write_size(const sg_file_info *info, sg_str *s) {
    line_count(s, "parameters", info->total.values);
    if (info->n_moe) line_count(s, "  active per token", info->active_values);
    if (info->total.values)
        sg_str_printf(s, LABEL "%.2f MiB, %.2f bits per weight\n", "weights", (double)info->total.bytes / MIB,
                      8.0 * (double)info->total.bytes / (double)info->total.values);
    if (info->kv_bytes) {
        sg_str_printf(s, LABEL "%" PRIu64 " bytes per token in F16, %" PRIu64 " layer%s%s", "KV cache", info->kv_bytes,
                      info->n_attention, info->n_attention == 1 ? "" : "s",
                      info->kv_compressed ? " (latent vectors)" : "");
        if (info->context.present)
            sg_str_printf(s, "; %.2f MiB for %" PRIu32 " tokens", (double)info->kv_bytes * info->context.hi / MIB,
                          info->context.hi);
        sg_str_puts(s, "\n");
    }
}

static void write_hyper(const sg_file_info *info, sg_str *s) {
    sg_str_puts(s, "\nhyper-parameters\n");
    line_int(s, "  context", &info->context);
    line_int(s, "  embedding", &info->embedding);
    line_int(s, "  layers", &info->layers);
    line_int(s, "  heads", &info->heads);
    line_int(s, "  KV heads", &info->kv_heads);
    line_int(s, "  key length", &info->key_length);
    line_int(s, "  value length", &info->value_length);
    line_int(s, "  sliding window", &info->window);
    line_int(s, "  feed-forward", &info->ff);
    line_int(s, "  rope dimensions", &info->rope_dims);
    if (info->has_rope_base) sg_str_printf(s, LABEL "%.9g\n", "  rope base", (double)info->rope_base);
    line_text(s, "  rope scaling", info->rope_scaling);
    if (info->has_rope_factor) sg_str_printf(s, LABEL "%.9g\n", "  rope factor", (double)info->rope_factor);
}

static void write_experts(const sg_file_info *info, sg_str *s) {
    if (!info->experts.present || info->experts.hi == 0) return;
    sg_str_puts(s, "\nexperts\n");
    line_int(s, "  count", &info->experts);
    line_int(s, "  used per token", &info->experts_used);
    line_int(s, "  shared", &info->experts_shared);
    line_int(s, "  feed-forward", &info->expert_ff);
    if (info->n_moe == 0) return;
    sg_str_printf(s, LABEL "%" PRIu64 "\n", "  layers", info->n_moe);
    sg_str_printf(s, LABEL "%.3f MiB\n", "  one expert", (double)info->expert_bytes / MIB);
    sg_str_printf(s, LABEL "%.2f MiB = %" PRIu64 " (layers) x %" PRIu32 " (experts) x %.3f MiB\n", "  routed per token",
                  (double)info->routed_bytes / MIB, info->n_moe, info->experts_used.hi,
                  (double)info->expert_bytes / MIB);
    if (info->n_pregate > 0)
        sg_str_printf(s, LABEL "of %" PRIu64 " layers%s\n", "  pre-gate", info->n_pregate,
                      info->pregate_routes ? ", which have no routers of their own" : "");
    if (info->n_ahead > 0) sg_str_printf(s, LABEL "corrected in %" PRIu64 " layers\n", "  look-ahead", info->n_ahead);
}

static void write_bin(const sg_file_info *info, sg_str *s) {
    if (!info->bin_version.present) return;
    sg_str_printf(s, "\nneurons (model.bin version %" PRIu32 ")\n", info->bin_version.hi);
    sg_str_printf(s, LABEL "%" PRIu64 "\n", "  layers", info->n_bundles);
    line_int(s, "  per cluster", &info->cluster);
    sg_str_printf(s, LABEL "%s %s, ", "  types", info->up_type.present ? "gate" : "up", sg_info_bundle_type(&info->gate_type));
    if (info->up_type.present) sg_str_printf(s, "up %s, ", sg_info_bundle_type(&info->up_type));
    sg_str_printf(s, "down %s\n", sg_info_bundle_type(&info->down_type));
    line_text(s, "  activation", info->activation);
    line_text(s, "  predictor", info->predictor);
    if (info->calibrated.present) sg_str_printf(s, LABEL "over %" PRIu32 " tokens\n", "  calibrated", info->calibrated.hi);
    else sg_str_printf(s, LABEL "no\n", "  calibrated");
}

static void put_token(const sg_file_info *info, sg_str *s, const char *label, const sg_info_int *id) {
    if (!id->present) return;
    sg_str_printf(s, LABEL "%" PRIu32, label, id->lo);
    if (id->lo < info->n_vocab) {
        sg_str_puts(s, " \"");
        sg_info_put_clean(s, sg_gguf_find(info->g, "tokenizer.ggml.tokens")->strings[id->lo].text, 80);
        sg_str_puts(s, "\"");
    }
    sg_str_puts(s, "\n");
}

static void write_tokenizer(const sg_file_info *info, sg_str *s) {
    sg_str_puts(s, "\ntokenizer\n");
    if (!*info->tokenizer && !info->has_vocab) {
        sg_str_puts(s, "  none\n");
        return;
    }
    line_text(s, "  model", info->tokenizer);
    line_text(s, "  pre", info->pre);
    sg_str_printf(s, LABEL "%" PRIu64 "\n", "  vocabulary", info->n_vocab);
    put_token(info, s, "  BOS", &info->bos);
    put_token(info, s, "  EOS", &info->eos);
    sg_str_printf(s, LABEL "%s\n", "  chat template",
                  info->chat_family     ? info->chat_family
                  : info->chat_template ? "unknown"
                                        : "none");
}

static void table_row(sg_str *s, const char *name, const sg_info_sum *sum, uint64_t all) {
    if (sum->n == 0) return;
    sg_str_printf(s, "  %-16s %8" PRIu64 " %16" PRIu64 " %14.3f %7.2f %%\n", name, sum->n, sum->values,
                  (double)sum->bytes / MIB, all ? 100.0 * (double)sum->bytes / (double)all : 0.0);
}

void sg_file_info_write_text(const sg_file_info *info, sg_str *s) {
    write_files(info, s);
    write_size(info, s);
    write_hyper(info, s);
    write_experts(info, s);
    write_bin(info, s);
    write_tokenizer(info, s);
    if (info->total.n == 0) {
        sg_str_puts(s, "\nno tensors\n");
        return;
    }
    sg_str_printf(s, "\n%-18s %8s %16s %14s %9s\n", "tensors by type", "tensors", "parameters", "MiB", "share");
    for (uint32_t i = 0; i < SG_DTYPE_LIMIT; i++)
        if (info->by_type[i].n) table_row(s, sg_dtype_get(i)->name, &info->by_type[i], info->total.bytes);
    sg_str_printf(s, "\n%-18s %8s %16s %14s %9s\n", "tensors by part", "tensors", "parameters", "MiB", "share");
    for (uint32_t i = 0; i < SG_PART_COUNT; i++)
        table_row(s, sg_info_part_names[i], &info->by_part[i], info->total.bytes);
    table_row(s, "all", &info->total, info->total.bytes);
    if (info->tied_output) sg_str_puts(s, "  the output matrix is the embedding\n");
}
