#include <math.h>

#include "ref.h"

void gpt2c_layernorm_ref(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                         size_t n, float epsilon) {
    for (size_t r = 0; r < rows; r++, x += n, out += n) {
        double sum = 0.0;
        for (size_t i = 0; i < n; i++) sum += (double)x[i];
        const double mean = sum / (double)n;

        double squares = 0.0;
        for (size_t i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
        const double scale = 1.0 / sqrt(squares / (double)n + (double)epsilon);

        for (size_t i = 0; i < n; i++)
            out[i] = (float)(((double)x[i] - mean) * scale) * weight[i] + bias[i];
    }
}
