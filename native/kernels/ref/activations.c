/* The activations of GPT-2's relatives.
 *
 * GELU (Hendrycks and Gimpel 2016) is x P(x), P being the normal distribution's cumulative function. Its
 * tail is P(-a) = e^(-a^2/2) R(a) with R smooth and slowly falling (Mills' ratio, over the root of 2 pi),
 * so R is a polynomial of t = 1 / (1 + 0.3 a), which shrinks the whole half-line to (0, 1]. The
 * coefficients, of t^1 to t^10, are a minimax fit of R for 0 <= a <= 13.4, off by 3.4e-9 at most, a
 * twentieth of eps; behind that e^(-a^2/2) is cut to 0. */
#include <math.h>

#include "exp.h"
#include "ref.h"

static float normal_tail(float a) {
    const float t = 1.0f / (1.0f + 0.3f * a);
    float sum = -0.0205898769f;
    sum = sum * t + 0.112246551f;
    sum = sum * t - 0.227751568f;
    sum = sum * t + 0.191142306f;
    sum = sum * t - 0.0788650587f;
    sum = sum * t + 0.0958425105f;
    sum = sum * t + 0.0785039216f;
    sum = sum * t + 0.110209607f;
    sum = sum * t + 0.119575098f;
    sum = sum * t + 0.119686514f;
    return sum * t * gpt2c_exp(-0.5f * a * a);
}

void gpt2c_gelu_erf_ref(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const float tail = normal_tail(fabsf(x[i]));
        out[i] = x[i] * (x[i] < 0.0f ? tail : 1.0f - tail);
    }
}

void gpt2c_relu_ref(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] <= 0.0f ? 0.0f : x[i]; /* a NaN stays */
}
