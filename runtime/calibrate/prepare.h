/* The routers of an open model, for what is fitted to them. */
#ifndef SG_CAL_PREPARE_H
#define SG_CAL_PREPARE_H

#include "runtime/calibrate/calibrate.h"
#include "runtime/model.h"

/* routes of *c, whose text is known, all layers' that have experts; wanted: something is to be fitted, can: there is LAPACK. */
SG_NODISCARD sg_status sg_cal_prepare_routes(sg_cal *c, const sg_model *m, const sg_router *router, bool wanted, bool can, sg_error *err);

#endif
