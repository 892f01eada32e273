/* GELU looked up: entry h is GELU of the fp16 number with the bits h, itself rounded to fp16.
 *
 * x is rounded to fp16 (relative 2^-11 at most, or 2^-25 among subnormals), GELU changes by at most
 * 1.13 times as much, and its value (|gelu(x)| <= |x|) is rounded in turn:
 *     |table(x) - gelu(x)| <= 2.13 * 2^-11 |x| + 2^-24.
 * Beyond the limit no lookup is needed: gelu(-10) > -1e-22, and gelu(x) = x in float32 above 10.
 */
#ifndef GPT2C_GELU_TABLE_H
#define GPT2C_GELU_TABLE_H

#include "gpt2c.h"

#define GPT2C_GELU_TABLE_SIZE 65536
#define GPT2C_GELU_TABLE_LIMIT 10.0f

#endif
