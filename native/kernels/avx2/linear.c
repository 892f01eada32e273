/* Linear layers over float32 panels. The loops are those of tiled/linear.h and the sums those of
 * tile.c; the epilogue is here. */
#include "kernels/tiled/linear.h"

#include "avx2.h"
#include "gelu_avx2.h"
#include "lanes.h"
#include "tile_avx2.h"

static inline __m256 apply_epilogue(const gpt2c_linear_args *args, __m256 sum, size_t n, size_t i) {
    switch (args->epilogue) {
    case GPT2C_EPILOGUE_GELU: return gpt2c_gelu8(sum);
    case GPT2C_EPILOGUE_GELU_TABLE: return gpt2c_gelu_table8(sum, args->gelu_table);
    case GPT2C_EPILOGUE_ADD: return _mm256_add_ps(gpt2c_load(args->residual + i, n), sum);
    case GPT2C_EPILOGUE_NONE:
    default: return sum;
    }
}

void gpt2c_finish_row_avx2(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                           const float *sums) {
    for (size_t c = columns.begin; c < columns.end; c += GPT2C_LANES) {
        const size_t n = columns.end - c, i = row * args->w->n_out + c;
        __m256 sum = gpt2c_load(sums + c - columns.begin, n);
        if (args->bias != NULL) sum = _mm256_add_ps(sum, gpt2c_load(args->bias + c, n));
        gpt2c_store(args->out + i, n, apply_epilogue(args, sum, n, i));
    }
    gpt2c_finish_activation(args, row, columns);
}

static void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    const gpt2c_tile tile = gpt2c_linear_tile(args, rows, columns, sums);
    gpt2c_tile_avx2(&tile, rows.end - rows.begin);
}

void gpt2c_linear_panels_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_TILE_ROWS, sum_rows, gpt2c_finish_row_avx2);
}
