/* Writes a model.bin (docs/model_bin.md): a GGUF writer that hashes what passes through and ends the file with the checksums.
 * Order of calls: create, add keys (sg_bin_writer_gguf) and declare tensors, begin_data, data, finish, abort. As with
 * sg_gguf_writer, the file stands under a temporary name until finish, and abort releases in any case. */
#ifndef SG_CONVERT_BIN_WRITER_H
#define SG_CONVERT_BIN_WRITER_H

#include "models/model.h"

#define SG_BIN_ALIGNMENT 4096u

typedef struct sg_bin_writer sg_bin_writer;

/* Creates the file; writes general.alignment and sparsegen.format_version. Errors as sg_gguf_writer_create. */
SG_NODISCARD sg_status sg_bin_writer_create(const char *path, bool overwrite, sg_bin_writer **out, sg_error *err);
void sg_bin_writer_abort(sg_bin_writer **w);
/* For keys, and for functions that stream tensor data into a sg_gguf_writer; tensors are declared with the function below. */
sg_gguf_writer *sg_bin_writer_gguf(sg_bin_writer *w);
/* Tensors named blk.N.ffn_bundle and blk.N.ffn_bundle_shexp are hashed row by row (ne[0] bytes: a cluster), others whole. */
SG_NODISCARD sg_status sg_bin_writer_tensor(sg_bin_writer *w, const char *name, sg_dtype type, uint32_t n_dims, const uint64_t *ne,
                                            sg_error *err);
SG_NODISCARD sg_status sg_bin_writer_begin_data(sg_bin_writer *w, sg_error *err);
SG_NODISCARD sg_status sg_bin_writer_data(sg_bin_writer *w, const void *bytes, size_t n, sg_error *err);
/* Writes the checksums, syncs and renames. */
SG_NODISCARD sg_status sg_bin_writer_finish(sg_bin_writer *w, sg_error *err);

/* True for "blk.N.ffn_bundle" and "blk.N.ffn_bundle_shexp"; *layer = N (may be NULL). */
bool sg_bin_is_bundle(const char *tensor, uint32_t *layer);
/* True for the latter. */
bool sg_bin_is_shexp(const char *tensor);

#endif
