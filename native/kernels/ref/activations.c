/* The activations of models related to GPT-2.
 *
 * GELU (Hendrycks and Gimpel 2016) is x P(x), where P is the cumulative distribution function of
 * the standard normal distribution. Its tail is P(-a) = e^(-a^2/2) R(a), where R (Mills' ratio
 * divided by sqrt(2 pi)) is smooth and decreases slowly. So R is computed as a polynomial. Its
 * variable is t = 1 / (1 + 0.3 a), which maps the half-line a >= 0 to (0, 1]. The coefficients, of
 * t^1 to t^10, are a minimax fit of R on 0 <= a <= 13.4 with an error of at most 3.4e-9, a
 * twentieth of eps. Beyond that, gpt2c_exp returns 0 for e^(-a^2/2). */
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
    for (size_t i = 0; i < n; i++) out[i] = x[i] <= 0.0f ? 0.0f : x[i]; /* a NaN stays a NaN */
}
