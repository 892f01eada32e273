/* Advanced SIMD with dot products of bytes (FEAT_DotProd, in most CPUs since Armv8.2), for the
 * integer formats. */
#ifndef GPT2C_NEON_DOT_H
#define GPT2C_NEON_DOT_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_neon_dot;

void gpt2c_linear_q8_neon_dot(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_q4_neon_dot(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

#define GPT2C_KERNELS_NEON_DOT                                  \
    .linear[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_linear_q8_neon_dot, \
    .linear[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_linear_q4_neon_dot

#endif
