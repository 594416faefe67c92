/* Shared by the readers of Hugging Face tokenizers. */
#ifndef SG_CONVERT_HF_VOCAB_H
#define SG_CONVERT_HF_VOCAB_H

#include <cjson/cJSON.h>

#include "runtime/convert/vocab_out.h"

/* Sets an added token; one beyond the rows of the embedding is left out with a log line. */
SG_NODISCARD sg_status sg_conv_vocab_add_token(sg_conv_vocab *v, double id, const cJSON *content, bool special,
                                               const char *path, const sg_log *log, sg_error *err);
/* The list added_tokens of a tokenizer.json. */
SG_NODISCARD sg_status sg_conv_vocab_add_json_tokens(sg_conv_vocab *v, const cJSON *root, const char *path,
                                                     const sg_log *log, sg_error *err);
/* vocab.json and merges.txt, as GPT-2 and OPT have them where there is no tokenizer.json. */
SG_NODISCARD sg_status sg_conv_vocab_read_hf_pair(sg_conv_vocab *v, const char *vocab, const char *merges, const sg_log *log,
                                                  sg_error *err);

#endif
