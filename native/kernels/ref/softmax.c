#include "exp.h"
#include "ref.h"

/* The largest score is subtracted first, so that no exp overflows; mathematically the result is the
 * same. */
void gpt2c_softmax_ref(float *out, const float *x, size_t n) {
    float largest = x[0];
    for (size_t i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];

    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        out[i] = gpt2c_exp(x[i] - largest);
        sum += out[i];
    }
    for (size_t i = 0; i < n; i++) out[i] /= sum;
}
