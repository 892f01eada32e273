/* What each operation of a feed took, for gpt2c_session_trace(). Each operation ends with one of these
 * calls; they do nothing but look at a pointer while nobody traces. Operations follow one another, so
 * one begins where the one before ended. */
#ifndef GPT2C_TRACE_H
#define GPT2C_TRACE_H

#include "pass.h"

/* `numbers` floats are read and written for each row. */
void gpt2c_trace_rows(gpt2c_pass *pass, gpt2c_traced_op op, int32_t layer, gpt2c_span rows, size_t n,
                      size_t numbers);

/* `more` floats are read for each row beside its input, as a residual is. */
void gpt2c_trace_linear(gpt2c_pass *pass, const gpt2c_linear *linear, gpt2c_span rows, size_t more);

void gpt2c_trace_attention(gpt2c_pass *pass, size_t layer, gpt2c_span rows);

/* `bytes` of the head's weights, or of its compact copy. */
void gpt2c_trace_head(gpt2c_pass *pass, size_t rows, size_t bytes);

#endif
