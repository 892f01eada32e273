#include "matrix.h"

#include <stdint.h>

#include "half.h"

size_t gpt2c_matrix_numbers(const gpt2c_matrix *w) {
    return w->n_in * (w->layout == GPT2C_PANELS ? gpt2c_panels(w->n_out) * GPT2C_PANEL : w->n_out);
}

static float number_at(const unsigned char *data, gpt2c_dtype dtype, size_t i) {
    uint32_t word;
    uint16_t half;
    if (dtype == GPT2C_F32) {
        memcpy(&word, data + 4 * i, sizeof word);
        return gpt2c_float_of(word);
    }
    memcpy(&half, data + 2 * i, sizeof half);
    return dtype == GPT2C_F16 ? gpt2c_f16_to_f32(half) : gpt2c_bf16_to_f32(half);
}

void gpt2c_vector_set(float *out, size_t n, gpt2c_dtype dtype, const void *data) {
    for (size_t i = 0; i < n; i++) out[i] = number_at(data, dtype, i);
}

static void set_panels(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        float *panel = w->data + first * w->n_in;
        for (size_t k = 0; k < w->n_in; k++) {
            for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
                const size_t c = first + lane;
                const size_t i = given == GPT2C_IN_OUT ? k * w->n_out + c : c * w->n_in + k;
                /* Lanes behind the last column are 0: kernels compute them and throw them away. */
                panel[k * GPT2C_PANEL + lane] = c < w->n_out ? number_at(data, dtype, i) : 0.0f;
            }
        }
    }
}

/* From one row-major layout to the other. */
static void set_transposed(gpt2c_matrix *w, gpt2c_dtype dtype, const void *data) {
    const size_t n_rows = w->layout == GPT2C_IN_OUT ? w->n_in : w->n_out;
    const size_t n_columns = w->layout == GPT2C_IN_OUT ? w->n_out : w->n_in;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            w->data[r * n_columns + c] = number_at(data, dtype, c * n_rows + r);
}

void gpt2c_matrix_set(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    if (w->layout == GPT2C_PANELS)
        set_panels(w, given, dtype, data);
    else if (w->layout == given)
        gpt2c_vector_set(w->data, w->n_in * w->n_out, dtype, data);
    else
        set_transposed(w, dtype, data);
}
