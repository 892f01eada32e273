/* Loads and stores of the lowest lanes of a register, for the end of a row. Memory outside them is
 * not touched, and lanes that are not loaded are 0. */
#ifndef GPT2C_LANES_AVX2_H
#define GPT2C_LANES_AVX2_H

#include <immintrin.h>
#include <stddef.h>

#define GPT2C_LANES 8 /* floats in a register */

/* All bits of the lowest n lanes, or of all lanes if n is 8 or more. */
static inline __m256i gpt2c_lanes(size_t n) {
    const int count = n >= GPT2C_LANES ? GPT2C_LANES : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n elements at p; n may be larger than GPT2C_LANES. */
static inline __m256 gpt2c_load(const float *p, size_t n) {
    return n >= GPT2C_LANES ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, gpt2c_lanes(n));
}

static inline void gpt2c_store(float *p, size_t n, __m256 v) {
    if (n >= GPT2C_LANES)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, gpt2c_lanes(n), v);
}

/* The sum of all lanes: 8 lanes are added to 4, then to 2, then to 1. */
static inline float gpt2c_sum_of(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float gpt2c_largest_of(__m256 v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#endif
