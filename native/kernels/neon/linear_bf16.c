/* Linear layers over bfloat16 panels: half the bytes, the same float32 arithmetic.
 *
 * A 32-bit word of a panel holds two steps of k for one column. A shift turns the first into a
 * float and a mask the second, so they are used in the order of k and no element changes lanes.
 *
 * Registers for half a panel at a time: 4 rows x 4 registers of columns = 16 sums, 4 of words, 4 of
 * weights, 8 for both steps' x, which are all 32; a fifth row would not fit. A single row takes a
 * whole panel, 8 sums. Error: as over float32 panels, since every bfloat16 is a float. */
#include "kernels/tiled/linear.h"

#include "lanes.h"
#include "neon.h"

#define MAX_ROWS 4
#define MAX_VECTORS 8

static GPT2C_ALWAYS_INLINE float32x4_t first_of(uint32x4_t words) {
    return vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
}

static GPT2C_ALWAYS_INLINE float32x4_t second_of(uint32x4_t words) {
    return vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
}

/* One step of k: adds x[r] * weights to the sums of row r, all rows. */
static GPT2C_ALWAYS_INLINE void add_step(float32x4_t sums[][MAX_VECTORS], const float *x, size_t n_in,
                                         const float32x4_t *weights, const size_t rows, const size_t vectors) {
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        const float one_x = x[r * n_in];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) sums[r][v] = vfmaq_n_f32(sums[r][v], weights[v], one_x);
    }
}

/* `rows` and `vectors` are constants at every call, so that all loops over them are unrolled. */
static GPT2C_ALWAYS_INLINE void sum_tile(float *out, size_t n_out, const float *x, size_t n_in,
                                         const uint32_t *w, size_t columns, const size_t rows,
                                         const size_t vectors) {
    float32x4_t sums[MAX_ROWS][MAX_VECTORS];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) sums[r][v] = vdupq_n_f32(0.0f);
    }

    for (size_t k = 0; k < n_in; k += 2, w += GPT2C_PANEL) {
        uint32x4_t words[MAX_VECTORS];
        float32x4_t weights[MAX_VECTORS];
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) words[v] = vld1q_u32(w + v * GPT2C_LANES);
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) weights[v] = first_of(words[v]);
        add_step(sums, x + k, n_in, weights, rows, vectors);
        if (k + 1 == n_in) break; /* an odd n_in is followed by padding, for which there is no x */
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++) weights[v] = second_of(words[v]);
        add_step(sums, x + k + 1, n_in, weights, rows, vectors);
    }

    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(8)
        for (size_t v = 0; v < vectors; v++)
            if (columns > v * GPT2C_LANES)
                gpt2c_store(out + r * n_out + v * GPT2C_LANES, columns - v * GPT2C_LANES, sums[r][v]);
    }
}

/* One function per number of rows, so that every compiler sees the constants. */
#define SUM_TILE(rows, vectors)                                                        \
    static void sum_tile_##rows(float *out, size_t n_out, const float *x, size_t n_in, \
                                const uint32_t *w, size_t columns) {                   \
        sum_tile(out, n_out, x, n_in, w, columns, rows, vectors);                      \
    }
SUM_TILE(1, 8)
SUM_TILE(2, 4)
SUM_TILE(3, 4)
SUM_TILE(4, 4)

static void (*const sum_tile_N[])(float *out, size_t n_out, const float *x, size_t n_in,
                                  const uint32_t *w, size_t columns) = {
    NULL, sum_tile_1, sum_tile_2, sum_tile_3, sum_tile_4};

static void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns, gpt2c_sums sums) {
    const size_t n_in = args->w->n_in, pairs = (n_in + 1) / 2;
    const size_t half = GPT2C_PANEL / 2, n = rows.end - rows.begin;
    const float *x = args->x + rows.begin * n_in;
    for (size_t c = columns.begin; c < columns.end; c += n == 1 ? GPT2C_PANEL : half) {
        const size_t left = columns.end - c;
        float *out = sums.at + c - columns.begin;
        const uint32_t *w = (const uint32_t *)args->w->data + c / GPT2C_PANEL * GPT2C_PANEL * pairs +
                            c % GPT2C_PANEL;
        sum_tile_N[n](out, sums.stride, x, n_in, w, left);
    }
}

void gpt2c_linear_bf16_neon(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, MAX_ROWS, sum_rows, gpt2c_finish_row_neon);
}
