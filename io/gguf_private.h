/* What the files of the GGUF reader share. Not for other folders. */
#ifndef SG_IO_GGUF_PRIVATE_H
#define SG_IO_GGUF_PRIVATE_H

#include "io/gguf.h"

#define SG_GGUF_MAGIC "GGUF"
#define SG_POWERINFER_MAGIC "PWRI" /* https://github.com/SJTU-IPADS/PowerInfer: GGUF under another name */
#define SG_GGUF_DEFAULT_ALIGNMENT 32

/* Limits of this reader. The specification has none; real files stay far below (the largest vocabularies make headers
 * of some 20 MiB, the most tensors are some ten thousand), and they bound what a hostile file can make us allocate. */
#define SG_GGUF_MAX_HEADER ((uint64_t)512 << 20)
#define SG_GGUF_MAX_TENSORS ((uint64_t)1 << 20)
#define SG_GGUF_MAX_KV ((uint64_t)1 << 18)
#define SG_GGUF_MAX_KEY 65535 /* specification */
#define SG_GGUF_MAX_NAME 64   /* specification, tensor names */

/* Memory that is released all at once. */
typedef struct sg_arena_block sg_arena_block;
typedef struct sg_arena {
    sg_arena_block *blocks;
} sg_arena;
void *sg_arena_alloc(sg_arena *a, size_t n); /* aligned to 8; NULL when there is no memory */
void sg_arena_release(sg_arena *a);

/* A file, or bytes in memory, read from front to back. */
typedef struct sg_gguf_stream {
    const char *label;  /* for messages */
    const uint8_t *mem; /* NULL: fd is read */
    int fd;
    uint64_t size, pos;
    uint8_t *window; /* bytes [window_at, window_at + window_len) of the file; owned */
    uint64_t window_at;
    size_t window_len;
} sg_gguf_stream;

/* Opens a regular file; the caller releases the stream whatever the result. */
SG_NODISCARD sg_status sg_gguf_stream_open(sg_gguf_stream *s, const char *path, sg_error *err);
void sg_gguf_stream_release(sg_gguf_stream *s);
/* Checks that n more bytes are there, before memory is taken for them: SG_E_FORMAT "LABEL: byte N: truncated inside
 * WHAT: ..", SG_E_UNSUPPORTED when the header gets too long. */
SG_NODISCARD sg_status sg_gguf_stream_need(const sg_gguf_stream *s, uint64_t n, const char *what, sg_error *err);
/* Next n bytes, checked in the same way. */
SG_NODISCARD sg_status sg_gguf_stream_read(sg_gguf_stream *s, void *dst, size_t n, const char *what, sg_error *err);
static inline uint64_t sg_gguf_stream_left(const sg_gguf_stream *s) { return s->size - s->pos; }

/* Names in strcmp order, for bsearch. */
typedef struct sg_gguf_name {
    const char *name;
    uint32_t index;
} sg_gguf_name;

/* Sorts the names; returns the first one that appears twice (its second appearance), or NULL. */
const sg_gguf_name *sg_gguf_names_sort(sg_gguf_name *names, size_t n);
const sg_gguf_name *sg_gguf_names_find(const sg_gguf_name *names, size_t n, const char *name);

typedef struct sg_gguf_file {
    char *path;
    uint32_t version;
    bool is_powerinfer;
    uint64_t size, data_offset, alignment;
    sg_gguf_kv *kv;
    size_t n_kv, cap_kv;
    sg_gguf_name *keys; /* n_kv, sorted */
} sg_gguf_file;

struct sg_gguf {
    sg_arena arena; /* keys, names, strings, numbers */
    sg_gguf_file *files;
    uint32_t n_files, cap_files;
    sg_tensor_info *tensors;
    size_t n_tensors, cap_tensors;
    sg_gguf_name *names; /* n_tensors, sorted */
};

/* Parses one header: fills *file (zeroed before, path set) and appends its tensors to g. */
SG_NODISCARD sg_status sg_gguf_parse(sg_gguf *g, sg_gguf_file *file, uint32_t file_index, sg_gguf_stream *s,
                                     sg_error *err);
const sg_gguf_kv *sg_gguf_file_find(const sg_gguf_file *f, const char *key);
/* The typed look-ups on one file of a set. */
SG_NODISCARD sg_status sg_gguf_file_u32(const sg_gguf_file *f, const char *key, uint32_t *out, sg_error *err);

/* Bytes of one element of a numeric type; 0 for strings, arrays and unknown types. */
size_t sg_gguf_type_size(uint32_t type);
const char *sg_gguf_type_name(uint32_t type); /* "uint32"; "unknown" */

/* Block counts and bytes of a tensor from type and dimensions; *why says what is wrong when it returns false. */
bool sg_gguf_tensor_shape(sg_tensor_info *t, const char **why);

/* Room for one more element of `size` bytes in *list, doubling. */
bool sg_gguf_grow(void **list, size_t *cap, size_t n, size_t size);

#endif
