/* Linear layers over bfloat16 panels by VDPBF16PS, which for each of 16 columns adds two products
 * of bfloat16 values to a float32 sum: twice the arithmetic of an FMA.
 *
 * x is rounded to bfloat16, too, once for all columns (`pack`), and for one row just as for many,
 * so that both give the same bits. The instruction rounds to nearest even whatever the rounding
 * mode, and treats subnormal inputs and results as 0.
 *
 * Registers for 12 rows: 24 sums, 2 of weights, 1 broadcast pair. Error: bf16 in kernels.h. */
#include <string.h>

#include "avx512_bf16.h"
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"
#include "kernels/avx512/tile_avx512.h"
#include "kernels/tiled/linear.h"

#define PREFETCH_WORDS (64 * GPT2C_PANEL)

/* 32-bit words in a row of packed x. */
static size_t row_words(size_t n_in) { return gpt2c_packed_x_bytes(n_in) / sizeof(uint32_t); }

void gpt2c_pack_bf16_avx512_bf16(void *out, const float *x, size_t rows, size_t n_in) {
    uint16_t *pairs = out;
    for (size_t r = 0; r < rows; r++, x += n_in, pairs += 2 * row_words(n_in)) {
        for (size_t k = 0; k < n_in; k += GPT2C_LANES) {
            const __m512 values = _mm512_maskz_loadu_ps(gpt2c_lanes(n_in - k), x + k);
            const __m256bh halves = _mm512_cvtneps_pbh(values);
            memcpy(pairs + k, &halves, sizeof halves);
        }
    }
}

static GPT2C_ALWAYS_INLINE __m512bh as_pairs(__m512i words) {
    __m512bh pairs;
    memcpy(&pairs, &words, sizeof pairs);
    return pairs;
}

/* `rows` and `vectors` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile(gpt2c_sums to, const uint32_t *x, size_t x_stride,
                                         size_t pairs, const uint32_t *w, size_t columns,
                                         const size_t rows, const size_t vectors) {
    const size_t panel = pairs * GPT2C_PANEL;
    __m512 sums[GPT2C_TILE_ROWS][8];
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();

    const gpt2c_ahead ahead = gpt2c_ahead_of(to, w, panel * sizeof *w, pairs);
    const char *next_panel = ahead.at;
    for (size_t pair = 0; pair < pairs; pair++, w += GPT2C_PANEL, next_panel += ahead.step) {
        if (rows > 1) _mm_prefetch(next_panel, _MM_HINT_T1);
        __m512bh weights[8];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const uint32_t *at = w + v / 2 * panel + v % 2 * GPT2C_LANES;
            if (rows > 1) _mm_prefetch((const char *)(at + PREFETCH_WORDS), _MM_HINT_T0);
            weights[v] = as_pairs(_mm512_load_si512(at));
        }
        GPT2C_UNROLL(12)
        for (size_t r = 0; r < rows; r++) {
            const __m512bh two_x = as_pairs(_mm512_set1_epi32((int)x[r * x_stride + pair]));
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], two_x, weights[v]);
        }
    }

    const int whole = columns >= vectors * GPT2C_LANES;
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) {
        const size_t begin = v * GPT2C_LANES;
        const __mmask16 lanes = gpt2c_lanes(columns > begin ? columns - begin : 0);
        if (whole)
            _mm512_storeu_ps(to.at + r * to.stride + begin, sums[r][v]);
        else
            _mm512_mask_storeu_ps(to.at + r * to.stride + begin, lanes, sums[r][v]);
    }
}

static void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    const size_t n_in = args->w->n_in, pairs = (n_in + 1) / 2;
    const size_t stride = row_words(n_in), n = rows.end - rows.begin;
    const uint32_t *x = (const uint32_t *)args->packed_x + rows.begin * stride;
    for (size_t c = columns.begin; c < columns.end;) {
        const size_t left = columns.end - c;
        gpt2c_sums to = sums;
        to.at += c - columns.begin;
        const uint32_t *w = (const uint32_t *)args->w->data + c * pairs;
        if (n == 1 && left > 3 * GPT2C_PANEL) {
            sum_tile(to, x, stride, pairs, w, left, 1, 8);
            c += 4 * GPT2C_PANEL;
            continue;
        }
        switch (n) {
#define GPT2C_ROWS(N) \
    case N: sum_tile(to, x, stride, pairs, w, left, N, 2); break;
            GPT2C_EACH_TILE_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
        default: break;
        }
        c += GPT2C_PANEL;
    }
}

void gpt2c_linear_bf16_avx512_bf16(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_TILE_ROWS, sum_rows, gpt2c_finish_row_avx512);
}
