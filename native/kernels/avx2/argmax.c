/* The maximum of each of 8 interleaved subsequences, then the maximum of those.
 *
 * A lane replaces its maximum only by a larger value, so it retains the first of equal values and
 * never takes a NaN. Among lanes that hold the same maximum the lowest index wins. Indices are 32
 * bits wide, which suffices: a vocabulary has at most 2^24 entries (model.c). */
#include <math.h>

#include "avx2.h"
#include "lanes.h"

size_t gpt2c_argmax_avx2(const float *x, size_t n) {
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 best = lowest, best_index = _mm256_setzero_ps(); /* the index as bits, for blendv */
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __m256 loaded = gpt2c_load(x + i, n - i);
        const __m256 value = _mm256_blendv_ps(lowest, loaded, _mm256_castsi256_ps(gpt2c_lanes(n - i)));
        const __m256 larger = _mm256_cmp_ps(value, best, _CMP_GT_OQ);
        best = _mm256_blendv_ps(best, value, larger);
        best_index = _mm256_blendv_ps(best_index, _mm256_castsi256_ps(index), larger);
        index = _mm256_add_epi32(index, _mm256_set1_epi32(GPT2C_LANES));
    }

    float values[GPT2C_LANES];
    int32_t indices[GPT2C_LANES];
    _mm256_storeu_ps(values, best);
    _mm256_storeu_si256((__m256i *)(void *)indices, _mm256_castps_si256(best_index));
    size_t winner = 0;
    for (size_t lane = 1; lane < GPT2C_LANES; lane++)
        if (values[lane] > values[winner] ||
            (values[lane] == values[winner] && indices[lane] < indices[winner]))
            winner = lane;
    return (size_t)indices[winner];
}
