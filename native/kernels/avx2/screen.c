/* The screen's estimates: 8-bit weights times float32 x, in float32. Eight weights at a time are
 * widened to 32-bit integers and then to floats, which is exact. One panel at a time gives four
 * chains of FMAs. */
#include "screen.h"

#include <immintrin.h>
#include <math.h>

#include "avx2.h"
#include "lanes.h"

static inline __m256 widened(const int8_t *q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q)));
}

float gpt2c_screen_avx2(float *upper, const gpt2c_screen *screen, const float *x, float norm,
                        gpt2c_span columns) {
    float floor = -INFINITY;
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const int8_t *q = screen->q + c * screen->n_in;
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                          _mm256_setzero_ps()};
        for (size_t k = 0; k < screen->n_in; k++, q += GPT2C_PANEL) {
            const __m256 one_x = _mm256_set1_ps(x[k]);
#pragma GCC unroll 4
            for (size_t v = 0; v < 4; v++)
                sums[v] = _mm256_fmadd_ps(one_x, widened(q + v * GPT2C_LANES), sums[v]);
        }
        for (size_t v = 0; v < 4; v++) {
            const size_t at = c + v * GPT2C_LANES;
            if (at >= columns.end) break;
            const __m256 estimate = _mm256_mul_ps(sums[v], _mm256_load_ps(screen->scale + at));
            const __m256 bound = _mm256_mul_ps(_mm256_set1_ps(norm), _mm256_load_ps(screen->radius + at));
            float lower[GPT2C_LANES];
            _mm256_storeu_ps(lower, _mm256_sub_ps(estimate, bound));
            gpt2c_store(upper + at, columns.end - at, _mm256_add_ps(estimate, bound));
            for (size_t i = 0; i < GPT2C_LANES && at + i < columns.end; i++)
                if (lower[i] > floor) floor = lower[i];
        }
    }
    return floor;
}
