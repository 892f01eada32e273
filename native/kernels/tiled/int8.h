/* Shared by the sets that have kernels for the integer formats (native/quantized.h): access to the
 * same group in several rows of x, and the epilogue. */
#ifndef GPT2C_TILED_INT8_H
#define GPT2C_TILED_INT8_H

#include <string.h>

#include "kernels/ref/ref.h"
#include "quantized.h"

/* The maximum number of rows of a tile in tiled/linear_int8.h. */
#define GPT2C_INT8_ROWS 4

/* The same group in the row that is `rows` further down. */
static inline const gpt2c_int8_group *gpt2c_rows_down(const gpt2c_int8_group *group, size_t rows, size_t n_in) {
    return (const void *)((const char *)group + rows * gpt2c_packed_x_bytes(n_in));
}

/* The four bytes of one quad of a group. */
static inline const int32_t *gpt2c_quad_of(const gpt2c_int8_group *group, size_t quad) {
    return (const int32_t *)(const void *)(group->q + quad * GPT2C_QUAD);
}

/* The gpt2c_finish_function of kernels that other sets inherit: it calls the operations of the
 * table in use. */
static inline void gpt2c_finish_int8(const gpt2c_linear_args *args, size_t row, gpt2c_span columns,
                                     const float *sums) {
    float *out = args->out + row * args->w->n_out + columns.begin;
    if (out != sums) memcpy(out, sums, (columns.end - columns.begin) * sizeof *out);
    gpt2c_finish_row_ref(args, row, columns);
}

#endif
