/* AVX2 with FMA and F16C: 16 registers of 8 floats, in every x86 server since 2013. It has no masks
 * as AVX-512 does, so the end of a row uses maskload and maskstore (lanes.h). */
#ifndef GPT2C_AVX2_H
#define GPT2C_AVX2_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_avx2;

void gpt2c_embed_avx2(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe);
void gpt2c_layernorm_avx2(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                          size_t n, float epsilon);
void gpt2c_finish_row_avx2(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                           const float *sums);
void gpt2c_linear_panels_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_bf16_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_pack_int8_avx2(void *out, const float *x, size_t rows, size_t n_in);
void gpt2c_linear_q8_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_q4_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
float gpt2c_screen_avx2(float *upper, const struct gpt2c_screen *screen, const float *x, float norm,
                        gpt2c_span columns);
void gpt2c_store_avx2(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_attention_avx2(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);
void gpt2c_store_f16_avx2(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_kv_runs_avx2(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);
void gpt2c_softmax_avx2(float *out, const float *x, size_t n);
void gpt2c_gelu_avx2(float *out, const float *x, size_t n);
void gpt2c_gelu_table_avx2(float *out, const float *x, size_t n, const uint16_t *table);
void gpt2c_add_avx2(float *out, const float *a, const float *b, size_t n);
size_t gpt2c_argmax_avx2(const float *x, size_t n);

#define GPT2C_KERNELS_AVX2                                                             \
    .speed = 32, .embed = gpt2c_embed_avx2, .layernorm = gpt2c_layernorm_avx2,         \
    .linear[GPT2C_LAYOUT_PANELS] = gpt2c_linear_panels_avx2,                           \
    .linear[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_linear_bf16_avx2,                        \
    .linear[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_linear_q8_avx2,                            \
    .linear[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_linear_q4_avx2,                            \
    .pack[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_pack_int8_avx2,                              \
    .pack[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_pack_int8_avx2, .screen = gpt2c_screen_avx2, \
    .store = gpt2c_store_avx2, .attention = gpt2c_attention_avx2,                      \
    .store_f16 = gpt2c_store_f16_avx2, .attention_f16 = gpt2c_attention_avx2,          \
    .kv_runs = gpt2c_kv_runs_avx2, .kv_runs_f16 = gpt2c_kv_runs_avx2,                  \
    .softmax = gpt2c_softmax_avx2, .gelu = gpt2c_gelu_avx2,                            \
    .gelu_table = gpt2c_gelu_table_avx2, .add = gpt2c_add_avx2, .argmax = gpt2c_argmax_avx2

#endif
