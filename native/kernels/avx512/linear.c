/* Linear layers over panels: the loops are those of tiled/linear.h, the sums those of tile.c; what
 * comes behind the sum is here. */
#include "kernels/tiled/linear.h"

#include "avx512.h"
#include "gelu_avx512.h"
#include "lanes.h"
#include "tile_avx512.h"

static inline __m512 behind_sum(const gpt2c_linear_args *args, __m512 sum, __mmask16 lanes, size_t i) {
    switch (args->epilogue) {
    case GPT2C_THEN_GELU: return gpt2c_gelu16(sum);
    case GPT2C_THEN_GELU_TABLE: return gpt2c_gelu_table16(sum, args->gelu_table);
    case GPT2C_THEN_ADD: return _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, args->residual + i), sum);
    case GPT2C_PLAIN:
    default: return sum;
    }
}

void gpt2c_finish_row_avx512(const gpt2c_linear_args *args, size_t row, gpt2c_span columns) {
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(columns.end - c);
        const size_t i = row * args->w->n_out + c;
        __m512 sum = _mm512_maskz_loadu_ps(lanes, args->out + i);
        if (args->bias != NULL) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, args->bias + c));
        _mm512_mask_storeu_ps(args->out + i, lanes, behind_sum(args, sum, lanes, i));
    }
    gpt2c_finish_activation(args, row, columns);
}

static void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    const gpt2c_tile tile = gpt2c_linear_tile(args, rows, columns);
    gpt2c_tile_avx512(&tile, rows.end - rows.begin);
}

void gpt2c_linear_panels_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_TILE_ROWS, sum_rows, gpt2c_finish_row_avx512);
}
