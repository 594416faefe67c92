/* SentencePiece-type BPE: of all neighbours whose union is in the vocabulary, the one with the best score is joined. */
#ifndef SG_TEXT_TOK_SPM_H
#define SG_TEXT_TOK_SPM_H

#include "runtime/text/merge.h"
#include "runtime/text/vocab.h"

/* Appends the tokens of valid UTF-8 text[0..n), with a space before it when `prefix`. Characters that are in no token
 * become byte tokens, or `unk` (dropped when -1) where the vocabulary has no such byte. */
SG_NODISCARD sg_status sg_spm_encode(const sg_vocab *v, const char *text, size_t n, bool prefix, int32_t unk,
                                     sg_merger *m, sg_str *scratch, sg_ids *out, sg_error *err);

#endif
