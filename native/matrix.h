/* Weight matrices in any format: laying the file's numbers out for the kernels. */
#ifndef GPT2C_MATRIX_H
#define GPT2C_MATRIX_H

#include "format.h"

/* What w's format (format.h) says of it. */
size_t gpt2c_matrix_bytes(const gpt2c_matrix *w);
void gpt2c_matrix_set(gpt2c_matrix *w, const gpt2c_source *from);
int gpt2c_matrix_is_sound(const gpt2c_matrix *w);

/* ---- What formats are written with ---- */

/* Converts the n numbers from number `first` on. */
void gpt2c_convert(float *out, size_t n, gpt2c_dtype dtype, const void *data, size_t first);

/* Rows of a panel that are converted in one go, while they are in the cache; an even number, and a block
 * of q8. */
#define GPT2C_TILE_STEPS 64

/* Rows k .. k + n of the panel whose columns begin at `first`, in float32: [n][GPT2C_PANEL]; n is at most
 * GPT2C_TILE_STEPS. 0 after the last row and column: kernels compute with the padding of panels, and throw
 * the result away. */
void gpt2c_panel_rows(float *out, const gpt2c_matrix *w, const gpt2c_source *from, size_t first, size_t k,
                      size_t n);

#endif
