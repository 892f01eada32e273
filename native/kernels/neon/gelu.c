#include "gelu_neon.h"
#include "lanes.h"
#include "neon.h"

void gpt2c_gelu_neon(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, gpt2c_gelu4(gpt2c_load(x + i, n - i)));
}

void gpt2c_gelu_table_neon(float *out, const float *x, size_t n, const uint16_t *table) {
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, gpt2c_gelu_table4(gpt2c_load(x + i, n - i), table));
}
