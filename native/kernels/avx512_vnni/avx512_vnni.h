/* AVX-512 with dot products of bytes (VNNI), for the integer formats. */
#ifndef GPT2C_AVX512_VNNI_H
#define GPT2C_AVX512_VNNI_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_avx512_vnni;

void gpt2c_pack_int8_avx512_vnni(void *out, const float *x, size_t rows, size_t n_in);
/* For both formats. */
void gpt2c_linear_int8_avx512_vnni(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

#define GPT2C_KERNELS_AVX512_VNNI                                    \
    .pack[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_pack_int8_avx512_vnni,     \
    .pack[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_pack_int8_avx512_vnni,     \
    .linear[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_linear_int8_avx512_vnni, \
    .linear[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_linear_int8_avx512_vnni

#endif
