/* A token's row is a column of the head's panels: one float in every GPT2C_PANEL, loaded by gather.
 * Each float costs a cache line, n_embd lines per token, and no instruction avoids that. */
#include "avx512.h"
#include "kernels/ref/ref.h"
#include "lanes.h"

void gpt2c_embed_avx512(float *out, const gpt2c_matrix *wte, size_t token, const float *wpe) {
    if (wte->layout != GPT2C_LAYOUT_PANELS) {
        gpt2c_embed_ref(out, wte, token, wpe);
        return;
    }
    const float *column = (const float *)wte->data + token / GPT2C_PANEL * GPT2C_PANEL * wte->n_in + token % GPT2C_PANEL;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i offsets = _mm512_mullo_epi32(lane, _mm512_set1_epi32(GPT2C_PANEL));
    for (size_t k = 0; k < wte->n_in; k += GPT2C_LANES) {
        const __mmask16 lanes = gpt2c_lanes(wte->n_in - k);
        const __m512 token_row = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, offsets,
                                                          column + k * GPT2C_PANEL, sizeof(float));
        const __m512 position_row = _mm512_maskz_loadu_ps(lanes, wpe + k);
        _mm512_mask_storeu_ps(out + k, lanes, _mm512_add_ps(token_row, position_row));
    }
}
