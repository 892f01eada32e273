#include "quantized.h"

void gpt2c_int8_remainder(float *remainder, const float *x, size_t n) {
    for (size_t k = 0; k < n; k += GPT2C_GROUP) {
        const size_t m = n - k < GPT2C_GROUP ? n - k : GPT2C_GROUP;
        uint32_t largest = 0;
        for (size_t i = 0; i < m; i++) {
            const uint32_t bits = gpt2c_bits_of(x[k + i]) & 0x7fffffffu;
            largest = bits > largest ? bits : largest;
        }
        const gpt2c_int8_scale scale = gpt2c_int8_scale_of(largest);
        for (size_t i = 0; i < m; i++)
            remainder[k + i] = x[k + i] - scale.scale * gpt2c_to_integer(x[k + i] * scale.inverse);
    }
}
