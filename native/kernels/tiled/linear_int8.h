/* Linear layers over q8 and q4 for sets whose registers are shorter than half a panel. A tile is up
 * to four rows of half a panel; a single row takes a whole panel at a time. Before including this
 * file, a set defines its register types, of GPT2C_LANES elements each,
 *
 *   gpt2c_floats, gpt2c_integers
 *
 * and the functions
 *
 *   gpt2c_q8_dots(dots, q, ...)            set dots[row][vector] to the sums of one group's products, for
 *   gpt2c_q4_dots(dots, block, ...)        the columns from `lane` of the panel onwards
 *   gpt2c_zero()                           all 0
 *   gpt2c_q8_scales(block, lane)           the scales of GPT2C_LANES columns
 *   gpt2c_q4_scales(factors, bytes)        factors[i] * bytes[i]: a block's scales or offsets
 *   gpt2c_add_scaled(sum, scale, dots, x)  sum + scale * (x * dots), where x * dots is rounded
 *   gpt2c_sub_scaled(sum, offset, x)       sum - offset * x */
#ifndef GPT2C_TILED_LINEAR_INT8_H
#define GPT2C_TILED_LINEAR_INT8_H

#include "int8.h"
#include "linear.h"

/* Scales the integer sums of one group and adds them, as ref does. `rows`, `vectors` and `q4` are
 * constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void gpt2c_add_group(gpt2c_floats sums[][GPT2C_PANEL_VECTORS], const gpt2c_matrix *w,
                                                size_t column, const gpt2c_int8_group *x, size_t g,
                                                const size_t rows, const size_t vectors, const int q4) {
    const gpt2c_q8_block *q8_block = gpt2c_q8_panel(w, column) + g / 2;
    const gpt2c_q4_block *q4_block = gpt2c_q4_panel(w, column) + g;
    const gpt2c_q4_columns *factors = q4 ? gpt2c_q4_columns_of(w, column) : NULL;
    const size_t first_lane = column % GPT2C_PANEL;
    gpt2c_integers dots[GPT2C_INT8_ROWS][GPT2C_PANEL_VECTORS];
    if (q4)
        gpt2c_q4_dots(dots, q4_block, first_lane, x, w->n_in, rows, vectors);
    else
        gpt2c_q8_dots(dots, q8_block->q[g % 2], first_lane, x, w->n_in, rows, vectors);

    GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) {
        const size_t lane = first_lane + v * GPT2C_LANES;
        const gpt2c_floats scale = q4 ? gpt2c_q4_scales(factors->scale + lane, q4_block->scale + lane)
                                      : gpt2c_q8_scales(q8_block, lane);
        const gpt2c_floats offset = q4 ? gpt2c_q4_scales(factors->offset + lane, q4_block->offset + lane) : scale;
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const gpt2c_int8_group *group = gpt2c_rows_down(x, r, w->n_in);
            sums[r][v] = gpt2c_add_scaled(sums[r][v], scale, dots[r][v], group->scale);
            if (q4) sums[r][v] = gpt2c_sub_scaled(sums[r][v], offset, group->scaled_sum);
        }
    }
}

static GPT2C_ALWAYS_INLINE void gpt2c_sum_tile(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                               float *out, size_t stride, const size_t rows,
                                               const size_t vectors, const int q4) {
    const gpt2c_matrix *w = args->w;
    const size_t groups = q4 ? gpt2c_q4_blocks(w->n_in) : gpt2c_int8_groups(w->n_in);
    const void *parts[] = {args->packed_x, args->packed_remainder};
    gpt2c_floats sums[GPT2C_INT8_ROWS][GPT2C_PANEL_VECTORS];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) sums[r][v] = gpt2c_zero();
    }
    for (size_t g = 0; g < groups; g++) {
        for (size_t p = 0; p < 2 && parts[p] != NULL; p++) {
            const gpt2c_int8_group *x = gpt2c_int8_row_at(parts[p], row, w->n_in) + g;
            gpt2c_add_group(sums, w, columns.begin, x, g, rows, vectors, q4);
        }
    }
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const size_t c = columns.begin + v * GPT2C_LANES;
            if (c < columns.end) gpt2c_store(out + r * stride + v * GPT2C_LANES, columns.end - c, sums[r][v]);
        }
    }
}

static GPT2C_ALWAYS_INLINE void gpt2c_sum_int8_rows(const gpt2c_linear_args *args, gpt2c_span rows,
                                                    gpt2c_span columns, gpt2c_sums sums, const int q4) {
    const size_t whole = GPT2C_PANEL_VECTORS, half = whole / 2;
    const size_t n = rows.end - rows.begin, width = (n == 1 ? whole : half) * GPT2C_LANES;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span tile = {c, columns.end};
        float *out = sums.at + (c - columns.begin);
        switch (n) {
        case 1: gpt2c_sum_tile(args, rows.begin, tile, out, sums.stride, 1, whole, q4); break;
        case 2: gpt2c_sum_tile(args, rows.begin, tile, out, sums.stride, 2, half, q4); break;
        case 3: gpt2c_sum_tile(args, rows.begin, tile, out, sums.stride, 3, half, q4); break;
        case GPT2C_INT8_ROWS: gpt2c_sum_tile(args, rows.begin, tile, out, sums.stride, 4, half, q4); break;
        default: break;
        }
    }
}

static void gpt2c_sum_q8(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    gpt2c_sum_int8_rows(args, rows, columns, sums, 0);
}

static void gpt2c_sum_q4(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    gpt2c_sum_int8_rows(args, rows, columns, sums, 1);
}

/* Both end with ref's epilogue, because they are inherited by sets that have their own GELU. */
static inline void gpt2c_linear_q8_tiled(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_INT8_ROWS, gpt2c_sum_q8, gpt2c_finish_int8);
}

static inline void gpt2c_linear_q4_tiled(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_INT8_ROWS, gpt2c_sum_q4, gpt2c_finish_int8);
}

#endif
