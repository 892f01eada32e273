/* Linear layers over panels.
 *
 * Many rows: panel by panel, each against all rows in tiles of up to 12 (tile.c), so that a panel
 * comes from memory once, and from L2 for every tile but the first. Rows are shared out evenly: 13
 * are 7 + 6, because a tile of one row would wait for its FMAs. One row: the weights are read once
 * whatever we do, at the speed of memory.
 *
 * What comes behind the sum works on the tile's output while it is still in L1.
 *
 * Error: each step of the sum is one FMA, one rounding: n_in eps (sum |x w|), and 1 for the bias. */
#include "gelu_avx512.h"
#include "lanes.h"
#include "linear_avx512.h"
#include "tile.h"

static inline __m512 behind_sum(const gpt2c_linear_args *args, __m512 sum, __mmask16 lanes, size_t i) {
    switch (args->epilogue) {
    case GPT2C_THEN_GELU: return gpt2c_gelu16(sum);
    case GPT2C_THEN_GELU_TABLE: return gpt2c_gelu_table16(sum, args->gelu_table);
    case GPT2C_THEN_ADD: return _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, args->residual + i), sum);
    case GPT2C_PLAIN:
    default: return sum;
    }
}

/* Bias and epilogue of one row. */
static void finish_row(const gpt2c_linear_args *args, size_t row, gpt2c_span columns) {
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(columns.end - c);
        const size_t i = row * args->w->n_out + c;
        __m512 sum = _mm512_maskz_loadu_ps(lanes, args->out + i);
        if (args->bias != NULL) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, args->bias + c));
        _mm512_mask_storeu_ps(args->out + i, lanes, behind_sum(args, sum, lanes, i));
    }
}

void gpt2c_linear_by_tiles_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                  gpt2c_sum_rows *sum_rows) {
    const int plain = args->bias == NULL && args->epilogue == GPT2C_PLAIN;
    const size_t n = rows.end - rows.begin;
    const size_t tiles = (n + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    const size_t width = n == 1 ? columns.end - columns.begin : GPT2C_PANEL;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span panel = {c, columns.end - c < width ? columns.end : c + width};
        for (size_t i = 0; i < tiles; i++) {
            const gpt2c_span tile = {rows.begin + n * i / tiles, rows.begin + n * (i + 1) / tiles};
            sum_rows(args, tile, panel);
            for (size_t r = tile.begin; r < tile.end && !plain; r++) finish_row(args, r, panel);
        }
    }
}

static void sum_rows_f32(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const size_t n_in = args->w->n_in, n_out = args->w->n_out;
    const gpt2c_tile tile = {
        .out = args->out + rows.begin * n_out + columns.begin,
        .out_stride = n_out,
        .x = args->x + rows.begin * n_in,
        .x_stride = n_in,
        .w = (const float *)args->w->data + columns.begin * n_in,
        .w_pair = n_in * GPT2C_PANEL,
        .w_odd = GPT2C_LANES,
        .w_step = GPT2C_PANEL,
        .n = n_in,
        .columns = columns.end - columns.begin,
    };
    gpt2c_tile_avx512(&tile, rows.end - rows.begin);
}

void gpt2c_linear_panels_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_by_tiles_avx512(args, rows, columns, sum_rows_f32);
}
