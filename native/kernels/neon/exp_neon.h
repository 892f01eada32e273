/* e^x for 4 floats by the algorithm that ref/exp.h explains, with the polynomial evaluated by FMA.
 * About 1 ulp. Lanes are independent. */
#ifndef GPT2C_EXP_NEON_H
#define GPT2C_EXP_NEON_H

#include <arm_neon.h>

#include "kernels/ref/exp.h"

/* 2^n for an integer n in [-126, 127]; for any other n, or a NaN, an arbitrary value. */
static inline float32x4_t gpt2c_power_of_2(float32x4_t n) {
    const uint32x4_t whole = vreinterpretq_u32_s32(vcvtnq_s32_f32(n)); /* unsigned: may overflow below */
    return vreinterpretq_f32_u32(vshlq_n_u32(vaddq_u32(whole, vdupq_n_u32(127)), 23));
}

static inline float32x4_t gpt2c_exp_neon(float32x4_t x) {
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, GPT2C_LOG2_E));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(GPT2C_LN2_HIGH)); /* x - n * LN2_HIGH */
    r = vfmsq_f32(r, n, vdupq_n_f32(GPT2C_LN2_LOW));

    float32x4_t sum = vdupq_n_f32(1.0f / 5040);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 720), sum, r); /* 1/720 + sum * r */
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 120), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 24), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 6), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(0.5f), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f), sum, r);

    /* Both comparisons are false for a NaN, so it stays a NaN. */
    const uint32x4_t is_zero = vcltq_f32(x, vdupq_n_f32(GPT2C_EXP_LOWEST));
    const uint32x4_t is_infinite = vcgtq_f32(x, vdupq_n_f32(GPT2C_EXP_HIGHEST));
    const float32x4_t product = vmulq_f32(sum, gpt2c_power_of_2(n));
    const float32x4_t above_zero = vbslq_f32(is_zero, vdupq_n_f32(0.0f), product);
    return vbslq_f32(is_infinite, vdupq_n_f32(INFINITY), above_zero);
}

#endif
