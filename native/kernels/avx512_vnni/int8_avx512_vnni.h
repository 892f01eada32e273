/* Shared by one_row.c and many_rows.c. VPDPBUSD adds, for each of 16 columns, four products of an
 * unsigned and a signed byte in 32 bits: four times the arithmetic of an FMA. The unsigned bytes
 * are the weights. Those of q4 are unsigned already; those of q8 become w + 128, and -128 times the
 * sum of x corrects the result. */
#ifndef GPT2C_INT8_AVX512_VNNI_H
#define GPT2C_INT8_AVX512_VNNI_H

#include <immintrin.h>

#include "avx512_vnni.h"
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"
#include "kernels/tiled/int8.h"
#include "kernels/tiled/linear.h"

/* 1: q4; 0: q8. One kernel handles both formats, so that they share the code around the loops. */
static GPT2C_ALWAYS_INLINE int gpt2c_is_q4(const gpt2c_matrix *w) { return w->layout == GPT2C_LAYOUT_PANELS_Q4; }

/* A linear layer of one row. */
void gpt2c_linear_int8_one_row(const gpt2c_linear_args *args, size_t row, gpt2c_span columns);

/* sums += the dot products of four bytes in each lane. Inline assembly, because GCC 12 copies the
 * sums back and forth around its intrinsic, which halves the speed of the loop. */
static GPT2C_ALWAYS_INLINE __m512i gpt2c_add_dots(__m512i sums, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}

/* The unsigned weights w + 128 of one quad of a group, in half v of a panel. */
static GPT2C_ALWAYS_INLINE __m512i gpt2c_q8_quad(const gpt2c_q8_block *block, size_t group, size_t quad, size_t v) {
    return _mm512_xor_si512(_mm512_load_si512(block->q[group % 2][quad][v * GPT2C_LANES]),
                            _mm512_set1_epi8(-128));
}

/* The scales of half v of a panel. */
static GPT2C_ALWAYS_INLINE __m512 gpt2c_q8_scales(const gpt2c_q8_block *block, size_t v) {
    const __m256i halves = _mm256_load_si256((const __m256i *)(block->scale + v * GPT2C_LANES));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* The weights of two quads that share their bytes, the earlier one first. */
typedef struct gpt2c_q4_quads {
    __m512i w[2];
} gpt2c_q4_quads;

static GPT2C_ALWAYS_INLINE gpt2c_q4_quads gpt2c_q4_two_quads(const gpt2c_q4_block *block, size_t quad, size_t v) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i both = _mm512_load_si512(block->q[quad / 2][v * GPT2C_LANES]);
    return (gpt2c_q4_quads){
        {_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16(both, 4), low)}};
}

/* factors[i] * bytes[i] for half v of a panel: a block's scales or offsets. */
static GPT2C_ALWAYS_INLINE __m512 gpt2c_q4_scales(const float *factors, const uint8_t *bytes, size_t v) {
    const __m128i integers = _mm_load_si128((const __m128i *)(bytes + v * GPT2C_LANES));
    return _mm512_mul_ps(_mm512_load_ps(factors + v * GPT2C_LANES),
                         _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(integers)));
}

#endif
