/* Softmax of scale * x[0 .. n), for softmax.c (scale 1) and attention.c.
 *
 * Element i is in lane i mod 16, and sixteen partial sums are combined at the end, so the order of
 * additions depends on n alone. Scaling is a separate multiplication, not part of an FMA, so a
 * separate pass over the scores would give the same bits. Rounding is monotonic, so the largest
 * scaled score is the largest score, scaled.
 *
 * Relative error: about 2 eps for each exp, n/16 + 4 for the sum, 1 for its reciprocal and 1 for
 * the product, together less than (n + 8) eps. */
#ifndef GPT2C_SOFTMAX_AVX512_H
#define GPT2C_SOFTMAX_AVX512_H

#include <math.h>

#include "exp_avx512.h"
#include "lanes.h"

static inline void gpt2c_scaled_softmax_avx512(float *out, const float *x, size_t n, float scale) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(scale);
    __m512 largest = lowest;
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        largest = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, gpt2c_lanes(n - i), x + i), largest);
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest) * scale);

    __m512 sums = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(n - i);
        const __m512 scaled = _mm512_mul_ps(gpt2c_load(x + i, n - i), factor);
        const __m512 e = gpt2c_exp_avx512(_mm512_sub_ps(scaled, top));
        sums = _mm512_mask_add_ps(sums, lanes, sums, e);
        gpt2c_store(out + i, n - i, e);
    }

    const __m512 over_sum = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sums));
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, _mm512_mul_ps(gpt2c_load(out + i, n - i), over_sum));
}

#endif
