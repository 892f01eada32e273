/* Layer norm with the sums in double, as in ref: the mean may be large compared with the spread,
 * and float32 would lose the spread. There are sixteen partial sums (two registers), each over
 * every sixteenth element, combined at the end. So the order of additions depends on n alone.
 *
 * Error: x - mean and the scale are accurate to 2^-50. Rounding to float32 and the one FMA with
 * weight and bias add half an ulp each, well below 16 eps. */
#include <math.h>

#include "avx512.h"
#include "lanes.h"

/* The lower and the upper eight of sixteen floats, widened to double. */
typedef struct doubles {
    __m512d low;
    __m512d high;
} doubles;

static inline doubles load(const float *x, __mmask16 lanes) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x);
    return (doubles){_mm512_cvtps_pd(_mm512_castps512_ps256(v)),
                     _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
}

static double sum_of(doubles v) { return _mm512_reduce_add_pd(_mm512_add_pd(v.low, v.high)); }

static double mean_of(const float *x, size_t n) {
    doubles sum = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const doubles v = load(x + i, gpt2c_lanes(n - i));
        sum.low = _mm512_add_pd(sum.low, v.low);
        sum.high = _mm512_add_pd(sum.high, v.high);
    }
    return sum_of(sum) / (double)n;
}

static double variance_of(const float *x, size_t n, double mean) {
    const __m512d center = _mm512_set1_pd(mean);
    doubles sum = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(n - i);
        const doubles v = load(x + i, lanes);
        const __m512d low = _mm512_maskz_sub_pd((__mmask8)lanes, v.low, center);
        const __m512d high = _mm512_maskz_sub_pd((__mmask8)(lanes >> 8), v.high, center);
        sum.low = _mm512_fmadd_pd(low, low, sum.low);
        sum.high = _mm512_fmadd_pd(high, high, sum.high);
    }
    return sum_of(sum) / (double)n;
}

static inline __m256 normalized(__m512d x, __m512d mean, __m512d scale) {
    return _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(x, mean), scale));
}

void gpt2c_layernorm_avx512(float *out, const float *x, const float *weight, const float *bias,
                            size_t rows, size_t n, float epsilon) {
    for (size_t r = 0; r < rows; r++, x += n, out += n) {
        const double mean = mean_of(x, n);
        const double scale = 1.0 / sqrt(variance_of(x, n, mean) + (double)epsilon);
        const __m512d center = _mm512_set1_pd(mean), factor = _mm512_set1_pd(scale);
        for (size_t i = 0; i < n; i += GPT2C_LANES) {
            const __mmask16 lanes = gpt2c_lanes(n - i);
            const doubles v = load(x + i, lanes);
            const __m512 low = _mm512_castps256_ps512(normalized(v.low, center, factor));
            const __m512 y = _mm512_insertf32x8(low, normalized(v.high, center, factor), 1);
            const __m512 w = _mm512_maskz_loadu_ps(lanes, weight + i);
            const __m512 b = _mm512_maskz_loadu_ps(lanes, bias + i);
            _mm512_mask_storeu_ps(out + i, lanes, _mm512_fmadd_ps(y, w, b));
        }
    }
}
