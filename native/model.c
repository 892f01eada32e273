/* Weights come in one tensor at a time, are converted to float32 and laid out, and then frozen. */
#include "model.h"

#include <math.h>

#include "gelu_table.h"
#include "matrix.h"
#include "memory.h"

/* ---- Creation ---- */

/* Bounds that keep every product below inside a size_t and far from any real model. */
#define MOST_LAYERS 1024
#define MOST_WIDTH 65536
#define MOST_CONTEXT (1 << 20)
#define MOST_VOCABULARY (1 << 24)

static int in_range(int32_t value, int32_t most) { return value >= 1 && value <= most; }

static gpt2c_status check_config(const gpt2c_model_config *config) {
    const int shape = in_range(config->n_layer, MOST_LAYERS) && in_range(config->n_embd, MOST_WIDTH) &&
                      in_range(config->n_head, config->n_embd) &&
                      config->n_embd % config->n_head == 0 &&
                      in_range(config->n_inner, 4 * MOST_WIDTH) &&
                      in_range(config->n_ctx, MOST_CONTEXT) &&
                      in_range(config->n_vocab, MOST_VOCABULARY);
    const int plan = config->switches < 1u << GPT2C_SWITCH_COUNT && config->gelu_table >> 1 == 0 &&
                     config->aligned >> 1 == 0;
    if (!shape || !plan) return GPT2C_INVALID_ARGUMENT;
    if (!(config->layer_norm_epsilon > 0.0f) || isinf(config->layer_norm_epsilon))
        return GPT2C_INVALID_ARGUMENT;

    gpt2c_isa_info isa;
    const gpt2c_status status = gpt2c_isa_get(config->isa, &isa);
    if (status != GPT2C_OK) return status;
    return isa.supported ? GPT2C_OK : GPT2C_UNSUPPORTED;
}

static float *new_vector(gpt2c_model *model, size_t n) {
    model->weight_bytes += n * sizeof(float);
    return gpt2c_alloc(n, sizeof(float));
}

static int new_norm(gpt2c_model *model, gpt2c_norm *norm) {
    norm->weight = new_vector(model, (size_t)model->config.n_embd);
    norm->bias = new_vector(model, (size_t)model->config.n_embd);
    return norm->weight != NULL && norm->bias != NULL;
}

static int new_matrix(gpt2c_model *model, gpt2c_matrix *w, gpt2c_layout layout, int32_t n_in,
                      int32_t n_out) {
    const gpt2c_layout chosen = model->config.aligned ? GPT2C_PANELS : layout;
    if (!gpt2c_matrix_init(w, chosen, (size_t)n_in, (size_t)n_out)) return 0;
    model->weight_bytes += gpt2c_matrix_numbers(w) * sizeof(float);
    return 1;
}

static int new_linear(gpt2c_model *model, gpt2c_linear *linear, int32_t n_in, int32_t n_out) {
    linear->bias = new_vector(model, (size_t)n_out);
    return linear->bias != NULL && new_matrix(model, &linear->w, GPT2C_IN_OUT, n_in, n_out);
}

static int new_weights(gpt2c_model *model) {
    const gpt2c_model_config *c = &model->config;
    model->is_set = gpt2c_alloc_zero((size_t)c->n_layer * GPT2C_TENSOR_COUNT, 1);
    model->layers = gpt2c_alloc_zero((size_t)c->n_layer, sizeof(gpt2c_layer));
    if (model->is_set == NULL || model->layers == NULL) return 0;

    model->wpe = new_vector(model, (size_t)c->n_ctx * (size_t)c->n_embd);
    if (model->wpe == NULL) return 0;
    if (!new_matrix(model, &model->wte, GPT2C_OUT_IN, c->n_embd, c->n_vocab)) return 0;
    for (int32_t i = 0; i < c->n_layer; i++) {
        gpt2c_layer *layer = &model->layers[i];
        if (!new_norm(model, &layer->ln_1)) return 0;
        if (!new_linear(model, &layer->attn_qkv, c->n_embd, 3 * c->n_embd)) return 0;
        if (!new_linear(model, &layer->attn_proj, c->n_embd, c->n_embd)) return 0;
        if (!new_norm(model, &layer->ln_2)) return 0;
        if (!new_linear(model, &layer->mlp_fc, c->n_embd, c->n_inner)) return 0;
        if (!new_linear(model, &layer->mlp_proj, c->n_inner, c->n_embd)) return 0;
    }
    if (!new_norm(model, &model->ln_f)) return 0;

    if (c->gelu_table) {
        model->gelu_table = gpt2c_alloc(GPT2C_GELU_TABLE_SIZE, sizeof(uint16_t));
        if (model->gelu_table == NULL) return 0;
        gpt2c_gelu_table_fill(model->gelu_table);
    }
    return 1;
}

gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model) {
    if (model == NULL) return GPT2C_INVALID_ARGUMENT;
    *model = NULL;
    if (config == NULL) return GPT2C_INVALID_ARGUMENT;
    const gpt2c_status status = check_config(config);
    if (status != GPT2C_OK) return status;

    gpt2c_model *made = gpt2c_alloc_zero(1, sizeof *made);
    if (made == NULL) return GPT2C_OUT_OF_MEMORY;
    made->config = *config;
    made->kernels = gpt2c_kernels_of(config->isa);
    made->references = 1;
    if (!new_weights(made)) {
        gpt2c_model_free(made);
        return GPT2C_OUT_OF_MEMORY;
    }
    *model = made;
    return GPT2C_OK;
}

/* ---- Tensors in ---- */

/* Where a tensor goes: a vector of n numbers, or a matrix. */
typedef struct destination {
    float *vector;
    size_t n;
    gpt2c_matrix *matrix;
    gpt2c_layout given;
} destination;

static destination to_vector(float *vector, size_t n) {
    return (destination){.vector = vector, .n = n};
}

static destination to_matrix(gpt2c_matrix *w, gpt2c_layout given) {
    return (destination){.matrix = w, .n = w->n_in * w->n_out, .given = given};
}

static destination destination_of(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer) {
    const size_t n_embd = (size_t)model->config.n_embd;
    gpt2c_layer *l = &model->layers[layer];
    switch (tensor) {
    case GPT2C_WTE: return to_matrix(&model->wte, GPT2C_OUT_IN);
    case GPT2C_WPE: return to_vector(model->wpe, (size_t)model->config.n_ctx * n_embd);
    case GPT2C_LN_1_WEIGHT: return to_vector(l->ln_1.weight, n_embd);
    case GPT2C_LN_1_BIAS: return to_vector(l->ln_1.bias, n_embd);
    case GPT2C_ATTN_QKV_WEIGHT: return to_matrix(&l->attn_qkv.w, GPT2C_IN_OUT);
    case GPT2C_ATTN_QKV_BIAS: return to_vector(l->attn_qkv.bias, l->attn_qkv.w.n_out);
    case GPT2C_ATTN_PROJ_WEIGHT: return to_matrix(&l->attn_proj.w, GPT2C_IN_OUT);
    case GPT2C_ATTN_PROJ_BIAS: return to_vector(l->attn_proj.bias, l->attn_proj.w.n_out);
    case GPT2C_LN_2_WEIGHT: return to_vector(l->ln_2.weight, n_embd);
    case GPT2C_LN_2_BIAS: return to_vector(l->ln_2.bias, n_embd);
    case GPT2C_MLP_FC_WEIGHT: return to_matrix(&l->mlp_fc.w, GPT2C_IN_OUT);
    case GPT2C_MLP_FC_BIAS: return to_vector(l->mlp_fc.bias, l->mlp_fc.w.n_out);
    case GPT2C_MLP_PROJ_WEIGHT: return to_matrix(&l->mlp_proj.w, GPT2C_IN_OUT);
    case GPT2C_MLP_PROJ_BIAS: return to_vector(l->mlp_proj.bias, l->mlp_proj.w.n_out);
    case GPT2C_LN_F_WEIGHT: return to_vector(model->ln_f.weight, n_embd);
    case GPT2C_LN_F_BIAS:
    default: return to_vector(model->ln_f.bias, n_embd);
    }
}

static int in_every_layer(int tensor) {
    return tensor >= GPT2C_LN_1_WEIGHT && tensor <= GPT2C_MLP_PROJ_BIAS;
}

gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                             gpt2c_dtype dtype, const void *data, size_t n_bytes) {
    if (model == NULL || data == NULL) return GPT2C_INVALID_ARGUMENT;
    if ((int)tensor < 0 || tensor >= GPT2C_TENSOR_COUNT) return GPT2C_INVALID_ARGUMENT;
    if ((int)dtype < 0 || dtype >= GPT2C_DTYPE_COUNT) return GPT2C_INVALID_ARGUMENT;
    if (layer < 0 || layer >= (in_every_layer((int)tensor) ? model->config.n_layer : 1))
        return GPT2C_INVALID_ARGUMENT;
    if (model->frozen) return GPT2C_NOT_READY;

    const destination to = destination_of(model, tensor, layer);
    if (n_bytes != to.n * (dtype == GPT2C_F32 ? 4 : 2)) return GPT2C_INVALID_ARGUMENT;
    if (to.matrix != NULL)
        gpt2c_matrix_set(to.matrix, to.given, dtype, data);
    else
        gpt2c_vector_set(to.vector, to.n, dtype, data);
    model->is_set[(size_t)layer * GPT2C_TENSOR_COUNT + (size_t)tensor] = 1;
    return GPT2C_OK;
}

gpt2c_status gpt2c_model_freeze(gpt2c_model *model) {
    if (model == NULL) return GPT2C_INVALID_ARGUMENT;
    if (model->frozen) return GPT2C_NOT_READY;
    for (int32_t layer = 0; layer < model->config.n_layer; layer++)
        for (int tensor = 0; tensor < GPT2C_TENSOR_COUNT; tensor++)
            if ((layer == 0 || in_every_layer(tensor)) &&
                !model->is_set[(size_t)layer * GPT2C_TENSOR_COUNT + (size_t)tensor])
                return GPT2C_NOT_READY;
    model->frozen = 1;
    return GPT2C_OK;
}

size_t gpt2c_model_weight_bytes(const gpt2c_model *model) {
    return model == NULL ? 0 : model->weight_bytes;
}

/* ---- The end ---- */

void gpt2c_model_retain(gpt2c_model *model) {
    __atomic_add_fetch(&model->references, 1, __ATOMIC_RELAXED);
}

static void free_norm(gpt2c_norm *norm) {
    gpt2c_free(norm->weight);
    gpt2c_free(norm->bias);
}

static void free_linear(gpt2c_linear *linear) {
    gpt2c_free(linear->w.data);
    gpt2c_free(linear->bias);
}

void gpt2c_model_free(gpt2c_model *model) {
    if (model == NULL || __atomic_sub_fetch(&model->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (int32_t i = 0; model->layers != NULL && i < model->config.n_layer; i++) {
        gpt2c_layer *layer = &model->layers[i];
        free_norm(&layer->ln_1);
        free_linear(&layer->attn_qkv);
        free_linear(&layer->attn_proj);
        free_norm(&layer->ln_2);
        free_linear(&layer->mlp_fc);
        free_linear(&layer->mlp_proj);
    }
    free_norm(&model->ln_f);
    gpt2c_free(model->layers);
    gpt2c_free(model->wte.data);
    gpt2c_free(model->wpe);
    gpt2c_free(model->gelu_table);
    gpt2c_free(model->is_set);
    gpt2c_free(model);
}
