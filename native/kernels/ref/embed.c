#include "matrix.h"
#include "ref.h"

void gpt2c_embed_ref(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    for (size_t k = 0; k < wte->n_in; k++) out[k] = gpt2c_matrix_at(wte, k, token) + wpe[k];
}
