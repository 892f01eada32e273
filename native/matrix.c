#include "matrix.h"

#include <stdint.h>

#include "half.h"

size_t gpt2c_matrix_numbers(const gpt2c_matrix *w) {
    return w->n_in * (w->layout == GPT2C_PANELS ? gpt2c_panels(w->n_out) * GPT2C_PANEL : w->n_out);
}

/* The n numbers from number `first` on. */
static void convert(float *out, size_t n, gpt2c_dtype dtype, const void *data, size_t first) {
    const unsigned char *from = (const unsigned char *)data + first * (dtype == GPT2C_F32 ? 4 : 2);
    uint16_t half;
    if (dtype == GPT2C_F32) {
        memcpy(out, from, n * sizeof *out);
    } else if (dtype == GPT2C_F16) {
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, sizeof half);
            out[i] = gpt2c_f16_to_f32(half);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, sizeof half);
            out[i] = gpt2c_bf16_to_f32(half);
        }
    }
}

void gpt2c_vector_set(float *out, size_t n, gpt2c_dtype dtype, const void *data) {
    convert(out, n, dtype, data, 0);
}

/* In both directions lanes behind the last column are 0: kernels compute them and throw them away. */

static void panels_from_in_out(gpt2c_matrix *w, gpt2c_dtype dtype, const void *data) {
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        const size_t lanes = w->n_out - first < GPT2C_PANEL ? w->n_out - first : GPT2C_PANEL;
        float *to = w->data + first * w->n_in;
        for (size_t k = 0; k < w->n_in; k++, to += GPT2C_PANEL) {
            convert(to, lanes, dtype, data, k * w->n_out + first);
            for (size_t lane = lanes; lane < GPT2C_PANEL; lane++) to[lane] = 0.0f;
        }
    }
}

/* Numbers of each of a panel's rows that are read in one go, then turned while they are in the cache. */
#define TILE 64

static void panels_from_out_in(gpt2c_matrix *w, gpt2c_dtype dtype, const void *data) {
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        const size_t lanes = w->n_out - first < GPT2C_PANEL ? w->n_out - first : GPT2C_PANEL;
        float *to = w->data + first * w->n_in;
        float tile[GPT2C_PANEL][TILE] = {{0.0f}};
        for (size_t k = 0; k < w->n_in; k += TILE) {
            const size_t width = w->n_in - k < TILE ? w->n_in - k : TILE;
            for (size_t lane = 0; lane < lanes; lane++)
                convert(tile[lane], width, dtype, data, (first + lane) * w->n_in + k);
            for (size_t i = 0; i < width; i++, to += GPT2C_PANEL)
                for (size_t lane = 0; lane < GPT2C_PANEL; lane++) to[lane] = tile[lane][i];
        }
    }
}

/* From one row-major layout to the other. */
static void set_transposed(gpt2c_matrix *w, gpt2c_dtype dtype, const void *data) {
    const size_t n_rows = w->layout == GPT2C_IN_OUT ? w->n_in : w->n_out;
    const size_t n_columns = w->layout == GPT2C_IN_OUT ? w->n_out : w->n_in;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            convert(&w->data[r * n_columns + c], 1, dtype, data, c * n_rows + r);
}

void gpt2c_matrix_set(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    if (w->layout == GPT2C_PANELS && given == GPT2C_IN_OUT)
        panels_from_in_out(w, dtype, data);
    else if (w->layout == GPT2C_PANELS)
        panels_from_out_in(w, dtype, data);
    else if (w->layout == given)
        gpt2c_vector_set(w->data, w->n_in * w->n_out, dtype, data);
    else
        set_transposed(w, dtype, data);
}
