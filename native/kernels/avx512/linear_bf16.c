/* Linear layers over bfloat16 panels: half the bytes, the same float32 arithmetic.
 *
 * A 32-bit word of a panel holds two steps of k for one column. A shift turns the first into a
 * float and a mask the second, so they are used in the order of k and no element changes lanes.
 * These two instructions per 16 columns are shared by all rows of a tile; with a single row the
 * core waits for memory anyway.
 *
 * Registers for 12 rows: 24 sums, 4 of weights, 2 broadcast x. Error: as over float32 panels, since
 * every bfloat16 is a float. */
#include "kernels/tiled/linear.h"

#include "avx512.h"
#include "lanes.h"
#include "tile_avx512.h"

#define PREFETCH_WORDS (64 * GPT2C_PANEL)

static GPT2C_ALWAYS_INLINE __m512 first_of(__m512i words) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

static GPT2C_ALWAYS_INLINE __m512 second_of(__m512i words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

/* `rows` and `vectors` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile(gpt2c_sums to, const float *x, size_t n_in,
                                         const uint32_t *w, size_t columns, const size_t rows,
                                         const size_t vectors) {
    const size_t pairs = (n_in + 1) / 2, panel = pairs * GPT2C_PANEL;
    __m512 sums[GPT2C_TILE_ROWS][8];
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(8)
    for (size_t v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();

    const gpt2c_ahead ahead = gpt2c_ahead_of(to, w, panel * sizeof *w, pairs);
    const char *next_panel = ahead.at;
    for (size_t pair = 0; pair < n_in / 2; pair++, w += GPT2C_PANEL, next_panel += ahead.step) {
        if (rows > 1) _mm_prefetch(next_panel, _MM_HINT_T1);
        __m512i words[8];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const uint32_t *at = w + v / 2 * panel + v % 2 * GPT2C_LANES;
            if (rows > 1) _mm_prefetch((const char *)(at + PREFETCH_WORDS), _MM_HINT_T0);
            words[v] = _mm512_load_si512(at);
        }
        GPT2C_UNROLL(12)
        for (size_t r = 0; r < rows; r++) {
            const __m512 x0 = _mm512_set1_ps(x[r * n_in + 2 * pair]);
            const __m512 x1 = _mm512_set1_ps(x[r * n_in + 2 * pair + 1]);
            GPT2C_UNROLL(8)
            for (size_t v = 0; v < vectors; v++) {
                sums[r][v] = _mm512_fmadd_ps(x0, first_of(words[v]), sums[r][v]);
                sums[r][v] = _mm512_fmadd_ps(x1, second_of(words[v]), sums[r][v]);
            }
        }
    }
    GPT2C_UNROLL(12)
    for (size_t r = 0; r < rows; r++) {
        if (n_in % 2 == 0) break;
        const __m512 x0 = _mm512_set1_ps(x[r * n_in + n_in - 1]);
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) {
            const __m512i words = _mm512_load_si512(w + v / 2 * panel + v % 2 * GPT2C_LANES);
            sums[r][v] = _mm512_fmadd_ps(x0, first_of(words), sums[r][v]);
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
    const float *x = args->x + rows.begin * n_in;
    for (size_t c = columns.begin; c < columns.end;) {
        const size_t n = rows.end - rows.begin, left = columns.end - c;
        gpt2c_sums to = sums;
        to.at += c - columns.begin;
        const uint32_t *w = (const uint32_t *)args->w->data + c * pairs;
        if (n == 1 && left > 3 * GPT2C_PANEL) {
            sum_tile(to, x, n_in, w, left, 1, 8);
            c += 4 * GPT2C_PANEL;
            continue;
        }
        switch (n) {
#define GPT2C_ROWS(N) \
    case N: sum_tile(to, x, n_in, w, left, N, 2); break;
            GPT2C_EACH_TILE_ROWS(GPT2C_ROWS)
#undef GPT2C_ROWS
        default: break;
        }
        c += GPT2C_PANEL;
    }
}

void gpt2c_linear_bf16_avx512(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, GPT2C_TILE_ROWS, sum_rows, gpt2c_finish_row_avx512);
}
