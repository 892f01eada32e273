/* Weights are set one tensor at a time, converted and laid out for the kernels, and then frozen. */
#include "model.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "gelu_table.h"
#include "matrix.h"
#include "memory.h"

/* ---- Creation ---- */

/* Bounds far above any real model, with which every product below fits into a size_t. */
#if SIZE_MAX < UINT64_MAX
#error "gpt2c needs a 64-bit machine: these products do not fit into a smaller size_t"
#endif
#define MAX_LAYERS 1024
#define MAX_WIDTH 65536
#define MAX_CONTEXT (1 << 20)
#define MAX_VOCABULARY (1 << 24)

#define FUSED_NEEDS                                                                \
    (1u << GPT2C_SWITCH_KV | 1u << GPT2C_SWITCH_LINEAR | 1u << GPT2C_SWITCH_GELU | \
     1u << GPT2C_SWITCH_RESIDUAL)

static int is_flag(int32_t value) { return value == 0 || value == 1; }

static int in_range(int32_t value, int32_t max) { return value >= 1 && value <= max; }

/* The proof of the screen (screen.h) does not cover an x that is rounded to integers. */
static int may_screen(const gpt2c_model_config *config) {
    return config->aligned && config->switches >> GPT2C_SWITCH_UNEMBED != 0 &&
           !gpt2c_format_of(gpt2c_layout_of_format(config->format))->is_integer;
}

static gpt2c_status check_config(const gpt2c_model_config *config) {
    const int shape = in_range(config->n_layer, MAX_LAYERS) && in_range(config->n_embd, MAX_WIDTH) &&
                      in_range(config->n_head, config->n_embd) &&
                      config->n_embd % config->n_head == 0 &&
                      in_range(config->n_inner, 4 * MAX_WIDTH) &&
                      in_range(config->n_ctx, MAX_CONTEXT) &&
                      in_range(config->n_vocab, MAX_VOCABULARY);
    const int plan = config->switches < 1u << GPT2C_SWITCH_COUNT && is_flag(config->gelu_table) &&
                     is_flag(config->aligned) && is_flag(config->fused) &&
                     gpt2c_format_name(config->format) != NULL &&
                     (config->format == 0 || config->aligned) && is_flag(config->head_screen) &&
                     (!config->head_screen || may_screen(config)) &&
                     in_range(config->n_threads, GPT2C_LIMIT_THREADS) &&
                     is_flag(config->kv_f16) &&
                     (!config->kv_f16 || (config->switches & 1u << GPT2C_SWITCH_KV) != 0) &&
                     (!config->fused || (config->switches & FUSED_NEEDS) == FUSED_NEEDS);
    const int variant = config->activation >= 0 && config->activation < GPT2C_ACTIVATION_COUNT &&
                        (!config->gelu_table || config->activation == GPT2C_ACTIVATION_GELU_TANH) &&
                        is_flag(config->untied) && is_flag(config->unscaled_scores) &&
                        is_flag(config->scores_by_layer);
    if (!shape || !plan || !variant) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!(config->layer_norm_epsilon > 0.0f) || isinf(config->layer_norm_epsilon))
        return GPT2C_STATUS_INVALID_ARGUMENT;

    gpt2c_isa_info isa;
    const gpt2c_status status = gpt2c_isa_get(config->isa, &isa);
    if (status != GPT2C_STATUS_OK) return status;
    return isa.supported ? GPT2C_STATUS_OK : GPT2C_STATUS_UNSUPPORTED;
}

/* The next n bytes of the block, beginning at a cache line; NULL while it is only measured. The end of the last
 * line is set to 0, so that equal weights are equal bytes. */
static void *place_bytes(gpt2c_model *model, size_t n) {
    char *place = model->weights != NULL ? model->weights + model->weight_bytes : NULL;
    const size_t padded = gpt2c_pad(n, GPT2C_ALIGNMENT);
    if (place != NULL && model->mapping == NULL) memset(place + n, 0, padded - n);
    model->weight_bytes += padded;
    return place;
}

static float *place_vector(gpt2c_model *model, size_t n) {
    return place_bytes(model, n * sizeof(float));
}

static gpt2c_norm place_norm(gpt2c_model *model, gpt2c_traced_op op, int32_t layer) {
    const size_t n_embd = (size_t)model->config.n_embd;
    gpt2c_norm norm = {.op = op, .layer = layer};
    norm.weight = place_vector(model, n_embd);
    norm.bias = place_vector(model, n_embd);
    return norm;
}

static gpt2c_matrix place_matrix(gpt2c_model *model, gpt2c_layout as_in_file, int32_t n_in,
                                 int32_t n_out) {
    const gpt2c_layout layout = model->config.aligned ? gpt2c_layout_of_format(model->config.format) : as_in_file;
    gpt2c_matrix w = {layout, (size_t)n_in, (size_t)n_out, NULL};
    w.data = place_bytes(model, gpt2c_matrix_bytes(&w));
    return w;
}

static gpt2c_linear place_linear(gpt2c_model *model, gpt2c_traced_op op, int32_t layer, int32_t n_in,
                                 int32_t n_out) {
    gpt2c_linear linear = {.op = op, .layer = layer};
    linear.w = place_matrix(model, GPT2C_LAYOUT_IN_OUT, n_in, n_out);
    linear.bias = place_vector(model, (size_t)n_out);
    return linear;
}

static gpt2c_screen place_screen(gpt2c_model *model) {
    gpt2c_screen screen = {.n_in = model->head.n_in, .n_out = model->head.n_out};
    const size_t columns = gpt2c_pad(screen.n_out, GPT2C_PANEL);
    screen.q = place_bytes(model, columns * screen.n_in);
    screen.scale = place_vector(model, columns);
    screen.radius = place_vector(model, columns);
    return screen;
}

void gpt2c_model_place(gpt2c_model *model, char *weights) {
    const gpt2c_model_config *c = &model->config;
    model->weights = weights;
    model->weight_bytes = 0;
    model->wte = place_matrix(model, GPT2C_LAYOUT_OUT_IN, c->n_embd, c->n_vocab);
    model->wpe = place_vector(model, (size_t)c->n_ctx * (size_t)c->n_embd);
    for (int32_t i = 0; i < c->n_layer; i++) {
        gpt2c_layer *layer = &model->layers[i];
        layer->ln_1 = place_norm(model, GPT2C_TRACED_OP_LN_1, i);
        layer->attn_qkv = place_linear(model, GPT2C_TRACED_OP_QKV, i, c->n_embd, 3 * c->n_embd);
        layer->attn_proj = place_linear(model, GPT2C_TRACED_OP_ATTN_PROJ, i, c->n_embd, c->n_embd);
        layer->ln_2 = place_norm(model, GPT2C_TRACED_OP_LN_2, i);
        layer->mlp_fc = place_linear(model, GPT2C_TRACED_OP_MLP_FC, i, c->n_embd, c->n_inner);
        layer->mlp_proj = place_linear(model, GPT2C_TRACED_OP_MLP_PROJ, i, c->n_inner, c->n_embd);
    }
    model->ln_f = place_norm(model, GPT2C_TRACED_OP_LN_F, -1);
    model->head = c->untied ? place_matrix(model, GPT2C_LAYOUT_OUT_IN, c->n_embd, c->n_vocab) : model->wte;
    if (c->head_screen) model->screen = place_screen(model);
}

size_t gpt2c_model_measure(gpt2c_model *model) {
    gpt2c_model_place(model, NULL);
    return model->weight_bytes;
}

gpt2c_status gpt2c_model_prepare(const gpt2c_model_config *config, gpt2c_model **model) {
    const gpt2c_status status = check_config(config);
    if (status != GPT2C_STATUS_OK) return status;
    gpt2c_model *made = gpt2c_alloc_zero(1, sizeof *made);
    if (made == NULL) return GPT2C_STATUS_OUT_OF_MEMORY;
    made->config = *config;
    made->kernels = gpt2c_kernels_of(config->isa);
    made->references = 1;
    made->layers = gpt2c_alloc_zero((size_t)config->n_layer, sizeof(gpt2c_layer));
    made->is_set = gpt2c_alloc_zero((size_t)config->n_layer * GPT2C_TENSOR_COUNT, 1);
    made->pool = gpt2c_pool_create((size_t)config->n_threads);
    if (config->gelu_table) made->gelu_table = gpt2c_alloc(GPT2C_GELU_TABLE_SIZE, sizeof(uint16_t));
    if (made->layers == NULL || made->is_set == NULL || made->pool == NULL ||
        (config->gelu_table && made->gelu_table == NULL)) {
        gpt2c_model_free(made);
        return GPT2C_STATUS_OUT_OF_MEMORY;
    }
    if (config->gelu_table) gpt2c_gelu_table_fill(made->gelu_table);
    *model = made;
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_model_create(const gpt2c_model_config *config, gpt2c_model **model) {
    if (model == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    *model = NULL;
    if (config == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    gpt2c_model *made = NULL;
    const gpt2c_status status = gpt2c_model_prepare(config, &made);
    if (status != GPT2C_STATUS_OK) return status;
    char *weights = gpt2c_alloc(gpt2c_model_measure(made), 1);
    if (weights == NULL) {
        gpt2c_model_free(made);
        return GPT2C_STATUS_OUT_OF_MEMORY;
    }
    gpt2c_model_place(made, weights);
    *model = made;
    return GPT2C_STATUS_OK;
}

/* ---- Tensors in and out ---- */

/* Where a tensor is stored: a vector of n elements, or a matrix. */
typedef struct destination {
    float *vector;
    size_t n;
    gpt2c_matrix matrix; /* its data is NULL where it is a vector */
    gpt2c_layout given;
} destination;

static destination to_vector(float *vector, size_t n) {
    return (destination){.vector = vector, .n = n};
}

static destination to_matrix(const gpt2c_matrix *w, gpt2c_layout given) {
    return (destination){.matrix = *w, .n = w->n_in * w->n_out, .given = given};
}

static destination destination_of(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer) {
    const size_t n_embd = (size_t)model->config.n_embd;
    gpt2c_layer *l = &model->layers[layer];
    switch (tensor) {
    case GPT2C_TENSOR_WTE: return to_matrix(&model->wte, GPT2C_LAYOUT_OUT_IN);
    case GPT2C_TENSOR_WPE: return to_vector(model->wpe, (size_t)model->config.n_ctx * n_embd);
    case GPT2C_TENSOR_LN_1_WEIGHT: return to_vector(l->ln_1.weight, n_embd);
    case GPT2C_TENSOR_LN_1_BIAS: return to_vector(l->ln_1.bias, n_embd);
    case GPT2C_TENSOR_ATTN_QKV_WEIGHT: return to_matrix(&l->attn_qkv.w, GPT2C_LAYOUT_IN_OUT);
    case GPT2C_TENSOR_ATTN_QKV_BIAS: return to_vector(l->attn_qkv.bias, l->attn_qkv.w.n_out);
    case GPT2C_TENSOR_ATTN_PROJ_WEIGHT: return to_matrix(&l->attn_proj.w, GPT2C_LAYOUT_IN_OUT);
    case GPT2C_TENSOR_ATTN_PROJ_BIAS: return to_vector(l->attn_proj.bias, l->attn_proj.w.n_out);
    case GPT2C_TENSOR_LN_2_WEIGHT: return to_vector(l->ln_2.weight, n_embd);
    case GPT2C_TENSOR_LN_2_BIAS: return to_vector(l->ln_2.bias, n_embd);
    case GPT2C_TENSOR_MLP_FC_WEIGHT: return to_matrix(&l->mlp_fc.w, GPT2C_LAYOUT_IN_OUT);
    case GPT2C_TENSOR_MLP_FC_BIAS: return to_vector(l->mlp_fc.bias, l->mlp_fc.w.n_out);
    case GPT2C_TENSOR_MLP_PROJ_WEIGHT: return to_matrix(&l->mlp_proj.w, GPT2C_LAYOUT_IN_OUT);
    case GPT2C_TENSOR_MLP_PROJ_BIAS: return to_vector(l->mlp_proj.bias, l->mlp_proj.w.n_out);
    case GPT2C_TENSOR_LN_F_WEIGHT: return to_vector(model->ln_f.weight, n_embd);
    case GPT2C_TENSOR_LN_F_BIAS: return to_vector(model->ln_f.bias, n_embd);
    case GPT2C_TENSOR_LM_HEAD:
    default: return to_matrix(&model->head, GPT2C_LAYOUT_OUT_IN);
    }
}

static int in_every_layer(int tensor) {
    return tensor >= GPT2C_TENSOR_LN_1_WEIGHT && tensor <= GPT2C_TENSOR_MLP_PROJ_BIAS;
}

static int in_model(const gpt2c_model_config *config, int tensor) {
    return tensor != GPT2C_TENSOR_LM_HEAD || config->untied;
}

static int has_tensor(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer) {
    return model != NULL && (int)tensor >= 0 && tensor < GPT2C_TENSOR_COUNT &&
           in_model(&model->config, (int)tensor) && layer >= 0 &&
           layer < (in_every_layer((int)tensor) ? model->config.n_layer : 1);
}

static unsigned char *is_set(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer) {
    return &model->is_set[(size_t)layer * GPT2C_TENSOR_COUNT + (size_t)tensor];
}

static void *stored_at(const destination *to) {
    return to->matrix.data != NULL ? to->matrix.data : to->vector;
}

static size_t stored_bytes(const destination *to) {
    return to->matrix.data != NULL ? gpt2c_matrix_bytes(&to->matrix) : to->n * sizeof(float);
}

gpt2c_status gpt2c_model_set(gpt2c_model *model, gpt2c_tensor tensor, int32_t layer,
                             gpt2c_dtype dtype, const void *data, size_t n_bytes) {
    if (!has_tensor(model, tensor, layer) || data == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if ((int)dtype < 0 || dtype >= GPT2C_DTYPE_COUNT) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (model->frozen) return GPT2C_STATUS_NOT_READY;

    destination to = destination_of(model, tensor, layer);
    const size_t given = to.n * (dtype == GPT2C_DTYPE_F32 ? 4 : 2);
    if (n_bytes != (dtype == GPT2C_DTYPE_STORED ? stored_bytes(&to) : given))
        return GPT2C_STATUS_INVALID_ARGUMENT;
    *is_set(model, tensor, layer) = 0;
    if (dtype == GPT2C_DTYPE_STORED) {
        memcpy(stored_at(&to), data, n_bytes);
        if (to.matrix.data != NULL && !gpt2c_matrix_is_sound(&to.matrix)) return GPT2C_STATUS_BAD_WEIGHTS;
    } else if (to.matrix.data != NULL)
        gpt2c_matrix_set(&to.matrix, &(gpt2c_source){to.given, dtype, data});
    else
        gpt2c_convert(to.vector, to.n, dtype, data, 0);
    *is_set(model, tensor, layer) = 1;
    return GPT2C_STATUS_OK;
}

size_t gpt2c_model_tensor_bytes(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer) {
    if (!has_tensor(model, tensor, layer)) return 0;
    const destination of = destination_of(model, tensor, layer);
    return stored_bytes(&of);
}

gpt2c_status gpt2c_model_get(const gpt2c_model *model, gpt2c_tensor tensor, int32_t layer, void *out,
                             size_t n_bytes) {
    if (!has_tensor(model, tensor, layer) || out == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    const destination of = destination_of(model, tensor, layer);
    if (n_bytes != stored_bytes(&of)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!model->frozen && !*is_set(model, tensor, layer)) return GPT2C_STATUS_NOT_READY;
    memcpy(out, stored_at(&of), n_bytes);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_model_freeze(gpt2c_model *model) {
    if (model == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (model->frozen) return GPT2C_STATUS_NOT_READY;
    for (int32_t layer = 0; layer < model->config.n_layer; layer++)
        for (int tensor = 0; tensor < GPT2C_TENSOR_COUNT; tensor++)
            if ((layer == 0 || in_every_layer(tensor)) && in_model(&model->config, tensor) &&
                !*is_set(model, (gpt2c_tensor)tensor, layer))
                return GPT2C_STATUS_NOT_READY;
    if (model->config.head_screen) gpt2c_screen_fill(&model->screen, &model->head, model->pool);
    model->frozen = 1;
    return GPT2C_STATUS_OK;
}

size_t gpt2c_model_weight_bytes(const gpt2c_model *model) {
    return model == NULL ? 0 : model->weight_bytes;
}

gpt2c_layout gpt2c_model_layout(const gpt2c_model *model) {
    return model == NULL ? GPT2C_LAYOUT_IN_OUT : model->layers[0].attn_qkv.w.layout;
}

/* ---- References ---- */

void gpt2c_model_retain(gpt2c_model *model) {
    __atomic_add_fetch(&model->references, 1, __ATOMIC_RELAXED);
}

void gpt2c_model_free(gpt2c_model *model) {
    if (model == NULL || __atomic_sub_fetch(&model->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    gpt2c_pool_free(model->pool);
    if (model->mapping != NULL)
        munmap(model->mapping, model->mapping_bytes);
    else
        gpt2c_free(model->weights);
    gpt2c_free(model->spare_arena);
    gpt2c_free(model->layers);
    gpt2c_free(model->gelu_table);
    gpt2c_free(model->is_set);
    gpt2c_free(model);
}
