/* Packs rows of x as int8, as pack_int8 in ref does; a group is eight registers. */
#include "quantized.h"

#include <arm_neon.h>

#include "lanes.h"
#include "neon.h"

#define VECTORS (GPT2C_GROUP / GPT2C_LANES)

static inline gpt2c_int8_scale round_group(int8_t *q, int32_t *sum, const float *x, size_t n) {
    uint32x4_t largest = vdupq_n_u32(0);
    int32x4_t sums = vdupq_n_s32(0);
    float32x4_t values[VECTORS];
    int16x4_t words[VECTORS];
    for (size_t v = 0; v < VECTORS; v++) {
        const size_t at = v * GPT2C_LANES;
        values[v] = n > at ? gpt2c_load(x + at, n - at) : vdupq_n_f32(0.0f);
        largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(values[v])));
    }
    const gpt2c_int8_scale s = gpt2c_int8_scale_of(vmaxvq_u32(largest));
    /* Infinity times an inverse of 0 is a NaN, which converts to 0. */
    for (size_t v = 0; v < VECTORS; v++) {
        const int32x4_t rounded = vcvtnq_s32_f32(vmulq_n_f32(values[v], s.inverse));
        sums = vaddq_s32(sums, rounded);
        words[v] = vmovn_s32(rounded);
    }
    for (size_t v = 0; v < VECTORS; v += 2)
        vst1_s8(q + v * GPT2C_LANES, vmovn_s16(vcombine_s16(words[v], words[v + 1])));
    *sum = vaddvq_s32(sums);
    return s;
}

void gpt2c_pack_int8_neon(void *out, const float *x, size_t rows, size_t n_in) {
    gpt2c_pack_int8(out, x, rows, n_in, round_group);
}
