/* config.json of a Hugging Face folder, read by the tables of models/hf.h. */
#ifndef SG_CONVERT_HF_CONFIG_H
#define SG_CONVERT_HF_CONFIG_H

#include <cjson/cJSON.h>

#include "models/hf.h"
#include "runtime/convert/convert.h"

/* Zero-initialise; sg_hf_config_finish. */
typedef struct sg_hf_config {
    const sg_hf_arch *arch;
    double v[SG_H_VALUES];
    uint8_t *layers; /* [n_layer] of SG_HF_ATT, SG_HF_REC, SG_HF_MOE, SG_HF_MLP */
    bool tied;       /* the output shares the embedding */
    bool says_tied;  /* the configuration or the class says so, or says no */
} sg_hf_config;

/* Reads and checks config.json at `path`: c, and the keys and rotary factors of m. */
SG_NODISCARD sg_status sg_hf_config_read(const char *path, const sg_log *log, sg_hf_config *c, sg_conv_model *m, sg_error *err);
void sg_hf_config_finish(sg_hf_config *c);

/* What the parts of the reader share. */
typedef struct sg_hf_json {
    const cJSON *root, *text; /* `text`: the part about the language model, mostly the root itself */
    const char *path;
    const sg_log *log;
} sg_hf_json;
/* The first of the names ("a|b") that is there, in `name` of `size` bytes; the first of all when none is. */
const cJSON *sg_hf_get(const cJSON *obj, const char *names, char *name, size_t size);
/* Rotary positions: keys, and tensors of frequency factors. */
SG_NODISCARD sg_status sg_hf_rope_read(const sg_hf_json *f, sg_hf_config *c, sg_conv_model *m, sg_error *err);

/* hf_tensors.c: the tables of tensors, with what the files hold. */
struct sg_st_set;
SG_NODISCARD sg_status sg_hf_add_tensors(const char *dir, sg_hf_config *c, struct sg_st_set *set, sg_conv_model *m,
                                         const sg_log *log, sg_error *err);

#endif
