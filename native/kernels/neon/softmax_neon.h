/* Softmax of scale * x[0 .. n), scale > 0, for softmax.c (scale 1) and attention.c.
 *
 * Element i is in lane i mod 4, and four partial sums are combined at the end, so the order of
 * additions depends on n alone. Lanes after the last element are filled with -infinity, which is
 * never the largest and whose exp is 0. Scaling is a separate multiplication, not part of an FMA,
 * so a separate pass over the scores would give the same bits. Rounding is monotonic, so the
 * largest scaled score is the largest score, scaled.
 *
 * Relative error: about 2 eps for each exp, n/4 + 2 for the sum, 1 for its reciprocal and 1 for the
 * product, together less than (n + 8) eps. */
#ifndef GPT2C_SOFTMAX_NEON_H
#define GPT2C_SOFTMAX_NEON_H

#include <math.h>

#include "exp_neon.h"
#include "lanes.h"

/* The largest element, or a NaN if there is one. */
static inline float gpt2c_largest(const float *x, size_t n) {
    float32x4_t largest = vdupq_n_f32(-INFINITY);
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        largest = vmaxq_f32(largest, gpt2c_load_or(x + i, n - i, -INFINITY));
    return vmaxvq_f32(largest);
}

static inline void gpt2c_scaled_softmax_neon(float *out, const float *x, size_t n, float scale) {
    const float32x4_t top = vdupq_n_f32(gpt2c_largest(x, n) * scale);
    float32x4_t sums = vdupq_n_f32(0.0f);
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const float32x4_t scaled = vmulq_n_f32(gpt2c_load_or(x + i, n - i, -INFINITY), scale);
        const float32x4_t e = gpt2c_exp_neon(vsubq_f32(scaled, top));
        sums = vaddq_f32(sums, e);
        gpt2c_store(out + i, n - i, e);
    }

    const float over_sum = 1.0f / vaddvq_f32(sums); /* adds pairs of lanes */
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, vmulq_n_f32(gpt2c_load(out + i, n - i), over_sum));
}

#endif
