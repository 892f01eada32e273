/* Linear layers over q8 and q4 by SMULL and SMLAL, which multiply bytes and add two such products
 * in 16 bits, and SADALP, which adds pairs of those to 32 bits. So until the end of a group each
 * column has two sums, and the sums of four columns are in two registers. */
#include <arm_neon.h>
#include <string.h>

#include "neon.h"

typedef struct gpt2c_dots {
    int32x4_t low;  /* of the columns 0, 0, 1, 1 */
    int32x4_t high; /* of the columns 2, 2, 3, 3 */
} gpt2c_dots;

static inline gpt2c_dots gpt2c_zero_dots(void) { return (gpt2c_dots){vdupq_n_s32(0), vdupq_n_s32(0)}; }

static inline gpt2c_dots gpt2c_add_dots(gpt2c_dots dots, int8x16_t w, int8x16_t x, int8x16_t w2, int8x16_t x2) {
    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vget_low_s8(w2), vget_low_s8(x2));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(w, x), w2, x2);
    return (gpt2c_dots){vpadalq_s16(dots.low, low), vpadalq_s16(dots.high, high)};
}

static inline int32x4_t gpt2c_sum_of_dots(gpt2c_dots dots) { return vpaddq_s32(dots.low, dots.high); }

#include "linear_int8_neon.h"

void gpt2c_linear_q8_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q8_tiled(args, rows, columns);
}

void gpt2c_linear_q4_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q4_tiled(args, rows, columns);
}
