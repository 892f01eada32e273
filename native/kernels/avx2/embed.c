/* A token's row is a column of the head's panels: one float in every GPT2C_PANEL, loaded by gather.
 * Each float costs a cache line, n_embd lines per token, and no instruction avoids that. */
#include "avx2.h"
#include "kernels/ref/ref.h"
#include "lanes.h"

void gpt2c_embed_avx2(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    if (wte->layout != GPT2C_LAYOUT_PANELS) {
        gpt2c_embed_ref(out, wte, token, wpe);
        return;
    }
    const float *column = (const float *)wte->data + token / GPT2C_PANEL * GPT2C_PANEL * wte->n_in + token % GPT2C_PANEL;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i offsets = _mm256_mullo_epi32(lane, _mm256_set1_epi32(GPT2C_PANEL));
    for (size_t k = 0; k < wte->n_in; k += GPT2C_LANES) {
        const size_t left = wte->n_in - k;
        const __m256 lanes = _mm256_castsi256_ps(gpt2c_lanes(left));
        const __m256 token_row = _mm256_mask_i32gather_ps(_mm256_setzero_ps(), column + k * GPT2C_PANEL,
                                                          offsets, lanes, sizeof(float));
        gpt2c_store(out + k, left, _mm256_add_ps(token_row, gpt2c_load(wpe + k, left)));
    }
}
