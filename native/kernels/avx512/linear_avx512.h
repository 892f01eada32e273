/* What the linear layers of all weight formats share: the walk over panels and tiles, and what comes
 * behind a sum. A format brings the sum itself. */
#ifndef GPT2C_LINEAR_AVX512_H
#define GPT2C_LINEAR_AVX512_H

#include "avx512.h"

/* Puts the sums of a few rows (at most GPT2C_TILE_ROWS) and whole panels into args->out. */
typedef void gpt2c_sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

void gpt2c_linear_by_tiles_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                  gpt2c_sum_rows *sum_rows);

#endif
