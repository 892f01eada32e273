/* Linear layers over panels of any weight format, by an instruction set's sums.
 *
 * Many rows: panel by panel, each against all rows in tiles, so that a panel comes from memory once,
 * and from L2 for every tile but the first. Rows are shared out evenly: 13 are 7 + 6 rather than 12 +
 * 1, because a tile of one row would wait for its FMAs. One row: the weights are read once whatever we
 * do, at the speed of memory. What comes behind the sum works on the tile's output while it is still
 * in L1.
 *
 * Error: each step of the sum is one FMA, one rounding: n_in eps (sum |x w|), and 1 for the bias. */
#ifndef GPT2C_TILED_LINEAR_H
#define GPT2C_TILED_LINEAR_H

#include "tile.h"

/* Adds the bias to the sums of one row and does the epilogue. */
typedef void gpt2c_finish_function(const gpt2c_linear_args *args, size_t row, gpt2c_span columns);

/* Puts the sums of a few rows and whole panels into args->out. */
typedef void gpt2c_sum_function(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns);

/* Those sums as a tile, for float32 panels. */
static inline gpt2c_tile gpt2c_linear_tile(const gpt2c_linear_args *args, gpt2c_span rows,
                                           gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    return (gpt2c_tile){
        .out = args->out + rows.begin * n_out + columns.begin,
        .out_stride = n_out,
        .x = args->x + rows.begin * n_in,
        .x_stride = n_in,
        .w = (const float *)args->w->data + columns.begin * n_in,
        .w_pair = n_in * GPT2C_PANEL,
        .w_odd = GPT2C_BLOCK,
        .w_step = GPT2C_PANEL,
        .n = n_in,
        .columns = columns.end - columns.begin,
    };
}

/* The residual's lines are asked for before the sum, to be there behind it. */
static inline void gpt2c_fetch_residual(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t c = columns.begin; c < columns.end; c += GPT2C_BLOCK)
            __builtin_prefetch(args->residual + r * args->w->n_out + c);
}

static inline void gpt2c_linear_tiled(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                      size_t tile_rows, gpt2c_sum_function *sum,
                                      gpt2c_finish_function *finish) {
    const int plain = args->bias == NULL && args->epilogue == GPT2C_PLAIN;
    const size_t n = rows.end - rows.begin;
    const size_t tiles = (n + tile_rows - 1) / tile_rows;
    const size_t width = n == 1 ? columns.end - columns.begin : GPT2C_PANEL;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span panel = {c, columns.end - c < width ? columns.end : c + width};
        for (size_t i = 0; i < tiles; i++) {
            const gpt2c_span part = gpt2c_share(n, tiles, i);
            const gpt2c_span tile = {rows.begin + part.begin, rows.begin + part.end};
            if (args->epilogue == GPT2C_THEN_ADD) gpt2c_fetch_residual(args, tile, panel);
            sum(args, tile, panel);
            for (size_t r = tile.begin; r < tile.end && !plain; r++) finish(args, r, panel);
        }
    }
}

#endif
