/* The reference kernels: naive loops, one operation per file, no intrinsics. They are the tutorial,
 * the test oracle, and the default that every other instruction set inherits and overrides entry by
 * entry. */
#ifndef GPT2C_REF_H
#define GPT2C_REF_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_ref;

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe);
void gpt2c_layernorm_ref(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                         size_t n, float epsilon);
void gpt2c_finish_row_ref(const gpt2c_linear_args *args, size_t row, gpt2c_span columns);
void gpt2c_pack_int8_ref(void *out, const float *x, size_t rows, size_t n_in);
float gpt2c_screen_ref(float *upper, const struct gpt2c_screen *screen, const float *x, float norm,
                       gpt2c_span columns);
void gpt2c_store_ref(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_attention_ref(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);
void gpt2c_store_f16_ref(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position);
void gpt2c_attention_f16_ref(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);
void gpt2c_kv_runs_ref(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context);
void gpt2c_softmax_ref(float *out, const float *x, size_t n);
void gpt2c_gelu_ref(float *out, const float *x, size_t n);
void gpt2c_gelu_table_ref(float *out, const float *x, size_t n, const uint16_t *table);
void gpt2c_gelu_erf_ref(float *out, const float *x, size_t n);
void gpt2c_relu_ref(float *out, const float *x, size_t n);
void gpt2c_add_ref(float *out, const float *a, const float *b, size_t n);
size_t gpt2c_argmax_ref(const float *x, size_t n);

/* The naive linear kernel of each format, under the name that its row in formats.def gives. */
#include "formats.def"
#define GPT2C_DECLARE_LINEAR(name, layout, linear, pack, roundoff) \
    void linear(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
GPT2C_ROW_MAJOR_FORMATS(GPT2C_DECLARE_LINEAR)
GPT2C_FORMATS(GPT2C_DECLARE_LINEAR)
#undef GPT2C_DECLARE_LINEAR

#define GPT2C_LINEAR_ENTRY(name, layout, linear, pack, roundoff) [layout] = linear,
#define GPT2C_PACK_ENTRY(name, layout, linear, pack, roundoff) [layout] = pack,

/* Every entry of a gpt2c_kernels; a set that inherits puts its own entries after these. */
#define GPT2C_KERNELS_REF                                                                      \
    .embed = gpt2c_embed_ref, .layernorm = gpt2c_layernorm_ref,                                \
    .linear = {GPT2C_ROW_MAJOR_FORMATS(GPT2C_LINEAR_ENTRY) GPT2C_FORMATS(GPT2C_LINEAR_ENTRY)}, \
    .pack = {GPT2C_FORMATS(GPT2C_PACK_ENTRY)},                                                 \
    .screen = gpt2c_screen_ref, .store = gpt2c_store_ref, .attention = gpt2c_attention_ref,    \
    .store_f16 = gpt2c_store_f16_ref, .attention_f16 = gpt2c_attention_f16_ref,                \
    .kv_runs = gpt2c_kv_runs_ref, .kv_runs_f16 = gpt2c_kv_runs_ref,                            \
    .softmax = gpt2c_softmax_ref,                                                              \
    .gelu = gpt2c_gelu_ref, .gelu_table = gpt2c_gelu_table_ref,                                \
    .gelu_erf = gpt2c_gelu_erf_ref, .relu = gpt2c_relu_ref, .add = gpt2c_add_ref,              \
    .argmax = gpt2c_argmax_ref

#endif
