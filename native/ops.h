/* The operations that forward.c calls, except for the logits (head.h). */
#ifndef GPT2C_OPS_H
#define GPT2C_OPS_H

#include "pass.h"

/* Each computes the rows of the new tokens if its switch is on, or the rows of all tokens if it is off, and
 * counts them. */
void gpt2c_embed(gpt2c_pass *pass, float *out);
void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm);
void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear);
/* Stores a layer's K and V. */
void gpt2c_store_kv(gpt2c_pass *pass, const float *qkv, size_t layer);
/* Attention, which reads the stored K and V. */
void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, size_t layer);
/* out = gelu(x linear). Without `fused`, `between` holds the input of GELU. */
void gpt2c_project_gelu(gpt2c_pass *pass, float *out, float *between, const float *x,
                        const gpt2c_linear *linear);
/* out = residual + x linear. Without `fused`, `between` holds x linear. */
void gpt2c_project_add(gpt2c_pass *pass, float *out, const float *residual, float *between,
                       const float *x, const gpt2c_linear *linear);

/* Packs the given rows of x into args->packed_x, if the kernel reads packed activations. */
void gpt2c_pack(const gpt2c_pass *pass, gpt2c_span rows, gpt2c_linear_args *args);

/* A linear layer over the given rows of args.x and args.out. */
void gpt2c_run_linear(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, gpt2c_linear_args args);

#endif
