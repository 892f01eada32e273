/* Softmax of scale * x[0 .. n), for softmax.c (scale 1) and attention.c.
 *
 * Element i is in lane i mod 8, and eight partial sums are combined at the end, so the order of
 * additions depends on n alone. Scaling is a separate multiplication, not part of an FMA, so a
 * separate pass over the scores would give the same bits. Rounding is monotonic, so the largest
 * scaled score is the largest score, scaled.
 *
 * Relative error: about 2 eps for each exp, n/8 + 3 for the sum, 1 for its reciprocal and 1 for the
 * product, together less than (n + 8) eps. */
#ifndef GPT2C_SOFTMAX_AVX2_H
#define GPT2C_SOFTMAX_AVX2_H

#include <math.h>

#include "exp_avx2.h"
#include "lanes.h"

static inline float gpt2c_largest(const float *x, size_t n) {
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 largest = lowest;
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __m256 lanes = _mm256_castsi256_ps(gpt2c_lanes(n - i));
        largest = _mm256_max_ps(_mm256_blendv_ps(lowest, gpt2c_load(x + i, n - i), lanes), largest);
    }
    return gpt2c_largest_of(largest);
}

static inline void gpt2c_scaled_softmax_avx2(float *out, const float *x, size_t n, float scale) {
    const __m256 factor = _mm256_set1_ps(scale), top = _mm256_set1_ps(gpt2c_largest(x, n) * scale);
    __m256 sums = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __m256 lanes = _mm256_castsi256_ps(gpt2c_lanes(n - i));
        const __m256 scaled = _mm256_mul_ps(gpt2c_load(x + i, n - i), factor);
        const __m256 e = _mm256_and_ps(gpt2c_exp_avx2(_mm256_sub_ps(scaled, top)), lanes);
        sums = _mm256_add_ps(sums, e);
        gpt2c_store(out + i, n - i, e);
    }

    const __m256 over_sum = _mm256_set1_ps(1.0f / gpt2c_sum_of(sums));
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, _mm256_mul_ps(gpt2c_load(out + i, n - i), over_sum));
}

#endif
