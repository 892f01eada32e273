/* q8: 8 bits per weight and a scale for each 64 steps of a column (quantized.h). */
#include <math.h>

#include "matrix.h"
#include "quantized.h"

static size_t bytes(const gpt2c_matrix *w) {
    return gpt2c_panels(w->n_out) * gpt2c_q8_blocks(w->n_in) * sizeof(gpt2c_q8_block);
}

/* Rounds x upwards to a bfloat16; x is not negative, or is NaN. */
static uint16_t to_bf16_upwards(float x) {
    if (isnan(x)) return 0x7fc0u;
    return (uint16_t)((gpt2c_bits_of(x) + 0xffffu) >> 16);
}

/* Quantizes a block from its rows of float32, [2 GPT2C_GROUP][GPT2C_PANEL]. Weights beyond 1e15 count as
 * 1e15; a NaN makes its scale NaN. */
static void quantize(gpt2c_q8_block *block, const float *rows) {
    float largest[GPT2C_PANEL] = {0.0f}, scale[GPT2C_PANEL];
    for (size_t k = 0; k < 2 * GPT2C_GROUP; k++) {
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            largest[lane] = gpt2c_larger(fabsf(gpt2c_finite_weight(rows[k * GPT2C_PANEL + lane])), largest[lane]);
        }
    }
    for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
        block->scale[lane] = to_bf16_upwards(largest[lane] / 127.0f);
        scale[lane] = gpt2c_bf16_to_f32(block->scale[lane]);
    }
    for (size_t k = 0; k < 2 * GPT2C_GROUP; k++) {
        int8_t (*quad)[GPT2C_QUAD] = block->q[k / GPT2C_GROUP][k % GPT2C_GROUP / GPT2C_QUAD];
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++) {
            const float w = gpt2c_finite_weight(rows[k * GPT2C_PANEL + lane]);
            const float q = scale[lane] > 0.0f ? w / scale[lane] : 0.0f;
            quad[lane][k % GPT2C_QUAD] = (int8_t)gpt2c_to_integer(gpt2c_clamp(q, -127.0f, 127.0f));
        }
    }
}

static void set(gpt2c_matrix *w, const gpt2c_source *from) {
    gpt2c_q8_block *next = w->data;
    float rows[2 * GPT2C_GROUP * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += 2 * GPT2C_GROUP) {
            gpt2c_panel_rows(rows, w, from, first, k, 2 * GPT2C_GROUP);
            quantize(next++, rows);
        }
    }
}

static float at(const gpt2c_matrix *w, size_t k, size_t c) {
    const gpt2c_q8_block *block = gpt2c_q8_panel(w, c) + k / (2 * GPT2C_GROUP);
    const size_t lane = c % GPT2C_PANEL;
    return gpt2c_bf16_to_f32(block->scale[lane]) * (float)gpt2c_q8_integer(block, k, lane);
}

/* Computes the scale once for all steps of k that share it. */
static void add_column(float *out, const gpt2c_matrix *w, size_t c, const float *b) {
    const size_t lane = c % GPT2C_PANEL, n = w->n_in;
    const gpt2c_q8_block *block = gpt2c_q8_panel(w, c);
    for (size_t begin = 0; begin < n; begin += 2 * GPT2C_GROUP, block++) {
        const size_t end = n - begin < 2 * GPT2C_GROUP ? n : begin + 2 * GPT2C_GROUP;
        const float scale = gpt2c_bf16_to_f32(block->scale[lane]);
        for (size_t k = begin; k < end; k++) out[k] = scale * (float)gpt2c_q8_integer(block, k, lane) + b[k];
    }
}

static int is_sound(const gpt2c_matrix *w) {
    const gpt2c_q8_block *block = w->data;
    const uint16_t largest = to_bf16_upwards(GPT2C_MAX_WEIGHT / 127.0f);
    for (size_t n = gpt2c_panels(w->n_out) * gpt2c_q8_blocks(w->n_in); n > 0; n--, block++)
        for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
            if (block->scale[lane] > largest) return 0; /* bits of infinite, NaN and negative scales are larger */
    return 1;
}

const gpt2c_format gpt2c_format_q8 = {
    .is_integer = 1,
    .bytes = bytes,
    .set = set,
    .at = at,
    .add_column = add_column,
    .is_sound = is_sound,
};
