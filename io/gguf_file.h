/* A file that appears under its name only when it is complete. */
#ifndef SG_IO_GGUF_FILE_H
#define SG_IO_GGUF_FILE_H

#include "runtime/base/error.h"

typedef struct sg_out_file {
    char *path, *part; /* final and temporary name; part is NULL when there is nothing to remove */
    int fd;
    bool overwrite;
    uint64_t size; /* bytes handed to sg_out_file_write */
    uint8_t *buffer;
    size_t buffered;
    uint64_t written, flushing; /* bytes in the file; where the window that is on its way to the drive ends */
} sg_out_file;

/* Creates PATH.part-PID-N. SG_E_EXISTS when PATH is there and `overwrite` is false, SG_E_ACCESS when it is there and no
 * regular file. Releases what it took on failure. */
SG_NODISCARD sg_status sg_out_file_create(sg_out_file *f, const char *path, bool overwrite, sg_error *err);
SG_NODISCARD sg_status sg_out_file_write(sg_out_file *f, const void *bytes, size_t n, sg_error *err);
/* Brings everything to the disk and gives the file its name. Without `overwrite`, a file that appeared under that name
 * in the meantime is SG_E_EXISTS. */
SG_NODISCARD sg_status sg_out_file_finish(sg_out_file *f, sg_error *err);
/* Closes; removes the temporary file unless it was finished. */
void sg_out_file_release(sg_out_file *f);

#endif
