#include "sg_config.h"
#include "sparsegen.h"

const char *sg_version(void) { return SG_VERSION; }
