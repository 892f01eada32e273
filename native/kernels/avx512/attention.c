#include "kernels/tiled/attention.h"

#include "avx512.h"
#include "half.h"
#include "lanes.h"
#include "softmax_avx512.h"
#include "tile_avx512.h"

static const gpt2c_attention_parts parts = {GPT2C_MAX_GROUP_ROWS, gpt2c_tile_avx512,
                                            gpt2c_scaled_softmax_avx512};

void gpt2c_store_avx512(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_tiled(kv, qkv, rows, position);
}

/* Clamping would turn infinities and NaN into finite values, so the originals are put back. */
static void narrow(uint16_t *out, const float *x, size_t n) {
    const __m512 max = _mm512_set1_ps(65504.0f), min = _mm512_set1_ps(-65504.0f);
    const __m512 infinity = _mm512_set1_ps(INFINITY);
    size_t i = 0;
    for (; i + GPT2C_LANES <= n; i += GPT2C_LANES) {
        const __m512 given = _mm512_loadu_ps(x + i);
        const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(given), infinity, _CMP_LT_OQ);
        const __m512 limited = _mm512_max_ps(min, _mm512_min_ps(max, given));
        const __m256i halves = _mm512_cvtps_ph(_mm512_mask_mov_ps(given, finite, limited),
                                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(out + i), halves);
    }
    for (; i < n; i++) out[i] = gpt2c_f32_to_finite_f16(x[i]);
}

void gpt2c_store_f16_avx512(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_f16_tiled(kv, qkv, rows, position, narrow);
}

/* This function and the next serve both floats and halves. */
void gpt2c_kv_runs_avx512(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context) {
    gpt2c_kv_runs_tiled(kv, positions, visit, context);
}

void gpt2c_attention_avx512(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    gpt2c_attention_tiled(args, rows, heads, &parts);
}
