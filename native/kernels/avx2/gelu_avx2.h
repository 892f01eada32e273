/* GELU of 8 floats. gelu.c and the epilogue of linear.c share this function, so they give the same
 * bits.
 *
 * The formula is that of ref/gelu.c, x / (1 + e^(-2u)). The table lookup gathers 32-bit words of
 * two entries each and shifts the wanted entry down: a gather that began at the last entry, which
 * is odd, would read beyond the table. The F16C conversions round as native/half.h does, so the
 * bits are those of ref. Lanes are independent. */
#ifndef GPT2C_GELU_AVX2_H
#define GPT2C_GELU_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "exp_avx2.h"
#include "gelu_table.h"

static inline __m256 gpt2c_gelu8(__m256 x) {
    const __m256 minus_2_sqrt_2_over_pi = _mm256_set1_ps(-1.595769122f);
    const __m256 square = _mm256_mul_ps(x, x);
    const __m256 cubic = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.044715f), square), x);
    const __m256 minus_2u = _mm256_mul_ps(minus_2_sqrt_2_over_pi, _mm256_add_ps(x, cubic));
    const __m256 one = _mm256_set1_ps(1.0f);
    return _mm256_div_ps(x, _mm256_add_ps(one, gpt2c_exp_avx2(minus_2u)));
}

static inline __m256 gpt2c_gelu_table8(__m256 x, const uint16_t *table) {
    const __m256 limit = _mm256_set1_ps(GPT2C_GELU_TABLE_LIMIT);
    const __m256 large = _mm256_cmp_ps(x, limit, _CMP_GE_OQ);
    const __m256 small = _mm256_cmp_ps(x, _mm256_set1_ps(-GPT2C_GELU_TABLE_LIMIT), _CMP_LE_OQ);

    const __m256i half = _mm256_cvtepu16_epi32(
        _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m256i pair =
        _mm256_i32gather_epi32((const int *)(const void *)table, _mm256_srli_epi32(half, 1), 4);
    const __m256i odd = _mm256_and_si256(half, _mm256_set1_epi32(1));
    const __m256i shifted = _mm256_srlv_epi32(pair, _mm256_slli_epi32(odd, 4));
    const __m256i entry = _mm256_and_si256(shifted, _mm256_set1_epi32(0xffff));
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(entry), _mm256_extracti128_si256(entry, 1));
    const __m256 looked_up = _mm256_cvtph_ps(packed);
    return _mm256_blendv_ps(_mm256_andnot_ps(small, looked_up), x, large);
}

#endif
