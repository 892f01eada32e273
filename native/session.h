/* A session: one sequence, the stored outputs of its tokens, and the buffers of a pass. */
#ifndef GPT2C_SESSION_H
#define GPT2C_SESSION_H

#include "gpt2c.h"
#include "model.h"

/* Output of one operation, as rows of floats in the session's arena. Every layer has its own buffer only if the
 * output's own switch is on and the switch of an operation that reads it is off. Otherwise all layers share one
 * buffer (layer_stride 0), and the attention half of a layer shares memory with the MLP half. */
typedef struct gpt2c_buffer {
    size_t offset;
    size_t layer_stride;
} gpt2c_buffer;

typedef struct gpt2c_buffers {
    gpt2c_buffer x;         /* [n_embd] the residual stream before a layer; n_layer: after the last one */
    gpt2c_buffer ln_1;      /* [n_embd] */
    gpt2c_buffer qkv;       /* [3 n_embd] */
    gpt2c_buffer k, v;      /* the KV cache: always n_ctx rows */
    gpt2c_buffer attn;      /* [n_embd] */
    gpt2c_buffer attn_proj; /* [n_embd] */
    gpt2c_buffer x_mid;     /* [n_embd] the residual stream between attention and MLP */
    gpt2c_buffer ln_2;      /* [n_embd] */
    gpt2c_buffer mlp_fc;    /* [n_inner] */
    gpt2c_buffer mlp_gelu;  /* [n_inner] */
    gpt2c_buffer mlp_proj;  /* [n_embd] */
    gpt2c_buffer ln_f;      /* [n_embd] */
    gpt2c_buffer packed_x;  /* the packed activations that a linear layer reads */
    gpt2c_buffer packed_remainder; /* packed x_remainder; GPT2C_LOGIT_ROWS rows */
    gpt2c_buffer head_x;    /* [n_embd] x as the head reads it, or its remainder; GPT2C_LOGIT_ROWS rows */
    gpt2c_buffer scores;    /* scratch of attention, one part per thread */
    gpt2c_buffer logits;    /* [n_vocab] GPT2C_LOGIT_ROWS rows */
} gpt2c_buffers;

/* Logits are computed this many rows at a time, into scratch if the caller does not need them. */
#define GPT2C_LOGIT_ROWS 32

struct gpt2c_session {
    gpt2c_model *model;
    gpt2c_poll poll;
    void *poll_context;
    int32_t *ids;    /* [n_ctx], all tokens so far */
    float *arena;
    gpt2c_buffers buffers;
    size_t n_past;   /* atomic, for readers outside the call */
    size_t rows[GPT2C_SWITCH_COUNT];
    size_t separate_passes;
    size_t screened_ids;
    size_t screened_candidates;
    gpt2c_trace_event *events; /* the caller's; NULL: tracing is off */
    size_t event_capacity;
    size_t n_events;
    int busy;        /* atomic: a call is running */
    int cancelled;   /* atomic: the running call must end */
};

/* K and V of a layer. */
gpt2c_kv gpt2c_kv_of(const gpt2c_session *session, size_t layer);

/* One call at a time: enter returns 0 while another call is running. */
int gpt2c_session_enter(gpt2c_session *session);
void gpt2c_session_leave(gpt2c_session *session);

/* For the running call: the session holds n_past tokens from now on. */
static inline void gpt2c_hold(gpt2c_session *session, size_t n_past) {
    __atomic_store_n(&session->n_past, n_past, __ATOMIC_RELAXED);
}

/* Rows [0, ...) of an output in a layer. */
static inline float *gpt2c_at(const gpt2c_session *session, gpt2c_buffer buffer, size_t layer) {
    return session->arena + buffer.offset + layer * buffer.layer_stride;
}

#endif
