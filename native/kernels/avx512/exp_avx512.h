/* e^x for 16 floats by the algorithm that ref/exp.h explains.
 *
 * The polynomial is evaluated by FMA, with one rounding per step in place of two; scalef multiplies
 * by 2^n without building its exponent field. About 1 ulp. Lanes are independent. */
#ifndef GPT2C_EXP_AVX512_H
#define GPT2C_EXP_AVX512_H

#include <immintrin.h>

#include "kernels/ref/exp.h"

static inline __m512 gpt2c_exp_avx512(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(GPT2C_LOG2_E)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(GPT2C_LN2_HIGH), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(GPT2C_LN2_LOW), r);

    __m512 sum = _mm512_set1_ps(1.0f / 5040);
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 720));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));

    /* "Not less than" is true for a NaN, so it stays a NaN. */
    const __mmask16 not_zero =
        _mm512_cmp_ps_mask(x, _mm512_set1_ps(GPT2C_EXP_LOWEST), _CMP_NLT_UQ);
    const __mmask16 infinite =
        _mm512_cmp_ps_mask(x, _mm512_set1_ps(GPT2C_EXP_HIGHEST), _CMP_GT_OQ);
    const __m512 power = _mm512_maskz_scalef_ps(not_zero, sum, n);
    return _mm512_mask_mov_ps(power, infinite, _mm512_set1_ps(INFINITY));
}

#endif
