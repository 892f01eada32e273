/* Panels of float32: [panels][n_in][PANEL]. */
#include "matrix.h"

static size_t bytes(const gpt2c_matrix *w) {
    return w->n_in * gpt2c_panels(w->n_out) * GPT2C_PANEL * sizeof(float);
}

static void set(gpt2c_matrix *w, const gpt2c_source *from) {
    float *next = w->data;
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += GPT2C_TILE_STEPS) {
            const size_t n = w->n_in - k < GPT2C_TILE_STEPS ? w->n_in - k : GPT2C_TILE_STEPS;
            gpt2c_panel_rows(next, w, from, first, k, n);
            next += n * GPT2C_PANEL;
        }
    }
}

static float at(const gpt2c_matrix *w, size_t k, size_t c) {
    return ((const float *)w->data)[(c / GPT2C_PANEL * w->n_in + k) * GPT2C_PANEL + c % GPT2C_PANEL];
}

const gpt2c_format gpt2c_format_f32 = {.bytes = bytes, .set = set, .at = at};
