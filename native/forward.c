/* GPT-2 (Radford et al. 2019): the whole forward pass, once. Start reading here.
 *
 *   x = wte[token] + wpe[position]
 *   in each layer:   x = x + attn_proj(attention(qkv(ln_1(x))))
 *                    x = x + mlp_proj(gelu(mlp_fc(ln_2(x))))
 *   logits = ln_f(x) wte^T                                        (in head.c)
 *
 * Models derived from GPT-2 may use another activation than GELU's tanh form, scale the attention
 * scores differently, or have a separate output head instead of wte^T. ops.c and head.c handle these.
 *
 * Each line below runs one operation over a range of rows; a row is a token. The six switches (see
 * gpt2c_switch in gpt2c.h) decide only which rows these are. With its switch on, an operation computes
 * the rows of the new tokens, and reads older rows that earlier calls stored. With its switch off, it
 * computes the rows of all tokens so far again. Either way, an output row is computed from the same
 * input rows, summed in the same order, so its bits are the same.
 *
 * The operations (ops.c) choose their rows, count them, and call the kernels (kernels/). session.c
 * plans where each output is stored; outputs that no later call reads share memory.
 *
 * Once K and V of the last layer are stored, an output row needs no other row. So with all switches on,
 * only the rows that the caller needs are computed from there on: of a prompt, only the last one.
 */
#include "forward.h"

#include "ops.h"

const float *gpt2c_forward(gpt2c_pass *pass) {
    const gpt2c_session *s = pass->session;
    const gpt2c_model *model = s->model;
    const gpt2c_buffers *b = &s->buffers;
    const size_t n_layer = (size_t)model->config.n_layer;

    pass->first = 0;
    gpt2c_embed(pass, gpt2c_at(s, b->x, 0));

    for (size_t layer = 0; layer < n_layer; layer++) {
        const gpt2c_layer *weights = &model->layers[layer];

        const float *x = gpt2c_at(s, b->x, layer);
        float *ln_1 = gpt2c_at(s, b->ln_1, layer);
        float *qkv = gpt2c_at(s, b->qkv, layer);
        float *attn = gpt2c_at(s, b->attn, layer);
        float *attn_proj = gpt2c_at(s, b->attn_proj, layer);
        float *x_mid = gpt2c_at(s, b->x_mid, layer);

        gpt2c_layernorm(pass, ln_1, x, &weights->ln_1);
        gpt2c_project(pass, GPT2C_SWITCH_KV, qkv, ln_1, &weights->attn_qkv);
        gpt2c_store_kv(pass, qkv, layer);
        if (layer + 1 == n_layer) pass->first = pass->wanted;
        gpt2c_attend(pass, attn, qkv, layer);
        gpt2c_project_add(pass, x_mid, x, attn_proj, attn, &weights->attn_proj);

        float *ln_2 = gpt2c_at(s, b->ln_2, layer);
        float *mlp_fc = gpt2c_at(s, b->mlp_fc, layer);
        float *mlp_gelu = gpt2c_at(s, b->mlp_gelu, layer);
        float *mlp_proj = gpt2c_at(s, b->mlp_proj, layer);

        gpt2c_layernorm(pass, ln_2, x_mid, &weights->ln_2);
        gpt2c_project_gelu(pass, mlp_gelu, mlp_fc, ln_2, &weights->mlp_fc);
        gpt2c_project_add(pass, gpt2c_at(s, b->x, layer + 1), x_mid, mlp_proj, mlp_gelu,
                          &weights->mlp_proj);
    }

    float *ln_f = gpt2c_at(s, b->ln_f, 0);
    gpt2c_layernorm(pass, ln_f, gpt2c_at(s, b->x, n_layer), &model->ln_f);
    return ln_f;
}
