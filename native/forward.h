/* One pass through the model, for the tokens of one chunk. */
#ifndef GPT2C_FORWARD_H
#define GPT2C_FORWARD_H

#include "gpt2c.h"
#include "session.h"

/* Rows [begin, end) of the buffers that belong to one session, row `begin` being `position` of its
 * sequence. */
typedef struct gpt2c_segment {
    gpt2c_session *session;
    size_t begin;
    size_t end;
    size_t position;
} gpt2c_segment;

/* One session's tokens: buffers hold its positions from `origin` on. Or, with all switches on, new
 * tokens of several sessions behind one another, in the buffers of the first; origin and n_past are 0
 * then, and n is the number of rows. */
typedef struct gpt2c_pass {
    gpt2c_session *session; /* whose buffers are used */
    const gpt2c_segment *segments;
    size_t n_segments;
    size_t origin;
    size_t n_past;    /* positions below are known: only their K and V, or outputs kept, are read */
    size_t n;         /* one past the last new position */
    size_t wanted;    /* rows below are wanted by nobody but for their K and V */
    size_t first;     /* rows below are not computed any more: 0 up to the last layer's K and V */
    size_t rows[GPT2C_SWITCH_COUNT];
    size_t separate_passes; /* over activations, for GELU or a residual alone */
    int64_t next_poll; /* nanoseconds on the monotonic clock */
    int64_t traced_until; /* likewise: where the next operation of a trace begins */
    int stopped;       /* cancelled: the operations that are left do nothing */
} gpt2c_pass;

gpt2c_pass gpt2c_pass_start(gpt2c_session *session);

/* forward.c: runs positions [n_past, n), and those before as far as switches are off; returns the
 * rows behind the final layer norm, which one of the two `unembed` makes logits of. */
const float *gpt2c_forward(gpt2c_pass *pass);

/* ops.c: the operations. Each computes its output's rows of the new tokens if its switch is on, of
 * every token if it is off, and counts them. */
void gpt2c_embed(gpt2c_pass *pass, float *out);
void gpt2c_layernorm(gpt2c_pass *pass, float *out, const float *x, const gpt2c_norm *norm);
void gpt2c_project(gpt2c_pass *pass, gpt2c_switch s, float *out, const float *x,
                   const gpt2c_linear *linear);
/* Stores a layer's K and V; then attention, which reads them. */
void gpt2c_keep_new(gpt2c_pass *pass, const float *qkv, size_t layer);
void gpt2c_attend(gpt2c_pass *pass, float *out, const float *qkv, size_t layer);
/* out = gelu(x linear); `between` is for what GELU takes, if the plan is not to fuse the two. */
void gpt2c_project_gelu(gpt2c_pass *pass, float *out, float *between, const float *x,
                        const gpt2c_linear *linear);
/* out = residual + x linear, likewise. */
void gpt2c_project_add(gpt2c_pass *pass, float *out, const float *residual, float *between,
                       const float *x, const gpt2c_linear *linear);
void gpt2c_unembed(gpt2c_pass *pass, const float *hidden, const gpt2c_outputs *outputs);

/* head.c: the first row behind the final layer norm that `outputs` is made of. */
size_t gpt2c_first_wanted(const gpt2c_pass *pass, const gpt2c_outputs *outputs);

/* head.c, of several sessions: one row of logits [n_segments, n_vocab] and one greedy id each, or NULL
 * where they are not wanted. */
void gpt2c_unembed_segments(gpt2c_pass *pass, const float *hidden, float *last_logits, int32_t *next_ids);

#endif
