/* A session: one sequence, what is kept of it, and the buffers that a pass works in. */
#ifndef GPT2C_SESSION_H
#define GPT2C_SESSION_H

#include "gpt2c.h"
#include "model.h"

/* Output of one operation, as rows of floats in the session's arena. An output is kept for every
 * layer only if its own switch is on and that of an operation that reads it is off; otherwise all
 * layers share one place (layer_stride 0), and so do attention's half of a layer and the MLP's. */
typedef struct gpt2c_buffer {
    size_t offset;
    size_t layer_stride;
} gpt2c_buffer;

typedef struct gpt2c_buffers {
    gpt2c_buffer x;         /* [n_embd] the residual stream in front of a layer; n_layer: behind all */
    gpt2c_buffer ln_1;      /* [n_embd] */
    gpt2c_buffer qkv;       /* [3 n_embd] */
    gpt2c_buffer k, v;      /* the KV cache: n_ctx rows always */
    gpt2c_buffer attn;      /* [n_embd] */
    gpt2c_buffer attn_proj; /* [n_embd] */
    gpt2c_buffer x_mid;     /* [n_embd] the residual stream between attention and MLP */
    gpt2c_buffer ln_2;      /* [n_embd] */
    gpt2c_buffer mlp_fc;    /* [n_inner] */
    gpt2c_buffer mlp_gelu;  /* [n_inner] */
    gpt2c_buffer mlp_proj;  /* [n_embd] */
    gpt2c_buffer ln_f;      /* [n_embd] */
    gpt2c_buffer packed_x;  /* a linear layer's input as its kernel reads it */
    gpt2c_buffer packed_remainder; /* the same of x_remainder: GPT2C_LOGIT_ROWS rows */
    gpt2c_buffer head_x;    /* [n_embd] what the head reads; GPT2C_LOGIT_ROWS rows */
    gpt2c_buffer scores;    /* attention's scratch, one for each thread */
    gpt2c_buffer logits;    /* [n_vocab] GPT2C_LOGIT_ROWS rows */
} gpt2c_buffers;

/* Logits are computed so many rows at a time, into scratch where nobody asked for them. */
#define GPT2C_LOGIT_ROWS 32

struct gpt2c_session {
    gpt2c_model *model;
    gpt2c_poll poll;
    void *poll_context;
    int32_t *ids;    /* [n_ctx], all tokens so far */
    float *arena;
    gpt2c_buffers buffers;
    size_t n_past;   /* atomic for those outside the call */
    size_t rows[GPT2C_SWITCH_COUNT];
    size_t separate_passes;
    size_t screened_ids;
    size_t screened_candidates;
    gpt2c_trace_event *events; /* the caller's; NULL: nobody traces */
    size_t event_capacity;
    size_t n_events;
    int busy;        /* atomic: in a call */
    int cancelled;   /* atomic: the call that runs is to end */
};

/* K and V of a layer. */
gpt2c_kv gpt2c_kv_of(const gpt2c_session *session, size_t layer);

/* One call at a time: enter is 0 while another one is in. */
int gpt2c_session_enter(gpt2c_session *session);
void gpt2c_session_leave(gpt2c_session *session);

/* Of the call that is in: what the session holds from now on. */
static inline void gpt2c_hold(gpt2c_session *session, size_t n_past) {
    __atomic_store_n(&session->n_past, n_past, __ATOMIC_RELAXED);
}

/* Rows [0, ...) of an output in a layer. */
static inline float *gpt2c_at(const gpt2c_session *session, gpt2c_buffer buffer, size_t layer) {
    return session->arena + buffer.offset + layer * buffer.layer_stride;
}

#endif
