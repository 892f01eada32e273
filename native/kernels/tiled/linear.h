/* Linear layers over panels of any weight format; the instruction set supplies the sums.
 *
 * Many rows: panel by panel. A panel is multiplied with all rows, tile by tile, so it is read from
 * memory once, and from L2 for every tile but the first. Rows are divided evenly: 13 rows are 7 + 6
 * rather than 12 + 1, because a tile of one row would be bound by the latency of its FMAs. One row:
 * the weights are read once in any case, at memory speed. The epilogue works on a tile's output
 * while that is still in L1.
 *
 * Error: each step of the sum is one FMA, which rounds once: n_in eps (sum |x w|), and 1 for the
 * bias. */
#ifndef GPT2C_TILED_LINEAR_H
#define GPT2C_TILED_LINEAR_H

#include "tile.h"

/* Where the sums of some rows and columns are written: rows are `stride` floats apart. The tiles of
 * a panel share the prefetch of the next panel; this tile prefetches part `part` of `parts`, or
 * nothing where `parts` is 0. */
typedef struct gpt2c_sums {
    float *at;
    size_t stride;
    size_t part;
    size_t parts;
} gpt2c_sums;

/* Computes the sums of a few rows and whole panels. */
typedef void gpt2c_sum_function(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                gpt2c_sums sums);

/* Writes the sums of one row to args->out, with the bias added and the epilogue applied. */
typedef void gpt2c_finish_function(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                   const float *sums);

/* What a loop prefetches, `step` bytes further on in each iteration. */
typedef struct gpt2c_ahead {
    const char *at;
    size_t step;
} gpt2c_ahead;

/* A tile's share of the next panel, which follows this one of n_bytes at w, for a loop of `steps`
 * iterations. Each tile prefetches a few lines into L2: if a panel were loaded only in its own
 * first tile, it would arrive at half the speed of the arithmetic. */
static inline gpt2c_ahead gpt2c_ahead_of(gpt2c_sums sums, const void *w, size_t n_bytes, size_t steps) {
    if (sums.parts == 0) return (gpt2c_ahead){w, 0};
    const size_t share = (n_bytes + sums.parts - 1) / sums.parts;
    return (gpt2c_ahead){(const char *)w + n_bytes + sums.part * share, (share + steps - 1) / steps};
}

/* The tile that computes these sums from float32 panels. */
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

/* Prefetches the cache lines that a tile's epilogue will write and read. */
static inline void gpt2c_prefetch_lines(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const int adds = args->epilogue == GPT2C_EPILOGUE_ADD;
    for (size_t r = rows.begin; r < rows.end; r++) {
        for (size_t c = columns.begin; c < columns.end; c += GPT2C_BLOCK) {
            __builtin_prefetch(args->out + r * args->w->n_out + c, 1);
            if (adds) __builtin_prefetch(args->residual + r * args->w->n_out + c);
        }
    }
}

#define GPT2C_MAX_TILE_ROWS 16

/* A tile of several rows collects its sums in a buffer of contiguous rows. In `out` its rows may be
 * a multiple of 4096 bytes apart; a load then waits for every earlier store to the same offset
 * within a page. */
static inline void gpt2c_linear_tile_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span panel,
                                          size_t part, size_t parts, gpt2c_sum_function *sum,
                                          gpt2c_finish_function *finish) {
    float buffer[GPT2C_MAX_TILE_ROWS * GPT2C_PANEL] __attribute__((aligned(64)));
    const gpt2c_sums sums = {buffer, GPT2C_PANEL, part, parts};
    gpt2c_prefetch_lines(args, rows, panel);
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
