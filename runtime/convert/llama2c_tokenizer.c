/* tokenizer.bin of llama2.c: int32 longest length, then for each token float score, int32 length, bytes. The file does
 * not say how many tokens there are. Layout: https://github.com/karpathy/llama2.c, tokenizer.py. That program writes
 * spaces for SentencePiece's U+2581 and "\n<s>\n", "\n</s>\n" for ids 1 and 2; both are undone here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/file.h"
#include "runtime/convert/vocab_out.h"
#include "runtime/text/vocab.h"

#define MAX_FILE (256u << 20)

static sg_status set_piece(sg_conv_vocab *v, uint32_t id, const char *text, size_t len, float score, const char *path,
                           sg_error *err) {
    if (memchr(text, 0, len) || sg_utf8_check(text, len) != len)
        return sg_fail(err, SG_E_UNSUPPORTED,
                       "%s: token %u is not text; only SentencePiece vocabularies are read from .bin", path, id);
    sg_str s = { 0 };
    sg_str_append(&s, "", 0);
    for (size_t i = 0; i < len; i++)
        sg_str_append(&s, text[i] == ' ' ? "\xe2\x96\x81" : text + i, text[i] == ' ' ? 3 : 1);
    bool ok = !s.failed;
    if (ok && id == 0)
        ok = sg_conv_vocab_set(v, id, "<unk>", 5, score, SG_TOK_UNKNOWN);
    else if (ok && id == 1)
        ok = sg_conv_vocab_set(v, id, "<s>", 3, score, SG_TOK_CONTROL);
    else if (ok && id == 2)
        ok = sg_conv_vocab_set(v, id, "</s>", 4, score, SG_TOK_CONTROL);
    else if (ok)
        ok = sg_conv_vocab_set(v, id, s.data, s.len, score,
                               sg_byte_token(s.data, s.len) >= 0 ? SG_TOK_BYTE : SG_TOK_NORMAL);
    free(s.data);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory", path);
}

static sg_status parse(sg_conv_vocab *v, const char *path, const sg_str *file, sg_error *err) {
    size_t at = 4;
    for (uint32_t id = 0; id < v->n; id++) {
        float score;
        int32_t len;
        if (file->len < at || file->len - at < 8)
            return sg_fail(err, SG_E_FORMAT, "%s: ends after %u tokens, the model has %u", path, id, v->n);
        memcpy(&score, file->data + at, 4);
        memcpy(&len, file->data + at + 4, 4);
        at += 8;
        if (len < 0 || (uint64_t)len > file->len - at || !isfinite(score))
            return sg_fail(err, SG_E_FORMAT, "%s: token %u is damaged (length %d, score %g)", path, id, len, score);
        SG_TRY(set_piece(v, id, file->data + at, (size_t)len, score, path, err));
        at += (size_t)len;
    }
    if (at != file->len)
        return sg_fail(err, SG_E_FORMAT, "%s: holds more tokens than the %u of the model, so it belongs to another one",
                       path, v->n);
    return SG_OK;
}

sg_status sg_conv_vocab_read_llama2c(sg_conv_vocab *v, const char *path, sg_error *err) {
    sg_str file;
    sg_status status = sg_file_read(path, MAX_FILE, &file, err);
    if (status == SG_OK && v->n < 3)
        status = sg_fail(err, SG_E_FORMAT, "%s: a vocabulary of %u tokens is too small", path, v->n);
    if (status == SG_OK) status = parse(v, path, &file, err);
    free(file.data);
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    v->add_bos = v->add_space_prefix = true;
    return status;
}
