#include "ref.h"

static float weight_at(const gpt2c_matrix *w, size_t k, size_t c) {
    switch (w->layout) {
    case GPT2C_IN_OUT:
        return w->data[k * w->n_out + c];
    case GPT2C_OUT_IN:
        return w->data[c * w->n_in + k];
    case GPT2C_PANELS:
    default:
        return w->data[(c / GPT2C_PANEL * w->n_in + k) * GPT2C_PANEL + c % GPT2C_PANEL];
    }
}

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    for (size_t k = 0; k < wte->n_in; k++) out[k] = weight_at(wte, k, token) + wpe[k];
}
