/* Rows of x to int8, as prepare_int8 in ref does it: two registers for a group. */
#include "kernels/tiled/int8.h"

#include <immintrin.h>

#include "avx512_vnni.h"
#include "kernels/avx512/lanes.h"

static inline __m512i size_bits(__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

static inline gpt2c_int8_scale round_group(int8_t *q, int32_t *sum, const float *x, size_t n) {
    const __mmask16 first = gpt2c_lanes(n), second = gpt2c_lanes(n > GPT2C_LANES ? n - GPT2C_LANES : 0);
    const __m512 a = _mm512_maskz_loadu_ps(first, x), b = _mm512_maskz_loadu_ps(second, x + GPT2C_LANES);
    const __m512i largest = _mm512_max_epu32(size_bits(a), size_bits(b));
    const gpt2c_int8_scale s = gpt2c_int8_scale_of(_mm512_reduce_max_epu32(largest));
    const __m512 inverse = _mm512_set1_ps(s.inverse);
    /* 0 * infinity converts to the least integer, and that to the least byte: mask it. */
    const __mmask16 some = s.inverse > 0.0f ? 0xffff : 0;
    const __m512i qa = _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(a, inverse));
    const __m512i qb = _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(b, inverse));
    _mm_store_si128((__m128i *)q, _mm512_cvtepi32_epi8(qa));
    _mm_store_si128((__m128i *)(q + GPT2C_LANES), _mm512_cvtepi32_epi8(qb));
    *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
    return s;
}

void gpt2c_prepare_int8_avx512_vnni(void *out, const float *x, size_t rows, size_t n_in) {
    gpt2c_prepare_int8(out, x, rows, n_in, round_group);
}
