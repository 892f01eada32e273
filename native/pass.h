/* One pass through the model: whose rows, which of them, and whether it is to end early. */
#ifndef GPT2C_PASS_H
#define GPT2C_PASS_H

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

/* Nanoseconds on the monotonic clock. */
int64_t gpt2c_now(void);

/* A pass in the buffers of `session`, whose clocks begin now; all else is 0. */
gpt2c_pass gpt2c_pass_start(gpt2c_session *session);

/* Whether the call is to end: it was cancelled, or the poll function says so. */
int gpt2c_stopped(gpt2c_pass *pass);

#endif
