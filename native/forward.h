/* The model's layers, from tokens to the rows that logits are computed from. */
#ifndef GPT2C_FORWARD_H
#define GPT2C_FORWARD_H

#include "pass.h"

/* Runs positions [n_past, n), and those before them in operations whose switch is off. Returns the rows
 * after the final layer norm; gpt2c_unembed or gpt2c_unembed_segments (head.h) computes their logits. */
const float *gpt2c_forward(gpt2c_pass *pass);

#endif
