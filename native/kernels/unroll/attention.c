/* Attention, four positions at a time: the scores get four independent chains of additions, and the
 * weighted sum loads and stores the output once per four additions. K and V are laid out as in ref,
 * and over halves this set inherits ref's attention. */
#include "kernels/ref/ref.h"
#include "unroll.h"

static void scores_of(float *scores, const float *q, const float *k, size_t n, size_t head_dim,
                      size_t stride) {
    size_t t = 0;
    for (; t + 4 <= n; t += 4) {
        const float *k0 = k + t * stride, *k1 = k0 + stride, *k2 = k1 + stride, *k3 = k2 + stride;
        float dot0 = 0.0f, dot1 = 0.0f, dot2 = 0.0f, dot3 = 0.0f;
        for (size_t d = 0; d < head_dim; d++) {
            dot0 += q[d] * k0[d];
            dot1 += q[d] * k1[d];
            dot2 += q[d] * k2[d];
            dot3 += q[d] * k3[d];
        }
        scores[t] = dot0;
        scores[t + 1] = dot1;
        scores[t + 2] = dot2;
        scores[t + 3] = dot3;
    }
    for (; t < n; t++) {
        float dot = 0.0f;
        for (size_t d = 0; d < head_dim; d++) dot += q[d] * k[t * stride + d];
        scores[t] = dot;
    }
}

static void weighted_sum(float *restrict out, const float *p, const float *v, size_t n,
                         size_t head_dim, size_t stride) {
    for (size_t d = 0; d < head_dim; d++) out[d] = 0.0f;
    size_t t = 0;
    for (; t + 4 <= n; t += 4) {
        const float *v0 = v + t * stride, *v1 = v0 + stride, *v2 = v1 + stride, *v3 = v2 + stride;
        const float p0 = p[t], p1 = p[t + 1], p2 = p[t + 2], p3 = p[t + 3];
        for (size_t d = 0; d < head_dim; d++)
            out[d] = (((out[d] + p0 * v0[d]) + p1 * v1[d]) + p2 * v2[d]) + p3 * v3[d];
    }
    for (; t < n; t++)
        for (size_t d = 0; d < head_dim; d++) out[d] += p[t] * v[t * stride + d];
}

void gpt2c_attention_unroll(const gpt2c_attention_args *args, gpt2c_span rows, gpt2c_span heads) {
    const gpt2c_kv *kv = args->kv;
    const size_t head_dim = kv->head_dim, n_embd = kv->n_head * head_dim;
    const float *k = kv->k, *v = kv->v;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const size_t n = args->position + r + 1;
        for (size_t h = heads.begin; h < heads.end; h++) {
            const size_t at = h * head_dim;
            scores_of(args->scores, args->qkv + r * 3 * n_embd + at, k + at, n, head_dim, n_embd);
            for (size_t t = 0; t < n; t++) args->scores[t] *= args->scale;
            gpt2c_softmax_ref(args->scores, args->scores, n);
            weighted_sum(args->out + r * n_embd + at, args->scores, v + at, n, head_dim, n_embd);
        }
    }
}
