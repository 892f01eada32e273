/* Checks the operations on rows of floats. */
#include "check.h"

void check_layernorm(check *c) {
    const double epsilon = (double)1e-5f;
    for (size_t s = 0; s < 2 * N_SIZES; s++) {
        const size_t n = sizes[s / 2];
        float *x = new_random(3 * n, 1.0f), *w = new_random(n, 1.0f), *b = new_random(n, 1.0f);
        float *out = new_floats(3 * n);
        for (size_t i = 0; i < 3 * n && s % 2 == 1; i++) x[i] += 100.0f; /* a mean far from 0 */
        expect_ok(c, gpt2c_op_layernorm(c->isa, out, x, w, b, 3, n, 1e-5f));
        for (size_t r = 0; r < 3; r++) {
            double mean = 0.0, variance = 0.0;
            for (size_t i = 0; i < n; i++) mean += (double)x[r * n + i] / (double)n;
            for (size_t i = 0; i < n; i++) variance += pow((double)x[r * n + i] - mean, 2) / (double)n;
            const double std = sqrt(variance + epsilon);
            for (size_t i = 0; i < n; i++) {
                const double y = ((double)x[r * n + i] - mean) / std;
                const double weight = (double)w[i], bias = (double)b[i];
                const double exact = y * weight + bias;
                const double magnitude = fabs(weight) * (fabs(y) + fabs(mean) / std) + fabs(bias) + fabs(exact);
                const double bound = 16 * EPS * magnitude + 2 * TINY * (1 + fabs(weight));
                expect(c, is_near(out[r * n + i], exact, bound), "outside the bound", n, i);
            }
        }
        float *row = new_floats(n);
        expect_ok(c, gpt2c_op_layernorm(c->isa, row, x + n, w, b, 1, n, 1e-5f));
        expect(c, same_bits(row, out + n, n), "a row alone differs", n, 1);
        expect_ok(c, gpt2c_op_layernorm(c->isa, x, x, w, b, 3, n, 1e-5f));
        expect(c, same_bits(x, out, 3 * n), "differs in place", n, 3);
        free(x), free(w), free(b), free(out), free(row);
    }
}

static double exact_gelu(double x) {
    return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

/* Any stretch of x has the same bits as in the whole, wherever it ends. */
static void check_stretches(check *c, const float *x, const float *whole, size_t n, const uint16_t *table) {
    for (size_t length = 1; length < 40 && length < n; length++) {
        float *out = new_floats(length);
        const size_t from = n - 40;
        expect_ok(c, gpt2c_op_gelu(c->isa, out, x + from, length, table));
        expect(c, same_bits(out, whole + from, length), "a stretch differs", from, length);
        free(out);
    }
}

void check_gelu(check *c) {
    const size_t n = 5000;
    float *x = new_random(n, 5.0f), *out = new_floats(n);
    x[0] = INFINITY, x[1] = NAN, x[2] = -3e38f, x[3] = 0.0f, x[4] = 1e-45f, x[5] = -1e-30f;
    expect_ok(c, gpt2c_op_gelu(c->isa, out, x, n, NULL));
    expect(c, isinf(out[0]) && out[0] > 0 && isnan(out[1]), "infinity or NaN", 0, 1);
    expect(c, out[2] == 0.0f && signbit(out[2]), "the result for a huge negative x is not -0", 2, 0);
    for (size_t i = 2; i < n; i++) {
        const double at = (double)x[i], exact = exact_gelu(at);
        const double bound = 8 * EPS * fabs(exact) * (1 + pow(fabs(at), 3) / 8) + 1e-37;
        expect(c, is_near(out[i], exact, i == 2 ? 1e-37 : bound), "outside the bound", i, 0);
    }
    check_stretches(c, x, out, n, NULL);
    free(x), free(out);
}

/* Every fp16 value, the midpoint between it and the next one, and the floats next to the midpoint. */
void check_gelu_table(check *c) {
    const size_t halves = 65536, n = 4 * halves;
    float *x = new_floats(n), *out = new_floats(n), *expected = new_floats(n);
    uint16_t *table = allocate(halves, sizeof *table);
    expect_ok(c, gpt2c_gelu_table_fill(table));
    for (uint32_t h = 0; h < halves; h++) {
        const float here = from_f16(h), middle = 0.5f * (here + from_f16(h == halves - 1 ? h : h + 1));
        x[h] = here;
        x[halves + h] = middle;
        x[2 * halves + h] = nextafterf(middle, INFINITY);
        x[3 * halves + h] = nextafterf(middle, -INFINITY);
    }
    expect_ok(c, gpt2c_op_gelu(c->isa, out, x, n, table));
    expect_ok(c, gpt2c_op_gelu(0, expected, x, n, table));
    for (size_t i = 0; i < n; i++) {
        expect(c, same_bits(out + i, expected + i, 1), "not the bits of ref", i, 0);
        const double at = (double)x[i];
        const double bound = 2.13 * 0x1p-11 * fabs(at) + EPS;
        if (fabs(at) < 65504) expect(c, is_near(out[i], exact_gelu(at), bound), "outside the bound", i, 0);
    }
    check_stretches(c, x, out, n, table);
    free(x), free(out), free(expected), free(table);
}

void check_gelu_erf(check *c) {
    const size_t n = 5000;
    float *x = new_random(n, 5.0f), *out = new_floats(n), *one = new_floats(1);
    x[0] = INFINITY, x[1] = NAN, x[2] = -3e38f, x[3] = 0.0f, x[4] = 1e-45f, x[5] = -1e-30f, x[6] = -13.5f;
    expect_ok(c, gpt2c_op_gelu_erf(c->isa, out, x, n));
    expect(c, isinf(out[0]) && out[0] > 0 && isnan(out[1]), "infinity or NaN", 0, 1);
    expect(c, out[2] == 0.0f && signbit(out[2]), "the result for a huge negative x is not -0", 2, 0);
    for (size_t i = 3; i < n; i++) {
        const double at = (double)x[i], exact = 0.5 * at * erfc(-at * 0.70710678118654752440);
        const double bound = 12 * EPS * fabs(exact) * (1 + at * at / 4) + 1e-37;
        expect(c, is_near(out[i], exact, bound), "outside the bound", i, 0);
        expect_ok(c, gpt2c_op_gelu_erf(c->isa, one, x + i, 1));
        expect(c, same_bits(one, out + i, 1), "differs alone", i, 0);
    }
    free(x), free(out), free(one);
}

void check_relu(check *c) {
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = sizes[s];
        float *x = new_random(n, 1.0f), *out = new_floats(n), *expected = new_floats(n);
        for (size_t i = 0; i < n; i++) expected[i] = x[i] > 0.0f ? x[i] : 0.0f;
        expect_ok(c, gpt2c_op_relu(c->isa, out, x, n));
        expect(c, same_bits(out, expected, n), "wrong", n, 0);
        x[n - 1] = NAN;
        expect_ok(c, gpt2c_op_relu(c->isa, out, x, n));
        expect(c, isnan(out[n - 1]), "a NaN is lost", n, 0);
        free(x), free(out), free(expected);
    }
}

void check_add(check *c) {
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = sizes[s];
        float *a = new_random(n, 1.0f), *b = new_random(n, 1e-3f);
        float *out = new_floats(n), *expected = new_floats(n);
        for (size_t i = 0; i < n; i++) expected[i] = a[i] + b[i];
        expect_ok(c, gpt2c_op_add(c->isa, out, a, b, n));
        expect(c, same_bits(out, expected, n), "wrong", n, 0);
        free(a), free(b), free(out), free(expected);
    }
}

void check_softmax(check *c) {
    static const float scales[] = {1e-3f, 1.0f, 30.0f, 1000.0f};
    for (size_t s = 0; s < COUNT_OF(scales) * N_SIZES; s++) {
        const size_t n = sizes[s / COUNT_OF(scales)];
        float *x = new_random(2 * n, scales[s % COUNT_OF(scales)]), *out = new_floats(2 * n);
        for (size_t i = 0; i < n; i++) x[n + i] -= 200.0f; /* a common offset cancels out */
        double *scores = allocate(n, sizeof *scores), *p = allocate(n, sizeof *p);
        expect_ok(c, gpt2c_op_softmax(c->isa, out, x, 2, n));
        for (size_t i = 0; i < n; i++) scores[i] = (double)x[n + i];
        const double top = exact_softmax(p, scores, n);
        for (size_t i = 0; i < n; i++) {
            const double factor = (double)n + log((double)n) + 8 + (top - scores[i]);
            expect(c, is_near(out[n + i], p[i], factor * EPS * p[i] + CUT), "outside the bound", n, i);
        }
        x[n / 2] = NAN;
        x[n + n / 2] = -INFINITY;
        expect_ok(c, gpt2c_op_softmax(c->isa, x, x, 2, n));
        expect(c, isnan(x[0]) && isnan(x[n - 1]), "a NaN does not reach all of a row", n, 0);
        expect(c, n == 1 || x[n + n / 2] == 0.0f, "e^-infinity is not 0", n, 0);
        free(x), free(out), free(scores), free(p);
    }
}

void check_argmax(check *c) {
    for (size_t s = 0; s < 100 * N_SIZES; s++) {
        const size_t n = sizes[s / 100];
        float *x = new_random(n, s % 2 ? 1.0f : 1e3f); /* with few different values, and with many */
        for (size_t i = 0; i < n; i++) x[i] = (s + i) % 5 == 0 ? NAN : roundf(x[i]) + (float)(s % 3) * 1e9f;
        if (s % 100 >= 90) x[s % n] = -INFINITY;
        if (s % 100 == 99)
            for (size_t i = 0; i < n; i++) x[i] = i % 2 ? NAN : -INFINITY;
        size_t best = 0;
        float largest = -INFINITY;
        for (size_t i = 0; i < n; i++)
            if (x[i] > largest) largest = x[best = i];
        int64_t found = -1;
        expect_ok(c, gpt2c_op_argmax(c->isa, &found, x, 1, n));
        expect(c, found == (int64_t)best, "wrong", n, best);
        free(x);
    }
}
