#include "avx512.h"
#include "lanes.h"

void gpt2c_add_avx512(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(n - i);
        const __m512 left = _mm512_maskz_loadu_ps(lanes, a + i);
        const __m512 right = _mm512_maskz_loadu_ps(lanes, b + i);
        _mm512_mask_storeu_ps(out + i, lanes, _mm512_add_ps(left, right));
    }
}
