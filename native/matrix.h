/* Weight matrices in any format: converting weights from a file to the layout of the kernels. */
#ifndef GPT2C_MATRIX_H
#define GPT2C_MATRIX_H

#include "format.h"

/* These call the functions of w's format (format.h). */
size_t gpt2c_matrix_bytes(const gpt2c_matrix *w);
void gpt2c_matrix_set(gpt2c_matrix *w, const gpt2c_source *from);
int gpt2c_matrix_is_sound(const gpt2c_matrix *w);

/* ---- Helpers for formats ---- */

/* Converts n elements, beginning at element `first`. */
void gpt2c_convert(float *out, size_t n, gpt2c_dtype dtype, const void *data, size_t first);

/* Rows of a panel that are converted together, while they are in the cache; even, and the rows of a q8
 * block. */
#define GPT2C_TILE_STEPS 64

/* Rows k to k + n - 1 of the panel whose columns begin at `first`, in float32: [n][GPT2C_PANEL], with n at
 * most GPT2C_TILE_STEPS. Elements after the last row or column are 0: kernels compute with the padding of
 * panels and discard the result. */
void gpt2c_panel_rows(float *out, const gpt2c_matrix *w, const gpt2c_source *from, size_t first, size_t k,
                      size_t n);

#endif
