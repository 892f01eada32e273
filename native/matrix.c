#include "matrix.h"

#include <string.h>

#include "half.h"

size_t gpt2c_matrix_bytes(const gpt2c_matrix *w) { return gpt2c_format_of(w->layout)->bytes(w); }

void gpt2c_matrix_set(gpt2c_matrix *w, const gpt2c_source *from) { gpt2c_format_of(w->layout)->set(w, from); }

int gpt2c_matrix_is_sound(const gpt2c_matrix *w) {
    const gpt2c_format *format = gpt2c_format_of(w->layout);
    return format->is_sound == NULL || format->is_sound(w);
}

/* ---- Helpers for formats ---- */

void gpt2c_convert(float *out, size_t n, gpt2c_dtype dtype, const void *data, size_t first) {
    const unsigned char *from = (const unsigned char *)data + first * (dtype == GPT2C_DTYPE_F32 ? 4 : 2);
    uint16_t half;
    if (dtype == GPT2C_DTYPE_F32) {
        memcpy(out, from, n * sizeof *out);
    } else if (dtype == GPT2C_DTYPE_F16) {
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

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

void gpt2c_panel_rows(float *out, const gpt2c_matrix *w, const gpt2c_source *from, size_t first, size_t k,
                      size_t n) {
    const size_t lanes = min(w->n_out - first, GPT2C_PANEL), rows = min(w->n_in - k, n);
    if (lanes < GPT2C_PANEL || rows < n) memset(out, 0, n * GPT2C_PANEL * sizeof *out);
    if (from->given == GPT2C_LAYOUT_IN_OUT) {
        for (size_t i = 0; i < rows; i++)
            gpt2c_convert(out + i * GPT2C_PANEL, lanes, from->dtype, from->data, (k + i) * w->n_out + first);
        return;
    }
    float turned[GPT2C_PANEL][GPT2C_TILE_STEPS];
    for (size_t lane = 0; lane < lanes; lane++)
        gpt2c_convert(turned[lane], rows, from->dtype, from->data, (first + lane) * w->n_in + k);
    for (size_t i = 0; i < rows; i++)
        for (size_t lane = 0; lane < lanes; lane++) out[i * GPT2C_PANEL + lane] = turned[lane][i];
}
