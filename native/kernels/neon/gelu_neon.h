/* GELU of 4 floats. gelu.c and the epilogue of linear.c share this function, so they give the same
 * bits.
 *
 * The formula is that of ref/gelu.c, x / (1 + e^(-2u)). The table entries are loaded one by one.
 * The fp16 conversions round as native/half.h does, so the bits are those of ref. Lanes are
 * independent. */
#ifndef GPT2C_GELU_NEON_H
#define GPT2C_GELU_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#include "exp_neon.h"
#include "gelu_table.h"

static inline float32x4_t gpt2c_gelu4(float32x4_t x) {
    const float minus_2_sqrt_2_over_pi = -1.595769122f;
    const float32x4_t cubic = vmulq_f32(vmulq_n_f32(vmulq_f32(x, x), 0.044715f), x);
    const float32x4_t minus_2u = vmulq_n_f32(vaddq_f32(x, cubic), minus_2_sqrt_2_over_pi);
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), gpt2c_exp_neon(minus_2u)));
}

static inline float32x4_t gpt2c_gelu_table4(float32x4_t x, const uint16_t *table) {
    const uint32x4_t large = vcgeq_f32(x, vdupq_n_f32(GPT2C_GELU_TABLE_LIMIT));
    const uint32x4_t small = vcleq_f32(x, vdupq_n_f32(-GPT2C_GELU_TABLE_LIMIT));

    uint16_t halves[4];
    vst1_u16(halves, vreinterpret_u16_f16(vcvt_f16_f32(x)));
    for (size_t i = 0; i < 4; i++) halves[i] = table[halves[i]];
    const float32x4_t looked_up = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves)));
    return vbslq_f32(large, x, vbslq_f32(small, vdupq_n_f32(0.0f), looked_up));
}

#endif
