/* Linear layers over q8 and q4, whichever instructions add the products of bytes. Before including
 * this file, a set defines the type `gpt2c_dots`, the integer sums of 4 columns, and the functions
 *
 *   gpt2c_zero_dots()                      all 0
 *   gpt2c_add_dots(dots, w, x, w2, x2)     dots plus the products of two quads; x and x2 have the same
 *                                          four bytes in each lane
 *   gpt2c_sum_of_dots(dots)                the 4 sums
 *
 * Two products of bytes are at most 2 * 127 * 127 = 32258, so they fit in 16 bits. */
#ifndef GPT2C_LINEAR_INT8_NEON_H
#define GPT2C_LINEAR_INT8_NEON_H

#include "kernels/tiled/int8.h"
#include "kernels/tiled/tile.h"
#include "lanes.h"

typedef float32x4_t gpt2c_floats;
typedef int32x4_t gpt2c_integers;

#define GPT2C_PANEL_VECTORS (GPT2C_PANEL / GPT2C_LANES)

static GPT2C_ALWAYS_INLINE int8x16_t four_x(const gpt2c_int8_group *x, size_t rows, size_t n_in, size_t quad) {
    return vreinterpretq_s8_s32(vld1q_dup_s32(gpt2c_quad_of(gpt2c_rows_down(x, rows, n_in), quad)));
}

/* The weights of two quads, the earlier one first; q8 or q4 is NULL. */
static GPT2C_ALWAYS_INLINE int8x16x2_t two_quads(const int8_t q8[][GPT2C_PANEL][GPT2C_QUAD],
                                                 const gpt2c_q4_block *q4, size_t quad, size_t lane) {
    if (q4 == NULL) return (int8x16x2_t){{vld1q_s8(q8[quad][lane]), vld1q_s8(q8[quad + 1][lane])}};
    const uint8x16_t both = vld1q_u8(q4->q[quad / 2][lane]);
    return (int8x16x2_t){{vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))),
                          vreinterpretq_s8_u8(vshrq_n_u8(both, 4))}};
}

static GPT2C_ALWAYS_INLINE void add_products(int32x4_t sums[][GPT2C_PANEL_VECTORS],
                                             const int8_t q8[][GPT2C_PANEL][GPT2C_QUAD], const gpt2c_q4_block *q4,
                                             size_t lane, const gpt2c_int8_group *x, size_t n_in,
                                             const size_t rows, const size_t vectors) {
    gpt2c_dots dots[GPT2C_INT8_ROWS][GPT2C_PANEL_VECTORS];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = gpt2c_zero_dots();
    }
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += 2) {
        int8x16x2_t quads[GPT2C_PANEL_VECTORS];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) quads[v] = two_quads(q8, q4, quad, lane + v * GPT2C_LANES);
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const int8x16_t first = four_x(x, r, n_in, quad), second = four_x(x, r, n_in, quad + 1);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                dots[r][v] = gpt2c_add_dots(dots[r][v], quads[v].val[0], first, quads[v].val[1], second);
        }
    }
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) sums[r][v] = gpt2c_sum_of_dots(dots[r][v]);
    }
}

static GPT2C_ALWAYS_INLINE void gpt2c_q8_dots(int32x4_t sums[][GPT2C_PANEL_VECTORS],
                                              const int8_t q[][GPT2C_PANEL][GPT2C_QUAD], size_t lane,
                                              const gpt2c_int8_group *x, size_t n_in, const size_t rows,
                                              const size_t vectors) {
    add_products(sums, q, NULL, lane, x, n_in, rows, vectors);
}

static GPT2C_ALWAYS_INLINE void gpt2c_q4_dots(int32x4_t sums[][GPT2C_PANEL_VECTORS], const gpt2c_q4_block *block,
                                              size_t lane, const gpt2c_int8_group *x, size_t n_in,
                                              const size_t rows, const size_t vectors) {
    add_products(sums, NULL, block, lane, x, n_in, rows, vectors);
}

static GPT2C_ALWAYS_INLINE float32x4_t gpt2c_zero(void) { return vdupq_n_f32(0.0f); }

static GPT2C_ALWAYS_INLINE float32x4_t gpt2c_q8_scales(const gpt2c_q8_block *block, size_t lane) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(block->scale + lane), 16));
}

static GPT2C_ALWAYS_INLINE float32x4_t gpt2c_q4_scales(const float *factors, const uint8_t *bytes) {
    uint32_t four;
    memcpy(&four, bytes, sizeof four);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vmulq_f32(vld1q_f32(factors), vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))));
}

static GPT2C_ALWAYS_INLINE float32x4_t gpt2c_add_scaled(float32x4_t sum, float32x4_t scale, int32x4_t dots,
                                                        float x) {
    return vfmaq_f32(sum, scale, vmulq_n_f32(vcvtq_f32_s32(dots), x));
}

static GPT2C_ALWAYS_INLINE float32x4_t gpt2c_sub_scaled(float32x4_t sum, float32x4_t offset, float x) {
    return vfmsq_n_f32(sum, offset, x);
}

#include "kernels/tiled/linear_int8.h"

#endif
