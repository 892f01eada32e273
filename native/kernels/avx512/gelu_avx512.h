/* GELU of 16 floats. gelu.c and the epilogue of linear.c share this function, so they give the same
 * bits.
 *
 * The formula is that of ref/gelu.c, x / (1 + e^(-2u)). The table lookup gathers 32-bit words of
 * two entries each and shifts the wanted entry down: a gather that began at the last entry, which
 * is odd, would read beyond the table. The F16C conversions round as native/half.h does, so the
 * bits are those of ref. Lanes are independent. */
#ifndef GPT2C_GELU_AVX512_H
#define GPT2C_GELU_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "exp_avx512.h"
#include "gelu_table.h"

static inline __m512 gpt2c_gelu16(__m512 x) {
    const __m512 minus_2_sqrt_2_over_pi = _mm512_set1_ps(-1.595769122f);
    const __m512 square = _mm512_mul_ps(x, x);
    const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.044715f), square), x);
    const __m512 minus_2u = _mm512_mul_ps(minus_2_sqrt_2_over_pi, _mm512_add_ps(x, cubic));
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(x, _mm512_add_ps(one, gpt2c_exp_avx512(minus_2u)));
}

static inline __m512 gpt2c_gelu_table16(__m512 x, const uint16_t *table) {
    const __m512 limit = _mm512_set1_ps(GPT2C_GELU_TABLE_LIMIT);
    const __mmask16 large = _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ);
    const __mmask16 not_small =
        _mm512_cmp_ps_mask(x, _mm512_set1_ps(-GPT2C_GELU_TABLE_LIMIT), _CMP_NLE_UQ);

    const __m512i half = _mm512_cvtepu16_epi32(
        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m512i pair = _mm512_i32gather_epi32(_mm512_srli_epi32(half, 1), table, 4);
    const __m512i odd = _mm512_and_si512(half, _mm512_set1_epi32(1));
    const __m512i entry = _mm512_srlv_epi32(pair, _mm512_slli_epi32(odd, 4));
    const __m512 looked_up = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(entry));
    return _mm512_mask_mov_ps(_mm512_maskz_mov_ps(not_small, looked_up), large, x);
}

#endif
