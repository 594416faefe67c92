/* GGUF files: reader for untrusted input (v2 and v3, little-endian, split sets) and writer.
 * Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * The reader checks every count, length, offset and type against the size of the file before it is used, so after a
 * successful open:
 *  - keys and tensor names are valid UTF-8 without control characters, not empty, and unique; string values of scalars are
 *    valid UTF-8 without embedded zeros. Strings inside arrays may hold any bytes, zeros too (vocabularies of real files
 *    do): use their len, and check before printing. All strings are zero-terminated.
 *  - array sizes are true; bools are 0 or 1; float values may be NaN or infinite (the typed look-ups refuse them).
 *  - every tensor lies inside its file at an aligned offset, overlaps no other, has 1 to 4 dimensions, none zero, and rows
 *    of whole blocks.
 * Refused: GGUF v1 and big-endian files, nested arrays, tensor types that sg_dtype_get does not know, headers above 512 MiB.
 * Messages have the form "PATH: byte N: what". A gguf handle is immutable (thread-safe) and keeps no file open. */
#ifndef SG_IO_GGUF_H
#define SG_IO_GGUF_H

#include "runtime/base/dtype.h"
#include "runtime/base/error.h"

typedef enum sg_gguf_type {
    SG_GGUF_U8 = 0, SG_GGUF_I8 = 1, SG_GGUF_U16 = 2, SG_GGUF_I16 = 3, SG_GGUF_U32 = 4, SG_GGUF_I32 = 5, SG_GGUF_F32 = 6,
    SG_GGUF_BOOL = 7, SG_GGUF_STRING = 8, SG_GGUF_ARRAY = 9, SG_GGUF_U64 = 10, SG_GGUF_I64 = 11, SG_GGUF_F64 = 12
} sg_gguf_type;

typedef struct sg_gguf_string {
    const char *text; /* zero-terminated */
    uint64_t len;
} sg_gguf_string;

/* One metadata entry. Scalars are an array of one. */
typedef struct sg_gguf_kv {
    const char *key;
    sg_gguf_type type; /* of the elements, never ARRAY */
    bool is_array;
    uint64_t n;                    /* elements */
    const void *data;              /* n packed numbers, aligned to 8; bools are bytes; NULL for strings */
    const sg_gguf_string *strings; /* n strings; NULL for numbers */
} sg_gguf_kv;

/* One tensor. ne[0] is the length of a row (the innermost dimension); unused dimensions are 1. */
typedef struct sg_tensor_info {
    const char *name;
    sg_dtype type;
    uint32_t n_dims;
    uint64_t ne[4];
    uint64_t n_values, n_bytes;
    uint32_t file;   /* index of the file it lies in */
    uint64_t offset; /* from the beginning of that file */
} sg_tensor_info;

typedef struct sg_gguf sg_gguf;

/* Opens PATH; when it is the first file of a split set (split.count > 1), the others beside it too. Another file of the set
 * is SG_E_UNSUPPORTED with a message that names the first. *out is NULL on failure. */
SG_NODISCARD sg_status sg_gguf_open(const char *path, sg_gguf **out, sg_error *err);
/* Parses one file held in memory (not needed after the call). For tests and fuzzing. */
SG_NODISCARD sg_status sg_gguf_open_memory(const void *data, size_t size, const char *label, sg_gguf **out, sg_error *err);
void sg_gguf_close(sg_gguf **g);

uint32_t sg_gguf_version(const sg_gguf *g);
/* The first file has PowerInfer's magic number "PWRI" and is a GGUF file in all else; its tensors have names of their own, so it
 * is something to convert, nothing to run. */
bool sg_gguf_is_powerinfer(const sg_gguf *g);
uint32_t sg_gguf_n_files(const sg_gguf *g);
const char *sg_gguf_path(const sg_gguf *g, uint32_t file);
uint64_t sg_gguf_file_size(const sg_gguf *g, uint32_t file);
uint64_t sg_gguf_data_offset(const sg_gguf *g, uint32_t file); /* where the header ends */
uint64_t sg_gguf_alignment(const sg_gguf *g);

/* Metadata of the first file. */
size_t sg_gguf_n_kv(const sg_gguf *g);
const sg_gguf_kv *sg_gguf_kv_at(const sg_gguf *g, size_t i);
const sg_gguf_kv *sg_gguf_find(const sg_gguf *g, const char *key); /* NULL when absent; by bisection */

/* Tensors of all files. */
size_t sg_gguf_n_tensors(const sg_gguf *g);
const sg_tensor_info *sg_gguf_tensor_at(const sg_gguf *g, size_t i);
const sg_tensor_info *sg_gguf_tensor(const sg_gguf *g, const char *name); /* NULL when absent; by bisection */

/* Typed look-ups. SG_OK and *out untouched when the key is absent; an error that names key and type when it is there but
 * cannot be read as asked (wrong kind, negative, out of range, NaN or infinite). Any integer type is accepted for
 * integers; any integer or float for floats. */
SG_NODISCARD sg_status sg_gguf_get_u32(const sg_gguf *g, const char *key, uint32_t *out, sg_error *err);
SG_NODISCARD sg_status sg_gguf_get_f32(const sg_gguf *g, const char *key, float *out, sg_error *err);
SG_NODISCARD sg_status sg_gguf_get_bool(const sg_gguf *g, const char *key, bool *out, sg_error *err);
SG_NODISCARD sg_status sg_gguf_get_str(const sg_gguf *g, const char *key, const char **out, sg_error *err);

/* Element i < kv->n of a numeric or bool entry, converted; NaN for strings. */
double sg_gguf_kv_number(const sg_gguf_kv *kv, uint64_t i);

/* ---- writer ------------------------------------------------------------------------------------------------------ */

/* Writes PATH (GGUF v3) under the temporary name PATH.part-PID-N and gives it its name in sg_gguf_writer_finish; abort (or
 * a failure, then abort) removes it. Order of calls: create, add entries and declare tensors in file order, begin_data,
 * write tensor data in the same order, finish, abort. Functions without a result remember the first failure; the next one
 * with a result returns it, as do all later ones. Names follow the rules of the reader. A writer belongs to one thread. */
typedef struct sg_gguf_writer sg_gguf_writer;

/* `alignment`: a power of two of at least 8, 0: 32; written as general.alignment when it is not 32. SG_E_EXISTS when PATH is
 * there and `overwrite` is false, SG_E_ACCESS when it is there and no regular file. A PATH that is a symbolic link is
 * replaced itself. */
SG_NODISCARD sg_status sg_gguf_writer_create(const char *path, uint32_t alignment, bool overwrite, sg_gguf_writer **out,
                                             sg_error *err);
void sg_gguf_writer_abort(sg_gguf_writer **w); /* also releases after finish; NULL is fine */

void sg_gguf_writer_u32(sg_gguf_writer *w, const char *key, uint32_t v);
void sg_gguf_writer_u64(sg_gguf_writer *w, const char *key, uint64_t v);
void sg_gguf_writer_f32(sg_gguf_writer *w, const char *key, float v);
void sg_gguf_writer_bool(sg_gguf_writer *w, const char *key, bool v);
void sg_gguf_writer_str(sg_gguf_writer *w, const char *key, const char *v);
/* n packed numbers of a numeric type or BOOL (bytes). */
void sg_gguf_writer_array(sg_gguf_writer *w, const char *key, sg_gguf_type type, const void *data, uint64_t n);
void sg_gguf_writer_strings(sg_gguf_writer *w, const char *key, const sg_gguf_string *v, uint64_t n);
/* Copies an entry of an open file as it is. Passes over general.alignment and split.*, which tell of the other file. */
void sg_gguf_writer_copy(sg_gguf_writer *w, const sg_gguf_kv *kv);

/* From now on `tap` gets the bytes of the header (with the padding up to the first tensor), then of the tensors, in the order of the
 * file; the padding between tensors is left out. For checksums. */
typedef void (*sg_gguf_tap_fn)(void *user, const void *bytes, size_t n);
void sg_gguf_writer_tap(sg_gguf_writer *w, sg_gguf_tap_fn tap, void *user);

void sg_gguf_writer_tensor(sg_gguf_writer *w, const char *name, sg_dtype type, uint32_t n_dims, const uint64_t *ne);
SG_NODISCARD sg_status sg_gguf_writer_begin_data(sg_gguf_writer *w, sg_error *err);
/* Next bytes of the current tensor, not beyond its end; moves on to the next one (with padding) when it is complete. */
SG_NODISCARD sg_status sg_gguf_writer_data(sg_gguf_writer *w, const void *bytes, size_t n, sg_error *err);
/* Syncs and renames. SG_E_ARG when tensor data is missing. Call abort afterwards in any case. */
SG_NODISCARD sg_status sg_gguf_writer_finish(sg_gguf_writer *w, sg_error *err);

#endif
