/* The public header alone, as strict C11: it must bring everything that it needs, and every INIT macro must fit its struct. */
#include "sparsegen.h"

int main(void) {
    const sg_model_options model = SG_MODEL_OPTIONS_INIT;
    const sg_session_options session = SG_SESSION_OPTIONS_INIT;
    const sg_sampler_options sampler = SG_SAMPLER_OPTIONS_INIT;
    const sg_generate_options generate = SG_GENERATE_OPTIONS_INIT;
    const sg_convert_options convert = SG_CONVERT_OPTIONS_INIT;
    if (model.struct_size != sizeof model || session.struct_size != sizeof session || sampler.struct_size != sizeof sampler ||
        generate.struct_size != sizeof generate || convert.struct_size != sizeof convert)
        return 1;
    return sg_version()[0] == '\0' || sg_status_str(SG_OK)[0] == '\0';
}
