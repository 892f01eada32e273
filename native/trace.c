#include "trace.h"

#include "matrix.h"

static const char *const NAMES[GPT2C_TRACED_OP_COUNT] = {
    [GPT2C_TRACED_OP_EMBED] = "embed",
    [GPT2C_TRACED_OP_LN_1] = "ln_1",
    [GPT2C_TRACED_OP_QKV] = "qkv",
    [GPT2C_TRACED_OP_ATTENTION] = "attention",
    [GPT2C_TRACED_OP_ATTN_PROJ] = "attn_proj",
    [GPT2C_TRACED_OP_LN_2] = "ln_2",
    [GPT2C_TRACED_OP_MLP_FC] = "mlp_fc",
    [GPT2C_TRACED_OP_GELU] = "gelu",
    [GPT2C_TRACED_OP_MLP_PROJ] = "mlp_proj",
    [GPT2C_TRACED_OP_RESIDUAL] = "residual",
    [GPT2C_TRACED_OP_LN_F] = "ln_f",
    [GPT2C_TRACED_OP_HEAD] = "head",
};

const char *gpt2c_traced_op_name(int32_t op) {
    return op >= 0 && op < GPT2C_TRACED_OP_COUNT ? NAMES[op] : NULL;
}

static int is_on(const gpt2c_pass *pass) { return pass->session->events != NULL; }

static void write_event(gpt2c_pass *pass, gpt2c_trace_event event) {
    gpt2c_session *session = pass->session;
    event.begin_ns = pass->traced_until;
    event.end_ns = pass->traced_until = gpt2c_now();
    if (session->n_events < session->event_capacity) session->events[session->n_events] = event;
    session->n_events++;
}

void gpt2c_trace_rows(gpt2c_pass *pass, gpt2c_traced_op op, int32_t layer, gpt2c_span rows, size_t n,
                      size_t floats) {
    if (!is_on(pass)) return;
    const size_t n_rows = rows.end - rows.begin;
    write_event(pass, (gpt2c_trace_event){
                          .op = (int32_t)op,
                          .layer = layer,
                          .rows = (int64_t)n_rows,
                          .n_in = (int64_t)n,
                          .n_out = (int64_t)n,
                          .bytes = (int64_t)(n_rows * floats * sizeof(float)),
                      });
}

void gpt2c_trace_linear(gpt2c_pass *pass, const gpt2c_linear *linear, gpt2c_span rows, size_t more) {
    if (!is_on(pass)) return;
    const size_t n_in = linear->w.n_in, n_out = linear->w.n_out, n_rows = rows.end - rows.begin;
    const size_t floats = n_out + n_rows * (n_in + n_out + more);
    write_event(pass, (gpt2c_trace_event){
                          .op = (int32_t)linear->op,
                          .layer = linear->layer,
                          .rows = (int64_t)n_rows,
                          .n_in = (int64_t)n_in,
                          .n_out = (int64_t)n_out,
                          .bytes = (int64_t)(gpt2c_matrix_bytes(&linear->w) + floats * sizeof(float)),
                      });
}

void gpt2c_trace_attention(gpt2c_pass *pass, size_t layer, gpt2c_span rows) {
    if (!is_on(pass)) return;
    const gpt2c_model_config *c = &pass->session->model->config;
    const size_t n_embd = (size_t)c->n_embd, n_rows = rows.end - rows.begin;
    size_t positions = 0; /* whose K and V are read */
    for (size_t i = 0; i < pass->n_segments; i++)
        positions += pass->segments[i].position + pass->segments[i].end - pass->segments[i].begin;
    const size_t kv = 2 * (positions + n_rows) * n_embd * gpt2c_kv_number_bytes(c->kv_f16);
    write_event(pass, (gpt2c_trace_event){
                          .op = GPT2C_TRACED_OP_ATTENTION,
                          .layer = (int32_t)layer,
                          .rows = (int64_t)n_rows,
                          .n_in = (int64_t)positions,
                          .n_out = (int64_t)n_embd,
                          .bytes = (int64_t)(kv + n_rows * 4 * n_embd * sizeof(float)),
                      });
}

void gpt2c_trace_head(gpt2c_pass *pass, size_t rows, size_t bytes) {
    if (!is_on(pass)) return;
    const gpt2c_matrix *head = &pass->session->model->head;
    const size_t n_in = head->n_in, n_out = head->n_out;
    write_event(pass, (gpt2c_trace_event){
                          .op = GPT2C_TRACED_OP_HEAD,
                          .layer = -1,
                          .rows = (int64_t)rows,
                          .n_in = (int64_t)n_in,
                          .n_out = (int64_t)n_out,
                          .bytes = (int64_t)(bytes + rows * (n_in + n_out) * sizeof(float)),
                      });
}

gpt2c_status gpt2c_session_trace(gpt2c_session *session, gpt2c_trace_event *events, size_t capacity) {
    if (session == NULL || (events == NULL) != (capacity == 0)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    session->events = events;
    session->event_capacity = capacity;
    session->n_events = 0;
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_session_traced(gpt2c_session *session, size_t *n_events) {
    if (session == NULL || n_events == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    *n_events = session->n_events;
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}
