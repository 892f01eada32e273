/* Shared by the checks: results, test arrays and expected values. main.c describes the program. */
#ifndef GPT2C_CHECK_H
#define GPT2C_CHECK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gpt2c.h"

/* The constants of the error bounds in native/kernels.h. */
#define EPS 0x1p-24
#define TINY 0x1p-150
#define CUT 1.3e-38

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* Row lengths: each tail of a register, and the lengths around panels and tiles. */
#define N_SIZES 25
extern const size_t sizes[N_SIZES];

/* Half-open. */
typedef struct span {
    size_t begin, end;
} span;

/* ---- Results ---- */

typedef struct check {
    int32_t isa;
    const char *isa_name;
    const char *op;
    size_t n_right;
    size_t n_wrong;
} check;

/* Counts a result. The first failure of an operation is printed, with two numbers that identify the
 * case. */
void expect(check *c, int right, const char *what, size_t a, size_t b);
void expect_ok(check *c, gpt2c_status status);

static inline int same_bits(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static inline int is_near(float x, double exact, double bound) { return fabs((double)x - exact) <= bound; }

/* ---- Arrays and values ---- */

/* The caller frees these arrays. They end with their last element, so a sanitizer sees an overrun. */
void *allocate(size_t n, size_t size);
float *new_floats(size_t n);

/* Sums of three terms, each uniform in [-scale, scale): close enough to a normal distribution. */
float *new_random(size_t n, float scale);

/* Filled with a value that no kernel computes, to see where one wrote. */
float *new_filled(size_t n);

float to_bf16(float x);

/* The nearest half, as attention stores it: finite values are limited to 65,504 in magnitude. */
float to_stored_f16(float x);

float from_f16(uint32_t half);

/* A weight as its layout stores it, and its magnitude in error bounds, W of kernels.h. */
typedef struct operand {
    double value;
    double magnitude;
} operand;

/* The operands of a matrix made from w, [n_in * n_out]. */
operand *new_operands(const float *w, const gpt2c_matrix *matrix);

/* A row of x as the integer formats round it. */
void round_int8(double *rounded, const float *x, size_t n);

/* p = softmax of n scores; returns the largest score. */
double exact_softmax(double *p, const double *scores, size_t n);

/* ---- The checks ---- */

void check_q4_roundoff(check *c, const float *w, const operand *stored, size_t n_in, size_t n_out);
void check_linear(check *c);
void check_embed(check *c);
void check_layernorm(check *c);
void check_gelu(check *c);
void check_gelu_table(check *c);
void check_gelu_erf(check *c);
void check_relu(check *c);
void check_add(check *c);
void check_softmax(check *c);
void check_argmax(check *c);
void check_attention(check *c);
void check_attention_f16(check *c);

#endif
