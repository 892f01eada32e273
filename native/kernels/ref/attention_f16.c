/* Attention as in attention.c, over K and V in half precision: rounded when stored, widened when
 * read, summed as floats. They are laid out as [position][head][head_dim]. */

#include "half.h"
#include "ref.h"

void gpt2c_store_f16_ref(const gpt2c_kv *kv, const float *qkv, size_t rows, size_t position) {
    const size_t n_embd = kv->n_head * kv->head_dim;
    uint16_t *k = (uint16_t *)kv->k + position * n_embd, *v = (uint16_t *)kv->v + position * n_embd;
    for (size_t r = 0; r < rows; r++, qkv += 3 * n_embd) {
        for (size_t i = 0; i < n_embd; i++) {
            k[r * n_embd + i] = gpt2c_f32_to_finite_f16(qkv[n_embd + i]);
            v[r * n_embd + i] = gpt2c_f32_to_finite_f16(qkv[2 * n_embd + i]);
        }
    }
}

void gpt2c_attention_f16_ref(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    const gpt2c_kv *kv = args->kv;
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    const float scale = args->scale;

    for (size_t r = rows.begin; r < rows.end; r++) {
        const size_t n = args->position + r + 1; /* positions this row attends to */
        for (size_t h = heads.begin; h < heads.end; h++) {
            const float *q = args->qkv + r * 3 * n_embd + h * head_dim;
            const uint16_t *k = (const uint16_t *)kv->k + h * head_dim;
            const uint16_t *v = (const uint16_t *)kv->v + h * head_dim;
            float *out = args->out + r * n_embd + h * head_dim;

            for (size_t t = 0; t < n; t++) {
                float dot = 0.0f;
                for (size_t d = 0; d < head_dim; d++) dot += q[d] * gpt2c_f16_to_f32(k[t * n_embd + d]);
                args->scores[t] = args->fused ? dot * scale : dot;
            }
            for (size_t t = 0; !args->fused && t < n; t++) args->scores[t] *= scale;

            gpt2c_softmax_ref(args->scores, args->scores, n);

            for (size_t d = 0; d < head_dim; d++) out[d] = 0.0f;
            for (size_t t = 0; t < n; t++)
                for (size_t d = 0; d < head_dim; d++)
                    out[d] += args->scores[t] * gpt2c_f16_to_f32(v[t * n_embd + d]);
        }
    }
}
