#include "softmax_avx512.h"

#include "avx512.h"

void gpt2c_softmax_avx512(float *out, const float *x, size_t n) {
    gpt2c_scaled_softmax_avx512(out, x, n, 1.0f);
}
