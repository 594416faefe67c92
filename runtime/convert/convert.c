#include "runtime/convert/convert.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const char known_types[] = "f32, f16, bf16, q8_0, q4_0";

static sg_status choose_type(const char *name, bool is_folder, sg_dtype *out, sg_error *err) {
    if (!name) {
        *out = is_folder ? SG_DTYPE_F16 : SG_DTYPE_F32;
        return SG_OK;
    }
    if (sg_dtype_by_name(name, out)) {
        switch (*out) {
        case SG_DTYPE_F32:
        case SG_DTYPE_F16:
        case SG_DTYPE_BF16:
        case SG_DTYPE_Q8_0:
        case SG_DTYPE_Q4_0: return SG_OK;
        default: break;
        }
    }
    return sg_fail(err, SG_E_ARG, "type \"%s\" cannot be written (%s can)", name, known_types);
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

sg_status sg_convert(const sg_convert_options *options, sg_error *err) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    if (!o.input || !*o.input || !o.output || !*o.output)
        return sg_fail(err, SG_E_ARG, "convert needs an input and an output");
    struct stat in;
    if (stat(o.input, &in) != 0) return sg_fail_errno(err, errno, o.input, "cannot be opened");
    const bool is_folder = S_ISDIR(in.st_mode);
    if (!is_folder && !S_ISREG(in.st_mode))
        return sg_fail(err, SG_E_ACCESS, "%s: is neither a folder nor a regular file", o.input);
    sg_conv_job job = { .input = o.input,
                        .output = o.output,
                        .tokenizer = o.tokenizer,
                        .overwrite = o.overwrite,
                        .log = { o.log, o.user },
                        .progress = o.progress,
                        .user = o.user };
    SG_TRY(choose_type(o.type, is_folder, &job.type, err));
    SG_TRY(check_output(&o, &in, err));
    return is_folder ? sg_conv_hf(&job, err) : sg_conv_llama2c(&job, err);
}
