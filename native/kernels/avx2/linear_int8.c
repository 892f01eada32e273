/* Linear layers over q8 and q4 by VPMADDUBSW, which adds two products of an unsigned and a signed
 * byte in 16 bits and saturates. The operands are such that no sum reaches that limit:
 *
 *   q8  |x| times w with the sign of x. Two products are at most 2 * 127 * 127 = 32258, so each sum
 *       of two is widened to 32 bits, by a multiplication with ones, before more is added
 *   q4  the unsigned weight 0 .. 15 times x. The 16 products that a lane gets in a group are at most
 *       16 * 15 * 127 = 30480, so they are widened once per group
 *
 * Registers for 4 rows of half a panel: 8 integer sums, 2 of weights, x, |x|, ones and one
 * temporary. The float32 sums are on the stack; they are accessed once per 32 steps of k. */
#include <immintrin.h>

#include "avx2.h"
#include "kernels/tiled/int8.h"
#include "kernels/tiled/tile.h"
#include "lanes.h"

typedef __m256 gpt2c_floats;
typedef __m256i gpt2c_integers;

#define GPT2C_PANEL_VECTORS (GPT2C_PANEL / GPT2C_LANES)

static GPT2C_ALWAYS_INLINE __m256i four_x(const gpt2c_int8_group *x, size_t rows, size_t n_in, size_t quad) {
    return _mm256_set1_epi32(*gpt2c_quad_of(gpt2c_rows_down(x, rows, n_in), quad));
}

static GPT2C_ALWAYS_INLINE __m256i widened(__m256i pairs) {
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

static GPT2C_ALWAYS_INLINE void gpt2c_q8_dots(__m256i dots[][GPT2C_PANEL_VECTORS],
                                              const int8_t q[][GPT2C_PANEL][GPT2C_QUAD], size_t lane,
                                              const gpt2c_int8_group *x, size_t n_in, const size_t rows,
                                              const size_t vectors) {
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = _mm256_setzero_si256();
    }
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad++) {
        __m256i w[GPT2C_PANEL_VECTORS];
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++)
            w[v] = _mm256_load_si256((const __m256i *)q[quad][lane + v * GPT2C_LANES]);
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const __m256i signs = four_x(x, r, n_in, quad), magnitudes = _mm256_abs_epi8(signs);
            GPT2C_UNROLL(4)
            for (size_t v = 0; v < vectors; v++) {
                const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(w[v], signs));
                dots[r][v] = _mm256_add_epi32(dots[r][v], widened(pairs));
            }
        }
    }
}

static GPT2C_ALWAYS_INLINE void gpt2c_q4_dots(__m256i dots[][GPT2C_PANEL_VECTORS], const gpt2c_q4_block *block,
                                              size_t lane, const gpt2c_int8_group *x, size_t n_in,
                                              const size_t rows, const size_t vectors) {
    const __m256i low = _mm256_set1_epi8(15);
    GPT2C_UNROLL(4)
    for (size_t r = 0; r < rows; r++) {
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) dots[r][v] = _mm256_setzero_si256();
    }
    for (size_t quad = 0; quad < GPT2C_GROUP_QUADS; quad += 2) {
        __m256i w[GPT2C_PANEL_VECTORS], upper[GPT2C_PANEL_VECTORS];
        GPT2C_UNROLL(4)
        for (size_t v = 0; v < vectors; v++) {
            const void *at = block->q[quad / 2][lane + v * GPT2C_LANES];
            const __m256i both = _mm256_load_si256((const __m256i *)at);
            w[v] = _mm256_and_si256(both, low);
            upper[v] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
        GPT2C_UNROLL(4)
        for (size_t r = 0; r < rows; r++) {
            const __m256i first = four_x(x, r, n_in, quad), second = four_x(x, r, n_in, quad + 1);
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

static GPT2C_ALWAYS_INLINE __m256 gpt2c_zero(void) { return _mm256_setzero_ps(); }

static GPT2C_ALWAYS_INLINE __m256 gpt2c_q8_scales(const gpt2c_q8_block *block, size_t lane) {
    const __m128i halves = _mm_load_si128((const __m128i *)(block->scale + lane));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static GPT2C_ALWAYS_INLINE __m256 gpt2c_q4_scales(const float *factors, const uint8_t *bytes) {
    const __m256i steps = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    return _mm256_mul_ps(_mm256_load_ps(factors), _mm256_cvtepi32_ps(steps));
}

static GPT2C_ALWAYS_INLINE __m256 gpt2c_add_scaled(__m256 sum, __m256 scale, __m256i dots, float x) {
    return _mm256_fmadd_ps(scale, _mm256_mul_ps(_mm256_set1_ps(x), _mm256_cvtepi32_ps(dots)), sum);
}

static GPT2C_ALWAYS_INLINE __m256 gpt2c_sub_scaled(__m256 sum, __m256 offset, float x) {
    return _mm256_fnmadd_ps(offset, _mm256_set1_ps(x), sum);
}

#include "kernels/tiled/linear_int8.h"

void gpt2c_linear_q8_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q8_tiled(args, rows, columns);
}

void gpt2c_linear_q4_avx2(const gpt2c_linear_args *args, gpt2c_span rows, gpt2c_span columns) {
    gpt2c_linear_q4_tiled(args, rows, columns);
}
