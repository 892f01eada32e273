/* GELU, tanh form (Hendrycks and Gimpel 2016): x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3).
 *
 * 1 + tanh u = 2 / (1 + e^(-2u)), so this is x / (1 + e^(-2u)). The two forms are the same
 * function, but where tanh u is close to -1 the sum 1 + tanh u loses every digit to cancellation,
 * and this form does not. */
#include "exp.h"
#include "gelu_table.h"
#include "half.h"
#include "ref.h"

void gpt2c_gelu_ref(float *out, const float *x, size_t n) {
    const float sqrt_2_over_pi = 0.797884561f;
    for (size_t i = 0; i < n; i++) {
        const float u = sqrt_2_over_pi * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        out[i] = x[i] / (1.0f + gpt2c_exp(-2.0f * u));
    }
}

void gpt2c_gelu_table_ref(float *out, const float *x, size_t n, const uint16_t *table) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] <= -GPT2C_GELU_TABLE_LIMIT)
            out[i] = 0.0f;
        else if (x[i] >= GPT2C_GELU_TABLE_LIMIT)
            out[i] = x[i];
        else
            out[i] = gpt2c_f16_to_f32(table[gpt2c_f32_to_f16(x[i])]);
    }
}
