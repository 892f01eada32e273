/* AVX-512: 32 registers of 16 floats, and masks, so that the end of a row uses the same code as its
 * middle. Needs F, BW, DQ, VL, FMA and F16C; every CPU with AVX-512 since Skylake-X has them all. */
#ifndef GPT2C_AVX512_H
#define GPT2C_AVX512_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_avx512;

void gpt2c_embed_avx512(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe);
void gpt2c_layernorm_avx512(float *out, const float *x, const float *weight, const float *bias,
                            size_t rows, size_t n, float epsilon);
void gpt2c_finish_row_avx512(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                             const float *sums);
void gpt2c_linear_panels_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_bf16_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
float gpt2c_screen_avx512(float *upper, const struct gpt2c_screen *screen, const float *x, float norm,
                          gpt2c_span columns);
void gpt2c_store_avx512(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_attention_avx512(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);
void gpt2c_store_f16_avx512(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_kv_runs_avx512(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);
void gpt2c_softmax_avx512(float *out, const float *x, size_t n);
void gpt2c_gelu_avx512(float *out, const float *x, size_t n);
void gpt2c_gelu_table_avx512(float *out, const float *x, size_t n, const uint16_t *table);
void gpt2c_add_avx512(float *out, const float *a, const float *b, size_t n);
size_t gpt2c_argmax_avx512(const float *x, size_t n);

#define GPT2C_KERNELS_AVX512                                                                     \
    .speed = 32, .embed = gpt2c_embed_avx512, .layernorm = gpt2c_layernorm_avx512,               \
    .linear[GPT2C_LAYOUT_PANELS] = gpt2c_linear_panels_avx512,                                   \
    .linear[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_linear_bf16_avx512, .screen = gpt2c_screen_avx512, \
    .store = gpt2c_store_avx512, .attention = gpt2c_attention_avx512,                            \
    .store_f16 = gpt2c_store_f16_avx512, .attention_f16 = gpt2c_attention_avx512,                \
    .kv_runs = gpt2c_kv_runs_avx512, .kv_runs_f16 = gpt2c_kv_runs_avx512,                        \
    .softmax = gpt2c_softmax_avx512,                                                             \
    .gelu = gpt2c_gelu_avx512, .gelu_table = gpt2c_gelu_table_avx512, .add = gpt2c_add_avx512,   \
    .argmax = gpt2c_argmax_avx512

#endif
