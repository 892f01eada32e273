/* The operations that forward.c is written in, but for the logits (head.h). */
#ifndef GPT2C_OPS_H
#define GPT2C_OPS_H

#include "pass.h"

/* Each computes its output's rows of the new tokens if its switch is on, of
 * every token if it is off, and counts them. */
void gpt2c_embed(gpt2c_pass *pass, float *out);
void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm);
void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear);
/* Stores a layer's K and V; then attention, which reads them. */
void gpt2c_store_kv(gpt2c_pass *pass, const float *qkv, size_t layer);
void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, size_t layer);
/* out = gelu(x linear); `between` is for what GELU takes, if the plan is not to fuse the two. */
void gpt2c_project_gelu(gpt2c_pass *pass, float *out, float *between, const float *x,
                        const gpt2c_linear *linear);
/* out = residual + x linear, likewise. */
void gpt2c_project_add(gpt2c_pass *pass, float *out, const float *residual, float *between,
                       const float *x, const gpt2c_linear *linear);

/* Makes args->packed_x of the given rows of x, if the kernel wants it. */
void gpt2c_pack(const gpt2c_pass *pass, gpt2c_span rows, gpt2c_linear_args *args);

/* A linear layer over the given rows of args.x and args.out. */
void gpt2c_run_linear(gpt2c_pass *pass, gpt2c_switch s, gpt2c_span rows, gpt2c_linear_args args);

#endif
