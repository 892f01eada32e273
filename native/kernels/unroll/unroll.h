/* The loops of `ref` with several accumulators, in plain C99: the step before intrinsics. The order
 * of each sum is unchanged, so the bits are those of `ref`. */
#ifndef GPT2C_UNROLL_H
#define GPT2C_UNROLL_H

#include "kernels.h"

extern const gpt2c_kernels gpt2c_kernels_unroll;

void gpt2c_linear_in_out_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_out_in_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_panels_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_linear_bf16_unroll(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);
void gpt2c_attention_unroll(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads);

#define GPT2C_KERNELS_UNROLL                                   \
    .linear[GPT2C_LAYOUT_IN_OUT] = gpt2c_linear_in_out_unroll, \
    .linear[GPT2C_LAYOUT_OUT_IN] = gpt2c_linear_out_in_unroll, \
    .linear[GPT2C_LAYOUT_PANELS] = gpt2c_linear_panels_unroll, \
    .linear[GPT2C_LAYOUT_PANELS_BF16] = gpt2c_linear_bf16_unroll, .attention = gpt2c_attention_unroll

#endif
