/* Linear layers over q8 and q4 by VPMADDUBSW, which adds up two products of an unsigned and a signed
 * byte in 16 bits, and would cut a sum off there.
 *
 *   q8  |x| times w with the sign of x: two products are 2 * 127 * 127 = 32258 at most, so each pair of
 *       pairs is widened to 32 bits before it is added, by a multiplication with ones
 *   q4  the unsigned 0 .. 15 times x: all 16 products that a lane gets in a group are 16 * 15 * 127 =
 *       30480 at most, so they are widened once a group
 *
 * Registers for 4 rows of half a panel: 8 sums in integers, 2 of weights, x, |x|, ones and a temporary
 * one. The sums in float32 wait on the stack; they are touched once in 32 steps of k. One row takes a
 * whole panel at a time. */
#include "kernels/tiled/int8.h"

#include <immintrin.h>

#include "avx2.h"
#include "kernels/tiled/linear.h"
#include "lanes.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

#define MOST_ROWS 4
#define MOST_VECTORS 4 /* a panel */

static ALWAYS_INLINE __m256i four_x(const gpt2c_int8_rows *x, size_t row, size_t k) {
    return _mm256_set1_epi32(*gpt2c_quad_of(x, row, k));
}

static ALWAYS_INLINE __m256i widened(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/* `rows` and `vectors` are constants wherever these are used, so all loops over them vanish. */
static ALWAYS_INLINE void dot_q8(__m256i dots[][MOST_VECTORS], const gpt2c_q8_block *block, size_t lane,
                                 const gpt2c_int8_rows *x, size_t group, const size_t rows, const size_t vectors) {
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad++) {
        __m256i w[MOST_VECTORS];
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++)
            w[v] = _mm256_load_si256((const __m256i *)block->q[group % 2][quad][lane + v * GPT2C_LANES]);
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const __m256i signs = four_x(x, r, group * GPT2C_GROUP + quad * GPT2C_QUAD);
            const __m256i sizes = _mm256_abs_epi8(signs);
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < vectors; v++) {
                const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(w[v], signs));
                dots[r][v] = _mm256_add_epi32(dots[r][v], widened(pairs));
            }
        }
    }
}

static ALWAYS_INLINE void dot_q4(__m256i dots[][MOST_VECTORS], const gpt2c_q4_block *block, size_t lane,
                                 const gpt2c_int8_rows *x, size_t group, const size_t rows, const size_t vectors) {
    const __m256i low = _mm256_set1_epi8(15);
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += 2) {
        __m256i w[MOST_VECTORS], upper[MOST_VECTORS];
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) {
            const void *at = block->q[quad / 2][lane + v * GPT2C_LANES];
            const __m256i both = _mm256_load_si256((const __m256i *)at);
            w[v] = _mm256_and_si256(both, low);
            upper[v] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const size_t k = group * GPT2C_GROUP + quad * GPT2C_QUAD;
            const __m256i first = four_x(x, r, k), second = four_x(x, r, k + GPT2C_QUAD);
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < vectors; v++) {
                dots[r][v] = _mm256_add_epi16(dots[r][v], _mm256_maddubs_epi16(w[v], first));
                dots[r][v] = _mm256_add_epi16(dots[r][v], _mm256_maddubs_epi16(upper[v], second));
            }
        }
    }
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = widened(dots[r][v]);
    }
}

static ALWAYS_INLINE __m256 q8_scale(const gpt2c_q8_block *block, size_t lane) {
    const __m128i halves = _mm_load_si128((const __m128i *)(block->scale + lane));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* step * a byte, for 8 columns. */
static ALWAYS_INLINE __m256 q4_scale(const float *step, const uint8_t *bytes) {
    const __m256i steps = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    return _mm256_mul_ps(_mm256_load_ps(step), _mm256_cvtepi32_ps(steps));
}

/* One group's integers, scaled and added, as ref does it. */
static ALWAYS_INLINE void add_group(__m256 sums[][MOST_VECTORS], const gpt2c_matrix *w, size_t column,
                                    const gpt2c_int8_rows *x, size_t group, const size_t rows,
                                    const size_t vectors, const int q4) {
    const gpt2c_q8_block *q8_block = gpt2c_q8_panel(w, column) + group / 2;
    const gpt2c_q4_block *q4_block = gpt2c_q4_panel(w, column) + group;
    const gpt2c_q4_columns *steps = q4 ? gpt2c_q4_columns_of(w, column) : NULL;
    const size_t first_lane = column % GPT2C_PANEL;
    __m256i dots[MOST_ROWS][MOST_VECTORS];
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = _mm256_setzero_si256();
    }
    if (q4)
        dot_q4(dots, q4_block, first_lane, x, group, rows, vectors);
    else
        dot_q8(dots, q8_block, first_lane, x, group, rows, vectors);

    GPT2C_UNROLL(4)
    for (size_t v = 0; v < vectors; v++) {
        const size_t lane = first_lane + v * GPT2C_LANES;
        const __m256 scale = q4 ? q4_scale(steps->scale + lane, q4_block->scale + lane) : q8_scale(q8_block, lane);
        const __m256 least = q4 ? q4_scale(steps->least + lane, q4_block->least + lane) : scale;
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const __m256 dot = _mm256_cvtepi32_ps(dots[r][v]);
            const __m256 scaled = _mm256_mul_ps(_mm256_set1_ps(gpt2c_scale_of(x, r, group)), dot);
            const __m256 x_sum = _mm256_set1_ps(gpt2c_scaled_sum_of(x, r, group));
            sums[r][v] = _mm256_fmadd_ps(scale, scaled, sums[r][v]);
            if (q4) sums[r][v] = _mm256_fnmadd_ps(least, x_sum, sums[r][v]);
        }
    }
}

static ALWAYS_INLINE void sum_tile(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                   float *out, size_t stride, const size_t rows, const size_t vectors,
                                   const int q4) {
    const gpt2c_matrix *w = args->w;
    const size_t groups = q4 ? gpt2c_q4_blocks(w->n_in) : gpt2c_int8_groups(w->n_in);
    const void *parts[] = {args->prepared, args->prepared_rest};
    __m256 sums[MOST_ROWS][MOST_VECTORS];
    for (size_t p = 0; p < 2 && parts[p] != NULL; p++) {
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < vectors; v++) sums[r][v] = _mm256_setzero_ps();
        }
        const gpt2c_int8_rows x = gpt2c_int8_rows_at(parts[p], row, w->n_in);
        for (size_t g = 0; g < groups; g++) add_group(sums, w, columns.begin, &x, g, rows, vectors, q4);
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < vectors; v++) {
                const size_t c = columns.begin + v * GPT2C_LANES;
                float *at = out + r * stride + v * GPT2C_LANES;
                if (c >= columns.end) continue;
                if (p > 0) sums[r][v] = _mm256_add_ps(gpt2c_load(at, columns.end - c), sums[r][v]);
                gpt2c_store(at, columns.end - c, sums[r][v]);
            }
        }
    }
}

static ALWAYS_INLINE void sum_rows(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                                   gpt2c_sums sums, const int q4) {
    const size_t n = rows.end - rows.begin, width = n == 1 ? GPT2C_PANEL : GPT2C_PANEL / 2;
    for (size_t c = columns.begin; c < columns.end; c += width) {
        const gpt2c_span tile = {c, columns.end};
        float *out = sums.at + (c - columns.begin);
        switch (n) {
        case 1: sum_tile(args, rows.begin, tile, out, sums.stride, 1, 4, q4); break;
        case 2: sum_tile(args, rows.begin, tile, out, sums.stride, 2, 2, q4); break;
        case 3: sum_tile(args, rows.begin, tile, out, sums.stride, 3, 2, q4); break;
        case 4: sum_tile(args, rows.begin, tile, out, sums.stride, 4, 2, q4); break;
        default: break;
        }
    }
}

static void sum_rows_q8(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                        gpt2c_sums sums) {
    sum_rows(args, rows, columns, sums, 0);
}

static void sum_rows_q4(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns,
                        gpt2c_sums sums) {
    sum_rows(args, rows, columns, sums, 1);
}

/* They end as ref's do, since AVX-512 without VNNI inherits them, and has a GELU of its own. */
void gpt2c_linear_q8_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, MOST_ROWS, sum_rows_q8, gpt2c_finish_int8);
}

void gpt2c_linear_q4_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_tiled(args, rows, columns, MOST_ROWS, sum_rows_q4, gpt2c_finish_int8);
}
