/* Packs rows of x as int8, as pack_int8 in ref does; a group is four registers. */
#include "quantized.h"

#include <immintrin.h>

#include "avx2.h"
#include "lanes.h"

#define VECTORS (GPT2C_GROUP / GPT2C_LANES)

static inline uint32_t largest_of(__m256i v) {
    const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_max_epu32(four, _mm_unpackhi_epi64(four, four));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 1)));
}

static inline int32_t sum_of(__m256i v) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

/* To bytes, in order. The pack instructions work on each half of a register, so groups of four
 * bytes come out as 0 2 4 6 1 3 5 7 and are permuted back. */
static inline __m256i to_bytes(const __m256i q[VECTORS]) {
    const __m256i lower = _mm256_packs_epi32(q[0], q[1]), upper = _mm256_packs_epi32(q[2], q[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lower, upper),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline gpt2c_int8_scale round_group(int8_t *q, int32_t *sum, const float *x, size_t n) {
    const __m256i without_sign = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256(), sums = _mm256_setzero_si256(), rounded[VECTORS];
    __m256 values[VECTORS];
    for (size_t v = 0; v < VECTORS; v++) {
        const size_t at = v * GPT2C_LANES;
        values[v] = n > at ? gpt2c_load(x + at, n - at) : _mm256_setzero_ps();
        largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(values[v]), without_sign));
    }
    const gpt2c_int8_scale s = gpt2c_int8_scale_of(largest_of(largest));
    /* Infinity times an inverse of 0 is a NaN, which would convert to INT32_MIN: mask it. */
    const __m256i mask = _mm256_set1_epi32(s.inverse > 0.0f ? -1 : 0);
    for (size_t v = 0; v < VECTORS; v++) {
        const __m256 scaled = _mm256_mul_ps(values[v], _mm256_set1_ps(s.inverse));
        rounded[v] = _mm256_and_si256(_mm256_cvtps_epi32(scaled), mask);
        sums = _mm256_add_epi32(sums, rounded[v]);
    }
    _mm256_storeu_si256((__m256i *)q, to_bytes(rounded));
    *sum = sum_of(sums);
    return s;
}

void gpt2c_pack_int8_avx2(void *out, const float *x, size_t rows, size_t n_in) {
    gpt2c_pack_int8(out, x, rows, n_in, round_group);
}
