/* The maximum of each of 16 interleaved subsequences, then the maximum of those.
 *
 * A lane replaces its maximum only by a larger value, so it retains the first of equal values and
 * never takes a NaN. Among lanes that hold the same maximum the lowest index wins. Indices are 32
 * bits wide, which suffices: a vocabulary has at most 2^24 entries (model.c). */
#include <math.h>

#include "avx512.h"
#include "lanes.h"

size_t gpt2c_argmax_avx512(const float *x, size_t n) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 best = lowest;
    __m512i best_index = _mm512_setzero_si512();
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __m512 value = _mm512_mask_loadu_ps(lowest, gpt2c_lanes(n - i), x + i);
        const __mmask16 larger = _mm512_cmp_ps_mask(value, best, _CMP_GT_OQ);
        best = _mm512_mask_mov_ps(best, larger, value);
        best_index = _mm512_mask_mov_epi32(best_index, larger, index);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(GPT2C_LANES));
    }
    const float largest = _mm512_reduce_max_ps(best);
    if (largest == -INFINITY) return 0;
    const __mmask16 winners = _mm512_cmp_ps_mask(best, _mm512_set1_ps(largest), _CMP_EQ_OQ);
    return (size_t)_mm512_mask_reduce_min_epu32(winners, best_index);
}
