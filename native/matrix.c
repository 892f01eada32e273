#include "matrix.h"

#include <stdint.h>

#include "half.h"
#include "quantized.h"

typedef struct format_row {
    const char *name;
    gpt2c_layout layout;
} format_row;

#define GPT2C_FORMAT(name, layout, roundoff) {#name, layout},
static const format_row format_rows[] = {
#include "formats.def"
};
#undef GPT2C_FORMAT

int32_t gpt2c_format_count(void) { return (int32_t)(sizeof format_rows / sizeof format_rows[0]); }

const char *gpt2c_format_name(int32_t format) {
    return format >= 0 && format < gpt2c_format_count() ? format_rows[format].name : NULL;
}

gpt2c_layout gpt2c_layout_of_format(int32_t format) { return format_rows[format].layout; }

size_t gpt2c_matrix_bytes(const gpt2c_matrix *w) {
    const size_t columns = gpt2c_panels(w->n_out) * GPT2C_PANEL;
    switch (w->layout) {
    case GPT2C_PANELS: return w->n_in * columns * sizeof(float);
    case GPT2C_PANELS_BF16: return gpt2c_pad(w->n_in, 2) * columns * sizeof(uint16_t);
    case GPT2C_PANELS_Q8: return gpt2c_q8_bytes(w);
    case GPT2C_PANELS_Q4: return gpt2c_q4_bytes(w);
    case GPT2C_IN_OUT:
    case GPT2C_OUT_IN:
    default: return w->n_in * w->n_out * sizeof(float);
    }
}

int gpt2c_matrix_is_sound(const gpt2c_matrix *w) {
    if (w->layout == GPT2C_PANELS_Q8) return gpt2c_q8_is_sound(w);
    if (w->layout == GPT2C_PANELS_Q4) return gpt2c_q4_is_sound(w);
    return 1; /* any bits are a number */
}

float gpt2c_matrix_at(const gpt2c_matrix *w, size_t k, size_t c) {
    const float *f32 = w->data;
    const uint16_t *bf16 = w->data;
    const size_t panel = c / GPT2C_PANEL, lane = c % GPT2C_PANEL;
    switch (w->layout) {
    case GPT2C_IN_OUT: return f32[k * w->n_out + c];
    case GPT2C_OUT_IN: return f32[c * w->n_in + k];
    case GPT2C_PANELS: return f32[(panel * w->n_in + k) * GPT2C_PANEL + lane];
    case GPT2C_PANELS_Q8: return gpt2c_q8_at(w, k, c);
    case GPT2C_PANELS_Q4: return gpt2c_q4_at(w, k, c);
    case GPT2C_PANELS_BF16:
    default:
        return gpt2c_bf16_to_f32(bf16[((panel * ((w->n_in + 1) / 2) + k / 2) * GPT2C_PANEL + lane) * 2 + k % 2]);
    }
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

/* Rows of a panel that are converted in one go, while they are in the cache; an even number, and a
 * block of q8. */
#define TILE 64

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Rows k .. k + n of the panel whose columns begin at `first`, in float32: [n][GPT2C_PANEL]. 0 behind the
 * last row and column: kernels compute with the padding of panels, and throw the result away. */
static void panel_rows(float *out, const gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype,
                       const void *data, size_t first, size_t k, size_t n) {
    const size_t lanes = least(w->n_out - first, GPT2C_PANEL), rows = least(w->n_in - k, n);
    if (lanes < GPT2C_PANEL || rows < n) memset(out, 0, n * GPT2C_PANEL * sizeof *out);
    if (given == GPT2C_IN_OUT) {
        for (size_t i = 0; i < rows; i++)
            convert(out + i * GPT2C_PANEL, lanes, dtype, data, (k + i) * w->n_out + first);
        return;
    }
    float turned[GPT2C_PANEL][TILE];
    for (size_t lane = 0; lane < lanes; lane++)
        convert(turned[lane], rows, dtype, data, (first + lane) * w->n_in + k);
    for (size_t i = 0; i < rows; i++)
        for (size_t lane = 0; lane < lanes; lane++) out[i * GPT2C_PANEL + lane] = turned[lane][i];
}

static void set_panels(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    float *next = w->data;
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += TILE) {
            const size_t n = least(w->n_in - k, TILE);
            panel_rows(next, w, given, dtype, data, first, k, n);
            next += n * GPT2C_PANEL;
        }
    }
}

static void set_panels_bf16(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    uint16_t *next = w->data;
    float rows[TILE * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += TILE) {
            const size_t n = gpt2c_pad(least(w->n_in - k, TILE), 2);
            panel_rows(rows, w, given, dtype, data, first, k, n);
            for (size_t i = 0; i < n; i += 2)
                for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
                    for (size_t j = 0; j < 2; j++)
                        *next++ = gpt2c_f32_to_bf16(rows[(i + j) * GPT2C_PANEL + lane]);
        }
    }
}

static void set_panels_q8(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    gpt2c_q8_block *next = w->data;
    float rows[TILE * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += TILE) {
            panel_rows(rows, w, given, dtype, data, first, k, TILE);
            gpt2c_q8_quantize(next++, rows);
        }
    }
}

static void set_panels_q4(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    const size_t n = gpt2c_q4_blocks(w->n_in);
    gpt2c_q4_block *blocks = w->data;
    float rows[GPT2C_GROUP * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL, blocks += n) {
        gpt2c_q4_columns *columns = gpt2c_q4_columns_of(w, first);
        for (size_t i = 0; i < n; i++) {
            panel_rows(rows, w, given, dtype, data, first, i * GPT2C_GROUP, GPT2C_GROUP);
            gpt2c_q4_fit(&blocks[i], rows);
        }
        gpt2c_q4_scale(columns, blocks, n);
        for (size_t i = 0; i < n; i++) {
            panel_rows(rows, w, given, dtype, data, first, i * GPT2C_GROUP, GPT2C_GROUP);
            gpt2c_q4_round(&blocks[i], columns, rows);
        }
    }
}

/* From one row-major layout to the other. */
static void set_transposed(gpt2c_matrix *w, gpt2c_dtype dtype, const void *data) {
    float *out = w->data;
    const size_t n_rows = w->layout == GPT2C_IN_OUT ? w->n_in : w->n_out;
    const size_t n_columns = w->layout == GPT2C_IN_OUT ? w->n_out : w->n_in;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            convert(&out[r * n_columns + c], 1, dtype, data, c * n_rows + r);
}

void gpt2c_matrix_set(gpt2c_matrix *w, gpt2c_layout given, gpt2c_dtype dtype, const void *data) {
    if (w->layout == GPT2C_PANELS)
        set_panels(w, given, dtype, data);
    else if (w->layout == GPT2C_PANELS_BF16)
        set_panels_bf16(w, given, dtype, data);
    else if (w->layout == GPT2C_PANELS_Q8)
        set_panels_q8(w, given, dtype, data);
    else if (w->layout == GPT2C_PANELS_Q4)
        set_panels_q4(w, given, dtype, data);
    else if (w->layout == given)
        gpt2c_vector_set(w->data, w->n_in * w->n_out, dtype, data);
    else
        set_transposed(w, dtype, data);
}
