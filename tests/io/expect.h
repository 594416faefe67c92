/* Assertions on calls that return a status. */
#ifndef SG_TESTS_IO_EXPECT_H
#define SG_TESTS_IO_EXPECT_H

#include "runtime/base/error.h"

#include <check.h>
#include <string.h>

/* expr uses `err`. */
#define ok(expr)                                                                                                       \
    do {                                                                                                               \
        sg_error e_ = { 0 };                                                                                           \
        sg_error *err = &e_;                                                                                           \
        const sg_status st_ = (expr);                                                                                  \
        ck_assert_msg(st_ == SG_OK, "%s: %s: %s", #expr, sg_status_str(st_), e_.message);                              \
    } while (0)

/* expr uses `err`; the message must contain `word`. */
#define fails(expr, code_, word)                                                                                       \
    do {                                                                                                               \
        sg_error e_ = { 0 };                                                                                           \
        sg_error *err = &e_;                                                                                           \
        const sg_status st_ = (expr);                                                                                  \
        ck_assert_msg(st_ == (code_), "%s: %s: %s", #expr, sg_status_str(st_), e_.message);                            \
        ck_assert_msg(strstr(e_.message, word) != NULL, "%s: \"%s\" lacks \"%s\"", #expr, e_.message, word);           \
    } while (0)

#endif
