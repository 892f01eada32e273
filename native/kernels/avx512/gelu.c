#include "avx512.h"
#include "gelu_avx512.h"
#include "lanes.h"

void gpt2c_gelu_avx512(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(n - i);
        const __m512 y = gpt2c_gelu16(_mm512_maskz_loadu_ps(lanes, x + i));
        _mm512_mask_storeu_ps(out + i, lanes, y);
    }
}

void gpt2c_gelu_table_avx512(float *out, const float *x, size_t n, const uint16_t *table) {
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(n - i);
        const __m512 y = gpt2c_gelu_table16(_mm512_maskz_loadu_ps(lanes, x + i), table);
        _mm512_mask_storeu_ps(out + i, lanes, y);
    }
}
