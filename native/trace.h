/* The time of each operation of a feed, for gpt2c_session_trace(). Each operation ends with one of these calls;
 * with tracing off they only test a pointer. Operations run one after another, so each begins where the one
 * before it ended. */
#ifndef GPT2C_TRACE_H
#define GPT2C_TRACE_H

#include "pass.h"

/* `floats` are read and written per row. */
void gpt2c_trace_rows(gpt2c_pass *pass, gpt2c_traced_op op, int32_t layer, gpt2c_span rows, size_t n,
                      size_t floats);

/* `more` floats are read per row in addition to its input, such as a residual. */
void gpt2c_trace_linear(gpt2c_pass *pass, const gpt2c_linear *linear, gpt2c_span rows, size_t more);

void gpt2c_trace_attention(gpt2c_pass *pass, size_t layer, gpt2c_span rows);

/* `bytes`: read of the head's weights, or of its compact copy. */
void gpt2c_trace_head(gpt2c_pass *pass, size_t rows, size_t bytes);

#endif
