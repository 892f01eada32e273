/* Logits, and the greedy id. */
#ifndef GPT2C_HEAD_H
#define GPT2C_HEAD_H

#include "pass.h"

/* The first row after the final layer norm that `outputs` needs. */
size_t gpt2c_first_wanted(const gpt2c_pass *pass, const gpt2c_outputs *outputs);

/* Writes `outputs` from the rows after the final layer norm. */
void gpt2c_unembed(gpt2c_pass *pass, const float *hidden, const gpt2c_outputs *outputs);

/* For several sessions: writes one row of logits [n_segments, n_vocab] and one greedy id for each. Either may
 * be NULL. */
void gpt2c_unembed_segments(gpt2c_pass *pass, const float *hidden, float *last_logits, int32_t *next_ids);

#endif
