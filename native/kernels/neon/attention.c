#include "kernels/tiled/attention.h"

#include "half.h"
#include "lanes.h"
#include "neon.h"
#include "softmax_neon.h"
#include "tile_neon.h"

static const gpt2c_attention_parts parts = {GPT2C_TILE_ROWS, gpt2c_tile_neon, gpt2c_scaled_softmax_neon};

void gpt2c_store_neon(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_tiled(kv, qkv, rows, position);
}

/* Clamping would turn infinities into finite values, so the originals are put back. A NaN stays a
 * NaN. */
static void narrow(uint16_t *out, const float *x, size_t n) {
    const float32x4_t max = vdupq_n_f32(65504.0f), min = vdupq_n_f32(-65504.0f);
    size_t i = 0;
    for (; i + GPT2C_LANES <= n; i += GPT2C_LANES) {
        const float32x4_t given = vld1q_f32(x + i);
        const uint32x4_t finite = vcltq_f32(vabsq_f32(given), vdupq_n_f32(INFINITY));
        const float32x4_t limited = vmaxq_f32(min, vminq_f32(max, given));
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vbslq_f32(finite, limited, given))));
    }
    for (; i < n; i++) out[i] = gpt2c_f32_to_finite_f16(x[i]);
}

void gpt2c_store_f16_neon(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    gpt2c_store_f16_tiled(kv, qkv, rows, position, narrow);
}

/* This function and the next serve both floats and halves. */
void gpt2c_kv_runs_neon(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context) {
    gpt2c_kv_runs_tiled(kv, positions, visit, context);
}

void gpt2c_attention_neon(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    gpt2c_attention_tiled(args, rows, heads, &parts);
}
