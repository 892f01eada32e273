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

/* Where the sums of some rows and columns go: those of the next row lie `stride` floats further on. A
 * tile's share in asking for the next panel is part `part` of `parts`; 0 of them: nobody asks. */
typedef struct gpt2c_sums {
    float *at;
    size_t stride;
    size_t part;
    size_t parts;
} gpt2c_sums;

/* The sums of a few rows and whole panels. */
typedef void gpt2c_sum_function(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                gpt2c_sums sums);

/* Puts the sums of one row into args->out, with the bias added and the epilogue done. */
typedef void gpt2c_finish_function(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                   const float *sums);

/* What to ask for in a loop of so many steps, `step` bytes further on in each: a tile's share of the panel
 * behind the one of n_bytes at w. A few lines with each tile, into L2: asked for in its own first tile, a
 * panel would come at half the speed of the arithmetic. */
typedef struct gpt2c_ahead {
    const char *at;
    size_t step;
} gpt2c_ahead;

static inline gpt2c_ahead gpt2c_ahead_of(gpt2c_sums sums, const void *w, size_t n_bytes, size_t steps) {
    if (sums.parts == 0) return (gpt2c_ahead){w, 0};
    const size_t share = (n_bytes + sums.parts - 1) / sums.parts;
    return (gpt2c_ahead){(const char *)w + n_bytes + sums.part * share, (share + steps - 1) / steps};
}

/* Those sums as a tile, for float32 panels. */
static inline gpt2c_tile gpt2c_linear_tile(const gpt2c_linear_args *args, gpt2c_span rows,
                                           gpt2c_span columns, gpt2c_sums sums) {
    const size_t n_in = args->w->n_in;
    const float *w = (const float *)args->w->data + columns.begin * n_in;
    const gpt2c_ahead ahead = gpt2c_ahead_of(sums, w, n_in * GPT2C_PANEL * sizeof *w, n_in);
    return (gpt2c_tile){
        .ahead = ahead.at,
        .ahead_step = ahead.step,
        .out = sums.at,
        .out_stride = sums.stride,
        .x = args->x + rows.begin * n_in,
        .x_stride = n_in,
        .w = w,
        .w_pair = n_in * GPT2C_PANEL,
        .w_odd = GPT2C_BLOCK,
        .w_step = GPT2C_PANEL,
        .n = n_in,
        .columns = columns.end - columns.begin,
    };
}

/* Asks for the lines that a tile's last step will write and read. */
static inline void gpt2c_fetch_lines(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const int adds = args->epilogue == GPT2C_EPILOGUE_ADD;
    for (size_t r = rows.begin; r < rows.end; r++) {
        for (size_t c = columns.begin; c < columns.end; c += GPT2C_BLOCK) {
            __builtin_prefetch(args->out + r * args->w->n_out + c, 1);
            if (adds) __builtin_prefetch(args->residual + r * args->w->n_out + c);
        }
    }
}

#define GPT2C_MAX_TILE_ROWS 16

/* A tile of several rows has its sums in a place of its own, one line behind the other. In `out` its
 * rows may be a multiple of 4096 bytes apart: a load then waits for every store before it that has the
 * same place in its page. */
static inline void gpt2c_linear_tile_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span panel,
                                          size_t part, size_t parts, gpt2c_sum_function *sum,
                                          gpt2c_finish_function *finish) {
    float buffer[GPT2C_MAX_TILE_ROWS * GPT2C_PANEL] __attribute__((aligned(64)));
    const gpt2c_sums sums = {buffer, GPT2C_PANEL, part, parts};
    gpt2c_fetch_lines(args, rows, panel);
    sum(args, rows, panel, sums);
    for (size_t r = rows.begin; r < rows.end; r++)
        finish(args, r, panel, buffer + (r - rows.begin) * GPT2C_PANEL);
}

static inline void gpt2c_linear_one_row(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                        gpt2c_sum_function *sum, gpt2c_finish_function *finish) {
    const int plain = args->bias == NULL && args->epilogue == GPT2C_EPILOGUE_NONE;
    const gpt2c_sums sums = {args->out + row * args->w->n_out + columns.begin, args->w->n_out, 0, 0};
    sum(args, (gpt2c_span){row, row + 1}, columns, sums);
    if (!plain) finish(args, row, columns, sums.at);
}

static inline void gpt2c_linear_tiled(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                      size_t tile_rows, gpt2c_sum_function *sum,
                                      gpt2c_finish_function *finish) {
    const size_t n = rows.end - rows.begin, tiles = (n + tile_rows - 1) / tile_rows;
    if (n == 1) {
        gpt2c_linear_one_row(args, rows.begin, columns, sum, finish);
        return;
    }
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_PANEL) {
        const gpt2c_span panel = {c, columns.end - c < GPT2C_PANEL ? columns.end : c + GPT2C_PANEL};
        const size_t parts = tiles > 1 && panel.end < columns.end ? tiles : 0;
        for (size_t i = 0; i < tiles; i++) {
            const gpt2c_span share = gpt2c_share(n, tiles, i);
            const gpt2c_span tile = {rows.begin + share.begin, rows.begin + share.end};
            gpt2c_linear_tile_rows(args, tile, panel, i, parts, sum, finish);
        }
    }
}

#endif
