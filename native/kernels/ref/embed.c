#include "half.h"
#include "ref.h"

static float weight_at(const gpt2c_matrix *w, size_t k, size_t c) {
    const float *f32 = w->data;
    const uint16_t *bf16 = w->data;
    const size_t panel = c / GPT2C_PANEL, lane = c % GPT2C_PANEL;
    switch (w->layout) {
    case GPT2C_IN_OUT: return f32[k * w->n_out + c];
    case GPT2C_OUT_IN: return f32[c * w->n_in + k];
    case GPT2C_PANELS: return f32[(panel * w->n_in + k) * GPT2C_PANEL + lane];
    case GPT2C_PANELS_BF16:
    default:
        return gpt2c_bf16_to_f32(bf16[((panel * ((w->n_in + 1) / 2) + k / 2) * GPT2C_PANEL + lane) * 2 + k % 2]);
    }
}

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    for (size_t k = 0; k < wte->n_in; k++) out[k] = weight_at(wte, k, token) + wpe[k];
}
