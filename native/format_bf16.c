/* Panels of bfloat16, with two steps of k next to each other: [panels][ceil(n_in / 2)][PANEL][2]. */
#include "half.h"
#include "matrix.h"

static size_t bytes(const gpt2c_matrix *w) {
    return gpt2c_pad(w->n_in, 2) * gpt2c_panels(w->n_out) * GPT2C_PANEL * sizeof(uint16_t);
}

static void set(gpt2c_matrix *w, const gpt2c_source *from) {
    uint16_t *next = w->data;
    float rows[GPT2C_TILE_STEPS * GPT2C_PANEL];
    for (size_t first = 0; first < w->n_out; first += GPT2C_PANEL) {
        for (size_t k = 0; k < w->n_in; k += GPT2C_TILE_STEPS) {
            const size_t n = w->n_in - k < GPT2C_TILE_STEPS ? gpt2c_pad(w->n_in - k, 2) : GPT2C_TILE_STEPS;
            gpt2c_panel_rows(rows, w, from, first, k, n);
            for (size_t i = 0; i < n; i += 2)
                for (size_t lane = 0; lane < GPT2C_PANEL; lane++)
                    for (size_t j = 0; j < 2; j++)
                        *next++ = gpt2c_f32_to_bf16(rows[(i + j) * GPT2C_PANEL + lane]);
        }
    }
}

static float at(const gpt2c_matrix *w, size_t k, size_t c) {
    const uint16_t *panel = (const uint16_t *)w->data + c / GPT2C_PANEL * gpt2c_pad(w->n_in, 2) * GPT2C_PANEL;
    return gpt2c_bf16_to_f32(panel[(k / 2 * GPT2C_PANEL + c % GPT2C_PANEL) * 2 + k % 2]);
}

const gpt2c_format gpt2c_format_bf16 = {.bytes = bytes, .set = set, .at = at};
