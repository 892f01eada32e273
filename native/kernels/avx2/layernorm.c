/* Layer norm with the sums in double, as in ref: the mean may be large compared with the spread,
 * and float32 would lose the spread. There are eight partial sums (two registers), each over every
 * eighth element, combined at the end. So the order of additions depends on n alone.
 *
 * Error: x - mean and the scale are accurate to 2^-50. Rounding to float32 and the one FMA with
 * weight and bias add half an ulp each, well below 16 eps. */
#include <math.h>

#include "avx2.h"
#include "lanes.h"

/* The lower and the upper four of eight floats, widened to double. */
typedef struct doubles {
    __m256d low;
    __m256d high;
} doubles;

static inline doubles load(const float *x, size_t n) {
    const __m256 v = gpt2c_load(x, n);
    return (doubles){_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
                     _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}

static double sum_of(doubles v) {
    const __m256d four = _mm256_add_pd(v.low, v.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

static double mean_of(const float *x, size_t n) {
    doubles sum = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const doubles v = load(x + i, n - i);
        sum.low = _mm256_add_pd(sum.low, v.low);
        sum.high = _mm256_add_pd(sum.high, v.high);
    }
    return sum_of(sum) / (double)n;
}

/* x - mean in the lowest n lanes, and 0 in the others, so that they add nothing to the sum of
 * squares. */
static inline doubles centered(doubles x, __m256d mean, size_t n) {
    const __m256i lanes = gpt2c_lanes(n);
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(lanes));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(lanes, 1));
    return (doubles){_mm256_and_pd(_mm256_sub_pd(x.low, mean), _mm256_castsi256_pd(low)),
                     _mm256_and_pd(_mm256_sub_pd(x.high, mean), _mm256_castsi256_pd(high))};
}

static double variance_of(const float *x, size_t n, double mean) {
    doubles sum = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const doubles v = centered(load(x + i, n - i), _mm256_set1_pd(mean), n - i);
        sum.low = _mm256_fmadd_pd(v.low, v.low, sum.low);
        sum.high = _mm256_fmadd_pd(v.high, v.high, sum.high);
    }
    return sum_of(sum) / (double)n;
}

static inline __m128 normalized(__m256d x, __m256d mean, __m256d scale) {
    return _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_sub_pd(x, mean), scale));
}

void gpt2c_layernorm_avx2(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                          size_t n, float epsilon) {
    for (size_t r = 0; r < rows; r++, x += n, out += n) {
        const double mean = mean_of(x, n);
        const double scale = 1.0 / sqrt(variance_of(x, n, mean) + (double)epsilon);
        const __m256d center = _mm256_set1_pd(mean), factor = _mm256_set1_pd(scale);
        for (size_t i = 0; i < n; i += GPT2C_LANES) {
            const doubles v = load(x + i, n - i);
            const __m256 y = _mm256_set_m128(normalized(v.high, center, factor),
                                             normalized(v.low, center, factor));
            const __m256 w = gpt2c_load(weight + i, n - i), b = gpt2c_load(bias + i, n - i);
            gpt2c_store(out + i, n - i, _mm256_fmadd_ps(y, w, b));
        }
    }
}
