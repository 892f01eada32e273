/* Rows of x to int8, as prepare_int8 in ref does it: two registers for a group. */
#include <immintrin.h>

#include "avx512_vnni.h"
#include "kernels/avx512/lanes.h"
#include "quantized.h"

static inline __m512i size_bits(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

void gpt2c_prepare_int8_avx512_vnni(void *out, const float *x, size_t rows, size_t n_in) {
    const size_t groups = gpt2c_int8_groups(n_in);
    for (size_t r = 0; r < rows; r++, x += n_in) {
        char *row = (char *)out + r * gpt2c_prepared_bytes(n_in);
        float *scale = (float *)(row + groups * GPT2C_GROUP), *scaled_sum = scale + 2 * groups;
        int32_t *offset = (int32_t *)(scale + groups);
        for (size_t g = 0; g < groups; g++) {
            const size_t k = g * GPT2C_GROUP, left = k < n_in ? n_in - k : 0;
            const __mmask16 first = gpt2c_lanes(left);
            const __mmask16 second = gpt2c_lanes(left > GPT2C_LANES ? left - GPT2C_LANES : 0);
            const __m512 a = _mm512_maskz_loadu_ps(first, x + k);
            const __m512 b = _mm512_maskz_loadu_ps(second, x + k + GPT2C_LANES);
            const __m512i largest = _mm512_max_epu32(size_bits(a), size_bits(b));
            const gpt2c_int8_scale s = gpt2c_int8_scale_of(_mm512_reduce_max_epu32(largest));
            const __m512 inverse = _mm512_set1_ps(s.inverse);
            /* 0 * infinity converts to the least integer, and that to the least byte: mask it. */
            const __mmask16 some = s.inverse > 0.0f ? 0xffff : 0;
            const __m512i qa = _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(a, inverse));
            const __m512i qb = _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(b, inverse));
            _mm_store_si128((__m128i *)(row + k), _mm512_cvtepi32_epi8(qa));
            _mm_store_si128((__m128i *)(row + k + GPT2C_LANES), _mm512_cvtepi32_epi8(qb));
            const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
            scale[g] = s.scale;
            offset[g] = -128 * sum;
            scaled_sum[g] = s.scale * (float)sum;
        }
    }
}
