/* One pass through the model: the sessions and rows that it computes, and whether it must end early. */
#ifndef GPT2C_PASS_H
#define GPT2C_PASS_H

#include "gpt2c.h"
#include "session.h"

/* Rows [begin, end) of the buffers belong to one session. Row `begin` is `position` of its sequence. */
typedef struct gpt2c_segment {
    gpt2c_session *session;
    size_t begin;
    size_t end;
    size_t position;
} gpt2c_segment;

/* Tokens of one session: the buffers hold its positions from `origin` on. Or, with all switches on, the new
 * tokens of several sessions, one session after another, in the buffers of the first; then origin and
 * n_past are 0, and n is the number of rows. */
typedef struct gpt2c_pass {
    gpt2c_session *session; /* whose buffers are used */
    const gpt2c_segment *segments;
    size_t n_segments;
    size_t origin;
    size_t n_past;    /* positions below it are done: only their K and V, or stored outputs, are read */
    size_t n;         /* one past the last new position */
    size_t wanted;    /* of the rows below it, only K and V are needed */
    size_t first;     /* rows below it are not computed; 0 until K and V of the last layer are stored */
    size_t rows[GPT2C_SWITCH_COUNT];
    size_t separate_passes; /* over activations, for GELU or a residual alone */
    int64_t next_poll; /* nanoseconds on the monotonic clock */
    int64_t traced_until; /* the same clock: where the next operation of a trace begins */
    int stopped;       /* cancelled: the remaining operations do nothing */
} gpt2c_pass;

/* Nanoseconds on the monotonic clock. */
int64_t gpt2c_now(void);

/* A pass in the buffers of `session`, whose clocks begin now; all other fields are 0. */
gpt2c_pass gpt2c_pass_start(gpt2c_session *session);

/* Whether the call must end: it was cancelled, or the poll function returned something other than 0. */
int gpt2c_stopped(gpt2c_pass *pass);

#endif
