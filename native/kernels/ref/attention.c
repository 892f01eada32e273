/* Causal self-attention (Vaswani et al. 2017, equation 1): each row attends to the positions up to
 * its own. K and V are laid out as [position][head][head_dim]. */
#include <string.h>

#include "ref.h"

void gpt2c_store_ref(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    const size_t n_embd = kv->n_head * kv->head_dim;
    float *k = (float *)kv->k + position * n_embd, *v = (float *)kv->v + position * n_embd;
    for (size_t r = 0; r < rows; r++, qkv += 3 * n_embd) {
        memcpy(k + r * n_embd, qkv + n_embd, n_embd * sizeof(float));
        memcpy(v + r * n_embd, qkv + 2 * n_embd, n_embd * sizeof(float));
    }
}

/* The position is the outermost index, so any range of positions is one run of K and one run of V,
 * in floats and in halves. */
void gpt2c_kv_runs_ref(const gpt2c_kv *kv, gpt2c_span positions, gpt2c_kv_visit *visit, void *context) {
    const size_t row_bytes = kv->n_head * kv->head_dim * gpt2c_kv_element_bytes(kv->f16);
    const size_t skipped = positions.begin * row_bytes, n_bytes = (positions.end - positions.begin) * row_bytes;
    visit(context, (char *)kv->k + skipped, n_bytes);
    visit(context, (char *)kv->v + skipped, n_bytes);
}

void gpt2c_attention_ref(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    const gpt2c_kv *kv = args->kv;
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    const float scale = args->scale;

    for (size_t r = rows.begin; r < rows.end; r++) {
        const size_t n = args->position + r + 1; /* positions this row attends to */
        for (size_t h = heads.begin; h < heads.end; h++) {
            const float *q = args->qkv + r * 3 * n_embd + h * head_dim;
            const float *k = (const float *)kv->k + h * head_dim;
            const float *v = (const float *)kv->v + h * head_dim;
            float *out = args->out + r * n_embd + h * head_dim;

            for (size_t t = 0; t < n; t++) {
                float dot = 0.0f;
                for (size_t d = 0; d < head_dim; d++) dot += q[d] * k[t * n_embd + d];
                args->scores[t] = args->fused ? dot * scale : dot;
            }
            for (size_t t = 0; !args->fused && t < n; t++) args->scores[t] *= scale;

            gpt2c_softmax_ref(args->scores, args->scores, n);

            for (size_t d = 0; d < head_dim; d++) out[d] = 0.0f;
            for (size_t t = 0; t < n; t++)
                for (size_t d = 0; d < head_dim; d++) out[d] += args->scores[t] * v[t * n_embd + d];
        }
    }
}
