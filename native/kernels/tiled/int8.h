/* What the sets share that have kernels for the integer formats (native/quantized.h): rows of x are
 * rounded group by group, and then read side by side. */
#ifndef GPT2C_TILED_INT8_H
#define GPT2C_TILED_INT8_H

#include <string.h>

#include "kernels/ref/ref.h"
#include "quantized.h"

/* Rounds the n numbers of one group, at most GPT2C_GROUP, to q, padded by 0; *sum is the sum of q. */
typedef gpt2c_int8_scale gpt2c_round_function(int8_t *q, int32_t *sum, const float *x, size_t n);

static inline void gpt2c_prepare_int8(void *out, const float *x, size_t rows, size_t n_in,
                                      gpt2c_round_function *round_group) {
    const size_t groups = gpt2c_int8_groups(n_in);
    for (size_t r = 0; r < rows; r++, x += n_in) {
        char *row = (char *)out + r * gpt2c_prepared_bytes(n_in);
        float *scale = (float *)(row + groups * GPT2C_GROUP), *scaled_sum = scale + 2 * groups;
        int32_t *offset = (int32_t *)(scale + groups);
        for (size_t g = 0; g < groups; g++) {
            const size_t k = g * GPT2C_GROUP, left = k < n_in ? n_in - k : 0;
            int32_t sum;
            scale[g] = round_group((int8_t *)row + k, &sum, left > 0 ? x + k : x,
                                   left < GPT2C_GROUP ? left : GPT2C_GROUP)
                           .scale;
            offset[g] = -128 * sum;
            scaled_sum[g] = scale[g] * (float)sum;
        }
    }
}

/* Prepared rows, one behind the other. */
typedef struct gpt2c_int8_rows {
    gpt2c_int8_row first;
    size_t bytes; /* from one to the next */
} gpt2c_int8_rows;

static inline gpt2c_int8_rows gpt2c_int8_rows_at(const void *prepared, size_t row, size_t n_in) {
    return (gpt2c_int8_rows){gpt2c_int8_row_at(prepared, row, n_in), gpt2c_prepared_bytes(n_in)};
}

/* Four bytes of a row, from step k on. */
static inline const int32_t *gpt2c_quad_of(const gpt2c_int8_rows *x, size_t row, size_t k) {
    return (const int32_t *)(x->first.q + row * x->bytes + k);
}

static inline float gpt2c_scale_of(const gpt2c_int8_rows *x, size_t row, size_t group) {
    return x->first.scale[row * (x->bytes / sizeof(float)) + group];
}

static inline float gpt2c_scaled_sum_of(const gpt2c_int8_rows *x, size_t row, size_t group) {
    return x->first.scaled_sum[row * (x->bytes / sizeof(float)) + group];
}

/* A finish of tiled/linear.h that sets inherit with their kernels: by the table's own operations. */
static inline void gpt2c_finish_int8(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                     const float *sums) {
    float *out = args->out + row * args->w->n_out + columns.begin;
    if (out != sums) memcpy(out, sums, (columns.end - columns.begin) * sizeof *out);
    gpt2c_finish_row_ref(args, row, columns);
}

#endif
