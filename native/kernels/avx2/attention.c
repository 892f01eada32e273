#include "kernels/tiled/attention.h"

#include "avx2.h"
#include "half.h"
#include "lanes.h"
#include "softmax_avx2.h"
#include "tile_avx2.h"

static const gpt2c_attention_parts parts = {GPT2C_TILE_ROWS, gpt2c_tile_avx2, gpt2c_scaled_softmax_avx2};

void gpt2c_store_avx2(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_tiled(kv, qkv, rows, position);
}

/* Clamping would turn infinities and NaN into finite values, so the originals are put back. */
static void narrow(uint16_t *out, const float *x, size_t n) {
    const __m256 max = _mm256_set1_ps(65504.0f), min = _mm256_set1_ps(-65504.0f);
    const __m256 sign = _mm256_set1_ps(-0.0f), infinity = _mm256_set1_ps(INFINITY);
    size_t i = 0;
    for (; i + GPT2C_LANES <= n; i += GPT2C_LANES) {
        const __m256 given = _mm256_loadu_ps(x + i);
        const __m256 finite = _mm256_cmp_ps(_mm256_andnot_ps(sign, given), infinity, _CMP_LT_OQ);
        const __m256 limited = _mm256_max_ps(min, _mm256_min_ps(max, given));
        const __m128i halves = _mm256_cvtps_ph(_mm256_blendv_ps(given, limited, finite),
                                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(out + i), halves);
    }
    for (; i < n; i++) out[i] = gpt2c_f32_to_finite_f16(x[i]);
}

void gpt2c_store_f16_avx2(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_f16_tiled(kv, qkv, rows, position, narrow);
}

/* This function and the next serve both floats and halves. */
void gpt2c_kv_runs_avx2(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context) {
    gpt2c_kv_runs_tiled(kv, positions, visit, context);
}

void gpt2c_attention_avx2(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    gpt2c_attention_tiled(args, rows, heads, &parts);
}
