/* Linear layers over q8 and q4 by SDOT, which for each of 4 columns adds four products of bytes in
 * 32 bits. The weights 0 .. 15 of q4 are valid as signed bytes, too. */
#include <arm_neon.h>
#include <string.h>

#include "neon_dot.h"

typedef int32x4_t gpt2c_dots;

static inline gpt2c_dots gpt2c_zero_dots(void) { return vdupq_n_s32(0); }

static inline gpt2c_dots gpt2c_add_dots(gpt2c_dots dots, int8x16_t w, int8x16_t x, int8x16_t w2, int8x16_t x2) {
    return vdotq_s32(vdotq_s32(dots, w, x), w2, x2);
}

static inline int32x4_t gpt2c_sum_of_dots(gpt2c_dots dots) { return dots; }

#include "kernels/neon/linear_int8_neon.h"

void gpt2c_linear_q8_neon_dot(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q8_tiled(args, rows, columns);
}

void gpt2c_linear_q4_neon_dot(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q4_tiled(args, rows, columns);
}
