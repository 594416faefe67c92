/* tokenizer.model of SentencePiece: a protocol-buffer message, read field by field with every length checked.
 * Messages: https://github.com/google/sentencepiece, src/sentencepiece_model.proto (ModelProto). Wire format:
 * https://protobuf.dev/programming-guides/encoding. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/file.h"
#include "runtime/convert/vocab_out.h"

#define MAX_FILE (256u << 20)

typedef struct span {
    const uint8_t *p;
    size_t n;
} span;

typedef struct field {
    uint32_t number, wire; /* wire: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value;        /* of wire 0, 1 and 5 */
    span bytes;            /* of wire 2 */
} field;

static bool take_varint(span *s, uint64_t *out) {
    *out = 0;
    for (unsigned shift = 0; shift < 64 && s->n > 0; shift += 7) {
        const uint8_t b = *s->p++;
        s->n--;
        *out |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) return true;
    }
    return false;
}

static bool take_fixed(span *s, size_t n, uint64_t *out) {
    if (s->n < n) return false;
    *out = 0;
    memcpy(out, s->p, n); /* little-endian */
    s->p += n;
    s->n -= n;
    return true;
}

/* Next field of a message; false at its end (*ok true) or where it is damaged (*ok false). */
static bool next_field(span *s, field *f, bool *ok) {
    uint64_t tag, n;
    *ok = true;
    if (s->n == 0) return false;
    *ok = false;
    *f = (field) { 0 };
    if (!take_varint(s, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (uint32_t)(tag & 7);
    switch (f->wire) {
    case 0: *ok = take_varint(s, &f->value); break;
    case 1: *ok = take_fixed(s, 8, &f->value); break;
    case 5: *ok = take_fixed(s, 4, &f->value); break;
    case 2:
        *ok = take_varint(s, &n) && n <= s->n;
        if (!*ok) return false;
        f->bytes = (span) { s->p, (size_t)n };
        s->p += n;
        s->n -= (size_t)n;
        break;
    default: break; /* groups are not used by this message */
    }
    return *ok;
}

/* SentencePiece: 1 piece, 2 score, 3 type. */
static sg_status read_piece(sg_conv_vocab *v, uint32_t id, span s, const char *path, sg_error *err) {
    span text = { 0 };
    float score = 0;
    int32_t type = SG_TOK_NORMAL;
    field f;
    bool ok;
    while (next_field(&s, &f, &ok)) {
        if (f.number == 1 && f.wire == 2) text = f.bytes;
        if (f.number == 2 && f.wire == 5) memcpy(&score, &f.value, 4);
        if (f.number == 3 && f.wire == 0) type = f.value > SG_TOK_BYTE ? 0 : (int32_t)f.value;
    }
    const char *p = text.n ? (const char *)text.p : "";
    if (!ok || type < SG_TOK_NORMAL || !isfinite(score) || memchr(p, 0, text.n) || sg_utf8_check(p, text.n) != text.n)
        return sg_fail(err, SG_E_FORMAT, "%s: token %u is damaged", path, id);
    if (!sg_conv_vocab_set(v, id, p, text.n, score, type)) return sg_fail(err, SG_E_NOMEM, "%s: no memory", path);
    return SG_OK;
}

/* TrainerSpec: 3 model_type, 40 .. 43 ids of unk, bos, eos, pad (negative: none). */
static bool read_trainer(sg_conv_vocab *v, span s, uint64_t *model_type) {
    field f;
    bool ok;
    while (next_field(&s, &f, &ok)) {
        if (f.wire != 0) continue;
        const int32_t id = (int32_t)(uint32_t)f.value;
        switch (f.number) {
        case 3: *model_type = f.value; break;
        case 40: v->unk = id; break;
        case 41: v->bos = id; break;
        case 42: v->eos = id; break;
        case 43: v->pad = id; break;
        default: break;
        }
    }
    return ok;
}

/* NormalizerSpec: 3 add_dummy_prefix. */
static bool read_normalizer(sg_conv_vocab *v, span s) {
    field f;
    bool ok;
    while (next_field(&s, &f, &ok))
        if (f.number == 3 && f.wire == 0) v->add_space_prefix = f.value != 0;
    return ok;
}

static sg_status parse(sg_conv_vocab *v, const char *path, span s, sg_error *err) {
    uint32_t n = 0;
    uint64_t model_type = 1; /* unigram, the default of the message */
    field f;
    bool ok;
    if (s.n == 0 || *s.p != 0x0A)
        return sg_fail(err, SG_E_FORMAT, "%s: is no SentencePiece model", path); /* tag of a piece */
    while (next_field(&s, &f, &ok)) {
        if (f.wire != 2) continue;
        if (f.number == 1) {
            if (n == v->n)
                return sg_fail(err, SG_E_FORMAT, "%s: holds more tokens than the %u of the model", path, v->n);
            SG_TRY(read_piece(v, n++, f.bytes, path, err));
        } else if ((f.number == 2 && !read_trainer(v, f.bytes, &model_type)) ||
                   (f.number == 3 && !read_normalizer(v, f.bytes))) {
            return sg_fail(err, SG_E_FORMAT, "%s: its settings are damaged", path);
        }
    }
    if (!ok || n == 0)
        return sg_fail(err, SG_E_FORMAT, "%s: the SentencePiece model is damaged after %u tokens", path, n);
    if (model_type != 2)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: is a SentencePiece model of type %llu; only BPE (2) is known", path,
                       (unsigned long long)model_type);
    int32_t *const ids[] = { &v->unk, &v->bos, &v->eos, &v->pad };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (*ids[i] < 0 || (uint32_t)*ids[i] >= n) *ids[i] = -1;
    return SG_OK;
}

sg_status sg_conv_vocab_read_spm(sg_conv_vocab *v, const char *path, sg_error *err) {
    sg_str file;
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    v->pad = -1;
    v->add_bos = v->add_space_prefix = true;
    sg_status status = sg_file_read(path, MAX_FILE, &file, err);
    if (status == SG_OK) status = parse(v, path, (span) { (const uint8_t *)file.data, file.len }, err);
    free(file.data);
    return status;
}
