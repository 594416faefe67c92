#include "runtime/convert/convert.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/convert/bin_model.h"
#include "runtime/convert/file.h"

static const char known_types[] = "f32, f16, bf16, q8_0, q4_0";

static sg_status read_type(const char *name, bool for_bin, sg_dtype *out, sg_error *err) {
    if (sg_dtype_by_name(name, out)) {
        switch (*out) {
        case SG_DTYPE_F32:
        case SG_DTYPE_F16:
        case SG_DTYPE_Q8_0:
        case SG_DTYPE_Q4_0: return SG_OK;
        case SG_DTYPE_BF16:
            if (!for_bin) return SG_OK;
            return sg_fail(err, SG_E_ARG, "model.bin holds no bf16 (f16 and f32 it does)");
        default: break;
        }
    }
    return sg_fail(err, SG_E_ARG, "type \"%s\" cannot be written (%s can)", name, known_types);
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcasecmp(s + n - k, end) == 0;
}

/* GGUF or PowerInfer's, by the magic number. */
static bool is_gguf(const char *path) {
    char magic[4];
    uint64_t size;
    int fd;
    if (sg_file_open(path, &fd, &size, NULL) != SG_OK) return false; /* the reader says why */
    const bool read = size >= 4 && sg_file_read_at(fd, path, magic, 4, 0, NULL) == SG_OK;
    close(fd);
    return read && (memcmp(magic, "GGUF", 4) == 0 || memcmp(magic, "PWRI", 4) == 0);
}

static sg_status choose_types(const sg_convert_options *o, bool is_folder, bool from_gguf, sg_conv_job *job, sg_error *err) {
    job->type = is_folder ? SG_DTYPE_F16 : SG_DTYPE_F32;
    job->gate_type = job->down_type = -1;
    job->keep_blocks = !o->type;
    job->keep_down = !o->type && !o->down_type;
    if (o->type) SG_TRY(read_type(o->type, job->to_bin, &job->type, err));
    if (o->type || !from_gguf) job->gate_type = job->down_type = (int)job->type;
    if (o->down_type) {
        sg_dtype down;
        if (!job->to_bin) return sg_fail(err, SG_E_ARG, "only model.bin has a type for down rows");
        SG_TRY(read_type(o->down_type, true, &down, err));
        job->down_type = (int)down;
    }
    return SG_OK;
}

/* Early answers, before a long conversion; the writer checks again when it puts the file in place. */
static sg_status check_output(const sg_convert_options *o, const struct stat *in, sg_error *err) {
    struct stat st;
    if (stat(o->output, &st) != 0) return SG_OK;
    if (S_ISDIR(st.st_mode)) return sg_fail(err, SG_E_ACCESS, "%s: the output is a folder", o->output);
    if (st.st_dev == in->st_dev && st.st_ino == in->st_ino)
        return sg_fail(err, SG_E_ARG, "%s: input and output are the same file", o->output);
    if (!o->overwrite) return sg_fail(err, SG_E_EXISTS, "%s: exists already", o->output);
    return SG_OK;
}

static sg_status convert_gguf(const sg_conv_job *job, sg_error *err) {
    if (!job->to_bin)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: is a GGUF file already; what can be made of it is a model.bin", job->input);
    sg_gguf *g;
    SG_TRY(sg_gguf_open(job->input, &g, err));
    const sg_status status = sg_bin_from_gguf(job, g, err);
    sg_gguf_close(&g);
    return status;
}

sg_status sg_convert(const sg_convert_options *options, sg_error *err) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    if (!o.input || !*o.input || !o.output || !*o.output)
        return sg_fail(err, SG_E_ARG, "convert needs an input and an output");
    if (o.format < SG_CONVERT_AUTO || o.format > SG_CONVERT_BIN)
        return sg_fail(err, SG_E_ARG, "%d is no format of an output", (int)o.format);
    if (o.cluster > SG_CLUSTER_MAX || o.cluster % 32)
        return sg_fail(err, SG_E_ARG, "%u neurons per cluster: only multiples of 32 up to %u can be", o.cluster, SG_CLUSTER_MAX);
    struct stat in;
    if (stat(o.input, &in) != 0) return sg_fail_errno(err, errno, o.input, "cannot be opened");
    const bool is_folder = S_ISDIR(in.st_mode);
    if (!is_folder && !S_ISREG(in.st_mode))
        return sg_fail(err, SG_E_ACCESS, "%s: is neither a folder nor a regular file", o.input);
    sg_conv_job job = { .input = o.input,
                        .output = o.output,
                        .tokenizer = o.tokenizer,
                        .to_bin = o.format == SG_CONVERT_BIN || (o.format == SG_CONVERT_AUTO && !ends_with(o.output, ".gguf")),
                        .cluster = o.cluster,
                        .ram = o.ram_bytes,
                        .overwrite = o.overwrite,
                        .log = { o.log, o.user },
                        .progress = o.progress,
                        .user = o.user };
    const bool from_gguf = !is_folder && is_gguf(o.input);
    SG_TRY(choose_types(&o, is_folder, from_gguf, &job, err));
    SG_TRY(check_output(&o, &in, err));
    if (from_gguf) return convert_gguf(&job, err);
    return is_folder ? sg_conv_hf(&job, err) : sg_conv_llama2c(&job, err);
}
