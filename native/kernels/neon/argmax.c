/* The maximum of each of 4 interleaved subsequences, then the maximum of those.
 *
 * A lane replaces its maximum only by a larger value, so it retains the first of equal values and
 * never takes a NaN. Among lanes that hold the same maximum the lowest index wins. Indices are 32
 * bits wide, which suffices: a vocabulary has at most 2^24 entries (model.c). */
#include <math.h>

#include "lanes.h"
#include "neon.h"

size_t gpt2c_argmax_neon(const float *x, size_t n) {
    static const uint32_t first[GPT2C_LANES] = {0, 1, 2, 3};
    float32x4_t best = vdupq_n_f32(-INFINITY);
    uint32x4_t best_index = vdupq_n_u32(0), index = vld1q_u32(first);
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const float32x4_t value = gpt2c_load_or(x + i, n - i, -INFINITY);
        const uint32x4_t larger = vcgtq_f32(value, best);
        best = vbslq_f32(larger, value, best);
        best_index = vbslq_u32(larger, index, best_index);
        index = vaddq_u32(index, vdupq_n_u32(GPT2C_LANES));
    }

    float values[GPT2C_LANES];
    uint32_t indices[GPT2C_LANES];
    vst1q_f32(values, best);
    vst1q_u32(indices, best_index);
    size_t winner = 0;
    for (size_t lane = 1; lane < GPT2C_LANES; lane++)
        if (values[lane] > values[winner] ||
            (values[lane] == values[winner] && indices[lane] < indices[winner]))
            winner = lane;
    return indices[winner];
}
