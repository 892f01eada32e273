/* What a session stores of its first tokens, as runs of bytes in its arena: copied to another session of the
 * same model, or exported and set again. */
#include <string.h>

#include "session.h"

/* The function that each stored run is passed to. */
typedef struct visitor {
    gpt2c_kv_visit *visit;
    void *context;
} visitor;

/* Visits the rows of these tokens in an output, in every layer, if the output is stored. */
static void visit_rows(const visitor *to, const gpt2c_session *session, gpt2c_buffer buffer, size_t layers,
                       size_t width, gpt2c_span tokens) {
    if (buffer.layer_stride == 0) return;
    for (size_t layer = 0; layer < layers; layer++)
        to->visit(to->context, gpt2c_at(session, buffer, layer) + tokens.begin * width,
                  (tokens.end - tokens.begin) * width * sizeof(float));
}

/* Visits everything stored for a range of tokens, always in the same order. */
static void visit_stored(const visitor *to, const gpt2c_session *session, gpt2c_span tokens) {
    const gpt2c_model_config *c = &session->model->config;
    const gpt2c_buffers *b = &session->buffers;
    const size_t layers = (size_t)c->n_layer, embd = (size_t)c->n_embd, inner = (size_t)c->n_inner;
    visit_rows(to, session, b->x, layers + 1, embd, tokens);
    visit_rows(to, session, b->ln_1, layers, embd, tokens);
    visit_rows(to, session, b->attn, layers, embd, tokens);
    visit_rows(to, session, b->attn_proj, layers, embd, tokens);
    visit_rows(to, session, b->x_mid, layers, embd, tokens);
    visit_rows(to, session, b->ln_2, layers, embd, tokens);
    visit_rows(to, session, b->mlp_fc, layers, inner, tokens);
    visit_rows(to, session, b->mlp_gelu, layers, inner, tokens);
    visit_rows(to, session, b->mlp_proj, layers, embd, tokens);
    visit_rows(to, session, b->ln_f, 1, embd, tokens);
    for (size_t layer = 0; layer < layers && b->k.layer_stride > 0; layer++) {
        const gpt2c_kv kv = gpt2c_kv_of(session, layer);
        gpt2c_kv_runs(session->model->kernels, &kv, tokens, to->visit, to->context);
    }
}

/* ---- From session to session ---- */

typedef struct two_arenas {
    const char *to;
    const char *from;
} two_arenas;

static void copy_run(void *context, void *run, size_t n_bytes) {
    const two_arenas *arenas = context;
    memcpy(run, arenas->from + ((const char *)run - arenas->to), n_bytes);
}

/* How many first tokens, at most n, both sessions share: what they store for these has the same bits. */
static size_t n_common(const gpt2c_session *a, const gpt2c_session *b, size_t n) {
    size_t i = 0;
    while (i < n && i < a->n_past && a->ids[i] == b->ids[i]) i++;
    return i;
}

gpt2c_status gpt2c_session_copy(gpt2c_session *session, gpt2c_session *from, size_t n) {
    if (session == NULL || from == NULL || session->model != from->model) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    gpt2c_status status = GPT2C_STATUS_BUSY;
    if (gpt2c_session_enter(from)) {
        status = n <= from->n_past ? GPT2C_STATUS_OK : GPT2C_STATUS_INVALID_ARGUMENT;
        if (status == GPT2C_STATUS_OK) {
            two_arenas arenas = {(const char *)session->arena, (const char *)from->arena};
            visit_stored(&(visitor){copy_run, &arenas}, session, (gpt2c_span){n_common(session, from, n), n});
            memcpy(session->ids, from->ids, n * sizeof *session->ids);
            gpt2c_hold(session, n);
        }
        gpt2c_session_leave(from);
    }
    gpt2c_session_leave(session);
    return status;
}

/* ---- As bytes: the ids, followed by every run ---- */

static void count_run(void *context, void *run, size_t n_bytes) {
    (void)run;
    *(size_t *)context += n_bytes;
}

/* The context of these two points to the next run in the state. */
static void take_run(void *context, void *run, size_t n_bytes) {
    char **state = context;
    memcpy(*state, run, n_bytes);
    *state += n_bytes;
}

static void put_run(void *context, void *run, size_t n_bytes) {
    const char **state = context;
    memcpy(run, *state, n_bytes);
    *state += n_bytes;
}

size_t gpt2c_session_state_bytes(const gpt2c_session *session, size_t n) {
    if (session == NULL || n > (size_t)session->model->config.n_ctx) return 0;
    size_t n_bytes = n * sizeof *session->ids;
    visit_stored(&(visitor){count_run, &n_bytes}, session, (gpt2c_span){0, n});
    return n_bytes;
}

gpt2c_status gpt2c_session_get_state(gpt2c_session *session, void *state, size_t n_bytes) {
    if (session == NULL || state == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    gpt2c_status status = GPT2C_STATUS_INVALID_ARGUMENT;
    if (n_bytes == gpt2c_session_state_bytes(session, session->n_past)) {
        const size_t id_bytes = session->n_past * sizeof *session->ids;
        char *next = (char *)state + id_bytes;
        memcpy(state, session->ids, id_bytes);
        visit_stored(&(visitor){take_run, &next}, session, (gpt2c_span){0, session->n_past});
        status = GPT2C_STATUS_OK;
    }
    gpt2c_session_leave(session);
    return status;
}

static int are_tokens(const gpt2c_model *model, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int32_t id;
        memcpy(&id, bytes + i * sizeof id, sizeof id);
        if (id < 0 || id >= model->config.n_vocab) return 0;
    }
    return 1;
}

gpt2c_status gpt2c_session_set_state(gpt2c_session *session, size_t n, const void *state, size_t n_bytes) {
    if (session == NULL || state == NULL || n > (size_t)session->model->config.n_ctx)
        return GPT2C_STATUS_INVALID_ARGUMENT;
    if (n_bytes != gpt2c_session_state_bytes(session, n)) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!are_tokens(session->model, state, n)) return GPT2C_STATUS_BAD_TOKEN;
    if (!gpt2c_session_enter(session)) return GPT2C_STATUS_BUSY;
    const size_t id_bytes = n * sizeof *session->ids;
    const char *next = (const char *)state + id_bytes;
    memcpy(session->ids, state, id_bytes);
    visit_stored(&(visitor){put_run, &next}, session, (gpt2c_span){0, n});
    gpt2c_hold(session, n);
    gpt2c_session_leave(session);
    return GPT2C_STATUS_OK;
}
