/* Linear layers over bfloat16 panels: half the bytes, the same float32 arithmetic.
 *
 * A 32-bit word of a panel holds two steps of k for one column. A shift turns the first into a
 * float and a mask the second, so they are used in the order of k and no element changes lanes.
 *
 * Registers for half a panel at a time: 4 rows x 2 registers of columns = 8 sums, 2 of words, 2 of
 * weights, 1 broadcast x. A single row takes a whole panel, 4 sums. Error: as over float32 panels,
 * since every bfloat16 is a float. */
#include "kernels/tiled/linear.h"

#include "avx2.h"
#include "lanes.h"
#include "tile_avx2.h"

#define MAX_ROWS 4

static GPT2C_ALWAYS_INLINE __m256 first_of(__m256i words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

static GPT2C_ALWAYS_INLINE __m256 second_of(__m256i words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}

/* `rows` and `vectors` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile(float *out, size_t n_out, const float *x, size_t n_in,
                                         const uint32_t *w, size_t columns, const size_t rows,
                                         const size_t vectors) {
    __m256 sums[MAX_ROWS][4];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(4)
    for (size_t v = 0; v < vectors; v++) sums[r][v] = _mm256_setzero_ps();

    for (size_t k = 0; k < n_in; k += 2, w += GPT2C_PANEL) {
        const int both = k + 1 < n_in; /* an odd n_in is followed by padding, for which there is no x */
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) {
            const __m256i words = _mm256_load_si256((const __m256i *)(w + v * GPT2C_LANES));
            GPT2C_UNROLL(4)
            for (size_t r = 0; r < rows; r++) {
                const __m256 x0 = _mm256_set1_ps(x[r * n_in + k]);
                sums[r][v] = _mm256_fmadd_ps(x0, first_of(words), sums[r][v]);
            }
            if (!both) continue;
            GPT2C_UNROLL(4)
            for (size_t r = 0; r < rows; r++) {
                const __m256 x1 = _mm256_set1_ps(x[r * n_in + k + 1]);
                sums[r][v] = _mm256_fmadd_ps(x1, second_of(words), sums[r][v]);
            }
        }
    }

    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++)
        GPT2C_UNROLL(4)
    for (size_t v = 0; v < vectors; v++)
        if (columns > v * GPT2C_LANES)
            gpt2c_store(out + r * n_out + v * GPT2C_LANES, columns - v * GPT2C_LANES, sums[r][v]);
}

static void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    const size_t n_in = args->w->n_in, pairs = (n_in + 1) / 2;
    const size_t half = GPT2C_PANEL / 2, n = rows.end - rows.begin;
    const float *x = args->x + rows.begin * n_in;
    for (size_t c = columns.begin; c < columns.end; c += n == 1 ? GPT2C_PANEL : half) {
        const size_t left = columns.end - c;
        float *out = sums.at + c - columns.begin;
        const uint32_t *w = (const uint32_t *)args->w->data + c / GPT2C_PANEL * GPT2C_PANEL * pairs +
                            c % GPT2C_PANEL;
        switch (n) {
        case 1: sum_tile(out, sums.stride, x, n_in, w, left, 1, 4); break;
        case 2: sum_tile(out, sums.stride, x, n_in, w, left, 2, 2); break;
        case 3: sum_tile(out, sums.stride, x, n_in, w, left, 3, 2); break;
        case 4: sum_tile(out, sums.stride, x, n_in, w, left, 4, 2); break;
        default: break;
        }
    }
}

void gpt2c_linear_bf16_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, MAX_ROWS, sum_rows, gpt2c_finish_row_avx2);
}
