#include <stdio.h>

#include "check.h"

void *allocate(size_t n, size_t size) {
    void *data = malloc(n * size);
    if (data == NULL) exit((fprintf(stderr, "check_kernels: out of memory\n"), 1));
    return data;
}

float *new_floats(size_t n) { return allocate(n, sizeof(float)); }

float *new_random(size_t n, float scale) {
    static uint32_t state = 1;
    float *data = new_floats(n);
    for (size_t i = 0; i < n; i++) {
        data[i] = 0.0f;
        for (int term = 0; term < 3; term++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5; /* Marsaglia's xorshift */
            data[i] += scale * ((float)(state >> 8) * 0x1p-23f - 1.0f);
        }
    }
    return data;
}

float *new_filled(size_t n) {
    float *data = new_floats(n);
    for (size_t i = 0; i < n; i++) data[i] = 12345.678f;
    return data;
}

float to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float to_stored_f16(float x) {
    if (x == 0.0f || !isfinite(x)) return x;
    const double unit = fmax(ldexp(1.0, ilogb((double)x) - 10), 0x1p-24);
    return (float)fmax(-65504.0, fmin(65504.0, rint((double)x / unit) * unit));
}

float from_f16(uint32_t half) {
    const uint32_t exponent = half >> 10 & 31u, mantissa = half & 1023u;
    float x = ldexpf((float)(mantissa + 1024u), (int)exponent - 25);
    if (exponent == 0) x = ldexpf((float)mantissa, -24);
    if (exponent == 31) {
        const uint32_t bits = 0x7f800000u | mantissa << 13; /* infinity, or any NaN */
        memcpy(&x, &bits, sizeof x);
    }
    return half >> 15 ? -x : x;
}

double exact_softmax(double *p, const double *scores, size_t n) {
    double top = scores[0], sum = 0.0;
    for (size_t i = 1; i < n; i++) top = scores[i] > top ? scores[i] : top;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp(scores[i] - top);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return top;
}
