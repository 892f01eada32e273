/* Weight matrices: laying the file's numbers out for the kernels. */
#ifndef GPT2C_MATRIX_H
#define GPT2C_MATRIX_H

#include "gpt2c.h"
#include "kernels.h"

/* The layout of a format's panels. */
gpt2c_layout gpt2c_layout_of_format(int32_t format);

/* Bytes that the numbers take, padding included. */
size_t gpt2c_matrix_bytes(const gpt2c_matrix *w);

/* Sets every number of w, a panel's padding too. `data` holds n_in * n_out numbers of `dtype` at any
 * address, which lie as `given`: GPT2C_IN_OUT or GPT2C_OUT_IN. */
void gpt2c_matrix_set(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data);

/* Whether numbers that were not made here, w->data, are such as gpt2c_matrix_set makes them. */
int gpt2c_matrix_is_sound(const gpt2c_matrix *w);

/* Weight w[k][c], as float32. */
float gpt2c_matrix_at(const gpt2c_matrix *w, size_t k, size_t c);

/* Converts n numbers of `dtype` at any address. */
void gpt2c_vector_set(float *out, size_t n, gpt2c_dtype dtype, const void *data);

#endif
