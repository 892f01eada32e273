#include "lanes.h"
#include "neon.h"

void gpt2c_add_neon(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, vaddq_f32(gpt2c_load(a + i, n - i), gpt2c_load(b + i, n - i)));
}
