#include "avx2.h"
#include "gelu_avx2.h"
#include "lanes.h"

void gpt2c_gelu_avx2(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, gpt2c_gelu8(gpt2c_load(x + i, n - i)));
}

void gpt2c_gelu_table_avx2(float *out, const float *x, size_t n, const uint16_t *table) {
    for (size_t i = 0; i < n; i += GPT2C_LANES)
        gpt2c_store(out + i, n - i, gpt2c_gelu_table8(gpt2c_load(x + i, n - i), table));
}
