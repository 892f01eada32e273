/* e^x for 8 floats by the algorithm that ref/exp.h explains, with the polynomial evaluated by FMA.
 * About 1 ulp. Lanes are independent. */
#ifndef GPT2C_EXP_AVX2_H
#define GPT2C_EXP_AVX2_H

#include <immintrin.h>

#include "kernels/ref/exp.h"

/* 2^n for an integer n in [-126, 127]; for a NaN an arbitrary value. */
static inline __m256 gpt2c_power_of_2(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline __m256 gpt2c_exp_avx2(__m256 x) {
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(GPT2C_LOG2_E)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(GPT2C_LN2_HIGH), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(GPT2C_LN2_LOW), r);

    __m256 sum = _mm256_set1_ps(1.0f / 5040);
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 720));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 120));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 24));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 6));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(0.5f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));

    /* Ordered comparisons: both are false for a NaN, so it stays a NaN. */
    const __m256 is_zero = _mm256_cmp_ps(x, _mm256_set1_ps(GPT2C_EXP_LOWEST), _CMP_LT_OQ);
    const __m256 is_infinite = _mm256_cmp_ps(x, _mm256_set1_ps(GPT2C_EXP_HIGHEST), _CMP_GT_OQ);
    const __m256 product = _mm256_mul_ps(sum, gpt2c_power_of_2(n));
    return _mm256_blendv_ps(_mm256_andnot_ps(is_zero, product), _mm256_set1_ps(INFINITY), is_infinite);
}

#endif
