/* Loads and stores of the lowest lanes of a register, for the end of a row. Memory outside them is
 * not touched. */
#ifndef GPT2C_LANES_NEON_H
#define GPT2C_LANES_NEON_H

#include <arm_neon.h>
#include <stddef.h>

#define GPT2C_LANES 4 /* floats in a register */

/* The first n elements at p; n may be larger than GPT2C_LANES. Lanes that are not loaded are
 * `fill`. */
static inline float32x4_t gpt2c_load_or(const float *p, size_t n, float fill) {
    if (n >= GPT2C_LANES) return vld1q_f32(p);
    float32x4_t v = vdupq_n_f32(fill);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
}

static inline float32x4_t gpt2c_load(const float *p, size_t n) { return gpt2c_load_or(p, n, 0.0f); }

static inline void gpt2c_store(float *p, size_t n, float32x4_t v) {
    if (n >= GPT2C_LANES) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
}

#endif
