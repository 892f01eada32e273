/* Masks, and masked loads and stores, for the end of a row. */
#ifndef GPT2C_LANES_AVX512_H
#define GPT2C_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>

#define GPT2C_LANES 16 /* floats in a register */

/* The lowest n lanes, or all lanes if n is 16 or more. */
static inline __mmask16 gpt2c_lanes(size_t n) {
    return (__mmask16)(n >= GPT2C_LANES ? 0xffffu : (1u << n) - 1u);
}

/* The first n elements at p; n may be larger than GPT2C_LANES. Whole registers are loaded and
 * stored without a mask: a load after a masked store of the same elements waits until they are in
 * the cache. */
static inline __m512 gpt2c_load(const float *p, size_t n) {
    return n >= GPT2C_LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(gpt2c_lanes(n), p);
}

static inline void gpt2c_store(float *p, size_t n, __m512 v) {
    if (n >= GPT2C_LANES)
        _mm512_storeu_ps(p, v);
    else
        _mm512_mask_storeu_ps(p, gpt2c_lanes(n), v);
}

#endif
