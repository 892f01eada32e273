/* AVX-512 with dot products of bfloat16 pairs. */
#ifndef GPT2C_AVX512_BF16_H
#define GPT2C_AVX512_BF16_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_avx512_bf16;

void gpt2c_pack_bf16_avx512_bf16(void *out, const float *x, size_t rows, size_t n_in);
void gpt2c_linear_bf16_avx512_bf16(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

#define GPT2C_KERNELS_AVX512_BF16                                  \
    .pack[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_pack_bf16_avx512_bf16, \
    .rounds_x[GPT2C_LAYOUT_PANELS_BF16] = 1,                       \
    .linear[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_linear_bf16_avx512_bf16

#endif
