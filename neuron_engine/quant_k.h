/* Parts of sg_dequantize: the K types (256 values per super-block). n % 256 == 0. */
#ifndef SG_NE_QUANT_K_H
#define SG_NE_QUANT_K_H

#include <stddef.h>

void sg_dequantize_q2_k(const void *src, float *y, size_t n);
void sg_dequantize_q3_k(const void *src, float *y, size_t n);
void sg_dequantize_q4_k(const void *src, float *y, size_t n);
void sg_dequantize_q5_k(const void *src, float *y, size_t n);
void sg_dequantize_q6_k(const void *src, float *y, size_t n);

#endif
