/* The model's layers, from tokens to the rows that logits are made of. */
#ifndef GPT2C_FORWARD_H
#define GPT2C_FORWARD_H

#include "pass.h"

/* Runs positions [n_past, n), and those before as far as switches are off; returns the rows after the
 * final layer norm, which one of the two `unembed` (head.h) makes logits of. */
const float *gpt2c_forward(gpt2c_pass *pass);

#endif
