/* A model: the weights, in the layout that its kernels read. */
#ifndef GPT2C_MODEL_H
#define GPT2C_MODEL_H

#include "gpt2c.h"
#include "kernels.h"
#include "screen.h"
#include "threads.h"

/* A linear layer: weights and bias. */
typedef struct gpt2c_linear {
    gpt2c_matrix w;
    float *bias;
    gpt2c_traced_op op; /* its operation and layer in a trace */
    int32_t layer;
} gpt2c_linear;

typedef struct gpt2c_norm {
    float *weight;
    float *bias;
    gpt2c_traced_op op; /* its operation and layer in a trace */
    int32_t layer;
} gpt2c_norm;

typedef struct gpt2c_layer {
    gpt2c_norm ln_1;
    gpt2c_linear attn_qkv;
    gpt2c_linear attn_proj;
    gpt2c_norm ln_2;
    gpt2c_linear mlp_fc;
    gpt2c_linear mlp_proj;
} gpt2c_layer;

struct gpt2c_model {
    gpt2c_model_config config;
    const gpt2c_kernels *kernels;
    gpt2c_matrix wte;      /* token embedding */
    gpt2c_matrix head;     /* the output head: wte itself unless untied */
    float *wpe;
    gpt2c_layer *layers;
    gpt2c_norm ln_f;
    gpt2c_screen screen;   /* of the head; without head_screen its pointers are NULL */
    char *weights;         /* the block that holds all weights above */
    size_t weight_bytes;
    void *mapping;         /* of the packed file that contains the block, else NULL */
    size_t mapping_bytes;
    uint16_t *gelu_table;  /* NULL: by the formula */
    gpt2c_pool *pool;
    unsigned char *is_set; /* [n_layer][GPT2C_TENSOR_COUNT] */
    int frozen;
    float *spare_arena;    /* atomic: the arena of a freed session, for the next one; NULL: none */
    int references;        /* atomic: the caller's, and one per session */
};

/* Creates a model without its weights: checks the config, chooses the kernels, creates pool and table. */
gpt2c_status gpt2c_model_prepare(const gpt2c_model_config *config, gpt2c_model **model);

/* Size in bytes of the weights of a prepared model. */
size_t gpt2c_model_measure(gpt2c_model *model);

/* Points every tensor into the block. The position of each follows from the config alone. */
void gpt2c_model_place(gpt2c_model *model, char *weights);

void gpt2c_model_retain(gpt2c_model *model);

static inline int gpt2c_switch_on(const gpt2c_model *model, gpt2c_switch s) {
    return (model->config.switches >> s & 1u) != 0;
}

/* All switches on: no operation reads an old row but attention, which reads stored K and V. */
static inline int gpt2c_is_incremental(const gpt2c_model *model) {
    return model->config.switches == (1u << GPT2C_SWITCH_COUNT) - 1;
}

#endif
