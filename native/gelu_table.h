/* GELU by a table: entry h is GELU of the fp16 value with the bits h, rounded to fp16.
 *
 * Rounding x to fp16 changes it by at most 2^-11 |x|, or by 2^-25 among subnormals. GELU then changes by at
 * most 1.13 times as much, and its value (|gelu(x)| <= |x|) is rounded as well:
 *     |table(x) - gelu(x)| <= 2.13 * 2^-11 |x| + 2^-24.
 * Beyond the limit no lookup is needed: gelu(-10) > -1e-22, and gelu(x) = x in float32 above 10.
 */
#ifndef GPT2C_GELU_TABLE_H
#define GPT2C_GELU_TABLE_H

#include "gpt2c.h"

#define GPT2C_GELU_TABLE_SIZE 65536
#define GPT2C_GELU_TABLE_LIMIT 10.0f

#endif
