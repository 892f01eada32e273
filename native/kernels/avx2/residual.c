#include "avx2.h"
#include "lanes.h"

void gpt2c_add_avx2(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES) {
        const __m256 sum = _mm256_add_ps(gpt2c_load(a + i, n - i), gpt2c_load(b + i, n - i));
        gpt2c_store(out + i, n - i, sum);
    }
}
