/* The screen's estimates: 8-bit weights times float32 x, in float32. Sixteen weights at a time are
 * widened to 16-bit integers, to 32-bit integers and then to floats, which is exact. One panel at a
 * time gives eight chains of FMAs and 28 instructions per 32 bytes of weights, which take about as
 * long as loading the bytes from memory. */
#include "screen.h"

#include <math.h>

#include "kernels/tiled/tile.h"
#include "lanes.h"
#include "neon.h"

#define VECTORS (GPT2C_PANEL / GPT2C_LANES)

/* One step of k: adds x * q to the sums of 16 columns. */
static inline void add_sixteen(float32x4_t sums[4], const int8_t *q, float x) {
    const int8x16_t bytes = vld1q_s8(q);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    sums[0] = vfmaq_n_f32(sums[0], vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), x);
    sums[1] = vfmaq_n_f32(sums[1], vcvtq_f32_s32(vmovl_high_s16(low)), x);
    sums[2] = vfmaq_n_f32(sums[2], vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), x);
    sums[3] = vfmaq_n_f32(sums[3], vcvtq_f32_s32(vmovl_high_s16(high)), x);
}

float gpt2c_screen_neon(float *upper, const gpt2c_screen *screen, const float *x, float norm,
                        gpt2c_span columns) {
    float floor = -INFINITY;
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const int8_t *q = screen->q + c * screen->n_in;
        const float32x4_t zero = vdupq_n_f32(0.0f);
        float32x4_t sums[VECTORS] = {zero, zero, zero, zero, zero, zero, zero, zero};
        for (size_t k = 0; k < screen->n_in; k++, q += GPT2C_PANEL) {
            add_sixteen(sums, q, x[k]);
            add_sixteen(sums + VECTORS / 2, q + GPT2C_PANEL / 2, x[k]);
        }
        GPT2C_UNROLL(8) /* so that the sums are in registers */
        for (size_t v = 0; v < VECTORS; v++) {
            const size_t at = c + v * GPT2C_LANES;
            if (at >= columns.end) break;
            const float32x4_t estimate = vmulq_f32(sums[v], vld1q_f32(screen->scale + at));
            const float32x4_t bound = vmulq_n_f32(vld1q_f32(screen->radius + at), norm);
            float lower[GPT2C_LANES];
            vst1q_f32(lower, vsubq_f32(estimate, bound));
            gpt2c_store(upper + at, columns.end - at, vaddq_f32(estimate, bound));
            for (size_t i = 0; i < GPT2C_LANES && at + i < columns.end; i++)
                if (lower[i] > floor) floor = lower[i];
        }
    }
    return floor;
}
