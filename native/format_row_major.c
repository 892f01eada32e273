/* Float32 as in the file, [n_in, n_out] or [n_out, n_in]. */
#include "matrix.h"

static size_t bytes(const gpt2c_matrix *w) { return w->n_in * w->n_out * sizeof(float); }

static void set_transposed(float *out, size_t n_rows, size_t n_columns, const gpt2c_source *from) {
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            gpt2c_convert(&out[r * n_columns + c], 1, from->dtype, from->data, c * n_rows + r);
}

static void set_in_out(gpt2c_matrix *w, const gpt2c_source *from) {
    if (from->given == GPT2C_LAYOUT_IN_OUT)
        gpt2c_convert(w->data, w->n_in * w->n_out, from->dtype, from->data, 0);
    else
        set_transposed(w->data, w->n_in, w->n_out, from);
}

static void set_out_in(gpt2c_matrix *w, const gpt2c_source *from) {
    if (from->given == GPT2C_LAYOUT_OUT_IN)
        gpt2c_convert(w->data, w->n_in * w->n_out, from->dtype, from->data, 0);
    else
        set_transposed(w->data, w->n_out, w->n_in, from);
}

static float at_in_out(const gpt2c_matrix *w, size_t k, size_t c) {
    return ((const float *)w->data)[k * w->n_out + c];
}

static float at_out_in(const gpt2c_matrix *w, size_t k, size_t c) {
    return ((const float *)w->data)[c * w->n_in + k];
}

const gpt2c_format gpt2c_format_in_out = {.bytes = bytes, .set = set_in_out, .at = at_in_out};
const gpt2c_format gpt2c_format_out_in = {.bytes = bytes, .set = set_out_in, .at = at_out_in};
