/* Linear layers over q8 and q4, whatever way a set has to add up products of bytes: it names the type
 * `gpt2c_dots`, whose integers belong to 4 columns, and
 *
 *   gpt2c_no_dots()                        all 0
 *   gpt2c_add_dots(dots, w, x, w2, x2)     adds those of two quads; x, x2: the same four bytes in each lane
 *   gpt2c_sum_of_dots(dots)                the 4 sums
 *
 * before it includes this. 2 products of bytes are 2 * 127 * 127 = 32258 at most: they fit 16 bits. */
#ifndef GPT2C_LINEAR_INT8_NEON_H
#define GPT2C_LINEAR_INT8_NEON_H

#include "kernels/tiled/int8.h"
#include "kernels/tiled/linear.h"
#include "lanes.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Half a panel for some rows, a panel for one. */
#define MOST_ROWS 4
#define MOST_VECTORS 8

static ALWAYS_INLINE int8x16_t four_x(const gpt2c_int8_rows *x, size_t row, size_t k) {
    return vreinterpretq_s8_s32(vld1q_dup_s32(gpt2c_quad_of(x, row, k)));
}

static ALWAYS_INLINE float32x4_t q8_scale(const gpt2c_q8_block *block, size_t lane) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(block->scale + lane), 16));
}

/* step * a byte, for 4 columns. */
static ALWAYS_INLINE float32x4_t q4_scale(const float *step, const uint8_t *bytes) {
    uint32_t four;
    memcpy(&four, bytes, sizeof four);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vmulq_f32(vld1q_f32(step), vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))));
}

/* The weights of two quads, the earlier one first. */
static ALWAYS_INLINE int8x16x2_t q8_quads(const gpt2c_q8_block *block, size_t group, size_t quad, size_t lane) {
    return (int8x16x2_t){{vld1q_s8(block->q[group % 2][quad][lane]), vld1q_s8(block->q[group % 2][quad + 1][lane])}};
}

static ALWAYS_INLINE int8x16x2_t q4_quads(const gpt2c_q4_block *block, size_t quad, size_t lane) {
    const uint8x16_t both = vld1q_u8(block->q[quad / 2][lane]);
    return (int8x16x2_t){{vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))),
                          vreinterpretq_s8_u8(vshrq_n_u8(both, 4))}};
}

/* One group's integers, scaled and added, as ref does it. `rows`, `vectors` and `q4` are constants
 * wherever this is used, so all loops over them vanish. */
static ALWAYS_INLINE void add_group(float32x4_t sums[][MOST_VECTORS], const gpt2c_matrix *w, size_t column,
                                    const gpt2c_int8_rows *x, size_t group, const size_t rows,
                                    const size_t vectors, const int q4) {
    const gpt2c_q8_block *q8_block = gpt2c_q8_panel(w, column) + group / 2;
    const gpt2c_q4_block *q4_block = gpt2c_q4_panel(w, column) + group;
    const gpt2c_q4_columns *steps = q4 ? gpt2c_q4_columns_of(w, column) : NULL;
    const size_t first_lane = column % GPT2C_PANEL;
    gpt2c_dots dots[MOST_ROWS][MOST_VECTORS];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = gpt2c_no_dots();
    }
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += 2) {
        int8x16x2_t quads[MOST_VECTORS];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const size_t lane = first_lane + v * GPT2C_LANES;
            quads[v] = q4 ? q4_quads(q4_block, quad, lane) : q8_quads(q8_block, group, quad, lane);
        }
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const size_t k = group * GPT2C_GROUP + quad * GPT2C_QUAD;
            const int8x16_t first = four_x(x, r, k), second = four_x(x, r, k + GPT2C_QUAD);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                dots[r][v] = gpt2c_add_dots(dots[r][v], quads[v].val[0], first, quads[v].val[1], second);
        }
    }

    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) {
        const size_t lane = first_lane + v * GPT2C_LANES;
        const float32x4_t scale =
            q4 ? q4_scale(steps->scale + lane, q4_block->scale + lane) : q8_scale(q8_block, lane);
        const float32x4_t least = q4 ? q4_scale(steps->least + lane, q4_block->least + lane) : scale;
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const float32x4_t dot = vcvtq_f32_s32(gpt2c_sum_of_dots(dots[r][v]));
            sums[r][v] = vfmaq_f32(sums[r][v], scale, vmulq_n_f32(dot, gpt2c_scale_of(x, r, group)));
            if (q4) sums[r][v] = vfmsq_n_f32(sums[r][v], least, gpt2c_scaled_sum_of(x, r, group));
        }
    }
}

static ALWAYS_INLINE void sum_tile(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                   float *out, size_t stride, const size_t rows, const size_t vectors,
                                   const int q4) {
    const gpt2c_matrix *w = args->w;
    const size_t groups = q4 ? gpt2c_q4_blocks(w->n_in) : gpt2c_int8_groups(w->n_in);
    const void *parts[] = {args->prepared, args->prepared_rest};
    float32x4_t sums[MOST_ROWS][MOST_VECTORS];
    for (size_t p = 0; p < 2 && parts[p] != NULL; p++) {
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) sums[r][v] = vdupq_n_f32(0.0f);
        }
        const gpt2c_int8_rows x = gpt2c_int8_rows_at(parts[p], row, w->n_in);
        for (size_t g = 0; g < groups; g++) add_group(sums, w, columns.begin, &x, g, rows, vectors, q4);
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) {
                const size_t c = columns.begin + v * GPT2C_LANES;
                float *at = out + r * stride + v * GPT2C_LANES;
                if (c >= columns.end) continue;
                if (p > 0) sums[r][v] = vaddq_f32(gpt2c_load(at, columns.end - c), sums[r][v]);
                gpt2c_store(at, columns.end - c, sums[r][v]);
            }
        }
    }
}

static ALWAYS_INLINE void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                   gpt2c_sums sums, const int q4) {
    const size_t n = rows.end - rows.begin, width = n == 1 ? GPT2C_PANEL : GPT2C_PANEL / 2;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span tile = {c, columns.end};
        float *out = sums.at + (c - columns.begin);
        switch (n) {
        case 1: sum_tile(args, rows.begin, tile, out, sums.stride, 1, 8, q4); break;
        case 2: sum_tile(args, rows.begin, tile, out, sums.stride, 2, 4, q4); break;
        case 3: sum_tile(args, rows.begin, tile, out, sums.stride, 3, 4, q4); break;
        case 4: sum_tile(args, rows.begin, tile, out, sums.stride, 4, 4, q4); break;
        default: break;
        }
    }
}

static void sum_rows_q8(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                        gpt2c_sums sums) {
    sum_rows(args, rows, columns, sums, 0);
}

static void sum_rows_q4(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                        gpt2c_sums sums) {
    sum_rows(args, rows, columns, sums, 1);
}

#endif
