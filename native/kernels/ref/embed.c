#include "format.h"
#include "ref.h"

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    const gpt2c_format *format = gpt2c_format_of(wte->layout);
    if (format->add_column != NULL)
        format->add_column(out, wte, token, wpe);
    else
        for (size_t k = 0; k < wte->n_in; k++) out[k] = format->at(wte, k, token) + wpe[k];
}
