/* Layer norm with the sums in double, as in ref: the mean may be large compared with the spread,
 * and float32 would lose the spread. There are four partial sums (two registers), each over every
 * fourth element, combined at the end. Then the elements left at the end of a row are added one by
 * one. So the order of additions depends on n alone.
 *
 * Error: x - mean and the scale are accurate to 2^-50. Rounding to float32 and the one FMA with
 * weight and bias add half an ulp each, well below 16 eps. */
#include <math.h>

#include "lanes.h"
#include "neon.h"

/* The lower and the upper two of four floats, widened to double. */
typedef struct doubles {
    float64x2_t low;
    float64x2_t high;
} doubles;

static inline doubles widened(float32x4_t x) {
    return (doubles){vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x)};
}

static double mean_of(const float *x, size_t n) {
    const size_t whole = n / GPT2C_LANES * GPT2C_LANES;
    doubles sums = {vdupq_n_f64(0.0), vdupq_n_f64(0.0)};
    for (size_t i = 0; i < whole; i += GPT2C_LANES) {
        const doubles v = widened(vld1q_f32(x + i));
        sums.low = vaddq_f64(sums.low, v.low);
        sums.high = vaddq_f64(sums.high, v.high);
    }
    double sum = vaddvq_f64(vaddq_f64(sums.low, sums.high));
    for (size_t i = whole; i < n; i++) sum += (double)x[i];
    return sum / (double)n;
}

static double variance_of(const float *x, size_t n, double mean) {
    const size_t whole = n / GPT2C_LANES * GPT2C_LANES;
    const float64x2_t center = vdupq_n_f64(mean);
    doubles sums = {vdupq_n_f64(0.0), vdupq_n_f64(0.0)};
    for (size_t i = 0; i < whole; i += GPT2C_LANES) {
        const doubles v = widened(vld1q_f32(x + i));
        const float64x2_t low = vsubq_f64(v.low, center), high = vsubq_f64(v.high, center);
        sums.low = vfmaq_f64(sums.low, low, low);
        sums.high = vfmaq_f64(sums.high, high, high);
    }
    double sum = vaddvq_f64(vaddq_f64(sums.low, sums.high));
    for (size_t i = whole; i < n; i++) sum += ((double)x[i] - mean) * ((double)x[i] - mean);
    return sum / (double)n;
}

static inline float32x4_t normalized(float32x4_t x, float64x2_t mean, double scale) {
    const doubles v = widened(x);
    const float64x2_t low = vmulq_n_f64(vsubq_f64(v.low, mean), scale);
    const float64x2_t high = vmulq_n_f64(vsubq_f64(v.high, mean), scale);
    return vcvt_high_f32_f64(vcvt_f32_f64(low), high);
}

void gpt2c_layernorm_neon(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                          size_t n, float epsilon) {
    for (size_t r = 0; r < rows; r++, x += n, out += n) {
        const double mean = mean_of(x, n);
        const double scale = 1.0 / sqrt(variance_of(x, n, mean) + (double)epsilon);
        const float64x2_t center = vdupq_n_f64(mean);
        for (size_t i = 0; i < n; i += GPT2C_LANES) {
            const float32x4_t y = normalized(gpt2c_load(x + i, n - i), center, scale);
            const float32x4_t w = gpt2c_load(weight + i, n - i), b = gpt2c_load(bias + i, n - i);
            gpt2c_store(out + i, n - i, vfmaq_f32(b, y, w));
        }
    }
}
