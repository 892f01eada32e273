/* Advanced SIMD of aarch64 ("NEON"): 32 registers of 4 floats. Every aarch64 CPU has it, including
 * FMA and the conversions of fp16. It has no masks, so the end of a row uses loads and stores of
 * single lanes (lanes.h). It has no gather either, so the embedding is ref's. */
#ifndef GPT2C_NEON_H
#define GPT2C_NEON_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_neon;

void gpt2c_layernorm_neon(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                          size_t n, float epsilon);
void gpt2c_finish_row_neon(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                           const float *sums);
void gpt2c_linear_panels_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_bf16_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_pack_int8_neon(void *out, const float *x, size_t rows, size_t n_in);
void gpt2c_linear_q8_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_q4_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
float gpt2c_screen_neon(float *upper, const struct gpt2c_screen *screen, const float *x, float norm,
                        gpt2c_span columns);
void gpt2c_store_neon(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_attention_neon(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);
void gpt2c_store_f16_neon(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_kv_runs_neon(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);
void gpt2c_softmax_neon(float *out, const float *x, size_t n);
void gpt2c_gelu_neon(float *out, const float *x, size_t n);
void gpt2c_gelu_table_neon(float *out, const float *x, size_t n, const uint16_t *table);
void gpt2c_add_neon(float *out, const float *a, const float *b, size_t n);
size_t gpt2c_argmax_neon(const float *x, size_t n);

#define GPT2C_KERNELS_NEON                                                                                          \
    .speed = 16, .layernorm = gpt2c_layernorm_neon, .linear[GPT2C_LAYOUT_PANELS] = gpt2c_linear_panels_neon,        \
    .linear[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_linear_bf16_neon,                                                     \
    .linear[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_linear_q8_neon, .linear[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_linear_q4_neon, \
    .pack[GPT2C_LAYOUT_PANELS_Q8] = gpt2c_pack_int8_neon,                                                           \
    .pack[GPT2C_LAYOUT_PANELS_Q4] = gpt2c_pack_int8_neon, .screen = gpt2c_screen_neon, .store = gpt2c_store_neon,   \
    .attention = gpt2c_attention_neon, .store_f16 = gpt2c_store_f16_neon,                                           \
    .attention_f16 = gpt2c_attention_neon, .kv_runs = gpt2c_kv_runs_neon,                                           \
    .kv_runs_f16 = gpt2c_kv_runs_neon, .softmax = gpt2c_softmax_neon, .gelu = gpt2c_gelu_neon,                      \
    .gelu_table = gpt2c_gelu_table_neon, .add = gpt2c_add_neon, .argmax = gpt2c_argmax_neon

#endif
