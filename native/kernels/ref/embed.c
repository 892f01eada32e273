#include "matrix.h"
#include "quantized.h"
#include "ref.h"

/* Of the integer formats: the scales once for all steps of k that share them. */
static void embed_q8(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    const size_t lane = token % GPT2C_PANEL, n = wte->n_in;
    const gpt2c_q8_block *block = gpt2c_q8_panel(wte, token);
    for (size_t begin = 0; begin < n; begin += 2 * GPT2C_GROUP, block++) {
        const size_t end = n - begin < 2 * GPT2C_GROUP ? n : begin + 2 * GPT2C_GROUP;
        const float scale = gpt2c_bf16_to_f32(block->scale[lane]);
        for (size_t k = begin; k < end; k++) out[k] = scale * (float)gpt2c_q8_integer(block, k, lane) + wpe[k];
    }
}

static void embed_q4(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    const size_t lane = token % GPT2C_PANEL, n = wte->n_in;
    const gpt2c_q4_block *block = gpt2c_q4_panel(wte, token);
    const gpt2c_q4_columns *columns = gpt2c_q4_columns_of(wte, token);
    for (size_t begin = 0; begin < n; begin += GPT2C_GROUP, block++) {
        const size_t end = n - begin < GPT2C_GROUP ? n : begin + GPT2C_GROUP;
        const float scale = columns->scale[lane] * (float)block->scale[lane];
        const float least = columns->least[lane] * (float)block->least[lane];
        for (size_t k = begin; k < end; k++)
            out[k] = scale * (float)gpt2c_q4_integer(block, k, lane) - least + wpe[k];
    }
}

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    if (wte->layout == GPT2C_PANELS_Q8)
        embed_q8(out, wte, token, wpe);
    else if (wte->layout == GPT2C_PANELS_Q4)
        embed_q4(out, wte, token, wpe);
    else
        for (size_t k = 0; k < wte->n_in; k++) out[k] = gpt2c_matrix_at(wte, k, token) + wpe[k];
}
