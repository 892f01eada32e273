/* Packs rows of x as int8, as pack_int8 in ref does, sixteen groups at a time. What each group has
 * one of (the largest magnitude, the scale, the sum) is a lane of a register, so it is computed for
 * all sixteen at once. */
#include <immintrin.h>

#include "avx512_vnni.h"
#include "kernels/avx512/lanes.h"
#include "kernels/tiled/tile.h"
#include "quantized.h"

#define GROUPS 16

/* Defines a function whose lane i is the combination of all lanes of v[i]. A step combines the
 * halves of two registers and leaves both results in one register, so four steps reduce sixteen
 * registers to one. */
#define GPT2C_COMBINE_EACH(name, combine)                                                   \
    static inline __m512i name(__m512i v[GROUPS]) {                                         \
        GPT2C_UNROLL(8)                                                                     \
        for (size_t i = 0; i < 8; i++)                                                      \
            v[i] = combine(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),                   \
                           _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));                  \
        GPT2C_UNROLL(4)                                                                     \
        for (size_t i = 0; i < 4; i++)                                                      \
            v[i] = combine(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]),                   \
                           _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));                  \
        GPT2C_UNROLL(3)                                                                     \
        for (size_t n = 2; n > 0; n /= 2)                                                   \
            for (size_t i = 0; i < n; i++)                                                  \
                v[i] = combine(_mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], EVEN_QUARTERS), \
                               _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], ODD_QUARTERS)); \
        return v[0];                                                                        \
    }
#define EVEN_QUARTERS _MM_SHUFFLE(2, 0, 2, 0)
#define ODD_QUARTERS _MM_SHUFFLE(3, 1, 3, 1)
GPT2C_COMBINE_EACH(largest_of_each, _mm512_max_epu32)
GPT2C_COMBINE_EACH(sum_of_each, _mm512_add_epi32)

typedef struct scales {
    __m512 scale;
    __m512 inverse;
} scales;

/* gpt2c_int8_scale_of, for sixteen groups. */
static inline scales scales_of(__m512i largest_bits) {
    const __m512 max = _mm512_set1_ps(127.0f), largest = _mm512_castsi512_ps(largest_bits);
    const __mmask16 finite = _mm512_cmplt_epu32_mask(largest_bits, _mm512_set1_epi32(0x7f800000));
    const __mmask16 normal = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ) & finite;
    const __m512 nan_or_0 = _mm512_castsi512_ps(_mm512_maskz_set1_epi32(_knot_mask16(finite), 0x7fc00000));
    return (scales){_mm512_mask_div_ps(nan_or_0, normal, largest, max),
                    _mm512_maskz_div_ps(normal, max, largest)};
}

/* One of the sixteen groups: its n elements, and where they are packed to. */
typedef struct job {
    const float *x;
    size_t n;
    gpt2c_int8_group *to;
} job;

static inline __m512 first_half(const job *j) { return gpt2c_load(j->x, j->n); }

static inline __m512 second_half(const job *j) {
    return j->n <= GPT2C_LANES ? _mm512_setzero_ps() : gpt2c_load(j->x + GPT2C_LANES, j->n - GPT2C_LANES);
}

static inline __m512i magnitude_bits(__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

/* 0 * infinity is a NaN, which becomes -2^31: its lowest byte is 0, and so is -128 times it. */
static inline __m512i rounded(__m512 x, float inverse) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
}

static void round_groups(const job jobs[GROUPS], size_t n) {
    float scale[GROUPS], inverse[GROUPS], scaled_sum[GROUPS];
    int32_t correction[GROUPS];
    __m512i v[GROUPS];
    for (size_t i = 0; i < GROUPS; i++)
        v[i] = i < n ? _mm512_max_epu32(magnitude_bits(first_half(&jobs[i])),
                                        magnitude_bits(second_half(&jobs[i])))
                     : _mm512_setzero_si512();
    const scales s = scales_of(largest_of_each(v));
    _mm512_storeu_ps(scale, s.scale);
    _mm512_storeu_ps(inverse, s.inverse);

    for (size_t i = 0; i < n; i++) {
        const __m512i a = rounded(first_half(&jobs[i]), inverse[i]), b = rounded(second_half(&jobs[i]), inverse[i]);
        _mm_storeu_si128((__m128i *)jobs[i].to->q, _mm512_cvtepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(jobs[i].to->q + GPT2C_LANES), _mm512_cvtepi32_epi8(b));
        v[i] = _mm512_add_epi32(a, b);
    }
    for (size_t i = n; i < GROUPS; i++) v[i] = _mm512_setzero_si512();
    const __m512i sums = sum_of_each(v);
    _mm512_storeu_si512(correction, _mm512_mullo_epi32(sums, _mm512_set1_epi32(-128)));
    _mm512_storeu_ps(scaled_sum, _mm512_mul_ps(s.scale, _mm512_cvtepi32_ps(sums)));
    for (size_t i = 0; i < n; i++) {
        jobs[i].to->scale = scale[i];
        jobs[i].to->correction = correction[i];
        jobs[i].to->scaled_sum = scaled_sum[i];
    }
}

void gpt2c_pack_int8_avx512_vnni(void *out, const float *x, size_t rows, size_t n_in) {
    const size_t groups = gpt2c_int8_groups(n_in);
    job jobs[GROUPS];
    size_t n = 0;
    for (size_t r = 0; r < rows; r++, x += n_in) {
        gpt2c_int8_group *to = (void *)((char *)out + r * gpt2c_packed_x_bytes(n_in));
        for (size_t g = 0; g < groups; g++, to++) {
            const size_t k = g * GPT2C_GROUP, left = k < n_in ? n_in - k : 0;
            jobs[n++] = (job){left > 0 ? x + k : x, left, to};
            if (n == GROUPS) {
                round_groups(jobs, n);
                n = 0;
            }
        }
    }
    round_groups(jobs, n);
}
