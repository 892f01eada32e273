/* Masks for what is left at the end of a row. */
#ifndef GPT2C_LANES_AVX512_H
#define GPT2C_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>

#define GPT2C_LANES 16 /* floats in a register */

/* The lowest n lanes; all of them if n is 16 or more. */
static inline __mmask16 gpt2c_lanes(size_t n) {
    return (__mmask16)(n >= GPT2C_LANES ? 0xffffu : (1u << n) - 1u);
}

#endif
